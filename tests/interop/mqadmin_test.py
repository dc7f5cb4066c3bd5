#!/usr/bin/env python3
"""mqadmin 5.5.0 from Maven, unchanged, against our name server and broker. mqadmin's exit status is always 0, so each command
is judged by what it prints."""
import os, sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
from zarya import *


STATUS = """
import java.util.*;
import org.apache.rocketmq.common.message.MessageQueue;
import org.apache.rocketmq.tools.admin.DefaultMQAdminExt;
public class Status {
    public static void main(String[] a) throws Exception {
        DefaultMQAdminExt admin = new DefaultMQAdminExt();
        admin.setNamesrvAddr(a[0]);
        admin.start();
        Map<String, Map<MessageQueue, Long>> all = admin.getConsumeStatus(a[1], a[2], a[3]);
        for (Map.Entry<String, Map<MessageQueue, Long>> e : all.entrySet())
            for (Map.Entry<MessageQueue, Long> q : e.getValue().entrySet())
                System.out.println("status " + all.size() + " " + e.getKey() + " " + q.getKey().getBrokerName() + " " + q.getKey().getQueueId() + " " + q.getValue());
        admin.shutdown();
        System.exit(0);
    }
}
"""


def mqadmin(ns, *args):
    home = temp_dir()
    os.makedirs(home + "/conf", exist_ok=True)
    with open(home + "/conf/rmq.tools.logback.xml", "w") as f:
        f.write('<configuration><root level="OFF"/></configuration>')
    r = subprocess.run(["java", "-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", f"-Drocketmq.namesrv.addr={ns}", f"-Duser.home={home}",
                        f"-Drmq.logback.configurationFile={home}/conf/rmq.tools.logback.xml", *JAVA_OPENS, "-cp", CP,
                        "org.apache.rocketmq.tools.command.MQAdminStartup", *args],
                       stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", timeout=120, cwd=home, env={**os.environ, "ROCKETMQ_HOME": home})
    return r.stdout


def says(ns, what, args, *wanted):
    out = mqadmin(ns, *args)
    bad = [w for w in wanted if not re.search(w, out, re.M)]
    check(not bad and "Exception" not in out, f"mqadmin {what}", f"missing {bad} in: {out[:1500]}")
    return out


def run(ns, addr):
    says(ns, "clusterList", ["clusterList"], r"^DefaultCluster\s+broker-a\s+0\s+" + re.escape(addr))
    says(ns, "updateTopic -b", ["updateTopic", "-b", addr, "-t", "AdminT", "-r", "4", "-w", "4"], r"create topic to " + re.escape(addr) + " success")
    says(ns, "updateTopic -c", ["updateTopic", "-c", "DefaultCluster", "-t", "AdminC"], r"create topic to .* success")
    says(ns, "topicList", ["topicList"], r"^AdminT$", r"^AdminC$", r"^TBW102$|^SELF_TEST_TOPIC$")
    says(ns, "topicRoute", ["topicRoute", "-t", "AdminT"], r'"brokerName":"broker-a"', r'"readQueueNums":4', re.escape(addr))
    out = says(ns, "sendMessage", ["sendMessage", "-t", "AdminT", "-p", "hello from mqadmin", "-k", "key7", "-c", "TagM"], r"broker-a\s+\d\s+SEND_OK\s+\w{32,}")
    uniq = re.search(r"SEND_OK\s+(\w{32,})", out)
    mqadmin(ns, "sendMessage", "-t", "AdminT", "-p", "second", "-b", "broker-a", "-i", "2")
    says(ns, "topicStatus", ["topicStatus", "-t", "AdminT"], r"^broker-a\s+0\s+0\s+\d", r"^broker-a\s+2\s+0\s+[12]\s+20\d\d-")
    says(ns, "updateSubGroup", ["updateSubGroup", "-c", "DefaultCluster", "-g", "AdminG"], r"create subscription group to .* success")
    says(ns, "brokerStatus", ["brokerStatus", "-b", addr], r"^putTps\s*:", r"^brokerVersionDesc\s*:\s*V5", r"^commitLogDiskRatio\s*:")
    says(ns, "setCommitLogReadAheadMode", ["setCommitLogReadAheadMode", "-b", addr, "-m", "1"], r"set commitlog readahead mode success, mode: 1")
    out = says(ns, "consumeMessage", ["consumeMessage", "-t", "AdminT", "-g", "AdminG", "-b", "broker-a", "-i", "2", "-o", "0", "-c", "1"], r"Consume ok", r"second|BODY|MSGID")
    offset_id = offset_message_id(ns, addr)
    says(ns, "queryMsgById", ["queryMsgById", "-i", offset_id, "-t", "AdminT"], r"^Topic:\s+AdminT", r"^Tags:|^Message Body Path|Queue ID:")
    commit_offset(addr)
    says(ns, "consumerProgress -g", ["consumerProgress", "-g", "AdminG"], r"^AdminT\s+broker-a\s+2\s+\d+\s+1", r"Consume TPS", r"Diff Total")
    says(ns, "consumerProgress", ["consumerProgress"], r"#Group")
    says(ns, "deleteTopic", ["deleteTopic", "-c", "DefaultCluster", "-t", "AdminT"], r"delete topic \[AdminT\] from (cluster|broker|NameServer).* success")
    out = mqadmin(ns, "topicList")
    check("AdminT" not in out.split() and "AdminC" in out.split(), "a deleted topic is gone from the name server", out[:800])
    check(uniq, "sendMessage prints the unique id")


def consumer_status(ns, addr):
    """What a tool asks a real consumer through the broker: its running info (307), to consume a message at once (309), and, with the
    command that mqadmin has but does not list, how far it is (221 by 223)."""
    folder = temp_dir()
    here = os.path.dirname(os.path.abspath(__file__))
    r = subprocess.run(["javac", "-nowarn", "-cp", CP, "-d", folder, os.path.join(here, "java/Retry.java")], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    check(r.returncode == 0, "Retry.java compiles", r.stdout)
    create_topic(addr, "Direct", 1)
    java = ["java", "-Xmx128m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", *JAVA_OPENS, "-cp", folder + ":" + CP]
    c = start(java + ["Retry", ns, "dead", "Direct", "DirectG", "100"], tempfile.mkstemp(dir=folder)[1])
    wait_for(lambda: "started" in text_of(c.log), 60)
    head, _ = remoting(addr, 310, {"a": "PG", "b": "Direct", "c": "TBW102", "d": 4, "e": 0, "f": 0, "g": int(time.time() * 1000), "h": 0, "i": "UNIQ_KEY\x01D1\x02", "j": 0}, b"directly")
    id_ = head["extFields"]["msgId"]
    check(wait_for(lambda: "try directly 0 Direct" in text_of(c.log), 60), "the consumer gets the message", text_of(c.log)[-500:])
    client = json.loads(remoting(addr, 38, {"consumerGroup": "DirectG"})[1])["consumerIdList"][0]
    says(ns, "consumerStatus -g", ["consumerStatus", "-g", "DirectG"], re.escape(client), r"V5_5_0")
    out = mqadmin(ns, "consumerStatus", "-g", "DirectG", "-i", client, "-s")  # its stacks may name exceptions
    bad = [w for w in (r"#Consumer Properties#", r"PROP_CONSUME_TYPE\s*: CONSUME_PASSIVELY", r"^Direct\s+broker-a\s+0\s", r"#Consumer jstack#") if not re.search(w, out, re.M)]
    check(not bad, "mqadmin consumerStatus -i -s", f"missing {bad} in: {out[:3000]}")
    before = text_of(c.log).count("try directly")
    out = says(ns, "queryMsgById -g -d", ["queryMsgById", "-i", id_, "-t", "Direct", "-g", "DirectG", "-d", client], r"consumeResult=CR_LATER")
    check(text_of(c.log).count("try directly") > before, "consumed once more, at once", out)
    with open(folder + "/Status.java", "w") as f:
        f.write(STATUS)
    r = subprocess.run(java + [folder + "/Status.java", ns, "Direct", "DirectG", client], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=100)
    check(re.search(r"^status 1 " + re.escape(client) + r" broker-a 0 \d+$", r.stdout, re.M), "getConsumeStatus: how far the consumer says it is", r.stdout[-1500:])
    c.kill()
    c.wait()


def commit_offset(addr):
    """The group becomes known by a heartbeat, and has consumed one message of queue 2."""
    beat = {"clientID": "127.0.0.1@admin", "producerDataSet": [], "consumerDataSet": [
        {"groupName": "AdminG", "consumeType": "CONSUME_PASSIVELY", "messageModel": "CLUSTERING", "consumeFromWhere": "CONSUME_FROM_LAST_OFFSET", "unitMode": False,
         "subscriptionDataSet": [{"topic": "AdminT", "subString": "*", "tagsSet": [], "codeSet": [], "subVersion": 1, "expressionType": "TAG", "classFilterMode": False}]}]}
    remoting(addr, 34, {}, json.dumps(beat).encode())
    remoting(addr, 15, {"consumerGroup": "AdminG", "topic": "AdminT", "queueId": 2, "commitOffset": 1})


def offset_message_id(ns, addr):
    """Sends one message by hand for its offset id."""
    head, _ = remoting(addr, 310, {"a": "PG", "b": "AdminT", "c": "TBW102", "d": 4, "e": 1, "f": 0, "g": int(time.time() * 1000), "h": 0,
                                   "i": "TAGS\x01TagX\x02", "j": 0}, b"body by id")
    return head.get("extFields", {}).get("msgId", "none")


def main():
    global CP
    CP = java_client("5.5.0")
    if not CP:
        skip("mqadmin 5.5.0", "maven or javac is missing, or the registry cannot be reached")
        done()
    if len(sys.argv) > 2 and ":" in sys.argv[1]:  # against what is there: mqadmin_test.py NAMESRV BROKER
        run(sys.argv[1], sys.argv[2])
        done()
    z = Zarya().start()
    z.wait_registered()
    run(z.ns, z.addr)
    consumer_status(z.ns, z.addr)
    check(z.stop() == 0, "zarya stops cleanly", text_of(z.log)[-800:])
    done()


main()
