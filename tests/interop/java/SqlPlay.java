// SPDX-License-Identifier: Apache-2.0
// The official Java client with MessageSelector.bySql, against any name server. Compiles with client 4.9.8 and 5.5.0.
//   SqlPlay NAMESRV TOPIC send    FILE           messages, one a line: "name=value\tname=value..."; its body is its number
//   SqlPlay NAMESRV TOPIC pull    FILE           for each expression (a line of hex): the numbers it matches, or E and the code
//   SqlPlay NAMESRV TOPIC push    FILE GROUP     the same with a push consumer for each expression; E and the code if it cannot start
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

    static void send(String ns, String topic, List<String> lines) throws Exception {
        DefaultMQProducer p = new DefaultMQProducer("PG_sql");
        p.setNamesrvAddr(ns);
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
        System.out.println("sent " + lines.size() + " " + one.getQueueId());
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

    // A loaded machine may let an answer come too late: then there is no code, and it is asked again.
    static String pull(DefaultMQPullConsumer c, Collection<MessageQueue> queues, String expression) {
        String answer = "";
        for (int i = 0; i < 5; i++) {
            answer = pullOnce(c, queues, expression);
            if (!answer.equals("E-1")) break;
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

    static void pullAll(String ns, String topic, List<String> lines) throws Exception {
        DefaultMQPullConsumer c = new DefaultMQPullConsumer("CG_sql_pull");
        c.setNamesrvAddr(ns);
        c.start();
        Set<MessageQueue> queues = c.fetchSubscribeMessageQueues(topic);
        for (int i = 0; i < lines.size(); i++) System.out.println(i + " " + pull(c, queues, text(lines.get(i))));
        c.shutdown();
    }

    // All at once: each group gets what its expression matches. Then one more message that everyone may see ends the wait.
    static void push(String ns, String topic, List<String> lines, String group) throws Exception {
        List<DefaultMQPushConsumer> all = new ArrayList<>();
        List<Set<Integer>> found = new ArrayList<>();
        List<String> refused = new ArrayList<>();
        for (int i = 0; i < lines.size(); i++) {
            Set<Integer> mine = new ConcurrentSkipListSet<>();
            DefaultMQPushConsumer c = new DefaultMQPushConsumer(group + "_" + i);
            c.setNamesrvAddr(ns);
            c.setInstanceName("sql" + System.nanoTime());
            c.setConsumeFromWhere(ConsumeFromWhere.CONSUME_FROM_FIRST_OFFSET);
            c.registerMessageListener((MessageListenerConcurrently) (messages, ctx) -> {
                for (MessageExt m : messages) mine.add(Integer.parseInt(new String(m.getBody())));
                return ConsumeConcurrentlyStatus.CONSUME_SUCCESS;
            });
            String no = null;
            try {
                c.subscribe(topic, MessageSelector.bySql(text(lines.get(i))));
                c.start();
                all.add(c);
            } catch (Throwable e) {
                no = "E" + code(e);
            }
            found.add(mine);
            refused.add(no);
        }
        long end = System.currentTimeMillis() + 60000, quiet = 0;
        for (int before = -1; System.currentTimeMillis() < end && quiet < 40; Thread.sleep(100)) {
            int now = 0, lacking = 0;
            for (int i = 0; i < lines.size(); i++) {
                now += found.get(i).size();
                lacking += refused.get(i) == null && found.get(i).isEmpty() ? 1 : 0;
            }
            quiet = now == before && lacking == 0 ? quiet + 1 : 0;
            before = now;
        }
        for (int i = 0; i < lines.size(); i++) System.out.println(i + " " + (refused.get(i) != null ? refused.get(i) : join(found.get(i))));
        for (DefaultMQPushConsumer c : all) c.shutdown();
    }

    public static void main(String[] a) throws Exception {
        List<String> lines = Files.readAllLines(Paths.get(a[3]), StandardCharsets.UTF_8);
        if (a[2].equals("send")) send(a[0], a[1], lines);
        else if (a[2].equals("pull")) pullAll(a[0], a[1], lines);
        else push(a[0], a[1], lines, a[4]);
        System.exit(0);
    }
}
