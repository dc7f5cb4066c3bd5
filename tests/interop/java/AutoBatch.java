// SPDX-License-Identifier: Apache-2.0
// The 5.x client's own batching, and lists of messages, on topics that are there already. Prints "ok - ..." and "not ok - ..." lines.
// Usage: AutoBatch NAMESRV LABEL send|read TOPIC ...   (read: all that was sent is received by a group of its own)
import java.util.*;
import java.util.concurrent.*;
import org.apache.rocketmq.client.consumer.*;
import org.apache.rocketmq.client.consumer.listener.*;
import org.apache.rocketmq.client.producer.*;
import org.apache.rocketmq.common.consumer.ConsumeFromWhere;
import org.apache.rocketmq.common.message.*;

public class AutoBatch {
    static final int THREADS = 16, EACH = 50, LISTS = 20, IN_LIST = 7;
    static boolean failed = false;
    static String label;

    static void check(boolean ok, String what, Object why) {
        System.out.println((ok ? "ok - " : "not ok - ") + label + " " + what + (ok ? "" : ": " + why));
        failed |= !ok;
    }

    static Message message(String topic, String name) {
        Message m = new Message(topic, "even" , "K" + name, name.getBytes());
        m.putUserProperty("name", name);
        return m;
    }

    static Set<String> names() {
        Set<String> all = new TreeSet<>();
        for (int t = 0; t < THREADS; t++)
            for (int i = 0; i < EACH; i++) all.add("a" + t + "." + i);
        for (int l = 0; l < LISTS; l++)
            for (int i = 0; i < IN_LIST; i++) all.add("l" + l + "." + i);
        return all;
    }

    // The first one finds the route, for which a client that has just begun on a busy machine may need more than its 3 s; nothing is
    // sent before that.
    static SendResult sendList(DefaultMQProducer p, List<Message> list) throws Exception {
        for (int i = 0;; i++) {
            try {
                return p.send(list);
            } catch (IllegalStateException e) {
                if (i == 5) throw e;
            }
        }
    }

    // A topic with batch consume queues answers for the batch as a whole; the client gives each message that answer.
    static void send(String namesrv, String topic) throws Exception {
        boolean whole = topic.contains("Batch");
        DefaultMQProducer p = new DefaultMQProducer("PG_autobatch_" + topic);
        p.setNamesrvAddr(namesrv);
        p.setAutoBatch(true);
        p.setSendMsgTimeout(20000);
        p.batchMaxDelayMs(30);
        p.start();
        List<String> bad = Collections.synchronizedList(new ArrayList<>());
        for (int l = 0; l < LISTS; l++) {
            List<Message> list = new ArrayList<>();
            for (int i = 0; i < IN_LIST; i++) list.add(message(topic, "l" + l + "." + i));
            SendResult r = sendList(p, list);
            if (r.getSendStatus() != SendStatus.SEND_OK) bad.add(r.toString());
        }
        check(bad.isEmpty(), topic + ": lists of messages", bad);
        bad.clear();
        Set<String> places = ConcurrentHashMap.newKeySet();
        ExecutorService pool = Executors.newFixedThreadPool(THREADS);
        for (int t = 0; t < THREADS; t++) {
            int thread = t;
            pool.submit(() -> {
                for (int i = 0; i < EACH; i++) {
                    try {
                        SendResult r = p.send(message(topic, "a" + thread + "." + i));
                        if (r.getSendStatus() != SendStatus.SEND_OK) bad.add(r.toString());
                        if (!places.add(r.getMessageQueue().getQueueId() + "@" + r.getQueueOffset()) && !whole) bad.add("twice " + r);
                    } catch (NullPointerException e) { // of the other messages of a batch whose sending failed
                        bad.add("another one's batch failed");
                    } catch (Throwable e) {
                        bad.add(0, e.toString());
                    }
                }
            });
        }
        pool.shutdown();
        pool.awaitTermination(60, TimeUnit.SECONDS);
        int n = THREADS * EACH;
        check(bad.isEmpty() && (whole ? places.size() < n / 2 : places.size() == n), topic + ": " + n + " messages batched by the producer" + (whole ? "" : " have offsets of their own"),
              places.size() + " " + bad.subList(0, Math.min(3, bad.size())));
        p.shutdown();
    }

    // On a busy machine the client's first request to the name server may meet the end of the channel it has just replaced: then
    // start fails, with any broker, and the consumer has to be made again.
    static void read(String namesrv, String topic) throws Exception {
        for (int i = 0;; i++) {
            try {
                readOnce(namesrv, topic);
                return;
            } catch (IllegalStateException e) {
                if (i == 2) throw e;
            }
        }
    }

    static void readOnce(String namesrv, String topic) throws Exception {
        Map<String, Integer> got = new ConcurrentHashMap<>();
        List<String> bad = Collections.synchronizedList(new ArrayList<>());
        DefaultMQPushConsumer c = new DefaultMQPushConsumer("CG_autobatch_" + topic + Long.toString(System.nanoTime(), 36));
        c.setNamesrvAddr(namesrv);
        c.setConsumeFromWhere(ConsumeFromWhere.CONSUME_FROM_FIRST_OFFSET);
        c.subscribe(topic, "*");
        c.registerMessageListener((MessageListenerConcurrently) (list, context) -> {
            for (MessageExt m : list) {
                String name = new String(m.getBody());
                got.merge(name, 1, Integer::sum);
                if (!name.equals(m.getUserProperty("name")) || !("K" + name).equals(m.getKeys()) || !"even".equals(m.getTags())) bad.add(m.toString());
            }
            return ConsumeConcurrentlyStatus.CONSUME_SUCCESS;
        });
        c.start();
        Set<String> want = names();
        for (int i = 0; i < 3000 && !got.keySet().containsAll(want); i++) Thread.sleep(20);
        Thread.sleep(300);
        long twice = got.values().stream().filter(n -> n > 1).count();
        check(got.keySet().equals(want) && twice == 0 && bad.isEmpty(), topic + ": all are received, once, with their properties",
              got.size() + " of " + want.size() + ", twice " + twice + " " + bad.subList(0, Math.min(2, bad.size())));
        c.shutdown();
    }

    public static void main(String[] a) throws Exception {
        label = a[1];
        for (int i = 3; i < a.length; i++) {
            try {
                if (a[2].equals("send")) send(a[0], a[i]);
                else read(a[0], a[i]);
            } catch (Throwable e) {
                java.io.StringWriter w = new java.io.StringWriter();
                e.printStackTrace(new java.io.PrintWriter(w));
                check(false, a[2] + " " + a[i], w.toString().replace('\n', ' '));
            }
        }
        System.exit(failed ? 1 : 0);
    }
}
