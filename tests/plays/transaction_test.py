#!/usr/bin/env python3
"""Transactions, by hand: half messages nobody sees, their producer's word with Apache's checks, check-backs to live producers with
Apache's limits, what is open across a stop and a crash, a broker without the plugin, ten thousand open."""
import os, sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
if len(sys.argv) > 1 and os.path.isdir(sys.argv[1]):
    os.environ["ZARYA_BUILD"] = os.path.abspath(sys.argv[1])
from zarya import *

HALF, OP, GIVEN_UP = "RMQ_SYS_TRANS_HALF_TOPIC", "RMQ_SYS_TRANS_OP_HALF_TOPIC", "TRANS_CHECK_MAX_TIME_TOPIC"
COMMIT, ROLLBACK, UNKNOWN = 8, 12, 0
OPEN_MANY = 10000


def broker(directory=None, ports=None, plugin=True, more="", **settings):
    s = {"timeout": '"400 ms"', "check_interval": '"400 ms"', "count_interval": '"200 ms"', **settings}
    extra = f'{{ use = "feature-transaction"; settings = {{ {" ".join(f"{k} = {v};" for k, v in s.items())} }}; }}' if plugin else ""
    z = Zarya(directory=directory, ports=ports, features=("admin", "ordered", "query", "delay"), extra_plugins=extra, storage=more)
    t = threading.Thread(target=first_word, args=(z,), daemon=True) if plugin else None
    if t:
        t.start()
    z.start()
    if t:
        t.join(20)
    return z


first_codes = []


def first_word(z):
    """The first request that the broker's port takes is END_TRANSACTION: it finds the plugin at work."""
    until = time.time() + 20
    while time.time() < until:
        try:
            c = Conn(z.addr)
            opaque = c.send(37, {"producerGroup": "PG", "tranStateTableOffset": 9999, "commitLogOffset": 0, "commitOrRollback": COMMIT, "msgId": "x"})
            head, _ = c.answer(opaque)
            first_codes.append(head["code"])
            return c.sock.close()
        except OSError:
            time.sleep(0.0005)


def half_frame(n, body, topic="T", queue=2, group="PG", tran="true", sysflag=4, opaque=0, batch=False, **props):
    text = f"UNIQ_KEY\x01{n:032X}\x02WAIT\x01true\x02TAGS\x01tt\x02PGROUP\x01{group}\x02" + (f"TRAN_MSG\x01{tran}\x02" if tran else "")
    text += "".join(f"{k}\x01{v}\x02" for k, v in props.items())
    return 320 if batch else 310, {"a": group, "b": topic, "c": "TBW102", "d": 4, "e": queue, "f": sysflag, "g": int(time.time() * 1000), "h": 7, "i": text, "j": 0,
                                   "k": "false", "m": "true" if batch else "false"}, body


def half(c, n, body=None, **more):
    return c.ask(*half_frame(n, b"%d" % n if body is None else body, **more))[0]


def place(head):
    e = head["extFields"]
    return int(e["queueOffset"]), int(e["msgId"][-16:], 16)


def end(c, at, what=COMMIT, group="PG", check=False, seconds=None, **more):
    ext = {"producerGroup": group, "tranStateTableOffset": at[0], "commitLogOffset": at[1], "commitOrRollback": what, "fromTransactionCheck": "true" if check else "false",
           "msgId": "x", "transactionId": "x", "topic": "T", "bname": "broker-a", **more}
    return c.ask(37, {k: v for k, v in ext.items() if v is not None}, seconds=seconds)[0]


def beat(c, group="PG", client="c1"):
    body = json.dumps({"clientID": client, "consumerDataSet": [], "producerDataSet": [{"groupName": group}]}).encode()
    return c.ask(34, {}, body)[0]["code"] == 0


def asks(c, seconds):
    """The checks that came on a connection since the last call, after reading for as long."""
    until = time.time() + seconds
    while time.time() < until and c.read(until - time.time()):
        pass
    found = [(h, b) for h, b in c.seen if h["code"] == 39 and not h["flag"] & 1]
    c.seen = []
    return found


def bodies(addr, topic="T"):
    return [m["body"] for q in pull_all(addr, topic).values() for m in q]


