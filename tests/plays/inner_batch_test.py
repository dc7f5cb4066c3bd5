#!/usr/bin/env python3
"""Inner batches by hand-made frames: only a batch that a producer sends to a topic of queue.type=BatchCQ becomes one, and only such topics have
batch queues, whatever way a message came into them. --full: Apache starts on the directory, and finds the same."""
import os, sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
from zarya import *

INNER = 0xC0  # sysFlag: NEED_UNWRAP and INNER_BATCH
ONE = "INNER_NUM\x011\x02UNIQ_KEY\x01U\x02"
DUE = {}  # topic: bodies that Apache must find too


def item(body, props=""):
    p = props.encode()
    r = struct.pack(">iiii", 0, 0, 0, len(body)) + body + struct.pack(">h", len(p)) + p
    return struct.pack(">i", 4 + len(r)) + r


def fields(topic, flag=0, props=""):
    return {"a": "PG", "b": topic, "c": "TBW102", "d": 1, "e": 0, "f": flag, "g": 1000, "h": 0, "i": props, "j": 0, "k": "false"}


def batch(z, topic, items, flag=0, props="UNIQ_KEY\x01BATCH\x02"):
    return remoting(z.addr, 320, {**fields(topic, flag, props), "m": "true"}, items)[0]


def send(z, topic, body, props="", flag=0):
    return remoting(z.addr, 310, {**fields(topic, flag, f"UNIQ_KEY\x01{topic}{body}\x02" + props), "m": "false"}, body.encode())[0]


def make_batch_topic(z, topic):
    head, _ = remoting(z.addr, 17, {"topic": topic, "defaultTopic": "TBW102", "readQueueNums": 1, "writeQueueNums": 1, "perm": 6, "topicFilterType": "SINGLE_TAG",
                                    "topicSysFlag": 0, "order": "false", "attributes": "+queue.type=BatchCQ"})
    check(head.get("code") == 0, f"{topic} has batch queues", head)


def bodies(z, topic):
    return [m["body"] for m in pull_queue(z.addr, topic, 0)]


def arrive(z, topic, *wanted):
    got = wait_for(lambda: (lambda b: b if len(b) >= len(wanted) else None)(bodies(z, topic)), 20)
    check(got == list(wanted), f"{topic}: what was taken comes", got or bodies(z, topic))
    DUE[topic] = list(wanted)


def given_back(z):
    """A consumer gives a batch of one back: refused as Apache does; the client then sends the message itself."""
    make_batch_topic(z, "Batch")
    head = batch(z, "Batch", item(b"one", "UNIQ_KEY\x01M1\x02"))
    check(head.get("code") == 0, "a batch of one", head)
    at = int(head["extFields"]["msgId"][-16:], 16)
    for level, where in ((1, "retry topic"), (-1, "dead letters")):
        head, _ = remoting(z.addr, 36, {"group": "GB", "offset": at, "delayLevel": level, "originTopic": "Batch", "originMsgId": "", "unitMode": "false"})
        check(head.get("code") == 1, f"it is no message for the {where}", head)
    check([m["sysflag"] & INNER for m in pull_queue(z.addr, "Batch", 0)] == [INNER], "the topic itself has it as a batch")
    check(send(z, "%RETRY%GB", "one", "DELAY\x011\x02").get("code") == 0, "the message alone is taken")
    arrive(z, "%RETRY%GB", b"one")


def hostile_batches(z):
    for n, (flag, outer, inner) in enumerate(((INNER, "", ONE), (0x80, "", ONE), (0x80, "UNIQ_KEY\x01B\x02", ""), (0, "", ONE), (0, ONE, ""), (INNER, ONE, ONE))):
        head = batch(z, "Victim", item(b"poison", inner), flag, outer)
        check(head.get("code") == 13 and head.get("remark"), f"hostile batch {n} is illegal", head)
    for flag, inner in ((INNER, ONE), (0, ONE)):
        head = batch(z, "Batch", item(b"poison", inner), flag)
        check(head.get("code") == 13, "in a topic of batch queues too: the broker alone makes them", head)
    check(send(z, "Victim", "poison", flag=INNER).get("code") == 13 and send(z, "Victim", "poison", ONE).get("code") == 13, "so is a single one")
    check(send(z, "Victim", "honest").get("code") == 0, "the topic takes others")
    arrive(z, "Victim", b"honest")


