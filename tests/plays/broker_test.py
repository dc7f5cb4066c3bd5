#!/usr/bin/env python3
"""Protocol facts that clients depend on, by hand-made frames: codes, remarks, which ext fields an answer has, order on one
connection, long polling, offsets, groups, retries, restart. The same frames then go to Apache's broker 5.5.0, and every recorded
answer must have the same code and the same ext fields.

broker_test.py --apache: only Apache's broker, against the facts (is the test right?)."""
import os, sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
from zarya import *

SEND_EXT = {"queueId", "transactionId", "msgId", "TRACE_ON", "MSG_REGION", "queueOffset"}
PULL_EXT = {"suggestWhichBrokerId", "groupSysFlag", "nextBeginOffset", "maxOffset", "minOffset", "topicSysFlag"}
ONEWAY = 2


class Facts:
    def __init__(self, server, ours):
        self.s, self.ours, self.who, self.seen = server, ours, "ours" if ours else "Apache's", {}
        self.mirrors = 1 if ours else 0  # Apache 5.x answers binary headers with its own kind, JSON; 4.9 mirrored them
        self.c, self.ns = Conn(server.addr), Conn(server.ns)

    def check(self, ok, what, why=""):
        return check(ok, what + ("" if self.ours else " (Apache)"), why)

    def ask(self, label, code, ext=None, body=b"", conn=None, **more):
        """A request whose code and ext fields are compared with Apache's under the label."""
        head, answer = (conn or self.c).ask(code, ext, body, **more)
        self.seen[label] = (head.get("code"), frozenset(head.get("extFields") or {}))
        return head, answer

    def topic(self, name, queues=4, perm=6):
        head, _ = self.c.ask(17, {"topic": name, "defaultTopic": "TBW102", "readQueueNums": queues, "writeQueueNums": queues, "perm": perm,
                                  "topicFilterType": "SINGLE_TAG", "topicSysFlag": 0, "order": "false"})
        if head.get("code") != 0:
            check(False, f"topic {name} is made by code 17 ({self.who})", head)
        return name

    def send(self, topic, queue=0, body=b"body", tag="TagA", conn=None, **more):
        c = conn or self.c
        props = f"UNIQ_KEY\x01{os.urandom(16).hex().upper()}\x02WAIT\x01true\x02TAGS\x01{tag}\x02"
        return c.ask(310, {"a": "PG", "b": topic, "c": "TBW102", "d": 4, "e": queue, "f": 0, "g": int(time.time() * 1000), "h": 0, "i": props, "j": 0,
                           "k": "false", "m": "false", "n": "broker-a"}, body, **more)

    def sent(self, topic, queue=0, n=1, **more):
        """n messages stored, and to be seen by pulls."""
        for _ in range(n):
            head, _ = self.send(topic, queue, **more)
            if head.get("code") != 0:
                check(False, f"a message for {topic} is stored ({self.who})", head)
                return
        want = int(head["extFields"]["queueOffset"]) + 1
        wait_for(lambda: int(self.c.ask(30, {"topic": topic, "queueId": queue})[0]["extFields"]["offset"]) >= want, 10)

    def pull_ext(self, topic, group, queue=0, offset=0, **more):
        return {"consumerGroup": group, "topic": topic, "queueId": queue, "queueOffset": offset, "maxMsgNums": 32, "sysFlag": 4, "commitOffset": 0,
                "suspendTimeoutMillis": 1000, "subscription": "*", "subVersion": 1, "expressionType": "TAG", **more}

    def pull(self, label, topic, group="CG", queue=0, offset=0, conn=None, **more):
        return self.ask(label, 11, self.pull_ext(topic, group, queue, offset, **more), conn=conn)


def beat(client, group=None, topic=None, producer=None, sub="*", version=1, v2=True):
    d = {"clientID": client, "consumerDataSet": [], "producerDataSet": []}
    if v2:
        d.update(heartbeatFingerprint=0, withoutSub=False)
    if producer:
        d["producerDataSet"].append({"groupName": producer})
    if group:
        tags = [] if sub == "*" else [t.strip() for t in sub.split("||")]
        codes = [java_hash(t) for t in tags]
        subs = [{"classFilterMode": False, "codeSet": codes, "expressionType": "TAG", "subString": sub, "subVersion": version, "tagsSet": tags, "topic": topic},
                {"classFilterMode": False, "codeSet": [], "expressionType": "TAG", "subString": "*", "subVersion": version, "tagsSet": [], "topic": "%RETRY%" + group}]
        d["consumerDataSet"].append({"consumeFromWhere": "CONSUME_FROM_FIRST_OFFSET", "consumeType": "CONSUME_PASSIVELY", "groupName": group,
                                     "messageModel": "CLUSTERING", "subscriptionDataSet": subs, "unitMode": False})
    return json.dumps(d).encode()


def java_hash(text):
    h = 0
    for c in text:
        h = (31 * h + ord(c)) & 0xFFFFFFFF
    return h - (1 << 32) if h >> 31 else h


# ---- name server ----

