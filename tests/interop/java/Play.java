// SPDX-License-Identifier: Apache-2.0
// Scenarios of the official Java client against a name server and broker that are already there. Compiles with client 4.9.8
// and 5.5.0. Prints "ok - ..." and "not ok - ..." lines. Usage: Play NAMESRV LABEL [scenario ...]
import java.util.*;
import java.util.concurrent.*;
import java.util.concurrent.atomic.*;
import org.apache.rocketmq.client.consumer.*;
import org.apache.rocketmq.client.consumer.listener.*;
import org.apache.rocketmq.client.producer.*;
import org.apache.rocketmq.common.consumer.ConsumeFromWhere;
import org.apache.rocketmq.common.message.*;

public class Play {
    static String namesrv, label;
    static boolean failed = false;
    static final String RUN = Long.toString(System.nanoTime() % 1000000007L, 36);

    static boolean check(boolean ok, String what, Object why) {
        System.out.println((ok ? "ok - " : "not ok - ") + label + " " + what + (ok ? "" : ": " + why));
        System.out.flush();
        failed |= !ok;
        return ok;
    }

    interface Condition { boolean holds() throws Exception; }

    // Seconds until a started consumer surely receives.
    static final int START = 20;

    // Waits far longer than it should take: a client that missed a new route by a moment asks again after 30 s, and rebalances after 20.
    static boolean await(int seconds, Condition c) throws Exception {
        long end = System.currentTimeMillis() + (seconds + 60) * 1000L;
        while (System.currentTimeMillis() < end) {
            if (c.holds()) return true;
            Thread.sleep(20);
        }
        return c.holds();
    }

    // Sends with a selector are not retried by the client when a loaded broker answers 2 (Apache does after 200 ms in its queue).
    static void again(Callable<SendResult> send) throws Exception {
        for (int i = 0;; i++) {
            try {
                send.call();
                return;
            } catch (org.apache.rocketmq.client.exception.MQBrokerException e) {
                if (e.getResponseCode() != 2 || i == 5) throw e;
            }
        }
    }

    // seek interrupts the client's own pull of the queue. A pull that is interrupted while it asks for its place among the requests
    // counts as a failed send, for which the client closes its channel to the broker; what other threads, ours among them, have
    // under way on it then fails. So one seek right after another can fail by itself, with any broker. Counted, 30 s of seeks one after
    // another with client 5.5.0 on a loaded machine: Apache's own broker 5.5.0 1 of 8,300, ours on TCP 1 of 10,080, ours on nng's TCP 5
    // of 11,040; all with this one exception, and no other. So this one alone is tried again.
    static void seek(DefaultLitePullConsumer c, MessageQueue q) throws Exception {
        for (int i = 0;; i++) {
            try {
                c.seek(q, 0);
                return;
            } catch (org.apache.rocketmq.client.exception.MQClientException e) {
                Throwable why = e.getCause();
                if (why == null || why.getClass() != org.apache.rocketmq.remoting.exception.RemotingSendRequestException.class
                    || !why.getMessage().matches("send request to <.*> failed") || i == 3) throw e;
            }
        }
    }

    static DefaultMQProducer producer(String group) throws Exception {
        DefaultMQProducer p = new DefaultMQProducer(group);
        p.setNamesrvAddr(namesrv);
        p.setInstanceName("p" + System.nanoTime());
        p.setSendMsgTimeout(10000);
        p.start();
        return p;
    }

    static DefaultMQPushConsumer consumer(String group) throws Exception {
        DefaultMQPushConsumer c = new DefaultMQPushConsumer(group);
        c.setNamesrvAddr(namesrv);
        c.setInstanceName("c" + System.nanoTime());
        c.setConsumeFromWhere(ConsumeFromWhere.CONSUME_FROM_FIRST_OFFSET);
        return c;
    }

    // MessageModel lives in different packages in 4.9 and 5.x.
    @SuppressWarnings({"unchecked", "rawtypes"})
    static void broadcast(DefaultMQPushConsumer c) throws Exception {
        Class model = c.getMessageModel().getClass();
        DefaultMQPushConsumer.class.getMethod("setMessageModel", model).invoke(c, Enum.valueOf(model, "BROADCASTING"));
    }

    static MessageListenerConcurrently into(final Collection<String> seen) {
        return (msgs, ctx) -> {
            for (MessageExt m : msgs) seen.add(new String(m.getBody()));
            return ConsumeConcurrentlyStatus.CONSUME_SUCCESS;
        };
    }

