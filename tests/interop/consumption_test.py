#!/usr/bin/env python3
"""Rules of pulls and sends that clients rarely meet, asked of Apache 5.5.0 and of us by the same frames: clients of broadcasting groups that
change between pulling themselves and pulling through a proxy, messages of priority, thresholds of cold reads, a slave. The answers are the
same. Apache takes its time to start: with --full only (by itself, `tests/plays/consumption_test.py` and `tests/unit/broker` hold us to the facts)."""
import os, sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
from zarya import *

BEAT = {"clientID": "id1", "producerDataSet": [], "consumerDataSet": [
    {"groupName": "G", "consumeType": "CONSUME_PASSIVELY", "messageModel": "BROADCASTING", "consumeFromWhere": "CONSUME_FROM_FIRST_OFFSET", "unitMode": False,
     "subscriptionDataSet": [{"topic": "TB", "subString": "*", "tagsSet": [], "codeSet": [], "subVersion": 5, "expressionType": "TAG", "classFilterMode": False}]}]}


def send(addr, body, props="", queue=0):
    head, _ = remoting(addr, 310, {"a": "PG", "b": "TB", "c": "TBW102", "d": 4, "e": queue, "f": 0, "g": 1, "h": 0, "j": 0, "i": f"UNIQ_KEY\x01U{body}\x02{props}"},
                       body.encode(), timeout=20)
    ext = head.get("extFields") or {}
    return head.get("code"), ext.get("queueId"), ext.get("queueOffset")


def pull(c, who, offset):
    """By the client itself, or for it by a proxy."""
    ext = {"consumerGroup": "G", "topic": "TB", "queueId": 0, "queueOffset": offset, "maxMsgNums": 1, "sysFlag": 4 if who else 0, "commitOffset": 0,
           "suspendTimeoutMillis": 0, "subVersion": 5, "subscription": "*"}
    if who:
        ext.update(requestSource=1, proxyFrowardClientId=who)
    head, _ = c.ask(11, ext)
    return who, offset, head.get("code"), head.get("extFields", {}).get("nextBeginOffset"), head.get("remark")


def master(addr):
    facts = []
    create_topic(addr, "TB", 4)
    for n in range(5):
        send(addr, f"m{n}")
    c = Conn(addr, 20)
    facts.append(pull(c, "new", -1))
    c.ask(34, {}, json.dumps(BEAT).encode())
    for who, offset in ((None, 0), (None, 3), ("id1", 0), ("id1", 3), ("id1", 4), (None, 0), (None, 0), ("id1", -1), ("p9", 2), ("p9", -1)):
        facts.append(pull(c, who, offset))
    c.close()
    for props in ("2", "99", "-1", "x", "2\x02__SHARDINGKEY\x01k"):
        facts.append(("priority", props, send(addr, "p" + props[:2], f"_SYS_MSG_PRIORITY_\x01{props}\x02", 1)))
    for q in range(4):
        facts.append(("queue", q, [(m["body"], m["props"].get("_SYS_MSG_PRIORITY_")) for m in pull_queue(addr, "TB", q, "CG")]))
    for code, body in ((2001, b"G=1\nbad=x1\n"), (2003, b""), (2002, b"G"), (2002, b"None"), (2003, b"")):
        head, answer = remoting(addr, code, {}, body, timeout=20)
        facts.append((code, head.get("code"), json.loads(answer) if answer else None))
    return facts


def slave(addr):
    facts = []
    q = {"topic": "SELF_TEST_TOPIC", "queueId": 0}
    for flag in (4, 6):
        for offset in (0, 5):
            head, _ = remoting(addr, 11, {"consumerGroup": "G", **q, "queueOffset": offset, "maxMsgNums": 8, "sysFlag": flag, "commitOffset": 0, "suspendTimeoutMillis": 500,
                                          "subVersion": 1, "subscription": "*", "expressionType": "TAG"}, timeout=30)
            facts.append(("pull", flag, offset, head.get("code"), head.get("remark"), head.get("extFields")))
    c = Conn(addr, 20)
    c.ask(34, {}, json.dumps(BEAT).encode())
    for code, ext, body in ((310, {"a": "PG", "b": "SELF_TEST_TOPIC", "c": "TBW102", "d": 2, "e": 0, "f": 0, "g": 1, "h": 0, "j": 0, "i": "UNIQ_KEY\x01U\x02"}, b"x"),
                            (36, {"group": "G", "offset": 0, "delayLevel": 0}, b""), (15, {"consumerGroup": "G", **q, "commitOffset": 3}, b""), (14, {"consumerGroup": "G", **q}, b""),
                            (222, {"topic": "SELF_TEST_TOPIC", "group": "G", "timestamp": -1, "isForce": "true"}, b"")):
        head, answer = remoting(addr, code, ext, body, timeout=20)
        facts.append((code, head.get("code"), head.get("remark") if head.get("code") else None, (head.get("extFields") or {}).get("offset"), answer))
    c.close()
    return facts


def main():
    if "--full" not in sys.argv:
        skip("rules of consumption beside Apache", "long form only")
        done()
    if not apache_server("5.5.0"):
        skip("Apache 5.5.0", "maven or javac is missing, or the registry cannot be reached")
        done()
    for what, ask, ours, theirs in (("a master", master, {}, ""),
                                    ("a slave", slave, {"broker_conf": 'brokerRole = "SLAVE"; slaveReadEnable = true;', "identity": 1}, "brokerRole=SLAVE\nbrokerId=1\nslaveReadEnable=true\n")):
        a = Apache(conf=theirs)
        z = Zarya(**ours)
        a.start()
        z.start()
        want, got = ask(a.addr), ask(z.addr)
        for w, g in zip(want, got):
            check(w == g, f"{what}: {str(w)[:90]}", f"Apache {w}, Zarya {g}")
        check(len(want) == len(got), f"{what}: as many answers")
        a.stop()
        check(z.stop() == 0, "zarya stops cleanly", text_of(z.log)[-800:])
    done()


main()