def routes(f):
    t = f.topic("RouteT")
    wait_for(lambda: f.ns.ask(105, {"topic": t})[0].get("code") == 0, 10)
    for version, extra, quoted in ((400, {}, False), (401, {}, True), (513, {}, True), (400, {"acceptStandardJsonOnly": "true"}, True)):
        head, body = f.ask(f"route {version} {extra}", 105, {"topic": t, **extra}, conn=f.ns, version=version)
        key = b'"0":"' if quoted else b'{0:"'
        f.check(head.get("code") == 0 and b'"brokerAddrs":{' in body and key + f.s.addr.encode() in body,
                f"a route for version {version}{' that wants standard JSON' if extra else ''} has {'quoted' if quoted else 'bare'} keys", body)
    d = json.loads(body)
    f.check(d["queueDatas"] == [{"brokerName": "broker-a", "perm": 6, "readQueueNums": 4, "topicSysFlag": 0, "writeQueueNums": 4}] and
            set(d) == {"brokerDatas", "filterServerTable", "queueDatas"} and set(d["brokerDatas"][0]) == {"brokerAddrs", "brokerName", "cluster", "enableActingMaster"},
            "a route has the members that clients know", d)
    head, _ = f.ask("route of an unknown topic", 105, {"topic": "NoSuchT"}, conn=f.ns)
    f.check(head.get("code") == 17 and head.get("remark", "").startswith("No topic route info in name server for the topic: NoSuchT\n"),
            "a route of an unknown topic: 17, named", head)
    head, body = f.ask("cluster list", 106, conn=f.ns)
    f.check(b'{0:"' in body, "the cluster list always has bare keys", body)
    head, body = f.ask("route of TBW102", 105, {"topic": "TBW102"}, conn=f.ns)
    d = json.loads(body)
    f.check(d["queueDatas"][0]["perm"] == 7 and d["queueDatas"][0]["readQueueNums"] == 8, "TBW102: inheritable, 8 queues", d)
    first, _ = f.ns.ask(105, {"topic": "NoSuchT"})
    f.check(first["flag"] & 1, "an answer is marked as one", first)


# ---- sends ----

def sends(f):
    t = f.topic("SendT")
    head, _ = f.send(t, 1)
    f.seen["send"] = (head["code"], frozenset(head["extFields"]))
    ext = head["extFields"]
    f.check(head["code"] == 0 and set(ext) >= SEND_EXT and ext["queueId"] == "1" and ext["queueOffset"] == "0" and ext["TRACE_ON"] == "true" and
            ext["MSG_REGION"] == "DefaultRegion" and re.fullmatch("[0-9A-F]{32}", ext["msgId"]), "a send is answered with its place and id", head)
    f.check(bytes.fromhex(ext["msgId"])[:4] == b"\x7f\0\0\1" and int(ext["msgId"][8:16], 16) == f.s.port, "the id holds the broker's address and port", ext)
    long = {"producerGroup": "PG", "topic": t, "defaultTopic": "TBW102", "defaultTopicQueueNums": 4, "queueId": 1, "sysFlag": 0, "bornTimestamp": 1, "flag": 0,
            "properties": "WAIT\x01true\x02", "reconsumeTimes": 0, "unitMode": "false", "batch": "false"}
    head, _ = f.ask("send, code 10", 10, long, b"x")
    f.check(head.get("code") == 0 and head["extFields"]["queueOffset"] == "1" and head["extFields"]["transactionId"], "code 10 with long names; a unique key is made", head)
    opaque = 77
    raw = json.dumps({"code": 10, "flag": 0, "language": "CPP", "opaque": opaque, "serializeTypeCurrentRPC": "JSON", "version": 63, "remark": "",
                      "extFields": {**long, "queueId": 0, "defaultTopicQueueNums": 4, "flag": 0, "batch": "1", "Signature": "s", "AccessKey": "a", "OnsChannel": "ALIYUN"}}).encode()
    f.c.sock.sendall(struct.pack(">ii", 4 + len(raw) + 1, len(raw)) + raw + b"x")
    head, _ = f.c.answer(opaque)
    f.check(head.get("code") == 0 and head["extFields"]["queueId"] == "0", "the C++ client's header: numbers that are numbers, foreign fields, \"batch\":\"1\" is no batch", head)
    head, _ = f.send(t, -1)
    f.check(head.get("code") == 0 and 0 <= int(head["extFields"]["queueId"]) < 4, "queue -1 becomes one of the topic's", head)
    head, _ = f.send(t, 9)
    f.seen["send to queue 9"] = (head["code"], frozenset(head.get("extFields") or {}))
    f.check(head["code"] == 29 and head.get("remark", "").startswith("request queueId[9] is illegal, TopicConfig [topicName=SendT, readQueueNums=4, writeQueueNums=4, perm=RW-"),
            "a queue beyond the topic's: 29, with the topic's configuration", head)
    head, _ = f.send("AutoT", 3)
    f.check(head["code"] == 0, "a send makes an unknown topic", head)
    route = wait_for(lambda: f.ns.ask(105, {"topic": "AutoT"})[1], 2)
    f.check(route and json.loads(route)["queueDatas"][0]["writeQueueNums"] == 4 and json.loads(route)["queueDatas"][0]["perm"] == 6, "with 4 queues, and the name server knows", route)
    head, _ = f.ask("send to a wrong topic name", 310, {"a": "PG", "b": "no/such", "c": "TBW102", "d": 4, "e": 0, "f": 0, "g": 1, "h": 0, "i": ""}, b"x")
    f.check(head.get("code") == 29, "a topic name with a slash: 29", head)
    head, _ = f.ask("send of 4 MiB + 1", 310, {"a": "PG", "b": t, "c": "TBW102", "d": 4, "e": 0, "f": 0, "g": 1, "h": 0, "i": ""}, bytes(4 * 1024 * 1024 + 1))
    f.check(head.get("code") == 13 and head.get("remark"), "a body beyond maxMessageSize: 13", head)
    before = len(f.c.seen)
    o = f.c.send(310, {"a": "PG", "b": t, "c": "TBW102", "d": 4, "e": 2, "f": 0, "g": 1, "h": 0, "i": "TAGS\x01TagB\x02", "j": 0}, b"oneway", flag=ONEWAY)
    f.c.ask(30, {"topic": t, "queueId": 2})
    f.check(not any(h["opaque"] == o for h, _ in f.c.seen[before:]), "a oneway send has no answer")
    f.check(wait_for(lambda: f.c.ask(30, {"topic": t, "queueId": 2})[0]["extFields"]["offset"] != "0", 5), "and is stored")


