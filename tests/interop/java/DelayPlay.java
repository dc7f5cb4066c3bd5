// SPDX-License-Identifier: Apache-2.0
// The official Java client's delays: levels, and with 5.x times of their own and recalls. Compiles with client 5.5.0 and runs with
// 4.9.8 too, which has levels only.    DelayPlay NAMESRV TOPIC levels|all|held|heldall [MS OF A LEVEL ...]
// held: says "ready", sends when a byte comes, says "sent" and waits, while somebody stops and kills the broker; what came from it twice may have come to us twice.
// Each body is NAME:TIME, the time at which it may come; prints "ok" or "not ok" lines, one for each fact.
import java.util.*;
import java.util.concurrent.*;
import org.apache.rocketmq.client.consumer.*;
import org.apache.rocketmq.client.consumer.listener.*;
import org.apache.rocketmq.client.producer.*;
import org.apache.rocketmq.common.consumer.ConsumeFromWhere;
import org.apache.rocketmq.common.message.*;

public class DelayPlay {
    static final Map<String, Long> came = new ConcurrentHashMap<>();
    static final Map<String, Integer> times = new ConcurrentHashMap<>();
    static final Map<String, Long> due = new LinkedHashMap<>();

    static void check(boolean ok, String what) { System.out.println((ok ? "ok - " : "not ok - ") + what); }

    static Message message(String topic, String name, long at) {
        due.put(name, at);
        return new Message(topic, "tag", "key" + name, name.getBytes());
    }

    static SendResult send(DefaultMQProducer p, Message m) throws Exception {
        SendResult r = p.send(m);
        if (r.getSendStatus() != SendStatus.SEND_OK) throw new IllegalStateException(r.toString());
        return r;
    }

    static class Timed { // of its own, so that 4.9.8 never loads it
        static void sendAt(DefaultMQProducer p, String topic, String name, long at) throws Exception {
            Message m = message(topic, name, at);
            m.setDeliverTimeMs(at);
            send(p, m);
        }

        static void sendAll(DefaultMQProducer p, String topic) throws Exception {
            long now = System.currentTimeMillis();
            Message m = message(topic, "deliverTimeMs", now + 2345);
            m.setDeliverTimeMs(now + 2345);
            SendResult r = send(p, m);
            check(r.getRecallHandle() != null && !r.getRecallHandle().isEmpty(), "a send at a time of its own gives a handle");
            m = message(topic, "delayTimeMs", now + 1500);
            m.setDelayTimeMs(1500);
            send(p, m);
            m = message(topic, "delayTimeSec", now + 2000);
            m.setDelayTimeSec(2);
            send(p, m);
            m = new Message(topic, "tag", "recalled", "recalled".getBytes());
            m.setDeliverTimeMs(now + 5000);
            r = send(p, m);
            String id = p.recallMessage(topic, r.getRecallHandle());
            check(r.getMsgId().equals(id), "a recall answers the message's id");
            m = new Message(topic, "tag", "far", "far".getBytes());
            m.setDeliverTimeMs(now + 4L * 86400 * 1000);
            try {
                p.send(m);
                check(false, "what lies too far ahead is refused");
            } catch (Exception e) {
                check(String.valueOf(e.getMessage()).contains("CODE: 13"), "what lies too far ahead is refused with Apache's code");
            }
            try {
                p.recallMessage(topic, "bm9uc2Vuc2U=");
                check(false, "a handle that is none is refused");
            } catch (Exception e) {
                check(true, "a handle that is none is refused");
            }
        }
    }

    public static void main(String[] a) throws Exception {
        String topic = a[1];
        boolean all = a[2].equals("all"), held = a[2].startsWith("held");
        DefaultMQProducer p = new DefaultMQProducer("PG_" + topic);
        p.setNamesrvAddr(a[0]);
        p.setSendMsgTimeout(15000);
        p.start();
        DefaultMQPushConsumer c = new DefaultMQPushConsumer("CG_" + topic);
        c.setNamesrvAddr(a[0]);
        c.setConsumeFromWhere(ConsumeFromWhere.CONSUME_FROM_FIRST_OFFSET);
        c.subscribe(topic, "tag");
        c.registerMessageListener((MessageListenerConcurrently) (messages, ctx) -> {
            for (MessageExt m : messages) {
                came.putIfAbsent(new String(m.getBody()), m.getStoreTimestamp());
                times.merge(new String(m.getBody()), 1, Integer::sum);
            }
            return ConsumeConcurrentlyStatus.CONSUME_SUCCESS;
        });
        c.start();
        if (held) {
            System.out.println("ready");
            System.in.read();
        }
        for (int level = 1; held && level <= a.length - 3; level++)
            for (int i = 0; i < 10; i++) {
                Message m = message(topic, "level" + level + "-" + i, System.currentTimeMillis() + Long.parseLong(a[2 + level]));
                m.setDelayTimeLevel(level);
                send(p, m);
                if (a[2].equals("heldall")) Timed.sendAt(p, topic, "time" + level + "-" + i, System.currentTimeMillis() + Long.parseLong(a[2 + level]) + i);
            }
        for (int level = 1; !held && level <= 2; level++) {
            Message m = message(topic, "level" + level, System.currentTimeMillis() + (level == 1 ? 1000 : 5000));
            m.setDelayTimeLevel(level);
            send(p, m);
        }
        if (all) Timed.sendAll(p, topic);
        if (held) System.out.println("sent");
        long end = System.currentTimeMillis() + (held ? 150000 : 40000);
        while (came.size() < due.size() && System.currentTimeMillis() < end) Thread.sleep(20);
        Thread.sleep(all ? 2500 : 0); // what was recalled has its time, too: there is no event for what does not come
        for (Map.Entry<String, Long> e : due.entrySet()) {
            Long at = came.get(e.getKey());
            check(at != null && at >= e.getValue() - 1 && (held || times.get(e.getKey()) == 1), e.getKey() + " comes once, not before its time" + (at == null ? "" : ": " + (at - e.getValue()) + " ms behind it"));
        }
        if (all) check(!came.containsKey("recalled"), "what was recalled does not come");
        Runtime.getRuntime().halt(0);
    }
}