    static Set<String> bodies(String prefix, int n) {
        Set<String> s = new TreeSet<>();
        for (int i = 0; i < n; i++) s.add(prefix + i);
        return s;
    }

    static String topic(String name) { return "J" + label.replaceAll("[^0-9]", "") + "_" + name + "_" + RUN; }

    // Auto-created topic; 64 sends with tag and keys; a clustering push consumer gets each exactly once.
    static void push() throws Exception {
        String t = topic("push");
        DefaultMQProducer p = producer("PG_" + t);
        Set<Integer> queues = new TreeSet<>();
        for (int i = 0; i < 64; i++) {
            SendResult r = p.send(new Message(t, "TagA", "key" + i, ("m" + i).getBytes()));
            if (r.getSendStatus() != SendStatus.SEND_OK) { check(false, "send", r); return; }
            queues.add(r.getMessageQueue().getQueueId());
        }
        check(queues.size() == 4, "send creates the topic with 4 queues", queues);
        final List<String> seen = Collections.synchronizedList(new ArrayList<>());
        final AtomicReference<MessageExt> one = new AtomicReference<>();
        DefaultMQPushConsumer c = consumer("CG_" + t);
        c.subscribe(t, "*");
        c.registerMessageListener((MessageListenerConcurrently) (msgs, ctx) -> {
            for (MessageExt m : msgs) { seen.add(new String(m.getBody())); one.set(m); }
            return ConsumeConcurrentlyStatus.CONSUME_SUCCESS;
        });
        c.start();
        check(await(START, () -> seen.size() >= 64) && new TreeSet<>(seen).equals(bodies("m", 64)), "push consumer gets every message", seen.size());
        MessageExt m = one.get();
        check(m != null && "TagA".equals(m.getTags()) && m.getKeys().startsWith("key") && m.getBornHost() != null && m.getStoreTimestamp() > 0
            && m.getMsgId().length() >= 32, "message carries tag, keys, hosts and times", m);
        long before = System.nanoTime();
        p.send(new Message(t, "TagA", "late".getBytes()));
        check(await(10, () -> seen.contains("late")), "held pull is woken by an append", seen.size());
        System.out.println("# wake-up took " + (System.nanoTime() - before) / 1000 + " us");
        Thread.sleep(300);
        check(seen.size() == 65, "nothing twice", seen.size());
        c.shutdown();
        p.shutdown();
    }

    static void tags() throws Exception {
        String t = topic("tags");
        DefaultMQProducer p = producer("PG_" + t);
        for (int i = 0; i < 60; i++) p.send(new Message(t, "Tag" + "ABC".charAt(i % 3), ("m" + i).getBytes()));
        final List<String> seen = Collections.synchronizedList(new ArrayList<>());
        final Set<String> tags = ConcurrentHashMap.newKeySet();
        DefaultMQPushConsumer c = consumer("CG_" + t);
        c.subscribe(t, "TagA || TagC");
        c.registerMessageListener((MessageListenerConcurrently) (msgs, ctx) -> {
            for (MessageExt m : msgs) { seen.add(new String(m.getBody())); tags.add(m.getTags()); }
            return ConsumeConcurrentlyStatus.CONSUME_SUCCESS;
        });
        c.start();
        check(await(START, () -> seen.size() >= 40), "tag filter passes both tags", seen.size());
        Thread.sleep(500);
        check(seen.size() == 40 && tags.equals(new TreeSet<>(Arrays.asList("TagA", "TagC"))), "tag filter passes nothing else", tags + " " + seen.size());
        p.send(new Message(t, "TagB", "skip".getBytes()));
        p.send(new Message(t, "TagC", "wake".getBytes()));
        check(await(25, () -> seen.contains("wake")) && !seen.contains("skip"), "tag filter on a held pull", seen.size());
        c.shutdown();
        p.shutdown();
    }

    static void broadcasting() throws Exception {
        String t = topic("bcast");
        DefaultMQProducer p = producer("PG_" + t);
        p.send(new Message(t, "first".getBytes()));
        final List<String> a = Collections.synchronizedList(new ArrayList<>()), b = Collections.synchronizedList(new ArrayList<>());
        List<DefaultMQPushConsumer> cs = new ArrayList<>();
        for (List<String> into : Arrays.asList(a, b)) {
            DefaultMQPushConsumer c = consumer("CG_" + t);
            broadcast(c);
            c.subscribe(t, "*");
            c.registerMessageListener(into(into));
            c.start();
            cs.add(c);
        }
        check(await(START, () -> !a.isEmpty() && !b.isEmpty()), "both broadcasting consumers are there", a + " " + b);
        for (int i = 0; i < 20; i++) p.send(new Message(t, ("m" + i).getBytes()));
        check(await(100, () -> a.containsAll(bodies("m", 20)) && b.containsAll(bodies("m", 20))), "every broadcasting consumer gets all", a.size() + " " + b.size());
        for (DefaultMQPushConsumer c : cs) c.shutdown();
        p.shutdown();
    }

