#!/usr/bin/env python3
"""Queue locks (41, 42) by hand-made frames: who gets a queue, when a lock ends, and where an orderly consumer's given-up
message goes."""
import os, sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
from zarya import *

GROUP = "OrderG"


def body(client):
    return json.dumps({"clientId": client, "consumerGroup": GROUP, "mqSet": [{"brokerName": "broker-a", "queueId": q, "topic": "Order"} for q in (0, 1)]}).encode()


class Client:
    """A consumer with a connection of its own, known by a heartbeat."""

    def __init__(self, z, name):
        self.name = name
        self.sock = socket.create_connection(("127.0.0.1", z.port), 5)
        self.sock.settimeout(10)
        beat = {"clientID": name, "producerDataSet": [], "consumerDataSet": [
            {"groupName": GROUP, "consumeType": "CONSUME_PASSIVELY", "messageModel": "CLUSTERING", "consumeFromWhere": "CONSUME_FROM_LAST_OFFSET", "unitMode": False,
             "subscriptionDataSet": [{"topic": "Order", "subString": "*", "tagsSet": [], "codeSet": [], "subVersion": 1, "expressionType": "TAG", "classFilterMode": False}]}]}
        self.ask(34, json.dumps(beat).encode())

    def ask(self, code, data, ext=None):
        self.sock.sendall(frame(code, ext or {}, data, opaque=77))
        while True:
            head, answer = read_frame(self.sock)
            if head["flag"] & 1 and head["opaque"] == 77:
                return head, answer

    def lock(self):
        head, answer = self.ask(41, body(self.name))
        return sorted(q["queueId"] for q in json.loads(answer)["lockOKMQSet"]) if head["code"] == 0 else head


def locks(z):
    a, b = Client(z, "a"), Client(z, "b")
    check(a.lock() == [0, 1], "the first client gets both queues")
    check(b.lock() == [], "the second gets none of them")
    check(a.lock() == [0, 1], "the holder renews")
    head, _ = b.ask(42, body("b"))
    check(head["code"] == 0 and b.lock() == [], "only the holder unlocks")
    a.ask(42, body("a"))
    check(b.lock() == [0, 1], "what is unlocked is free")
    return a, b


def give_up(z, a, b):
    """b holds the locks: its group's message to the retry topic is dead; without a lock it is retried."""
    retry = {"a": "CLIENT_INNER_PRODUCER", "b": "%RETRY%" + GROUP, "c": "TBW102", "d": 4, "e": 0, "f": 0, "g": 1, "h": 0, "j": 1, "l": 16,
             "i": "UNIQ_KEY\x01AA01\x02RETRY_TOPIC\x01Order\x02DELAY\x014\x02RECONSUME_TIME\x011\x02"}
    head, _ = b.ask(310, b"given up", retry)
    check(head["code"] == 0, "the given-up message is taken", head)
    dead = pull_queue(z.addr, "%DLQ%" + GROUP, 0)
    check([m["body"] for m in dead] == [b"given up"] and "DELAY" not in dead[0]["props"], "while the group holds a lock it goes to the dead letter topic, at once", dead)
    head, got = remoting(z.ns, 105, {"topic": "%DLQ%" + GROUP})
    check(head.get("code") == 0, "whose route is known", head)
    b.ask(42, body("b"))
    head, _ = b.ask(310, b"again", retry)
    check(head["code"] == 0 and len(pull_queue(z.addr, "%DLQ%" + GROUP, 0)) == 1, "without a lock it is not dead", head)


def dead_client(client_lease, freed):
    z = Zarya(features=("admin", "query"), extra_plugins=f'{{ use = "feature-ordered"; settings = {{ client_lease = "{client_lease}"; }}; }}').start()
    create_topic(z.addr, "Order", 2)
    a, b = Client(z, "a"), Client(z, "b")
    check(a.lock() == [0, 1] and b.lock() == [], f"client_lease {client_lease}: the first client holds both queues")
    a.sock.close()
    got = wait_for(lambda: b.lock() == [0, 1], 3 if freed else 1)
    if freed:
        check(got, "a dead client's queues are free once it cannot believe in its locks any more")
    else:
        check(not got, "a client whose connection was lost keeps its queues while it believes in its locks")
    z.stop()


z = Zarya().start()
create_topic(z.addr, "Order", 2)
pair = locks(z)
give_up(z, *pair)
check(z.stop() == 0, "zarya stops cleanly", text_of(z.log)[-500:])
dead_client("30 s", False)
dead_client("100 ms", True)
done()
