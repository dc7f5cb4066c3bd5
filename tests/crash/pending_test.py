#!/usr/bin/env python3
"""One data directory with everything pending at once moves between Apache 5.5.0 and Zarya: delay levels, timed messages, half messages,
and the filter data of an SQL92 consumer with consume queue extents that hold its bit maps. Each broker is ended, stopped or killed, in the
middle of a delivery. After each start

- all that is due comes, at its time; what was committed comes, what was rolled back never does;
- nothing comes twice, but where Apache begins after a kill (it repeats some), and then none of what pended; and what Apache asked about twice;
- each half message is asked about, and the one whose producer does not know stays open through the whole chain;
- the consumer is given exactly what its expression says, its filter data is what it was, and no bit map contradicts it.

Two chains at a time, each waits for its messages' times; between them all four moves, and Zarya after its own kill. --full goes there and
back with more messages and Apache's own delays."""
import collections, os, sys
sys.path[:0] = [os.path.join(os.path.dirname(os.path.abspath(__file__)), *p) for p in (("..",), ("..", "plays"), ())]
from zarya import *
from timer_test import timed, now
from transaction_test import half_frame, end, beat, place, COMMIT, ROLLBACK, OP
from formats_test import hold_sql, beat_sql, live_sql, extents, bit_positions

TOPIC, QUEUES, SQL = "Mix", 4, "v BETWEEN 5 AND 8 AND w IS NOT NULL"
LEVELS = (1000, 5000, 10000, 30000) if FULL else (1000, 3000, 6000, 14000)
LEVELS_TEXT = " ".join(f"{ms // 1000}s" for ms in LEVELS)
MORE, NEAR_MS = (10, 5) if FULL else (1, 10)
CONF = ("timerWheelEnable=true\nenableConsumeQueueExt=true\nenableCalcFilterBitMap=true\nwaitTimeMillsInSendQueue=5000\ntransactionCheckInterval=3000\n"
        f"transactionTimeOut=2000\ntransactionCheckMax=1000\ntransactionOpBatchInterval=200\nmessageDelayLevel={LEVELS_TEXT}\n")
PLUGINS = ('{ use = "filter-sql92"; }, { use = "feature-delay"; settings = { delay_levels = "%s"; }; }, { use = "feature-transaction"; settings = { timeout = "2 s"; '
           'check_interval = "2 s"; check_max = 1000; }; }' % LEVELS_TEXT)


def send_all(addr, frames):
    """Until each is taken: a broker that has just begun refuses some. frames by opaque."""
    left = list(frames)
    with socket.create_connection((addr.split(":")[0], int(addr.split(":")[1])), 5) as s:
        s.settimeout(60)
        for _ in range(100):
            refused = []
            for at in range(0, len(left), 50):
                part = left[at:at + 50]
                s.sendall(b"".join(frames[o] for o in part))
                for _ in part:
                    head, _ = read_frame(s)
                    if head["code"]:
                        refused.append(head["opaque"])
            left = refused
            if not left:
                return True
            time.sleep(0.05)
    return False


class Producer:
    """Of transactions: asked about its half messages, it says what their names tell."""

    def __init__(self, addr, knows):
        self.c, self.knows, self.asked, self.ended, self.beaten = Conn(addr), knows, set(), set(), 0

    def half(self, n, body):
        head = self.c.ask(*half_frame(n, body, topic=TOPIC, queue=n % QUEUES, v=n % 10, w="h"), seconds=20)[0]
        return place(head) if head.get("code") == 0 else None

    def say(self, at, what, asked=False):
        good = end(self.c, at, what, check=asked, seconds=20).get("code") == 0
        if good:
            self.ended.add(at[0])
        return good

    def pump(self, seconds):
        """Answers what it is asked meanwhile."""
        if time.time() - self.beaten > 10:
            beat(self.c)
            self.beaten = time.time()
        until = time.time() + seconds
        while time.time() < until and self.c.read(until - time.time()):
            pass
        found = [(h["extFields"], records(b)[0]["body"]) for h, b in self.c.pushed(39)]
        self.c.seen = []
        for ext, body in found:
            word = {b"c": COMMIT, b"r": ROLLBACK, b"u": COMMIT if self.knows else None}[body[:1]]
            if word is None or self.say((int(ext["tranStateTableOffset"]), int(ext["commitLogOffset"])), word, True):
                self.asked.add(body)

    def noted(self):
        """Whether all that it ended lies in the op queue: what a kill would take otherwise."""
        there = {int(x) for m in pull_queue(self.c.sock.getpeername()[0] + ":%d" % self.c.sock.getpeername()[1], OP, 0) for x in m["body"].decode().split(",") if x}
        return self.ended <= there