    static void orderly() throws Exception {
        String t = topic("order");
        DefaultMQProducer p = producer("PG_" + t);
        for (int i = 0; i < 200; i++) {
            final Message m = new Message(t, ("o" + (i % 8) + ":" + i).getBytes());
            final int key = i % 8;
            again(() -> p.send(m, (mqs, msg, arg) -> mqs.get(((Integer) arg) % mqs.size()), key));
        }
        final Map<String, List<Integer>> seen = new ConcurrentHashMap<>();
        final AtomicInteger n = new AtomicInteger();
        DefaultMQPushConsumer c = consumer("CG_" + t);
        c.subscribe(t, "*");
        c.registerMessageListener((MessageListenerOrderly) (msgs, ctx) -> {
            for (MessageExt m : msgs) {
                String[] s = new String(m.getBody()).split(":");
                seen.computeIfAbsent(s[0], k -> Collections.synchronizedList(new ArrayList<>())).add(Integer.parseInt(s[1]));
                n.incrementAndGet();
            }
            return ConsumeOrderlyStatus.SUCCESS;
        });
        c.start();
        check(await(START, () -> n.get() >= 200), "orderly consumer gets every message", n.get());
        boolean sorted = true;
        for (List<Integer> l : seen.values())
            for (int i = 1; i < l.size(); i++) sorted &= l.get(i - 1) < l.get(i);
        check(sorted && seen.size() == 8 && n.get() == 200, "orderly consumer sees each key in order", seen);
        c.shutdown();
        p.shutdown();
    }

    static void litepull() throws Exception {
        String t = topic("lite");
        DefaultMQProducer p = producer("PG_" + t);
        for (int i = 0; i < 50; i++) p.send(new Message(t, ("m" + i).getBytes()));
        DefaultLitePullConsumer c = new DefaultLitePullConsumer("CG_" + t);
        c.setNamesrvAddr(namesrv);
        c.setInstanceName("l" + System.nanoTime());
        c.setConsumeFromWhere(ConsumeFromWhere.CONSUME_FROM_FIRST_OFFSET);
        c.setAutoCommit(true);
        c.subscribe(t, "*");
        c.start();
        Set<String> seen = new TreeSet<>();
        long end = System.currentTimeMillis() + 40000;
        while (seen.size() < 50 && System.currentTimeMillis() < end)
            for (MessageExt m : c.poll(500)) seen.add(new String(m.getBody()));
        check(seen.equals(bodies("m", 50)), "lite pull (subscribe) gets every message", seen.size());
        c.shutdown();
        DefaultLitePullConsumer a = new DefaultLitePullConsumer("CG2_" + t);
        a.setNamesrvAddr(namesrv);
        a.setInstanceName("l" + System.nanoTime());
        a.start();
        Collection<MessageQueue> mqs = a.fetchMessageQueues(t);
        a.assign(mqs);
        for (MessageQueue q : mqs) seek(a, q);
        seen.clear();
        end = System.currentTimeMillis() + 30000;
        while (seen.size() < 50 && System.currentTimeMillis() < end)
            for (MessageExt m : a.poll(500)) seen.add(new String(m.getBody()));
        check(seen.equals(bodies("m", 50)), "lite pull (assign and seek) gets every message", seen.size());
        MessageQueue q0 = mqs.iterator().next();
        check(a.offsetForTimestamp(q0, 0L) == 0, "offset by time 0 is the first", a.offsetForTimestamp(q0, 0L));
        a.shutdown();
        p.shutdown();
    }

