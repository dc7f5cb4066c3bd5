#!/usr/bin/env python3
"""Forms of the store that have to be switched on, both ways with Apache 5.5.0: batch consume queues, the property CRC, and
consume queue extents. Each directory goes Apache, Zarya, Apache, Zarya; the last stop of each is a kill."""
import os, sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
from zarya import *

FORMS = "enabledAppendPropCRC=true\nforceVerifyPropCRC=true\nenableConsumeQueueExt=true\n"


def make_topic(addr, topic, attributes=""):
    head, _ = remoting(addr, 17, {"topic": topic, "defaultTopic": "TBW102", "readQueueNums": 1, "writeQueueNums": 1, "perm": 6, "topicFilterType": "SINGLE_TAG",
                                  "topicSysFlag": 0, "order": "false", "attributes": attributes})
    check(head.get("code") == 0, f"topic {topic} created {attributes}", head)


def send_batch(addr, topic, names):
    """A client's batch, as the Java producer encodes it. The offset of the first."""
    body = b""
    for name in names:
        p, b = f"UNIQ_KEY\x01U{name}\x02TAGS\x01red\x02".encode(), name.encode()
        body += struct.pack(">iiiii", 22 + len(b) + len(p), 0, 0, 0, len(b)) + b + struct.pack(">h", len(p)) + p
    head, _ = remoting(addr, 320, {"a": "PG", "b": topic, "c": "TBW102", "d": 4, "e": 0, "f": 0, "g": int(time.time() * 1000), "h": 0,
                                   "i": f"UNIQ_KEY\x01B{names[0]}\x02WAIT\x01true\x02", "j": 0, "k": "false", "m": "true"}, body)
    return int(head.get("extFields", {}).get("queueOffset", -1)) if head.get("code") == 0 else head


def send_one(addr, topic, name, tag):
    with socket.create_connection(("127.0.0.1", int(addr.rsplit(":", 1)[1])), 5) as s:
        s.settimeout(10)
        s.sendall(send_frame(topic, 0, name.encode(), hash(name) & 0xffffff, keys="K" + name, tag=tag))
        return read_frame(s)[0].get("code")


def unwrapped(body):
    """Names in the body of an inner batch."""
    out, at = [], 0
    while at < len(body):
        size, _, _, _, n = struct.unpack_from(">iiiii", body, at)
        out.append(body[at + 20:at + 20 + n].decode())
        at += size
    return out


def pull_from(addr, topic, offset, tag="*"):
    """Records from an offset on, until there are no more."""
    out = []
    for _ in range(200):
        head, body = remoting(addr, 11, {"consumerGroup": "CG_forms", "topic": topic, "queueId": 0, "queueOffset": offset, "maxMsgNums": 32, "sysFlag": 4, "commitOffset": 0,
                                         "suspendTimeoutMillis": 0, "subscription": tag, "subVersion": 1, "expressionType": "TAG"})
        ext = head.get("extFields", {})
        if head.get("code") == 0:
            out += records(body)
        elif head.get("code") not in (20, 21) or int(ext["nextBeginOffset"]) == offset:
            return out
        offset = int(ext["nextBeginOffset"])
    return out


class Known:
    def __init__(self):
        self.batches, self.plain, self.next = [], [], 0

    def write(self, addr, who):
        for i in range(20):
            names = [f"{who}{i}.{k}" for k in range(i % 7 + 2)]
            at = send_batch(addr, "FormBatch", names)
            if at != self.next:
                check(False, f"{who}: a batch takes the next offsets", f"{at} {self.next}")
            self.batches.append((self.next, names))
            self.next += len(names)
            code = send_one(addr, "FormPlain", f"{who}{i}", "red" if i % 3 else "blue")
            if code == 0:
                self.plain.append((f"{who}{i}", "red" if i % 3 else "blue"))
        check(len(self.plain) % 20 == 0, f"{who} writes")

    def check(self, addr, what):
        max_ = int((remoting(addr, 30, {"topic": "FormBatch", "queueId": 0})[0].get("extFields") or {}).get("offset", -1))
        min_ = int((remoting(addr, 31, {"topic": "FormBatch", "queueId": 0})[0].get("extFields") or {}).get("offset", -1))
        check((min_, max_) == (0, self.next), f"{what}: bounds of the batch queue", (min_, max_, self.next))
        got = [(m["offset"], unwrapped(m["body"])) for m in pull_from(addr, "FormBatch", 0)]
        check(got == self.batches, f"{what}: {len(self.batches)} batches at their offsets", f"{got[:3]} {len(got)}")
        base, names = self.batches[len(self.batches) // 2]
        inside = [(m["offset"], unwrapped(m["body"])) for m in pull_from(addr, "FormBatch", base + 1)]
        check(inside == self.batches[len(self.batches) // 2:], f"{what}: reading from inside a batch", f"{inside[:2]}")
        for tag in ("*", "red", "blue"):
            got = [m["body"].decode() for m in pull_from(addr, "FormPlain", 0, tag)]
            want = [n for n, t in self.plain if tag in ("*", t)]
            check(got == want, f"{what}: messages of tag {tag}", f"{len(got)} {len(want)} {got[:5]}")
        sealed = [m["props"].get("__CRC32#") for m in pull_from(addr, "FormPlain", 0)]
        check(all(sealed), f"{what}: all have their property CRC", sealed.count(None))


def main():
    if not apache_server("5.5.0"):
        skip("forms of the store beside Apache", "maven or javac is missing, or the registry cannot be reached")
        done()
    ports, known = (free_port(), free_port()), Known()
    z = Zarya(storage='segment_size = "1 MiB"; property_crc = true; property_crc_check = true;', ports=ports)
    conf = "mappedFileSizeCommitLog=1048576\nmaxMessageSize=262144\n" + FORMS
    a = Apache(store=z.data, ports=ports, conf=conf).start()
    make_topic(a.addr, "FormBatch", "+queue.type=BatchCQ")
    make_topic(a.addr, "FormPlain")
    known.write(a.addr, "a1")
    a.stop()
    z.start()
    known.check(z.addr, "Zarya after Apache")
    known.write(z.addr, "z1")
    check(z.stop() == 0, "Zarya stops cleanly", text_of(z.log)[-500:])
    a = Apache(store=z.data, ports=ports, conf=conf).start()
    known.check(a.addr, "Apache after Zarya")
    known.write(a.addr, "a2")
    a.stop(signal.SIGKILL)
    z.start()
    known.check(z.addr, "Zarya after a killed Apache")
    known.write(z.addr, "z2")
    z.kill()
    a = Apache(store=z.data, ports=ports, conf=conf).start()
    known.check(a.addr, "Apache after a killed Zarya")
    a.stop()
    done()


main()