class Chain:
    def __init__(self, name, ports):
        self.name, self.root = name, temp_dir()
        self.ns = Zarya(broker=False, ports=ports[:2]).start()
        self.ports, self.data = ports[2:], os.path.join(self.root, "data")
        self.n, self.round, self.how, self.who, self.ended, self.beaten = 0, 0, "", "", 0, 0
        self.want, self.halves, self.counts, self.bits = {}, set(), collections.Counter(), None

    def start(self, who):
        if who == "Z":
            b = Zarya(directory=self.root, namesrv=False, namesrv_addr=self.ns.ns, ports=self.ports, features=("admin", "ordered", "query"), extra_plugins=PLUGINS,
                      storage=f'segment_size = "64 MiB"; queue_extents = true; delay_levels = "{LEVELS_TEXT}";', broker_conf="enableCalcFilterBitMap = true;").start()
            b.wait_registered()
            return b
        home = os.path.join(self.root, "apache")
        os.makedirs(home, exist_ok=True)
        return Apache(directory=home, namesrv=False, namesrv_addr=self.ns.ns, store=self.data, ports=self.ports, conf=CONF, heap="384m").start()

    def next(self, kind, due):
        """Number and body of the next message; its property v is the number modulo 10."""
        self.n += 1
        return self.n, b"%s:%d:%d:%d" % (kind, self.round, self.n, due)

    def there(self, b):
        return [m for q in pull_all(b.addr, TOPIC, QUEUES).values() for m in q]

    def send(self, b, p, far, levels, what):
        frames, mine = {}, {}
        begin = now() + 1500

        def add(kind, due, **props):
            n, body = self.next(kind, due)
            frames[n] = timed(TOPIC, n % QUEUES, body, n, v=n % 10, w="x", **props)
            mine[body] = n % 10
        for i in range(400 * MORE):
            add(b"near", begin + i * NEAR_MS, TIMER_DELIVER_MS=begin + i * NEAR_MS)
        for i in range(60 * MORE):
            add(b"far", begin + far + i * 50 // MORE, TIMER_DELIVER_MS=begin + far + i * 50 // MORE)
        for level in range(levels):
            for i in range(10 * MORE):
                add(b"level%d" % (level + 1), now() + LEVELS[level], DELAY=level + 1)
        good = send_all(b.addr, frames)
        for kind in (b"c", b"r", b"u", b"C", b"R"):
            n, body = self.next(kind, 0)
            at = p.half(n, body)
            good = good and at and (kind.islower() or p.say(at, COMMIT if kind == b"C" else ROLLBACK))
            if kind.islower():
                self.halves.add(body)
            if kind in b"cC":
                mine[body] = n % 10
        check(good, f"{what}: {len(mine)} messages are taken, and half messages left open")
        self.want.update(mine)
        return {body for body in mine if body.startswith(b"near")}

    def settle(self, who, b, p, c, what, last):
        """All that pends comes, and is as it should be."""
        if last:
            self.want.update({body: int(body.split(b":")[2]) % 10 for body in self.halves if body[:1] == b"u"})
        came = len(self.there(b))
        print(f"# {what}: {came} of {len(self.want)} had come before it could be asked", flush=True)

        def all_there():
            p.pump(0.1)
            if time.time() - self.beaten > 10:
                self.beaten = time.time()
                beat_sql(c, TOPIC, SQL)
            return self.halves <= p.asked | self.decided and set(self.want) <= {m["body"] for m in self.there(b)}
        wait_for(all_there, 200, 0.05)
        got = self.there(b)
        counts = collections.Counter(m["body"] for m in got)
        check(set(self.want) <= set(counts), f"{what}: all {len(self.want)} are there", sorted(set(self.want) - set(counts))[:5])
        check(set(counts) <= set(self.want), f"{what}: and nothing else", sorted(set(counts) - set(self.want))[:5])
        check(self.halves <= p.asked | self.decided, f"{what}: each half message that was open is asked about", sorted(self.halves - p.asked - self.decided))
        twice = [body for body, n in counts.items() if n > max(1, self.counts[body])]
        if who == "A":  # it asks once more before a busy machine brought the answer, and takes both for commits
            twice = [body for body in twice if body[:2] not in (b"c:", b"u:")]
        if who == "Z" or self.how == "stop":
            check(not twice, f"{what}: none twice", (len(twice), twice[:5]))
        else:
            wrong = [t for t in twice if int(t.split(b":")[3]) > self.ended]
            check(not wrong, f"{what}: {len(twice)} come twice, none of those that were pending", wrong[:5])
        early = [(m["store"] - int(m["body"].split(b":")[3]), m["body"]) for m in got if m["body"] not in self.counts]
        check(not early or min(early)[0] >= (0 if self.who + who == "ZZ" else -1005), f"{what}: none before its time", sorted(early)[:3])
        for q in range(QUEUES):
            wanted = [m["body"].decode() for m in got if m["queue"] == q and 5 <= self.want.get(m["body"], 0) <= 8]
            found = live_sql(b.addr, c, 0, TOPIC, q)
            if not check(found == wanted, f"{what}: queue {q}, the consumer gets the {len(wanted)} that its expression takes", (len(found), found[:3], wanted[:3])):
                break
        check(bit_positions(self.data, TOPIC) == self.bits, f"{what}: its filter data is what it was", self.bits)

    def bit_maps(self, got, what):
        """What lies on the disk: of each entry with a bit map, what it says."""
        said = []
        for q in range(QUEUES):
            by_offset = {m["offset"]: m["body"] for m in got if m["queue"] == q}
            for i, unit in enumerate(extents(self.data, TOPIC, str(q))):
                if unit and unit != "damaged" and unit[2] and i in by_offset:
                    said.append((all(unit[2][b // 8] >> b % 8 & 1 for b in self.bits), 5 <= self.want[by_offset[i]] <= 8))
        wrong = [x for x in said if x[1] and not x[0]]
        check(len(said) > 100 and not wrong, f"{what}: {len(said)} bit maps let through what the expression takes", (len(said), len(wrong)))

    def turn(self, who, how, far, levels, last):
        what = f"{self.name}, {self.round}: {'Zarya' if who == 'Z' else 'Apache'}" + (f" after {self.how} of {'Zarya' if self.who == 'Z' else 'Apache'}" if self.who else "")
        b = self.start(who)
        self.decided = {body for body in self.halves if body[:1] != b"u" and int(body.split(b":")[1]) < self.round - 1}
        p, c = Producer(b.addr, last), None
        if self.round == 0:
            check(create_topic(b.addr, TOPIC, QUEUES), f"{what}: a topic")
        c = hold_sql(b.addr, TOPIC, SQL)
        beat(p.c)
        if self.round:
            self.settle(who, b, p, c, what, last)
        if last:
            b.stop(signal.SIGKILL)
            return
        near = self.send(b, p, far, levels, what)
        wait_for(lambda: len(near & {m["body"] for m in self.there(b)}) >= 30 * MORE, 60, 0.05)
        check(wait_for(p.noted, 60, 0.1), f"{what}: what is decided is noted")
        got = self.there(b)
        self.counts = collections.Counter(m["body"] for m in got)
        print(f"# {what}: ended when {len(near & set(self.counts))} of {len(near)} that are due now had come", flush=True)
        c.close()
        ended = b.stop(signal.SIGTERM if how == "stop" else signal.SIGKILL)
        self.ended = now()
        if who == "Z" and how == "stop":
            check(ended == 0, f"{what}: it stops cleanly", text_of(b.log)[-800:])
        self.bits = self.bits or bit_positions(self.data, TOPIC)
        if self.round:  # what came before the consumer was known has none
            self.bit_maps(got, what)
        self.round, self.how, self.who = self.round + 1, how, who

    def run(self, turns):
        """turns: who and how, and how far ahead the pending ones are; as long as the way to the next broker takes, on an idle machine."""
        for i, text in enumerate(turns.split()):
            who, how, far = text.split("-")
            self.turn(who, how, int(far) * 1000 * (3 if FULL else 1), 4 if int(far) > 5 or FULL else 2, i + 1 == len(turns.split()))
        self.ns.stop()


def main():
    if not apache_server("5.5.0"):
        skip("flips of a directory with everything pending", "no Java, or no way to Maven's registry")
        done()
    chains = [("there", "Z-stop-8 A-kill-5 Z-kill-3 Z-stop-0"), ("back", "A-stop-14 Z-kill-8 A-stop-0")]
    if FULL:
        chains = [("there", "Z-stop-8 A-kill-8 Z-kill-5 Z-stop-8 A-stop-14 Z-kill-8 A-kill-8 Z-stop-0"), ("back", "A-stop-14 Z-kill-8 A-kill-8 Z-stop-8 A-stop-14 Z-kill-5 Z-kill-8 A-stop-0")]
    ports = free_ports(4 * len(chains))
    together(*(lambda n=n, name=name, turns=turns: Chain(name, ports[4 * n:4 * n + 4]).run(turns) for n, (name, turns) in enumerate(chains)))
    done()


if __name__ == "__main__":
    main()