    static void batch() throws Exception {
        String t = topic("batch");
        DefaultMQProducer p = producer("PG_" + t);
        List<Message> msgs = new ArrayList<>();
        for (int i = 0; i < 30; i++) msgs.add(new Message(t, "TagB", "k" + i, ("m" + i).getBytes()));
        SendResult r = p.send(msgs);
        check(r.getSendStatus() == SendStatus.SEND_OK && r.getOffsetMsgId().split(",").length == 30, "batch is stored, an id for each", r);
        final List<String> seen = Collections.synchronizedList(new ArrayList<>());
        DefaultMQPushConsumer c = consumer("CG_" + t);
        c.subscribe(t, "TagB");
        c.registerMessageListener(into(seen));
        c.start();
        check(await(START, () -> seen.size() >= 30) && new TreeSet<>(seen).equals(bodies("m", 30)), "batch arrives as single messages", seen.size());
        c.shutdown();
        p.shutdown();
    }

    static void async() throws Exception {
        String t = topic("async");
        DefaultMQProducer p = producer("PG_" + t);
        p.send(new Message(t, "warm".getBytes()));
        final AtomicInteger ok = new AtomicInteger(), bad = new AtomicInteger();
        final int n = 2000;
        final Semaphore window = new Semaphore(200);
        for (int i = 0; i < n; i++) {
            window.acquire();
            p.send(new Message(t, ("m" + i).getBytes()), new SendCallback() {
                public void onSuccess(SendResult r) { ok.incrementAndGet(); window.release(); }
                public void onException(Throwable e) { bad.incrementAndGet(); window.release(); }
            });
        }
        check(await(30, () -> ok.get() + bad.get() >= n) && ok.get() == n, "asynchronous sends", ok + " ok " + bad + " failed");
        for (int i = 0; i < 100; i++) p.sendOneway(new Message(t, ("w" + i).getBytes()));
        p.send(new Message(t, new byte[100000]));
        byte[] big = new byte[1 << 20];
        new Random(7).nextBytes(big);
        check(p.send(new Message(t, big)).getSendStatus() == SendStatus.SEND_OK, "a message of 1 MiB", "");
        final List<Integer> sizes = Collections.synchronizedList(new ArrayList<>());
        final Set<String> seen = ConcurrentHashMap.newKeySet();
        DefaultMQPushConsumer c = consumer("CG_" + t);
        c.subscribe(t, "*");
        c.registerMessageListener((MessageListenerConcurrently) (msgs, ctx) -> {
            for (MessageExt m : msgs) { if (m.getBody().length > 1000) sizes.add(m.getBody().length); else seen.add(new String(m.getBody())); }
            return ConsumeConcurrentlyStatus.CONSUME_SUCCESS;
        });
        c.start();
        check(await(START, () -> seen.size() >= n + 101 && sizes.size() >= 2), "asynchronous and one-way messages arrive", seen.size() + " " + sizes);
        check(sizes.contains(100000) && sizes.contains(1 << 20), "compressed and large bodies come back whole", sizes);
        c.shutdown();
        p.shutdown();
    }

    // RECONSUME_LATER brings the message again on the retry topic, with its count.
    static void retry() throws Exception {
        String t = topic("retry");
        DefaultMQProducer p = producer("PG_" + t);
        p.send(new Message(t, "again".getBytes()));
        final List<Integer> times = Collections.synchronizedList(new ArrayList<>());
        DefaultMQPushConsumer c = consumer("CG_" + t);
        c.subscribe(t, "*");
        c.registerMessageListener((MessageListenerConcurrently) (msgs, ctx) -> {
            times.add(msgs.get(0).getReconsumeTimes());
            return times.size() < 2 ? ConsumeConcurrentlyStatus.RECONSUME_LATER : ConsumeConcurrentlyStatus.CONSUME_SUCCESS;
        });
        c.start();
        check(await(70, () -> times.size() >= 2) && times.get(0) == 0 && times.get(1) == 1, "a failed message comes again", times);
        c.shutdown();
        p.shutdown();
    }

    // A consumer that stops and starts again continues at its offset.
    static void restart() throws Exception {
        String t = topic("restart");
        DefaultMQProducer p = producer("PG_" + t);
        for (int i = 0; i < 40; i++) p.send(new Message(t, ("a" + i).getBytes()));
        final List<String> seen = Collections.synchronizedList(new ArrayList<>());
        DefaultMQPushConsumer c = consumer("CG_" + t);
        c.subscribe(t, "*");
        c.registerMessageListener(into(seen));
        c.start();
        await(START, () -> seen.size() >= 40);
        c.shutdown();
        for (int i = 0; i < 40; i++) p.send(new Message(t, ("b" + i).getBytes()));
        final List<String> later = Collections.synchronizedList(new ArrayList<>());
        c = consumer("CG_" + t);
        c.subscribe(t, "*");
        c.registerMessageListener(into(later));
        c.start();
        check(await(START, () -> later.size() >= 40), "restarted consumer gets the rest", later.size());
        Thread.sleep(500);
        check(new TreeSet<>(later).equals(bodies("b", 40)) && later.size() == 40, "restarted consumer continues at its offset", later);
        c.shutdown();
        p.shutdown();
    }

