#!/usr/bin/env python3
"""The second transport by one word of configuration: name server and broker on nng's streams. The official Java client over
tcp://, and our own tools over tcp:// and a Unix socket (ipc://), with proof that nothing is lost, doubled or out of order."""
import os, sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
from zarya import *

HERE = os.path.dirname(os.path.abspath(__file__))


def bench(what, *args, checks=()):
    """zarya-bench; exit status 0 says that nothing failed, and with --verify that nothing was lost, doubled or corrupt."""
    r = subprocess.run([tool("zarya-bench"), *args, "--json"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=60)
    try:
        result = json.loads(r.stdout)
    except ValueError:
        result = {}
    check(r.returncode == 0 and all(c(result) for c in checks), what, (r.returncode, result, r.stderr[-500:]))
    return result


def verified(result, n):
    return result.get("messages") == n and all(result.get(k) == 0 for k in ("failed", "unanswered", "lost", "doubled", "reordered", "corrupt"))


def java(z):
    r = subprocess.run([sys.executable, os.path.join(HERE, "java_test.py"), z.ns, "5.5.0", "push", "orderly", "tags", "litepull"], stdout=subprocess.PIPE,
                       stderr=subprocess.STDOUT, text=True, timeout=300)
    lines = r.stdout.splitlines()
    print("\n".join(l for l in lines if l.startswith(("ok", "not ok", "skip"))), flush=True)
    if not any(l.startswith("skip") for l in lines):
        check(r.returncode == 0 and sum(l.startswith("ok") for l in lines) > 4, "the Java client over nng's TCP", r.stdout[-1500:])


def tools(z, ipc):
    common = ("--queues", "4", "--warmup", "0")
    bench("zarya-bench send over nng's TCP", "send", "--addr", z.addr, "--topic", "NngTcp", "--count", "20000", "--connections", "4", "--inflight", "16", *common)
    bench("zarya-bench send over ipc://", "send", "--addr", ipc, "--topic", "NngIpc", "--count", "20000", "--connections", "4", "--inflight", "16", *common)
    bench("zarya-bench pull over ipc://", "pull", "--addr", ipc, "--topic", "NngIpc", "--no-create", "--count", "20000", *common)
    for where, addr in (("TCP", z.addr), ("ipc://", ipc)):
        bench(f"zarya-bench e2e --verify over {where}: nothing lost, doubled or out of order", "e2e", "--addr", addr, "--topic", "NngE2e" + where[:3], "--rate", "4000",
              "--count", "12000", "--connections", "2", "--consumers", "2", "--verify", *common, checks=(lambda r: verified(r, 12000),))
    bench("one of large messages over ipc://", "e2e", "--addr", ipc, "--topic", "NngBig", "--rate", "100", "--count", "200", "--size", "1000000", "--verify", *common,
          checks=(lambda r: verified(r, 200),))
    bench("batches over nng's TCP", "send", "--addr", z.addr, "--topic", "NngBatch", "--count", "20000", "--batch", "32", "--verify", *common)
    if not os.path.exists(tool("zaryactl")):
        skip("zaryactl over ipc://", "it is not built")
        return
    r = zaryactl("topic", "create", "-b", ipc, "-t", "CtlIpc", "-r", "3", "-w", "3")
    check(r.returncode == 0, "zaryactl makes a topic over ipc://", r.stdout)
    r = zaryactl("topic", "status", "-n", z.ns, "-t", "CtlIpc")
    check(r.returncode == 0 and r.stdout.count("broker-a") == 3, "which is there over TCP", r.stdout)
    r = zaryactl("broker", "status", "-b", ipc)
    check(r.returncode == 0 and "putTps" in r.stdout, "zaryactl broker status over ipc://", r.stdout)


def order_by_hand(z):
    """One connection, 2,000 sends without waiting: answers and messages in the order of the requests."""
    create_topic(z.addr, "NngOrder", 1)
    c = Conn(z.addr)
    want = [str(i).encode() for i in range(2000)]
    opaques = []
    for w in want:
        c.opaque += 1
        opaques.append(c.opaque)
        c.sock.sendall(send_frame("NngOrder", 0, w, c.opaque))
    heads = [c.answer(o)[0] for o in opaques]
    check([h.get("extFields", {}).get("queueOffset") for h in heads] == [str(i) for i in range(2000)], "2,000 sends at once on one connection are stored in their order", heads[:2])
    wait_for(lambda: c.ask(30, {"topic": "NngOrder", "queueId": 0})[0]["extFields"]["offset"] == "2000", 10)
    got = [m["body"] for m in pull_queue(z.addr, "NngOrder", 0)]
    check(got == want, "and pulled in it", len(got))
    held = c.send(11, {"consumerGroup": "CG", "topic": "NngOrder", "queueId": 0, "queueOffset": 2000, "maxMsgNums": 32, "sysFlag": 6, "commitOffset": 0,
                       "suspendTimeoutMillis": 20000, "subscription": "*", "subVersion": 1, "expressionType": "TAG"})
    check(c.answer(held, 0.2)[0] == {}, "a pull is held")
    began = time.time()
    c.opaque += 1
    c.sock.sendall(send_frame("NngOrder", 0, b"wake", c.opaque))
    head, body = c.answer(held, 5)
    check(head.get("code") == 0 and records(body)[0]["body"] == b"wake" and time.time() - began < 1, "and woken by a send within the second", head)
    c.sock.sendall(struct.pack(">i", 0x7FFFFFFF) + b"x" * 64)
    c.read(5)
    check(c.closed, "a length of 2 GiB closes the connection")


def main():
    if not os.path.exists(os.path.join(BUILD, "plugins/transport-nng.so")):
        skip("transport-nng", "it is not built")
        done()
    d = temp_dir("zn-")
    ipc = f"ipc://{d}/broker.ipc"
    z = Zarya(directory=d, transport="transport-nng", listen=(f'"{ipc}"',)).start()
    check(z.wait_registered(), "name server and broker are there on nng's TCP", text_of(z.log)[-1500:])
    tools(z, ipc)
    order_by_hand(z)
    java(z)
    check(z.proc.poll() is None and z.stop() == 0, "zarya stops cleanly", text_of(z.log)[-1500:])
    check(not os.path.exists(d + "/broker.ipc"), "and takes its Unix socket away")
    z.start()
    check(z.wait_registered() and len(pull_queue(z.addr, "NngOrder", 0)) == 2001, "after a restart all is there")
    z.kill()
    z.start()
    check(z.wait_registered() and os.path.exists(d + "/broker.ipc"), "a Unix socket that a killed process left is taken over", text_of(z.log)[-1500:])
    bench("and is served", "send", "--addr", ipc, "--topic", "NngAgain", "--count", "1000", "--queues", "4", "--warmup", "0")
    check(z.stop() == 0, "zarya stops cleanly again", text_of(z.log)[-1500:])
    done()


main()
