#!/usr/bin/env python3
"""Messages for arbitrary times: each comes at its time, to the millisecond and not before it, once, across restarts and crashes,
with damaged or missing files of the timer, and without the plugin meanwhile; recalls take them back."""
import base64, os, sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
if len(sys.argv) > 1 and os.path.isdir(sys.argv[1]):
    os.environ["ZARYA_BUILD"] = os.path.abspath(sys.argv[1])
from zarya import *

TIMER = "rmq_sys_wheel_timer"
DAY = 86400


def timed(topic, queue, body, opaque=1, sysflag=0, **props):
    text = f"UNIQ_KEY\x01{topic}{opaque:024X}\x02WAIT\x01true\x02TAGS\x01tt\x02" + "".join(f"{k}\x01{v}\x02" for k, v in props.items())
    return frame(310, {"a": "PG", "b": topic, "c": "TBW102", "d": 4, "e": queue, "f": sysflag, "g": 1700000000123, "h": 7, "i": text, "j": 0, "k": "false",
                       "m": "false"}, body, opaque=opaque)


def ask(addr, request):
    host, port = addr.rsplit(":", 1)
    with socket.create_connection((host, int(port)), 5) as s:
        s.settimeout(20)
        s.sendall(request)
        return read_frame(s)[0]


def send_many(addr, topic, times, first=0):
    """One message for each of the times (ms), its number and time in its body; the bodies of those acknowledged."""
    host, port = addr.rsplit(":", 1)
    acked = set()
    with socket.create_connection((host, int(port)), 5) as s:
        s.settimeout(30)
        for begin in range(0, len(times), 100):
            part = times[begin:begin + 100]
            s.sendall(b"".join(timed(topic, (first + begin + i) % 4, b"%d:%d" % (first + begin + i, t), first + begin + i, TIMER_DELIVER_MS=t) for i, t in enumerate(part)))
            for _ in part:
                head, _ = read_frame(s)
                if head["code"] == 0:
                    acked.add(b"%d:%d" % (head["opaque"], times[head["opaque"] - first]))
    return acked


def there(addr, topic):
    return [m for q in pull_all(addr, topic).values() for m in q]


def bodies(addr, topic):
    return [m["body"] for m in there(addr, topic)]


def now():
    return int(time.time() * 1000)


def lateness(messages):
    """Of each delivered one, its store time less the time that it asked for."""
    return sorted(m["store"] - int(m["body"].split(b":")[1]) for m in messages)


def once(z, topic, acked, what, seconds=40):
    wait_for(lambda: len(set(bodies(z.addr, topic))) >= len(acked), seconds, 0.1)
    got = there(z.addr, topic)
    check(len(got) == len(acked) and {m["body"] for m in got} == acked, f"{what}: each comes once", (len(acked), len(got), len({m["body"] for m in got})))
    late = lateness(got)
    check(late and late[0] >= 0, f"{what}: none before its time", late[:5])
    return late


def basic_play(z):
    create_topic(z.addr, "T", 4)
    for name, value in (("TIMER_DELAY_MS", "300"), ("TIMER_DELAY_SEC", "1"), ("TIMER_DELIVER_MS", None)):
        began, before = now(), len(pull_queue(z.addr, "T", 2))
        when = began + (300 if name.endswith("Y_MS") else 1000 if name.endswith("SEC") else 700)
        head = ask(z.addr, timed("T", 2, b"hello", 5, **{name: value or when}))
        check(head["code"] == 0 and head["extFields"].get("recallHandle"), f"{name} is taken, with a handle", head)
        handle = base64.urlsafe_b64decode(head["extFields"]["recallHandle"]).decode().split()
        check(handle[:3] == ["v1", "T", "broker-a"] and handle[4] == f"T{5:024X}" and when - 1001 <= int(handle[3]) <= when + 1001, "as Apache's", handle)
        wait_for(lambda: len(pull_queue(z.addr, "T", 2)) > before, 10)
        got = pull_queue(z.addr, "T", 2)
        check(len(got) == before + 1 and got[-1]["store"] >= when, "it comes, and not before its time", (got, when))
        if len(got) != before + 1:
            continue
        check(got[-1]["store"] - when < 500, "to the millisecond, or nearly so on a busy machine", got[-1]["store"] - when)
        p = got[-1]["props"]
        check(p.get("REAL_TOPIC") == "T" and p.get("REAL_QID") == "2" and p.get("TAGS") == "tt" and int(p["TIMER_OUT_MS"]) % 1000 == 0 and
              int(p["TIMER_DEQUEUE_MS"]) >= int(p["TIMER_ENQUEUE_MS"]) > 0, "with Apache's properties", p)
    held = pull_queue(z.addr, TIMER, 0)
    check(len(held) == 3 and all(m["topic"] == TIMER for m in held), f"they were held in {TIMER}", held)


