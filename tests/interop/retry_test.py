#!/usr/bin/env python3
"""The awkward sides of the official Java clients 5.5.0 and 4.9.8: a consumer that fails until its messages are dead letters, and
orderly consumers that are killed in the middle of their work; and their request and reply."""
import os, sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
from zarya import *

HERE = os.path.dirname(os.path.abspath(__file__))
JAVA = ["java", "-Xmx128m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"]
LEVELS = "1s 1s " + " ".join(f"{n}00ms" for n in range(1, 17))


class Client:
    """The two versions, each compiled once."""

    def __init__(self, version):
        self.version, self.cp, self.dir = version, java_client(version), temp_dir()
        if self.cp:
            r = subprocess.run(["javac", "-nowarn", "-cp", self.cp, "-d", self.dir, os.path.join(HERE, "java/Retry.java")], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
            check(r.returncode == 0, f"Retry.java compiles with {version}", r.stdout)

    def start(self, ns, *args, jvm=()):
        return start(JAVA + list(jvm) + ["-cp", self.dir + ":" + self.cp, "Retry", ns, *args], tempfile.mkstemp(dir=self.dir)[1])


def lines(process, word):
    return [l.split()[1:] for l in text_of(process.log).splitlines() if l.startswith(word + " ")]


def dead(z, client):
    topic, group = f"Dead{client.version[0]}", f"DeadG{client.version[0]}"
    create_topic(z.addr, topic, 1)
    c = client.start(z.ns, "dead", topic, group, "2")
    wait_for(lambda: "started" in text_of(c.log), 60)
    for i in range(5):
        remoting(z.addr, 310, {"a": "PG", "b": topic, "c": "TBW102", "d": 4, "e": 0, "f": 0, "g": 1, "h": 0, "j": 0, "i": f"UNIQ_KEY\x01K{i}\x02"}, b"m%d" % i)
    check(wait_for(lambda: len(lines(c, "dead")) >= 5, 120), f"{client.version}: what always fails is dead in the end", text_of(c.log)[-1500:])
    tries = {}
    for body, times, of in lines(c, "try"):
        tries.setdefault(body, []).append((int(times), of))
    check(sorted(tries) == [f"m{i}" for i in range(5)] and all(sorted(set(t)) == [(n, topic) for n in range(3)] for t in tries.values()),
          f"{client.version}: after one try and two more, always under its own topic", tries)
    check(all(d[1:] == [topic, "3"] for d in lines(c, "dead")), f"{client.version}: with its origin", lines(c, "dead"))
    c.kill()


def orderly(z, client, queues=4, count=150):
    """Two consumers; one is killed while it works. No queue skips a message, and none goes back further than what was not committed."""
    topic, group = f"Ord{client.version[0]}", f"OrdG{client.version[0]}"
    create_topic(z.addr, topic, queues)
    first = client.start(z.ns, "orderly", topic, group)
    second = client.start(z.ns, "orderly", topic, group)
    wait_for(lambda: "started" in text_of(first.log) and "started" in text_of(second.log), 60)
    fill = client.start(z.ns, "fill", topic, str(queues), str(count))
    both = wait_for(lambda: len(lines(first, "got")) >= 20 and len(lines(second, "got")) >= 20, 120)
    check(both, f"{client.version}: two orderly consumers share the queues", text_of(first.log)[-300:] + text_of(second.log)[-300:])
    mine = {int(g[0]) for g in lines(first, "got")[-8:]}
    killed = int(time.time() * 1000)
    first.kill()
    first.wait()
    first_did = {q: len({g[1] for g in lines(first, "got") if int(g[0]) == q}) for q in mine}
    left = any(n < count for n in first_did.values())
    if not left:  # a machine so busy that the second came when the first had done all; the queues are whole below all the same
        print(f"# {client.version}: nothing was left to be taken over: {first_did}", flush=True)
    taken = wait_for(lambda: not left or [g for g in lines(second, "got") if int(g[0]) in mine and int(g[3]) > killed], 90)
    check(taken, f"{client.version}: the other takes the queues of the killed one over", text_of(second.log)[-500:])
    if taken and left:
        print(f"# {client.version}: handed over {int(taken[0][3]) - killed} ms after the kill", flush=True)
        check(int(taken[0][3]) - killed < 30000, f"{client.version}: before the 30 s after which a living client gives up", int(taken[0][3]) - killed)
    fill.wait(120)
    whole = wait_for(lambda: all(len({g[1] for p in (first, second) for g in lines(p, "got") if int(g[0]) == q}) == count for q in range(queues)), 120)
    check(whole, f"{client.version}: every message of every queue was worked on", {q: len({g[1] for p in (first, second) for g in lines(p, "got") if int(g[0]) == q}) for q in range(queues)})
    bad, overlap = [], []
    for q in range(queues):
        for p in (first, second):
            offsets = [int(g[1]) for g in lines(p, "got") if int(g[0]) == q]
            bad += [(q, a, b) for a, b in zip(offsets, offsets[1:]) if b != a + 1]
        mine_q = [int(g[3]) for g in lines(first, "got") if int(g[0]) == q]
        theirs = [int(g[3]) for g in lines(second, "got") if int(g[0]) == q and mine_q and int(g[3]) >= mine_q[0]]
        overlap += [(q, mine_q[-1] - theirs[0])] if mine_q and theirs and theirs[0] < mine_q[-1] and q in mine else []
    check(not bad, f"{client.version}: each consumer sees each queue in order, without a gap", bad[:10])
    check(not overlap, f"{client.version}: at no time did both work on one queue", overlap)
    second.kill()


def request(z, client):
    codec = "ZSTD" if client.version[0] == "5" else "LZ4"  # the other scenarios use ZLIB
    c = client.start(z.ns, "request", f"Ask{client.version[0]}", f"AskG{client.version[0]}", jvm=["-Drocketmq.message.compressType=" + codec])
    try:
        c.wait(120)
    except subprocess.TimeoutExpired:
        c.kill()
    got = [" ".join(l) for l in lines(c, "reply")]
    check(got == [f"re: question {i}" for i in range(5)] + ["of 20004"], f"{client.version}: requests get their replies, compressed ones ({codec}) too", text_of(c.log)[-1500:])
    flags = {m["sysflag"] & 0x701 for q in range(4) for m in pull_queue(z.addr, f"Ask{client.version[0]}", q)}
    check(flags == {0, 0x201 if codec == "ZSTD" else 0x101}, f"{client.version}: what the client compressed is stored as it came", [hex(f) for f in flags])


def main():
    clients = [c for c in (Client("5.5.0"), Client("4.9.8")) if c.cp]
    if not clients:
        skip("Java clients", "maven or javac is missing, or the registry cannot be reached")
        done()
    z = Zarya(features=("admin", "query", "ordered"), 
              extra_plugins=f'{{ use = "feature-reply"; }}, {{ use = "feature-delay"; settings = {{ delay_levels = "{LEVELS}"; }}; }}').start()
    z.wait_registered()
    threads = [threading.Thread(target=work, args=(z, c)) for c in clients for work in (dead, orderly, request)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    check(z.stop() == 0 and "Sanitizer" not in text_of(z.log), "zarya stops cleanly", text_of(z.log)[-1500:])
    done()


if __name__ == "__main__":
    main()