def stats(z):
    ask = lambda: subprocess.run([tool("zaryactl"), "--data", z.data, "transaction", "stats", "--json"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True).stdout
    text = ask()
    try:
        return json.loads(text)
    except ValueError:
        return {"text": text}


def opened(z):
    return stats(z).get("open")


def saved(z, topic=HALF):
    try:
        table = re.sub(r"([{,]\s*)(\d+):", r'\1"\2":', open(os.path.join(z.data, "config/consumerOffset.json")).read())
        return json.loads(table)["offsetTable"].get(f"{topic}@CID_RMQ_SYS_TRANS", {}).get("0")
    except (OSError, ValueError):
        return None


def word_play(z):
    create_topic(z.addr, "T", 4)
    c = Conn(z.addr)
    h = [half(c, n) for n in range(6)]
    check(all(x["code"] == 0 and x["extFields"]["queueId"] == "2" and x["extFields"]["queueOffset"] == str(i) and x["extFields"]["transactionId"] == f"{i:032X}"
              for i, x in enumerate(h)), "half messages are taken, with their place in the half queue", h[0])
    at = [place(x) for x in h]
    check(bodies(z.addr) == [], "nobody sees them")
    m = pull_queue(z.addr, HALF, 0)[0]
    check(m["props"].get("REAL_TOPIC") == "T" and m["props"].get("REAL_QID") == "2" and m["props"].get("__transactionId__") == f"{0:032X}" and m["sysflag"] == 0 and
          m["props"].get("TRAN_MSG") == "true", "they are in the half topic as Apache holds them", m)
    check(end(c, at[0])["code"] == 0, "a commit is answered")
    got = pull_queue(z.addr, "T", 2)
    check(len(got) == 1 and got[0]["body"] == b"0" and got[0]["sysflag"] == 8, "and there it is, in its topic and queue", got)
    p = got[0]["props"]
    check("REAL_TOPIC" not in p and "REAL_QID" not in p and p.get("TRAN_MSG") == "true" and p.get("PGROUP") == "PG" and p.get("__transactionId__") == f"{0:032X}" and
          p.get("TAGS") == "tt", "with the properties that Apache leaves", p)
    check(end(c, at[1], ROLLBACK)["code"] == 0 and len(bodies(z.addr)) == 1, "one that is rolled back never comes")
    check(end(c, at[0])["code"] == 0 and end(c, at[1], ROLLBACK)["code"] == 0 and len(bodies(z.addr)) == 1, "the word said again does nothing again")
    against = [end(c, at[0], ROLLBACK), end(c, at[1], COMMIT)]
    check([h["code"] for h in against] == [604, 604] and "committed before" in against[0]["remark"] and "rolled back before" in against[1]["remark"] and len(bodies(z.addr)) == 1,
          "the other word after it is refused", against)
    noted = lambda: [m for m in pull_queue(z.addr, OP, 0) if {k: v for k, v in m["props"].items() if k != "ROLLED_BACK"} == {"TAGS": "d", "WAIT": "false"} and re.fullmatch(rb"(\d+,)+", m["body"])]
    check(wait_for(lambda: {"0", "1"} <= {x for m in noted() for x in m["body"].decode().split(",")}, 10), "both are noted in the op queue, as Apache notes them",
          pull_queue(z.addr, OP, 0))
    check(end(c, at[2], UNKNOWN, seconds=0.3) == {}, "\"unknown\" gets no answer")
    wrong = lambda *a, **k: (lambda r: (r.get("code"), r.get("remark")))(end(c, *a, **k))
    check(wrong(at[2], 7) == (1, "commitOrRollback field wrong"), "nor is there another word", wrong(at[2], 7))
    check(wrong(at[2], group="X") == (1, "The producer group wrong"), "another group is refused")
    check(wrong((77, at[2][1])) == (1, "The transaction state table offset wrong"), "so is another queue offset")
    check(wrong((at[2][0], at[3][1])) == (1, "The transaction state table offset wrong"), "and another record")
    for bad in (3, -1, 1 << 40, (1 << 63) - 1, got[0]["physical"]):
        check(wrong((at[2][0], bad)) == (1, "Find prepared transaction message failed"), f"no half record begins at {bad}", wrong((at[2][0], bad)))
    check(wrong((-1, at[2][1]))[0] == 1 and wrong(at[2], commitLogOffset="x")[0] == 1 and wrong(at[2], producerGroup=None)[0] == 1 and
          wrong(at[2], tranStateTableOffset=None)[0] == 1 and wrong(at[2], commitOrRollback=None)[0] == 1 and wrong(at[2], group="g" * 300)[0] == 1, "malformed ones are refused")
    check(end(c, at[2], msgId=None, transactionId=None, topic=None, bname=None, fromTransactionCheck=None)["code"] == 0 and b"2" in bodies(z.addr), "what Apache does not need may be missing")
    item = b"TRAN_MSG\x01true\x02"
    batch = struct.pack(">iiiii", 22 + 1 + len(item), 0, 0, 0, 1) + b"x" + struct.pack(">h", len(item)) + item
    check(half(c, 90, batch, batch=True)["code"] == 13, "a batch is refused")
    check(half(c, 91, tran=None, sysflag=0)["code"] == 0 and b"91" in bodies(z.addr), "an ordinary message is none")
    check(half(c, 92, tran="TRUE", sysflag=0)["code"] == 0 and b"92" not in bodies(z.addr), "TRAN_MSG alone makes one")
    check(half(c, 93, tran="false", sysflag=0)["code"] == 0 and b"93" in bodies(z.addr), "unless it is false")
    head = half(c, 94, b"late", DELAY="1")
    began = time.time()
    check(head["code"] == 0 and end(c, place(head))["code"] == 0 and b"late" not in bodies(z.addr) and wait_for(lambda: b"late" in bodies(z.addr), 20) and time.time() - began > 0.8,
          "one with a delay level is delayed from its commit on")
    create_topic(z.addr, "GONE", 1)
    head = half(c, 95, topic="GONE", queue=0)
    check(remoting(z.addr, 215, {"topic": "GONE"})[0]["code"] == 0 and end(c, place(head))["code"] == 17, "one whose topic was removed cannot be committed now")
    check(create_topic(z.addr, "GONE", 1) and end(c, place(head))["code"] == 0 and len(pull_queue(z.addr, "GONE", 0)) == 1, "and can when it is back")
    head = half(c, 96, CHECK_IMMUNITY_TIME_IN_SECONDS="1")
    time.sleep(1.2)
    check(end(c, place(head))["code"] == 604 and end(c, place(head), check=True)["code"] == 0, "too late for its own time it must come from a check")
    for p in [x for x in at[3:]] + [place(half(c, 97))]:
        end(c, p, ROLLBACK)
    c.close()


def check_play(z):
    create_topic(z.addr, "C", 4)
    a, b = Conn(z.addr), Conn(z.addr)
    check(beat(a, "CG", "ca") and beat(b, "CG", "cb"), "two producers of a group")
    h = half(a, 200, b"asked", topic="C", group="CG")
    at = place(h)
    asked = wait_for(lambda: a.pushed(39, 0.05) + b.pushed(39, 0.05), 20)
    check(asked, "one of them is asked")
    head, body = asked[0]
    e, m = head["extFields"], records(body)[0]
    check(head["flag"] & 2 and e["topic"] == HALF and e["msgId"] == e["transactionId"] == f"{200:032X}" and e["bname"] == "broker-a" and int(e["tranStateTableOffset"]) > at[0] and
          int(e["offsetMsgId"][-16:], 16) == int(e["commitLogOffset"]), "one-way, by the offsets of the message that was written anew", e)
    check(m["body"] == b"asked" and m["topic"] == "C" and m["queue"] == 2 and m["props"].get("TRANSACTION_CHECK_TIMES") == "1" and m["props"].get("PGROUP") == "CG" and
          m["offset"] == int(e["tranStateTableOffset"]), "with the message, its topic and queue its own", m)
    of_a, of_b = a.pushed(39), b.pushed(39)
    a.seen, b.seen = [], []
    wait_for(lambda: (of_a.extend(asks(a, 0.1)), of_b.extend(asks(b, 0.1))) and of_a and of_b, 20)
    check(of_a and of_b, "who says nothing is asked again, and the other one too")
    check(end(a, at, group="CG")["code"] == 0 and [x["body"] for x in pull_queue(z.addr, "C", 2)] == [b"asked"], "the first producer's word counts still")
    late = [h["extFields"] for h, _ in of_a + of_b + asks(a, 0.1) + asks(b, 0.1)]
    check(all(end(b, (int(x["tranStateTableOffset"]), int(x["commitLogOffset"])), group="CG", check=True)["code"] == 0 for x in late) and len(pull_queue(z.addr, "C", 2)) == 1,
          "answers to the checks that come too late do not deliver it again", late)
    asks(a, 0.1), asks(b, 0.1)
    check(asks(a, 0.5) == [] and asks(b, 0.5) == [] and opened(z) == 0, "nobody is asked any more", stats(z))
    dead = half(a, 201, b"dead", topic="C", group="NOBODY")
    own = half(a, 202, b"own", topic="C", group="CG")
    check(end(a, place(own), group="CG")["code"] == 0 and b"own" in bodies(z.addr, "C"), "a dead producer's message does not hold up others")
    given_up = wait_for(lambda: pull_queue(z.addr, GIVEN_UP, 0), 30)
    check(given_up and given_up[0]["body"] == b"dead" and given_up[0]["props"]["TRANSACTION_CHECK_TIMES"] == "3" and given_up[0]["props"]["REAL_TOPIC"] == "C",
          "after as many checks as are allowed it is in the topic for those", given_up)
    check(wait_for(lambda: opened(z) == 0 and saved(z) == stats(z)["half_end"] and stats(z)["op_saved"] == len(pull_queue(z.addr, OP, 0)), 20),
          "and the queues' offsets are at their ends, where Apache looks for them", (stats(z), saved(z)))
    beat(b, "NOBODY", "cn")
    id_ = f"7F000001{z.port:08X}{given_up[0]['physical']:016X}"
    check(remoting(z.addr, 323, {"topic": GIVEN_UP, "msgId": id_})[0]["code"] == 0, "it is resumed")
    asked = wait_for(lambda: [(h, m) for h, m in asks(b, 0.1) if records(m)[0]["body"] == b"dead"], 20)
    x = asked[0][0]["extFields"] if asked else {"tranStateTableOffset": 0, "commitLogOffset": 0}
    check(asked and end(b, (int(x["tranStateTableOffset"]), int(x["commitLogOffset"])), group="NOBODY", check=True)["code"] == 0 and b"dead" in bodies(z.addr, "C"), "and its producer is asked, and commits")
    check(remoting(z.addr, 323, {"topic": "T", "msgId": "zz"})[0]["code"] == 1 and remoting(z.addr, 323, {"topic": "T", "msgId": id_[:-1] + "1"})[0]["code"] == 1 and
          remoting(z.addr, 323, {})[0]["code"] == 1, "what is no half message is not resumed")
    check(end(a, place(dead), group="NOBODY")["code"] == 0, "its first word may come late")
    check(wait_for(lambda: '"C":{"count":0' in text_of(z.data + "/config/transactionMetrics") and '"T":{"count":0' in text_of(z.data + "/config/transactionMetrics"), 20),
          "config/transactionMetrics says how many are open", text_of(z.data + "/config/transactionMetrics"))
    a.close()
    b.close()


def at_once_play():
    """Words about half messages that have no slot in the table any more; and what was said before a start."""
    z = broker(check_max=0, timeout='"300 ms"', op_interval='"100 ms"')
    create_topic(z.addr, "T", 4)
    c = Conn(z.addr)
    at = [place(half(c, n)) for n in (300, 301)]
    check(wait_for(lambda: len(pull_queue(z.addr, GIVEN_UP, 0)) == 2, 20), "two are given up at once")
    many = [Conn(z.addr) for _ in range(8)]
    for n in range(2):
        sent = [(x, x.send(37, {"producerGroup": "PG", "tranStateTableOffset": at[n][0], "commitLogOffset": at[n][1], "commitOrRollback": COMMIT, "msgId": "x"})) for x in many]
        codes = [x.answer(opaque)[0].get("code") for x, opaque in sent]
        check(0 in codes and set(codes) <= {0, 2}, "eight commits of it at once: done, or busy", codes)
        check(end(c, at[n])["code"] == 0 and end(c, at[n], ROLLBACK)["code"] == 604, "and once more later")
    check(sorted(bodies(z.addr)) == [b"300", b"301"], "each came once", bodies(z.addr))
    check(z.stop() == 0 and "Sanitizer" not in text_of(z.log), "it stops cleanly", text_of(z.log)[-800:])
    z = broker(z.dir, (z.port, z.ns_port), timeout='"60 s"', check_max=100, op_interval='"100 ms"')
    c = Conn(z.addr)
    back, kept = place(half(c, 302)), place(half(c, 303))
    check(end(c, back, ROLLBACK)["code"] == 0 and wait_for(lambda: any(b"%d," % back[0] in m["body"] for m in pull_queue(z.addr, OP, 0)), 10), "one is rolled back")
    check(z.stop() == 0, "it stops cleanly", text_of(z.log)[-800:])
    z = broker(z.dir, (z.port, z.ns_port), more="index = false;", timeout='"60 s"', check_max=100)
    c = Conn(z.addr)
    head = end(c, back)
    check(head["code"] == 604 and "rolled back before" in head["remark"] and sorted(bodies(z.addr)) == [b"300", b"301"], "after a start without an index it still cannot be committed", head)
    check(z.stop() == 0, "it stops cleanly", text_of(z.log)[-800:])
    z = broker(z.dir, (z.port, z.ns_port), timeout='"60 s"', check_max=100)
    c = Conn(z.addr)
    head = end(c, back)
    check(head["code"] == 604 and "rolled back before" in head["remark"], "after a start it still cannot be committed", head)
    check(end(c, kept)["code"] == 0 and end(c, at[0])["code"] == 0 and wait_for(lambda: sorted(bodies(z.addr)) == [b"300", b"301", b"303"], 10), "one that was open can, and what was committed does not come again", bodies(z.addr))
    given_up(z)


def given_up(z):
    """One that was given up before the start can be committed behind it."""
    check(z.stop() == 0, "it stops cleanly", text_of(z.log)[-800:])
    z = broker(z.dir, (z.port, z.ns_port), check_max=0, timeout='"300 ms"', op_interval='"100 ms"')
    c = Conn(z.addr)
    before = len(pull_queue(z.addr, GIVEN_UP, 0))
    at = place(half(c, 304))
    check(wait_for(lambda: len(pull_queue(z.addr, GIVEN_UP, 0)) > before, 20), "one more is given up")
    check(z.stop() == 0, "it stops cleanly", text_of(z.log)[-800:])
    z = broker(z.dir, (z.port, z.ns_port), timeout='"60 s"')
    c = Conn(z.addr)
    check(end(c, at)["code"] == 0 and b"304" in bodies(z.addr), "and committed after a start", bodies(z.addr))
    check(z.stop() == 0 and "Sanitizer" not in text_of(z.log), "it stops cleanly", text_of(z.log)[-800:])


def open_many(addr, n, first=0, topic="M", group="MG"):
    """n half messages on one connection; their places."""
    c, places = Conn(addr, 60), []
    for begin in range(first, first + n, 100):
        ids = [c.send(*half_frame(i, b"%d" % i, topic=topic, queue=i % 4, group=group)) for i in range(begin, min(begin + 100, first + n))]
        places += [place(c.answer(i)[0]) for i in ids]
        c.seen = []
    return c, places


def restart_play():
    """Some of each kind are open when the broker is stopped, or killed; then their producer is back and commits all that are open."""
    for how in ("stop", "kill"):
        z = broker(check_max=100)
        create_topic(z.addr, "M", 4)
        c, at = open_many(z.addr, 300)
        for i, p in enumerate(at):
            if i % 3:
                c.send(37, {"producerGroup": "MG", "tranStateTableOffset": p[0], "commitLogOffset": p[1], "commitOrRollback": COMMIT if i % 3 == 1 else ROLLBACK,
                            "fromTransactionCheck": "false", "msgId": "x"})
        check(wait_for(lambda: opened(z) == 100, 20) is not None and wait_for(lambda: stats(z)["ops_waiting_bytes"] == 0, 10), f"{how}: a third is open", stats(z))
        c.close()
        check(z.stop() == 0 if how == "stop" else z.kill() is not None, how)
        z.start()
        check(wait_for(lambda: opened(z) == 100, 20), f"after the {how} the same are open", stats(z))
        c = Conn(z.addr)
        beat(c, "MG", "m1")
        done = set()
        until = time.time() + 40
        while opened(z) and time.time() < until:
            for head, body in asks(c, 0.2):
                e = head["extFields"]
                if e["msgId"] not in done:
                    done.add(e["msgId"])
                    c.send(37, {"producerGroup": "MG", "tranStateTableOffset": e["tranStateTableOffset"], "commitLogOffset": e["commitLogOffset"], "commitOrRollback": COMMIT,
                                "fromTransactionCheck": "true", "msgId": e["msgId"]})
        got = sorted(int(b) for b in bodies(z.addr, "M"))
        check(got == [i for i in range(300) if i % 3 != 2], f"{how}: what was committed came once, what was rolled back never, and those open came by their check", (len(got), len(done)))
        c.close()
        # Some are open while the broker runs without the plugin.
        c, at = open_many(z.addr, 4, 1000)
        z.stop()
        check(True, f"{how}: stopped again")
        z2 = broker(directory=z.dir, ports=(z.port, z.ns_port), plugin=False)
        head = half(Conn(z2.addr), 7777, topic="M", group="MG")
        check(head["code"] == 1 and "feature-transaction" in head["remark"], "without the plugin a half message is refused by the plugin's name", head)
        head = end(Conn(z2.addr), at[3], group="MG")
        check(head["code"] == 3 and "feature-transaction" in head["remark"], "so is the end of one", head)
        z2.stop()
        z3 = broker(directory=z.dir, ports=(z.port, z.ns_port), timeout='"60 s"', check_interval='"60 s"')
        check(wait_for(lambda: stats(z3).get("loading") is False and opened(z3) == 4, 20), "with it, what was pending is pending", stats(z3))
        check(end(Conn(z3.addr), at[3], group="MG")["code"] == 0 and b"1003" in bodies(z3.addr, "M") and opened(z3) == 3, "and goes on")
        z3.stop()


def gather(c, until, seconds=20):
    """Unique keys that are asked about on a connection, until there are as many."""
    seen, end_ = {}, time.time() + seconds
    while len(seen) < until and time.time() < end_:
        seen.update({h["extFields"]["msgId"]: h["extFields"] for h, _ in asks(c, 0.1)})
    return seen


def word_lost_play():
    """Killed before any end was noted in the op queue: what was committed is found in the log, so it comes once and nobody is asked."""
    for again in ("asked", "said again"):
        z = broker(check_max=100, op_interval='"1 h"', op_size=65536, timeout='"60 s"' if again == "said again" else '"400 ms"')
        create_topic(z.addr, "M", 4)
        c, at = open_many(z.addr, 60)
        late = [half(c, 1000 + i, topic="M", group="MG", **wish) for i, wish in enumerate(({"DELAY": "1"}, {"TIMER_DELAY_SEC": "1"}))]
        double = [place(half(c, 2000, b"same", topic="M", group="MG")) for _ in range(2)]  # a send that its producer repeated: two transactions
        all_ = [p for i, p in enumerate(at) if i % 3 == 0] + [place(h) for h in late] + double[1:]
        check(all(end(c, p, group="MG")["code"] == 0 for p in all_) and all(end(c, p, ROLLBACK, group="MG")["code"] == 0 for p in at[1::3]), f"{again}: some are ended")
        z.kill()
        z.start()
        check(wait_for(lambda: stats(z).get("loading") is False, 20), f"{again}: it starts after a kill")
        c = Conn(z.addr)
        want = sorted(str(i).encode() for i in range(0, 60, 3)) + [b"1000", b"1001", b"same"]
        if again == "said again":
            check(all(end(c, p, group="MG", check=True)["code"] == 0 for p in all_ + all_), "a commit that was forgotten may be said again")
            check(opened(z) == 41, "and only those that were not committed are open", opened(z))
        else:
            beat(c, "MG", "m1")
            asked = gather(c, 41)
            check(sorted(asked) == sorted(f"{i:032X}" for i in range(60) if i % 3) + [f"{2000:032X}"] and opened(z) == 41, "only those that were not committed are asked about", (sorted(asked), opened(z)))
            one = asked.get(f"{2000:032X}", {"tranStateTableOffset": 0, "commitLogOffset": 0})
            check(int(one["tranStateTableOffset"]) > double[1][0] and end(c, (int(one["tranStateTableOffset"]), int(one["commitLogOffset"])), ROLLBACK, group="MG", check=True)["code"] == 0,
                  "of two with one key the one that was not committed", one)
        wait_for(lambda: len(bodies(z.addr, "M")) >= len(want), 10)
        time.sleep(0.3)  # nothing shall come: there is no event for that
        check(sorted(bodies(z.addr, "M")) == sorted(want), f"{again}: each came once", (len(bodies(z.addr, "M")), len(want)))
        z.stop()


def lost_files_play():
    """The offsets of the two queues are lost: what had ended has ended, what is open is open."""
    z = broker(check_max=100, timeout='"60 s"', check_interval='"60 s"')
    create_topic(z.addr, "M", 4)
    c, at = open_many(z.addr, 40)
    check(all(end(c, p, COMMIT if i % 2 else ROLLBACK, group="MG")["code"] == 0 for i, p in enumerate(at[:30])), "thirty of forty are ended")
    check(wait_for(lambda: stats(z)["ops_waiting_bytes"] == 0 and saved(z) == 30, 20), "and noted", (stats(z), saved(z)))
    damages = (("deleted", lambda p: os.unlink(p)), ("empty", lambda p: open(p, "w").close()), ("zeroed", lambda p: open(p, "r+b").write(bytes(os.path.getsize(p)))),
               ("cut", lambda p: os.truncate(p, os.path.getsize(p) // 2)))
    for n, (what, change) in enumerate(damages):
        z.stop() if n % 2 else z.kill()
        for name in ("config/consumerOffset.json", "config/transactionMetrics"):
            for p in (os.path.join(z.data, name), os.path.join(z.data, name + ".bak")):
                if os.path.exists(p):
                    change(p)
        z.start()
        check(wait_for(lambda: stats(z).get("loading") is False, 20) and opened(z) == 10 - n, f"offsets {what}: the same {10 - n} are open", stats(z))
        check("the offset of " + HALF + " was lost" in text_of(z.log), f"offsets {what}: the log says what was done")
        check(all(end(Conn(z.addr), p, group="MG")["code"] == 0 for p in at[30 + n:31 + n] + at[1:3:2]), f"offsets {what}: one is committed, one again")
        check(sorted(int(b) for b in bodies(z.addr, "M")) == [i for i in range(30) if i % 2] + list(range(30, 31 + n)), f"offsets {what}: each came once", bodies(z.addr, "M"))
        check(opened(z) == 9 - n and wait_for(lambda: stats(z)["ops_waiting_bytes"] == 0, 10), f"offsets {what}: and that is noted", stats(z))
    check(z.stop() == 0, "it stops cleanly", text_of(z.log)[-800:])


def many_play():
    z = broker(timeout='"1 s"', check_interval='"2 s"', check_rate=5000, check_max=100)
    create_topic(z.addr, "M", 4)
    idle = stats(z)
    c, at = open_many(z.addr, OPEN_MANY)
    s = stats(z)
    check(s["open"] == OPEN_MANY, "ten thousand are open", s)
    print(f"# {OPEN_MANY} open transactions: {s['memory_bytes'] - idle['memory_bytes']} bytes beside the window's {idle['memory_bytes']}")
    listed = subprocess.run([tool("zaryactl"), "--data", z.data, "transaction", "list", "5", "--json"], stdout=subprocess.PIPE, text=True).stdout
    check(listed.count("unique_key") == 5 and '"MG"' in listed, "they are listed", listed[:300])
    z.kill()
    z.start()
    check(wait_for(lambda: stats(z).get("loading") is False, 20) and opened(z) == OPEN_MANY, "after a kill the same are open", stats(z))
    c = Conn(z.addr, 60)
    beat(c, "MG", "m1")
    began, n = time.time(), 0
    while n < OPEN_MANY and time.time() - began < 60 and not c.closed:
        c.read(0.5)
        for head, _ in c.seen:
            e = head.get("extFields") or {}
            if head["code"] == 39 and not head["flag"] & 1:
                n += 1
                c.send(37, {"producerGroup": "MG", "tranStateTableOffset": e["tranStateTableOffset"], "commitLogOffset": e["commitLogOffset"], "commitOrRollback": COMMIT,
                            "fromTransactionCheck": "true", "msgId": e["msgId"]}, flag=2)
        c.seen = []
    took = time.time() - began
    check(wait_for(lambda: opened(z) == 0, 30), "every producer's word was asked for", (n, stats(z)))
    check(took > OPEN_MANY / 5000 * 0.7, "and not in a storm: check_rate a second at most", took)
    got = [int(b) for b in bodies(z.addr, "M")]
    check(sorted(got) == list(range(OPEN_MANY)), "all came, once", (len(got), len(set(got))))
    check(z.stop() == 0, "it stops cleanly", text_of(z.log)[-800:])


def limit_play():
    z = broker(max_open=3, timeout='"60 s"')
    create_topic(z.addr, "T", 4)
    c = Conn(z.addr)
    at = [place(half(c, i)) for i in range(3)]
    check(half(c, 3)["code"] == 2, "more than max_open are refused as busy")
    check(end(c, at[0], ROLLBACK)["code"] == 0 and half(c, 4)["code"] == 0, "until one has ended")
    check(z.stop() == 0, "it stops cleanly", text_of(z.log)[-800:])
    z = Zarya(broker_conf="rejectTransactionMessage = true;", features=("admin",), extra_plugins='{ use = "feature-transaction"; }').start()
    create_topic(z.addr, "T", 4)
    check(half(Conn(z.addr), 5)["code"] == 16, "rejectTransactionMessage refuses all")
    z.stop()
    z = Zarya(features=("admin",), extra_plugins='{ use = "feature-transaction"; }').start()
    create_topic(z.addr, "T", 4)
    head = half(Conn(z.addr), 6, DELAY="1")
    check(head["code"] == 1 and "feature-delay" in head["remark"], "a delayed one needs feature-delay too", head)
    z.stop()


def time_play():
    """A delivery time that cannot be is refused with its half message, for nobody would see the commit refused; one that cannot be any more is told."""
    def broker(settings, **more):
        return Zarya(features=("admin", "ordered", "query", "transaction"), extra_plugins=f'{{ use = "feature-delay"; settings = {{ {settings} }}; }}', **more).start()

    z = broker("timer_max_delay = 3600;")
    create_topic(z.addr, "T", 4)
    c = Conn(z.addr)
    heads = [half(c, i, **wish) for i, wish in enumerate(({"TIMER_DELAY_SEC": "3700"}, {"TIMER_DELAY_MS": "x"}, {"TIMER_DELIVER_MS": str(int(time.time() * 1000) + 3700000)}))]
    check([h["code"] for h in heads] == [13] * 3 and pull_queue(z.addr, HALF, 0) == [], "half messages with a time that cannot be are refused", heads)
    good = half(c, 5, TIMER_DELAY_SEC="3000")
    check(good["code"] == 0 and len(pull_queue(z.addr, HALF, 0)) == 1 and z.stop() == 0, "one whose time can be is taken as it is", good)
    z = broker("timer = false;", directory=z.dir, ports=(z.port, z.ns_port))
    c = Conn(z.addr)
    head = half(c, 6, TIMER_DELAY_SEC="1")
    check(head["code"] == 1 and "not enabled" in head["remark"], "without the timer none is", head)
    head = end(c, place(good))
    check(head["code"] == 1 and "refused" in head["remark"] and "stays open" in head["remark"], "the commit of the one that was taken is refused", head)
    check(wait_for(lambda: "was committed, and is refused" in text_of(z.log), 10), "and the log tells, for a producer does not wait for this answer", text_of(z.log)[-600:])
    check(z.stop() == 0, "it stops cleanly")


def main():
    z = broker(check_max=1000)
    word_play(z)
    check(z.stop() == 0, "it stops cleanly", text_of(z.log)[-800:])
    z = broker(check_max=3)
    create_topic(z.addr, "T", 4)
    end(Conn(z.addr), place(half(Conn(z.addr), 1)))
    check_play(z)
    check(z.stop() == 0, "it stops cleanly", text_of(z.log)[-800:])
    at_once_play()
    restart_play()
    word_lost_play()
    lost_files_play()
    many_play()
    limit_play()
    time_play()
    check(len(first_codes) > 8 and set(first_codes) <= {1, 2}, "the first request of each start finds the plugin at work", first_codes)
    done()


if __name__ == "__main__":
    main()
