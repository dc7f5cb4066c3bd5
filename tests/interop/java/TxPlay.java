// SPDX-License-Identifier: Apache-2.0
// A TransactionMQProducer of the official Java client that does what it is told line by line, for transaction_interop_test.py.
// Compiles with client 4.9.8 and 5.5.0. Usage: TxPlay NAMESRV GROUP TOPIC INSTANCE, then on standard input
//   send BODY commit|rollback|unknown|throw [PROPERTY VALUE ...]   local transaction's outcome; "sent BODY STATUS STATE"
//   many N commit|rollback|unknown FIRST                           bodies FIRST .. FIRST+N-1, silently; "many N"
//   answer BODY|* commit|rollback|unknown|mute                     what a check is answered; "checked BODY TIMES" when one came
//   bench SECONDS THREADS                                          committed transactions; "bench COUNT MILLISECONDS"
//   quit
import java.io.*;
import java.util.*;
import java.util.concurrent.*;
import java.util.concurrent.atomic.*;
import org.apache.rocketmq.client.producer.*;
import org.apache.rocketmq.common.message.*;

public class TxPlay {
    static final Map<String, String> answers = new ConcurrentHashMap<>();
    static boolean quiet = false;

    static synchronized void say(String text) {
        System.out.println(text);
        System.out.flush();
    }

    static LocalTransactionState state(String word) {
        switch (word) {
        case "commit": return LocalTransactionState.COMMIT_MESSAGE;
        case "rollback": return LocalTransactionState.ROLLBACK_MESSAGE;
        case "throw": throw new IllegalStateException("thrown by the local transaction");
        default: return LocalTransactionState.UNKNOW;
        }
    }

    static class Listener implements TransactionListener {
        public LocalTransactionState executeLocalTransaction(Message msg, Object arg) { return state((String) arg); }

        public LocalTransactionState checkLocalTransaction(MessageExt msg) {
            String body = new String(msg.getBody());
            String word = answers.getOrDefault(body, answers.getOrDefault("*", "unknown"));
            say("checked " + body + " " + msg.getUserProperty("TRANSACTION_CHECK_TIMES") + " " + msg.getTopic() + " " + msg.getQueueId() + " " + word);
            if (word.equals("mute")) {
                try {
                    Thread.sleep(3600_000);
                } catch (InterruptedException e) {
                    return LocalTransactionState.UNKNOW;
                }
            }
            return state(word);
        }
    }

    static void bench(TransactionMQProducer p, String topic, int seconds, int threads) throws Exception {
        AtomicLong count = new AtomicLong();
        byte[] body = new byte[256];
        long begin = System.nanoTime(), end = begin + seconds * 1_000_000_000L;
        List<Thread> all = new ArrayList<>();
        for (int i = 0; i < threads; i++) {
            Thread t = new Thread(() -> {
                while (System.nanoTime() < end) {
                    try {
                        if (p.sendMessageInTransaction(new Message(topic, "b", body), "commit").getSendStatus() == SendStatus.SEND_OK) count.incrementAndGet();
                    } catch (Exception e) {
                        say("# " + e);
                    }
                }
            });
            t.start();
            all.add(t);
        }
        for (Thread t : all) t.join();
        say("bench " + count.get() + " " + (System.nanoTime() - begin) / 1_000_000);
    }

    static void send(TransactionMQProducer p, String topic, String[] w) throws Exception {
        Message m = new Message(topic, "tt", "key-" + w[1], w[1].getBytes());
        for (int i = 3; i + 1 < w.length; i += 2) MessageAccessor.putProperty(m, w[i], w[i + 1]);
        try {
            TransactionSendResult r = p.sendMessageInTransaction(m, w[2]);
            say("sent " + w[1] + " " + r.getSendStatus() + " " + r.getLocalTransactionState() + " " + r.getMsgId() + " " + r.getTransactionId());
        } catch (Exception e) {
            say("sent " + w[1] + " failed " + e.toString().replace('\n', ' '));
        }
    }

    public static void main(String[] args) throws Exception {
        TransactionMQProducer p = new TransactionMQProducer(args[1]);
        p.setNamesrvAddr(args[0]);
        p.setInstanceName(args[3]);
        p.setSendMsgTimeout(10000);
        p.setHeartbeatBrokerInterval(3000); // it tells another broker of itself, and finds it, within seconds
        p.setPollNameServerInterval(3000);
        p.setTransactionListener(new Listener());
        p.setExecutorService(new ThreadPoolExecutor(2, 4, 100, TimeUnit.SECONDS, new ArrayBlockingQueue<>(20000)));
        p.start();
        say("ready");
        BufferedReader in = new BufferedReader(new InputStreamReader(System.in));
        for (String line; (line = in.readLine()) != null && !line.equals("quit");) {
            String[] w = line.trim().split(" ");
            if (w[0].equals("send")) {
                send(p, args[2], w);
            } else if (w[0].equals("many")) {
                int n = Integer.parseInt(w[1]), first = Integer.parseInt(w[3]), good = 0;
                for (int i = first; i < first + n; i++)
                    if (p.sendMessageInTransaction(new Message(args[2], "tt", Integer.toString(i).getBytes()), w[2]).getSendStatus() == SendStatus.SEND_OK) good++;
                say("many " + good);
            } else if (w[0].equals("answer")) {
                answers.put(w[1], w[2]);
                say("answer " + w[1]);
            } else if (w[0].equals("bench")) {
                bench(p, args[2], Integer.parseInt(w[1]), Integer.parseInt(w[2]));
            }
        }
        p.shutdown();
        System.exit(0);
    }
}
