#!/usr/bin/env python3
"""One thing of a store's directory is damaged while the broker is stopped; the broker itself is started on it, without any repair
before. Every time it starts, serves every message whose record is whole, at its queue and offset, gives no wrong byte, finds keys,
takes new messages at offsets that were never given before, and has said what it found. Beside each damage: what Apache 5.5.0 made of
the same (7,855 messages, segments of 4 MiB). Then the same with a directory that Apache 5.5.0 made and closed: queues, and with --full all."""
import glob, os, shutil, sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
from zarya import *

N, QUEUES, TOPIC = 4000, 4, "Damage"
APACHE = "mappedFileSizeCommitLog=524288\nmappedFileSizeConsumeQueue=8000\nmaxHashSlotNum=1000\nmaxIndexNum=3000\nmaxMessageSize=131072\nwaitTimeMillsInSendQueue=5000"
OF_APACHE = ("one queue entry zeroed", "a queue's last file deleted", "a queue's first file deleted", "a queue's folder deleted")  # the short form
STORAGE = 'segment_size = "512 KiB"; queue_file_size = 8000; index_slots = 1000; index_entries = 3000;'


def text_of_message(i):
    return f"m:{i}:" + chr(97 + i % 26) * 400


def send_all(addr):
    c, flying, acked = Conn(addr), {}, {}
    for i in range(N):
        c.opaque += 1
        c.sock.sendall(send_frame(TOPIC, i % QUEUES, text_of_message(i).encode(), c.opaque, keys=f"k{i}"))
        flying[c.opaque] = i
        while flying and (len(flying) >= 64 or i == N - 1):
            head, _ = c.read(20)
            j = flying.pop(head["opaque"])
            if head["code"]:
                raise SystemExit(f"not ok - message {j} is not taken: {head}")
            acked[(j % QUEUES, int(head["extFields"]["queueOffset"]))] = j
    c.close()
    return acked


class Store:
    def __init__(self, d):
        self.d = d

    def files(self, pattern):
        return sorted(glob.glob(os.path.join(self.d, pattern)))

    def log(self, no):
        return self.files("commitlog/*")[no]

    def queue(self, q, no):
        return self.files(f"consumequeue/{TOPIC}/{q}/*")[no]


def edit(path, at, data):
    with open(path, "r+b") as f:
        f.seek(at if at >= 0 else os.path.getsize(path) + at)
        f.write(data)


def flip(path, at, bit=0x41):
    with open(path, "rb") as f:
        f.seek(at)
        b = f.read(1)[0]
    edit(path, at, bytes([b ^ bit]))


def record_at(path, want):
    """Places of the records of a segment: the want-th of them, from the front or from the back."""
    with open(path, "rb") as f:
        data = f.read()
    at, places = 0, []
    while at + 8 <= len(data):
        size, magic = int.from_bytes(data[at:at + 4], "big"), int.from_bytes(data[at + 4:at + 8], "big")
        if magic not in (0xDAA320A7, 0xDAA320AB) or size <= 0:
            break
        places.append(at)
        at += size
    return places[want], at


def body_place(path, at):
    with open(path, "rb") as f:
        f.seek(at)
        return at + f.read(1024).index(b"m:") + 20


def cut(path, n):
    os.truncate(path, max(0, n if n >= 0 else os.path.getsize(path) + n))


def last_used(s):
    return next(p for p in reversed(s.files("commitlog/*")) if open(p, "rb").read(8).strip(b"\0"))


def end_of_log(s):
    p = last_used(s)
    return p, record_at(p, -1)[1]


# name, what Apache does, messages that may be lost (a number, or None: those whose record is gone with it), the damage
def flip_body(s):
    p = s.log(1)
    flip(p, body_place(p, record_at(p, 300)[0]))


def flip_size(s):
    p = s.log(1)
    flip(p, record_at(p, 300)[0] + 2)


def flip_magic(s):
    p = last_used(s)
    flip(p, record_at(p, -60)[0] + 5)


def flip_last_segment(s):
    p = last_used(s)
    flip(p, body_place(p, record_at(p, -60)[0]))


def zero_page(s):
    p = last_used(s)
    edit(p, record_at(p, -60)[0] & ~4095, bytes(4096))


def zero_tail(s):
    p, end = end_of_log(s)
    edit(p, max(0, end - 65536), bytes(min(end, 65536)))


