#!/usr/bin/env python3
"""Delayed messages: by level, in order, to their own topic and queue, once; sent back ones come again later and end in the dead
letter topic; none is lost by a stop or a crash."""
import os, sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
if len(sys.argv) > 1 and os.path.isdir(sys.argv[1]):
    os.environ["ZARYA_BUILD"] = os.path.abspath(sys.argv[1])
from zarya import *

SCHEDULE = "SCHEDULE_TOPIC_XXXX"
LEVELS = "1s 2s 50ms 100ms 150ms 5s 4s"
MANY = 2000


def delayed(topic, queue, body, level=None, opaque=1, batch=False, tran=0, sysflag=0, **props):
    text = f"UNIQ_KEY\x01{opaque:032X}\x02WAIT\x01true\x02TAGS\x01tt\x02"
    if level is not None:
        text += f"DELAY\x01{level}\x02"
    text += "".join(f"{k}\x01{v}\x02" for k, v in props.items())
    return frame(320 if batch else 310, {"a": "PG", "b": topic, "c": "TBW102", "d": 4, "e": queue, "f": sysflag, "g": 1700000000123, "h": 7, "i": text,
                                         "j": 0, "k": "false", "m": "true" if batch else "false"}, body, opaque=opaque)


def ask(addr, request):
    host, port = addr.rsplit(":", 1)
    with socket.create_connection((host, int(port)), 5) as s:
        s.settimeout(10)
        s.sendall(request)
        return read_frame(s)[0]


def send_many(addr, topic, n, level, first=0):
    """n delayed messages on one connection; the bodies of those that were acknowledged."""
    host, port = addr.rsplit(":", 1)
    acked = set()
    with socket.create_connection((host, int(port)), 5) as s:
        s.settimeout(20)
        for begin in range(first, first + n, 50):
            end = min(begin + 50, first + n)
            s.sendall(b"".join(delayed(topic, i % 4, b"%d" % i, level, i) for i in range(begin, end)))
            for _ in range(begin, end):
                head, _ = read_frame(s)
                if head["code"] == 0:
                    acked.add(b"%d" % head["opaque"])
    return acked


def bodies(addr, topic):
    return [m["body"] for q in pull_all(addr, topic).values() for m in q]


def first(addr, topic, queue=0, seconds=20):
    wait_for(lambda: pull_queue(addr, topic, queue), seconds)
    return pull_queue(addr, topic, queue)


def saved(z):
    try:
        return open(os.path.join(z.data, "config/delayOffset.json")).read()
    except OSError:
        return ""


def level_play(z):
    create_topic(z.addr, "T", 4)
    began = time.time()
    check(ask(z.addr, delayed("T", 2, b"hello", 1))["code"] == 0, "a delayed message is taken")
    check(pull_queue(z.addr, "T", 2) == [], "it is not there before its time")
    got = first(z.addr, "T", 2)
    took = time.time() - began
    check(len(got) == 1 and took >= 0.95, "it comes, and not before its time", (got, took))
    m, p = got[0], got[0]["props"]
    check(m["body"] == b"hello" and m["queue"] == 2 and m["topic"] == "T" and m["offset"] == 0, "its body, topic and queue are its own", m)
    check(p.get("TAGS") == "tt" and p.get("UNIQ_KEY") == f"{1:032X}", "its properties are there", p)
    check((p.get("DELAY"), p.get("REAL_TOPIC"), p.get("REAL_QID")) == ("1", "T", "2"), "as are those of the delay, as with Apache's broker", p)
    held = pull_queue(z.addr, SCHEDULE, 0)
    check(len(held) == 1 and held[0]["props"].get("REAL_TOPIC") == "T", "the held one is in the queue of its level", held)
    pulled, body = remoting(z.addr, 11, {"consumerGroup": "G", "topic": "T", "queueId": 2, "queueOffset": 0, "maxMsgNums": 32, "sysFlag": 4, "commitOffset": 0,
                                         "suspendTimeoutMillis": 0, "subscription": "tt", "subVersion": 1, "expressionType": "TAG"})
    check(pulled["code"] == 0 and len(records(body)) == 1, "its tag finds it", pulled)
    check(wait_for(lambda: re.search(r'"offsetTable":\{\s*1:1\s*\}', saved(z)), 5), "the offset is saved as Apache saves it", saved(z))


