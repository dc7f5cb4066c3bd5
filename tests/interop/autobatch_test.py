#!/usr/bin/env python3
"""The 5.5.0 Java producer's own batching (autoBatch) and its lists of messages, on a topic with batch consume queues and on a plain
one: sent to Zarya and read there, then read from the same directory by Apache, and the other way round."""
import os, sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
from zarya import *

HERE = os.path.dirname(os.path.abspath(__file__))


def client(cp, classes, ns, label, what, *topics):
    r = subprocess.run(["java", "-Xmx256m"] + JAVA_OPENS + ["-cp", classes + ":" + cp, "AutoBatch", ns, label, what, *topics], stdout=subprocess.PIPE,
                       stderr=subprocess.STDOUT, text=True, errors="replace", timeout=200)
    lines = [l for l in r.stdout.splitlines() if l.startswith(("ok", "not ok"))]
    print("\n".join(lines))
    check(r.returncode == 0 and len(lines) >= len(topics), f"{label}: {what}", r.stdout[-1500:])


def topics_make(addr, ns, *topics):
    """Until the name server knows them: a client takes the route of TBW102 before."""
    for t in topics:
        head, _ = remoting(addr, 17, {"topic": t, "defaultTopic": "TBW102", "readQueueNums": 2, "writeQueueNums": 2, "perm": 6, "topicFilterType": "SINGLE_TAG",
                                      "topicSysFlag": 0, "order": "false", "attributes": "+queue.type=BatchCQ" if "Batch" in t else ""})
        check(head.get("code") == 0 and wait_for(lambda: remoting(ns, 105, {"topic": t})[0].get("code") == 0, 40), f"topic {t} created", head)


def main():
    cp = java_client("5.5.0")
    if not cp or not apache_server("5.5.0"):
        skip("batches of the Java client", "maven or javac is missing, or the registry cannot be reached")
        done()
    classes = temp_dir()
    r = subprocess.run(["javac", "-nowarn", "-cp", cp, "-d", classes, os.path.join(HERE, "java/AutoBatch.java")], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if not check(r.returncode == 0, "AutoBatch.java compiles", r.stdout):
        done()
    ports = free_port(), free_port()
    z = Zarya(ports=ports).start()
    z.wait_registered()
    topics_make(z.addr, z.ns, "ZBatch", "ZPlain")
    client(cp, classes, z.ns, "Zarya", "send", "ZBatch", "ZPlain")
    client(cp, classes, z.ns, "Zarya", "read", "ZBatch", "ZPlain")
    check(z.stop() == 0, "Zarya stops cleanly", text_of(z.log)[-500:])
    a = Apache(store=z.data, ports=ports, conf="mappedFileSizeCommitLog=1073741824\nwaitTimeMillsInSendQueue=5000").start()
    topics_make(a.addr, a.ns, "ABatch")
    client(cp, classes, a.ns, "Apache after Zarya", "read", "ZBatch", "ZPlain")
    client(cp, classes, a.ns, "Apache after Zarya", "send", "ABatch")
    a.stop()
    z.start()
    z.wait_registered()
    client(cp, classes, z.ns, "Zarya after Apache", "read", "ABatch", "ZBatch")
    check(z.stop() == 0, "Zarya stops cleanly again", text_of(z.log)[-500:])
    done()


main()
