#!/usr/bin/env python3
"""kill -9 under load, and start again: every acknowledged message is there, once, in its queue order. Async flush (a killed
process loses nothing that is in the page cache) and sync flush, small segments so that kills meet rolls.

    kill_test.py [--full]        5 rounds a mode, 10 in all; --full: 500 a mode, 1,000 in all"""
import os, random, sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
from zarya import *


def rounds(mode, n):
    z = Zarya(storage=f'flush = "{mode}"; segment_size = "4 MiB"; queue_file_size = "20000 B";').start()
    check(create_topic(z.addr, "Kill"), f"{mode}: topic created")
    senders = []
    for i in range(n):
        now = [Sender(z.addr, "Kill", f"r{i}s{k}") for k in range(3)]
        for s in now:
            s.start()
        time.sleep(random.uniform(0.3, 1.2))
        z.kill()
        for s in now:
            s.stop_now = True
            s.join(15)
        senders += now
        z.start()
    check_kept(pull_all(z.addr, "Kill"), senders, f"{mode} flush, {n} kills")
    last = Sender(z.addr, "Kill", "end", limit=100)
    last.start()
    last.join(20)
    check(len(last.acked) == 100, f"{mode}: it goes on after the kills", len(last.acked))
    check(z.stop() == 0, f"{mode}: and stops cleanly", text_of(z.log)[-800:])
    z.start()
    check_kept(pull_all(z.addr, "Kill"), senders + [last], f"{mode} flush, after a clean stop")
    z.stop()


for mode in ("async", "sync"):
    rounds(mode, 500 if FULL else 5)
done()
