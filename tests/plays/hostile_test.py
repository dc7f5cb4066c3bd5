#!/usr/bin/env python3
"""Hostile clients: wrong frames, a sender of one byte a second, a reader that never reads, many idle connections, a frame that
says 2 GiB. Others are not disturbed, and memory stays bounded (the table that is printed)."""
import os, sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
from zarya import *

table, delivery = [], []


def rss(pid):
    return int(re.search(r"VmRSS:\s+(\d+)", text_of(f"/proc/{pid}/status")).group(1))


def connect(z):
    s = socket.create_connection(("127.0.0.1", z.port), 5)
    s.settimeout(5)
    return s


def alive(z, what):
    """Another client's send and answer, on a connection of its own."""
    head, _ = remoting(z.addr, 310, {"a": "PG", "b": "Hostile", "c": "TBW102", "d": 4, "e": 0, "f": 0, "g": 1, "h": 0, "i": "", "j": 0}, b"x")
    check(head.get("code") == 0, f"others are served: {what}", head)


def others(z, when):
    """What a well-behaved producer and consumer see at this moment, for the table; all of their messages must come."""
    r = subprocess.run([os.path.join(PLAIN, "bin/zarya-bench"), "e2e", "--addr", z.addr, "--rate", "500", "--duration", "1", "--warmup", "0.3", "--json"],
                       stdout=subprocess.PIPE, text=True, timeout=60)
    seen = json.loads(r.stdout or "{}")
    check(r.returncode == 0 and seen.get("failed") == 0 and seen.get("unanswered") == 0, f"others lose nothing {when}", r.stdout[-400:])
    delivery.append((when, seen.get("delivery_us", {}).get("p50", 0), seen.get("delivery_us", {}).get("p99", 0)))


def closed(s):
    try:
        s.settimeout(5)
        return s.recv(1) == b""
    except ConnectionError:
        return True
    except OSError:
        return False


def wrong_frames(z):
    good = frame(105 if False else 30, {"topic": "Hostile", "queueId": 0})
    cases = {
        "a length of 2 GiB": struct.pack(">i", 0x7FFFFFFF) + b"x" * 64,
        "a negative length": struct.pack(">i", -1) + b"x" * 64,
        "a length beyond 16 MiB": struct.pack(">i", (16 << 20) + 1) + b"x" * 64,
        "a header longer than the frame": struct.pack(">ii", 20, 4000) + b"x" * 64,
        "an unknown serialization": struct.pack(">ii", 20, 7 << 24 | 16) + b"x" * 64,
        "a header that is no JSON": struct.pack(">ii", 20, 16) + b"{" * 64,
        "JSON null": struct.pack(">ii", 8, 4) + b"null" + b"x" * 64,
        "a cut binary header": struct.pack(">ii", 14, 1 << 24 | 10) + b"\0" * 64,
        "TLS": b"\x16\x03\x01\x02\x00" + b"\0" * 64,
    }
    for what, data in cases.items():
        with connect(z) as s:
            s.sendall(data)
            check(closed(s), f"{what} closes that connection")
    with connect(z) as s:
        s.sendall(frame(64321, {}))
        head, _ = read_frame(s)
        check(head["code"] == 3 and "64321" in head.get("remark", ""), "an unknown request code is answered with 3, named", head)
        s.sendall(good)
        check(read_frame(s)[0]["code"] == 0, "and the connection lives on")
        s.sendall(frame(310, {"b": "x y z", "e": 0, "a": "g", "c": "TBW102", "d": 4, "f": 0, "g": 0, "h": 0}, b"b"))
        head, _ = read_frame(s)
        check(head["code"] == 29 and "x y z" in head.get("remark", ""), "an illegal topic name is answered with 29 and why", head)
        s.sendall(frame(310, {"a": "g"}, b"b"))
        head, _ = read_frame(s)
        check(head["code"] in (1, 29) and head.get("remark"), "missing fields are answered with a remark", head)
        s.sendall(frame(11, {"consumerGroup": "g", "topic": "Hostile", "queueId": "NaN", "queueOffset": "-9", "maxMsgNums": "x"}))
        head, _ = read_frame(s)
        check(head["code"] in (1, 29) and head.get("remark"), "numbers that are none are answered with a remark", head)
        s.sendall(frame(34, {}, b"{\"clientID\":"))
        head, _ = read_frame(s)
        check(head["code"] == 1, "a heartbeat that is no JSON is answered with 1", head)
    alive(z, "after wrong frames")