def refusal_play(z):
    before = len(pull_queue(z.addr, "T", 0))
    for value in (now() + 3 * DAY * 1000 + 60000, "soon", 1 << 63):
        head = ask(z.addr, timed("T", 0, b"far", TIMER_DELIVER_MS=value))
        check(head["code"] == 13 and head["remark"].startswith("timer message illegal, the delay time should not be bigger than the max delay 259200000ms"), f"{value} is refused as by Apache", head)
    head = ask(z.addr, timed("T", 0, b"past", TIMER_DELIVER_MS=now() - 5000))
    check(head["code"] == 0 and len(pull_queue(z.addr, "T", 0)) == before + 1, "what is due already is there at once", head)
    head = ask(z.addr, timed("T", 0, b"del", TIMER_DELIVER_MS=now() - 5000, TIMER_DEL_UNIQKEY="x"))
    check(head["code"] == 13, "a recall of the past is refused", head)
    head = ask(z.addr, timed("T", 0, b"half", sysflag=4, TRAN_MSG="true", TIMER_DELAY_SEC="5"))
    check(head["code"] != 0, "a half message with a time needs the plugin for transactions", head)
    check(ask(z.addr, timed("T", 0, b"both", DELAY=1, TIMER_DELAY_SEC="500"))["code"] == 0, "a level beside it wins")
    got = wait_for(lambda: [m for m in pull_queue(z.addr, "T", 0) if m["body"] == b"both"], 10)
    check(got and "TIMER_DELAY_SEC" not in got[0]["props"], "and TIMER_DELAY_SEC goes", got)


