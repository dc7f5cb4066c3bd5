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


def refused(z):
    """A request is done as a whole or not at all."""
    def ask(client, group, n, topic="Many", pad=0):
        body = {"clientId": client, "consumerGroup": group, "mqSet": [{"brokerName": "b", "queueId": q, "topic": topic} for q in range(n)], "pad": "x" * pad}
        head, answer = remoting(z.addr, 41, {}, json.dumps(body, separators=(",", ":")).encode())
        return len(json.loads(answer)["lockOKMQSet"]) if head["code"] == 0 else head["remark"]
    long = "n" * 255
    check(ask(long, long, 3, long) == 3, "names of 255 bytes are taken")
    check("255" in str(ask(long + "n", "LimitG", 1)) and "255" in str(ask("c", long + "n", 1)) and "255" in str(ask("c", "LimitG", 3, long + "n")), "longer ones are not")
    check(ask("c", "LimitG", 16384) == 16384, "16,384 queues are locked by one request")
    check("max_queues" in str(ask("c", "LimitG2", 16385)) and ask("d", "LimitG2", 1) == 1, "one more, and nothing is locked")
    check("1 MiB" in str(ask("c", "LimitG3", 3, pad=1 << 20)) and ask("d", "LimitG3", 3) == 3, "more than 1 MiB is not read")
    one = {"brokerName": "b", "queueId": 0, "topic": long}
    body = {"clientId": "c", "consumerGroup": "LimitG4", "mqSet": [one] + [{"$ref": "$.mqSet[0]"}] * 16383}
    head, _ = remoting(z.addr, 41, {}, json.dumps(body, separators=(",", ":")).encode())
    check("4 MiB" in str(head.get("remark")) and ask("d", "LimitG4", 1, long) == 1, "where the answer is too large nothing is locked", head)


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
    head, _ = a.ask(310, b"a member wants it again", retry)
    head2, _ = remoting(z.addr, 310, retry, b"so does somebody unknown")
    check(head["code"] == head2["code"] == 0 and len(pull_queue(z.addr, "%DLQ%" + GROUP, 0)) == 1, "another one's lock makes no dead letter of it", (head, head2))
    b.ask(42, body("b"))
    in_name = json.loads(body("a"))
    head, answer = b.ask(41, json.dumps(in_name).encode())
    check(head["code"] == 0 and len(json.loads(answer)["lockOKMQSet"]) == 2, "one locks in the other's name", head)
    head, _ = a.ask(310, b"and again", retry)
    check(head["code"] == 0 and len(pull_queue(z.addr, "%DLQ%" + GROUP, 0)) == 1, "nor does a lock that was taken in its name", head)
    b.ask(42, json.dumps(in_name).encode())
    head, _ = b.ask(310, b"again", retry)
    check(head["code"] == 0 and len(pull_queue(z.addr, "%DLQ%" + GROUP, 0)) == 1, "without a lock it is not dead", head)


def started(grace, client_lease="30 s"):
    z = Zarya(features=("admin", "query"), extra_plugins=f'{{ use = "feature-ordered"; settings = {{ grace = "{grace}"; client_lease = "{client_lease}"; }}; }}').start()
    create_topic(z.addr, "Order", 2)
    a, b = Client(z, "a"), Client(z, "b")
    check(a.lock() == [0, 1] and b.lock() == [], f"grace {grace}: the first client holds both queues")
    return z, a, b


def told(client, seconds=3):
    """Waits for a NOTIFY_CONSUMER_IDS_CHANGED."""
    client.sock.settimeout(seconds)
    try:
        while True:
            head, _ = read_frame(client.sock)
            if head["code"] == 40 and not head["flag"] & 1:
                return True
    except socket.timeout:
        return False
    finally:
        client.sock.settimeout(10)


def nameless(z):
    """Somebody from the same host who commits an offset without a heartbeat, as clients do every 5 s."""
    s = socket.create_connection(("127.0.0.1", z.port), 5)
    s.sendall(frame(15, {"consumerGroup": GROUP, "topic": "Order", "queueId": 0, "commitOffset": 0}))
    read_frame(s)
    return s


