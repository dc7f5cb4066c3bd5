#!/usr/bin/env python3
"""Control over what groups consume, by hand-made frames: offsets reset on the server and by clients (222, 220), cloned (314) and
corrected (308), requests passed on to a consumer (307, 309), what consumers say of themselves (223), cold reads (2001 to 2003), and
what a slave answers."""
import os, sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
from zarya import *


def beat(z, client, group, topics=("T",), version=513):
    c = Conn(z.addr)
    body = {"clientID": client, "producerDataSet": [], "consumerDataSet": [
        {"groupName": group, "consumeType": "CONSUME_PASSIVELY", "messageModel": "CLUSTERING", "consumeFromWhere": "CONSUME_FROM_LAST_OFFSET", "unitMode": False,
         "subscriptionDataSet": [{"topic": t, "subString": "*", "tagsSet": [], "codeSet": [], "subVersion": 1, "expressionType": "TAG", "classFilterMode": False} for t in topics]}]}
    c.ask(34, {}, json.dumps(body).encode(), version=version)
    return c


def commit(z, group, queue, offset, topic="T"):
    return remoting(z.addr, 15, {"consumerGroup": group, "topic": topic, "queueId": queue, "commitOffset": offset})[0]


def offset(z, group, queue, topic="T"):
    head, _ = remoting(z.addr, 14, {"consumerGroup": group, "topic": topic, "queueId": queue})
    return int(head["extFields"]["offset"]) if head.get("code") == 0 else head.get("code")


def table(body):
    """offsetTable of an answer: {queue: offset}."""
    return {int(q): int(o) for q, o in re.findall(rb'\{"brokerName":"broker-a","queueId":(\d+),"topic":"T"\}:(-?\d+)', body)}


def reset(z, **more):
    return remoting(z.addr, 222, {"topic": "T", "group": "G", "timestamp": -1, "isForce": "true", **more})


def fill(z):
    times = []
    for n in range(10):
        times.append(int(time.time() * 1000))
        remoting(z.addr, 310, {"a": "PG", "b": "T", "c": "TBW102", "d": 2, "e": n % 2, "f": 0, "g": 1, "h": 0, "j": 0, "i": f"UNIQ_KEY\x01U{n}\x02KEYS\x01k{n}\x02"}, b"m%d" % n)
        time.sleep(0.01)
    return times


def on_the_server(z, times):
    c = beat(z, "c1", "G")
    commit(z, "G", 0, 1)
    head, body = reset(z)
    check(head.get("code") == 0 and table(body) == {0: 5, 1: 5}, "reset to the newest, all queues", (head, body))
    check(offset(z, "G", 0) == 5, "an offset asked for is the one reset to")
    commit(z, "G", 0, 2)
    head, body = c.ask(11, {"consumerGroup": "G", "topic": "T", "queueId": 0, "queueOffset": 1, "maxMsgNums": 8, "sysFlag": 0, "commitOffset": 0, "suspendTimeoutMillis": 0, "subVersion": 1})
    check(head.get("code") == 21 and head["extFields"]["nextBeginOffset"] == "5", "the next pull is sent there", head)
    check(offset(z, "G", 0) == 5, "a client's own commit before that pull does not undo it")
    commit(z, "G", 0, 4)
    check(offset(z, "G", 0) == 4, "afterwards commits count again")
    head, body = reset(z, timestamp=times[4], queueId=0)
    check(head.get("code") == 0 and table(body) == {0: 2}, "by time, one queue", (head, body))
    head, body = reset(z, queueId=1, offset=3)
    check(table(body) == {1: 3} and offset(z, "G", 1) == 3, "to an offset", (head, body))
    head, body = reset(z, queueId=1, offset=9)
    check(head.get("code") == 1 and "Target offset 9 not in consume queue range [0-5]" in head["remark"], "not to one that is not there", head)
    check(reset(z, topic="None")[0].get("code") == 17 and reset(z, group="None")[0].get("code") == 26, "topic and group are known ones")
    held = c.send(11, {"consumerGroup": "G", "topic": "T", "queueId": 1, "queueOffset": 5, "maxMsgNums": 8, "sysFlag": 2, "commitOffset": 0, "suspendTimeoutMillis": 20000, "subVersion": 1})
    check(c.answer(held)[0].get("code") == 21, "a pull takes the reset of its queue")
    held = c.send(11, {"consumerGroup": "G", "topic": "T", "queueId": 1, "queueOffset": 5, "maxMsgNums": 8, "sysFlag": 2, "commitOffset": 0, "suspendTimeoutMillis": 20000, "subVersion": 1})
    check(c.answer(held, 0.5) == ({}, b""), "a pull at the end is held")
    reset(z, timestamp=0)
    check(c.answer(held, 5)[0].get("code") in (19, 20, 21), "and let go by a reset, for the next one to go where it says", c.seen[-1:])
    for q in (0, 1):  # takes what is left of it
        c.ask(11, {"consumerGroup": "G", "topic": "T", "queueId": q, "queueOffset": 5, "maxMsgNums": 8, "sysFlag": 0, "commitOffset": 0, "suspendTimeoutMillis": 0, "subVersion": 1})
    c.close()