def slow_sender(z):
    data = frame(30, {"topic": "Hostile", "queueId": 0})
    before = rss(z.proc.pid)
    socks = [connect(z) for _ in range(50)]
    slow = len(data) - 1 if FULL else 8
    for i in range(slow):
        for s in socks:
            s.sendall(data[i:i + 1])
        time.sleep(1)  # that is what this client does
        if i == slow // 2:
            others(z, "beside 50 senders of a byte a second")
    table.append((f"50 senders of a byte a second, after {slow} s", rss(z.proc.pid) - before))
    alive(z, "beside senders of a byte a second")
    for s in socks:
        s.sendall(data[slow:])
    check(all(read_frame(s)[0]["code"] == 0 for s in socks), "and they get their answers in the end")
    for s in socks:
        s.close()


def never_reads(z):
    """Asks for megabytes again and again and never reads an answer."""
    for i in range(64):
        remoting(z.addr, 310, {"a": "PG", "b": "Big", "c": "TBW102", "d": 1, "e": 0, "f": 0, "g": 1, "h": 0, "i": "", "j": 0}, os.urandom(200000))
    before = rss(z.proc.pid)
    pull = frame(11, {"consumerGroup": "CGbig", "topic": "Big", "queueId": 0, "queueOffset": 0, "maxMsgNums": 32, "sysFlag": 4, "commitOffset": 0,
                      "suspendTimeoutMillis": 0, "subscription": "*", "subVersion": 1, "expressionType": "TAG"})
    socks, peak = [], 0
    for _ in range(20):
        s = connect(z)
        s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        s.settimeout(0.3)
        try:
            for _ in range(400):
                s.sendall(pull)
        except OSError:
            pass
        socks.append(s)
        peak = max(peak, rss(z.proc.pid) - before)
    table.append(("20 readers that never read, 8,000 pulls of 200 KB", peak))
    check(peak < 20 * 2048, "readers that never read cost at most 2 MiB each", f"{peak} KiB")
    alive(z, "beside readers that never read")
    others(z, "beside 20 readers that never read")
    for s in socks:
        s.close()


def half_frames(z):
    """Large frames that are never finished: what a connection may hold, and what all of them together may."""
    before = rss(z.proc.pid)
    head = struct.pack(">ii", 12 << 20, 100) + b"{"
    socks, peak = [], 0
    for _ in range(120):
        s = connect(z)
        s.settimeout(1)
        try:
            s.sendall(head + b"x" * (10 << 20))
        except OSError:
            pass
        socks.append(s)
        peak = max(peak, rss(z.proc.pid) - before)
    table.append(("120 frames of 12 MiB, never finished", peak))
    check(peak < 700 * 1024, "unfinished frames cost bounded memory (input_memory, 512 MiB)", f"{peak} KiB")
    alive(z, "beside 120 unfinished frames")
    others(z, "beside 120 unfinished frames")
    for s in socks:
        s.close()


def many_names(z):
    """Offsets, groups and topics that nobody needs."""
    before = rss(z.proc.pid)
    with connect(z) as s:
        for i in range(300):
            s.sendall(frame(11, {"consumerGroup": f"CGx{i}", "topic": "Hostile", "queueId": 0, "queueOffset": 0, "maxMsgNums": 1, "sysFlag": 4, "commitOffset": 0,
                                 "suspendTimeoutMillis": 0, "subscription": "*", "subVersion": 1, "expressionType": "TAG"}))
            read_frame(s)
            s.sendall(frame(15, {"consumerGroup": f"CGx{i}", "topic": "Hostile", "queueId": 65535, "commitOffset": 5}))
            head, _ = read_frame(s)
            if i == 0:
                check(head["code"] == 29 and "65535" in head.get("remark", ""), "an offset of a queue that the topic has not is refused", head)
    grown = rss(z.proc.pid) - before
    table.append(("300 groups with offsets of queue 65535", grown))
    check(grown < 8 * 1024, "made-up groups and offsets cost little", f"{grown} KiB")
    alive(z, "after made-up groups")


