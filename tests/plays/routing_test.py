#!/usr/bin/env python3
"""Routing as whole processes: what a broker with 20,000 topics says to its name server when nothing and when one topic changed,
seen on the wire; how fast a broker that is gone is forgotten; a name server that comes up late; what survives a restart; and
which configuration requests are refused."""
import os, sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
from zarya import *

TOPICS = 20000


class Wire:
    """A TCP proxy in front of an address that notes every frame: (time, "to" or "from", bytes of the frame, header or None)."""

    def __init__(self, addr):
        host, port = addr.rsplit(":", 1)
        self.target, self.frames, self.pairs, self.lock = (host, int(port)), [], [], threading.Lock()
        self.server = socket.create_server(("127.0.0.1", 0))
        self.addr = "127.0.0.1:%d" % self.server.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        while True:
            try:
                near, _ = self.server.accept()
                far = socket.create_connection(self.target, 5)
            except OSError:
                return
            with self.lock:
                self.pairs.append((near, far))
            for a, b, way in ((near, far, "to"), (far, near, "from")):
                threading.Thread(target=self._pump, args=(a, b, way), daemon=True).start()

    def _pump(self, a, b, way):
        data = b""
        try:
            a.settimeout(None)
            while got := a.recv(1 << 20):
                b.sendall(got)
                data += got
                while len(data) >= 8:
                    n = 4 + struct.unpack(">i", data[:4])[0]
                    if len(data) < n:
                        break
                    head, _ = parse_frame(data[4:n])
                    with self.lock:
                        self.frames.append((time.time(), way, n, head))
                    data = data[n:]
        except OSError:
            pass
        for s in (a, b):
            try:
                s.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    def since(self, when, way="to"):
        with self.lock:
            return [f for f in self.frames if f[0] >= when and f[1] == way]

    def cut(self):
        """Ends all connections, as a network that breaks."""
        with self.lock:
            pairs, self.pairs = self.pairs, []
        for pair in pairs:
            for s in pair:
                try:
                    s.shutdown(socket.SHUT_RDWR)
                except OSError:
                    pass


def known(ns):
    return remoting(ns, 106)[1].decode(errors="replace")


def routed(ns, topic):
    return remoting(ns, 105, {"topic": topic})[0].get("code") == 0


def seen(frames):
    return [(f[3]["code"], f[2]) for f in frames]


def topics_file(z, n):
    """The document of topics that Apache's broker writes."""
    os.makedirs(os.path.join(z.data, "config"), exist_ok=True)
    table = {f"T{i:06}": {"attributes": {}, "order": False, "perm": 6, "readQueueNums": 4, "topicFilterType": "SINGLE_TAG", "topicName": f"T{i:06}", "topicSysFlag": 0,
                          "writeQueueNums": 4} for i in range(n)}
    with open(os.path.join(z.data, "config/topics.json"), "w") as f:
        json.dump({"dataVersion": {"counter": n, "stateVersion": 0, "timestamp": 1700000000000}, "topicConfigTable": table}, f)


