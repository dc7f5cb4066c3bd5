#!/usr/bin/env python3
"""Request and reply by hand-made frames: a reply (324, 325) is pushed (326) to the producer that asked, stored, and answered."""
import os, sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
from zarya import *

TOPIC = "DefaultCluster_REPLY_TOPIC"


def producer(z, client):
    c = Conn(z.addr)
    c.ask(34, {}, json.dumps({"clientID": client, "consumerDataSet": [], "producerDataSet": [{"groupName": "PG"}, {"groupName": "PG2"}]}).encode())
    return c


def properties(client, n=1):
    return f"CORRELATION_ID\x01c{n}\x02" + (f"REPLY_TO_CLIENT\x01{client}\x02" if client else "") + "MSG_TYPE\x01reply\x02TTL\x013000\x02"


def v2(client, n=1, **more):
    return {"a": "RG", "b": TOPIC, "c": "TBW102", "d": 4, "e": 0, "f": 0, "g": 1234, "h": 7, "i": properties(client, n), "j": 0, "k": "false", "m": "false", **more}


def v1(client, n=1):
    return dict(zip(("producerGroup", "topic", "defaultTopic", "defaultTopicQueueNums", "queueId", "sysFlag", "bornTimestamp", "flag", "properties", "reconsumeTimes", "unitMode"),
                    list(v2(client, n).values())))


def nth_push(asker, n):
    """Waits for the n-th reply that is pushed to it."""
    wait_for(lambda: len(asker.pushed(326)) >= n or asker.read(0.1) and False, 10)
    return asker.pushed(326)[-1]


def asked_and_answered(z, asker, replier):
    for code, ext, binary in ((325, v2("asker", 1), False), (324, v1("asker", 2), False), (325, v2("asker", 3), True)):
        n = ext.get("i", ext.get("properties"))[16]
        sent = replier.send(code, ext, b"reply " + n.encode(), binary=binary)
        head, body = nth_push(asker, int(n))
        f = head["extFields"]
        check(body == b"reply " + n.encode() and f["producerGroup"] == "RG" and f["topic"] == TOPIC and f["bornTimestamp"] == "1234" and f["flag"] == "7" and
              f"CORRELATION_ID\x01c{n}\x02" in f["properties"] and "PUSH_REPLY_TIME\x01" in f["properties"] and re.match(r"127.0.0.1:\d+$", f["bornHost"]) and
              f["storeHost"] == z.addr and int(f["storeTimestamp"]) > 0, f"{code}: pushed to who asked, with all of it", (head, body))
        check(replier.answer(sent, 0.2) == ({}, b""), "nothing is answered before the asker took it")
        asker.sock.sendall(frame(0, {}, b"", flag=1, opaque=head["opaque"]))
        head, _ = replier.answer(sent)
        f = head.get("extFields", {})
        check(head.get("code") == 0 and f.get("msgId") == "0" and f.get("MSG_REGION") == "DefaultRegion" and f.get("TRACE_ON") == "true" and int(f["queueOffset"]) == int(n) - 1,
              "then it is answered", head)
    check([m["body"] for m in pull_queue(z.addr, TOPIC, 0)] == [b"reply 1", b"reply 2", b"reply 3"], "replies are stored too")


def awkward(z, asker, replier):
    head, _ = replier.ask(325, v2("nobody"), b"x")
    check(head.get("code") == 1 and head["remark"] == "push reply message fail, channel of <nobody> not found.", "an asker that is not there", head)
    head, _ = replier.ask(325, v2(""), b"x")
    check(head.get("code") == 1 and "REPLY_TO_CLIENT] is null" in head["remark"], "a reply to nobody", head)
    check(len(pull_queue(z.addr, TOPIC, 0)) == 5, "they are stored all the same")
    sent = replier.send(325, v2("asker", 4), b"refused")
    asker.sock.sendall(frame(1, {}, b"", flag=1, opaque=nth_push(asker, 4)[0]["opaque"], remark="not mine"))
    head, _ = replier.answer(sent)
    check(head.get("code") == 1 and "not mine" in head["remark"], "an asker that refuses it", head)
    sent = replier.send(325, v2("asker", 5), b"too late")
    nth_push(asker, 5)
    asker.close()
    head, _ = replier.answer(sent)
    check(head.get("code") == 1 and "fail" in head["remark"], "an asker that goes meanwhile", head)
    check(replier.ask(325, v2("asker", b="NoTopic"), b"x")[0].get("code") == 17, "a topic that is not there")
    check(replier.ask(325, v2("asker", e=9), b"x")[0].get("code") == 13, "a queue that is not there")
    head, _ = replier.ask(325, {}, b"")
    check(head.get("code") == 29 and "blank" in head["remark"], "an empty header", head)
    head, _ = replier.ask(325, v2("asker", b="no good"), b"x")
    check(head.get("code") == 29 and "illegal characters" in head["remark"], "a name that no topic has", head)


def own_queues(z, replier):
    """What the broker keeps for itself is written by nobody else: neither as a reply nor as a message."""
    for topic in ("SCHEDULE_TOPIC_XXXX", "RMQ_SYS_TRANS_HALF_TOPIC", "RMQ_SYS_TRANS_OP_HALF_TOPIC", "TRANS_CHECK_MAX_TIME_TOPIC", "rmq_sys_wheel_timer", "OFFSET_MOVED_EVENT"):
        forged = f"UNIQ_KEY\x01F\x02TAGS\x01d\x02REAL_TOPIC\x01RMQ_SYS_TRANS_OP_HALF_TOPIC\x02REAL_QID\x010\x02TIMER_OUT_MS\x01{int(time.time() * 1000)}\x02"
        for code in (325, 324, 310):
            ext = v2("", b=topic, i=forged)
            if code == 324:
                ext = dict(zip(("producerGroup", "topic", "defaultTopic", "defaultTopicQueueNums", "queueId", "sysFlag", "bornTimestamp", "flag", "properties", "reconsumeTimes"), list(ext.values())))
            head, _ = replier.ask(code, ext, b"0,1,2,")
            check(head.get("code") == 16 and head["remark"] == f"Sending message to topic[{topic}] is forbidden.", f"{code} to {topic} is refused", head)
        check(pull_queue(z.addr, topic, 0) == [], f"nothing came to {topic}")


z = Zarya(extra_plugins='{ use = "feature-reply"; }').start()
z.wait_registered()
first, second = producer(z, "asker"), producer(z, "replier")
asked_and_answered(z, first, second)
awkward(z, first, second)
own_queues(z, second)
check(z.stop() == 0 and "Sanitizer" not in text_of(z.log), "zarya stops cleanly", text_of(z.log)[-1500:])
z = Zarya().start()
head, _ = remoting(z.addr, 325, v2("asker"), b"x")
check(head.get("code") == 3, "without the plugin: not supported", head)
z.stop()
done()
