#!/usr/bin/env python3
"""Forms of the store that have to be switched on or asked for, both ways with Apache 5.5.0: batch consume queues, the property
CRC, consume queue extents with bit maps of SQL92 expressions (each broker writes what the other goes by), records of long topics (V2), IPv6 hosts. The directory goes Apache,
Zarya, Apache, Zarya, Apache; the last stop of each but the last is a kill.

Beside them the documents under config/: what is odd in them goes with the directory, and torn ones cost nothing that the queues
know."""
import os, sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
from zarya import *

FORMS = "enabledAppendPropCRC=true\nforceVerifyPropCRC=true\nenableConsumeQueueExt=true\nenableCalcFilterBitMap=true\nbrokerIP1=::1\n"
LONG = "%RETRY%" + "g" * 190  # longer than 127 bytes: its records are V2
SQL = "n BETWEEN 5 AND 8 OR w = 'z1'"


def make_topic(addr, topic, attributes=""):
    head, _ = remoting(addr, 17, {"topic": topic, "defaultTopic": "TBW102", "readQueueNums": 1, "writeQueueNums": 1, "perm": 6, "topicFilterType": "SINGLE_TAG",
                                  "topicSysFlag": 0, "order": "false", "attributes": attributes})
    check(head.get("code") == 0, f"topic {topic} created {attributes}", head)


def send_batch(addr, topic, names):
    """A client's batch, as the Java producer encodes it. The offset of the first."""
    body = b""
    for name in names:
        p, b = f"UNIQ_KEY\x01U{name}\x02TAGS\x01red\x02".encode(), name.encode()
        body += struct.pack(">iiiii", 22 + len(b) + len(p), 0, 0, 0, len(b)) + b + struct.pack(">h", len(p)) + p
    head, _ = remoting(addr, 320, {"a": "PG", "b": topic, "c": "TBW102", "d": 4, "e": 0, "f": 0, "g": int(time.time() * 1000), "h": 0,
                                   "i": f"UNIQ_KEY\x01B{names[0]}\x02WAIT\x01true\x02", "j": 0, "k": "false", "m": "true"}, body)
    return int(head.get("extFields", {}).get("queueOffset", -1)) if head.get("code") == 0 else head


def send_one(addr, topic, name, tag, host="127.0.0.1", more=""):
    """more: further properties."""
    with socket.create_connection((host, int(addr.rsplit(":", 1)[1])), 5) as s:
        s.settimeout(10)
        props = f"UNIQ_KEY\x01U{name}\x02KEYS\x01K{name}\x02TAGS\x01{tag}\x02WAIT\x01true\x02{more}"
        s.sendall(frame(310, {"a": "PG", "b": topic, "c": "TBW102", "d": 1, "e": 0, "f": 0, "g": int(time.time() * 1000), "h": 0, "i": props, "j": 0,
                              "k": "false", "m": "false"}, name.encode()))
        return read_frame(s)[0].get("code")


def hold_sql(addr, topic="FormPlain", expression=SQL):
    """A consumer with an SQL92 expression, known to the broker while the connection lives, for two minutes or so."""
    c = Conn(addr)
    beat_sql(c, topic, expression)
    return c


def beat_sql(c, topic, expression):
    """Its heartbeat."""
    c.ask(34, {}, json.dumps({"clientID": "127.0.0.1@forms", "producerDataSet": [], "consumerDataSet": [
        {"groupName": "CG_sql", "consumeType": "CONSUME_PASSIVELY", "messageModel": "CLUSTERING", "consumeFromWhere": "CONSUME_FROM_FIRST_OFFSET", "unitMode": False,
         "subscriptionDataSet": [{"topic": topic, "subString": expression, "tagsSet": [], "codeSet": [], "subVersion": 1, "expressionType": "SQL92",
                                  "classFilterMode": False}]}]}).encode())


