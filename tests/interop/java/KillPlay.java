// SPDX-License-Identifier: Apache-2.0
// The official producer while its broker is killed and started again, for as long as this process lives: a few threads send one
// numbered message after the other. What is acknowledged is written down, a line each: NAME:NUMBER: QUEUE OFFSET MSGID. A message
// whose sending fails is not sent again (it may be there), so that every one that is acknowledged must be there once.
// Usage: KillPlay NAMESRV TOPIC FILE
import java.io.*;
import java.nio.charset.StandardCharsets;
import org.apache.rocketmq.client.producer.*;
import org.apache.rocketmq.common.message.Message;

public class KillPlay {
    static final int THREADS = 3;

    static void send(DefaultMQProducer p, String topic, String name, Writer out) {
        byte[] rest = "x".repeat(300).getBytes(StandardCharsets.UTF_8);
        for (int n = 0;; n++) {
            String text = name + ":" + n + ":";
            byte[] body = new byte[text.length() + rest.length];
            System.arraycopy(text.getBytes(StandardCharsets.UTF_8), 0, body, 0, text.length());
            System.arraycopy(rest, 0, body, text.length(), rest.length);
            try {
                SendResult r = p.send(new Message(topic, body));
                if (r.getSendStatus() != SendStatus.SEND_OK) continue;
                synchronized (out) {
                    out.write(text + " " + r.getMessageQueue().getQueueId() + " " + r.getQueueOffset() + " " + r.getMsgId() + "\n");
                    out.flush();
                }
            } catch (IOException e) {
                throw new UncheckedIOException(e);
            } catch (Exception e) {
                try {
                    Thread.sleep(5); // the broker is down
                } catch (InterruptedException i) {
                    return;
                }
            }
        }
    }

    public static void main(String[] a) throws Exception {
        DefaultMQProducer p = new DefaultMQProducer("KillPlay");
        p.setNamesrvAddr(a[0]);
        p.setRetryTimesWhenSendFailed(0);
        p.setSendMsgTimeout(3000);
        p.start();
        Writer out = new OutputStreamWriter(new FileOutputStream(a[2]), StandardCharsets.UTF_8);
        for (int i = 0; i < THREADS; i++) {
            String name = "t" + i;
            new Thread(() -> send(p, a[1], name, out)).start();
        }
    }
}
