// SPDX-License-Identifier: Apache-2.0
// The official Java client with MessageSelector.bySql, against any name server. Compiles with client 4.9.8 and 5.5.0.
//   SqlPlay TOPIC MESSAGES PULLS PUSHES GROUP NAMESRV ...
// Each argument in capitals but the last two and the first is a file; "-" leaves its part out. At all name servers at once:
//   MESSAGES   sends them, one a line: "name=value\tname=value..."; the body is its number
//   PULLS      for each expression (a line of hex): the numbers it matches, or E and the code
//   PUSHES     the same with a push consumer of its own for each; E and the code if it cannot start
// Prints "NUMBER-OF-NAMESRV send|pull|push LINE ANSWER".
import java.nio.charset.StandardCharsets;
import java.nio.file.*;
import java.util.*;
import java.util.concurrent.ConcurrentSkipListSet;
import org.apache.rocketmq.client.consumer.*;
import org.apache.rocketmq.client.consumer.listener.*;
import org.apache.rocketmq.client.exception.*;
import org.apache.rocketmq.client.producer.*;
import org.apache.rocketmq.common.consumer.ConsumeFromWhere;
import org.apache.rocketmq.common.message.*;

public class SqlPlay {
    static String text(String hex) {
        byte[] b = new byte[hex.length() / 2];
        for (int i = 0; i < b.length; i++) b[i] = (byte) Integer.parseInt(hex.substring(2 * i, 2 * i + 2), 16);
        return new String(b, StandardCharsets.UTF_8);
    }

    static synchronized void print(int side, String verb, int line, String answer) {
        System.out.println(side + " " + verb + " " + line + " " + answer);
    }

    static void send(int side, String ns, String topic, List<String> lines) throws Exception {
        DefaultMQProducer p = new DefaultMQProducer("PG_sql");
        p.setNamesrvAddr(ns);
        p.setInstanceName("send" + side);
        p.setSendMsgTimeout(10000);
        p.start();
        MessageQueue one = null;
        for (int i = 0; i < lines.size(); i++) {
            Message m = new Message(topic, Integer.toString(i).getBytes());
            for (String pair : lines.get(i).split("\t")) {
                int at = pair.indexOf('=');
                if (at > 0) m.putUserProperty(pair.substring(0, at), pair.substring(at + 1));
            }
            SendResult r = one == null ? p.send(m) : p.send(m, one);
            if (r.getSendStatus() != SendStatus.SEND_OK) throw new IllegalStateException(r.toString());
            one = r.getMessageQueue();
        }
        print(side, "send", 0, "sent " + lines.size());
        p.shutdown();
    }

    static int code(Throwable e) {
        for (; e != null; e = e.getCause()) {
            if (e instanceof MQBrokerException) return ((MQBrokerException) e).getResponseCode();
            if (e instanceof MQClientException && ((MQClientException) e).getResponseCode() > 0) return ((MQClientException) e).getResponseCode();
        }
        return -1;
    }

    static String join(Collection<Integer> numbers) {
        StringBuilder b = new StringBuilder();
        for (int n : numbers) b.append(b.length() > 0 ? "," : "").append(n);
        return b.toString();
    }

    // A loaded machine may let an answer come too late, or the broker may be busy (2): it is asked again.
    static String pull(DefaultMQPullConsumer c, Collection<MessageQueue> queues, String expression) {
        String answer = "";
        for (int i = 0; i < 5; i++) {
            answer = pullOnce(c, queues, expression);
            if (!answer.equals("E-1") && !answer.equals("E2")) break;
        }
        return answer;
    }

    static String pullOnce(DefaultMQPullConsumer c, Collection<MessageQueue> queues, String expression) {
        TreeSet<Integer> found = new TreeSet<>();
        try {
            for (MessageQueue q : queues) {
                long offset = 0;
                for (int empty = 0; empty < 3;) {
                    PullResult r = c.pull(q, MessageSelector.bySql(expression), offset, 32, 20000);
                    if (r.getPullStatus() == PullStatus.FOUND) {
                        for (MessageExt m : r.getMsgFoundList()) found.add(Integer.parseInt(new String(m.getBody())));
                    }
                    if (r.getPullStatus() == PullStatus.NO_NEW_MSG || r.getPullStatus() == PullStatus.OFFSET_ILLEGAL || r.getNextBeginOffset() >= r.getMaxOffset()) break;
                    empty = r.getNextBeginOffset() == offset ? empty + 1 : 0;
                    offset = r.getNextBeginOffset();
                }
            }
        } catch (Throwable e) {
            return "E" + code(e);
        }
        return join(found);
    }

