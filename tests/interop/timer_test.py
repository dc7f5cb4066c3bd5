#!/usr/bin/env python3
"""A data directory with pending delay levels and timed messages moves between Apache 5.5.0 and Zarya, both ways, after clean stops
and after kills: everything due is delivered at its time, nothing is lost, and nothing comes twice where Zarya delivered (or where
Apache stopped cleanly)."""
import os, sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
if len(sys.argv) > 1 and os.path.isdir(sys.argv[1]):
    os.environ["ZARYA_BUILD"] = os.path.abspath(sys.argv[1])
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "plays"))
from zarya import *
from timer_test import now, send_many, there, timed, ask

LEVEL_MS = {3: 10000, 4: 30000}


def apache(store, ports):
    return Apache(store=store, ports=ports, conf="timerWheelEnable=true\nrecallMessageEnable=true").start()


def zarya(directory, ports):
    return Zarya(directory=directory, ports=ports, features=("admin", "ordered", "query"), storage='segment_size = "64 MiB";',
                 extra_plugins='{ use = "feature-delay"; settings = { recall = true; }; }').start()


def send_levels(addr, topic, level, n, first):
    """Delayed by a level; the time in the body is the least at which it may come."""
    acked = set()
    for i in range(first, first + n):
        body = b"%d:%d" % (i, now() + LEVEL_MS[level])
        if ask(addr, timed(topic, i % 4, body, i, DELAY=level)).get("code") == 0:
            acked.add(body)
    return acked


def settle(addr, topic, want, seconds):
    wait_for(lambda: len({m["body"] for m in there(addr, topic)}) >= want, seconds, 0.3)
    return there(addr, topic)


def flip(first, second, how, what, exact):
    base = temp_dir()
    data, ports = os.path.join(base, "data"), (free_port(), free_port())
    start = {"A": lambda: apache(data, ports), "Z": lambda: zarya(base, ports)}
    topic = "Flip" + "".join(c for c in what if c.isalnum())[:40]
    b = start[first]()
    check(create_topic(b.addr, topic, 4), f"{what}: a topic")
    begin = now() + 4000
    acked = send_many(b.addr, topic, [begin + i * 2 for i in range(1500)])                      # in delivery when it ends
    acked |= send_many(b.addr, topic, [begin + 22000 + i * 10 for i in range(600)], 2000)        # pending
    acked |= send_many(b.addr, topic, [begin + 30000 + i * 1000 for i in range(10)], 3000)
    acked |= send_levels(b.addr, topic, 4, 20, 4000)
    check(len(acked) > 1700, f"{what}: messages are taken (a busy broker refuses some)", len(acked))
    wait_for(lambda: len(there(b.addr, topic)) > 300, 20, 0.05)
    before = there(b.addr, topic)
    b.stop(*([signal.SIGKILL] if how == "killed" else []))
    b = start[second]()
    got = settle(b.addr, topic, len(acked), 70)
    found = {m["body"] for m in got}
    check(found == acked, f"{what}: nothing is lost ({len(before)} came before)", (len(acked - found), len(found - acked), sorted(acked - found)[:3]))
    extra = len(got) - len(found)
    check(extra == 0 if exact else extra <= 1500, f"{what}: " + ("each comes once" if exact else f"{extra} come twice, none of those that were pending"), extra)
    early = [m["store"] - int(m["body"].split(b":")[1]) for m in got]
    check(min(early) >= (-1005 if "A" in first + second else 0), f"{what}: none before its time", sorted(early)[:3])
    late = sorted(m["store"] - int(m["body"].split(b":")[1]) for m in got if b"%d" % 0 and int(m["body"].split(b":")[0]) in range(3000, 4000))
    print(f"# {what}: lateness of pending ones, least {late[0]} ms, most {late[-1]} ms; twice: {extra}", flush=True)
    b.stop()


if __name__ == "__main__":
    if not apache_server("5.5.0"):
        skip("flips of timed messages", "no Java, or no way to Maven's registry")
        done()
    todo = [("A", "Z", "clean", True), ("Z", "A", "clean", True)]
    todo += [("A", "Z", "killed", True), ("Z", "A", "killed", False)]
    for first, second, how, exact in todo:
        flip(first, second, how, f"{'Apache' if first == 'A' else 'Zarya'} to {'Apache' if second == 'A' else 'Zarya'}, {how}", exact)
    done()