def hostile_replies(z):
    for flag, props in ((INNER, ONE), (0x80, ONE), (0, ONE)):
        head, _ = remoting(z.addr, 325, fields("Replies", flag, props), b"poison")
        check(head.get("code") == 13, "a reply that says to be a batch is illegal", head)
    check(remoting(z.addr, 325, fields("Replies"), b"honest")[0].get("code") == 1, "a reply to nobody is stored")
    arrive(z, "Replies", b"honest")


def other_ways(z):
    """What goes into a topic of batch queues by way of another topic, or as a plain batch, makes no batch queues there, and does here."""
    make_batch_topic(z, "Later")
    check(send(z, "Later", "later", "DELAY\x011\x02").get("code") == 0, "a delayed message")
    arrive(z, "Later", b"later")
    make_batch_topic(z, "Sure")
    head = send(z, "Sure", "sure", "TRAN_MSG\x01true\x02PGROUP\x01PG\x02", 4)
    check(head.get("code") == 0, "a half message", head)
    ext = head["extFields"]
    head, _ = remoting(z.addr, 37, {"producerGroup": "PG", "tranStateTableOffset": ext["queueOffset"], "commitLogOffset": int(ext["msgId"][-16:], 16),
                                    "commitOrRollback": 8, "fromTransactionCheck": "false", "msgId": "x", "transactionId": "x"})
    check(head.get("code") == 0, "committed", head)
    arrive(z, "Sure", b"sure")
    make_batch_topic(z, "Loose")
    check(batch(z, "Loose", item(b"a", "UNIQ_KEY\x01L1\x02") + item(b"b", "UNIQ_KEY\x01L2\x02"), props="").get("code") == 0, "a batch without a name of its own")
    arrive(z, "Loose", b"a", b"b")


def flip(z):
    a = Apache(store=z.data, ports=(z.port, z.ns_port)).start()
    for topic, wanted in DUE.items():
        check(bodies(a, topic) == wanted, f"Apache has {topic} as it was", bodies(a, topic))
    check(batch(a, "Victim", item(b"poison", ONE), INNER, "").get("code") == 13, "Apache refuses the same")
    check(batch(a, "Victim", item(b"poison", ONE), 0, "").get("code") == 0, "but for a number without the flag")
    n = len(bodies(a, "Victim"))
    for props in ("DELAY\x013\x02", "TIMER_DELAY_SEC\x0130\x02", "TRAN_MSG\x01true\x02"):
        n += 1
        check(batch(a, "Victim", item(b"early", props), 0, "").get("code") == 0 and len(bodies(a, "Victim")) == n, "an item's wish is not looked at there", props)
    check(send(a, "Victim", "unclear", "DELAY\x01x\x02").get("code") == 1, "a level that is no number is a system error there")
    a.stop()


z = Zarya(storage="segment_size = 67108864;", features=("admin", "query", "reply", "delay", "transaction")).start()
z.wait_registered()
create_topic(z.addr, "Replies", 1)
create_topic(z.addr, "Victim", 1)
for way in (given_back, hostile_batches, hostile_replies, other_ways):
    way(z)
check(z.stop() == 0, "zarya stops cleanly", text_of(z.log)[-800:])
check("Sanitizer" not in text_of(z.log), "no sanitizer complains", text_of(z.log)[-3000:])
check(sorted(os.listdir(z.data + "/batchconsumequeue")) == ["Batch", "Later", "Loose", "Sure"], "batch queues of those topics alone",
      os.listdir(z.data + "/batchconsumequeue"))
check(not {"Batch", "Later", "Loose", "Sure"} & set(os.listdir(z.data + "/consumequeue")), "which have no others", os.listdir(z.data + "/consumequeue"))
if FULL:
    flip(z)
done()
