#!/usr/bin/env python3
"""Delayed messages of the official clients (levels with Java 5.5.0, 4.9.8 and Go, times of their own with Java 5.5.0) across a restart and a
kill -9 of the broker: each is in its topic once, and comes to its consumer, not before its time. Beside it an orderly Go consumer that is
killed in the middle of its work, and the next one (retry_test.py has Java's)."""
import os, sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
from zarya import *

HERE = os.path.dirname(os.path.abspath(__file__))
DELAYS = (1000, 3000, 5000, 9000)


def begin(z, topic, *cmd):
    """A client that says "ready" and then waits for a byte."""
    import zarya
    log = os.path.join(z.dir, topic + ".log")
    p = subprocess.Popen([*cmd, *map(str, DELAYS)], stdin=subprocess.PIPE, stdout=open(log, "ab"), stderr=subprocess.STDOUT, start_new_session=True)
    p.log = log
    zarya._started.append(p)
    return p


def java_clients(z):
    out, made, found = temp_dir(), False, {}
    for version, what in (("5.5.0", "heldall"), ("4.9.8", "held")):
        cp, topic = java_client(version), "HeldJava" + version[0]
        if not cp:
            skip(f"delays of Java {version}", "maven or javac is missing, or the registry cannot be reached")
            continue
        if not made:  # with 5.5.0: 4.9.8 does not load what it does not have
            r = subprocess.run(["javac", "-nowarn", "-cp", cp, "-d", out, os.path.join(HERE, "java", "DelayPlay.java")], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
            made = check(r.returncode == 0, "the Java program compiles", r.stdout)
        found[topic] = ["java", "-Xmx128m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"] + JAVA_OPENS + ["-cp", out + ":" + cp, "DelayPlay", z.ns, topic, what]
    return found


def go_program():
    if not shutil.which("go"):
        return skip("the Go client", "go is missing")
    exe = os.path.join(temp_dir(), "interop")
    r = subprocess.run(["go", "build", "-o", exe, "."], cwd=os.path.join(HERE, "go"), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                       env={**os.environ, "GOFLAGS": "-mod=mod", "GOTOOLCHAIN": "local"})
    return exe if check(r.returncode == 0, "the Go program builds", r.stdout) else None


def held(z, exe):
    commands = {**java_clients(z), **({"HeldGo": [exe, z.ns, "x", "held", "HeldGo"]} if exe else {})}
    for topic in commands:
        create_topic(z.addr, topic, 4)
    clients = {topic: begin(z, topic, *cmd) for topic, cmd in commands.items()}
    said = lambda p, word, seconds: wait_for(lambda: p.poll() is not None or word in text_of(p.log).splitlines(), seconds) and word in text_of(p.log).splitlines()
    for topic, p in clients.items():
        check(said(p, "ready", 120), f"{topic}: the client starts", text_of(p.log)[-800:])
    for p in clients.values():
        p.stdin.write(b"\n")
        p.stdin.flush()
    for topic, p in clients.items():
        check(said(p, "sent", 60), f"{topic}: what is to be held is sent", text_of(p.log)[-800:])
    had = lambda: {t: sum(len(q) for q in pull_all(z.addr, t).values()) for t in clients}
    print(f"# before the stop {had()} had come", flush=True)
    check(z.stop() == 0, "it stops cleanly", text_of(z.log)[-800:])
    z.start()
    wait_for(lambda: all(n >= 25 for n in had().values()), 60, 0.1)
    print(f"# before the kill {had()} had come", flush=True)
    z.kill()
    z.start()
    for topic, p in clients.items():
        try:
            p.wait(200)
        except subprocess.TimeoutExpired:
            pass
        text = text_of(p.log)
        bad = [l for l in text.splitlines() if l.startswith("not ok")]
        check(p.poll() == 0 and not bad and re.search(r"^ok ", text, re.M), f"{topic}: all came to the consumer, none before its time", bad[:5] or text[-800:])
        bodies = [m["body"] for q in pull_all(z.addr, topic).values() for m in q]
        want = len(DELAYS) * (20 if topic == "HeldJava5" else 10)
        check(len(bodies) == len(set(bodies)) == want, f"{topic}: each of {want} is in its topic once", (len(bodies), len(set(bodies))))


def orderly(z, exe, queues=4, count=100):
    """A consumer is killed while it works; the next one goes on where the queues are, in order."""
    create_topic(z.addr, "OrdGo", queues)
    lines = lambda p: [tuple(map(int, (l.split()[1], l.split()[2], l.split()[4]))) for l in text_of(p.log).splitlines() if l.startswith("got ")]
    run = lambda n: start([exe, z.ns, "x", "orderly", "OrdGo", "OrdGoG"], os.path.join(z.dir, f"orderly{n}.log"))
    sender = Sender(z.addr, "OrdGo", "o", queues, limit=queues * count)
    sender.start()
    sender.join(60)
    check(len(sender.acked) == queues * count, f"Go: {count} messages in each of {queues} queues", sender.refused[:3])
    first = run(1)
    check(wait_for(lambda: len(lines(first)) >= 60, 90), "Go: an orderly consumer is at work", text_of(first.log)[-500:])
    first.kill()
    first.wait()
    killed = time.time() * 1000
    second = run(2)
    wait_for(lambda: all({o for p in (first, second) for q, o, _ in lines(p) if q == n} >= set(range(count)) for n in range(queues)), 120)
    second.kill()
    second.wait()
    a, b = lines(first), lines(second)
    print(f"# Go: {len(a)} before the kill; the next one began {b[0][2] - killed if b else -1:.0f} ms after it", flush=True)
    for n in range(queues):
        done, more = [o for q, o, _ in a if q == n], [o for q, o, _ in b if q == n]
        good = all(x + 1 == y for s in (done, more) for x, y in zip(s, s[1:])) and more and more[-1] == count - 1 and more[0] <= (done[-1] + 1 if done else 0)
        check(good, f"Go: queue {n} is worked on in order, without a gap, by the one that was killed and by the next", (done[-3:], more[:3], more[-1:]))


if __name__ == "__main__":
    program = go_program()
    z = Zarya(features=("admin", "ordered", "query"),
              extra_plugins='{ use = "feature-delay"; settings = { recall = true; delay_levels = "%s"; }; }' % " ".join(f"{ms}ms" for ms in DELAYS)).start()
    z.wait_registered()
    other = Zarya().start() if program else None
    together(lambda: held(z, program), *([lambda: orderly(other, program)] if program else []))
    check(not other or other.stop() == 0, "the other one stops cleanly", other and text_of(other.log)[-800:])
    check(z.stop() == 0 and "Sanitizer" not in text_of(z.log), "it stops cleanly", text_of(z.log)[-800:])
    done()