def wipe(s, pattern):
    for p in s.files(pattern):
        shutil.rmtree(p) if os.path.isdir(p) else os.unlink(p)


def documents(s, name, what):
    for p in s.files(f"config/{name}") + s.files(f"config/{name}.bak"):
        if what == "torn":
            cut(p, os.path.getsize(p) // 2)
        else:
            os.unlink(p)


DAMAGE = [
    ("a segment cut by one byte", "does not start", 1, lambda s: cut(s.log(1), -1)),
    ("a segment cut in its middle", "does not start", None, lambda s: cut(s.log(1), os.path.getsize(s.log(1)) // 2)),
    ("a queue file cut", "does not start", 0, lambda s: cut(s.queue(1, 1), 1000)),
    ("topics.json and its .bak torn", "does not start", 0, lambda s: documents(s, "topics.json", "torn")),
    ("topics.json and its .bak deleted", "7,309 messages are no longer served", 0, lambda s: documents(s, "topics.json", "deleted")),
    ("a flipped byte in a body of the last segment", "1,112 messages dropped", 1, flip_last_segment),
    ("a flipped byte in a body in the middle", "wrong bytes are delivered", 1, flip_body),
    ("a flipped byte in a record's size", "everything behind it dropped", 1, flip_size),
    ("a flipped byte in a record's magic, near the end", "everything behind it dropped", 1, flip_magic),
    ("a page zeroed near the end of the log", "1,112 messages dropped", 12, zero_page),
    ("the last 64 KiB zeroed", "84 messages gone", None, zero_tail),
    ("the last segment deleted", "2,301 messages gone", None, lambda s: os.unlink(last_used(s))),
    ("the last segment emptied", "2,301 messages gone", None, lambda s: cut(last_used(s), 0)),
    ("one queue entry zeroed", "500 intact messages hidden", 0, lambda s: edit(s.queue(2, 0), 20 * 77, bytes(20))),
    ("a page of a queue file zeroed", "600 intact messages hidden", 0, lambda s: edit(s.queue(2, 0), 0, bytes(4096))),
    ("a queue's tail zeroed", "20 intact messages hidden", 0, lambda s: edit(s.queue(2, 2), 20 * 180, bytes(400))),
    ("a queue's last file deleted", "200 intact messages hidden", 0, lambda s: os.unlink(s.queue(3, -1))),
    ("a queue's middle file deleted", "400 intact messages hidden", 0, lambda s: os.unlink(s.queue(3, 1))),
    ("a queue's first file deleted", "400 intact messages hidden", 0, lambda s: os.unlink(s.queue(3, 0))),
    ("a queue's folder deleted", "1,000 intact messages hidden", 0, lambda s: wipe(s, f"consumequeue/{TOPIC}/1")),
    ("all queues of the topic deleted", "4,000 hidden; offsets are given twice", 0, lambda s: wipe(s, f"consumequeue/{TOPIC}")),
    ("all queues deleted", "1,354 hidden", 0, lambda s: wipe(s, "consumequeue")),
    ("an index file deleted", "its keys are not found any more", 0, lambda s: os.unlink(s.files("index/*")[0])),
    ("an index file's count zeroed", "its keys are not found any more", 0, lambda s: edit(s.files("index/*")[0], 36, bytes(4))),
    ("all index files deleted", "no key is found any more", 0, lambda s: wipe(s, "index/*")),
    ("checkpoint zeroed", "no harm", 0, lambda s: edit(s.files("checkpoint")[0], 0, bytes(4096))),
    ("checkpoint cut", "no harm", 0, lambda s: cut(s.files("checkpoint")[0], 10)),
    ("checkpoint in the future", "no harm", 0, lambda s: edit(s.files("checkpoint")[0], 0, b"\x00\x00\x7f" + bytes(5))),
    ("checkpoint deleted", "no harm", 0, lambda s: os.unlink(s.files("checkpoint")[0])),
]
# What is said of it: some word of these in a warning or an error of the log.
SAID = ("commitlog", "log ", "queue", "entries", "index", "checkpoint", "topics.json", "damaged", "segment", "snapshot")


def survivors(s, acked):
    """Messages whose record is in the log, whole, by the log's bytes alone."""
    there = set()
    data = b"".join(open(p, "rb").read() for p in s.files("commitlog/*"))
    for (q, offset), i in acked.items():
        if text_of_message(i).encode() in data:
            there.add((q, offset))
    return there


def key_found(z, i):
    head, body = remoting(z.addr, 12, {"topic": TOPIC, "key": f"k{i}", "maxNum": 4, "beginTimestamp": 0, "endTimestamp": 1 << 62})
    return head.get("code") == 0 and any(m["body"] == text_of_message(i).encode() for m in records(body))


def one(origin, acked, name, apache, may_lose, damage, whose=""):
    d = temp_dir()
    shutil.copytree(origin, d + "/data")
    name = f"{whose}{name}"
    s = Store(d + "/data")
    damage(s)
    there = survivors(s, acked)
    z = Zarya(directory=d, storage=STORAGE, features=("admin", "query"))
    try:
        z.start(60)
    except SystemExit as e:
        check(False, f"{name}: starts (Apache: {apache})", e)
        return
    found = pull_all(z.addr, TOPIC, QUEUES)
    seen = {(q, m["offset"]): m["body"] for q, list_ in found.items() for m in list_}
    wrong = [at for at, body in seen.items() if at not in acked or body != text_of_message(acked[at]).encode()]
    lost = [at for at in acked if at not in seen]
    hidden = [at for at in there if at not in seen]
    if may_lose is not None:
        hidden = lost if len(lost) > may_lose else []
    check(not wrong and not hidden, f"{name}: starts, serves {len(seen)} of {N} and no wrong byte (Apache: {apache})",
          f"wrong {wrong[:3]}, whole but hidden {sorted(hidden)[:5]} ({len(hidden)}), lost {len(lost)}; {text_of(z.log)[-600:]}")
    keys = [acked[at] for at in sorted(seen)][::397]
    check(wait_for(lambda: all(key_found(z, i) for i in keys), 15), f"{name}: keys are found", [i for i in keys if not key_found(z, i)])
    log = text_of(z.log)
    quiet = not lost and "checkpoint" in name  # derived data of no consequence
    check(quiet or any((" warn" in l or " error" in l) and any(w in l for w in SAID) for l in log.splitlines()), f"{name}: it is told", log[-600:])
    fresh = []
    for q in range(QUEUES):
        head, _ = remoting(z.addr, 310, {"a": "PG", "b": TOPIC, "c": "TBW102", "d": QUEUES, "e": q, "f": 0, "g": 1, "h": 0, "i": "", "j": 0}, b"new:")
        fresh.append((head.get("code"), int((head.get("extFields") or {}).get("queueOffset", -1))))
    taken = {q: max(o for (qq, o) in seen if qq == q) for q in range(QUEUES) if any(qq == q for qq, _ in seen)}
    check(all(code == 0 and off > taken.get(q, -1) for q, (code, off) in enumerate(fresh)), f"{name}: new messages have offsets of their own", (fresh, taken))
    check(z.stop() == 0, f"{name}: stops cleanly", text_of(z.log)[-600:])
    shutil.rmtree(d, ignore_errors=True)


def of_apache(rows):
    """A directory that Apache closed cleanly: nothing but its files says what there was."""
    ns = Zarya(broker=False).start()
    a = Apache(version="5.5.0", conf=APACHE, namesrv=False, namesrv_addr=ns.ns).start()
    create_topic(a.addr, TOPIC)
    acked = send_all(a.addr)
    a.stop()
    ns.stop()
    check(len(acked) == N and not os.path.exists(a.store + "/abort"), "a store of Apache's, closed cleanly", len(acked))
    for row in rows:
        one(a.store, acked, *row, whose="Apache's store, ")


def main():
    d = temp_dir()
    z = Zarya(directory=d, storage=STORAGE, features=("admin", "query")).start()
    create_topic(z.addr, TOPIC)
    acked = send_all(z.addr)
    check(z.stop() == 0 and len(acked) == N, "a store to damage", len(acked))
    only = sys.argv[sys.argv.index("--only") + 1] if "--only" in sys.argv else ""
    for row in DAMAGE:
        if only in row[0]:
            one(d + "/data", acked, *row)
    apache = [row for row in DAMAGE if only in row[0] and (FULL or only or row[0] in OF_APACHE)]
    if apache and apache_server("5.5.0"):
        of_apache(apache)
    elif apache:
        skip("a directory that Apache 5.5.0 made", "maven or javac is missing, or the registry cannot be reached")
    done()


main()