def refusal_play(z):
    item = b"DELAY\x013\x02"
    body = struct.pack(">iiiii", 22 + 1 + len(item), 0, 0, 0, 1) + b"x" + struct.pack(">h", len(item)) + item
    head = ask(z.addr, delayed("T", 0, body, batch=True))
    check(head["code"] == 13, "a batch with a delayed message is refused", head)
    check(pull_queue(z.addr, "T", 0) == [], "nothing of these was stored")
    check(ask(z.addr, delayed("T", 0, b"both", 3, TIMER_DELAY_SEC="5"))["code"] == 0, "a level beside it wins")
    check("TIMER_DELAY_SEC" not in first(z.addr, "T", 0)[0]["props"], "and TIMER_DELAY_SEC goes")
    check(ask(z.addr, delayed("T", 0, b"bad", "x"))["code"] == 13, "a DELAY that is no number is refused")
    check(ask(z.addr, delayed("T", 0, b"none", "0"))["code"] == 0 and len(pull_queue(z.addr, "T", 0)) == 2, "level 0 is no delay")
    create_topic(z.addr, "CLIP", 4)
    check(ask(z.addr, delayed("CLIP", 0, b"clip", 99))["code"] == 0, "a level above the last is taken")
    check(len(pull_queue(z.addr, SCHEDULE, 6)) == 1 and pull_queue(z.addr, SCHEDULE, 6)[0]["props"]["DELAY"] == "7", "as the last")
    create_topic(z.addr, "GONE", 4)
    check(ask(z.addr, delayed("GONE", 0, b"gone", 4))["code"] == 0 and remoting(z.addr, 215, {"topic": "GONE"})[0]["code"] == 0 and
          ask(z.addr, delayed("CLIP", 1, b"after", 4))["code"] == 0, "a topic is removed while a message for it waits")
    check([m["body"] for m in first(z.addr, "CLIP", 1)] == [b"after"] and "its topic was removed" in text_of(z.log), "those behind it come, and the log tells")
    create_topic(z.addr, "SHRINK", 4)
    check(ask(z.addr, delayed("SHRINK", 3, b"s", 4))["code"] == 0 and create_topic(z.addr, "SHRINK", 1) and len(first(z.addr, "SHRINK", 0)) == 1,
          "one whose queue is gone goes to another of its topic")


def back_play(z):
    create_topic(z.addr, "B", 1)
    check(ask(z.addr, delayed("B", 0, b"fails"))["code"] == 0, "a message to fail with")
    m = first(z.addr, "B")[0]
    for times in range(3):  # level 3, 4, 5: 50, 100, 150 ms
        began = time.time()
        head, _ = remoting(z.addr, 36, {"group": "BG", "offset": m["physical"], "delayLevel": 0, "originMsgId": "", "originTopic": "B", "unitMode": "false", "maxReconsumeTimes": 3})
        n = len(pull_queue(z.addr, "%RETRY%BG", 0))
        check(head["code"] == 0, "it is sent back", head)
        wait_for(lambda: len(pull_queue(z.addr, "%RETRY%BG", 0)) > times, 10)
        again = pull_queue(z.addr, "%RETRY%BG", 0)
        check(len(again) == times + 1 and time.time() - began >= 0.05 * (times + 1) - 0.005, f"and comes again after its delay ({times + 1})", (n, again))
        m = again[-1]
        check(m["props"].get("RETRY_TOPIC") == "B" and m["props"].get("DELAY") == str(3 + times), "its level grows", m["props"])
    head, _ = remoting(z.addr, 36, {"group": "BG", "offset": m["physical"], "delayLevel": 0, "originMsgId": "", "originTopic": "B", "unitMode": "false", "maxReconsumeTimes": 3})
    dead = first(z.addr, "%DLQ%BG")
    check(head["code"] == 0 and len(dead) == 1 and dead[0]["body"] == b"fails", "after too many times it is in the dead letter topic", dead)