def batch_body(bodies):
    out = b""
    for i, b in enumerate(bodies):
        props = f"KEYS\x01k{i}\x02UNIQ_KEY\x01{os.urandom(16).hex().upper()}\x02WAIT\x01true\x02TAGS\x01TagA\x02".encode()
        out += struct.pack(">iiiii", 22 + len(b) + len(props), 0, 0, 0, len(b)) + b + struct.pack(">h", len(props)) + props
    return out


def batches(f):
    t = f.topic("BatchT", 1)
    base = {"a": "PG", "b": t, "c": "TBW102", "d": 4, "e": 0, "f": 0, "g": 1, "h": 0, "j": 0, "k": "false", "m": "true"}
    head, _ = f.ask("batch of 5.x", 320, {**base, "i": "UNIQ_KEY\x01ABCD0123\x02WAIT\x01true\x02"}, batch_body([b"one", b"two", b"three"]))
    ids = head.get("extFields", {}).get("msgId", "").split(",")
    f.check(head.get("code") == 0 and len(set(ids)) == 3 and head["extFields"]["queueOffset"] == "0" and head["extFields"].get("transactionId") == "ABCD0123",
            "a batch is answered with an id for each message and the first offset", head)
    head, _ = f.ask("batch of 4.9.8", 320, {**base, "i": "WAIT\x01true"}, batch_body([b"four", b"five"]))
    f.check(head.get("code") == 0 and head["extFields"]["queueOffset"] == "3" and "transactionId" not in head["extFields"], "a batch of 4.9.8 has no unique key of its own", head)
    wait_for(lambda: f.c.ask(30, {"topic": t, "queueId": 0})[0]["extFields"]["offset"] == "5", 5)
    head, body = f.pull("pull of batches", t)
    got = records(body)
    f.check([m["body"] for m in got] == [b"one", b"two", b"three", b"four", b"five"] and [m["offset"] for m in got] == list(range(5)) and
            got[0]["props"]["KEYS"] == "k0" and got[1]["props"]["KEYS"] == "k1", "batches are stored as single messages in order", got)
    f.check([f"{int(i[16:], 16)}" for i in ids] == [str(m["physical"]) for m in got[:3]], "their ids hold their places in the log", ids)


# ---- groups and offsets ----

def heartbeats(f):
    t = f.topic("BeatT")
    a, b, n = Conn(f.s.addr), Conn(f.s.addr), len(f.ns.seen)
    head, _ = f.ask("first heartbeat", 34, {}, beat("client-a", "BeatG", t, "PGa"), conn=a)
    f.check(head.get("code") == 0 and (head.get("extFields") or {}).get("IS_SUPPORT_HEART_BEAT_V2") == "true" and head["extFields"].get("IS_SUB_CHANGE") == "true",
            "a heartbeat's answer has its two fields", head)
    route, _ = f.ns.ask(105, {"topic": "%RETRY%BeatG"})
    f.check(route.get("code") == 0, "the group's retry topic is in the name server as soon as the heartbeat is answered", route)
    pushed = a.pushed(40, 2)
    f.check(pushed and pushed[0][0]["flag"] == ONEWAY and pushed[0][0]["extFields"]["consumerGroup"] == "BeatG", "the group is told of its new member, one way", pushed)
    f.check([h["flag"] & 1 for h, _ in a.seen][:2] == [0, 1], "before the heartbeat is answered", a.seen)
    head, body = f.ask("consumer list", 38, {"consumerGroup": "BeatG"}, conn=a)
    f.check(head.get("code") == 0 and json.loads(body) == {"consumerIdList": ["client-a"]}, "the list holds whoever asks", body)
    head, _ = f.ask("consumer list of nobody", 38, {"consumerGroup": "NobodyG"}, conn=a)
    f.check(head.get("code") == 1 and "NobodyG" in head.get("remark", ""), "the list of an unknown group: 1", head)
    a.seen.clear()
    head, _ = f.ask("heartbeat of 4.9", 34, None, beat("client-b", "BeatG", t, "PGb", v2=False), conn=b, version=409)
    f.check(head.get("code") == 0, "a heartbeat of 4.9, without ext", head)
    f.check(a.pushed(40, 2), "an old member hears of a new one", a.seen)
    _, body = a.ask(38, {"consumerGroup": "BeatG"})
    f.check(set(json.loads(body)["consumerIdList"]) == {"client-a", "client-b"}, "both are listed", body)
    a.seen.clear()
    head, _ = a.ask(34, {}, beat("client-a", "BeatG", t, "PGa"))
    f.check(head.get("code") == 0 and not a.pushed(40, 0.3), "a heartbeat that changes nothing tells nobody", a.seen)
    b.close()
    f.check(a.pushed(40, 5), "the end of a connection is told to the others", a.seen)
    gone = wait_for(lambda: json.loads(a.ask(38, {"consumerGroup": "BeatG"})[1]) == {"consumerIdList": ["client-a"]}, 5)
    f.check(gone, "and its client is no longer listed")
    head, _ = f.ask("unregister", 35, {"clientID": "client-a", "consumerGroup": "BeatG", "producerGroup": "PGa"}, conn=a)
    f.check(head.get("code") == 0, "a client takes itself off", head)
    head, _ = a.ask(38, {"consumerGroup": "BeatG"})
    f.check(head.get("code") == 1, "and a group without members has no list", head)
    head, _ = f.ask("heartbeat that is none", 34, {}, b"no json", conn=a)
    f.check(head.get("code") == 1, "a heartbeat that is no JSON: 1", head)
    a.close()