    // A client may not ask by SQL92 before a heartbeat told it the broker's version, and sends the first to the brokers it knows
    // of a second after its start, the next 30 s later. A pull makes the broker known; then one more heartbeat is enough.
    static Set<MessageQueue> ready(DefaultMQPullConsumer c, String topic) throws Exception {
        Set<MessageQueue> queues = c.fetchSubscribeMessageQueues(topic);
        for (int i = 0; i < 200 && pullOnce(c, queues, "a IS NULL").equals("E-1"); i++) {
            Object client = c.getDefaultMQPullConsumerImpl().getRebalanceImpl().getmQClientFactory();
            client.getClass().getMethod("sendHeartbeatToAllBrokerWithLock").invoke(client);
            Thread.sleep(50);
        }
        return queues;
    }

    static void pullAll(int side, String ns, String topic, List<String> lines) throws Exception {
        DefaultMQPullConsumer c = new DefaultMQPullConsumer("CG_sql_pull");
        c.setNamesrvAddr(ns);
        c.setInstanceName("pull" + side);
        c.start();
        Set<MessageQueue> queues = ready(c, topic);
        for (int i = 0; i < lines.size(); i++) print(side, "pull", i, pull(c, queues, text(lines.get(i))));
        c.shutdown();
    }

    // A push consumer's numbers are awaited until they are what a pull by the same expression answered, and a moment longer.
    static void push(int side, String ns, String topic, List<String> lines, String group) throws Exception {
        List<Set<Integer>> found = new ArrayList<>();
        List<String> refused = new ArrayList<>();
        DefaultMQPullConsumer puller = new DefaultMQPullConsumer("CG_sql_pull");
        puller.setNamesrvAddr(ns);
        puller.setInstanceName("expect" + side);
        puller.start();
        Set<MessageQueue> queues = ready(puller, topic);
        List<String> wanted = new ArrayList<>();
        for (String line : lines) wanted.add(pull(puller, queues, text(line)));
        for (int i = 0; i < lines.size(); i++) {
            Set<Integer> mine = new ConcurrentSkipListSet<>();
            DefaultMQPushConsumer c = new DefaultMQPushConsumer(group + "_" + i);
            c.setNamesrvAddr(ns);
            // Those that start share a client. One that is refused stays in its client, and would be the reason of the next refusal.
            c.setInstanceName("push" + side + (wanted.get(i).startsWith("E") ? "_" + i : ""));
            c.setConsumeFromWhere(ConsumeFromWhere.CONSUME_FROM_FIRST_OFFSET);
            c.setConsumeThreadMin(1);
            c.setConsumeThreadMax(1);
            c.registerMessageListener((MessageListenerConcurrently) (messages, ctx) -> {
                for (MessageExt m : messages) mine.add(Integer.parseInt(new String(m.getBody())));
                return ConsumeConcurrentlyStatus.CONSUME_SUCCESS;
            });
            String no = null;
            try {
                c.subscribe(topic, MessageSelector.bySql(text(lines.get(i))));
                c.start();
            } catch (Throwable e) {
                no = "E" + code(e);
            }
            found.add(mine);
            refused.add(no);
        }
        String lacking = "all";
        for (long end = System.currentTimeMillis() + 60000; !lacking.isEmpty() && System.currentTimeMillis() < end; Thread.sleep(50)) {
            lacking = "";
            for (int i = 0; i < lines.size(); i++) {
                if (refused.get(i) == null && !join(found.get(i)).equals(wanted.get(i))) lacking += i + ": " + found.get(i) + ", not " + wanted.get(i) + "; ";
            }
        }
        if (!lacking.isEmpty()) System.out.println("side " + side + " lacks " + lacking);
        Thread.sleep(500);
        for (int i = 0; i < lines.size(); i++) print(side, "push", i, refused.get(i) != null ? refused.get(i) : join(found.get(i)));
    }

    static List<String> lines(String file) throws Exception {
        return Files.readAllLines(Paths.get(file), StandardCharsets.UTF_8);
    }

    static void play(int side, String ns, String[] a) throws Exception {
        if (!a[1].equals("-")) send(side, ns, a[0], lines(a[1]));
        if (!a[2].equals("-")) pullAll(side, ns, a[0], lines(a[2]));
        if (!a[3].equals("-")) push(side, ns, a[0], lines(a[3]), a[4]);
    }

    public static void main(String[] a) throws Exception {
        List<Thread> threads = new ArrayList<>();
        for (int i = 5; i < a.length; i++) {
            final int side = i - 5;
            Thread t = new Thread(() -> {
                try {
                    play(side, a[5 + side], a);
                } catch (Throwable e) {
                    e.printStackTrace(System.out);
                }
            });
            t.start();
            threads.add(t);
        }
        for (Thread t : threads) t.join();
        System.out.flush();
        Runtime.getRuntime().halt(0);
    }
}