def many_play(z):
    create_topic(z.addr, "MANY", 4)
    acked = send_many(z.addr, "MANY", MANY, 1)
    check(len(acked) == MANY, f"{MANY} delayed messages are taken", len(acked))
    wait_for(lambda: len(bodies(z.addr, "MANY")) >= MANY, 30, 0.2)
    got = bodies(z.addr, "MANY")
    check(len(got) == MANY and set(got) == acked, "each comes once", (len(got), len(set(got))))
    check(all([int(b) for b in (m["body"] for m in q)] == sorted(int(m["body"]) for m in q) for q in pull_all(z.addr, "MANY").values()), "in their order")


def restart_play(z):
    create_topic(z.addr, "R", 4)
    acked = send_many(z.addr, "R", 200, 2)
    check(len(acked) == 200 and z.stop() == 0, "the broker stops while messages wait")
    z.start()
    wait_for(lambda: len(bodies(z.addr, "R")) >= 200, 30, 0.1)
    got = bodies(z.addr, "R")
    check(len(got) == 200 and set(got) == acked, "each comes once after it is back", (len(got), len(set(got))))
    create_topic(z.addr, "R2", 4)
    acked = send_many(z.addr, "R2", MANY, 1)
    wait_for(lambda: bodies(z.addr, "R2"), 20, 0.002)
    check(z.stop() == 0, "it stops in the middle of a delivery")
    z.start()
    wait_for(lambda: len(bodies(z.addr, "R2")) >= MANY, 30, 0.1)
    got = bodies(z.addr, "R2")
    check(len(got) == MANY and set(got) == acked, "and each comes once", (len(got), len(set(got))))


def crash_play(z):
    """Killed in the middle of a delivery: what was delivered and not saved is found in the log, so each comes once."""
    create_topic(z.addr, "K", 4)
    acked = send_many(z.addr, "K", MANY, 1)
    acked |= send_many(z.addr, "K", 100, 6, MANY)
    wait_for(lambda: bodies(z.addr, "K"), 20, 0.005)
    z.kill()
    z.start()
    wait_for(lambda: len(set(bodies(z.addr, "K"))) >= MANY + 100, 40, 0.2)
    got = bodies(z.addr, "K")
    check(set(got) == acked and len(acked) == MANY + 100, "none is lost by a crash", (len(acked), len(set(got))))
    check(len(got) == MANY + 100, "and each comes once", len(got))
    wait_for(lambda: "1:" in saved(z), 5)
    time.sleep(1.2)  # the offset is saved at most a second after a delivery
    z.kill()
    z.start()
    again = ask(z.addr, delayed("K", 0, b"99999", 3))
    wait_for(lambda: b"99999" in bodies(z.addr, "K"), 10)
    check(again["code"] == 0 and len(bodies(z.addr, "K")) == len(got) + 1, "what was saved does not come again", (len(got), len(bodies(z.addr, "K"))))