def fills_the_log(z):
    """Says again and again what is worth a line of log."""
    before, conn = os.path.getsize(z.log), Conn(z.addr, 30)
    subs = [{"topic": "Hostile", "subString": "((", "expressionType": "SQL92"} for _ in range(8000)]
    body = json.dumps({"clientID": "e", "consumerDataSet": [{"groupName": "CGlog", "subscriptionDataSet": subs}], "producerDataSet": []}).encode()
    answers = [conn.ask(34, {}, body)[0].get("code") for _ in range(4)]
    conn.close()
    grown = os.path.getsize(z.log) - before
    check(None not in answers and 0 < grown < 1 << 20, "32,000 subscriptions that are no good leave at most 1 MiB in the log", f"{answers}, {grown} bytes")
    alive(z, "after them")


def held_log():
    """A log that nobody reads (a terminal that is held, a pager): it starts, serves, and ends when it is told to."""
    z = Zarya(node='log_level = "debug";')
    r, w = os.pipe()
    os.set_blocking(w, False)
    try:
        while True:
            os.write(w, b"x" * 4096)
    except BlockingIOError:
        os.set_blocking(w, True)
    z.proc = start(["sh", "-c", 'exec "$0" "$@" >&2', os.path.join(BUILD, "bin/zarya"), "-c", z.conf], z.log, stderr=w)  # all of what it says
    check(wait_for(lambda: listening(z.port) and listening(z.ns_port)), "a log that nobody reads does not hold up a start")
    create_topic(z.addr, "Hostile")
    alive(z, "while nobody reads the log")
    status = z.stop()
    check(status == 0, "nor the end", status)
    os.close(r)
    os.close(w)


def idle_connections(z):
    """In a process of its own, since descriptors are limited here too. A connection that was refused is closed at once, though
    connect() went well: none of them may have ended, and some, from first to last, are asked."""
    n = 10000
    before = rss(z.proc.pid)
    code = ("import socket,sys,resource\n"
            "h=resource.getrlimit(resource.RLIMIT_NOFILE)[1]; resource.setrlimit(resource.RLIMIT_NOFILE,(h,h))\n"
            f"c=[]\nfor i in range({n}):\n"
            f"    s=socket.socket(); s.bind(('127.0.0.%d'%(2+i%8),0)); s.connect(('127.0.0.1',{z.port})); c.append(s)\n"
            "def ask(s):\n"
            f"    s.settimeout(20); s.sendall({frame(30, {'topic': 'Hostile', 'queueId': 0})!r}); return len(s.recv(65536)) > 0\n"
            "def ended(s):\n"
            "    s.setblocking(False)\n"
            "    try: return s.recv(1) == b''\n"
            "    except BlockingIOError: return False\n"
            "    except OSError: return True\n"
            "def state(): return '%d answer, %d ended' % (sum(ask(s) for s in c[::500] + c[-1:]), sum(ended(s) for s in c))\n"
            "for line in sys.stdin:\n"
            "    try: print(state(), flush=True)\n"
            "    except OSError as e: print(e, flush=True)\n")
    p = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def state():
        p.stdin.write("?\n")
        p.stdin.flush()
        return p.stdout.readline().strip()

    wanted = f"{n // 500 + 1} answer, 0 ended"
    got = state()
    check(got == wanted, f"{n} idle connections are accepted, answered and stay", got)
    grown = rss(z.proc.pid) - before
    table.append((f"{n} idle connections", grown))
    check(grown < n * 8, f"{n} idle connections cost at most 8 KiB each", f"{grown} KiB")
    alive(z, f"beside {n} idle connections")
    others(z, f"beside {n} idle connections")
    got = state()
    check(got == wanted, f"{n} idle connections are there still", got)
    p.stdin.close()
    p.wait(30)


def main():
    held_log()
    z = Zarya().start(build=PLAIN)
    create_topic(z.addr, "Hostile")
    create_topic(z.addr, "Big", 1)
    alive(z, "at the start")
    others(z, "by themselves")
    base = rss(z.proc.pid)
    for case in (wrong_frames, slow_sender, never_reads, many_names, fills_the_log, idle_connections, half_frames):
        case(z)
    alive(z, "at the end")
    check(z.proc.poll() is None and z.stop() == 0, "zarya lives and stops cleanly", text_of(z.log)[-800:])
    check(re.search(r'log: \d+ more lines like "subscription to .*" were left out', text_of(z.log)), "and the log says how many it left out", text_of(z.log)[-800:])
    print(f"# memory above the {base} KiB at rest:")
    for what, kib in table:
        print(f"#   {what:55s} {kib:8d} KiB")
    print("# from send to delivery at 500/s, for others:")
    for when, p50, p99 in delivery:
        print(f"#   {when:45s} p50 {p50:8.0f} us   p99 {p99:8.0f} us")
    done()


main()