def leaving():
    z, a, b = started("30 s")
    a.ask(35, b"", {"clientID": "a", "consumerGroup": GROUP})
    check(b.lock() == [0, 1], "a client that leaves its group frees its queues at once")
    c = Client(z, "c")
    b.sock.close()
    check(not wait_for(lambda: c.lock() == [0, 1], 1), "a client whose connection was lost keeps its queues for the time of grace")
    z.stop()


def dying():
    z, a, b = started("1 s")
    while told(b, 0.2):
        pass
    a.sock.close()
    check(told(b) and told(b), "the others are told when a client is gone, and again when its queues are free")
    check(b.lock() == [0, 1], "and get them")
    lost = Client(z, "c")
    b.sock.close()
    b = Client(z, "b")  # the same client, on a new connection
    check(not wait_for(lambda: lost.lock() != [], 2), "a client that comes back within the grace keeps its queues")
    check(b.lock() == [0, 1], "and renews them")
    b.sock.close()
    nobody = socket.create_connection(("127.0.0.1", z.port), 5)  # consumes nothing
    nobody.sendall(frame(31, {"topic": "Order", "queueId": 0}))
    read_frame(nobody)
    check(wait_for(lambda: lost.lock() == [0, 1], 5), "other connections from its host do not keep them")
    lost.sock.close()
    lost = Client(z, "e")
    with nameless(z):
        check(not wait_for(lambda: lost.lock() != [], 2), "while somebody nameless from its host is there, it may live")
    z.stop()
    check("Sanitizer" not in text_of(z.log), "no sanitizer complains", text_of(z.log)[-3000:])


def doubtful():
    z, a, b = started("200 ms", "3 s")
    a.sock.close()
    with nameless(z):
        check(not wait_for(lambda: b.lock() != [], 1.5), "with a doubt left they are not free at once")
        check(wait_for(lambda: b.lock() == [0, 1], 10), "then its queues are free when it cannot believe in its locks any more")
    check(Client(z, "d").ask(35, b"", {"clientID": "d", "consumerGroup": GROUP})[0]["code"] == 0 and b.lock() == [0, 1], "who holds nothing frees nothing")
    z.stop()


def order_topic():
    """An ordered topic: the name server's order configuration travels with its route."""
    ns = Zarya(broker=False)
    ns.conf_text = text_of(ns.conf).replace('{ use = "routing-namesrv"; }', '{ use = "routing-namesrv"; settings = { order_message_enable = true; }; }')
    with open(ns.conf, "w") as f:
        f.write(ns.conf_text)
    ns.start()
    z = Zarya(namesrv=False, namesrv_addr=ns.ns).start()
    z.wait_registered()
    remoting(z.addr, 17, {"topic": "OrderT", "defaultTopic": "TBW102", "readQueueNums": 4, "writeQueueNums": 4, "perm": 6, "topicFilterType": "SINGLE_TAG",
                          "topicSysFlag": 0, "order": "true"})
    remoting(z.ns, 100, {"namespace": "ORDER_TOPIC_CONFIG", "key": "OrderT", "value": "broker-a:4"})
    route = wait_for(lambda: (lambda r: r[1] if r[0].get("code") == 0 else None)(remoting(z.ns, 105, {"topic": "OrderT"})))
    check(b'"orderTopicConf":"broker-a:4"' in (route or b""), "an ordered topic's route carries its order configuration", route)
    head, text = remoting(z.addr, 351, {"topic": "OrderT"})
    check(json.loads(text).get("order") is True, "and the broker knows it as ordered", text)
    z.stop()
    ns.stop()


z = Zarya().start()
create_topic(z.addr, "Order", 2)
pair = locks(z)
give_up(z, *pair)
refused(z)
check(z.stop() == 0, "zarya stops cleanly", text_of(z.log)[-500:])
leaving()
dying()
doubtful()
order_topic()
done()
