/* SPDX-License-Identifier: Apache-2.0 */
import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.nio.charset.StandardCharsets;
import java.util.Map;
import org.apache.rocketmq.broker.filter.MessageEvaluationContext;
import org.apache.rocketmq.common.message.MessageDecoder;
import org.apache.rocketmq.filter.SqlFilter;
import org.apache.rocketmq.filter.expression.Expression;

/** What Apache's own filter says: lines "hex of expression, blank, hex of properties" in; E, Y or N for each out. */
public class SqlOracle {
    static String text(String hex) {
        byte[] bytes = new byte[hex.length() / 2];
        for (int i = 0; i < bytes.length; i++) {
            bytes[i] = (byte) Integer.parseInt(hex.substring(2 * i, 2 * i + 2), 16);
        }
        return new String(bytes, StandardCharsets.UTF_8);
    }

    public static void main(String[] args) throws Exception {
        BufferedReader in = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.US_ASCII), 1 << 20);
        StringBuilder out = new StringBuilder();
        String line, last = null;
        Expression compiled = null;
        while ((line = in.readLine()) != null) {
            int blank = line.indexOf(' ');
            String expression = line.substring(0, blank);
            if (!expression.equals(last)) {
                last = expression;
                try {
                    compiled = new SqlFilter().compile(text(expression));
                } catch (Throwable e) {
                    compiled = null;
                }
            }
            if (compiled == null) {
                out.append('E');
                continue;
            }
            Map<String, String> properties = MessageDecoder.string2messageProperties(text(line.substring(blank + 1)));
            Object verdict = null;
            try {
                verdict = compiled.evaluate(new MessageEvaluationContext(properties));
            } catch (Throwable e) {
                verdict = null;
            }
            out.append(verdict instanceof Boolean && (Boolean) verdict ? 'Y' : 'N');
        }
        System.out.println(out);
    }
}
