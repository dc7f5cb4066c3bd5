#!/usr/bin/env python3
"""zaryactl store: a directory written by the broker is checked, then damaged in every way one by one. check names the damage with
its file and place, --repair puts it right as far as it can be, check is clean then, and a broker serves all that was not lost. A
check of a running broker's directory under load finds nothing wrong. show, stats and convert say what is there."""
import glob, os, random, sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
from zarya import *

# What counts here is what the files say, not that a disk keeps them: memory is quicker, and syncs are most of a repair's time.
if os.path.isdir("/dev/shm") and os.access("/dev/shm", os.W_OK) and shutil.disk_usage("/dev/shm").free > 1 << 30:
    tempfile.tempdir = "/dev/shm"
TOOL = tool("zaryactl-store")
N, QUEUES, SEGMENT, QUEUE_FILE = 2000, 4, 262144, 8000
STORAGE = f'segment_size = "256 KiB"; queue_file_size = {QUEUE_FILE}; index_slots = 1000; index_entries = 3000;'
APACHE = f"mappedFileSizeCommitLog={SEGMENT}\nmappedFileSizeConsumeQueue={QUEUE_FILE}\nmaxHashSlotNum=1000\nmaxIndexNum=3000\nmaxMessageSize=65536"


def store(*args, timeout=120):
    try:
        r = subprocess.run([TOOL, *args], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=timeout, errors="replace")
    except subprocess.TimeoutExpired:
        return -999, "", f"no end after {timeout} s: {args}"
    return r.returncode, r.stdout, r.stderr


def checked(d, *more):
    """Status and findings of a check."""
    status, out, err = store("check", d, "--json", *more)
    try:
        doc = json.loads(out)
    except ValueError:
        doc = {"findings": []}
        print(out[-500:], err[-2000:], flush=True)
    return status, doc


def send_all(addr, topic, n, queues=QUEUES):
    """Sends messages 0 to n - 1; what is refused is sent again."""
    c, todo, flying = Conn(addr), list(range(n - 1, -1, -1)), 0
    end = time.time() + 60
    while (todo or flying) and time.time() < end:
        while todo and flying < 64:
            i = todo.pop()
            c.sock.sendall(send_frame(topic, i % queues, f"m:{i}:".encode() + b"x" * 300, i + 1000, keys=f"k{i} k{i}b", tag=f"t{i % 3}"))
            flying += 1
        got = c.read(20)
        if not got:
            break
        flying -= 1
        if got[0]["code"]:
            todo.append(got[0]["opaque"] - 1000)
    c.close()
    if todo or flying:
        raise SystemExit(f"not ok - {len(todo) + flying} messages are not taken")


def path(d, name):
    return os.path.join(d, name)


def flip(d, name, at, bit=0x41):
    with open(path(d, name), "r+b") as f:
        f.seek(at)
        b = f.read(1)[0]
        f.seek(at)
        f.write(bytes([b ^ bit]))


def zero(d, name, at, n):
    with open(path(d, name), "r+b") as f:
        f.seek(at)
        f.write(bytes(n))


def cut(d, name, size):
    os.truncate(path(d, name), size)


def segments(d):
    return [os.path.basename(p) for p in sorted(glob.glob(path(d, "commitlog/*")))]


def indexes(d):
    return ["index/" + os.path.basename(p) for p in sorted(glob.glob(path(d, "index/*")))]


def show(d, *args):
    status, out, err = store("show", d, "--json", *args)
    return json.loads(out) if out.strip() else []


def record_near(d, position):
    return show(d, "--at", str(position))[0]


# ---- each damage: a name, what is done, and what the check must say: status, a kind, the file, and the place (None: no place)

def body_of(d, position):
    r = record_near(d, position)
    base = r["physicalOffset"] // SEGMENT * SEGMENT
    return r, f"commitlog/{base:020d}", r["physicalOffset"] - base


def body_flipped(d):
    r, name, at = body_of(d, SEGMENT * 2 + 5000)
    flip(d, name, at + 84 + 4 + 10)
    return 2, "log.damage", name, at


def size_flipped(d):
    r, name, at = body_of(d, SEGMENT + 70000)
    flip(d, name, at + 2)
    return 2, "log.damage", name, at


def magic_flipped(d):
    r, name, at = body_of(d, SEGMENT * 3 + 9000)
    flip(d, name, at + 5)
    return 2, "log.damage", name, at


def position_flipped(d):
    r, name, at = body_of(d, SEGMENT * 3 + 19000)
    flip(d, name, at + 35)
    return 2, "log.damage", name, at


def queue_offset_flipped(d):  # no checksum covers it: the record is whole, but another one
    r, name, at = body_of(d, SEGMENT + 9000)
    flip(d, name, at + 27, 0x80)
    base = r["queueOffset"] * 20 // QUEUE_FILE * QUEUE_FILE
    return 2, "message.lost", f"consumequeue/A/{r['queueId']}/{base:020d}", r["queueOffset"] * 20 - base