def many_play(z):
    create_topic(z.addr, "MANY", 4)
    start, n = now() + 2500, 4000
    acked = send_many(z.addr, "MANY", [start + i * 2000 // n for i in range(n)])
    check(len(acked) == n, f"{n} timed messages are taken", len(acked))
    late = once(z, "MANY", acked, f"{n} within two seconds")
    print(f"# lateness p50 {late[len(late) // 2]} ms, p99 {late[len(late) * 99 // 100]} ms, most {late[-1]} ms")


def recall(addr, topic, handle, **more):
    return remoting(addr, 370, {"producerGroup": "PG", "topic": topic, "recallHandle": handle, **more})[0]


def recall_play(z):
    create_topic(z.addr, "RC", 4)
    handles = []
    for i in range(6):
        when = now() + (3000 if i < 3 else 6000)
        head = ask(z.addr, timed("RC", 0, b"%d" % i, i, TIMER_DELIVER_MS=when))
        handles.append(head["extFields"]["recallHandle"])
    for i in (1, 4):
        head = recall(z.addr, "RC", handles[i])
        check(head.get("code") == 0 and head["extFields"].get("msgId") == f"RC{i:024X}", "a message is recalled", head)
    check(z.stop() == 0, "the broker stops")
    z.start()
    head = recall(z.addr, "RC", handles[5])
    check(head.get("code") == 0, "one is recalled after a restart", head)
    wait_for(lambda: len(bodies(z.addr, "RC")) >= 3, 15, 0.1)
    time.sleep(1.1)  # nothing shall come: there is no event for that
    check(sorted(bodies(z.addr, "RC")) == [b"0", b"2", b"3"], "those recalled do not come, the others do", bodies(z.addr, "RC"))
    for handle, topic, code, text in ((handles[0], "RC", 604, "timestamp invalid"), (handles[5], "T", 604, "topic not match"), ("x", "RC", 604, ""), ("", "RC", 604, ""),
                                      (base64.urlsafe_b64encode(b"v1 RC other 9999999999999 U").decode(), "RC", 604, "broker service not available"),
                                      (base64.urlsafe_b64encode(b"v1 RC broker-a 9999999999999 U").decode(), "RC", 604, "timestamp invalid"),
                                      (base64.urlsafe_b64encode(b"v2 RC broker-a 9 U").decode(), "RC", 604, ""), (handles[5], "NONE", 17, "the topic[NONE] not exist")):
        head = recall(z.addr, topic, handle)
        check(head.get("code") == code and text in head.get("remark", ""), f"answer {code} {text}", head)


def tell_play(z):
    head, body = remoting(z.addr, 45)
    check(head.get("code") == 0 and b"offsetTable" in body, "code 45: delay offsets", (head, body))
    head, body = remoting(z.addr, 60)
    check(head.get("code") == 0 and len(body) == 56 and abs(struct.unpack(">7q", body)[0] - now()) < 10000, "code 60: the timer's checkpoint", (head, body))
    head = ask(z.addr, timed("T", 0, b"x", TIMER_DELAY_SEC=3600))
    wait_for(lambda: b'"T":{"count":1' in remoting(z.addr, 61)[1], 5)
    head, body = remoting(z.addr, 61)
    check(head.get("code") == 0 and json.loads(body)["timingCount"]["T"]["count"] == 1, "code 61: pending messages by topic", body)
    r = zaryactl("--data", z.data, "--json", "delay", "stats")
    check('"pending"' in r.stdout and '"levels"' in r.stdout, "zaryactl delay stats", r.stdout[:500])
    figures(z)


def figures(z):
    """The timer's figures in the broker's runtime info."""
    ask_all = lambda: json.loads(remoting(z.addr, 28)[1])["table"]
    first = ask_all()
    for n in range(40):
        ask(z.addr, timed("Figures", 0, b"f%d" % n, n, TIMER_DELAY_SEC=1))
    # Rates are over the time since the last question, so the one after both has some of each.
    both = wait_for(lambda: len(bodies(z.addr, "Figures")) >= 40 and ask_all(), 20) or first
    check(float(both["timerEnqueueTps"]) > 0 and float(both["timerDequeueTps"]) > 0, "code 28: how fast timed messages come and go", both)
    check(both["timerOffsetBehind"] == "0" and int(both["timerReadBehind"]) <= 2, "and that the timer is not behind", both)


def without_play():
    """The plugin goes and comes back: what needs it is refused by its name, what pends waits."""
    z = Zarya(features=("admin", "ordered", "query", "delay")).start()
    create_topic(z.addr, "W", 4)
    acked = send_many(z.addr, "W", [now() + 2500 + i * 20 for i in range(100)])
    check(ask(z.addr, timed("W", 0, b"9000:%d" % (now() + 1000), 9000, DELAY=1))["code"] == 0, "a level too")
    check(z.stop() == 0, "it stops")
    bare = Zarya(directory=z.dir, ports=(z.port, z.ns_port), features=("admin", "ordered", "query")).start()
    for props in ({"TIMER_DELAY_SEC": 5}, {"DELAY": 3}):
        head = ask(bare.addr, timed("W", 0, b"no", **props))
        check(head["code"] == 1 and "feature-delay" in head["remark"], "without it, the answer names it", head)
    time.sleep(2)  # what was due by now must not come
    check(bodies(bare.addr, "W") == [], "nothing comes meanwhile")
    check(bare.stop() == 0, "it stops")
    again = Zarya(directory=z.dir, ports=(z.port, z.ns_port), features=("admin", "ordered", "query", "delay")).start()
    wait_for(lambda: len(bodies(again.addr, "W")) >= 101, 15)
    got = bodies(again.addr, "W")
    check(len(got) == 101 and acked < set(got), "with it again, everything comes once", len(got))
    check(again.stop() == 0, "it stops")


def step_play():
    """timer_precision is changed between two starts, in either direction, while messages pend."""
    def broker(step, **more):
        return Zarya(features=("admin", "ordered", "query"), extra_plugins=f'{{ use = "feature-delay"; settings = {{ timer_precision = {step}; }}; }}', **more).start()

    z = broker(100)
    create_topic(z.addr, "STEP", 4)
    due = now() + 2000
    acked = send_many(z.addr, "STEP", [due + 70 * i for i in range(100)])
    check(len(acked) == 100 and z.stop() == 0, "timed messages pend in steps of 100 ms")
    z = broker(1000, directory=z.dir, ports=(z.port, z.ns_port))
    check(wait_for(lambda: "were kept with another timer_precision than 1000 ms" in text_of(z.log), 20), "the log says that the step is another one")
    wait_for(lambda: bodies(z.addr, "STEP"), 20, 0.002)
    z.kill()
    z = broker(100, directory=z.dir, ports=(z.port, z.ns_port))
    once(z, "STEP", acked, "with steps of 1 s, killed, and of 100 ms again")
    check(z.stop() == 0, "it stops cleanly")


def sync_play():
    z = Zarya(features=("admin", "ordered", "query", "delay"), storage='flush = "sync";').start()
    create_topic(z.addr, "S", 4)
    acked = send_many(z.addr, "S", [now() + 400 + i * 3 for i in range(300)])
    once(z, "S", acked, "with sync flush")
    check(z.stop() == 0, "it stops cleanly")


def anonymous_memory(z):
    return int(re.search(r"RssAnon:\s+(\d+)", text_of(f"/proc/{z.proc.pid}/status")).group(1)) * 1024


def million_play():
    """What pending messages cost, and how late so many come. Memory is judged in the full form, without sanitizers."""
    n, ahead, spread = (1000000, 240, 100) if FULL else (20000, 12, 4)
    z = Zarya(features=("admin", "ordered", "query", "delay")).start(build=PLAIN if FULL else None)
    create_topic(z.addr, "M", 4)
    send_many(z.addr, "M", [now() + 100 * DAY])  # refused, but what sending once needs is there
    before, start = anonymous_memory(z), now() + ahead * 1000
    acked = send_many(z.addr, "M", [start + i * spread * 1000 // n for i in range(n)])
    check(len(acked) == n, f"{n} messages pend", len(acked))
    wait_for(lambda: json.loads(zaryactl("--data", z.data, "--json", "delay", "stats").stdout)["timed"]["taken"] >= n, 60, 0.2)
    used = anonymous_memory(z) - before
    print(f"# {n} pending: {used} bytes more memory, {used / n:.1f} each")
    check(not FULL or used <= 64 * n, "at most 64 bytes each", used)
    late = once(z, "M", acked, f"{n} at {n // spread} a second", ahead + spread + 120)
    print(f"# lateness p50 {late[len(late) // 2]} ms, p99 {late[len(late) * 99 // 100]} ms, most {late[-1]} ms")
    check(z.stop() == 0, "it stops cleanly")


def files_of_timer(data):
    """All that the timer keeps but its messages."""
    found = [os.path.join(data, "timerlog", f) for f in os.listdir(os.path.join(data, "timerlog"))]
    return [p for p in found + [os.path.join(data, x) for x in ("timerwheel", "config/timercheck", "config/timermetrics", "config/timermetrics.bak")] if os.path.exists(p)]


def each(change, *names):
    """A damage to those files of the timer, or to all."""
    def damage(data):
        for p in files_of_timer(data):
            if not names or os.path.basename(p) in names or os.path.basename(os.path.dirname(p)) in names:
                change(p)
    return damage


def zero(path):
    size = os.path.getsize(path)
    os.truncate(path, 0)
    os.truncate(path, size)


def rubbish(path):
    with open(path, "r+b") as f:
        f.write(os.urandom(min(os.path.getsize(path), 1 << 20)))


def restart_play(z, how, damage, what):
    """Some due soon, some later; stopped in the middle of the first ones."""
    topic = "R" + str(abs(hash(what)) % 100000)
    create_topic(z.addr, topic, 4)
    start = now() + 1500
    acked = send_many(z.addr, topic, [start + i for i in range(1000)])
    acked |= send_many(z.addr, topic, [start + 5000 + i * 10 for i in range(100)], 1000)
    wait_for(lambda: len(bodies(z.addr, topic)) > 100, 10, 0.002)
    how(z)
    if damage:
        damage(z.data)
    z.start()
    return once(z, topic, acked, what)


def tear(data):
    path = os.path.join(data, "timerlog", sorted(os.listdir(os.path.join(data, "timerlog")))[0])
    check_end = struct.unpack(">q", open(os.path.join(data, "config/timercheck"), "rb").read(16)[8:])[0]
    with open(path, "r+b") as f:
        f.seek(max(0, min(check_end, os.path.getsize(path)) - 52 * 600))
        f.write(b"\xff" * 104)


def zero_wheel(data):
    with open(os.path.join(data, "timerwheel"), "r+b") as f:
        f.write(b"\x55" * 100000)
        f.seek(20000000)
        f.write(os.urandom(100000))


if __name__ == "__main__":
    z = Zarya(features=("admin", "ordered", "query"), extra_plugins='{ use = "feature-delay"; settings = { recall = true; }; }').start()
    basic_play(z)
    refusal_play(z)
    recall_play(z)
    tell_play(z)
    many_play(z)
    check(z.stop() == 0, "it stops cleanly")
    stop, kill = lambda z: check(z.stop() == 0, "it stops cleanly"), Zarya.kill
    half = lambda p: os.truncate(p, os.path.getsize(p) // 2)
    cases = [(stop, None, "a stop in the middle of a second"), (kill, None, "a kill in the middle of a second"),
             (kill, each(os.unlink, "timerlog"), "a kill, and the timer log removed"), (stop, each(os.unlink, "timerwheel"), "a stop, and the wheel removed"),
             (stop, tear, "a stop, and the timer log damaged"), (kill, zero_wheel, "a kill, and the wheel damaged"),
             (kill, each(os.unlink, "timercheck"), "a kill, and timercheck removed"), (stop, each(zero, "timercheck"), "a stop, and timercheck zeroed"),
             (stop, each(rubbish, "timercheck"), "a stop, and timercheck full of rubbish"), (kill, each(lambda p: os.truncate(p, 20), "timercheck"), "a kill, and timercheck cut"),
             (kill, each(zero, "timerlog"), "a kill, and the timer log zeroed"), (stop, each(half, "timerlog"), "a stop, and the timer log's file cut"),
             (stop, each(os.unlink), "a stop, and all of the timer's files removed"), (kill, each(zero), "a kill, and all of them zeroed"),
             (stop, each(rubbish), "a stop, and all of them full of rubbish"), (kill, each(half), "a kill, and all of them cut")]
    ports = free_ports(8)

    def some(n):
        z = Zarya(features=("admin", "ordered", "query", "delay"), ports=(ports[2 * n], ports[2 * n + 1])).start()
        for how, damage, what in cases[n::4]:
            restart_play(z, how, damage, what)
        check(z.stop() == 0, "it stops cleanly")

    together(*(lambda n=n: some(n) for n in range(4)))  # they wait for their messages' times
    without_play()
    sync_play()
    step_play()
    million_play()
    done()
