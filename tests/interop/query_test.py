#!/usr/bin/env python3
"""Messages looked up by key, unique key, id, offset and time, and offsets reset, skipped and cloned, at Zarya and at Apache 5.5.0 side
by side: the same requests by hand and, with --full, the same commands of mqadmin 5.5.0 get the same answers."""
import os, sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
from zarya import *

HERE = os.path.dirname(os.path.abspath(__file__))
UNIQ = "7F0000010000000000000000%08X"
BASE = 1000


def fill(b):
    """Ten messages: the even ones have key "even", each has its own, those of queue 1 a tag."""
    create_topic(b.addr, "Q", 2)
    wait_for(lambda: remoting(b.ns, 105, {"topic": "Q"})[0].get("code") == 0)
    b.ids = []
    for n in range(10):
        keys = f"own{n}" + (" even" if n % 2 == 0 else "")
        props = f"UNIQ_KEY\x01{UNIQ % n}\x02KEYS\x01{keys}\x02" + ("TAGS\x01TagQ\x02" if n % 2 else "") + "WAIT\x01true\x02"
        head, _ = remoting(b.addr, 310, {"a": "PG", "b": "Q", "c": "TBW102", "d": 2, "e": n % 2, "f": 0, "g": BASE + n, "h": 0, "i": props, "j": 0, "k": "false", "m": "false"}, b"body %d" % n)
        b.ids.append(head.get("extFields", {}).get("msgId"))
    b.middle = int(time.time() * 1000)
    wait_for(lambda: look(b, "own9")[0] == 0)


def look(b, key, topic="Q", begin=0, end=1 << 62, most=64, **more):
    """Answer of a query by hand: code, remark, names of fields, bodies."""
    ext = {"topic": topic, "key": key, "maxNum": most, "beginTimestamp": begin, "endTimestamp": end, **more}
    head, body = remoting(b.addr, 12, {k: v for k, v in ext.items() if v is not None})
    return head.get("code"), head.get("remark") if head.get("code") == 22 else None, sorted(head.get("extFields") or {}) if head.get("code") == 0 else None, \
        [m["body"] for m in records(body)]


CASES = [
    ("a key of one", ("own3",), {}), ("a key of five", ("even",), {}), ("at most two", ("even",), {"most": 2}), ("at most none", ("even",), {"most": 0}),
    ("less than none", ("even",), {"most": -1}), ("more than there may be", ("even",), {"most": 1000}), ("an unknown key", ("none",), {}), ("an unknown topic", ("even",), {"topic": "None"}),
    ("before its time", ("even",), {"end": 1000}), ("after its time", ("even",), {"begin": 1 << 61}), ("a unique key", (UNIQ % 4,), {"_UNIQUE_KEY_QUERY": "true"}),
    ("a unique key, said otherwise", (UNIQ % 4,), {"indexType": "U"}), ("a unique key asked for as a key", (UNIQ % 4,), {}), ("a key asked for as a unique one", ("even",), {"_UNIQUE_KEY_QUERY": "true"}),
    ("a tag", ("TagQ",), {"indexType": "T"}), ("a key, said so", ("even",), {"indexType": "K"}), ("an empty key", ("",), {}), ("without maxNum", ("even",), {"most": None}),
    ("without a time", ("even",), {"begin": None}),
]


def by_hand(z, a):
    for what, args, more in CASES:
        ours, theirs = look(z, *args, **more), look(a, *args, **more)
        check(ours == theirs, f"query: {what}: as Apache", (ours, theirs))
    for what, id_, shift in (("a message", 5, 0), ("no message", 5, 1 << 40)):
        got = []
        for b in (z, a):
            head, body = remoting(b.addr, 33, {"offset": int(b.ids[id_][16:], 16) + shift})
            got.append((head.get("code"), re.sub(r"\d+", "N", head.get("remark") or ""), [m["body"] for m in records(body)]))
        check(got[0] == got[1], f"view by id: {what}: as Apache", got)
    for shift in (-3600000, 3600000):
        got = [remoting(b.addr, 29, {"topic": "Q", "queueId": 0, "timestamp": b.middle + shift})[0] for b in (z, a)]
        check(got[0].get("extFields") == got[1].get("extFields"), f"search by time ({shift} ms from the end): as Apache", got)


