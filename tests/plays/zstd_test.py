#!/usr/bin/env python3
"""storage-zstd and storage-commitlog on one directory, back and forth by one word of the configuration, with a broker that is
killed while it packs and while it expands: every acknowledged message stays where it was.

--full: more rounds."""
import json, os, re, sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
from zarya import *

TOPIC = "zstdplay"
STORE = 'segment_size = "256 KiB"; flush_interval = "50 ms";'


def forms(z):
    names = os.listdir(z.data + "/commitlog")
    return (sum(n.endswith(".zst") for n in names), sum(re.fullmatch(r"\d{20}", n) is not None for n in names), sum(n.endswith(".tmp") for n in names))


def use(z, engine, more=""):
    """One word of the configuration, and settings that go with it."""
    text = text_of(z.conf)
    text = re.sub(r'use = "storage-\w+"; settings = \{[^}]*\}', f'use = "{engine}"; settings = {{ {STORE} {more} }}', text)
    with open(z.conf, "w") as f:
        f.write(text)


class Sends:
    def __init__(self, z):
        self.z, self.acked, self.n = z, {}, 0

    def some(self, count):
        """JSON-like messages with keys; what was acknowledged is remembered with its place."""
        c, pending = Conn(self.z.addr), {}
        while count or pending:
            while count and len(pending) < 32:
                text = f"m:{self.n}:"
                body = text + f'{{"order":{self.n * 7919},"customer":"c{self.n % 97}","items":[{{"sku":"A-{self.n % 31}","price":{self.n % 1000}.50}}]}}' * 5
                c.opaque += 1
                c.sock.sendall(send_frame(TOPIC, self.n % 4, body.encode(), c.opaque, keys=f"k{self.n}"))
                pending[c.opaque] = (self.n % 4, text)
                self.n += 1
                count -= 1
            head = c.read(20)
            if not head:
                check(False, "every send is answered", text_of(self.z.log)[-800:])
                break
            queue, text = pending.pop(head[0]["opaque"])
            if head[0]["code"] == 0:
                self.acked[text] = (queue, int(head[0]["extFields"]["queueOffset"]))
        c.close()


def found(z, s, what):
    check_kept(pull_all(z.addr, TOPIC), [s], what)


def by_key(z, s):
    last = s.n - s.n // 2
    head, body = remoting(z.addr, 12, {"topic": TOPIC, "key": f"k{last}", "maxNum": 4, "beginTimestamp": 0, "endTimestamp": 1 << 60})
    check(head.get("code") == 0 and f"m:{last}:".encode() in body, "a message is found by its key in a packed segment", str(head))


def checked(z):
    r = subprocess.run([tool("zaryactl-store"), "check", z.data, "--json"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=60)
    return r.returncode, json.loads(r.stdout or "{}")


def flip(path):
    with open(path, "r+b") as f:
        f.seek(os.path.getsize(path) // 2)
        byte = f.read(1)[0]
        f.seek(-1, 1)
        f.write(bytes([byte ^ 0x41]))


def check_live(z):
    """A check of a running broker's directory sees what its packed segments hold, damage too."""
    status, doc = checked(z)
    check(status == 0 and doc["live"] and doc["begin"] == 0, "a check of the running broker's packed log reads all of it", (status, doc.get("begin"), doc.get("findings", [])[:3]))
    victim = sorted(n for n in os.listdir(z.data + "/commitlog") if n.endswith(".zst"))[1]
    flip(f"{z.data}/commitlog/{victim}")
    status, doc = checked(z)
    flip(f"{z.data}/commitlog/{victim}")
    check(status == 2 and any(victim in f["file"] for f in doc["findings"]), "and tells a damaged block of it", (status, doc.get("findings", [])[:3]))


def play(rounds):
    z = Zarya()
    use(z, "storage-commitlog")
    z.start()
    s = Sends(z)
    check(create_topic(z.addr, TOPIC), "a topic is made")
    s.some(3000)
    z.stop()
    packed, plain, _ = forms(z)
    check(packed == 0 and plain > 6, "storage-commitlog writes plain segments", str(forms(z)))

    use(z, "storage-zstd", 'rate = "16 MiB";')
    z.start()
    found(z, s, "storage-zstd on the same directory")
    check(wait_for(lambda: forms(z)[0] >= plain - 1, 30), "every sealed segment is packed", str(forms(z)))
    before = sum(os.path.getsize(f"{z.data}/commitlog/{n}") for n in os.listdir(z.data + "/commitlog") if n.endswith(".zst"))
    check(before * 3 < (plain - 1) * 262144, "it takes less than a third", f"{before} of {(plain - 1) * 262144}")
    found(z, s, "the packed log")
    by_key(z, s)
    check_live(z)
    s.some(2000)
    z.kill()
    z.start()
    found(z, s, "after kill -9 with packed segments")
    z.stop()

    use(z, "storage-commitlog")
    refused = subprocess.run([os.path.join(BUILD, "bin/zarya"), "-c", z.conf], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=60, text=True)
    check(refused.returncode != 0 and "storage-zstd" in refused.stdout and "zaryactl store convert" in refused.stdout,
          "storage-commitlog refuses a packed log and says what to do", refused.stdout[-600:])

    for i in range(rounds):
        use(z, "storage-zstd", 'compress = false; rate = "2 MiB";')
        z.start()
        wait_for(lambda: forms(z)[1] > 3 + i, 30, 0.005)
        z.kill()
        z.start()
        found(z, s, f"killed while it expands ({i + 1})")
        s.some(200)
        z.kill()
        use(z, "storage-zstd", 'rate = "2 MiB";')
        z.start()
        wait_for(lambda: forms(z)[0] > 3 + i, 30, 0.005)
        z.kill()
        z.start()
        found(z, s, f"killed while it packs ({i + 1})")
        z.stop()

    use(z, "storage-zstd", 'compress = false; rate = "1 GiB";')
    z.start()
    check(wait_for(lambda: forms(z)[0] == 0 and forms(z)[2] == 0, 60), "every segment is expanded", str(forms(z)))
    found(z, s, "the expanded log")
    z.stop()
    use(z, "storage-commitlog")
    z.start()
    found(z, s, "storage-commitlog again")
    s.some(100)
    found(z, s, "and on")
    check(z.stop() == 0, "a clean stop")


play(10 if "--full" in sys.argv else 2)
done()