def by_clients(z, times):
    head, _ = remoting(z.addr, 25, {}, b"useServerSideResetOffset=false\n")
    check(head.get("code") == 0, "the reset is left to clients", head)
    for q in (0, 1):
        commit(z, "G", q, 5)
    head, _ = reset(z, timestamp=times[4])
    check(head.get("code") == 206 and "Consumer not online, so can not reset offset, Group: G Topic: T Timestamp:" in head["remark"], "nobody there: 206", head)
    a, b = beat(z, "a", "G"), beat(z, "b", "G")
    head, body = reset(z, timestamp=times[4])
    told = [c.pushed(220, 5) for c in (a, b)]
    check(head.get("code") == 0 and table(body) == {0: 2, 1: 2} and all(len(t) == 1 and table(t[0][1]) == {0: 2, 1: 2} for t in told), "each client is told", (head, body, told))
    ext = told[0][0][0]["extFields"] if told[0] else {}
    check(ext.get("topic") == "T" and ext.get("group") == "G" and ext.get("isForce") == "true" and ext.get("timestamp") == str(times[4]), "with topic, group, time and force", ext)
    check(offset(z, "G", 0) == 5, "and commits what it then has")
    head, body = reset(z, timestamp=times[4], isForce="false")
    check(table(body) == {0: 2, 1: 2}, "back without force")
    for q in (0, 1):
        commit(z, "G", q, 1)
    head, body = reset(z, timestamp=times[4], isForce="false")
    check(table(body) == {0: 1, 1: 1}, "but not ahead", body)
    head, body = remoting(z.addr, 222, {"topic": "T", "group": "G", "timestamp": times[4], "isForce": "true"}, language="CPP")
    check(json.loads(body) == {"offsetTable": [{"brokerName": "broker-a", "offset": 2, "queueId": q, "topic": "T"} for q in (0, 1)]}, "a tool in C++ reads a list", body)
    head, _ = reset(z, group="TOOLS_CONSUMER")
    check(head.get("code") == 1 and "THe consumer group <TOOLS_CONSUMER> not exist" in head["remark"], "a group without offsets", head)
    old = beat(z, "old", "G", version=10)
    check("the client does not support this feature. version=10" in reset(z)[0].get("remark", ""), "a client that is too old is named")
    for c in (a, b, old):
        c.close()
    remoting(z.addr, 25, {}, b"useServerSideResetOffset=true\n")


def clones(z):
    create_topic(z.addr, "T2", 2)
    for q, o in ((0, 2), (1, 4)):
        commit(z, "G", q, o)
    beat(z, "x", "G2").close()
    remoting(z.addr, 310, {"a": "PG", "b": "T2", "c": "TBW102", "d": 2, "e": 0, "f": 0, "g": 1, "h": 0, "j": 0, "i": "UNIQ_KEY\x01V\x02"}, b"m")
    commit(z, "G", 0, 1, "T2")
    check(remoting(z.addr, 314, {"srcGroup": "G", "destGroup": "G2", "topic": "T"})[0].get("code") == 0 and [offset(z, "G2", q) for q in (0, 1)] == [2, 4], "clone of one topic")
    check(remoting(z.addr, 314, {"srcGroup": "G", "destGroup": "G3"})[0].get("code") == 0, "clone of all")
    head, body = remoting(z.addr, 43)
    check(b'"T@G3":{0:2,1:4}' in body and b'"T2@G3":{0:1}' in body, "carries every topic over", body)
    c = beat(z, "c", "G", ("T",))
    remoting(z.addr, 314, {"srcGroup": "G", "destGroup": "G4"})
    head, body = remoting(z.addr, 43)
    check(b'"T@G4"' in body and b'"T2@G4"' not in body, "of a group that is online, what it subscribes to", body)
    remoting(z.addr, 314, {"srcGroup": "G", "destGroup": "G5", "offline": "true"})
    check(b'"T2@G5"' in remoting(z.addr, 43)[1], "unless told otherwise")
    c.close()