def offsets(f):
    t, g = f.topic("OffT"), "OffG"
    q = {"consumerGroup": g, "topic": t, "queueId": 0}
    head, _ = f.ask("offset of an unknown group", 15, {**q, "commitOffset": 3})
    f.check(head.get("code") == 26 and g in head.get("remark", ""), "a commit for a group without heartbeat: 26", head)
    c = Conn(f.s.addr)
    c.ask(34, {}, beat("client-o", g, t))
    head, _ = f.ask("query offset, empty queue", 14, q)
    f.check(head.get("code") == 22 and head.get("remark", "").startswith("Not found"), "the offset of a queue without messages: 22", head)
    f.sent(t, 0, 3)
    head, _ = f.ask("query offset, young queue", 14, q)
    f.check(head.get("code") == 0 and head["extFields"] == {"offset": "0"}, "the offset of a young queue: 0", head)
    head, _ = f.ask("query offset, not zero", 14, {**q, "setZeroIfNotFound": "false"})
    f.check(head.get("code") == 22, "unless the client says not to: 22", head)
    head, _ = f.ask("commit", 15, {**q, "commitOffset": 2})
    f.check(head.get("code") == 0, "a commit", head)
    head, _ = f.ask("query offset, committed", 14, q)
    f.check(head.get("extFields") == {"offset": "2"}, "is read back", head)
    before = len(f.c.seen)
    o = f.c.send(15, {**q, "commitOffset": 1}, flag=ONEWAY)
    got = wait_for(lambda: f.c.ask(14, q)[0].get("extFields") == {"offset": "1"}, 5)
    f.check(got and not any(h["opaque"] == o for h, _ in f.c.seen[before:]), "a oneway commit has no answer and holds, also backwards", head)
    head, _ = f.ask("commit for an unknown topic", 15, {**q, "topic": "NoSuchT", "commitOffset": 2})
    f.check(head.get("code") == 17, "a commit for an unknown topic: 17", head)
    head, _ = f.pull("pull that commits", t, g, 0, 3, sysFlag=5, commitOffset=3)
    head, _ = f.c.ask(14, q)
    f.check(head.get("extFields") == {"offset": "3"}, "a pull commits the offset it carries", head)
    for label, code, extra, want in (("max offset", 30, {}, "3"), ("min offset", 31, {}, "0"), ("search by time 0", 29, {"timestamp": 0}, "0"),
                                     ("search beyond the end", 29, {"timestamp": 4102444800000}, "3")):
        head, _ = f.ask(label, code, {"topic": t, "queueId": 0, **extra})
        f.check(head.get("code") == 0 and head["extFields"]["offset"] == want, f"{label}: {want}", head)
    head, _ = f.ask("earliest store time", 32, {"topic": t, "queueId": 0})
    f.check(head.get("code") == 0 and abs(int(head["extFields"]["timestamp"]) - time.time() * 1000) < 60000, "the earliest message's store time", head)
    c.close()


# ---- pulls ----

