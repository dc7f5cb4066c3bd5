#!/usr/bin/env python3
"""The disk is full. Sends are refused with a clear code and reason, reads go on, nothing acknowledged is lost, and sends work again
when there is space, without a restart; and a broker can be restarted, and killed, while the disk is full.

The data directory is a small tmpfs in a mount namespace of our own (root, or where user namespaces are allowed)."""
import os, sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
from zarya import *

MB = 1 << 20
# The timer's wheel is a file of 37 MiB that is written once: more than the smaller disks here have.
WITHOUT_TIMER = ("admin", "ordered", "query", "transaction")
TO_THE_LAST_BYTE = 'disk_clean_ratio = 1.0; disk_force_ratio = 1.0; disk_refuse_ratio = 1.0; clean_forcibly = false;'


def small_disk(mb, ballast_mb):
    """A file system of so many MiB with a file in it that can be taken away."""
    d = temp_dir()
    os.mkdir(d + "/data")
    if subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={mb}m", "none", d + "/data"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode:
        return None
    ballast(d, ballast_mb)
    return d


def ballast(d, mb):
    with open(d + "/data/ballast", "wb") as f:
        if mb:
            os.posix_fallocate(f.fileno(), 0, mb * MB)


def free(d):
    s = os.statvfs(d + "/data")
    return s.f_bavail * s.f_frsize


class Filler:
    """Sends 4 KiB messages with keys, some at once, until a number of them was refused; remembers what was acknowledged where."""

    def __init__(self, z, topic):
        self.z, self.topic, self.n, self.acked, self.refused = z, topic, 0, {}, []

    def fill(self, limit=20000, refusals=64):
        c, pending, self.refused = Conn(self.z.addr), {}, []
        while (len(self.refused) < refusals and limit > 0) or pending:
            while len(pending) < 32 and len(self.refused) < refusals and limit > 0:
                text = f"m:{self.n}:"
                c.opaque += 1
                c.sock.sendall(send_frame(self.topic, self.n % 4, (text + "x" * (4096 - len(text))).encode(), c.opaque, keys=f"k{self.n}"))
                pending[c.opaque] = (self.n % 4, text)
                self.n += 1
                limit -= 1
            got = c.read(20)
            if not got:
                check(False, "every send is answered", f"{len(pending)} are not; {text_of(self.z.log)[-800:]}")
                break
            queue, text = pending.pop(got[0]["opaque"])
            if got[0]["code"] == 0:
                self.acked[text] = (queue, int(got[0]["extFields"]["queueOffset"]))
            else:
                self.refused.append((got[0]["code"], got[0].get("remark") or ""))
        c.close()
        return self

    def kept(self, what):
        try:
            check_kept(pull_all(self.z.addr, self.topic), [self], what)
        except (OSError, ConnectionError) as e:
            time.sleep(1); check(False, f"{what}: pulls are answered", (e, self.z.proc.poll(), text_of(self.z.log)[-1400:]))


def refused_clearly(f, what, word):
    codes = {c for c, _ in f.refused}
    remark = f.refused[0][1] if f.refused else ""
    check(f.refused and codes <= {14} and word in remark.lower(), f"{what}: sends are refused with 14 and the reason", (codes, remark, len(f.acked)))
    print(f"# {len(f.acked)} acknowledged; remark: {remark[:160]}")


def goes_on(z, f, what):
    """What does not need the disk works while it is full."""
    c = Conn(z.addr)
    head, _ = c.ask(30, {"topic": f.topic, "queueId": 0})
    check(head.get("code") == 0, f"{what}: offsets are told", head)
    beat = {"clientID": "c1", "producerDataSet": [], "consumerDataSet": [{"groupName": "FullG", "consumeType": "CONSUME_PASSIVELY", "messageModel": "CLUSTERING",
            "consumeFromWhere": "CONSUME_FROM_FIRST_OFFSET", "unitMode": False, "subscriptionDataSet": [{"topic": f.topic, "subString": "*", "subVersion": 1, "tagsSet": [], "codeSet": []}]}]}
    head, _ = c.ask(34, {}, json.dumps(beat).encode())
    check(head.get("code") == 0, f"{what}: heartbeats are answered", head)
    head, _ = c.ask(15, {"consumerGroup": "FullG", "topic": f.topic, "queueId": 1, "commitOffset": 7})
    head, _ = c.ask(14, {"consumerGroup": "FullG", "topic": f.topic, "queueId": 1})
    check(head.get("extFields") == {"offset": "7"}, f"{what}: offsets are committed", head)
    head, _ = c.ask(17, {"topic": "WhileFull", "defaultTopic": "TBW102", "readQueueNums": 4, "writeQueueNums": 4, "perm": 6, "topicFilterType": "SINGLE_TAG",
                         "topicSysFlag": 0, "order": "false"})
    check(head.get("code") is not None, f"{what}: a new topic gets an answer ({head.get('code')})", head)
    f.kept(f"{what}, reading")
    c.close()


