#!/usr/bin/env python3
"""Transactions of the official Java clients, unchanged: committed, rolled back, asked about; a producer that never answers and comes
back; one that is killed and another of its group answers; the broker stopped and killed with some open; the directory moved between
Apache's broker and ours, both ways, killed. All of these at the same time, for most of it is waiting; --full moves the
directory there and back twice, stopped and killed.

    transaction_test.py --bench [SECONDS]     transactions a second, ours and Apache's in turns, with the same client"""
import os, sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
from zarya import *

HERE = os.path.dirname(os.path.abspath(__file__))
QUICK = 'timeout = "2 s"; check_interval = "2 s"; check_max = 1000;'
CLASSES = {}


def classes(version):
    """Class path with TxPlay compiled against that client; None with a line that says why."""
    if version not in CLASSES:
        cp, out = java_client(version), temp_dir()
        if not cp:
            skip(f"Java client {version}", "maven or javac is missing, or the registry cannot be reached")
            CLASSES[version] = None
            return None
        r = subprocess.run(["javac", "-nowarn", "-cp", cp, "-d", out, os.path.join(HERE, "java/TxPlay.java")], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        CLASSES[version] = out + ":" + cp if check(r.returncode == 0, f"TxPlay.java compiles with {version}", r.stdout) else None
    return CLASSES[version]


class Producer:
    """A Java transaction producer in a process of its own; what it says is gathered in .lines."""

    def __init__(self, cp, ns, group, topic, name):
        self.lines = []
        self.proc = subprocess.Popen(["java", "-Xmx200m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-cp", cp, "TxPlay", ns, group, topic, name], stdin=subprocess.PIPE,
                                     stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True)
        self.proc.log = None
        import zarya
        zarya._started.append(self.proc)
        threading.Thread(target=self._read, daemon=True).start()
        if not wait_for(lambda: "ready" in self.lines, 60):
            check(False, "the producer starts", self.lines[-5:])

    def _read(self):
        for line in self.proc.stdout:
            self.lines.append(line.rstrip("\n"))

    def tell(self, line, answer=None, seconds=60):
        """Says one line; waits for one that begins with the answer."""
        at = len(self.lines)
        self.proc.stdin.write(line + "\n")
        self.proc.stdin.flush()
        return not answer or wait_for(lambda: [l for l in self.lines[at:] if l.startswith(answer)], seconds)

    def send(self, body, state, **props):
        r = self.tell(f"send {body} {state} " + " ".join(f"{k} {v}" for k, v in props.items()), f"sent {body} ")
        return r and "SEND_OK" in r[0]

    def checked(self, body):
        return [l for l in self.lines if l.startswith(f"checked {body} ")]

    def kill(self):
        self.proc.kill()
        self.proc.wait()

    def quit(self):
        try:
            self.tell("quit")
            self.proc.wait(30)
        except (OSError, subprocess.TimeoutExpired):
            self.kill()


def bodies(addr, topic):
    return sorted(m["body"].decode() for q in pull_all(addr, topic).values() for m in q)


def client_play(version, ports):
    cp = classes(version)
    if not cp:
        return
    z = Zarya(ports=ports, features=("admin", "ordered", "query", "delay"), extra_plugins=f'{{ use = "feature-transaction"; settings = {{ {QUICK} }}; }}').start()
    z.wait_registered()
    create_topic(z.addr, "TX", 4)
    p = Producer(cp, z.ns, "PG", "TX", "p1")
    check(p.send("a", "commit") and p.send("b", "rollback") and wait_for(lambda: bodies(z.addr, "TX") == ["a"], 20), f"{version}: committed and rolled back", bodies(z.addr, "TX"))
    p.tell("answer c commit", "answer")
    p.tell("answer d rollback", "answer")
    check(p.send("c", "unknown") and p.send("d", "throw") and wait_for(lambda: p.checked("c") and p.checked("d"), 30), f"{version}: unknown, and thrown: asked", p.lines[-3:])
    check(wait_for(lambda: bodies(z.addr, "TX") == ["a", "c"], 10), f"{version}: and the answers count", bodies(z.addr, "TX"))
    check(p.checked("c")[0].split()[2:4] == ["1", "TX"], f"{version}: the listener sees the number of checks and the topic", p.checked("c"))
    # A producer that does not answer, its process killed; another of the group is asked.
    p.send("e", "unknown")
    check(wait_for(lambda: p.checked("e"), 30), f"{version}: it does not know yet")
    p.kill()
    q = Producer(cp, z.ns, "PG", "TX", "p2")
    q.tell("answer * commit", "answer")
    q.send("q", "rollback")  # only now does the client know a broker to tell of itself
    check(wait_for(lambda: bodies(z.addr, "TX") == ["a", "c", "e"] and q.checked("e"), 60) and int(q.checked("e")[0].split()[2]) > 1, f"{version}: killed, and another of its group answers", q.lines[-3:])
    # Open while the broker is stopped, and killed; the producer stays and finds the broker again.
    for n, how in enumerate((signal.SIGTERM, signal.SIGKILL)):
        q.tell("answer * unknown", "answer")
        check(q.send(f"f{n}", "unknown") and q.send(f"g{n}", "commit"), f"{version}: one open, one committed")
        time.sleep(0.5)
        z.stop(how)
        z.start()
        q.tell("answer * commit", "answer")
        want = ["a", "c", "e"] + [x + str(i) for x in "fg" for i in range(n + 1)]
        check(wait_for(lambda: bodies(z.addr, "TX") == sorted(want), 90), f"{version}: after the broker was {'killed' if n else 'stopped'}, each came once", bodies(z.addr, "TX"))
    q.quit()
    check(z.stop() == 0, f"{version}: it stops cleanly", text_of(z.log)[-800:])


APACHE_CONF = "transactionCheckInterval=3000\ntransactionTimeOut=2000\ntransactionCheckMax=1000\ntransactionOpBatchInterval=200\n"


def flip_play(name, steps, all_ports):
    """A directory goes from one broker to the other, each left with some open and ended as told. One producer lives on."""
    cp = classes("5.5.0")
    if not cp or not apache_server("5.5.0"):
        skip("flip with Apache 5.5.0", "its jars are missing")
        return
    root, ports = temp_dir(), all_ports[:2]
    ns = Zarya(broker=False, ports=all_ports[2:]).start()
    store, want, p, known = os.path.join(root, "data"), [], None, set()
    for n, (who, how) in enumerate(steps):
        step = f"{name}, step {n}, {who}"
        if who == "Apache":
            os.makedirs(os.path.join(root, "apache"), exist_ok=True)
            b = Apache("5.5.0", directory=os.path.join(root, "apache"), namesrv=False, namesrv_addr=ns.ns, store=store, ports=ports, conf=APACHE_CONF, heap="384m").start()
        else:
            b = Zarya(directory=root, namesrv=False, namesrv_addr=ns.ns, ports=ports, features=("admin", "ordered", "query", "delay"), storage="segment_size = 67108864;",
                      extra_plugins=f'{{ use = "feature-transaction"; settings = {{ {QUICK} }}; }}').start()
            b.wait_registered()
        if not p:
            create_topic(b.addr, "FX", 4)
            wait_for(lambda: remoting(ns.ns, 105, {"topic": "FX"})[0].get("code") == 0, 20)
            p = Producer(cp, ns.ns, "FPG", "FX", "p1")
        elif n:
            p.tell(f"answer open{n - 1} commit", "answer")
            check(wait_for(lambda: f"open{n - 1}" in bodies(b.addr, "FX"), 120), f"{step}: what the other broker left open is asked about, and commits", (bodies(b.addr, "FX"), p.lines[-3:]))
        wait_for(lambda: p.send(f"warm{n}", "rollback"), 60)
        good = p.send(f"done{n}", "commit") and p.send(f"back{n}", "rollback") and p.send(f"open{n}", "unknown")
        check(good, f"{step}: committed, rolled back, and open", p.lines[-4:])
        want += [f"done{n}"] + ([f"open{n - 1}"] if n else [])
        wait_for(lambda: p.checked(f"open{n}"), 40) if n < 2 else None
        time.sleep(1)  # Apache writes what has ended after its transactionOpBatchInterval; a kill before that repeats it
        got = bodies(b.addr, "FX")
        check(sorted(set(got)) == sorted(want), f"{step}: all that was committed is there, nothing else", (got, sorted(want)))
        twice = {x for x in got if got.count(x) > 1}
        if who == "Zarya":
            check(not twice - known, f"{step}: none twice", twice - known)
        known = twice  # Apache's own
        b.stop(how if n + 1 < len(steps) else signal.SIGKILL)  # nothing comes behind the last one
    p.quit()
    ns.stop()


def bench(seconds):
    cp = classes("5.5.0")
    figures = {}
    for turn in range(2):
        for who in ("Zarya", "Apache 5.5.0"):
            if who == "Zarya":
                b = Zarya(features=("admin", "ordered", "query", "delay", "transaction")).start()
                b.wait_registered()
            else:
                b = Apache("5.5.0", jvm=()).start()
            create_topic(b.addr, "BX", 8)
            p = Producer(cp, b.ns, "BPG", "BX", "p1")
            p.tell("bench 2 32", "bench", 60)
            line = p.tell(f"bench {seconds} 32", "bench", seconds + 60)[0].split()
            figures.setdefault(who, []).append(int(line[1]) * 1000 / int(line[2]))
            p.quit()
            b.stop()
    for who, all_ in figures.items():
        print(f"# {who}: {' '.join('%.0f' % x for x in all_)} transactions a second (prepared, committed; 256 bytes, 32 threads of one Java client)")
    z, a = max(figures["Zarya"]), max(figures["Apache 5.5.0"])
    print(f"# ours / Apache's: {z / a:.2f}")


def main():
    if "--bench" in sys.argv:
        at = sys.argv.index("--bench")
        bench(int(sys.argv[at + 1]) if len(sys.argv) > at + 1 else 10)
        done()
    only = [a for a in sys.argv[1:] if not a.startswith("--")]
    ports, steps = free_ports(12), []
    classes("5.5.0")  # the flips' producers are of this one, too
    for n, version in enumerate(("5.5.0", "4.9.8")):
        if not only or version in only:
            steps.append(lambda v=version, p=tuple(ports[2 * n:2 * n + 2]): client_play(v, p))
    stop, kill = signal.SIGTERM, signal.SIGKILL
    flips = [("killed", (("Zarya", kill), ("Apache", kill), ("Zarya", stop)))]  # crash/pending_test.py has the other ways, by hand
    if FULL:
        flips = [(name, tuple((who, how) for who in ("Apache", "Zarya", "Apache", "Zarya", "Apache"))) for name, how in (("stopped", stop), ("killed", kill))]
    for n, (name, way) in enumerate(flips):
        if not only or "flip" in only:
            steps.append(lambda a=name, w=way, p=tuple(ports[4 + 4 * n:8 + 4 * n]): flip_play(a, w, p))
    together(*steps)
    done()


main()