def many_topics():
    ns = Zarya(broker=False).start()
    wire = Wire(ns.ns)
    z = Zarya(namesrv=False, namesrv_addr=wire.addr, routing='heartbeat = "1 s"; period = "10 s";')
    topics_file(z, TOPICS)
    began = time.time()
    z.start()
    up = wait_for(lambda: routed(ns.ns, f"T{TOPICS - 1:06}"), 20)
    check(up and routed(ns.ns, "T000000"), f"a broker registers {TOPICS} topics it finds in topics.json", text_of(z.log)[-800:])
    full = max((f[2] for f in wire.since(0)), default=0)
    print(f"# {TOPICS} topics are routed {time.time() - began:.2f} s after the start; the registration took {full} bytes")
    _, body = remoting(ns.ns, 206)
    check(len(json.loads(body)["topicList"]) >= TOPICS, "the name server lists them all", len(body))

    time.sleep(0.5)
    quiet = time.time()
    wait_for(lambda: time.time() > quiet + 13, 20)
    frames = wire.since(quiet)
    check(len(frames) >= 8, "it is heard from every second", seen(frames))
    check(all(f[2] < 1024 for f in frames), "each word without a change is shorter than 1 KiB, also over a period", sorted(seen(frames), key=lambda f: -f[1])[:5])

    c = Conn(z.addr)
    for n, (what, perm) in enumerate((("a changed topic", 4), ("a new topic", 6))):
        topic = ("T000007", "Fresh")[n]
        before = time.time()
        head, _ = c.ask(17, {"topic": topic, "defaultTopic": "TBW102", "readQueueNums": 2, "writeQueueNums": 2, "perm": perm, "topicFilterType": "SINGLE_TAG",
                             "topicSysFlag": 0, "order": "false"})
        d = json.loads(remoting(ns.ns, 105, {"topic": topic})[1] or b"{}")
        check(head.get("code") == 0 and d.get("queueDatas", [{}])[0].get("perm") == perm, f"{what} is in the name server when the request is answered", (head, d))
        wait_for(lambda: time.time() > before + 0.9, 2)
        frames = wire.since(before)
        words = [f for f in frames if f[3]["code"] == 103]
        check(len(words) >= 1 and sum(f[2] for f in frames) < 2048 + 1024, f"{what} costs one small registration", seen(frames))
        check(all(f[2] < 2048 for f in frames), f"{what}: nothing longer than 2 KiB is said", seen(frames))
    check(routed(ns.ns, "T000000") and routed(ns.ns, "T019999"), "all others stay")

    before = time.time()
    for i in range(20):
        c.send(17, {"topic": f"Burst{i}", "defaultTopic": "TBW102", "readQueueNums": 2, "writeQueueNums": 2, "perm": 6, "topicFilterType": "SINGLE_TAG", "topicSysFlag": 0, "order": "false"})
    ok = wait_for(lambda: all(routed(ns.ns, f"Burst{i}") for i in range(20)), 10)
    cost = sum(f[2] for f in wire.since(before))
    check(ok and cost < 64 * 1024, "20 new topics at once are known soon and cost no full registration", f"{cost} bytes {seen(wire.since(before))[:8]}")

    before = time.time()
    head, _ = c.ask(215, {"topic": "Fresh"})
    check(head.get("code") == 0, "a topic is deleted", head)
    remoting(ns.ns, 216, {"topic": "Fresh"})
    c.ask(17, {"topic": "After", "defaultTopic": "TBW102", "readQueueNums": 2, "writeQueueNums": 2, "perm": 6, "topicFilterType": "SINGLE_TAG", "topicSysFlag": 0, "order": "false"})
    wait_for(lambda: time.time() > before + 2.5, 4)
    check(not routed(ns.ns, "Fresh") and routed(ns.ns, "After"), "a deleted topic stays deleted in the name server")

    before = time.time()
    wire.cut()
    gone = wait_for(lambda: z.addr not in known(ns.ns), 3, 0.005)
    check(gone, "a broker whose connection broke is forgotten", known(ns.ns))
    back = wait_for(lambda: z.addr in known(ns.ns) and routed(ns.ns, "T010000") and routed(ns.ns, "Burst7") and not routed(ns.ns, "Fresh"), 10)
    check(back, f"and is back with all topics when it reconnected", seen(wire.since(before))[-5:])

    # the name server restarts empty-handed: the broker tells it everything again
    check(ns.stop() == 0, "the name server stops cleanly")
    ns.start()
    check(wait_for(lambda: routed(ns.ns, "T019999"), 15), "a restarted name server is told everything again", known(ns.ns))
    c.close()
    z.kill()
    began = time.time()
    check(wait_for(lambda: z.addr not in known(ns.ns), 3, 0.005), "a broker that was killed is forgotten at once", known(ns.ns))
    print(f"# forgotten after {(time.time() - began) * 1000:.0f} ms")
    z.start()
    check(wait_for(lambda: routed(ns.ns, "T019999") and routed(ns.ns, "After"), 20), "and is there again after its restart")
    check(z.stop() == 0 and z.addr not in known(ns.ns), "a broker that stops takes itself off", known(ns.ns))
    check(ns.stop() == 0, "the name server stops cleanly")


