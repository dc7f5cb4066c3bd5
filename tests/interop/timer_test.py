#!/usr/bin/env python3
"""A data directory with pending delay levels and timed messages moves between Apache 5.5.0 and Zarya, both ways, after clean stops
and after kills: everything due is delivered at its time, nothing is lost, and nothing comes twice where Zarya delivered (or where
Apache stopped cleanly). The four moves are made at the same time: each waits for its messages' times. tests/run has this with --full
only: in the short form crash/pending_test.py makes the same moves."""
import os, sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
if len(sys.argv) > 1 and os.path.isdir(sys.argv[1]):
    os.environ["ZARYA_BUILD"] = os.path.abspath(sys.argv[1])
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "plays"))
from zarya import *
from timer_test import now, send_many, there, timed, ask

LEVEL_MS = {3: 10000, 4: 30000}


def apache(store, ports):
    return Apache(store=store, ports=ports, conf="timerWheelEnable=true\nrecallMessageEnable=true\nwaitTimeMillsInSendQueue=5000").start()


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


def warm(b):
    """A Java that has just begun takes its time for the first messages: those that count come when it is faster."""
    create_topic(b.addr, "Warm", 4)
    for first in range(0, 6000, 300):
        began = now()
        send_many(b.addr, "Warm", [began + 3600000] * 300, first)
        if now() - began < 500:
            break


def flip(first, second, how, what, exact, ports):
    base = temp_dir()
    data = os.path.join(base, "data")
    start = {"A": lambda: apache(data, ports), "Z": lambda: zarya(base, ports)}
    topic = "Flip" + "".join(c for c in what if c.isalnum())[:40]
    b = start[first]()
    check(create_topic(b.addr, topic, 4), f"{what}: a topic")
    warm(b)
    begin = now() + 5000
    acked = send_many(b.addr, topic, [begin + i * 4 for i in range(1500)])                      # in delivery when it ends
    acked |= send_many(b.addr, topic, [begin + 22000 + i * 10 for i in range(600)], 2000)        # pending
    acked |= send_many(b.addr, topic, [begin + 30000 + i * 1000 for i in range(10)], 3000)
    acked |= send_levels(b.addr, topic, 4, 20, 4000)
    check(len(acked) > 1700, f"{what}: messages are taken (a busy broker refuses some)", len(acked))
    wait_for(lambda: len(there(b.addr, topic)) > 300, 20, 0.05)
    before = there(b.addr, topic)
    check(len(before) > 300, f"{what}: it ends in the middle of a delivery, unless the machine is busy ({len(before)} of 1500 came)", len(before))
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
    b.stop(*([signal.SIGKILL] if second == "A" else []))  # Apache takes 20 s to stop


if __name__ == "__main__":
    if not apache_server("5.5.0"):
        skip("flips of timed messages", "no Java, or no way to Maven's registry")
        done()
    todo = [("A", "Z", "clean", True), ("Z", "A", "clean", True)]
    todo += [("A", "Z", "killed", True), ("Z", "A", "killed", False)]
    ports, names = free_ports(2 * len(todo)), {"A": "Apache", "Z": "Zarya"}
    together(*(lambda f=f, s=s, h=h, e=e, n=n: flip(f, s, h, f"{names[f]} to {names[s]}, {h}", e, (ports[2 * n], ports[2 * n + 1])) for n, (f, s, h, e) in enumerate(todo)))
    done()
