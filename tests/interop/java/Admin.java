// SPDX-License-Identifier: Apache-2.0
// Runs several commands of mqadmin in one process: Admin FILE, one command a line, words separated by tabs. Before each a line "== N".
import java.nio.charset.StandardCharsets;
import java.nio.file.*;
import java.util.*;
import org.apache.rocketmq.tools.command.MQAdminStartup;

public class Admin {
    public static void main(String[] a) throws Exception {
        List<String> commands = Files.readAllLines(Paths.get(a[0]), StandardCharsets.UTF_8);
        for (int i = 0; i < commands.size(); i++) {
            System.out.println("== " + i);
            System.out.flush();
            try {
                MQAdminStartup.main0(commands.get(i).split("\t"), null);
            } catch (Throwable e) {
                e.printStackTrace(System.out);
            }
            System.out.flush();
            System.err.flush();
        }
        System.exit(0);
    }
}