def late_name_server():
    first, late = Zarya(broker=False), Zarya(broker=False)
    first.start()
    z = Zarya(namesrv=False, namesrv_addr=f"{late.ns};{first.ns}").start()
    check(wait_for(lambda: z.addr in known(first.ns), 10), "with one of two name servers down the broker registers with the other", text_of(z.log)[-800:])
    before = time.time()
    check(create_topic(z.addr, "Two") and routed(first.ns, "Two") and time.time() - before < 2, "and a topic is made without waiting for the one that is down", f"{time.time() - before:.2f} s")
    late.start()
    check(wait_for(lambda: routed(late.ns, "Two"), 20), "the other is told everything when it comes up", text_of(z.log)[-800:])
    check(create_topic(z.addr, "Three") and routed(first.ns, "Three") and routed(late.ns, "Three"), "a new topic is in both when its request is answered")
    z.stop()
    check(z.addr not in known(first.ns) and z.addr not in known(late.ns), "and both are told when it stops")
    first.stop(), late.stop()


def kept_and_refused():
    z = Zarya().start()
    z.wait_registered()
    ask = lambda code, ext=None, body=b"": remoting(z.ns, code, ext, body)
    check(ask(100, {"namespace": "ORDER_TOPIC_CONFIG", "key": "OrderT", "value": "broker-a:4"})[0].get("code") == 0, "KV: put")
    check(ask(100, {"namespace": "ns", "key": "köy", "value": "wärt=1;\"x\""})[0].get("code") == 0, "KV: put what is not ASCII")
    check(ask(100, {"namespace": "ns", "key": "gone", "value": "1"})[0].get("code") == 0 and ask(102, {"namespace": "ns", "key": "gone"})[0].get("code") == 0, "KV: delete")
    check(ask(100, {"namespace": "ns", "value": "1"})[0].get("code") == 1, "KV: without a key: 1", ask(100, {"namespace": "ns", "value": "1"}))

    for text in ("listenPort=1\n", "kvConfigPath=/tmp/x\n", "configStorePath=/tmp/x\n", "rocketmqHome=/\n", "configBlackList=\n", "bindAddress=0.0.0.0\n",
                 "orderMessageEnable=true\nkvConfigPath=/tmp/x\n"):
        head, _ = ask(318, None, text.encode())
        check(head.get("code") == 16, f"the name server refuses {text.strip()!r} with 16", head)
    _, body = ask(319)
    check(b"orderMessageEnable=false" in body, "a request with one refused key changes nothing", body)
    check(ask(318, None, b"orderMessageEnable=true\nsomeKeyOfTomorrow=1\n")[0].get("code") == 0 and b"orderMessageEnable=true" in ask(319)[1], "a switch is changed", ask(319)[1])
    check(ask(318, None, b"waitSecondsForService=soon\n")[0].get("code") == 1, "a value that is no number: 1")

    broker = lambda text: remoting(z.addr, 25, {}, text.encode())[0]
    for text in ("storePathRootDir=/tmp/x\n", "storePathCommitLog=/tmp/x\n", "brokerIP1=10.0.0.1\n", "namesrvAddr=10.0.0.1:9876\n", "listenPort=1\n", "brokerRole=SLAVE\n",
                 "brokerName=other\n", "haMasterAddress=10.0.0.1:10912\n", "autoCreateTopicEnable=false\nbrokerConfigPath=/tmp/x\n", "rocketmqHome=/tmp\n", "msgTraceTopicName=x\n",
                 "brokerConfigPath=/etc/passwd\n", "autoCreateTopicEnable=false\nhaListenPort=1\n"):
        head = broker(text)
        check(head.get("code") == 16 and head.get("remark"), f"the broker refuses {text.strip()!r} with 16", head)
    _, body = remoting(z.addr, 26)
    check(b"autoCreateTopicEnable=true\n" in body, "a request with one refused key changes nothing", body[:300])
    check(broker("maxMessageSize=lots\n").get("code") == 29, "a value that is none: 29", broker("maxMessageSize=lots\n"))
    check(broker("autoCreateTopicEnable=false\n").get("code") == 0 and b"autoCreateTopicEnable=false\n" in remoting(z.addr, 26)[1], "a switch is changed")

    check(z.stop() == 0, "zarya stops cleanly", text_of(z.log)[-800:])
    z.start()
    z.wait_registered()
    check(ask(101, {"namespace": "ORDER_TOPIC_CONFIG", "key": "OrderT"})[0].get("extFields", {}).get("value") == "broker-a:4", "KV survives a restart")
    head, body = ask(219, {"namespace": "ns"})
    check(head.get("code") == 0 and json.loads(body) == {"table": {"köy": "wärt=1;\"x\""}}, "with all its letters, and what was deleted is not there", body)
    check(ask(101, {"namespace": "ns", "key": "gone"})[0].get("code") == 22, "a deleted key: 22")
    check(b"orderMessageEnable=true" in ask(319)[1], "what 318 changed survives a restart of the name server")
    create_topic(z.addr, "OrderT")
    _, body = ask(105, {"topic": "OrderT"})
    check(b'"orderTopicConf":"broker-a:4"' in body, "and has its effect", body)
    check(b"autoCreateTopicEnable=true\n" in remoting(z.addr, 26)[1], "what 25 changed lasted until the restart")
    check(z.stop() == 0, "zarya stops cleanly", text_of(z.log)[-800:])
    z.kill()