def damage_play(z):
    """config/delayOffset.json and its .bak deleted, emptied, zeroed, cut and filled with rubbish, while some left and some wait."""
    path, n = os.path.join(z.data, "config/delayOffset.json"), 300

    def each(change):
        for p in (path, path + ".bak"):
            change(p) if os.path.exists(p) else open(p, "wb").close()

    def write(p, text):
        with open(p, "wb") as f:
            f.write(text)

    damages = (("deleted", lambda p: os.unlink(p)), ("empty", lambda p: write(p, b"")), ("zeroed", lambda p: write(p, bytes(os.path.getsize(p)))),
               ("cut", lambda p: os.truncate(p, os.path.getsize(p) // 2)), ("rubbish", lambda p: write(p, os.urandom(200))))
    for what, change in damages:
        topic = "D" + what
        create_topic(z.addr, topic, 4)
        acked = send_many(z.addr, topic, n, 3) | send_many(z.addr, topic, n, 1, n) | send_many(z.addr, topic, 50, 7, 2 * n)
        wait_for(lambda: len(bodies(z.addr, topic)) > n, 20, 0.002)  # the first level has left, the second is leaving, the third waits
        z.kill()
        each(change)
        z.start()
        wait_for(lambda: len(set(bodies(z.addr, topic))) >= len(acked), 30, 0.1)
        got = bodies(z.addr, topic)
        check(len(acked) == 2 * n + 50 and set(got) == acked and len(got) == len(acked), f"offsets {what}, after a kill: each comes once", (len(acked), len(set(got)), len(got)))
        check(what == "deleted" or "how far each delay level got is looked for in the log" in text_of(z.log), f"offsets {what}: the log says so")


def sync_play():
    z = Zarya(features=("admin", "ordered", "query"), extra_plugins=f'{{ use = "feature-delay"; settings = {{ delay_levels = "{LEVELS}"; }}; }}', storage='flush = "sync";').start()
    create_topic(z.addr, "MANY", 4)
    acked = send_many(z.addr, "MANY", 300, 3)
    wait_for(lambda: len(bodies(z.addr, "MANY")) >= 300, 30, 0.1)
    got = bodies(z.addr, "MANY")
    check(len(got) == 300 and set(got) == acked, "with sync flush each comes once", (len(got), len(set(got)), len(acked)))
    check(z.stop() == 0, "it stops cleanly")


def smaller_play():
    """maxMessageSize is lowered while large messages pend: they were taken, so they come; only new ones are refused."""
    def broker(size, **more):
        return Zarya(features=("admin", "ordered", "query", "transaction"), extra_plugins=f'{{ use = "feature-delay"; settings = {{ delay_levels = "{LEVELS}"; }}; }}',
                     broker_conf=f"maxMessageSize = {size};", storage=f"max_message_size = {size};", **more).start()

    z, big = broker(4194304), b"x" * 200000
    create_topic(z.addr, "BIG", 4)
    due = str(int(time.time() * 1000) + 4000)
    sent = [ask(z.addr, delayed("BIG", q, body, opaque=q + 1, sysflag=4 if "TRAN_MSG" in p else 0, **p))
            for q, body, p in ((0, big, {"level": 7}), (1, big, {"TIMER_DELIVER_MS": due}), (2, big, {"TRAN_MSG": "true", "PGROUP": "PG"}), (3, b"small", {"level": 7}))]
    check([h["code"] for h in sent] == [0] * 4 and z.stop() == 0, "large messages pend: by level, by time, and a half one", sent)
    z = broker(1024, directory=z.dir, ports=(z.port, z.ns_port))
    check(ask(z.addr, delayed("BIG", 0, big))["code"] == 13, "with a smaller maxMessageSize such a one is refused")
    at = sent[2]["extFields"]
    head = remoting(z.addr, 37, {"producerGroup": "PG", "tranStateTableOffset": at["queueOffset"], "commitLogOffset": int(at["msgId"][-16:], 16), "commitOrRollback": 8,
                                 "fromTransactionCheck": "false", "msgId": "x", "transactionId": "x"})[0]
    check(head["code"] == 0, "the half one can be committed", head)
    wait_for(lambda: len(bodies(z.addr, "BIG")) >= 4, 20, 0.1)
    got = pull_all(z.addr, "BIG")
    check([[len(m["body"]) for m in got[q]] for q in range(4)] == [[200000], [200000], [200000], [5]], "what was taken before comes, once each", {q: [len(m["body"]) for m in got[q]] for q in got})
    m = got[0][0]
    head = remoting(z.addr, 36, {"group": "BG", "offset": m["physical"], "delayLevel": 3, "originMsgId": "", "originTopic": "BIG", "unitMode": "false", "maxReconsumeTimes": 3})[0]
    check(head["code"] == 0 and len(first(z.addr, "%RETRY%BG")) == 1, "a consumer can give it back", head)
    check(z.stop() == 0, "it stops cleanly")


z = Zarya(features=("admin", "ordered", "query"), extra_plugins=f'{{ use = "feature-delay"; settings = {{ delay_levels = "{LEVELS}"; }}; }}').start()
level_play(z)
refusal_play(z)
back_play(z)
many_play(z)
restart_play(z)
crash_play(z)
damage_play(z)
check(z.stop() == 0, "it stops cleanly")
sync_play()
smaller_play()
done()
