#!/usr/bin/env python3
"""Message trace: the official clients with it switched on for producer and consumer (Java 5.5.0 and 4.9.8, Go v2) write what they
did into RMQ_SYS_TRACE_TOPIC, and mqadmin queryMsgTraceById finds it. Without traceTopicEnable the topic is not made at start."""
import os, sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
from zarya import *

HERE = os.path.dirname(os.path.abspath(__file__))
JAVA = ["java", "-Xmx128m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"]
TRACE = "RMQ_SYS_TRACE_TOPIC"
DELAYED = "3"  # a message type in traces


class Client:
    """One process of a client: what it sent, by body, and its records in the trace topic. It is ended by the end of its input."""

    def __init__(self, name, cmd, env=None):
        self.name, self.sent, self.out, self.consumed = name, {}, "", threading.Event()
        self.proc = subprocess.Popen(cmd, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace",
                                     env={**os.environ, **(env or {})})
        self.reader = threading.Thread(target=self.read, daemon=True)
        self.reader.start()

    def read(self):
        for line in self.proc.stdout:
            self.out += line
            words = line.split()
            if words[:1] == ["sent"]:
                self.sent[words[1]] = words[2]
            if words[:1] == ["consumed"]:
                self.consumed.set()

    def end(self):
        self.proc.stdin.close()
        try:
            self.proc.wait(20)
        except subprocess.TimeoutExpired:
            self.proc.kill()
            self.proc.wait()


def traces(addr):
    """All trace records: (fields, keys of the message that carried them)."""
    out, queues = [], 8
    for m in [m for q in range(queues) for m in pull_queue(addr, TRACE, q, group="CG_trace_test")]:
        for r in m["body"].decode().split("\x02"):
            if r:
                out.append((r.split("\x01"), m["props"].get("KEYS", "").split(" ")))
    return out


def of(client, addr):
    """A client's records as far as they are there: {id: {type: [fields ...]}}."""
    found = {i: {"Pub": [], "SubBefore": [], "SubAfter": []} for i in client.sent.values()}
    for f, keys in traces(addr):
        at = {"Pub": 5, "SubBefore": 5, "SubAfter": 2}.get(f[0])
        if at and len(f) > at and f[at] in found and f[at] in keys:
            found[f[at]][f[0]].append(f)
    return found


def complete(client, addr):
    got = of(client, addr)
    return got if got and all(all(x.values()) for x in got.values()) else None


def judge(client, addr, topic, group):
    """Everything is awaited at most a minute: clients send traces in bundles, some seconds apart."""
    if not check(client.consumed.wait(90), f"{client.name}: sends and consumes with trace", client.out[-800:]):
        return
    got = wait_for(lambda: complete(client, addr), 60, 0.5)
    if not check(got, f"{client.name}: a trace of each message sent, before and after consuming, each found by its id among the keys",
                 (client.sent, of(client, addr), client.out[-300:])):
        return
    bad = []
    for body, i in client.sent.items():
        pub = got[i]["Pub"][0]
        if (pub[2:5] != ["DefaultRegion", "PG_" + group, topic] or pub[9] != str(len(body)) or pub[13] != "true"
                or (body == "late") != (pub[11] == DELAYED)):
            bad.append(pub)
        before, after = got[i]["SubBefore"][0], got[i]["SubAfter"][0]
        if before[2:4] != ["DefaultRegion", "CG_" + group] or after[1] not in [b[4] for b in got[i]["SubBefore"]]:
            bad.append((before, after))
        if body == "fails" and after[4] != "false" or body == "plain" and after[4] != "true":
            bad.append(after)
    check(not bad, f"{client.name}: region, group, topic, length, type, outcome and request are right", bad[:3])
    offset_ids = {m["body"].decode(): f"7F000001{int(addr.rsplit(':', 1)[1]):08X}{m['physical']:016X}" for q in range(4) for m in pull_queue(addr, topic, q)}
    wrong = [(b, got[i]["Pub"][0][12]) for b, i in client.sent.items() if b != "late" and got[i]["Pub"][0][12] != offset_ids.get(b)]
    check(not wrong, f"{client.name}: traces name the place of the message", (wrong, offset_ids))