def pulls(f):
    t, g = f.topic("PullT"), "PullG"
    head, _ = f.pull("pull of an empty queue", t, g)
    f.check(head.get("code") == 19 and head["extFields"]["nextBeginOffset"] == "0", "an empty queue from 0: 19", head)
    head, _ = f.pull("pull of an empty queue from 5", t, g, 0, 5)
    f.check(head.get("code") == 21 and head["extFields"]["nextBeginOffset"] == "0", "an empty queue from 5: 21 to 0", head)
    f.sent(t, 0, 2)
    f.sent(t, 0, 1, tag="TagB")
    head, body = f.pull("pull", t, g)
    got = records(body)
    f.check(head.get("code") == 0 and head.get("remark") == "FOUND" and set(head["extFields"]) == PULL_EXT and head["extFields"]["nextBeginOffset"] == "3" and
            head["extFields"]["maxOffset"] == "3" and head["extFields"]["minOffset"] == "0" and head["extFields"]["suggestWhichBrokerId"] == "0", "FOUND and its six fields", head)
    f.check([(m["offset"], m["topic"], m["queue"], m["props"]["TAGS"]) for m in got] == [(0, t, 0, "TagA"), (1, t, 0, "TagA"), (2, t, 0, "TagB")] and
            got[0]["props"]["CLUSTER"] == "DefaultCluster" and got[0]["props"]["MSG_REGION"] == "DefaultRegion", "records carry their places and properties", got)
    head, body = f.pull("pull with a tag", t, g, subscription="TagB")
    f.check(head.get("code") == 0 and [m["offset"] for m in records(body)] == [2] and head["extFields"]["nextBeginOffset"] == "3", "a tag leaves others out", head)
    head, _ = f.pull("pull with an unmatched tag", t, g, subscription="TagX")
    f.check(head.get("code") == 20 and head["extFields"]["nextBeginOffset"] == "3", "nothing matches: 20, moved on", head)
    head, _ = f.pull("pull at the end", t, g, 0, 3)
    f.check(head.get("code") == 19 and head["extFields"]["nextBeginOffset"] == "3", "at the end: 19", head)
    head, _ = f.pull("pull beyond the end", t, g, 0, 4)
    f.check(head.get("code") == 21 and head["extFields"]["nextBeginOffset"] == "3", "beyond the end: 21, back to it", head)
    head, _ = f.pull("pull of queue 4", t, g, 4)
    f.check(head.get("code") == 29 and "4" in head.get("remark", ""), "a queue beyond the topic's: 29", head)
    head, _ = f.pull("pull of an unknown topic", "NoSuchT", g)
    f.check(head.get("code") == 17 and "NoSuchT" in head.get("remark", ""), "an unknown topic: 17", head)
    head, _ = f.pull("pull without subscription or group", t, "NotBeatenG", sysFlag=0)
    f.check(head.get("code") == 24, "without a subscription and without heartbeat: 24", head)
    c = Conn(f.s.addr)
    c.ask(34, {}, beat("client-p", g, t, sub="TagB", version=5))
    head, body = f.pull("pull by the heartbeat's subscription", t, g, conn=c, sysFlag=0, subVersion=5)
    f.check(head.get("code") == 0 and [m["offset"] for m in records(body)] == [2], "the heartbeat's subscription counts when the pull has none", head)
    head, body = f.pull(NEWER_TAGS, t, g, conn=c, sysFlag=0, subVersion=6)
    if f.ours:
        f.check(head.get("code") == 0 and [m["offset"] for m in records(body)] == [0, 1, 2], "tags newer than the heartbeat's: all, for the client to look at", head)
    head, _ = f.pull("pull with a newer subscription of SQL92", t, g, conn=c, sysFlag=0, subVersion=6, expressionType="SQL92")
    f.check(head.get("code") == 25, "another kind of subscription newer than the heartbeat's: 25", head)
    c.ask(34, {}, beat("client-p", g, t, sub="TagB", version=6))
    head, body = f.pull("pull by the newer heartbeat", t, g, conn=c, sysFlag=0, subVersion=6)
    f.check(head.get("code") == 0 and [m["offset"] for m in records(body)] == [2], "and its tags alone when the heartbeat came", head)
    head, _ = f.pull("pull without its subscription", "SendT", g, conn=c, sysFlag=0, subVersion=5)
    f.check(head.get("code") == 24, "a topic that the group does not subscribe: 24", head)
    c.close()
    head, _ = f.pull("pull of 1", t, g, maxMsgNums=1)
    f.check(head.get("code") == 0 and head["extFields"]["nextBeginOffset"] == "1", "maxMsgNums counts", head)


def held(f):
    t, g, late = f.topic("HeldT"), "HeldG", 0.8 if f.ours else 6.0
    c = Conn(f.s.addr)

    def hold(*args, **more):
        """A pull that is held: a later request on the same connection is answered. Its opaque."""
        opaque = c.send(11, f.pull_ext(*args, sysFlag=6, suspendTimeoutMillis=20000, **more))
        c.ask(30, {"topic": t, "queueId": 0})
        return opaque

    began = time.time()
    head, _ = f.pull("held pull, nothing comes", t, g, conn=c, sysFlag=6, suspendTimeoutMillis=1000)
    took = time.time() - began
    f.check(head.get("code") == 19 and 0.95 <= took <= 1.0 + late and set(head["extFields"]) == PULL_EXT, "a held pull ends with 19 when its time is over", f"{took:.3f} s {head}")
    held = c.send(11, f.pull_ext(t, g, sysFlag=6, suspendTimeoutMillis=20000))
    head, _ = c.ask(30, {"topic": t, "queueId": 0})
    f.check(head.get("code") == 0 and c.answer(held, 0.1)[0] == {}, "a later request on the same connection is answered before a held pull", head)
    head, _ = f.send(t, 0, b"wake", conn=c)
    f.check(head.get("code") == 0, "and a send on it too", head)
    began = time.time()
    head, body = c.answer(held, 5)
    took = time.time() - began
    f.check(head.get("code") == 0 and [m["body"] for m in records(body)] == [b"wake"] and took < 1, "a message wakes a held pull within the second", f"{took:.3f} s {head}")
    if f.ours:  # Apache looks at held pulls every 5 s without knowing tags, and ends them early
        held = hold(t, g, 0, 1, subscription="TagB")
        f.send(t, 0, b"other", tag="TagA")
        f.check(c.answer(held, 0.5)[0] == {}, "a message of another tag does not", c.seen)
        f.send(t, 0, b"mine", tag="TagB")
        head, body = c.answer(held, 5)
        f.check(head.get("code") == 0 and [m["body"] for m in records(body)] == [b"mine"], "one of its tag does", head)
    held = hold(t, g, 1, 0)
    f.send(t, 2, b"elsewhere")
    f.check(c.answer(held, 0.3)[0] == {}, "a message of another queue wakes nobody", c.seen)
    c.close()
    f.check(f.send(t, 1, b"into the void")[0].get("code") == 0, "a held pull whose connection ended is no trouble")


