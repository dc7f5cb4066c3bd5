#!/usr/bin/env python3
"""Timed messages are taken back by the thousand: once, twice, again after a restart, only after it, after a kill, and too late, when they were
delivered. What a recall was answered well for in time never comes, everything else comes once, and at its time.

Recalls have to be answered and noted before the first message is due. A busy machine may need longer than was given: then
all of it is done again with three times as long, so nothing is decided by the clock."""
import os, sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
if len(sys.argv) > 1 and os.path.isdir(sys.argv[1]):
    os.environ["ZARYA_BUILD"] = os.path.abspath(sys.argv[1])
from zarya import *
from timer_test import TIMER, timed, there, now, lateness

N = 80000 if FULL else 4000
SPREAD_MS = 3000
# The number of a message modulo 8 says what becomes of it.
KEPT, ONCE, TWICE, AGAIN, AFTER_STOP, LATE, AFTER_KILL = (0, 1), 2, 3, 4, 5, 6, 7


def ask_all(addr, frames):
    """Many requests on one connection, 64 under way; the answers by opaque."""
    host, port = addr.rsplit(":", 1)
    out = {}
    with socket.create_connection((host, int(port)), 5) as s:
        s.settimeout(60)
        for at in range(0, len(frames), 64):
            part = frames[at:at + 64]
            s.sendall(b"".join(part))
            for _ in part:
                head, _ = read_frame(s)
                out[head["opaque"]] = head
    return out


def send_all(addr, topic, begin):
    """The handles that the sends answered, by number."""
    frames = []
    for i in range(N):
        when = begin + i * SPREAD_MS // N
        frames.append(timed(topic, i % 4, b"%d:%d" % (i, when), i, TIMER_DELIVER_MS=when))
    heads = ask_all(addr, frames)
    good = {i: h["extFields"]["recallHandle"] for i, h in heads.items() if h["code"] == 0}
    check(len(good) == N, f"{topic}: {N} timed messages are taken", [h for h in heads.values() if h["code"]][:3])
    return good


def recall_all(addr, topic, handles, kinds, code, what):
    """Every message of those kinds, each answered by code."""
    chosen = [i for i in handles if i % 8 in kinds]
    heads = ask_all(addr, [frame(370, {"producerGroup": "PG", "topic": topic, "recallHandle": handles[i]}, opaque=i) for i in chosen])
    other = [h for h in heads.values() if h["code"] != code]
    if code == 0 and other and all("timestamp invalid" in (h.get("remark") or "") for h in other):
        return False  # their time has come meanwhile
    check(len(heads) == len(chosen) and not other, f"{topic}: {len(chosen)} recalls {what}", other[:3])
    return True


def taken(z):
    """Whether the timer has noted all that lies in its queue."""
    end = int(remoting(z.addr, 30, {"topic": TIMER, "queueId": 0})[0]["extFields"]["offset"])
    return json.loads(zaryactl("--data", z.data, "--json", "delay", "stats").stdout)["timed"]["next_in_queue"] >= end


def prepare(z, topic, begin):
    """Everything is sent, and all that is taken back in time is taken back; None when it was not done in time."""
    handles = send_all(z.addr, topic, begin)
    if not recall_all(z.addr, topic, handles, (ONCE, TWICE, AGAIN), 0, "of what pends") or not recall_all(z.addr, topic, handles, (TWICE,), 0, "for the second time"):
        return None
    check(z.stop() == 0, f"{topic}: it stops cleanly", text_of(z.log)[-800:])
    z.start()
    if not recall_all(z.addr, topic, handles, (AGAIN, AFTER_STOP), 0, "after a restart, half of them for the second time"):
        return None
    z.kill()
    z.start()
    if not recall_all(z.addr, topic, handles, (AFTER_KILL,), 0, "after a kill"):
        return None
    return handles if wait_for(lambda: taken(z), 60, 0.05) and now() < begin - 1000 else None


def play():
    z = Zarya(features=("admin", "ordered", "query"), extra_plugins='{ use = "feature-delay"; settings = { recall = true; }; }').start()
    handles, seconds = None, 40 if FULL else 5
    while not handles and seconds < 2000:
        topic, begin = f"Recall{seconds}", now() + seconds * 1000
        create_topic(z.addr, topic, 4)
        handles = prepare(z, topic, begin)
        print(f"# {topic}: ready {begin - now()} ms before the first is due{'' if handles else ': too late, once more'}", flush=True)
        seconds *= 3
    if not check(handles, "everything is recalled in time"):
        return
    left = (*KEPT, LATE)
    want = {i for i in handles if i % 8 in left}
    wait_for(lambda: len(there(z.addr, topic)) >= len(want), 120, 0.2)
    numbers = lambda: sorted(int(m["body"].split(b":")[0]) for m in there(z.addr, topic))
    check(numbers() == sorted(want), f"{topic}: what was not recalled comes once, nothing else", (len(numbers()), len(want), sorted(set(numbers()) - want)[:5]))
    late = lateness(there(z.addr, topic))
    check(late[0] >= 0, f"{topic}: none before its time", late[:5])
    recall_all(z.addr, topic, handles, (LATE, ONCE), 604, "of what was delivered, or taken back long ago, are refused")
    check(z.stop() == 0, f"{topic}: it stops cleanly", text_of(z.log)[-800:])
    z.start()
    # Everything that is due has left when one that is due later comes.
    last = now() + 2500
    ask_all(z.addr, [timed(topic, 0, b"%d:%d" % (N, last), N, TIMER_DELIVER_MS=last)])
    wait_for(lambda: N in numbers(), 60, 0.1)
    check(numbers() == sorted(want) + [N], f"{topic}: and nothing more after another restart", (len(numbers()), len(want)))
    check(z.stop() == 0, f"{topic}: it stops cleanly", text_of(z.log)[-800:])


if __name__ == "__main__":
    play()
    done()
