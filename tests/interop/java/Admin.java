// SPDX-License-Identifier: Apache-2.0
// mqadmin's commands one after the other in one process, which is much faster than a process for each.
//   Admin FILE        a command on each line, its words separated by tabs; "=== NUMBER" is printed before each
import java.nio.charset.StandardCharsets;
import java.nio.file.*;
import java.util.*;
import org.apache.rocketmq.tools.command.MQAdminStartup;

public class Admin {
    public static void main(String[] a) throws Exception {
        List<String> lines = Files.readAllLines(Paths.get(a[0]), StandardCharsets.UTF_8);
        for (int i = 0; i < lines.size(); i++) {
            System.out.println("\n=== " + i);
            MQAdminStartup.main0(lines.get(i).split("\t"), null);
            System.out.flush();
        }
        Runtime.getRuntime().halt(0);
    }
}
