#!/usr/bin/env python3
"""Mixed clusters. An Apache 5.5.0 broker registers with our name server and Java clients work through it; our broker registers
with Apache's name server beside an Apache broker, and clients use both."""
import os, sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
from zarya import *

HERE = os.path.dirname(os.path.abspath(__file__))


def play(ns, *scenarios):
    return subprocess.run([sys.executable, os.path.join(HERE, "java_test.py"), ns, "5.5.0", *scenarios], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def passes(ns, what, *scenarios):
    r = play(ns, *scenarios)
    good = [l for l in r.stdout.splitlines() if l.startswith("ok")]
    check(r.returncode == 0 and len(good) > len(scenarios), f"{what}: {', '.join(scenarios)}", r.stdout[-1500:])


def brokers(ns):
    return remoting(ns, 106)[1].decode(errors="replace")


def route(ns, topic):
    head, body = remoting(ns, 105, {"topic": topic})
    return json.loads(body) if head.get("code") == 0 else {}


def apache_broker_with_our_name_server():
    z = Zarya(broker=False).start()
    a = Apache(namesrv=False, namesrv_addr=z.ns).start()
    check(wait_for(lambda: a.addr in brokers(z.ns), 40), "Apache's broker registers with our name server", brokers(z.ns))
    passes(z.ns, "clients of an Apache broker behind our name server", "push", "orderly", "litepull")
    head, body = remoting(z.ns, 206)
    check(b"TBW102" in body and b"SELF_TEST_TOPIC" in body, "its topics are listed", body)
    check(z.proc.poll() is None, "our name server is still there", text_of(z.log)[-800:])
    a.stop()
    check(wait_for(lambda: a.addr not in brokers(z.ns), 20), "it is gone from our name server once it stopped", brokers(z.ns))
    z.stop()


def our_broker_with_apaches_name_server():
    a = Apache(name="broker-java").start()
    z = Zarya(namesrv=False, namesrv_addr=a.ns, name="broker-zarya").start()
    check(wait_for(lambda: z.addr in brokers(a.ns), 40), "our broker registers with Apache's name server", brokers(a.ns))
    for addr in (a.addr, z.addr):
        head, _ = remoting(addr, 17, {"topic": "Both", "defaultTopic": "TBW102", "readQueueNums": 4, "writeQueueNums": 4, "perm": 6,
                                      "topicFilterType": "SINGLE_TAG", "topicSysFlag": 0, "order": "false"})
        check(head.get("code") == 0, f"topic is created on {addr}", head)
    names = wait_for(lambda: {q["brokerName"] for q in route(a.ns, "Both").get("queueDatas", [])} == {"broker-java", "broker-zarya"}, 20)
    check(names, "one topic with queues of both brokers", route(a.ns, "Both"))
    passes(a.ns, "clients of a cluster of both brokers", "push", "tags", "broadcasting")
    z.stop()
    check(wait_for(lambda: z.addr not in brokers(a.ns), 20), "our broker takes itself off when it stops", brokers(a.ns))
    a.stop()


def main():
    if not java_client("5.5.0") or not apache_server("5.5.0"):
        skip("mixed clusters", "maven or javac is missing, or the registry cannot be reached")
        done()
    apache_broker_with_our_name_server()
    our_broker_with_apaches_name_server()
    done()


main()
