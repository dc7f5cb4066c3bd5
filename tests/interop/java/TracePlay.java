// SPDX-License-Identifier: Apache-2.0
// The official Java client with message trace switched on for producer and consumer. Compiles with client 5.5.0 and runs with
// 4.9.8 too.    TracePlay NAMESRV TOPIC GROUP
// Sends three messages and a delayed one; the consumer fails the first of them once. Prints "sent NAME ID" and "consumed" when it
// has met all, then stays until its input ends: what is traced is sent in the background.
import java.util.*;
import java.util.concurrent.*;
import org.apache.rocketmq.client.consumer.*;
import org.apache.rocketmq.client.consumer.listener.*;
import org.apache.rocketmq.client.producer.*;
import org.apache.rocketmq.common.consumer.ConsumeFromWhere;
import org.apache.rocketmq.common.message.*;

public class TracePlay {
    static void send(DefaultMQProducer p, Message m) throws Exception {
        SendResult r = p.send(m);
        if (r.getSendStatus() != SendStatus.SEND_OK) throw new IllegalStateException(r.toString());
        System.out.println("sent " + new String(m.getBody()) + " " + r.getMsgId());
    }

    public static void main(String[] a) throws Exception {
        DefaultMQProducer p = new DefaultMQProducer("PG_" + a[2], true, null);
        p.setNamesrvAddr(a[0]);
        p.setSendMsgTimeout(10000);
        p.start();
        send(p, new Message(a[1], "TagA", "k1 k2", "fails".getBytes()));
        send(p, new Message(a[1], "TagB", "k3", "plain".getBytes()));
        send(p, new Message(a[1], "bare".getBytes()));
        Message late = new Message(a[1], "TagA", "k4", "late".getBytes());
        late.setDelayTimeLevel(1);
        send(p, late);
        Set<String> seen = ConcurrentHashMap.newKeySet();
        DefaultMQPushConsumer c = new DefaultMQPushConsumer("CG_" + a[2], true, null);
        c.setNamesrvAddr(a[0]);
        c.setConsumeFromWhere(ConsumeFromWhere.CONSUME_FROM_FIRST_OFFSET);
        c.subscribe(a[1], "*");
        c.registerMessageListener((MessageListenerConcurrently) (messages, ctx) -> {
            boolean fail = false;
            for (MessageExt m : messages) fail |= seen.add(new String(m.getBody())) && new String(m.getBody()).equals("fails");
            return fail ? ConsumeConcurrentlyStatus.RECONSUME_LATER : ConsumeConcurrentlyStatus.CONSUME_SUCCESS;
        });
        c.start();
        while (seen.size() < 4) Thread.sleep(20);
        System.out.println("consumed");
        while (System.in.read() >= 0) { }
        Runtime.getRuntime().halt(0);
    }
}