def silent_broker():
    """A broker by hand: its connection stays, but it says nothing any more."""
    import zlib
    ns = Zarya(broker=False).start()
    topic = lambda name: {"order": False, "perm": 6, "readQueueNums": 1, "topicFilterType": "SINGLE_TAG", "topicName": name, "topicSysFlag": 0, "writeQueueNums": 1}
    wrapper = {"dataVersion": {"counter": 1, "stateVersion": 0, "timestamp": 1}, "topicConfigTable": {n: topic(n) for n in ("HandT", "OtherT")}}  # one alone is taken for an increment
    body = json.dumps({"filterServerList": [], "topicConfigSerializeWrapper": wrapper}).encode()
    ext = {"brokerName": "by-hand", "brokerAddr": "127.0.0.9:1", "clusterName": "C", "haServerAddr": "127.0.0.9:2", "brokerId": 0, "heartbeatTimeoutMillis": 1500,
           "compressed": "false", "bodyCrc32": zlib.crc32(body)}
    c = Conn(ns.ns)
    head, _ = c.ask(103, {**ext, "bodyCrc32": 1}, body)
    check(head.get("code") != 0 and not routed(ns.ns, "HandT"), "a registration with a wrong checksum is refused", head)
    head, _ = c.ask(103, ext, body)
    check(head.get("code") == 0 and routed(ns.ns, "HandT"), "a registration by hand", head)
    began = time.time()
    check(wait_for(lambda: not routed(ns.ns, "HandT"), 6), "a broker that is silent for its time-out is forgotten")
    took = time.time() - began
    check(1.3 < took < 4, "not sooner, and soon after", f"{took:.2f} s")
    check(ns.stop() == 0, "the name server stops cleanly")


def main():
    silent_broker()
    late_name_server()
    kept_and_refused()
    many_topics()
    done()


main()