def corrects(z):
    commit(z, "G2", 0, 1)
    head, body = remoting(z.addr, 308, {"topic": "T", "compareGroup": "G"})
    check(head.get("code") == 0 and body == b'{"correctionOffsets":{0:1,1:4}}', "correction: the slowest of all groups, by queue", body)
    head, body = remoting(z.addr, 308, {"topic": "T", "compareGroup": "G2"})
    check(b"0:1," in body, "for the slowest itself too", body)
    head, body = remoting(z.addr, 308, {"topic": "T", "compareGroup": "G", "filterGroups": "G2,G3"})
    check(body == b'{"correctionOffsets":{0:2,1:4}}' and b"@G2" not in remoting(z.addr, 43)[1], "groups to be left out lose their offsets, as with Apache", body)
    check(remoting(z.addr, 308, {"topic": "None", "compareGroup": "G"})[0].get("code") == 17, "of a topic that is there")


def relays(z):
    c = beat(z, "c9", "G")
    message = pull_queue(z.addr, "T", 0)[0]
    id_ = remoting(z.addr, 310, {"a": "PG", "b": "T", "c": "TBW102", "d": 2, "e": 0, "f": 0, "g": 1, "h": 0, "j": 0, "i": "UNIQ_KEY\x01W\x02"}, b"direct")[0]["extFields"]["msgId"]
    tool_ = Conn(z.addr)
    for code, ext in ((307, {"consumerGroup": "G", "clientId": "c9", "jstackEnable": "false"}), (309, {"consumerGroup": "G", "clientId": "c9", "msgId": id_, "topic": "T"})):
        asked = tool_.send(code, ext)
        came = c.pushed(code, 5)
        check(came and came[0][0]["extFields"].get("consumerGroup") == "G", f"{code} is passed on to the client", came)
        if code == 309 and came:
            ext = came[0][0]["extFields"]
            check(records(came[0][1])[0]["body"] == b"direct" and ext["brokerName"] == "broker-a" and ext["topicSysFlag"] == "0" and ext["groupSysFlag"] == "0",
                  "with the message, the broker's name and the flags", came)
        if came:
            c.sock.sendall(frame(0, {"k": "v"}, b'{"answer":%d}' % code, flag=1, opaque=came[0][0]["opaque"]))
        head, body = tool_.answer(asked)
        check(head.get("code") == 0 and body == b'{"answer":%d}' % code, "and its answer back", (head, body))
    head, _ = tool_.ask(307, {"consumerGroup": "G", "clientId": "nobody"})
    check(head.get("code") == 1 and head["remark"] == "The Consumer <G> <nobody> not online", "one that is not there", head)
    check(message["body"] == b"m0", "the queue is as it was")
    c.close()


def status(z):
    a, b = beat(z, "s1", "GS"), beat(z, "s2", "GS")
    tool_ = Conn(z.addr)
    asked = tool_.send(223, {"topic": "T", "group": "GS"})
    for c, offset_ in ((a, 3), (b, 4)):
        came = c.pushed(221, 5)
        check(came and came[0][0]["extFields"].get("topic") == "T" and came[0][0]["extFields"].get("group") == "GS", "221 asks each client", came)
        if came:
            table_ = b'{"consumerTable":{},"messageQueueTable":{{"brokerName":"broker-a","queueId":0,"topic":"T"}:%d}}' % offset_
            c.sock.sendall(frame(0, {}, table_, flag=1, opaque=came[0][0]["opaque"]))
    head, body = tool_.answer(asked)
    want = b'"%s":{{"brokerName":"broker-a","queueId":0,"topic":"T"}:%d}'
    check(head.get("code") == 0 and body.startswith(b'{"consumerTable":{') and want % (b"s1", 3) in body and want % (b"s2", 4) in body and
          body.endswith(b'},"messageQueueTable":{}}'), "223: what each says, by its id", (head, body))
    asked = tool_.send(223, {"topic": "T", "group": "GS", "clientAddr": "s2"})
    b.read(5)
    came = b.pushed(221)
    check(len(came) == 2 and not a.read(0.2) and len(a.pushed(221)) == 1, "or one of them", came)
    b.sock.sendall(frame(1, {}, b"no", flag=1, opaque=came[-1][0]["opaque"], remark="cannot"))
    head, body = tool_.answer(asked)
    check(head.get("code") == 0 and body == b'{"consumerTable":{},"messageQueueTable":{}}', "one that fails is left out", (head, body))
    asked = tool_.send(223, {"topic": "T", "group": "GS", "clientAddr": "s1"})
    a.read(5)
    a.close()
    check(tool_.answer(asked)[1] == b'{"consumerTable":{},"messageQueueTable":{}}', "one that goes away too")
    head, _ = tool_.ask(223, {"topic": "T", "group": "None"})
    check(head.get("code") == 1 and head["remark"] == "No Any Consumer online in the consumer group: [None]", "nobody there", head)
    b.close()