# ---- headers, codes, ports ----

def headers(f):
    t = f.topic("HeadT")
    head, _ = f.ask("binary max offset", 30, {"topic": t, "queueId": 0}, binary=True)
    f.check(head.get("code") == 0 and head["serialize"] == f.mirrors and head["extFields"] == {"offset": "0"}, "a binary header is answered with one", head)
    head, _ = f.ask("binary send", 310, {"a": "PG", "b": t, "c": "TBW102", "d": 4, "e": 0, "f": 0, "g": 1, "h": 0, "i": "TAGS\x01TagA\x02", "j": 0}, b"\0binary\xff", binary=True)
    f.check(head.get("code") == 0 and head["serialize"] == f.mirrors and set(head["extFields"]) >= SEND_EXT, "a binary send", head)
    wait_for(lambda: f.c.ask(30, {"topic": t, "queueId": 0})[0]["extFields"]["offset"] == "1", 5)
    head, body = f.c.ask(11, f.pull_ext(t, "HeadG"), binary=True)
    f.check(head.get("code") == 0 and head["serialize"] == f.mirrors and [m["body"] for m in records(body)] == [b"\0binary\xff"], "a binary pull, body untouched", head)
    head, _ = f.ask("binary, unknown topic", 310, {"a": "PG", "b": "no/such", "c": "TBW102", "d": 4, "e": 0, "f": 0, "g": 1, "h": 0, "i": ""}, b"x", binary=True)
    f.check(head.get("code") == 29 and head["serialize"] == f.mirrors and head.get("remark"), "a binary refusal has its remark", head)
    head, _ = f.ask("JSON after binary", 30, {"topic": t, "queueId": 0})
    f.check(head.get("serialize") == 0 and head["extFields"] == {"offset": "1"}, "each answer has its request's header", head)
    head, _ = f.ns.ask(105, {"topic": t}, binary=True)
    f.check(head.get("code") == 0 and head["serialize"] == f.mirrors, "the name server answers binary headers too", head)
    for code in (9999, 299999):
        head, _ = f.ask(f"code {code}", code, {})
        f.check(head.get("code") == 3 and str(code) in head.get("remark", ""), f"code {code}: 3, named", head)
    head, _ = f.ask("unknown code at the name server", 9999, {}, conn=f.ns)
    f.check(head.get("code") == 3, "the name server too", head)
    opaques = [f.c.send(30, {"topic": t, "queueId": 0}) for _ in range(200)]
    f.check(all(f.c.answer(o)[0].get("code") == 0 for o in opaques), "200 requests at once, 200 answers")


def fast_port(f):
    fast = Conn(f"127.0.0.1:{f.s.port - 2}")
    t = f.topic("FastT")
    head, _ = f.send(t, 0, conn=fast)
    f.check(head.get("code") == 0, "the fast port takes sends", head)
    head, _ = f.ask("heartbeat on the fast port", 34, {}, beat("client-f", None, None, "PGf"), conn=fast)
    f.check(head.get("code") == 0, "and heartbeats", head)
    head, _ = f.pull("pull on the fast port", t, conn=fast)
    f.check(head.get("code") == 3, "pulls there: 3", head)
    fast.close()


def permissions(f):
    t = f.topic("ReadOnlyT", 4, 4)
    head, _ = f.send(t)
    f.check(head.get("code") == 0, "a send to a topic without W is stored", head)
    t = f.topic("WriteOnlyT", 4, 2)
    f.sent(t)
    head, _ = f.pull("pull of a topic without R", t)
    f.check(head.get("code") == 16 and (head.get("extFields") or {}).get("forbiddenType") == "3", "a pull from a topic without R: 16, forbiddenType 3", head)
    head, _ = f.ask("update config", 25, {}, b"brokerPermission=2\n")
    f.check(head.get("code") == 0, "brokerPermission is changed by code 25", head)
    head, _ = f.pull("pull of a broker without R", "PullT")
    f.check(head.get("code") == 16 and (head.get("extFields") or {}).get("forbiddenType") == "1", "a pull from a broker without R: 16, forbiddenType 1", head)
    head, _ = f.c.ask(25, {}, b"brokerPermission=6\n")
    f.check(head.get("code") == 0 and f.pull("pull again", "PullT")[0].get("code") == 0, "and back", head)


