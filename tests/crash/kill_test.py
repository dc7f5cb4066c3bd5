#!/usr/bin/env python3
"""kill -9 under load, and start again: every acknowledged message is there, once, in its queue order. Async flush (a killed
process loses nothing that is in the page cache) and sync flush, small segments so that kills meet rolls.

    kill_test.py [--full] [--engine NAME]    5 rounds a mode, 10 in all, and 5 of storage-zstd; --full: 500 a mode, 1,000 in all,
                                             and 200 a mode of storage-zstd. --engine: that one alone, as many rounds

Then the official Java producer (5.5.0): one process of it lives through all rounds of a broker, 3 of each mode and of storage-zstd
(--full: 100), and sends to whatever answers; the three brokers side by side.

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
        turn(z, True)
        z.kill()
        z.start()
        wait_for(lambda: changed(z) > 0, 30)  # a busy machine had other things to do between the kills
        check(changed(z) > 0, f"{mode} flush: {changed(z)} segments changed their form meanwhile", text_of(z.log)[-800:])
    last = Sender(z.addr, "Kill", "end", limit=100)
    last.start()
    last.join(20)
    check(len(last.acked) == 100, f"{mode}: it goes on after the kills", len(last.acked))
    check(z.stop() == 0, f"{mode}: and stops cleanly", text_of(z.log)[-800:])
    z.start()
    check_kept(pull_all(z.addr, "Kill"), senders + [last], f"{mode} flush, after a clean stop")
    z.stop()


class Acks:
    """What KillPlay wrote down: text -> (queue, offset), and the ids."""

    def __init__(self, file):
        self.acked, self.ids = {}, {}
        for line in text_of(file).splitlines():
            part = line.split()
            if len(part) == 4:  # the last line may be cut
                self.acked[part[0]], self.ids[part[0]] = (int(part[1]), int(part[2])), part[3]


def java_rounds(classes, mode, n, engine):
    packs = engine == "storage-zstd"
    own = 'compress = true; level = 1; rate = "6 MiB";' if packs else ""
    z = Zarya(storage=f'flush = "{mode}"; segment_size = "256 KiB"; queue_file_size = "20000 B"; {own}', engine=engine).start()
    what = f"Java producer, {engine}, {mode} flush"
    if not check(create_topic(z.addr, "Kill") and z.wait_registered(), f"{what}: topic created"):
        return
    file = os.path.join(z.dir, "acks")
    p = start(["java", "-Xmx128m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Duser.home=" + z.dir] + JAVA_OPENS +
              ["-cp", classes, "KillPlay", z.ns, "Kill", file], os.path.join(z.dir, "java.out"))
    lines = lambda: text_of(file).count("\n")
    held, seen = 0, 0
    for i in range(n):
        seen = lines() if i else 0
        if not wait_for(lambda: lines() > seen + 50, 60):  # it found the broker again
            break
        held += 1
        time.sleep(random.uniform(0, 0.5))
        z.kill()
        z.start()
    seen = lines()
    again = wait_for(lambda: lines() > seen + 50, 60)
    p.kill()
    p.wait()
    check(held == n and again, f"{what}: one producer went on after each of {n} kills", (held, again, text_of(os.path.join(z.dir, "java.out"))[-600:]))
    acks, found = Acks(file), pull_all(z.addr, "Kill")
    check_kept(found, [acks], f"{what}, {n} kills")
    ids = {m["body"].decode().rstrip("x"): m["props"].get("UNIQ_KEY") for rows in found.values() for m in rows}
    check(all(ids.get(t) == m for t, m in acks.ids.items()), f"{what}: under the ids that it was told", [(t, m, ids.get(t)) for t, m in acks.ids.items() if ids.get(t) != m][:3])
    check(z.stop() == 0, f"{what}: the broker stops cleanly", text_of(z.log)[-800:])


def java_guarded(*args):
    try:
        java_rounds(*args)
    except (Exception, SystemExit) as e:  # a thread's end by itself is no failure
        check(False, f"Java producer, {args[1]}, {args[3]}: the rounds are done", repr(e))


def java(n):
    jars = java_client("5.5.0")
    if not jars:
        skip("the Java producer under kills", "maven or javac is missing, or the registry cannot be reached")
        return
    out = temp_dir()
    r = subprocess.run(["javac", "-nowarn", "-cp", jars, "-d", out, os.path.join(ROOT, "tests/interop/java/KillPlay.java")], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if not check(r.returncode == 0, "KillPlay.java compiles", r.stdout):
        return
    threads = [threading.Thread(target=java_guarded, args=(f"{out}:{jars}", mode, n, engine))
               for mode, engine in (("async", "storage-commitlog"), ("sync", "storage-commitlog"), ("async", "storage-zstd"))]
    for t in threads:
        t.start()
    for t in threads:
        t.join()


only = sys.argv[sys.argv.index("--engine") + 1] if "--engine" in sys.argv else None
for mode in ("async", "sync"):
    if only != "storage-zstd":
        rounds(mode, 500 if FULL else 5)
if only != "storage-commitlog":
    for mode, short in (("async", 3), ("sync", 2)):
        rounds(mode, (200 if FULL else short) if not only else 500 if FULL else 5, "storage-zstd")
if not only:
    java(100 if FULL else 3)
done()