def live_sql(addr, conn, offset=0, topic="FormPlain", queue=0):
    """Names that the registered consumer gets: judged by its filter data, hence by bit maps too."""
    out = []
    for _ in range(200):
        head, body = conn.ask(11, {"consumerGroup": "CG_sql", "topic": topic, "queueId": queue, "queueOffset": offset, "maxMsgNums": 32, "sysFlag": 0,
                                   "commitOffset": 0, "suspendTimeoutMillis": 0, "subVersion": 1, "expressionType": "SQL92"})
        ext = head.get("extFields", {})
        if head.get("code") == 0:
            out += [m["body"].decode() for m in records(body)]
        elif head.get("code") not in (20, 21) or int(ext["nextBeginOffset"]) == offset:
            return out
        offset = int(ext["nextBeginOffset"])
    return out


def extents(data, topic="FormPlain", queue="0"):
    """Of each entry of the queue: tags code, store time and bit map of its extent, or None."""
    at = lambda *p: os.path.join(data, *p)
    out, files = [], {}
    raw = b"".join(open(at("consumequeue", topic, queue, f), "rb").read() for f in sorted(os.listdir(at("consumequeue", topic, queue))))
    for i in range(0, len(raw), 20):
        _, size, tags = struct.unpack_from(">qiq", raw, i)
        if size <= 0:
            break
        if tags > -2147483649:
            out.append(None)
            continue
        offset, folder = tags + (1 << 63), at("consumequeue_ext", topic, queue)
        if not files:
            files = {int(f): open(os.path.join(folder, f), "rb").read() for f in os.listdir(folder)}
        base = max(b for b in files if b <= offset)
        n, code, ms, bits = struct.unpack_from(">hqqh", files[base], offset - base)
        out.append((code, ms, files[base][offset - base + 20:offset - base + 20 + bits]) if n == 20 + bits else "damaged")
    return out