# ---- retries ----

def send_back(f):
    t, g = f.topic("BackT", 1), "BackG"
    c = Conn(f.s.addr)
    c.ask(34, {}, beat("client-r", g, t))
    f.sent(t, 0, 2)
    _, body = f.pull("pull for send-back", t, g)
    first, second = records(body)
    back = {"offset": first["physical"], "group": g, "delayLevel": -1, "originMsgId": "X", "originTopic": t, "unitMode": "false", "maxReconsumeTimes": 16}
    head, _ = f.ask("send-back to the dead letters", 36, back)
    f.check(head.get("code") == 0, "delay level -1", head)
    dlq = "%DLQ%" + g
    wait_for(lambda: (f.c.ask(30, {"topic": dlq, "queueId": 0})[0].get("extFields") or {}).get("offset") == "1", 5)
    head, body = f.pull("pull of dead letters", dlq, g)
    got = records(body)
    f.check(len(got) == 1 and got[0]["body"] == first["body"] and got[0]["props"].get("RETRY_TOPIC") == t and got[0]["props"].get("ORIGIN_MESSAGE_ID") and
            got[0]["props"].get("UNIQ_KEY") == first["props"]["UNIQ_KEY"] and got[0]["props"].get("DLQ_ORIGIN_TOPIC") == (t if f.ours else None), "puts the message into %DLQ%group, with where it came from", (head, got))
    route = wait_for(lambda: f.ns.ask(105, {"topic": dlq})[1], 5)
    f.check(route and json.loads(route)["queueDatas"][0]["perm"] == 6 and json.loads(route)["queueDatas"][0]["readQueueNums"] == 1, "which has one readable queue", route)
    head, _ = f.ask("send-back", 36, {**back, "offset": second["physical"], "delayLevel": 0})
    f.check(head.get("code") == 0, "delay level 0", head)
    held_at = lambda topic, queue: int((f.c.ask(30, {"topic": topic, "queueId": queue})[0].get("extFields") or {"offset": 0})["offset"])
    found = wait_for(lambda: held_at("SCHEDULE_TOPIC_XXXX", 2) or held_at("%RETRY%" + g, 0), 5)
    f.check(found, "puts the message into the delay queue of level 3 (without delays: into %RETRY%group)", found)
    head, _ = f.ask("send-back of nothing", 36, {**back, "offset": 123456789012})
    f.check(head.get("code") == 1 and "123456789012" in head.get("remark", ""), "an offset where nothing is: 1, named", head)
    head, _ = f.ask("send-back within a record", 36, {**back, "offset": second["physical"] + 4})
    f.check(head.get("code") == 1 and f.c.ask(30, {"topic": t, "queueId": 0})[0].get("code") == 0, "an offset within a record: 1", head)
    c.close()


def read_mode(f):
    """2004: how the log is read from the disk."""
    said = [f.ask(f"read mode {mode}", 2004, {} if mode is None else {"READ_AHEAD_MODE": mode})[0] for mode in (None, "2", "1", "0")]
    f.check([h.get("code") for h in said] == [1, 29, 0, 0] and said[2]["remark"] == "set commitlog readahead mode success, mode: 1", "the log's read-ahead goes off and on", said)


FACTS = (routes, sends, batches, heartbeats, offsets, pulls, held, headers, fast_port, permissions, send_back, read_mode)


def all_facts(server, ours):
    f = Facts(server, ours)
    for fact in FACTS:
        try:
            fact(f)
        except Exception as e:
            check(False, f"{fact.__name__} ({f.who})", f"{type(e).__name__}: {e} at line {e.__traceback__.tb_next.tb_lineno if e.__traceback__.tb_next else '?'}")
            f.c, f.ns = Conn(server.addr), Conn(server.ns)
    f.c.close(), f.ns.close()
    return f


