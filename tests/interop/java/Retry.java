// SPDX-License-Identifier: Apache-2.0
// Consumers that fail, and orderly ones that die in the middle. Compiles with client 4.9.8 and 5.5.0. Each line of output is a fact:
//   Retry NAMESRV dead TOPIC GROUP MAX      every message fails until it is dead:    "try BODY TIMES TOPIC", "dead BODY ORIGIN REASON"
//   Retry NAMESRV orderly TOPIC GROUP       works slowly, in order, until killed:     "got QUEUE OFFSET BODY MILLIS"
//   Retry NAMESRV fill TOPIC QUEUES COUNT   sends COUNT numbered messages to each queue: "sent N"
//   Retry NAMESRV request TOPIC GROUP       request and reply by the client's own API: "reply BODY"
import java.util.*;
import java.util.concurrent.atomic.*;
import org.apache.rocketmq.client.consumer.*;
import org.apache.rocketmq.client.consumer.listener.*;
import org.apache.rocketmq.client.producer.*;
import org.apache.rocketmq.client.utils.MessageUtil;
import org.apache.rocketmq.common.consumer.ConsumeFromWhere;
import org.apache.rocketmq.common.message.*;

public class Retry {
    static String namesrv;

    static synchronized void say(String text) { System.out.println(text); System.out.flush(); }

    static DefaultMQPushConsumer consumer(String group) throws Exception {
        DefaultMQPushConsumer c = new DefaultMQPushConsumer(group);
        c.setNamesrvAddr(namesrv);
        c.setInstanceName("c" + System.nanoTime());
        c.setConsumeFromWhere(ConsumeFromWhere.CONSUME_FROM_FIRST_OFFSET);
        return c;
    }

    static DefaultMQProducer producer(String group) throws Exception {
        DefaultMQProducer p = new DefaultMQProducer(group);
        p.setNamesrvAddr(namesrv);
        p.setInstanceName("p" + System.nanoTime());
        p.setSendMsgTimeout(10000);
        p.start();
        return p;
    }

    static void dead(String topic, String group, int max) throws Exception {
        DefaultMQPushConsumer c = consumer(group);
        c.setMaxReconsumeTimes(max);
        c.subscribe(topic, "*");
        c.registerMessageListener((MessageListenerConcurrently) (msgs, ctx) -> {
            for (MessageExt m : msgs) say("try " + new String(m.getBody()) + " " + m.getReconsumeTimes() + " " + m.getTopic());
            return ConsumeConcurrentlyStatus.RECONSUME_LATER;
        });
        c.start();
        DefaultMQPushConsumer d = consumer(group + "_watch");
        d.subscribe("%DLQ%" + group, "*");
        d.registerMessageListener((MessageListenerConcurrently) (msgs, ctx) -> {
            for (MessageExt m : msgs)
                say("dead " + new String(m.getBody()) + " " + m.getProperty("DLQ_ORIGIN_TOPIC") + " " + m.getReconsumeTimes());
            return ConsumeConcurrentlyStatus.CONSUME_SUCCESS;
        });
        d.start();
        say("started");
        Thread.sleep(300000);
    }

    static void orderly(String topic, String group) throws Exception {
        DefaultMQPushConsumer c = consumer(group);
        c.subscribe(topic, "*");
        c.setConsumeThreadMin(8);
        c.setConsumeThreadMax(8);
        c.registerMessageListener((MessageListenerOrderly) (msgs, ctx) -> {
            for (MessageExt m : msgs) {
                say("got " + m.getQueueId() + " " + m.getQueueOffset() + " " + new String(m.getBody()) + " " + System.currentTimeMillis());
                try { Thread.sleep(20); } catch (InterruptedException e) { return ConsumeOrderlyStatus.SUSPEND_CURRENT_QUEUE_A_MOMENT; }
            }
            return ConsumeOrderlyStatus.SUCCESS;
        });
        c.start();
        say("started");
        Thread.sleep(300000);
    }

    static void fill(String topic, int queues, int count) throws Exception {
        DefaultMQProducer p = producer("PG_fill");
        int sent = 0;
        for (int i = 0; i < count; i++)
            for (int q = 0; q < queues; q++) {
                final int queue = q;
                for (int n = 0;; n++)
                    try {
                        p.send(new Message(topic, ("m" + i).getBytes()), (mqs, msg, arg) -> mqs.get(queue), null);
                        sent++;
                        break;
                    } catch (org.apache.rocketmq.client.exception.MQBrokerException e) {
                        if (n == 5) throw e;
                    }
            }
        say("sent " + sent);
        p.shutdown();
    }

    static void request(String topic, String group) throws Exception {
        final DefaultMQProducer replier = producer("PG_replier_" + group), asker = producer("PG_asker_" + group);
        DefaultMQPushConsumer c = consumer(group);
        c.subscribe(topic, "*");
        c.registerMessageListener((MessageListenerConcurrently) (msgs, ctx) -> {
            for (MessageExt m : msgs)
                try {
                    Message reply = MessageUtil.createReplyMessage(m, ("re: " + new String(m.getBody())).getBytes());
                    replier.send(reply, 10000);
                } catch (Exception e) {
                    say("failed " + e);
                }
            return ConsumeConcurrentlyStatus.CONSUME_SUCCESS;
        });
        c.start();
        for (int i = 0; i < 5; i++) {
            try {
                Message r = asker.request(new Message(topic, ("question " + i).getBytes()), 40000);
                say("reply " + new String(r.getBody()));
            } catch (Exception e) {
                say("no reply " + e);
            }
        }
        byte[] big = new byte[20000];
        Arrays.fill(big, (byte) 'x');
        Message r = asker.request(new Message(topic, big), 40000);
        say("reply of " + r.getBody().length);
        c.shutdown();
        asker.shutdown();
        replier.shutdown();
    }

    public static void main(String[] a) throws Exception {
        namesrv = a[0];
        switch (a[1]) {
        case "dead": dead(a[2], a[3], Integer.parseInt(a[4])); break;
        case "orderly": orderly(a[2], a[3]); break;
        case "fill": fill(a[2], Integer.parseInt(a[3]), Integer.parseInt(a[4])); break;
        case "request": request(a[2], a[3]); break;
        default: throw new IllegalArgumentException(a[1]);
        }
        System.exit(0);
    }
}
