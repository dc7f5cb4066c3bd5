#!/usr/bin/env python3
"""How many messages a look-up by key answers, which, and in what order, where there are more than it may: limits, moments, kinds of
keys. The answers are those of Apache 5.5.0's broker: written down here, and with --full asked for beside it."""
import os, sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
from zarya import *

FOREVER = (1 << 63) - 1
MANY = 100
SAME = "A" * 20 + "0" * 8 + "A" * 4  # one unique key for many
NONE = (22, "can not find message, maybe time range not correct")


def put(conn, name, keys, tag="", uniq=""):
    props = "".join(f"{k}\x01{v}\x02" for k, v in (("UNIQ_KEY", uniq), ("KEYS", keys), ("TAGS", tag), ("WAIT", "true")) if v)
    return conn.ask(310, {"a": "PG", "b": "QueryT", "c": "TBW102", "d": 4, "e": 0, "f": 0, "g": 1700000000000, "h": 0, "i": props, "j": 0, "k": "false",
                          "m": "false"}, name.encode())[0].get("code")


class Side:
    """A broker with m0 … m99 of key "many", u0 … u39 of one unique key, and some single ones; moments behind m29 and behind m69."""

    def __init__(self, name, addr):
        self.name, self.addr, self.moments = name, addr, []

    def fill(self):
        create_topic(self.addr, "QueryT", 1)
        create_topic(self.addr, "QueryEmpty", 1)
        c, codes = Conn(self.addr), set()
        for i in range(MANY):
            codes.add(put(c, f"m{i}", f"many other{i % 3}", "Tag" + "AB"[i % 2], f"{i:032X}"))
            if i in (29, 69):
                time.sleep(2.1)  # an index knows seconds
                self.moments.append(int(time.time() * 1000))
                time.sleep(2.1)
        codes |= {put(c, f"u{i}", "", "", SAME) for i in range(40)}
        for name, keys in (("case", "Key"), ("lower", "key"), ("words", "  two   words "), ("utf", "schlüssel"), ("hash", "many#x")):
            codes.add(put(c, name, keys))
        c.close()
        check(codes == {0}, f"{self.name}: messages are stored", codes)
        self.all = {m["body"].decode(): m["physical"] for m in pull_queue(self.addr, "QueryT", 0)}
        check(wait_for(lambda: self.query(key="many#x")[0] == 0, 20), f"{self.name}: the index follows the log")

    def query(self, key="many", topic="QueryT", most=64, begin=0, end=FOREVER, drop=(), **more):
        fields = {"topic": topic, "key": key, "maxNum": most, "beginTimestamp": begin, "endTimestamp": end, **more}
        head, body = remoting(self.addr, 12, {k: v for k, v in fields.items() if k not in drop}, timeout=20)
        code = head.get("code")
        return code, [r["body"].decode() for r in records(body)] if code == 0 else head.get("remark") if code == 22 else ""

    def view(self, offset, topic="QueryT"):
        head, body = remoting(self.addr, 33, {k: v for k, v in (("offset", offset), ("topic", topic)) if v is not None})
        return head.get("code"), [r["body"].decode() for r in records(body)] if head.get("code") == 0 else ""


def named(prefix, *numbers):
    return 0, [f"{prefix}{i}" for n in numbers for i in n]


def queries(first, second):
    """What is asked by key, and Apache's answer."""
    for most, from_ in ((64, 36), (32, 68), (10, 90), (1, 99), (65, 36), (1000, 36)):
        yield {"most": most}, named("m", range(from_, MANY))
        yield {"most": most, "key": SAME, "_UNIQUE_KEY_QUERY": "true"}, named("u", range(8, 40))
    yield {"most": 0}, NONE
    yield {"most": -1}, (1, "")
    yield {"indexType": "K"}, named("m", range(36, MANY))
    yield {"indexType": "U", "key": SAME}, named("u", range(40))
    yield {"indexType": "U", "key": SAME, "most": 5}, named("u", range(35, 40))
    yield {"indexType": "U"}, named("m", range(36, MANY))
    yield {"indexType": "T", "key": "TagA", "most": 20}, named("m", range(60, MANY, 2))
    yield {"indexType": "T", "key": "TagC"}, NONE
    yield {"indexType": "X", "most": 3}, named("m", range(97, MANY))
    yield {"_UNIQUE_KEY_QUERY": "false", "most": 3}, named("m", range(97, MANY))
    yield {"key": f"{7:032X}"}, named("m", [7])
    yield {"key": f"{7:032X}", "_UNIQUE_KEY_QUERY": "true"}, named("m", [7])
    yield {"key": "other1"}, named("m", range(1, MANY, 3))
    yield {"end": first}, named("m", range(30))
    yield {"begin": first, "end": second}, named("m", range(30, 70))
    yield {"begin": second}, named("m", range(70, MANY))
    yield {"begin": first, "end": second, "most": 5}, named("m", range(65, 70))
    yield {"begin": second, "end": first}, NONE
    yield {"begin": second + 10 ** 9}, NONE
    yield {"end": 1000}, NONE
    yield {"begin": -5, "most": 3}, named("m", range(97, MANY))
    for key, found in (("Key", "case"), ("key", "lower"), ("KEY", 0), ("two", "words"), ("words", "words"), ("two   words", 0), ("schlüssel", "utf"), ("many#x", "hash"),
                       ("nobody", 0), ("manyx", 0), (" many", 0), ("", 0)):
        yield {"key": key}, (0, [found]) if found else NONE
    yield {"topic": "QueryEmpty"}, NONE
    yield {"topic": "QueryNowhere"}, NONE
    for name, code in (("topic", NONE), ("key", NONE), ("maxNum", (1, "")), ("beginTimestamp", (1, "")), ("endTimestamp", (1, ""))):
        yield {"drop": (name,)}, code
    yield {"most": "x"}, (1, "")
    yield {"begin": "x"}, (1, "")


def views(side):
    for name in ("m0", "m99", "utf"):
        yield (side.all[name],), (0, [name])
    yield (side.all["m5"], "QueryEmpty"), (0, ["m5"])
    for wrong in (1 << 40, -1, None, "x"):
        yield (wrong,), (1, "")


def judge(side):
    asked = list(queries(*side.moments))
    bad = [(q, got, want) for q, want in asked for got in [side.query(**q)] if got != want]
    check(not bad, f"{side.name}: QUERY_MESSAGE: {len(asked)} questions", bad[:5])
    asked = list(views(side))
    bad = [(q, got, want) for q, want in asked for got in [side.view(*q)] if got != want]
    check(not bad, f"{side.name}: VIEW_MESSAGE_BY_ID: {len(asked)} questions", bad[:5])


def main():
    z = Zarya().start()
    sides = [Side("Zarya", z.addr)]
    a = Apache("5.5.0", heap="256m").start() if FULL and apache_server("5.5.0") else None
    if a:
        sides.append(Side("Apache", a.addr))
    for side in sides:
        side.fill()
        judge(side)
    if a:
        a.stop(signal.SIGKILL)
    check(z.stop() == 0, "zarya stops cleanly", text_of(z.log)[-800:])
    done()


main()