def check_extents(data, known, what):
    got = extents(data)
    codes = {"red": 112785, "blue": 3027034}
    wrong = [(i, u) for i, u in enumerate(got) if u is None or u == "damaged" or u[0] != codes[known.plain[i][1]] or len(u[2]) not in (0, 14)]
    check(len(got) == len(known.plain) and not wrong, f"{what}: each of {len(known.plain)} entries has its extent", f"{len(got)} {wrong[:3]}")
    bits = BITS["CG_sql#FormPlain"]
    said = [(n, fits, all(u[2][b // 8] >> b % 8 & 1 for b in bits)) for u, (n, _, fits, _) in zip(got, known.plain) if u and u != "damaged" and u[2]]
    check(not [x for x in said if x[1] != x[2]], f"{what}: {len(said)} bit maps say what the expression says", [x for x in said if x[1] != x[2]][:3])
    return len(said)


def bit_positions(data, topic="FormPlain"):
    """Of CG_sql, as consumerFilter.json has them."""
    doc = json.loads(text_of(os.path.join(data, "config/consumerFilter.json")))
    return doc["filterDataByTopic"][topic]["groupFilterData"]["CG_sql"]["bloomFilterData"]["bitPos"]


def check_tool(data):
    """zaryactl store check knows the folder: right, damaged, mended."""
    said = lambda *more: subprocess.run([tool("zaryactl-store"), "check", data, *more], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=60).stdout
    found = "extents, the first of them here"
    before = said()
    check("queues " in before and found not in before, "store check finds nothing wrong with the extents", before[-600:])
    name = "consumequeue_ext/FormPlain/0/00000000000000000000"
    with open(os.path.join(data, name), "r+b") as f:
        f.seek(34)
        f.write(bytes(100))
    damaged = said()
    check(f"{name} at 34" in damaged and found in damaged, "store check names a damaged extent by file and place", damaged[-600:])
    mended = said("--repair")
    check("consumequeue_ext/FormPlain/0: moved aside" in mended and found not in said(), "store check --repair moves them aside", mended[-600:])


BITS = {}


def hosts(record):
    """Which hosts of a record are IPv6: born, store."""
    return record["sysflag"] >> 4 & 1, record["sysflag"] >> 5 & 1


def alter(path, change):
    """Changes a document that Apache's JSON dialect allows (integer keys without quotes)."""
    text = re.sub(r"([{,]\s*)(\d+):", r'\1"\2":', text_of(path))
    doc = json.loads(text)
    change(doc)
    with open(path, "w") as f:
        json.dump(doc, f)


def odd_documents(data):
    """As a newer RocketMQ might leave them."""
    config = os.path.join(data, "config")
    alter(f"{config}/topics.json", lambda d: (d["topicConfigTable"]["FormPlain"].update(tier={"cold": [1, "x"]}), d.update(federation="f1")))
    alter(f"{config}/subscriptionGroup.json", lambda d: (d["subscriptionGroupTable"]["TOOLS_CONSUMER"].update(quota=7), d.update(owners=["x"])))
    alter(f"{config}/consumerOffset.json", lambda d: d.update(lmqOffsetTable={"%LMQ%x@g": 123}))
    with open(f"{config}/quotas.json", "w") as f:
        f.write('{"unknown":"document"}')


def odd_kept(data):
    doc = lambda name: json.loads(re.sub(r"([{,]\s*)(\d+):", r'\1"\2":', text_of(os.path.join(data, "config", name))))
    topics, groups, offsets = doc("topics.json"), doc("subscriptionGroup.json"), doc("consumerOffset.json")
    check(topics["topicConfigTable"]["FormPlain"].get("tier") == {"cold": [1, "x"]} and topics.get("federation") == "f1" and
          groups["subscriptionGroupTable"]["TOOLS_CONSUMER"].get("quota") == 7 and groups.get("owners") == ["x"] and
          offsets.get("lmqOffsetTable") == {"%LMQ%x@g": 123} and text_of(os.path.join(data, "config/quotas.json")) == '{"unknown":"document"}',
          "what others wrote into config/ is kept", f"{topics.get('federation')} {groups.get('owners')} {offsets.get('lmqOffsetTable')}")


def tear_documents(data):
    """Both copies of topics and groups, cut in the middle of a word."""
    for name in ("topics.json", "subscriptionGroup.json"):
        for path in (os.path.join(data, "config", name), os.path.join(data, "config", name + ".bak")):
            with open(path, "w") as f:
                f.write('{"dataVersion":{"coun')


def unwrapped(body):
    """Names in the body of an inner batch."""
    out, at = [], 0
    while at < len(body):
        size, _, _, _, n = struct.unpack_from(">iiiii", body, at)
        out.append(body[at + 20:at + 20 + n].decode())
        at += size
    return out


def pull_from(addr, topic, offset, tag="*", kind="TAG", group="CG_forms"):
    """Records from an offset on, until there are no more."""
    out = []
    for _ in range(200):
        head, body = remoting(addr, 11, {"consumerGroup": group, "topic": topic, "queueId": 0, "queueOffset": offset, "maxMsgNums": 32, "sysFlag": 4, "commitOffset": 0,
                                         "suspendTimeoutMillis": 0, "subscription": tag, "subVersion": 1, "expressionType": kind})
        ext = head.get("extFields", {})
        if head.get("code") == 0:
            out += records(body)
        elif head.get("code") not in (20, 21) or int(ext["nextBeginOffset"]) == offset:
            return out
        offset = int(ext["nextBeginOffset"])
    return out


def check_live(known, addr, conn, what):
    got, want = live_sql(addr, conn), [n for n, _, fits, _ in known.plain if fits]
    check(got == want, f"{what}: the registered consumer gets what its expression says", f"{len(got)} {len(want)} {got[:5]}")


class Known:
    def __init__(self):
        self.batches, self.plain, self.long, self.next = [], [], [], 0

    def write(self, addr, who):
        for i in range(20):
            names = [f"{who}{i}.{k}" for k in range(i % 7 + 2)]
            at = send_batch(addr, "FormBatch", names)
            if at != self.next:
                check(False, f"{who}: a batch takes the next offsets", f"{at} {self.next}")
            self.batches.append((self.next, names))
            self.next += len(names)
            host = "::1" if i % 2 else "127.0.0.1"
            code = send_one(addr, "FormPlain", f"{who}{i}", "red" if i % 3 else "blue", host, f"n\x01{i}\x02w\x01{who}\x02")
            if code == 0:
                self.plain.append((f"{who}{i}", "red" if i % 3 else "blue", 5 <= i <= 8 or who == "z1", i % 2))
            if send_one(addr, LONG, f"{who}{i}", "red", host) == 0:
                self.long.append((f"{who}{i}", i % 2))
        check(len(self.plain) % 20 == 0 and len(self.long) == len(self.plain), f"{who} writes", f"{len(self.plain)} {len(self.long)}")

    def check(self, addr, what):
        max_ = int((remoting(addr, 30, {"topic": "FormBatch", "queueId": 0})[0].get("extFields") or {}).get("offset", -1))
        min_ = int((remoting(addr, 31, {"topic": "FormBatch", "queueId": 0})[0].get("extFields") or {}).get("offset", -1))
        check((min_, max_) == (0, self.next), f"{what}: bounds of the batch queue", (min_, max_, self.next))
        got = [(m["offset"], unwrapped(m["body"])) for m in pull_from(addr, "FormBatch", 0)]
        check(got == self.batches, f"{what}: {len(self.batches)} batches at their offsets", f"{got[:3]} {len(got)}")
        base, names = self.batches[len(self.batches) // 2]
        inside = [(m["offset"], unwrapped(m["body"])) for m in pull_from(addr, "FormBatch", base + 1)]
        check(inside == self.batches[len(self.batches) // 2:], f"{what}: reading from inside a batch", f"{inside[:2]}")
        for tag in ("*", "red", "blue"):
            got = [m["body"].decode() for m in pull_from(addr, "FormPlain", 0, tag)]
            want = [n for n, t, _, _ in self.plain if tag in ("*", t)]
            check(got == want, f"{what}: messages of tag {tag}", f"{len(got)} {len(want)} {got[:5]}")
        got = [m["body"].decode() for m in pull_from(addr, "FormPlain", 0, SQL, "SQL92", "CG_sql")]
        want = [n for n, _, fits, _ in self.plain if fits]
        check(got == want, f"{what}: messages of an SQL92 expression", f"{len(got)} {len(want)} {got[:5]}")
        got = [(m["body"].decode(), *hosts(m)) for m in pull_from(addr, "FormPlain", 0)]
        check(got == [(n, six, 1) for n, _, _, six in self.plain], f"{what}: IPv6 and IPv4 hosts", got[:3])
        got = [(m["body"].decode(), m["topic"], *hosts(m)) for m in pull_from(addr, LONG, 0)]
        check(got == [(n, LONG, six, 1) for n, six in self.long], f"{what}: records of a long topic", f"{len(got)} {len(self.long)} {got[:1]}")
        bad = []
        for m in pull_from(addr, LONG, 0)[::7]:
            head, body = remoting(addr, 33, {"offset": m["physical"], "topic": LONG})
            by_id = [r["body"] for r in records(body)] if head.get("code") == 0 else head
            head, body = remoting(addr, 12, {"topic": LONG, "key": "K" + m["body"].decode(), "maxNum": 32, "beginTimestamp": 0, "endTimestamp": 1 << 60}, timeout=20)
            by_key = [r["body"] for r in records(body)] if head.get("code") == 0 else head
            if by_id != [m["body"]] or by_key != [m["body"]]:
                bad.append((m["body"], by_id, by_key))
        check(not bad, f"{what}: they are found by id and by key", bad[:3])
        sealed = [m["props"].get("__CRC32#") for m in pull_from(addr, "FormPlain", 0)]
        check(all(sealed), f"{what}: all have their property CRC", sealed.count(None))


def main():
    if not apache_server("5.5.0"):
        skip("forms of the store beside Apache", "maven or javac is missing, or the registry cannot be reached")
        done()
    ports, known = (free_port(), free_port()), Known()
    ns = Zarya(broker=False).start()  # for all of them
    z = Zarya(namesrv=False, namesrv_addr=ns.ns, storage='segment_size = "1 MiB"; property_crc = true; property_crc_check = true; queue_extents = true;', ports=ports, extra_plugins='{ use = "filter-sql92"; }',
              listen=(f'"[::1]:{ports[0]}"',),
              broker_conf="enableCalcFilterBitMap = true;")
    with open(z.conf) as f:
        text = f.read()
    with open(z.conf, "w") as f:
        f.write(text.replace('ip1 = "127.0.0.1"', 'ip1 = "::1"'))
    conf = "mappedFileSizeCommitLog=1048576\nmaxMessageSize=262144\n" + FORMS

    def apache():
        a = Apache(namesrv=False, namesrv_addr=ns.ns, store=z.data, ports=ports, conf=conf)
        a.registers = f":{ports[0]}"  # it says an IPv6 address
        return a.start()

    os.makedirs(os.path.join(z.data, "config"))
    with open(os.path.join(z.data, "config/subscriptionGroup.json"), "w") as f:  # a longer name than a new group may have
        json.dump({"dataVersion": {"counter": 1, "timestamp": 1}, "subscriptionGroupTable": {LONG[7:]: {"groupName": LONG[7:], "consumeEnable": True}}}, f)
    a = apache()
    make_topic(a.addr, "FormBatch", "+queue.type=BatchCQ")
    make_topic(a.addr, "FormPlain")
    make_topic(a.addr, LONG)
    c = hold_sql(a.addr)
    known.write(a.addr, "a1")
    check_live(known, a.addr, c, "Apache")
    c.close()
    a.stop()
    BITS["CG_sql#FormPlain"] = bit_positions(z.data)
    by_apache = check_extents(z.data, known, "Apache")
    odd_documents(z.data)
    z.start()
    c = hold_sql(z.addr)
    check_live(known, z.addr, c, "Zarya after Apache")
    known.check(z.addr, "Zarya after Apache")
    known.write(z.addr, "z1")
    check_live(known, z.addr, c, "Zarya")
    wait_for(lambda: len(extents(z.data)) >= len(known.plain), 20)  # what only the stop itself writes has no bit map
    c.close()
    check(z.stop() == 0, "Zarya stops cleanly", text_of(z.log)[-500:])
    odd_kept(z.data)
    check(bit_positions(z.data) == BITS["CG_sql#FormPlain"], "the same bits", bit_positions(z.data))
    by_both = check_extents(z.data, known, "Zarya after Apache")
    check(by_apache > 0 and by_both >= by_apache + 15, "both make bit maps", (by_apache, by_both))
    a = apache()
    c = hold_sql(a.addr)
    check_live(known, a.addr, c, "Apache after Zarya")
    known.check(a.addr, "Apache after Zarya")
    known.write(a.addr, "a2")
    c.close()
    a.stop(signal.SIGKILL)
    tear_documents(z.data)
    z.start()
    check(wait_for(lambda: "were made again" in text_of(z.log), 10), "torn documents: the log tells what was done", text_of(z.log)[-500:])
    known.check(z.addr, "Zarya after a killed Apache and with torn documents")
    known.write(z.addr, "z2")
    z.kill()
    a = apache()
    c = hold_sql(a.addr)
    known.check(a.addr, "Apache after a killed Zarya")
    check_live(known, a.addr, c, "Apache after a killed Zarya")
    c.close()
    a.stop()
    check_extents(z.data, known, "Apache after a killed Zarya")
    check_tool(z.data)
    done()


if __name__ == "__main__":
    main()