def works_again(z, topic, what, seconds=10, aim=None):
    def sent():
        head, _ = remoting(z.addr, 310, {"a": "PG", "b": topic, "c": "TBW102", "d": 4, "e": 0, "f": 0, "g": 1, "h": 0, "i": "", "j": 0}, b"again:1:")
        return head.get("code") == 0
    began = time.time()
    check(wait_for(sent, seconds, 0.05), f"{what}: sends work again when there is space", text_of(z.log)[-800:])
    took = time.time() - began
    print(f"# {what}: sends work {took:.2f} s after there is space")
    if aim:
        check(took < aim, f"{what}: within {aim} s", took)


def last_byte(flush):
    d = small_disk(40, 16)
    if not d:
        skip("a full disk", "a tmpfs cannot be mounted here")
        return
    what = f"{flush} flush, to the last byte"
    z = Zarya(directory=d, features=WITHOUT_TIMER, storage=f'flush = "{flush}"; segment_size = "4 MiB"; queue_file_size = "60000"; clean_interval = "200 ms"; {TO_THE_LAST_BYTE}').start()
    create_topic(z.addr, "Full")
    f = Filler(z, "Full").fill()
    refused_clearly(f, what, "full")
    check(free(d) < 1 * MB, f"{what}: the disk is full indeed", free(d))
    goes_on(z, f, what)
    f.fill(200, 200)
    check(z.proc.poll() is None, f"{what}: zarya lives", text_of(z.log)[-1500:])
    ballast(d, 0)
    works_again(z, "Second", what)
    f.fill(500, 1)
    check(not f.refused, f"{what}: and go on working", f.refused[:2])
    f.kept(f"{what}, with space again")

    ballast(d, max(0, free(d) // MB))
    f.fill()
    refused_clearly(f, what + ", once more", "full")
    check(z.stop() == 0, f"{what}: zarya stops while the disk is full", text_of(z.log)[-1000:])
    z.start()
    f.kept(f"{what}, after a restart while full")
    f.fill(200, 10)
    check(f.refused and z.proc.poll() is None, f"{what}: still refused after the restart", len(f.acked))
    z.kill()
    z.start()
    f.kept(f"{what}, after kill -9 while full")
    f.fill(200, 10)
    check(f.refused and {c for c, _ in f.refused} <= {14, 1} and f.refused[0][1], f"{what}: still refused, with a remark", f.refused[:2])
    ballast(d, 0)
    works_again(z, "Third", what + ", after kill -9")
    f.fill(500, 1)
    check(not f.refused, f"{what}: all is well again", f.refused[:2])
    f.kept(f"{what}, in the end")
    head, body = remoting(z.addr, 12, {"topic": "Full", "key": "k3", "maxNum": 4, "beginTimestamp": 0, "endTimestamp": 1 << 62})
    check(head.get("code") == 0 and [m["props"].get("KEYS") for m in records(body)] == ["k3"], f"{what}: a key from before is found", (head, len(body)))
    check(z.stop() == 0, f"{what}: zarya stops cleanly", text_of(z.log)[-1000:])
    z.start()
    f.kept(f"{what}, after a clean restart")
    check(z.stop() == 0, f"{what}: zarya stops cleanly again", text_of(z.log)[-1000:])
    subprocess.run(["umount", "-l", d + "/data"])


def an_answer_is_kept():
    """What an admin command was told is done is there after kill -9, on a full disk too."""
    d = small_disk(24, 0)
    if not d:
        return
    z = Zarya(directory=d, features=WITHOUT_TIMER, storage=f'segment_size = "1 MiB"; queue_file_size = "6000"; index_slots = 1000; index_entries = 200; {TO_THE_LAST_BYTE}').start()
    create_topic(z.addr, "There")
    take_all(d)
    codes = {}
    for name in ("Kept0", "Kept1"):
        codes[name] = remoting(z.addr, 17, {"topic": name, "defaultTopic": "TBW102", "readQueueNums": 4, "writeQueueNums": 4, "perm": 6,
                                            "topicFilterType": "SINGLE_TAG", "topicSysFlag": 0, "order": "false"})[0]
    z.kill()
    os.unlink(d + "/data/thief")
    z.start()
    there = json.loads(remoting(z.addr, 21)[1])["topicConfigTable"]
    check(all(name in there for name, head in codes.items() if head["code"] == 0), "a topic on a full disk: a good answer is kept over kill -9", codes)
    check(all(head["code"] == 0 or "disk" in head.get("remark", "") for head in codes.values()), "a topic on a full disk: or it is said why not", codes)
    check(z.stop() == 0, "zarya stops cleanly", text_of(z.log)[-1000:])
    subprocess.run(["umount", "-l", d + "/data"])


def before_the_last_byte():
    """The refusal comes at a share of the disk that leaves room for what is already taken in; the oldest files may go first."""
    d = small_disk(64, 16)
    if not d:
        return
    z = Zarya(directory=d, features=WITHOUT_TIMER, storage='segment_size = "4 MiB"; clean_interval = "100 ms"; disk_clean_ratio = 0.7; disk_force_ratio = 0.8; disk_refuse_ratio = 0.8; clean_forcibly = false; retention_hours = 72;').start()
    create_topic(z.addr, "Share")
    f = Filler(z, "Share").fill()
    refused_clearly(f, "at disk_refuse_ratio", "disk")
    check(4 * MB < free(d) < 20 * MB, "at disk_refuse_ratio: before the disk is full", free(d))
    check(any("disk" in l and " warn" in l or " error" in l for l in text_of(z.log).splitlines()), "it is in the log", text_of(z.log)[-500:])
    f.kept("at disk_refuse_ratio")
    ballast(d, 0)
    works_again(z, "Share2", "below disk_refuse_ratio")
    check(z.stop() == 0, "zarya stops cleanly", text_of(z.log)[-1000:])
    subprocess.run(["umount", "-l", d + "/data"])


def take_all(d):
    """Another program takes everything at once, to the last byte."""
    with open(d + "/data/thief", "ab") as f:
        piece = free(d)
        while free(d) > 0 and piece >= 4096:
            try:
                os.posix_fallocate(f.fileno(), f.seek(0, 2), min(piece, free(d)))
            except OSError:
                piece //= 2  # the broker was quicker


def document(d, name):
    """A state document of the broker as it is on the disk."""
    for path, _, files in os.walk(d + "/data"):
        if name in files:
            try:
                with open(os.path.join(path, name)) as f:
                    return f.read()
            except OSError:
                return ""
    return ""


def taken_at_once(flush, storage, what):
    """Another program fills the disk at one stroke: log, queue files, index and documents all find it full at the same moment.
    Everything goes on by itself when there is space, with the intervals that people have."""
    d = small_disk(128, 0)
    if not d:
        return
    z = Zarya(directory=d, storage=f'flush = "{flush}"; segment_size = "4 MiB"; queue_file_size = "6000"; index_slots = 1000; index_entries = 200; {storage}').start()
    create_topic(z.addr, "Taken")
    f = Filler(z, "Taken").fill(900, 1)
    check(not f.refused, f"{what}: first all is well", f.refused[:2])
    before = f.n
    take_all(d)
    f.fill(3000, 200)
    check(f.refused and {c for c, _ in f.refused} <= {14} and f.refused[-1][1], f"{what}: refused with 14 and a remark", f.refused[:2])
    goes_on(z, f, what)
    check(z.proc.poll() is None, f"{what}: zarya lives", text_of(z.log)[-1500:])
    os.unlink(d + "/data/thief")
    works_again(z, "After", what, aim=2.0)
    f.fill(600, 1)
    check(not f.refused, f"{what}: and go on", f.refused[:2])
    f.kept(what)
    for key in ("k3", f"k{before - 1}", f"k{f.n - 1}"):
        if not any(t.startswith(f"m:{key[1:]}:") for t in f.acked):
            continue
        asked = lambda: [m["props"].get("KEYS") for m in records(remoting(z.addr, 12, {"topic": "Taken", "key": key, "maxNum": 4, "beginTimestamp": 0, "endTimestamp": 1 << 62})[1])]
        check(wait_for(lambda: asked() == [key], 10), f"{what}: key {key} is found", asked())
    began = time.time()
    check(wait_for(lambda: '"After"' in document(d, "topics.json"), 15), f"{what}: the topic made since is written down", document(d, "topics.json")[-300:])
    check(wait_for(lambda: "FullG" in document(d, "consumerOffset.json"), 15), f"{what}: the offset committed while it was full is written down",
          document(d, "consumerOffset.json")[-300:])
    print(f"# {what}: documents are whole again after {time.time() - began:.2f} s more")
    z.kill()
    z.start()
    f.kept(f"{what}, after kill -9")

    z.stop()
    take_all(d)
    z.start()
    f.kept(f"{what}, started on the full disk")
    f.fill(200, 10)
    check(f.refused and {c for c, _ in f.refused} <= {14, 1}, f"{what}, started on the full disk: refused", f.refused[:2])
    os.unlink(d + "/data/thief")
    works_again(z, "Then", f"{what}, started on the full disk", aim=2.0)
    f.fill(200, 1)
    check(not f.refused, f"{what}, started on the full disk: and go on", f.refused[:2])
    check(z.stop() == 0, f"{what}: zarya stops cleanly", text_of(z.log)[-1000:])
    z.start()
    f.kept(f"{what}, in the end")
    check(z.stop() == 0, f"{what}: zarya stops cleanly again", text_of(z.log)[-1000:])
    subprocess.run(["umount", "-l", d + "/data"])


def packing():
    """storage-zstd: the disk is full while files are packed. What is packed stays packed, what is not stays plain, and packing
    goes on when there is space; so does expanding."""
    d, what = small_disk(64, 0), "packing"
    if not d:
        return
    own = f'segment_size = "2 MiB"; queue_file_size = "6000"; rate = "4 MiB"; {TO_THE_LAST_BYTE}'
    z = Zarya(directory=d, features=WITHOUT_TIMER, engine="storage-zstd", storage="compress = true; " + own).start()
    forms = lambda: [n for n in os.listdir(d + "/data/commitlog")]
    packed = lambda: sum(n.endswith(".zst") for n in forms())
    create_topic(z.addr, "Packs")
    f = Filler(z, "Packs").fill(2500, 1)
    check(wait_for(lambda: packed() > 0, 30), f"{what}: it packs", forms())
    take_all(d)
    f.fill(3000, 100)
    check(f.refused and {c for c, _ in f.refused} <= {14}, f"{what}: sends are refused with 14", f.refused[:2])
    f.kept(f"{what}, on the full disk")
    z.kill()
    z.start()
    f.kept(f"{what}, after kill -9 on the full disk")
    check(z.proc.poll() is None, f"{what}: zarya lives", text_of(z.log)[-1500:])
    os.unlink(d + "/data/thief")
    works_again(z, "Packs2", what, aim=2.0)
    f.fill(1200, 1) # another file: the thread that packs need not wait for its next try
    check(not f.refused and wait_for(lambda: len(forms()) - packed() <= 3 and not [n for n in forms() if n.endswith(".tmp")], 40),
          f"{what}: goes on when there is space", (sorted(forms()), text_of(z.log)[-600:]))
    f.kept(f"{what}, in the end")
    check(z.stop() == 0, f"{what}: zarya stops cleanly", text_of(z.log)[-1000:])

    with open(z.conf) as c:
        text = c.read()
    with open(z.conf, "w") as c:
        c.write(text.replace("compress = true;", "compress = false;"))
    before = packed()
    ballast(d, max(0, free(d) // MB - 5))
    z.start()
    check(wait_for(lambda: "cannot be expanded now" in text_of(z.log) or packed() == 0, 20) and packed() > 0, f"{what}: expanding stops before the disk is full", (before, packed(), free(d)))
    f.kept(f"{what}: expanding on a disk that is nearly full")
    check(free(d) > 0, f"{what}: and leaves room", free(d))
    check(z.stop() == 0, f"{what}: zarya stops cleanly again", text_of(z.log)[-1000:])
    ballast(d, 0)
    z.start()
    check(wait_for(lambda: packed() == 0, 40), f"{what}: expands the rest when there is space", (packed(), text_of(z.log)[-600:]))
    f.kept(f"{what}: all expanded")
    check(z.stop() == 0, f"{what}: zarya stops cleanly in the end", text_of(z.log)[-1000:])
    subprocess.run(["umount", "-l", d + "/data"])


def main():
    if "--alone" in sys.argv and "--packing" in sys.argv:
        packing()
        an_answer_is_kept()
        done()
    if "--alone" in sys.argv:
        taken_at_once("async", TO_THE_LAST_BYTE, "taken at once, async flush")
        taken_at_once("sync", "clean_forcibly = false;", "taken at once, sync flush, default shares and intervals")
        last_byte("async")
        last_byte("sync")
        before_the_last_byte()
        packing()
        done()
    for more in ([], ["--map-root-user"]):
        space = ["unshare", *more, "--mount"]
        if shutil.which("unshare") and subprocess.run([*space, "mount", "-t", "tmpfs", "none", "/mnt"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode == 0:
            r = subprocess.run([*space, sys.executable, os.path.abspath(__file__), "--alone", *sys.argv[1:]])
            sys.exit(r.returncode)
    skip("a full disk", "this needs a small file system: root, or user namespaces")
    done()


main()
