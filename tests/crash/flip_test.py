#!/usr/bin/env python3
"""A data directory moves between Apache 5.5.0 and Zarya, both ways and back, in the plain case: messages by queue and offset,
group offsets and topics are equal, and each goes on writing."""
import os, sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
from zarya import *

GROUP = "FlipG"


def write(addr, name, n=400):
    s = Sender(addr, "Flip", name, limit=n)
    s.start()
    s.join(60)
    check(len(s.acked) == n, f"{name}: {n} messages acknowledged", f"{len(s.acked)} {s.refused[:3]}")
    return s


def commit(addr, offset):
    """The group is made by a heartbeat, as a client would, and commits on one connection."""
    beat = {"clientID": "127.0.0.1@flip", "producerDataSet": [], "consumerDataSet": [
        {"groupName": GROUP, "consumeType": "CONSUME_PASSIVELY", "messageModel": "CLUSTERING", "consumeFromWhere": "CONSUME_FROM_LAST_OFFSET", "unitMode": False,
         "subscriptionDataSet": [{"topic": "Flip", "subString": "*", "tagsSet": [], "codeSet": [], "subVersion": 1, "expressionType": "TAG", "classFilterMode": False}]}]}
    remoting(addr, 34, {}, json.dumps(beat).encode())
    head, _ = remoting(addr, 15, {"consumerGroup": GROUP, "topic": "Flip", "queueId": 1, "commitOffset": offset})
    check(head.get("code") == 0, f"group offset {offset} is taken", head)


def committed(addr):
    head, _ = remoting(addr, 14, {"consumerGroup": GROUP, "topic": "Flip", "queueId": 1})
    return head.get("extFields", {}).get("offset")


def main():
    if not apache_server("5.5.0"):
        skip("flip between Apache and Zarya", "maven or javac is missing, or the registry cannot be reached")
        done()
    ports = (free_port(), free_port())
    z = Zarya(storage='segment_size = "64 MiB";', ports=ports).start()
    store = z.data
    check(create_topic(z.addr, "Flip"), "topic created at Zarya")
    senders = [write(z.addr, "z1")]
    commit(z.addr, 17)
    check(z.stop() == 0, "Zarya stops cleanly", text_of(z.log)[-500:])

    a = Apache(store=store, ports=ports).start()
    check_kept(pull_all(a.addr, "Flip"), senders, "Apache reads what Zarya wrote")
    check(committed(a.addr) == "17", "Apache knows the group's offset", committed(a.addr))
    senders.append(write(a.addr, "a1"))
    commit(a.addr, 23)
    a.stop()

    z.start()
    check_kept(pull_all(z.addr, "Flip"), senders, "Zarya reads what both wrote")
    check(committed(z.addr) == "23", "Zarya knows the group's offset", committed(z.addr))
    check(z.wait_registered() and b"Flip" in remoting(z.ns, 206)[1], "Zarya knows the topic")
    senders.append(write(z.addr, "z2"))
    z.kill()
    a = Apache(store=store, ports=ports).start()
    check_kept(pull_all(a.addr, "Flip"), senders, "Apache reads a directory of a killed Zarya")
    senders.append(write(a.addr, "a2"))
    a.stop(signal.SIGKILL)
    z.start()
    check_kept(pull_all(z.addr, "Flip"), senders, "Zarya reads a directory of a killed Apache")
    check(z.stop() == 0, "and stops cleanly", text_of(z.log)[-500:])
    done()


main()