def queue_offset_far_out(d):  # thousands of millions further on: nothing is made up to there
    r, name, at = body_of(d, SEGMENT + 9000)
    flip(d, name, at + 24)
    base = r["queueOffset"] * 20 // QUEUE_FILE * QUEUE_FILE
    return 2, "message.lost", f"consumequeue/A/{r['queueId']}/{base:020d}", r["queueOffset"] * 20 - base


def queue_offset_far_out_without_queues(d):
    r, name, at = body_of(d, SEGMENT + 9000)
    flip(d, name, at + 24)
    shutil.rmtree(path(d, "consumequeue"))
    return 2, "message.lost", f"consumequeue/A/{r['queueId']}", None


def page_zeroed(d):
    r, name, at = body_of(d, SEGMENT + 8192)
    zero(d, name, 8192, 4096)
    return 2, "log.damage", name, at


def segment_cut_by_a_byte(d):
    name = "commitlog/" + segments(d)[1]
    cut(d, name, SEGMENT - 1)
    return (0, 1, 2), "log.length", name, SEGMENT - 1


def segment_cut_in_its_middle(d):
    name = "commitlog/" + segments(d)[1]
    cut(d, name, SEGMENT // 2)
    return 2, "log.length", name, SEGMENT // 2


def segment_deleted(d):
    name = "commitlog/" + segments(d)[2]
    os.unlink(path(d, name))
    return 2, "log.missing", name, 0


def last_segment_deleted(d):
    os.unlink(path(d, "commitlog/" + segments(d)[-1]))
    return 2, "log.short", None, None


def last_segment_emptied(d):
    name = "commitlog/" + segments(d)[-1]
    cut(d, name, 0)
    return 2, "log.length", name, 0


def tail_zeroed(d):
    name = "commitlog/" + segments(d)[-1]
    r = record_near(d, int(segments(d)[-1]) + 8000)
    at = r["physicalOffset"] - int(segments(d)[-1])
    zero(d, name, at, SEGMENT - at)
    return 2, "log.short", name, at


def entry_zeroed(d):
    zero(d, "consumequeue/A/1/%020d" % 0, 20 * 33, 20)
    return 1, "queue.missing", "consumequeue/A/1/%020d" % 0, 20 * 33


def entry_flipped(d):
    flip(d, "consumequeue/A/1/%020d" % 0, 20 * 33 + 6)
    return 1, "queue.wrong", "consumequeue/A/1/%020d" % 0, 20 * 33


def entry_tags_flipped(d):
    flip(d, "consumequeue/A/2/%020d" % 0, 20 * 44 + 19)
    return 1, "queue.wrong", "consumequeue/A/2/%020d" % 0, 20 * 44


def queue_page_zeroed(d):
    zero(d, "consumequeue/A/1/%020d" % 0, 4000, 3000)
    return 1, "queue.missing", "consumequeue/A/1/%020d" % 0, 4000


def queue_tail_zeroed(d):
    zero(d, "consumequeue/A/3/%020d" % QUEUE_FILE, 20 * 80, QUEUE_FILE - 20 * 80)
    return 1, "queue.missing", "consumequeue/A/3/%020d" % QUEUE_FILE, 20 * 80


def queue_file_cut(d):
    cut(d, "consumequeue/A/2/%020d" % 0, 3333)
    return 1, "queue.length", "consumequeue/A/2/%020d" % 0, 3333


def queue_last_file_deleted(d):
    os.unlink(path(d, "consumequeue/A/2/%020d" % QUEUE_FILE))
    return 1, "queue.missing", "consumequeue/A/2/%020d" % QUEUE_FILE, 0


def queue_first_file_deleted(d):
    os.unlink(path(d, "consumequeue/A/0/%020d" % 0))
    return 1, "queue.missing", "consumequeue/A/0/%020d" % 0, 0


def queue_deleted(d):
    shutil.rmtree(path(d, "consumequeue/A/0"))
    return 1, "queue.missing", "consumequeue/A/0", None


def topic_deleted(d):
    shutil.rmtree(path(d, "consumequeue/A"))
    return 1, "queue.missing", "consumequeue/A/3", None


def all_queues_deleted(d):
    shutil.rmtree(path(d, "consumequeue"))
    return 1, "queue.missing", "consumequeue/A/0", None


def index_file_deleted(d):
    os.unlink(path(d, indexes(d)[0]))
    return 1, "index.lacks", "commitlog/%020d" % 0, 0


def index_file_cut(d):
    name = indexes(d)[1]
    cut(d, name, 30000)
    return 1, "index.length", name, 30000


def index_count_zeroed(d):
    name = indexes(d)[0]
    zero(d, name, 36, 4)
    return 1, "index.lacks", None, None


def index_entry_flipped(d):
    name = indexes(d)[0]
    at = 40 + 4000 + 20 * 777
    flip(d, name, at + 3)
    return 1, "index.foreign", name, at


def index_position_flipped(d):
    name = indexes(d)[0]
    flip(d, name, 40 + 4000 + 20 * 500 + 10)
    return 1, "index.lacks", None, None


def index_slot_flipped(d):
    name = indexes(d)[0]
    with open(path(d, name), "rb") as f:
        slots = f.read(4040)[40:]
    slot = next(i for i in range(1000) if slots[4 * i + 3])
    zero(d, name, 40 + 4 * slot, 4)
    return 1, "index.slot", name, 40 + 4 * slot


def all_indexes_deleted(d):
    shutil.rmtree(path(d, "index"))
    return 1, "index.missing", "index", None


def checkpoint_zeroed(d):
    zero(d, "checkpoint", 0, 4096)
    return 1, "checkpoint", "checkpoint", 0


def checkpoint_cut(d):
    cut(d, "checkpoint", 11)
    return 1, "checkpoint", "checkpoint", None


def checkpoint_flipped(d):
    flip(d, "checkpoint", 14)
    return 1, "checkpoint", "checkpoint", 8


def checkpoint_in_the_future(d):
    with open(path(d, "checkpoint"), "r+b") as f:
        f.write(struct.pack(">qq", 1 << 43, 1 << 43))
    return 1, "checkpoint", "checkpoint", 0


def checkpoint_deleted(d):
    os.unlink(path(d, "checkpoint"))
    return 1, "checkpoint", "checkpoint", None


def topics_torn(d):
    cut(d, "config/topics.json", os.path.getsize(path(d, "config/topics.json")) - 9)
    return 1, "doc.damaged", "config/topics.json", ...


def topics_and_backup_torn(d):
    for n in ("config/topics.json", "config/topics.json.bak"):
        cut(d, n, os.path.getsize(path(d, n)) - 9)
    return 1, "doc.damaged", "config/topics.json", ...


def topics_deleted(d):
    for n in glob.glob(path(d, "config/topics.json*")):
        os.unlink(n)
    return 1, "topic.unknown", "config/topics.json", None


def offsets_beyond(d):
    with open(path(d, "config/consumerOffset.json"), "w") as f:
        f.write('{"offsetTable":{"A@G":{0:123456,1:3}}}')
    return 1, "offset.beyond", "config/consumerOffset.json", None


def snapshot_damaged(d):
    flip(d, "zarya/queues", 70)
    return 1, "snapshot", "zarya/queues", None


def abort_there(d):
    open(path(d, "abort"), "w").write("1")
    return 1, "abort", "abort", None


DAMAGES = [f for f in list(globals().values()) if callable(f) and getattr(f, "__code__", None) and f.__code__.co_varnames[:1] == ("d",)
           and f.__code__.co_argcount == 1 and f.__module__ == "__main__" and f.__name__ not in ("segments", "indexes", "show", "checked")]


def named(doc, status, want):
    want_status, kind, name, at = want
    ok = status in (want_status if isinstance(want_status, tuple) else (want_status,))
    hits = [f for f in doc["findings"] if f["kind"] == kind and (name is None or f["file"] == name) and (at is None or at is ... or f.get("at") == at)]
    return ok and hits


def broker_on(d):
    """A broker on this data directory."""
    z = Zarya(directory=temp_dir(), storage=STORAGE)
    with open(z.conf) as f:
        text = f.read()
    with open(z.conf, "w") as f:
        f.write(text.replace(f'data = "{z.data}"', f'data = "{d}"'))
    z.data = d
    return z.start()


def served(d):
    """Everything a broker gives out of this directory: name of the message -> (queue, offset)."""
    z = broker_on(d)
    got = {m["body"].split(b"x")[0].decode(): (q, m["offset"]) for q, rows in pull_all(z.addr, "A", QUEUES).items() for m in rows}
    status = z.stop()
    return got, status


def in_log(d):
    """The messages whose records are whole."""
    rows = show(d, "--at", "0", "-n", "100000")
    return {r["body"].split("x")[0]: (r["queueId"], r["queueOffset"]) for r in rows if r["topic"] == "A"}


def make():
    d = temp_dir()
    z = Zarya(directory=d, storage=STORAGE).start()
    create_topic(z.addr, "A", QUEUES)
    send_all(z.addr, "A", N)
    check(z.stop() == 0, "the broker stops")
    return z.data


def damage_all(origin, what, damages, all_of_it=FULL):
    whole = in_log(origin)
    check(len(whole) == N, f"{what}: the log has every message", len(whole))
    for i, damage in enumerate(damages):
        top, name = temp_dir(), damage.__name__.replace("_", " ")
        d = os.path.join(top, "data")
        subprocess.run(["cp", "-r", "--sparse=always", origin, d], check=True)
        want = damage(d)
        status, doc = checked(d)
        check(named(doc, status, want), f"{what}, {name}: named with file and place",
              (want, status, [(f["level"], f["kind"], f["file"], f.get("at"), f["text"][:120]) for f in doc["findings"]][:8]))
        left = in_log(d)
        accept = ["--accept-loss"] if damage in (segment_deleted, last_segment_deleted) else []
        if accept:  # it may lie in a folder that nobody named
            before = subprocess.run(["find", d, "-printf", "%p %s %T@\n"], stdout=subprocess.PIPE).stdout
            status2, out, err = store("check", d, "--repair")
            check(status2 == 2 and "nothing is changed" in err and before == subprocess.run(["find", d, "-printf", "%p %s %T@\n"], stdout=subprocess.PIPE).stdout,
                  f"{what}, {name}: --repair takes no missing segment for lost", (status2, err))
        mended, after = checked(d, "--repair", *accept)
        twice, _ = checked(d, "--repair")
        check(mended == 0 and twice == 0, f"{what}, {name}: after --repair it is clean",
              (mended, twice, after.get("done"), [(f["level"], f["kind"], f["file"], f.get("at"), f["text"][:160]) for f in after["findings"]][:8]))
        check(in_log(d) == left and (status == 2 or left == whole), f"{what}, {name}: --repair kept every whole message", (len(left), len(in_log(d))))
        if all_of_it or i % 8 == 0:
            got, stopped = served(d)
            missing = [m for m in left if got.get(m) != left[m]]
            check(len(missing) <= damage.__name__.startswith("queue_offset") and len(got) <= len(left) and stopped == 0, f"{what}, {name}: a broker serves all {len(left)} messages", (len(got), len(left), stopped))
            status, doc = checked(d)
            check(status == 0, f"{what}, {name}: clean behind that broker", doc["findings"][:5])
        shutil.rmtree(top, True)


def live():
    """Checks of a broker's directory while it is written: nothing wrong is seen, nothing is locked or written."""
    d = temp_dir()
    z = Zarya(directory=d, storage=STORAGE + " retention_hours = 0; clean_interval = 200;").start()
    create_topic(z.addr, "A", QUEUES)
    senders = [Sender(z.addr, "A", f"s{i}", QUEUES) for i in range(2)]
    for s in senders:
        s.start()
    wait_for(lambda: all(s.sent > 500 for s in senders))
    bad = []
    for i in range(20 if FULL else 6):
        status, doc = checked(z.data, "--threads", "2")
        if status or not doc["live"]:
            bad.append((status, [(f["level"], f["kind"], f["file"], f.get("at"), f["text"]) for f in doc["findings"] if f["level"] != "note"][:4]))
    status, out, err = store("check", z.data, "--repair")
    check(status == 3 and "stop it first" in err, "a running broker's directory is not repaired", (status, err))
    status, out, err = store("convert", z.data, "--to", "zstd")
    check(status == 3 and "stop it first" in err, "nor converted", (status, err))
    for s in senders:
        s.stop_now = True
    for s in senders:
        s.join()
    check(not bad, "checks of a running broker's directory under load find nothing wrong", bad[:3])
    check_kept(pull_all(z.addr, "A"), senders, "the broker was not disturbed")
    z.kill()
    status, doc = checked(z.data)
    kinds = {f["kind"] for f in doc["findings"] if f["level"] == "lost"}
    check(status == 1 and not kinds, "after a kill: nothing is lost, the next start recovers", (status, doc["findings"][:5]))
    status, doc = checked(z.data, "--repair")
    check(status == 0, "--repair does what a start does", (status, doc["findings"][:5]))
    check(checked(z.data)[0] == 0 and not os.path.exists(path(z.data, "abort")), "and the directory is clean")


def churned(rounds):
    """Checks of a running broker's directory while retention takes segments and queue files, and topics come and go."""
    d = temp_dir()
    z = Zarya(directory=d, storage=STORAGE + ' retention_bytes = "2 MiB"; clean_interval = 100;').start()
    create_topic(z.addr, "A", QUEUES)
    senders = [Sender(z.addr, "A", f"s{i}", QUEUES) for i in range(2)]
    stop = threading.Event()

    def topics():
        i = 0
        while not stop.is_set():
            i += 1
            create_topic(z.addr, f"D{i % 4}", 2)
            for q in range(2):
                put(z.addr, f"D{i % 4}", q)
            remoting(z.addr, 215, {"topic": f"D{i % 4}"})
    comes_and_goes = threading.Thread(target=topics, daemon=True)
    for s in senders + [comes_and_goes]:
        s.start()
    check(wait_for(lambda: segments(z.data) and segments(z.data)[0] != "0" * 20, 60), "retention takes segments", segments(z.data))
    bad = []
    for i in range(rounds):
        status, doc = checked(z.data)
        if status or not doc["live"]:
            bad.append((status, [(f["level"], f["kind"], f["file"], f.get("at"), f["text"]) for f in doc["findings"] if f["level"] != "note"][:4]))
    for s in senders:
        s.stop_now = True
    stop.set()
    for s in senders + [comes_and_goes]:
        s.join(30)
    check(not bad, f"{rounds} checks beside retention and topics that come and go find nothing wrong", (len(bad), bad[:3]))
    check(z.stop() == 0 and checked(z.data)[0] == 0, "nor is anything behind the stop", checked(z.data)[1]["findings"][:5])


def put(addr, topic, queue):
    c = Conn(addr)
    c.sock.sendall(send_frame(topic, queue, b"x", 1))
    got = c.read(10)
    c.close()
    return got and got[0]["code"] == 0


def topic_of(d, name):
    """As a broker that starts here has it; None: it has not."""
    z = broker_on(d)
    head, body = remoting(z.addr, 351, {"topic": name})
    z.stop()
    return json.loads(body)["readQueueNums"] if head.get("code") == 0 else None


def journaled():
    """Topics that a killed broker has in the journal of its large topics.json: check knows them, and --repair keeps them."""
    z = Zarya(directory=temp_dir(), storage=STORAGE).start()
    create_topic(z.addr, "Early", 3)
    create_topic(z.addr, "Gone", 1)
    create_topic(z.addr, "Stray", 2)
    put(z.addr, "Early", 2)
    put(z.addr, "Stray", 1)
    z.stop()
    with open(path(z.data, "config/topics.json")) as f:
        table = json.load(f)
    del table["topicConfigTable"]["Stray"]  # for --repair to write the document, with what the journal has
    for i in range(1600):
        table["topicConfigTable"][f"Filler-{i}"] = dict(table["topicConfigTable"]["Early"], topicName=f"Filler-{i}")
    with open(path(z.data, "config/topics.json"), "w") as f:
        json.dump(table, f)
    z.start()
    create_topic(z.addr, "First", 1)  # from here on the document is large
    names = []
    for i in range(8):  # the document is written behind, in its own time: the last ones are in the journal alone
        names.append(f"Late-{i}")
        create_topic(z.addr, names[-1], 5)
        put(z.addr, names[-1], 4)
    create_topic(z.addr, "Early", 7)
    remoting(z.addr, 215, {"topic": "Gone"})
    z.kill()
    with open(path(z.data, "config/topics.json")) as f:
        text = f.read()
    if not check('"Late-7"' not in text and os.listdir(path(z.data, "zarya/journal")), "a broker was killed that had topics in its journal", len(text)):
        return
    status, doc = checked(z.data)
    unknown = [f["text"][:80] for f in doc["findings"] if f["kind"] == "topic.unknown"]
    check(status == 1 and len(unknown) == 1 and " Stray " in unknown[0], "what is in the journal is not unknown", (status, unknown))
    check([f for f in doc["findings"] if f["kind"] == "journal" and f["level"] == "note"], "and it is told", doc["findings"][:4])

    def unlisted(d):  # a document of somebody else, who left out a topic with messages
        t = json.loads(text)
        del t["topicConfigTable"]["Early"]
        for n in ("config/topics.json", "config/topics.json.bak"):
            with open(path(d, n), "w") as f:
                json.dump(t, f)

    def backup_only(d):
        cut(d, "config/topics.json", len(text) // 2)

    def neither(d):
        for n in ("config/topics.json", "config/topics.json.bak"):
            cut(d, n, 100)

    for damage in (None, unlisted, backup_only, neither):
        d = os.path.join(temp_dir(), "data")
        subprocess.run(["cp", "-r", "--sparse=always", z.data, d], check=True)
        if damage:
            damage(d)
        name = damage.__name__.replace("_", " ") if damage else "as it was"
        mended, after = checked(d, "--repair")
        have = [topic_of(d, n) for n in (names[-1], "Early", "Stray", "Gone")]
        # Who else writes the document is believed: Gone is there again. Early, which he left out, comes from the journal.
        check(mended == 0 and have == [5, 7, 2, 1 if damage is unlisted else None], f"journal, {name}: --repair keeps its topics", (mended, have, after.get("done"), after["findings"][:4]))


def shows(origin):
    r = show(origin, "--key", "A", "k77b")
    check(len(r) == 1 and r[0]["body"].startswith("m:77:") and r[0]["properties"]["KEYS"] == "k77 k77b", "show --key", r[:1])
    check(show(origin, "--id", r[0]["msgId"]) == r, "show --id")
    check(show(origin, "--at", str(r[0]["physicalOffset"] + 3)) == r, "show --at a position inside the record")
    rows = show(origin, "--queue", "A/1", "--from", "10", "-n", "5")
    check([x["offset"] for x in rows] == list(range(10, 15)) and all(x["state"] == "ok" for x in rows), "show --queue", rows)
    check(len(show(origin, "--segment")) == len(segments(origin)), "show --segment")
    status, out, err = store("show", origin, "--at", "5000")
    check(status == 0 and "queue" in out and "KEYS = " in out, "show as text", out[:200])
    status, out, err = store("stats", origin, "--json")
    doc = json.loads(out)
    check(sum(q["messages"] for q in doc["queues"] if q["topic"] == "A") == N and doc["indexEntries"] >= 3 * N and doc["newest"] >= doc["oldest"] > 0, "stats", doc["queues"][:3])
    check(store("stats", origin)[0] == 0 and store("check", origin)[0] == 0, "both as text")
    r = zaryactl("store", "check", origin, timeout=60)
    check(r.returncode == 0 and r.stdout.rstrip().endswith("clean"), "zaryactl store runs it", r.stdout[-300:])
    check(store("check", "/nonexistent")[0] == 3 and store("check", temp_dir())[0] == 3 and store("show", origin)[0] == 3, "what cannot be checked is said so")


def made_anew():
    """What Apache leaves of a topic that it deleted and made again: queue files of the new one, records of both, and our snapshot of
    the old one. The records of the old one are no queue's."""
    d = temp_dir()
    z = Zarya(directory=d, storage=STORAGE).start()
    create_topic(z.addr, "A", QUEUES)
    send_all(z.addr, "A", 400)
    z.stop()
    shutil.copy(path(z.data, "zarya/queues"), path(d, "queues"))
    z.start()
    remoting(z.addr, 215, {"topic": "A"})
    create_topic(z.addr, "A", QUEUES)
    send_all(z.addr, "A", 8, 2)
    z.stop()
    for name in ("removed", "removed.bak", "queues.bak"):
        if os.path.exists(path(z.data, "zarya/" + name)):
            os.unlink(path(z.data, "zarya/" + name))
    shutil.copy(path(d, "queues"), path(z.data, "zarya/queues"))
    with open(path(z.data, "lock"), "r+b") as f:
        f.write(b"lock")
    for more in ((), ("--repair",)):
        status, doc = checked(z.data, *more)
        check(status == 0 and [f for f in doc["findings"] if f["kind"] == "queue.former"], f"a topic that was made anew is clean{' '.join(('',) + more)}",
              (status, [(f["level"], f["kind"], f["file"], f["text"]) for f in doc["findings"]][:4]))
    flip(z.data, "consumequeue/A/1/" + "0" * 20, 3)
    status, doc = checked(z.data)
    check(status == 1 and "queue.wrong" in {f["kind"] for f in doc["findings"]}, "a damaged entry of it is named", (status, doc["findings"][:4]))
    status, doc = checked(z.data, "--repair")
    got, stopped = served(z.data)
    check(status == 0 and sorted(got.values()) == [(q, o) for q in range(2) for o in range(4)], "and mended", (status, doc["findings"][:4], sorted(got.values())[:9]))
    check(checked(z.data)[0] == 0, "and clean behind a broker", checked(z.data)[1]["findings"][:4])


def strays(origin):
    """Files in the log's folder that are none of the log's are named, with what they are and what a broker does with them."""
    top = temp_dir()
    d = os.path.join(top, "data")
    subprocess.run(["cp", "-r", "--sparse=always", origin, d], check=True)
    put_there = {"commitlog/00000000000000000512": ("log.stray", "no segment of this log begins there"), "commitlog/notes.txt": ("log.stranger", "a file of another name"),
                 "commitlog/old": ("log.stranger", "a folder"), "commitlog/00000000000000262144.tmp": ("log.left", "left behind"),
                 "commitlog/00000000000000262144.zst.tmp": ("log.left", "left behind")}
    for name in put_there:
        if name.endswith("old"):
            os.mkdir(path(d, name))
        else:
            open(path(d, name), "w").write("x" * 700)
    status, doc = checked(d)
    for name, (kind, text) in put_there.items():
        hits = [f for f in doc["findings"] if f["file"] == name]
        check(len(hits) == 1 and hits[0]["kind"] == kind and text in hits[0]["text"], f"a stray file: {name} is named", hits or doc["findings"][:4])
    check(status == 0, "stray files are no damage", (status, [f for f in doc["findings"] if f["level"] != "note"][:4]))
    got, stopped = served(d)
    there = sorted(os.listdir(path(d, "commitlog")))
    check(len(got) == N and stopped == 0 and "notes.txt" in there and "old" in there and "0" * 17 + "512" in there and not [f for f in there if f.endswith(".tmp")],
          "and a broker does with them what was said", there)
    shutil.rmtree(top, True)


def converts(origin):
    top = temp_dir()
    d = os.path.join(top, "data")
    subprocess.run(["cp", "-r", "--sparse=always", origin, d], check=True)
    before = in_log(d)
    status, out, err = store("convert", d, "--to", "zstd")
    packed = [s for s in segments(d) if s.endswith(".zst")]
    check(status == 0 and len(packed) == len(segments(d)) - 1, "convert --to zstd packs every sealed segment", (status, segments(d), out[-300:], err[-300:]))
    check(in_log(d) == before, "the messages are the same")
    check(checked(d)[0] == 0, "a log with packed segments is clean", checked(d)[1]["findings"][:5])
    check(store("convert", d, "--to", "zstd")[0] == 0, "a second run finds nothing to do")
    with open(path(d, "commitlog/" + packed[0]), "r+b") as f:
        f.seek(os.path.getsize(f.name) // 2)
        f.write(b"damaged!")
    status, doc = checked(d)
    check(status == 2 and [f for f in doc["findings"] if f["file"] == "commitlog/" + packed[0]], "damage in a packed segment is named", (status, doc["findings"][:4]))
    check(any("--accept-loss" in (f.get("do") or f.get("whatToDo") or "") for f in doc["findings"] if f["kind"] == "log.damage"), "and the way out of it", doc["findings"][:2])
    lossy = os.path.join(top, "lossy")
    subprocess.run(["cp", "-r", "--sparse=always", d, lossy], check=True)
    status, out, err = store("convert", lossy, "--to", "plain")
    check(status == 2 and packed[0] in segments(lossy) and "--accept-loss" in err, "convert leaves a damaged segment as it is", (status, segments(lossy), err[-300:]))
    status, out, err = store("convert", lossy, "--to", "plain", "--accept-loss")
    check(status == 2 and segments(lossy) == segments(origin) and "are lost" in err, "with --accept-loss it keeps what is whole, and tells the rest", (status, segments(lossy), err[-300:]))
    status = checked(lossy, "--repair")[0]
    left = in_log(lossy)
    check(status == 0 and len(before) / 2 < len(left) < len(before), "and --repair makes it clean", (status, len(left), len(before)))
    shutil.copy(path(origin, "commitlog/" + packed[0][:-4]), path(d, "commitlog/"))
    os.unlink(path(d, "commitlog/" + packed[0]))
    status, out, err = store("convert", d, "--to", "plain")
    check(status == 0 and segments(d) == segments(origin), "convert --to plain", (status, segments(d), err[-300:]))
    same = all(open(path(d, "commitlog/" + s), "rb").read() == open(path(origin, "commitlog/" + s), "rb").read() for s in segments(d))
    check(same, "every segment is byte for byte what it was")


def killed_converts(origin, rounds):
    """convert is ended at any moment, to the packed form and back: run again it goes on, and every byte is what it was. (What a
    power cut may leave at every step: tests/crash/sim, the workload 'packed: convert'.)"""
    bad, cut_short = [], 0
    bytes_of = lambda d: {s: open(path(d, "commitlog/" + s), "rb").read() for s in segments(d)}
    want = bytes_of(origin)
    for i in range(rounds):
        top = temp_dir()
        d = os.path.join(top, "data")
        subprocess.run(["cp", "-r", "--sparse=always", origin, d], check=True)
        for to in ("zstd", "plain") * 2:
            for k in range(6):
                p = start([TOOL, "convert", d, "--to", to], os.path.join(top, "log"))
                time.sleep(random.uniform(0, 0.04 * (k + 1)))
                if p.poll() is None:
                    p.kill()
                    cut_short += 1
                p.wait()
            if random.random() < 0.5:
                status, out, err = store("convert", d, "--to", to)
                if status:
                    bad.append((to, status, out[-200:], err[-200:]))
            if checked(d)[0]:
                bad.append((to, checked(d)[1]["findings"][:3]))
        status = store("convert", d, "--to", "plain")[0]
        if status or bytes_of(d) != want:
            bad.append((status, sorted(want), segments(d)))
        shutil.rmtree(top, True)
    check(not bad and cut_short, f"convert killed {cut_short} times in its middle: run again it goes on, and every byte is what it was", bad[:2])


def apache():
    """The same damages in a directory of Apache's broker, in its files' ways."""
    if not (shutil.which("java") and maven_there()):
        skip("a directory written by Apache 5.5.0", "no Java, or its files are not at hand")
        return
    a = Apache("5.5.0", conf=APACHE).start()
    create_topic(a.addr, "A", QUEUES)
    send_all(a.addr, "A", N)
    a.stop()
    status, doc = checked(a.store)
    check(status == 0 and doc["records"] >= N, "what Apache 5.5.0 wrote is clean", [(f["level"], f["kind"], f["file"], f.get("at"), f["text"][:160]) for f in doc["findings"]][:6])
    damage_all(a.store, "apache", [body_flipped, page_zeroed, segment_cut_in_its_middle, last_segment_deleted_in_apache, entry_zeroed, queue_file_cut, queue_last_file_deleted,
                                   topic_deleted, index_file_deleted, all_indexes_deleted, checkpoint_deleted, topics_torn, topics_deleted], True)


def random_damage(origin, rounds, seed):
    """Bytes flipped, parts zeroed, files cut or deleted, anywhere, some at once: no crash, and --repair makes it clean."""
    bad = []
    for i in range(rounds):
        rand = random.Random(seed + i)
        top = temp_dir()
        d = os.path.join(top, "data")
        subprocess.run(["cp", "-r", "--sparse=always", origin, d], check=True)
        done_ = []
        files = sorted(f for f in glob.glob(d + "/**/*", recursive=True) if os.path.isfile(f) and os.path.getsize(f) and "/run/" not in f and not f.endswith("/lock"))
        for _ in range(rand.randrange(1, 6)):
            f, kind = rand.choice(files), rand.randrange(10)
            if not os.path.exists(f):
                continue
            size = max(1, os.path.getsize(f))
            at = rand.randrange(size)
            done_.append((os.path.relpath(f, d), kind, at))
            if kind == 0:
                os.unlink(f)
            elif kind == 1:
                os.truncate(f, at)
            else:
                with open(f, "r+b") as x:
                    x.seek(at)
                    x.write(bytes(min(4096, size - at)) if kind < 4 else bytes(rand.randrange(256) for _ in range(min(size - at, rand.choice((1, 1, 4, 20))))))
        status, out, err = store("check", d, "--json")
        mended, out2, err2 = store("check", d, "--repair", "--accept-loss", "--json")
        after, out3, err3 = store("check", d, "--json")
        if status not in (0, 1, 2) or mended != 0 or after != 0:
            left = [f for f in json.loads(out3 or '{"findings":[]}')["findings"] if f["level"] != "note"][:3] if after in (0, 1, 2) else []
            bad.append((seed + i, done_, status, mended, after, left, err[-600:], err2[-600:], err3[-300:]))
        shutil.rmtree(top, True)
    check(not bad, f"{rounds} times random damage (seed {seed}): named without a crash, and clean after --repair", bad[:2])
    return bad


def killed_repairs(origin, rounds):
    """--repair is ended at any moment: run again, it ends what it began, and no whole message is gone."""
    bad, cut_short, whole = [], 0, None
    for i in range(rounds):
        top = temp_dir()
        d = os.path.join(top, "data")
        subprocess.run(["cp", "-r", "--sparse=always", origin, d], check=True)
        for damage in (body_flipped, segment_cut_in_its_middle, queue_page_zeroed, queue_last_file_deleted, index_file_cut, checkpoint_cut, topics_torn):
            damage(d)
        left = in_log(d)
        if whole is None:  # how long one takes: each is ended within that
            copy = os.path.join(top, "copy")
            subprocess.run(["cp", "-r", "--sparse=always", d, copy], check=True)
            whole = time.time()
            checked(copy, "--repair")
            whole = time.time() - whole
        for _ in range(3):
            p = start([TOOL, "check", d, "--repair"], os.path.join(top, "log"))
            time.sleep(random.uniform(0, whole))
            if p.poll() is None:
                p.kill()
                cut_short += 1
            p.wait()
        status, doc = checked(d, "--repair")
        if status or in_log(d) != left or checked(d)[0]:
            bad.append((status, len(left), len(in_log(d)), doc["findings"][:3]))
        shutil.rmtree(top, True)
    check(not bad and cut_short, f"--repair killed {cut_short} times in its middle: run again it makes all clean", bad[:2])


def maven_there():
    try:
        return apache_server("5.5.0")
    except (OSError, SystemExit):
        return None


def last_segment_deleted_in_apache(d):  # no snapshot tells where its log ended: the queues do
    os.unlink(path(d, "commitlog/" + segments(d)[-1]))
    return 2, "message.lost", None, None


if __name__ == "__main__":
    origin = make()
    status, doc = checked(origin)
    check(status == 0 and doc["records"] >= N and not [f for f in doc["findings"] if f["level"] != "note"], "what the broker wrote is clean", doc["findings"][:5])
    shows(origin)
    journaled()
    live()
    churned(100 if FULL else 6)
    strays(origin)
    made_anew()
    converts(origin)
    killed_converts(origin, 30 if FULL else 2)
    damage_all(origin, "zarya", DAMAGES)
    random_damage(origin, 1000 if FULL else 40, random.randrange(1 << 30) if FULL else 20)
    killed_repairs(origin, 200 if FULL else 8)
    if FULL or os.environ.get("ZARYA_APACHE"):
        apache()
    done()