def mqadmin(b, classes, cp, commands):
    home = temp_dir()
    os.makedirs(home + "/conf", exist_ok=True)
    with open(home + "/conf/rmq.tools.logback.xml", "w") as f:
        f.write('<configuration><root level="OFF"/></configuration>')
    with open(home + "/commands", "w") as f:
        f.write("\n".join("\t".join(c) for c in commands))
    r = subprocess.run(["java", "-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", f"-Drocketmq.namesrv.addr={b.ns}", f"-Duser.home={home}",
                        f"-Drmq.logback.configurationFile={home}/conf/rmq.tools.logback.xml", *JAVA_OPENS, "-cp", classes + ":" + cp, "Admin", home + "/commands"],
                       stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", timeout=240, env={**os.environ, "ROCKETMQ_HOME": home})
    parts = re.split(r"^== \d+$", r.stdout, flags=re.M)[1:]
    return [plain(b, p) for p in parts] + [[]] * (len(commands) - len(parts))


def plain(b, text):
    """Without what differs between any two brokers: ports, times, ids of their own, paths."""
    for i, id_ in enumerate(b.ids):
        text = text.replace(id_ or "-", f"<id {i}>")
    text = text.replace(b.addr, "<broker>").replace(b.ns, "<namesrv>")
    text = re.sub(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d(,\d+)?", "<time>", text)
    text = re.sub(r"127\.0\.0\.1:\d+", "<address>", text)
    text = re.sub(r"(CommitLog Offset: +)\d+", r"\1N", text)
    text = re.sub(r"(Message Body Path: +).*", r"\1<path>", text)
    text = re.sub(r"\b[0-9A-F]{32}\b(?<!" + UNIQ[:24] + r".{8})", "<own id>", text)
    text = re.sub(r"\b\d{13}\b", "<ms>", text)
    text = re.sub(r"== \d+$", "", text)
    text = re.sub(r"#\d{12,}|@\d+", "<client>", text)
    lines = [re.sub(r"\s+", " ", l).strip() for l in text.splitlines()]
    return [re.sub(r"^(System Flag|Properties): ", r"\1: ", l) for l in lines if l and "Picked up" not in l and not l.startswith("\tat ") and not l.startswith("at ")]


def group_of(b):
    for g in ("G", "G2"):
        beat = {"clientID": "127.0.0.1@hand", "producerDataSet": [], "consumerDataSet": [
            {"groupName": g, "consumeType": "CONSUME_PASSIVELY", "messageModel": "CLUSTERING", "consumeFromWhere": "CONSUME_FROM_LAST_OFFSET", "unitMode": False,
             "subscriptionDataSet": [{"topic": "Q", "subString": "*", "tagsSet": [], "codeSet": [], "subVersion": 1, "expressionType": "TAG", "classFilterMode": False}]}]}
        remoting(b.addr, 34, {}, json.dumps(beat).encode())
    for q in (0, 1):
        remoting(b.addr, 15, {"consumerGroup": "G", "topic": "Q", "queueId": q, "commitOffset": 2})
    wait_for(lambda: remoting(b.ns, 105, {"topic": "%RETRY%G"})[0].get("code") == 0)


def commands(b):
    return [["topicList"], ["queryMsgByKey", "-t", "Q", "-k", "own3"], ["queryMsgByKey", "-t", "Q", "-k", "even"], ["queryMsgByKey", "-t", "Q", "-k", "none"],
            ["queryMsgByKey", "-t", "Q", "-k", "even", "-m", "2"],
            ["queryMsgByUniqueKey", "-t", "Q", "-i", UNIQ % 4], ["queryMsgByUniqueKey", "-t", "Q", "-i", UNIQ % 99],
            ["queryMsgByOffset", "-t", "Q", "-b", "broker-a", "-i", "1", "-o", "2"], ["queryMsgById", "-t", "Q", "-i", b.ids[5]],
            ["resetOffsetByTime", "-g", "G", "-t", "Q", "-s", str(b.middle + 1000)], ["resetOffsetByTime", "-g", "G", "-t", "Q", "-s", "now"],
            ["skipAccumulatedMessage", "-g", "G", "-t", "Q"], ["cloneGroupOffset", "-s", "G", "-d", "G2", "-t", "Q"]]


def by_mqadmin(z, a, cp):
    classes = temp_dir()
    r = subprocess.run(["javac", "-nowarn", "-cp", cp, "-d", classes, os.path.join(HERE, "java/Admin.java")], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if not check(r.returncode == 0, "Admin.java compiles", r.stdout):
        return
    for b in (z, a):
        group_of(b)
    got = {}
    threads = [threading.Thread(target=lambda b=b: got.__setitem__(b, mqadmin(b, classes, cp, commands(b)))) for b in (z, a)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    for i, c in list(enumerate(commands(z)))[1:]:  # the first is for warming up
        ours, theirs = got[z][i], got[a][i]
        bad = [p for p in zip(ours, theirs) if p[0] != p[1]] + ours[len(theirs):] + theirs[len(ours):]
        check((ours or c[0] == "cloneGroupOffset") and not bad, "mqadmin " + " ".join(c[:1] + [x for x in c[1:] if "7F0000" not in x and not x.isdigit()]) + ": as Apache", bad or (ours, theirs))


    offsets = [[remoting(b.addr, 14, {"consumerGroup": g, "topic": "Q", "queueId": q})[0].get("extFields") for g in ("G", "G2") for q in (0, 1)] for b in (z, a)]
    check(offsets[0] == offsets[1], "the offsets of both groups afterwards: as Apache", offsets)


def main():
    cp = java_client("5.5.0")
    if not cp or not apache_server("5.5.0"):
        skip("queries beside Apache", "maven or javac is missing, or the registry cannot be reached")
        done()
    a = Apache().start()
    z = Zarya().start()
    z.wait_registered()
    for b in (z, a):
        fill(b)
    by_hand(z, a)
    if FULL:
        by_mqadmin(z, a, cp)
    a.stop()
    check(z.stop() == 0 and "Sanitizer" not in text_of(z.log), "zarya stops cleanly", text_of(z.log)[-1500:])
    done()


main()
