#!/usr/bin/env python3
"""The wall clock is set, a day forward, a day back, by seconds in the middle of a delivery, and while the broker is down: delayed
messages and timed ones come once, none is lost, and none comes before its time by the clock that holds. The clock is one
process's own (tests/clock)."""
import os, sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
if len(sys.argv) > 1 and os.path.isdir(sys.argv[1]):
    os.environ["ZARYA_BUILD"] = os.path.abspath(sys.argv[1])
from zarya import *
from timer_test import ask, timed, there

DAY, HOUR = 86400000, 3600000
CLOCK = os.path.join(BUILD, "tests/zarya_test_clock.so")


class Clocked(Zarya):
    """A broker with a wall clock of its own."""

    def start(self, **more):
        self.clock = os.path.join(self.dir, "clock")
        if not os.path.exists(self.clock):
            self.set(0)
        needs = subprocess.run(["ldd", os.path.join(BUILD, "bin/zarya")], stdout=subprocess.PIPE, text=True).stdout
        asan = re.findall(r"libasan\S* => (\S+)", needs)
        os.environ.update(LD_PRELOAD=":".join(asan + [CLOCK]), ZARYA_TEST_CLOCK=self.clock)
        try:
            return super().start(**more)
        finally:
            del os.environ["LD_PRELOAD"], os.environ["ZARYA_TEST_CLOCK"]

    def set(self, ahead):
        self.ahead = ahead
        with open(self.clock, "w") as f:
            f.write(str(ahead))

    def now(self):
        return int(time.time() * 1000) + self.ahead


def send(z, topic, n, when=None, **props):
    """One message; its body says when it is due."""
    when = when if when is not None else z.now() + {1: 1000, 17: HOUR, 18: 2 * HOUR}[props["DELAY"]]
    body = b"%d:%d" % (n, when)
    head = ask(z.addr, timed(topic, n % 4, body, n, **({"TIMER_DELIVER_MS": when} if "DELAY" not in props else {}), **props))
    check(head["code"] == 0, f"{topic} {n} is taken", head)
    return body


def come(z, topic, bodies, what, seconds=15):
    """Exactly these are there, once, none before its time by the clock that held."""
    wait_for(lambda: len(there(z.addr, topic)) >= len(bodies), seconds, 0.05)
    got = there(z.addr, topic)
    check(sorted(m["body"] for m in got) == sorted(bodies), f"{what}: what is due came, once", (sorted(m["body"] for m in got), sorted(bodies)))
    return got


def not_early(got, what, allowed=0):
    early = min(m["store"] - int(m["body"].split(b":")[1]) for m in got)
    check(early >= -allowed, f"{what}: none before its time", early)


def day_play(z):
    create_topic(z.addr, "D", 4)
    base = z.now()
    soon, hour, day = send(z, "D", 0, base + 1500), send(z, "D", 1, base + HOUR), send(z, "D", 2, base + DAY - HOUR)
    far, farther = send(z, "D", 3, base + DAY + HOUR), send(z, "D", 4, base + 2 * DAY + HOUR)
    levels = [send(z, "D", 5, DELAY=17), send(z, "D", 6, DELAY=18)]
    come(z, "D", [soon], "before the clock is set")
    z.set(DAY)
    set_at = z.now()
    got = come(z, "D", [soon, hour, day] + levels, "a day forward", 40)
    not_early(got, "a day forward")
    late = max(m["store"] - set_at for m in got)
    check(late < 5000, "as soon as the clock was set, not at the next look", late)
    soon2, hour2 = send(z, "D", 7, z.now() + 4000), send(z, "D", 8, z.now() + HOUR)
    levels2 = [send(z, "D", 9, DELAY=17)]
    z.set(0)
    new = send(z, "D", 10, z.now() + 1500)
    # A level whose time lies further ahead than its delay is due at once, as with Apache; a timed message goes by the clock.
    got = come(z, "D", [soon, hour, day, new] + levels + levels2, "a day back")
    not_early([m for m in got if m["body"] not in levels2], "a day back")
    time.sleep(3)  # nothing shall come: there is no event for that
    come(z, "D", [soon, hour, day, new] + levels + levels2, "a day back, seconds later")
    z.set(DAY)
    all_ = [soon, hour, day, new, soon2] + levels + levels2
    come(z, "D", all_, "forward again")
    z.set(3 * DAY)
    got = come(z, "D", all_ + [far, farther, hour2], "two days more")
    not_early([m for m in got if m["body"] not in levels2], "two days more")
    z.set(0)


def middle_play(z):
    """Seconds forward and back, while messages leave."""
    create_topic(z.addr, "MID", 4)
    start, bodies = z.now() + 1500, []
    with socket.create_connection(("127.0.0.1", z.port), 5) as s:
        for i in range(2000):
            bodies.append(b"%d:%d" % (i, start + i * 3))
        for at in range(0, 2000, 100):
            s.sendall(b"".join(timed("MID", i % 4, bodies[i], i, TIMER_DELIVER_MS=start + i * 3) for i in range(at, at + 100)))
            check(all(read_frame(s)[0]["code"] == 0 for _ in range(100)), f"messages {at} and on are taken")
    steps = []  # (when, what held before, what held after)
    for step in (-2000, 1500, -700, 0):
        n = len(there(z.addr, "MID"))
        wait_for(lambda: len(there(z.addr, "MID")) > n + 100, 10, 0.02)
        before = z.ahead
        z.set(step)
        steps.append((time.time() * 1000, before, step))
    got = come(z, "MID", bodies, "seconds back and forth in the middle of a delivery", 30)
    not_early([m for m in got if not on_its_way(m, steps)], "seconds back and forth")


def on_its_way(m, steps):
    """It was due by the clock that held until just before it was stored: it was leaving when the clock was set back."""
    due = int(m["body"].split(b":")[1])
    return any(-100 < m["store"] - after - when < 1000 and due <= m["store"] - after + before for when, before, after in steps if after < before)


def down_play(z):
    """Set while the broker is down, after a stop and after a kill."""
    for how in ("stop", "kill"):
        for step in (DAY, 0):
            topic = f"DOWN{how}{step}"
            create_topic(z.addr, topic, 4)
            base, left = z.now(), []
            for i in range(20):
                left.append(send(z, topic, i, base + 1200 + i))
            levels = [send(z, topic, 100 + i, DELAY=1) for i in range(5)]
            come(z, topic, left + levels, f"before the {how}")
            pend = [send(z, topic, 50, z.now() + 12 * HOUR), send(z, topic, 51, z.now() + 2500)]
            more = [send(z, topic, 110, DELAY=17)]
            z.stop() if how == "stop" else z.kill()
            z.set(step)
            z.start()
            what = f"{how}, and the clock set to {step // DAY} d ahead"
            got = come(z, topic, left + levels + more + (pend if step else []), what)
            if step:
                not_early(got, what)
            else:
                z.set(DAY)
                come(z, topic, left + levels + more + pend[1:], f"{what}, and forward again")
                z.set(DAY + 13 * HOUR)
                come(z, topic, left + levels + more + pend, f"{what}, and half a day more")
                z.set(0)


if __name__ == "__main__":
    if not os.path.exists(CLOCK):
        check(False, "tests/clock is built", CLOCK)
        done()
    z = Clocked(features=("admin", "ordered", "query", "delay")).start()
    day_play(z)
    middle_play(z)
    down_play(z)
    check(z.stop() == 0, "it stops cleanly", text_of(z.log)[-800:])
    done()
