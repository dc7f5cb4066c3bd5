#!/usr/bin/env python3
"""A data directory moves between Apache (4.9.7 and 5.5.0) and Zarya, each direction and back again, after clean stops and after
kills, with small and with default segments. After each move everything that can be asked is asked: messages by queue and
offset, by id, by key (where Zarya did the recovering, or the stop was clean), offsets of groups, topics and groups, least and
greatest offsets, offsets by time. Then the new broker goes on writing.

The short form goes through one chain for each version; --full through all of them, and asks for every message."""
import os, random, sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
from zarya import *

TOPICS = {"FlipA": 4, "FlipB": 2}
GROUP = "FlipG"
SMALL_Z = 'segment_size = "1 MiB"; queue_file_size = 4000; index_slots = 1000; index_entries = 3000;'
SMALL_A = "mappedFileSizeCommitLog=1048576\nmappedFileSizeConsumeQueue=4000\nmaxHashSlotNum=1000\nmaxIndexNum=3000\nmaxMessageSize=262144\nwaitTimeMillsInSendQueue=5000"
WHOLE_A = "mappedFileSizeCommitLog=1073741824\nwaitTimeMillsInSendQueue=5000"


class Writer(threading.Thread):
    """Sends messages of many kinds, some in flight; remembers what was acknowledged: name -> (topic, queue, offset, physical)."""

    def __init__(self, addr, name, n, window=16, seed=1):
        super().__init__(daemon=True)
        self.addr, self.name_, self.n, self.window, self.rand = addr, name, n, window, random.Random(f"{name}{seed}")
        self.acked, self.refused = {}, []

    def props(self, name, keys):
        return f"UNIQ_KEY\x01U{name}\x02KEYS\x01{keys}\x02TAGS\x01t{len(name) % 3}\x02WAIT\x01true\x02"

    def body(self, name):
        size = 40000 if self.rand.random() < 0.01 else self.rand.randrange(10, 3000)
        return (name + ":" + "".join(self.rand.choice("abcdefgh") for _ in range(8)) * (size // 8 + 1))[:max(size, len(name) + 1)].encode()

    def request(self, opaque):
        topic = self.rand.choice(list(TOPICS))
        queue = self.rand.randrange(TOPICS[topic])
        head = {"a": "PG", "b": topic, "c": "TBW102", "d": 4, "e": queue, "f": 0, "g": int(time.time() * 1000), "h": 0, "j": 0, "k": "false", "m": "false"}
        if self.rand.random() < 0.05:  # a client's batch
            names = [f"{self.name_}-{opaque}.{i}" for i in range(5)]
            body = b""
            for name in names:
                p, b = self.props(name, f"K{name} common").encode(), self.body(name)
                body += struct.pack(">iiiii", 22 + len(b) + len(p), 0, 0, 0, len(b)) + b + struct.pack(">h", len(p)) + p
            return names, topic, queue, frame(320, {**head, "i": f"UNIQ_KEY\x01B{names[0]}\x02", "m": "true"}, body, opaque=opaque)
        name = f"{self.name_}-{opaque}"
        return [name], topic, queue, frame(310, {**head, "i": self.props(name, f"K{name} common")}, self.body(name), opaque=opaque)

    def run(self):
        host, port = self.addr.rsplit(":", 1)
        try:
            with socket.create_connection((host, int(port)), 5) as s:
                s.settimeout(20)
                pending, sent = {}, 0
                while sent < self.n or pending:
                    while len(pending) < self.window and sent < self.n:
                        names, topic, queue, data = self.request(sent)
                        pending[sent] = names, topic, queue
                        s.sendall(data)
                        sent += 1
                    head, _ = read_frame(s)
                    names, topic, queue = pending.pop(head["opaque"])
                    if head["code"] != 0:
                        self.refused.append((head["code"], head.get("remark")))
                        continue
                    ext = head["extFields"]
                    ids = ext["msgId"].split(",")
                    for i, name in enumerate(names):
                        self.acked[name] = topic, queue, int(ext["queueOffset"]) + i, int(ids[i][-16:], 16) if len(ids) == len(names) else -1
        except (OSError, ConnectionError, KeyError):
            pass


def ext_of(addr, code, fields):
    head, _ = remoting(addr, code, fields)
    return head.get("extFields", {}) or {}


def document(addr, code, field, names):
    """The entries of that name in one of the broker's documents."""
    try:
        return {n: json.loads(remoting(addr, code)[1] or b"{}").get(field, {}).get(n) for n in names}
    except ValueError as e:
        return {"no document": str(e)}


def picture(addr):
    """All that a broker says of the store."""
    p = {"messages": {}, "bounds": {}, "times": {}}
    for topic, queues in TOPICS.items():
        for q in range(queues):
            for m in pull_queue(addr, topic, q):
                p["messages"][topic, q, m["offset"]] = (m["physical"], m["store"], m["body"], tuple(sorted(m["props"].items())))
            p["bounds"][topic, q] = (ext_of(addr, 31, {"topic": topic, "queueId": q}).get("offset"), ext_of(addr, 30, {"topic": topic, "queueId": q}).get("offset"))
    for key, value in list(p["messages"].items())[::max(1, len(p["messages"]) // 5)]:
        p["times"][key[0], key[1], value[1]] = ext_of(addr, 29, {"topic": key[0], "queueId": key[1], "timestamp": value[1]}).get("offset")
    p["committed"] = ext_of(addr, 14, {"consumerGroup": GROUP, "topic": "FlipA", "queueId": 1}).get("offset")
    topics = document(addr, 21, "topicConfigTable", TOPICS)
    p["topics"] = {n: t and [t.get(k) for k in ("topicName", "readQueueNums", "writeQueueNums", "perm")] for n, t in topics.items()}
    groups = document(addr, 201, "subscriptionGroupTable", [GROUP])
    p["groups"] = {n: g and [g.get(k) for k in ("groupName", "consumeEnable", "retryQueueNums", "retryMaxTimes", "brokerId")] for n, g in groups.items()}
    return p


def same(before, now, what, killed, old):
    """What was seen before is there unchanged; unless killed in the middle of a sending, nothing is new either. 4.9.7 (old)
    gives some message of that millisecond for a time, not the first."""
    a, b = before["messages"], now["messages"]
    lost, other = [k for k in a if k not in b], [k for k in a if k in b and a[k] != b[k]]
    check(not lost and not other, f"{what}: {len(a)} messages are there unchanged", f"lost {lost[:5]} ({len(lost)}), other {[(k, a[k], b[k]) for k in other[:1]]} ({len(other)})")
    for k in ("committed", "topics", "groups") + (() if killed else ("bounds",) if old else ("bounds", "times")):
        check(before[k] == now[k], f"{what}: {k} equal", f"{before[k]} / {now[k]}")


def acked_there(now, writers, what):
    bad, seen = [], {}
    for (topic, q, off), m in now["messages"].items():
        seen.setdefault(m[2].split(b":")[0].decode(), []).append((topic, q, off, m[0]))
    n = 0
    for w in writers:
        for name, place in w.acked.items():
            n += 1
            at = seen.get(name, [])
            if len(at) != 1 or at[0][:3] != place[:3] or (place[3] >= 0 and at[0][3] != place[3]):
                bad.append((name, place, at))
    per = {}
    for topic, q, off in now["messages"]:
        per.setdefault((topic, q), []).append(off)
    gaps = [k for k, offs in per.items() if sorted(offs) != list(range(min(offs), max(offs) + 1))]
    check(n and not bad and not gaps, f"{what}: {n} acknowledged messages are there, once, at their places, without gaps", f"{bad[:4]} ({len(bad)}), gaps {gaps}")


def ids_and_keys(addr, now, what, keys, once, few=40):
    """Messages by id, and by both kinds of keys. once: a record is found once; Apache, which after a kill puts the last record of an
    index file into it again, gives that one twice from then on."""
    items = list(now["messages"].items())
    some = items if FULL else items[::max(1, len(items) // few)]
    bad = []
    c = Conn(addr)
    for (topic, q, off), m in some:
        c.seen.clear()
        head, body = c.ask(33, {"offset": m[0], "topic": topic})
        got = records(body) if head.get("code") == 0 else []
        if len(got) != 1 or got[0]["body"] != m[2] or got[0]["offset"] != off:
            bad.append((topic, q, off, head.get("code")))
    check(not bad, f"{what}: {len(some)} messages by id", f"{bad[:5]} ({len(bad)})")
    bad = []
    for (topic, q, off), m in some if keys else []:
        props = dict(m[3])
        for key, unique in ((props["UNIQ_KEY"], "true"), (props["KEYS"].split()[0], "false")):
            c.seen.clear()
            head, body = c.ask(12, {"topic": topic, "key": key, "maxNum": 32, "beginTimestamp": 0, "endTimestamp": 1 << 60, "_UNIQUE_KEY_QUERY": unique}, seconds=20)
            found = [r["physical"] for r in records(body)] if head.get("code") == 0 else []
            if found.count(m[0]) != 1 and (once or m[0] not in found):
                bad.append((key, q, off, head.get("code"), found))
    if keys:
        check(not bad, f"{what}: {len(some)} messages by both keys", f"{bad[:5]} ({len(bad)})")
    c.close()


def commit(addr, offset):
    """The group is made by a heartbeat, as a client would, and commits."""
    beat = {"clientID": "127.0.0.1@flip", "producerDataSet": [], "consumerDataSet": [
        {"groupName": GROUP, "consumeType": "CONSUME_PASSIVELY", "messageModel": "CLUSTERING", "consumeFromWhere": "CONSUME_FROM_LAST_OFFSET", "unitMode": False,
         "subscriptionDataSet": [{"topic": "FlipA", "subString": "*", "tagsSet": [], "codeSet": [], "subVersion": 1, "expressionType": "TAG", "classFilterMode": False}]}]}
    remoting(addr, 34, {}, json.dumps(beat).encode())
    head, _ = remoting(addr, 15, {"consumerGroup": GROUP, "topic": "FlipA", "queueId": 1, "commitOffset": offset})
    if head.get("code") != 0:
        check(False, f"group offset {offset} is taken", head)


GONE = ("FlipGone", "FlipAgain")


def send_some(addr, topic, queue, n):
    """The offsets that they got."""
    fields = {"a": "PG", "b": topic, "c": "TBW102", "d": 4, "e": queue, "f": 0, "g": 1, "h": 0, "i": "", "j": 0}
    heads = [remoting(addr, 310, fields, b"some")[0] for _ in range(n)]
    return [int((h.get("extFields") or {}).get("queueOffset", -1)) for h in heads]


def delete(addr):
    """Both topics are deleted; the second is made again, and gets a message in its first queue."""
    for topic in GONE:
        remoting(addr, 215, {"topic": topic})
    create_topic(addr, GONE[1])
    wait_for(lambda: send_some(addr, GONE[1], 0, 1) == [0], 10)


def deleted_there(addr, what):
    """A topic that was deleted does not come back: made again it has nothing of what it had, and begins at 0."""
    create_topic(addr, GONE[0])
    found = {t: {q: [m["offset"] for m in list_] for q, list_ in pull_all(addr, t).items()} for t in GONE}
    check(not any(found[GONE[0]].values()), f"{what}: a topic that Apache deleted is empty", found[GONE[0]])
    check(found[GONE[1]] == {0: [0], 1: [], 2: [], 3: []}, f"{what}: a topic that Apache made again has what it got since", found[GONE[1]])
    check(send_some(addr, GONE[0], 2, 1) == [0] and send_some(addr, GONE[1], 0, 1) == [1], f"{what}: their offsets begin anew")


class Chain:
    """One directory and the brokers that take turns on it. Stops: "stop", "kill" (when all was answered), "cut" (in the middle)."""

    def __init__(self, version, small, n):
        self.version, self.small, self.n = version, small, n
        self.ports = (free_port(), free_port())
        self.ns = Zarya(broker=False).start()  # for all turns
        self.z = Zarya(storage=SMALL_Z if small else "", ports=self.ports, namesrv=False, namesrv_addr=self.ns.ns)
        self.writers, self.before, self.how, self.round = [], None, "stop", 0
        self.deleted = False  # Apache deleted topics in its last turn

    def start(self, who):
        if who == "Z":
            return self.z.start()
        return Apache(version=self.version, store=self.z.data, ports=self.ports, conf=SMALL_A if self.small else WHOLE_A,
                      namesrv=False, namesrv_addr=self.ns.ns).start()

    def turn(self, who, how):
        """The broker `who` starts, is asked, writes, and ends by `how`."""
        what = f"{'small' if self.small else 'default'} segments, {self.version}, {self.round}: {'Zarya' if who == 'Z' else 'Apache'} after {self.how}"
        b = self.start(who)
        if self.round == 0:
            check(all(create_topic(b.addr, t, q) for t, q in TOPICS.items()), f"{what}: topics created")
        else:
            now = picture(b.addr)
            same(self.before, now, what, self.how == "cut", self.version == "4.9.7")
            acked_there(now, self.writers, what)
            ids_and_keys(b.addr, now, what, who == "Z" or self.how == "stop", who == "Z")
        if who == "Z" and self.deleted:
            deleted_there(b.addr, what)
        self.deleted = who == "A" and how == "stop"
        for topic, q in ((t, q) for t in GONE for q in range(4)):
            if q == 0:
                create_topic(b.addr, topic)
            send_some(b.addr, topic, q, 12)
        if self.deleted:
            delete(b.addr)
        w = Writer(b.addr, f"{who}{self.round}", self.n)
        w.start()
        w.join(90)
        check(len(w.acked) >= self.n and not w.refused, f"{what}: goes on writing", f"{len(w.acked)} {w.refused[:3]}")
        self.writers.append(w)
        self.round += 1
        commit(b.addr, 5 * self.round)
        if how != "stop":  # group offsets are written every 5 s; a kill takes what is newer
            wait_for(lambda: f":{5 * self.round}" in text_of(os.path.join(self.z.data, "config/consumerOffset.json")).replace(" ", ""), 12, 0.2)
        self.before = picture(b.addr)
        if how == "cut":
            w = Writer(b.addr, f"{who}cut{self.round}", 100000)
            w.start()
            wait_for(lambda: len(w.acked) > self.n // 2, 30, 0.001)
            self.writers.append(w)
        ended = b.stop() if how == "stop" else b.stop(signal.SIGKILL)
        if how == "cut":
            w.join(30)
        if who == "Z" and how == "stop":
            check(ended == 0, f"{what}: stops cleanly", text_of(self.z.log)[-800:])
        self.how = how

    def end(self):
        self.z.stop()
        self.ns.stop()


def chain(version, small, turns, n):
    c = Chain(version, small, n)
    try:
        for turn in turns.split():
            c.turn(turn[0], turn[2:])
    finally:
        c.end()


def main():
    both = "Z-stop A-stop Z-kill A-kill Z-cut A-cut Z-stop A-kill Z-kill Z-stop"
    for version in ("5.5.0", "4.9.7"):
        if not apache_server(version):
            skip(f"flips between Apache {version} and Zarya", "maven or javac is missing, or the registry cannot be reached")
            continue
        if not FULL:
            chain(version, True, "Z-stop A-kill Z-kill A-stop Z-stop" if version == "5.5.0" else "A-stop Z-cut A-cut Z-stop", 800)
            continue
        for small in (True, False):
            chain(version, small, both, 3000)
            chain(version, small, "A-stop " + both, 3000)
    done()


if __name__ == "__main__":
    main()