    // Two consumers share the queues; when one is killed the other takes over.
    static void rebalance() throws Exception {
        final String t = topic("rebal");
        DefaultMQProducer p = producer("PG_" + t);
        for (int i = 0; i < 8; i++) p.send(new Message(t, ("x" + i).getBytes()));
        final Set<String> seen = ConcurrentHashMap.newKeySet();
        DefaultMQPushConsumer c = consumer("CG_" + t);
        c.subscribe(t, "*");
        c.registerMessageListener(into(seen));
        c.start();
        Process other = new ProcessBuilder(System.getProperty("java.home") + "/bin/java", "-Xmx128m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-cp", System.getProperty("java.class.path"),
            "Play", namesrv, label, "member", t).redirectErrorStream(true).start();
        final java.io.BufferedReader out = new java.io.BufferedReader(new java.io.InputStreamReader(other.getInputStream()));
        final AtomicInteger theirs = new AtomicInteger();
        Thread reader = new Thread(() -> {
            try { for (String l; (l = out.readLine()) != null;) if (l.startsWith("got ")) theirs.incrementAndGet(); } catch (java.io.IOException e) { }
        });
        reader.setDaemon(true);
        reader.start();
        final int[] n = {0};
        check(await(60, () -> { p.send(new Message(t, ("s" + n[0]++).getBytes())); return theirs.get() > 0; }), "two consumers share the queues", theirs);
        other.destroyForcibly().waitFor();
        int from = n[0];
        for (int i = 0; i < 40; i++) p.send(new Message(t, ("t" + i).getBytes()));
        check(await(60, () -> seen.containsAll(bodies("t", 40))), "the other takes over when one is killed", seen.size() + " of " + from);
        c.shutdown();
        p.shutdown();
    }

    static void member(String t) throws Exception {
        DefaultMQPushConsumer c = consumer("CG_" + t);
        c.subscribe(t, "*");
        c.registerMessageListener((MessageListenerConcurrently) (msgs, ctx) -> {
            for (MessageExt m : msgs) { System.out.println("got " + new String(m.getBody())); System.out.flush(); }
            return ConsumeConcurrentlyStatus.CONSUME_SUCCESS;
        });
        c.start();
        Thread.sleep(300000);
    }

    // Errors have the codes that clients know.
    static void refusals() throws Exception {
        DefaultMQProducer p = producer("PG_refuse_" + RUN);
        p.setMaxMessageSize(1 << 30);
        String t = topic("refuse");
        p.send(new Message(t, "x".getBytes()));
        byte[] five = new byte[5 << 20];
        new Random(3).nextBytes(five);
        try {
            p.send(new Message(t, five));
            check(false, "a body of 5 MiB is refused", "it was taken");
        } catch (org.apache.rocketmq.client.exception.MQBrokerException e) {
            check(e.getResponseCode() == 13, "a body of 5 MiB is refused with 13", e);
        }
        check(p.send(new Message(t, "y".getBytes())).getSendStatus() == SendStatus.SEND_OK, "and the next send works", "");
        p.shutdown();
    }

    public static void main(String[] a) throws Exception {
        namesrv = a[0];
        label = a[1];
        if (a.length > 3 && a[2].equals("member")) { member(a[3]); return; }
        List<String> all = new ArrayList<>(Arrays.asList("push", "tags", "batch", "async", "orderly", "litepull", "broadcasting", "retry", "restart", "rebalance", "refusals"));
        if (a.length > 2) all = Arrays.asList(a).subList(2, a.length);
        // Scenarios spend their time waiting for client timers, so they run side by side.
        ExecutorService pool = Executors.newFixedThreadPool(4);
        for (String s : all)
            pool.submit(() -> {
                try {
                    Play.class.getDeclaredMethod(s).invoke(null);
                } catch (Throwable e) {
                    Throwable c = e.getCause() == null ? e : e.getCause();
                    java.io.StringWriter w = new java.io.StringWriter();
                    c.printStackTrace(new java.io.PrintWriter(w));
                    check(false, s, w.toString().replace('\n', ' '));
                }
            });
        pool.shutdown();
        pool.awaitTermination(280, TimeUnit.SECONDS);
        System.exit(failed ? 1 : 0);
    }
}