def cold(z):
    check(remoting(z.addr, 2001, {}, b"G=1048576\nH=nonsense\n")[0].get("code") == 0, "thresholds of cold reads are set")
    head, body = remoting(z.addr, 2003)
    info = json.loads(body)
    check(info == {"runtimeTable": {}, "configTable": {"G": 1048576}, "cgColdReadThreshold": 3145728, "globalColdReadThreshold": 104857600, "globalAcc": 0}, "and shown", info)
    check(remoting(z.addr, 2002, {}, b"G")[0].get("code") == 0 and json.loads(remoting(z.addr, 2003)[1])["configTable"] == {}, "and removed")


def slave():
    """The answers are those of Apache 5.5.0 with brokerId=1, brokerRole=SLAVE and slaveReadEnable=true."""
    z = Zarya(broker_conf='brokerRole = "SLAVE"; slaveReadEnable = true;', node="", identity=1).start()
    q = {"topic": "SELF_TEST_TOPIC", "queueId": 0}
    pull = {"consumerGroup": "G", **q, "maxMsgNums": 8, "commitOffset": 0, "subVersion": 1, "subscription": "*"}
    head, _ = remoting(z.addr, 11, {**pull, "queueOffset": 5, "sysFlag": 6, "suspendTimeoutMillis": 20000})
    check(head.get("code") == 20 and head["extFields"]["suggestWhichBrokerId"] == "0" and head["extFields"]["nextBeginOffset"] == "5",
          "a slave corrects nobody's offset: the master is to be asked", head)
    began = time.monotonic()
    head, _ = remoting(z.addr, 11, {**pull, "queueOffset": 0, "sysFlag": 6, "suspendTimeoutMillis": 1000}, timeout=20)
    check(head.get("code") == 19 and time.monotonic() - began > 0.9, "it holds pulls", head)
    busy = "[REJECTREQUEST]system busy, start flow control for a while"
    head, _ = remoting(z.addr, 310, {"a": "PG", "b": "SELF_TEST_TOPIC", "c": "TBW102", "d": 2, "e": 0, "f": 0, "g": 1, "h": 0, "j": 0, "i": "UNIQ_KEY\x01V\x02"}, b"m")
    check(head.get("code") == 2 and head["remark"] == busy, "takes no message", head)
    head, _ = remoting(z.addr, 36, {"group": "G", "offset": 0, "delayLevel": 0})
    check(head.get("code") == 2 and head["remark"] == busy, "nor one that comes back", head)
    check(remoting(z.addr, 15, {"consumerGroup": "G", **q, "commitOffset": 3})[0].get("code") == 0 and remoting(z.addr, 14, {"consumerGroup": "G", **q})[0]["extFields"]["offset"] == "3",
          "offsets are committed to it")
    head, _ = remoting(z.addr, 222, {"topic": "SELF_TEST_TOPIC", "group": "G", "timestamp": -1, "isForce": "true"})
    check(head.get("code") == 1 and head["remark"] == "Can not reset offset in slave broker", "but not reset there", head)
    check(remoting(z.addr, 37, {"producerGroup": "PG", "tranStateTableOffset": 0, "commitLogOffset": 0, "commitOrRollback": 8, "fromTransactionCheck": "false", "msgId": "x"})[0].get("code") == 11,
          "transactions end at the master")
    check(z.stop() == 0, "a slave stops cleanly", text_of(z.log)[-800:])
    closed = Zarya(broker_conf='brokerRole = "SLAVE";', identity=1).start()
    head, _ = remoting(closed.addr, 11, {**pull, "queueOffset": 0, "sysFlag": 4, "suspendTimeoutMillis": 0})
    check(head.get("code") == 2 and head["remark"] == busy, "without slaveReadEnable it serves no pulls", head)
    closed.stop()


z = Zarya().start()
z.wait_registered()
create_topic(z.addr, "T", 2)
at = fill(z)
on_the_server(z, at)
by_clients(z, at)
clones(z)
corrects(z)
relays(z)
status(z)
cold(z)
slave()
check(z.stop() == 0 and "Sanitizer" not in text_of(z.log), "zarya stops cleanly", text_of(z.log)[-1500:])
done()