def admin(cp, classes, ns, commands, again=2):
    """mqadmin's answers to commands, all in one process. Its first request takes what the start of a Java program leaves of three
    seconds, and fails on a loaded machine: what ran out of time is asked again."""
    home = temp_dir()
    os.makedirs(home + "/conf")
    with open(home + "/conf/rmq.tools.logback.xml", "w") as f:
        f.write('<configuration><root level="OFF"/></configuration>')
    with open(home + "/commands", "w") as f:
        f.write("".join("\t".join(c) + "\n" for c in commands))
    r = subprocess.run(JAVA + [f"-Drocketmq.namesrv.addr={ns}", f"-Duser.home={home}", f"-Drmq.logback.configurationFile={home}/conf/rmq.tools.logback.xml",
                               *JAVA_OPENS, "-cp", classes + ":" + cp, "Admin", home + "/commands"],
                       stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", timeout=120, env={**os.environ, "ROCKETMQ_HOME": home})
    answers = re.split(r"^==+ \d+\n", r.stdout, flags=re.M)[1:]
    late = [i for i, a in enumerate(answers) if "RemotingTimeoutException" in a or "RemotingConnectException" in a]
    if late and again:
        for i, a in zip(late, admin(cp, classes, ns, [commands[i] for i in late], again - 1)):
            answers[i] = a
    return answers


def topics(addr):
    return json.loads(remoting(addr, 21)[1])["topicConfigTable"]


def go_program():
    exe = os.path.join(temp_dir(), "interop")
    r = subprocess.run(["go", "build", "-o", exe, "."], cwd=os.path.join(HERE, "go"), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                       env={**os.environ, "GOFLAGS": "-mod=mod", "GOTOOLCHAIN": "local"})
    return exe if check(r.returncode == 0, "the Go program builds", r.stdout) else None


def java_programs(cp):
    out = temp_dir()
    r = subprocess.run(["javac", "-nowarn", "-cp", cp, "-d", out] + [os.path.join(HERE, "java", n) for n in ("TracePlay.java", "Admin.java")],
                       stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    return out if check(r.returncode == 0, "the Java programs compile", r.stdout) else None


def main():
    plain = Zarya(namesrv=False, broker_conf="").start()
    check(TRACE not in topics(plain.addr), "without traceTopicEnable there is no trace topic at start")
    plain.stop()
    z = Zarya(broker_conf="traceTopicEnable = true;").start()
    t = topics(z.addr).get(TRACE, {})
    check((t.get("readQueueNums"), t.get("writeQueueNums"), t.get("perm")) == (1, 1, 6), "with it there is one, as Apache makes it", t)
    check(z.wait_registered(), "the broker registers with the name server")
    clients, cp = [], java_client("5.5.0")
    classes = java_programs(cp) if cp else None
    for version in ("5.5.0", "4.9.8"):
        jars = java_client(version)
        if classes and jars:
            group = "trace_" + version.replace(".", "_")
            clients.append((Client("Java " + version, JAVA + ["-cp", classes + ":" + jars, "TracePlay", z.ns, "T_" + group, group]), "T_" + group, group))
        else:
            skip("trace of Java " + version, "maven or javac is missing, or the registry cannot be reached")
    exe = go_program() if shutil.which("go") else None
    if exe:
        clients.append((Client("Go", [exe, z.ns, "T_trace_go", "trace"]), "T_trace_go", "T_trace_go"))
    else:
        skip("trace of Go", "go is missing")
    for client, topic, group in clients:
        judge(client, z.addr, topic, group)
    asked = [(c, body, i) for c, _, _ in clients for body, i in c.sent.items()]
    if classes and asked:
        answers = admin(cp, classes, z.ns, [["queryMsgTraceById", "-i", i] for _, _, i in asked] + [["queryMsgTraceById", "-i", "0" * 32]])
        groups = {c: g for c, _, g in clients}
        bad = [a for (c, body, i), a in zip(asked, answers)
               if not re.search(r"^Pub\s+PG_" + groups[c] + r"\s.*\s(success|failed)", a, re.M)
               or not re.search(r"^Sub\s+CG_" + groups[c] + r"\s.*" + ("failed" if body == "fails" else "success"), a, re.M | re.I)]
        check(len(answers) == len(asked) + 1 and not bad, f"mqadmin queryMsgTraceById shows {len(asked)} messages", bad[:1] or answers[:1])
        check("Pub" not in answers[-1], "and nothing for an id that nobody traced", answers[-1])
    for client, _, _ in clients:
        client.end()
    check(z.stop() == 0, "zarya stops cleanly", text_of(z.log)[-800:])
    done()


main()