def restart(z):
    """Topics, groups, offsets, messages and dead letters are there after a clean stop; and automatic creation can be off."""
    f = Facts(z, True)
    f.topic("KeptT", 3)
    c = Conn(z.addr)
    c.ask(34, {}, beat("client-k", "KeptG", "KeptT"))
    group = {"groupName": "KeptG", "consumeEnable": True, "consumeFromMinEnable": True, "consumeBroadcastEnable": True, "retryQueueNums": 2, "retryMaxTimes": 7,
             "brokerId": 0, "whichBrokerWhenConsumeSlowly": 1, "notifyConsumerIdsChangedEnable": True}
    head, _ = f.c.ask(200, {}, json.dumps(group).encode())
    check(head.get("code") == 0, "a subscription group is changed", head)
    f.sent("KeptT", 2, 40)
    f.c.ask(15, {"consumerGroup": "KeptG", "topic": "KeptT", "queueId": 2, "commitOffset": 33})
    before = pull_queue(z.addr, "KeptT", 2, "KeptG")
    c.close(), f.c.close(), f.ns.close()
    check(z.stop() == 0, "zarya stops cleanly", text_of(z.log)[-800:])
    with open(z.conf) as conf:
        text = conf.read()
    with open(z.conf, "w") as conf:
        conf.write(text.replace("broker = {", "broker = { autoCreateTopicEnable = false; ", 1))
    z.start()
    z.wait_registered()
    f = Facts(z, True)
    d = json.loads(wait_for(lambda: f.ns.ask(105, {"topic": "KeptT"})[1], 10) or "{}")
    check(d.get("queueDatas", [{}])[0].get("readQueueNums") == 3, "a topic is there after a restart", d)
    head, _ = f.c.ask(14, {"consumerGroup": "KeptG", "topic": "KeptT", "queueId": 2})
    check(head.get("extFields") == {"offset": "33"}, "an offset too", head)
    head, body = f.c.ask(201, {})
    kept = json.loads(body).get("subscriptionGroupTable", {}).get("KeptG", {}) if body else {}
    check(kept.get("retryMaxTimes") == 7 and kept.get("retryQueueNums") == 2, "a group too", head)
    after = pull_queue(z.addr, "KeptT", 2, "KeptG")
    check(len(after) == 40 and after == before, "messages too, unchanged", len(after))
    dlq = pull_queue(z.addr, "%DLQ%BackG", 0)
    check(len(dlq) == 1, "dead letters too", dlq)
    head, _ = f.send("NeverMadeT")
    check(head.get("code") == 17 and "NeverMadeT" in head.get("remark", "") and "apply first" in head.get("remark", ""), "autoCreateTopicEnable = false: an unknown topic is refused with 17", head)
    head, _ = f.send("KeptT", 0)
    check(head.get("code") == 0, "a known one is not", head)
    f.c.close(), f.ns.close()


def idle():
    """A listener's idle_timeout ends connections that are silent, and only those."""
    z = Zarya(features=False)
    with open(z.conf) as conf:
        text = conf.read()
    with open(z.conf, "w") as conf:
        conf.write(text.replace('serves = ["broker"];', 'serves = ["broker"]; idle_timeout = "1 s";'))
    z.start()
    silent, busy = Conn(z.addr), Conn(z.addr)
    began = time.time()
    while time.time() < began + 5 and not silent.closed:
        busy.ask(30, {"topic": "TBW102", "queueId": 0})
        silent.read(0.2)
    took = time.time() - began
    check(silent.closed and 0.9 <= took < 4, "a connection that is silent for idle_timeout is closed", f"{took:.2f} s")
    check(busy.ask(30, {"topic": "TBW102", "queueId": 0})[0].get("code") == 0, "a busy one is not")
    check(z.stop() == 0, "zarya stops cleanly", text_of(z.log)[-800:])


def compare(ours, apache):
    """What is there with us must be there with Apache; codes are equal. Fields that clients do not miss are named."""
    for label in ours.seen:
        a, b = ours.seen[label], apache.seen.get(label)
        if b is None or label in KNOWN_DIFFERENCES:
            continue
        check(a[0] == b[0] and a[1] == b[1], f"as Apache: {label}", f"ours {a[0]} {sorted(a[1])}, Apache's {b[0]} {sorted(b[1])}")


NEWER_TAGS = "pull with newer tags"
KNOWN_DIFFERENCES = {NEWER_TAGS}  # Apache: 25; see differences.md


def forbidden(z):
    """Code 353: at its answer the document has it, each time."""
    path, seen = os.path.join(z.data, "config/subscriptionGroup.json"), []
    for i in range(10):
        head, body = remoting(z.addr, 353, {"group": "Kept", "topic": f"Secret{i}", "readable": "false"})
        seen.append(head.get("code") == 0 and b'"readable":false' in body and f'"Secret{i}"' in text_of(path))
    check(all(seen), "what a group may not consume is on the disk when it is answered", seen)


def check_config(z):
    """Code 46 reads one subscription of up to 4 MiB (on a worker: what is behind it on the connection may be answered before)."""
    c, body = Conn(z.addr), lambda n: json.dumps({"clientId": "c", "group": "G", "subscriptionData": {"topic": "T", "subString": "x" * n, "expressionType": "TAG"}}).encode()
    sent = [c.send(46, {}, body(3 << 20)), c.send(46, {}, body(5 << 20)), c.send(46, {}, body(1))]
    check([c.answer(opaque)[0].get("code") for opaque in sent] == [0, 1, 0], "a subscription to be checked has at most 4 MiB")


def main():
    java = shutil.which("java") and shutil.which("mvn") and apache_server("5.5.0")
    apache = None
    if "--apache" in sys.argv:
        a = Apache().start()
        all_facts(a, False)
        a.stop()
        done()
    z = Zarya().start()
    check(z.wait_registered(), "the broker registers", text_of(z.log)[-800:])
    ours = all_facts(z, True)
    forbidden(z)
    check_config(z)
    check(z.proc.poll() is None, "zarya lives", text_of(z.log)[-1500:])
    restart(z)
    check(z.stop() == 0, "zarya stops cleanly again", text_of(z.log)[-800:])
    idle()
    if not java:
        skip("the same frames to Apache's broker", "java or maven is missing, or the registry cannot be reached")
    else:
        apache = Apache().start()
        compare(ours, all_facts(apache, False))
        apache.stop()
    done()


main()
