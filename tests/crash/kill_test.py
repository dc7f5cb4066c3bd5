#!/usr/bin/env python3
"""kill -9 under load, and start again: every acknowledged message is there, once, in its queue order. Async flush (a killed
process loses nothing that is in the page cache) and sync flush, small segments so that kills meet rolls.

    kill_test.py [--full] [--engine NAME]    5 rounds a mode, 10 in all, and 3 of storage-zstd; --full: 500 a mode, 1,000 in all,
                                             and 200 of storage-zstd. --engine: that one alone, as many rounds

storage-zstd packs all the while, at a rate that keeps it at it; its starts go from packing to expanding and back."""
import os, random, sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
from zarya import *


def turn(z, packing):
    """The next start packs, or expands."""
    with open(z.conf) as f:
        text = f.read()
    with open(z.conf, "w") as f:
        f.write(text.replace(f"compress = {str(not packing).lower()};", f"compress = {str(packing).lower()};"))


def changed(z):
    return len(re.findall(r"segment \d+ was (?:packed|expanded)", text_of(z.log)))


def rounds(mode, n, engine="storage-commitlog"):
    packs = engine == "storage-zstd"
    own = 'compress = true; level = 1; rate = "6 MiB";' if packs else ""
    z = Zarya(storage=f'flush = "{mode}"; segment_size = "{"256 KiB" if packs else "4 MiB"}"; queue_file_size = "20000 B"; {own}', engine=engine).start()
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
        if packs:
            turn(z, i % 3 != 1)
        z.start()
    mode = f"{engine}, {mode}" if packs else mode
    check_kept(pull_all(z.addr, "Kill"), senders, f"{mode} flush, {n} kills")
    if packs:
        check(changed(z) > 0, f"{mode} flush: {changed(z)} segments changed their form meanwhile", text_of(z.log)[-800:])
    last = Sender(z.addr, "Kill", "end", limit=100)
    last.start()
    last.join(20)
    check(len(last.acked) == 100, f"{mode}: it goes on after the kills", len(last.acked))
    check(z.stop() == 0, f"{mode}: and stops cleanly", text_of(z.log)[-800:])
    z.start()
    check_kept(pull_all(z.addr, "Kill"), senders + [last], f"{mode} flush, after a clean stop")
    z.stop()


only = sys.argv[sys.argv.index("--engine") + 1] if "--engine" in sys.argv else None
for mode in ("async", "sync"):
    if only != "storage-zstd":
        rounds(mode, 500 if FULL else 5)
if only != "storage-commitlog":
    rounds("async", (200 if FULL else 3) if not only else 1000 if FULL else 10, "storage-zstd")
done()
