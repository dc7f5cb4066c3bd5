"""What whole-process tests share: a name server and broker of ours on free loopback ports, checks that count, real clients.

A test file begins with `from zarya import *` (tests/ is put on the path by its first lines), calls check(...) and ends with
done(). Every process started here is ended at exit, whatever happens."""
import atexit, json, os, re, shutil, signal, socket, struct, subprocess, sys, tempfile, threading, time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
BUILD = os.environ.get("ZARYA_BUILD", os.path.join(ROOT, "build/release"))
PLAIN = os.environ.get("ZARYA_BUILD_PLAIN", BUILD)  # without sanitizers: for tests that measure memory
FULL = "--full" in sys.argv
_failed = 0
_started = []


def check(ok, what, why=""):
    """Counts one assertion and prints its line."""
    global _failed
    if ok:
        print(f"ok - {what}", flush=True)
    else:
        _failed += 1
        print(f"not ok - {what}: {str(why)[:1500]}", flush=True)
    return ok


def skip(what, why):
    print(f"skip - {what}: {why}", flush=True)


def done():
    sys.exit(1 if _failed else 0)


def free_port():
    """A port nobody listens on, below the ephemeral range so that no client's own port takes it meanwhile."""
    import random
    while True:
        port = random.randrange(15000, 31000)
        try:
            for p in (port, port - 2, port + 1):
                with socket.socket() as s:
                    s.bind(("127.0.0.1", p))
            return port
        except OSError:
            continue


def temp_dir(prefix="zarya-"):
    path = tempfile.mkdtemp(prefix=prefix)
    atexit.register(shutil.rmtree, path, True)
    return path


def _end_all():
    for p in _started:
        if p.poll() is None:
            try:
                os.killpg(p.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
            p.wait()


atexit.register(_end_all)


def start(cmd, log, env=None, cwd=None, stderr=subprocess.STDOUT):
    """Starts a process in a group of its own, its output in a file."""
    out = open(log, "ab")
    p = subprocess.Popen(cmd, stdout=out, stderr=stderr, stdin=subprocess.DEVNULL, env={**os.environ, **(env or {})},
                         cwd=cwd, start_new_session=True)
    p.log = log
    _started.append(p)
    return p


def wait_for(predicate, seconds=20, every=0.02):
    """Waits until predicate() is true; the value, or None after the time."""
    end = time.time() + seconds
    while time.time() < end:
        value = predicate()
        if value:
            return value
        time.sleep(every)
    return None


def together(*steps):
    """Runs steps that wait more than they compute at the same time; returns when all have ended. An exception is a failed check."""
    def one(step):
        try:
            step()
        except Exception as e:
            import traceback
            check(False, "a step runs to its end", "".join(traceback.format_exception(e))[-1200:])
    threads = [threading.Thread(target=one, args=(s,)) for s in steps]
    for t in threads:
        t.start()
    for t in threads:
        t.join()


def free_ports(n):
    """Ports for brokers that start at the same time: none is another's, nor beside it."""
    ports = []
    while len(ports) < n:
        port = free_port()
        if all(abs(port - p) > 4 for p in ports):
            ports.append(port)
    return ports


def listening(port):
    try:
        with socket.create_connection(("127.0.0.1", port), 0.5):
            return True
    except OSError:
        return False


def text_of(path):
    try:
        with open(path, errors="replace") as f:
            return f.read()
    except OSError:
        return ""


class Zarya:
    """One `zarya` process from a configuration file of its own."""

    def __init__(self, directory=None, broker=True, namesrv=True, namesrv_addr=None, name="broker-a", cluster="DefaultCluster",
                 broker_conf="", storage="", transport="transport-tcp", extra_plugins="", ports=None, features=True, node="",
                 routing="", listen=(), engine="storage-commitlog", identity=0):
        """engine: the storage plugin. routing: more settings of routing-remote. listen: more addresses of the broker, in quotes."""
        self.dir = directory or temp_dir()
        self.data = os.path.join(self.dir, "data")
        self.port, self.ns_port = ports or (free_port(), free_port())
        self.broker, self.namesrv = broker, namesrv
        self.addr = f"127.0.0.1:{self.port}"
        self.ns = namesrv_addr or f"127.0.0.1:{self.ns_port}"
        plugins = []
        nng = transport == "transport-nng"
        at = lambda port: f'"{"tcp://" if nng else ""}127.0.0.1:{port}"'
        if namesrv:
            plugins.append(f'{{ use = "{transport}"; as = "namesrv"; settings = {{ listen = {at(self.ns_port)}; serves = ["routing"]; {"" if nng else "threads = 1;"} }}; }}')
            plugins.append('{ use = "routing-namesrv"; }')
        if broker:
            listens = ", ".join((at(self.port), *listen))
            fast = "" if nng else f"fast = {at(self.port - 2)}; "
            plugins.append(f'{{ use = "{transport}"; as = "broker"; settings = {{ listen = [{listens}]; {fast}serves = ["broker"]; }}; }}')
            plugins.append(f'{{ use = "{engine}"; settings = {{ {storage} }}; }}')
            plugins.append(f'{{ use = "routing-remote"; settings = {{ namesrv = "{self.ns}"; {routing} }}; }}')
            plugins.append('{ use = "filter-tag"; }')
            for f in ("admin", "ordered", "query", "delay", "transaction") if features is True else features or ():
                plugins.append(f'{{ use = "feature-{f}"; optional = {"true" if features is True and f == "transaction" else "false"}; }}')
        if extra_plugins:
            plugins.append(extra_plugins)
        self.conf = os.path.join(self.dir, "zarya.conf")
        with open(self.conf, "w") as f:
            f.write(f'node = {{ name = "{name}"; cluster = "{cluster}"; id = {identity}; data = "{self.data}"; ip1 = "127.0.0.1"; {node} }};\n'
                    f'broker = {{ {broker_conf} }};\nplugins = (\n  ' + ",\n  ".join(plugins) + "\n);\n")
        self.log = os.path.join(self.dir, "zarya.log")
        self.proc = None

    def start(self, seconds=30, build=None):
        self.proc = start([os.path.join(build or BUILD, "bin/zarya"), "-c", self.conf], self.log)
        ports = ([self.port] if self.broker else []) + ([self.ns_port] if self.namesrv else [])
        up = wait_for(lambda: self.proc.poll() is not None or all(listening(p) for p in ports), seconds, 0.005)
        if not up or self.proc.poll() is not None:
            print(text_of(self.log)[-3000:], flush=True)
            raise SystemExit("not ok - zarya does not start")
        return self

    def wait_registered(self, seconds=20):
        """Until the name server knows this broker."""
        return wait_for(lambda: self.addr in remoting(self.ns, 106)[1].decode(errors="replace"), seconds)

    def stop(self, sig=signal.SIGTERM, seconds=30):
        if self.proc and self.proc.poll() is None:
            os.kill(self.proc.pid, sig)
            try:
                self.proc.wait(seconds)
            except subprocess.TimeoutExpired:
                os.killpg(self.proc.pid, signal.SIGKILL)
                self.proc.wait()
                return -999
        return self.proc.returncode if self.proc else None

    def kill(self):
        return self.stop(signal.SIGKILL)


def frame(code, ext=None, body=b"", flag=0, opaque=1, version=513, language="JAVA", remark=None):
    """One remoting frame with a JSON header."""
    head = {"code": code, "flag": flag, "language": language, "opaque": opaque, "serializeTypeCurrentRPC": "JSON", "version": version}
    if ext is not None:
        head["extFields"] = {k: str(v) for k, v in ext.items()}
    if remark:
        head["remark"] = remark
    head = json.dumps(head).encode()
    return struct.pack(">ii", 4 + len(head) + len(body), len(head)) + head + body


def read_frame(sock):
    def exact(n):
        data = b""
        while len(data) < n:
            got = sock.recv(n - len(data))
            if not got:
                raise ConnectionError("closed")
            data += got
        return data
    total, = struct.unpack(">i", exact(4))
    data = exact(total)
    hlen, = struct.unpack(">i", data[:4])
    hlen &= 0xFFFFFF
    return json.loads(data[4:4 + hlen]), data[4 + hlen:]


def remoting(addr, code, ext=None, body=b"", timeout=5, **more):
    """One request on a connection of its own: (header, body); ({}, b"") when nobody answers."""
    host, port = addr.rsplit(":", 1)
    try:
        with socket.create_connection((host, int(port)), timeout) as s:
            s.settimeout(timeout)
            s.sendall(frame(code, ext, body, **more))
            return read_frame(s)
    except (OSError, ConnectionError):
        return {}, b""


def binary_frame(code, ext=None, body=b"", flag=0, opaque=1, version=513, language=0, remark=None):
    """One remoting frame with a binary (ROCKETMQ) header."""
    m = b"".join(struct.pack(">h", len(k)) + k + struct.pack(">i", len(v)) + v
                 for k, v in ((k.encode(), str(v).encode()) for k, v in (ext or {}).items()))
    r = (remark or "").encode()
    head = struct.pack(">hbhii", code, language, version, opaque, flag) + struct.pack(">i", len(r)) + r + struct.pack(">i", len(m)) + m
    return struct.pack(">ii", 4 + len(head) + len(body), 1 << 24 | len(head)) + head + body


def parse_frame(data):
    """Header (as JSON has it, with "serialize" 0 or 1 beside) and body of a frame without its first word."""
    hlen, = struct.unpack_from(">I", data)
    kind, hlen = hlen >> 24, hlen & 0xFFFFFF
    raw, body = data[4:4 + hlen], data[4 + hlen:]
    if kind == 0:
        return {**json.loads(raw), "serialize": 0}, body
    code, _, version, opaque, flag, rlen = struct.unpack_from(">hbhiii", raw)
    at = 17 + rlen
    end = at + 4 + struct.unpack_from(">i", raw, at)[0]
    head = {"code": code, "version": version, "opaque": opaque, "flag": flag, "remark": raw[17:17 + rlen].decode() or None, "extFields": {}, "serialize": 1}
    at += 4
    while at < end:
        k, = struct.unpack_from(">h", raw, at)
        v, = struct.unpack_from(">i", raw, at + 2 + k)
        head["extFields"][raw[at + 2:at + 2 + k].decode()] = raw[at + 6 + k:at + 6 + k + v].decode()
        at += 6 + k + v
    return head, body


class Conn:
    """One connection by hand. Answers are found by opaque, whatever their order (all frames are kept in .seen, in order)."""

    def __init__(self, addr, timeout=10):
        host, port = addr.rsplit(":", 1)
        self.sock, self.data, self.opaque, self.timeout = socket.create_connection((host, int(port)), timeout), b"", 100, timeout
        self.seen, self.closed = [], False

    def send(self, code, ext=None, body=b"", binary=False, **more):
        """Sends one request; its opaque."""
        self.opaque += 3
        self.sock.sendall((binary_frame if binary else frame)(code, ext, body, opaque=self.opaque, **more))
        return self.opaque

    def read(self, seconds):
        """The next frame, or None after the time or at the end of the connection (.closed)."""
        end = time.time() + seconds
        while len(self.data) < 4 or len(self.data) < 4 + struct.unpack(">i", self.data[:4])[0]:
            left = end - time.time()
            if left <= 0:
                return None
            self.sock.settimeout(left)
            try:
                got = self.sock.recv(1 << 20)
            except socket.timeout:
                return None
            except OSError:
                got = b""
            if not got:
                self.closed = True
                return None
            self.data += got
        n = 4 + struct.unpack(">i", self.data[:4])[0]
        head, body = parse_frame(self.data[4:n])
        self.data = self.data[n:]
        self.seen.append((head, body))
        return head, body

    def answer(self, opaque, seconds=None):
        """The answer to that request; ({}, b"") when there is none in time."""
        end = time.time() + (self.timeout if seconds is None else seconds)
        while True:
            for head, body in self.seen:
                if head["flag"] & 1 and head["opaque"] == opaque:
                    return head, body
            if time.time() > end or not self.read(max(0.001, end - time.time())):
                return {}, b""

    def ask(self, code, ext=None, body=b"", seconds=None, **more):
        return self.answer(self.send(code, ext, body, **more), seconds)

    def pushed(self, code, seconds=0.0):
        """What the server sent unasked under this code; waits until there is some."""
        end = time.time() + seconds
        while True:
            found = [(h, b) for h, b in self.seen if not h["flag"] & 1 and h["code"] == code]
            if found or time.time() >= end or not self.read(end - time.time()):
                return found

    def close(self):
        self.sock.close()


CACHE = os.environ.get("ZARYA_CACHE", os.path.join(os.environ.get("XDG_CACHE_HOME", os.path.expanduser("~/.cache")), "zarya-tests"))


def maven(name, artifacts):
    """Class path of released artifacts ("group:artifact:version"), from Maven's central registry; None with a skip line."""
    if not shutil.which("mvn") or not shutil.which("javac"):
        return None
    lib = os.path.join(CACHE, name)
    done_mark = os.path.join(lib, ".done-" + "-".join(sorted(a.replace(":", "_") for a in artifacts))[:180])
    if not os.path.exists(done_mark):
        os.makedirs(lib, exist_ok=True)
        deps = "".join("<dependency><groupId>%s</groupId><artifactId>%s</artifactId><version>%s</version></dependency>" % tuple(a.split(":")) for a in artifacts)
        pom = os.path.join(lib, "pom.xml")
        with open(pom, "w") as f:
            f.write('<project xmlns="http://maven.apache.org/POM/4.0.0"><modelVersion>4.0.0</modelVersion><groupId>org.zarya</groupId>'
                    '<artifactId>t</artifactId><version>1</version><packaging>pom</packaging><dependencies>' + deps + '</dependencies></project>')
        for attempt in range(3):
            r = subprocess.run(["mvn", "-q", "-B", "-f", pom, "dependency:copy-dependencies", "-DoutputDirectory=" + os.path.join(lib, "lib")],
                               stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
            if r.returncode == 0:
                open(done_mark, "w").close()
                break
        else:
            print(r.stdout[-2000:])
            return None
    jars = sorted(os.path.join(lib, "lib", j) for j in os.listdir(os.path.join(lib, "lib")) if j.endswith(".jar"))
    return ":".join(jars)


RMQ = "org.apache.rocketmq:rocketmq-%s:%s"
JAVA_OPENS = ["--add-exports=java.base/jdk.internal.ref=ALL-UNNAMED", "--add-opens=java.base/java.nio=ALL-UNNAMED",
              "--add-exports=java.base/sun.nio.ch=ALL-UNNAMED", "--add-opens=java.base/sun.nio.ch=ALL-UNNAMED"]


def java_client(version):
    return maven("client-" + version, [RMQ % (a, version) for a in (("client", "tools", "example") if version.startswith("5") else ("client",))])


def apache_server(version):
    return maven("server-" + version, [RMQ % (a, version) for a in ("namesrv", "broker")])


class Apache:
    """Apache's own name server and broker, for mixed clusters and differential tests."""

    def __init__(self, version="5.5.0", directory=None, broker=True, namesrv=True, namesrv_addr=None, name="broker-a", store=None, ports=None, conf="",
                 heap="512m", jvm=("-XX:TieredStopAtLevel=1",)):
        """heap: the broker's. jvm: more options of both; without that one it is faster, some half a minute after its start."""
        self.cp, self.heap, self.jvm = apache_server(version), heap, list(jvm)
        self.dir = directory or temp_dir()
        self.port, self.ns_port = ports or (free_port(), free_port())
        self.addr, self.ns = f"127.0.0.1:{self.port}", namesrv_addr or f"127.0.0.1:{self.ns_port}"
        self.name, self.store, self.conf = name, store or os.path.join(self.dir, "store"), conf
        self.registers = self.addr  # a part of the address that the name server will know
        self.with_broker, self.with_namesrv = broker, namesrv
        self.procs = []

    def _java(self, main, heap, conf, log):
        home = os.path.join(self.dir, "home")
        os.makedirs(os.path.join(home, "conf"), exist_ok=True)
        for f in ("namesrv", "broker", "tools"):
            with open(os.path.join(home, "conf", f"logback_{f}.xml"), "w") as x:
                x.write('<configuration><root level="WARN"/></configuration>')
        return start(["java", f"-Xms{heap}", f"-Xmx{heap}", "-XX:+UseSerialGC", "-XX:MaxDirectMemorySize=2g", "-Duser.home=" + home] + JAVA_OPENS + self.jvm +
                     ["-cp", self.cp, main, "-c", conf], os.path.join(self.dir, log), {"ROCKETMQ_HOME": home}, self.dir)

    def start(self, seconds=90):
        if self.with_namesrv:
            conf = os.path.join(self.dir, "ns.conf")
            with open(conf, "w") as f:
                f.write(f"listenPort={self.ns_port}\n")
            self.procs.append(self._java("org.apache.rocketmq.namesrv.NamesrvStartup", "128m", conf, "ns.out"))
            if not wait_for(lambda: listening(self.ns_port), seconds):
                raise SystemExit("not ok - Apache's name server does not start: " + text_of(os.path.join(self.dir, "ns.out"))[-800:])
        if self.with_broker:
            conf = os.path.join(self.dir, "broker.conf")
            with open(conf, "w") as f:
                f.write(f"brokerClusterName=DefaultCluster\nbrokerName={self.name}\nbrokerId=0\nlistenPort={self.port}\nnamesrvAddr={self.ns}\n"
                        f"brokerIP1=127.0.0.1\nstorePathRootDir={self.store}\nstorePathCommitLog={self.store}/commitlog\n"
                        f"autoCreateTopicEnable=true\nmappedFileSizeCommitLog=67108864\nenablePropertyFilter=true\n{self.conf}\n")
            self.procs.append(self._java("org.apache.rocketmq.broker.BrokerStartup", self.heap, conf, "broker.out"))
            p = self.procs[-1]
            if not wait_for(lambda: p.poll() is not None or listening(self.port), seconds) or p.poll() is not None:
                raise SystemExit("not ok - Apache's broker does not start: " + text_of(os.path.join(self.dir, "broker.out"))[-1500:])
            wait_for(lambda: self.registers in remoting(self.ns, 106)[1].decode(errors="replace"), 40)
        return self

    def stop(self, sig=signal.SIGTERM):
        for p in reversed(self.procs):
            if p.poll() is None:  # the name server takes 3 s for a clean stop, and keeps nothing
                os.kill(p.pid, signal.SIGKILL if self.with_namesrv and p is self.procs[0] else sig)
                try:
                    p.wait(60)
                except subprocess.TimeoutExpired:
                    os.killpg(p.pid, signal.SIGKILL)
                    p.wait()
        self.procs = []


def tool(name):
    return os.path.join(BUILD, "bin", name)


def zaryactl(*args, timeout=30):
    return subprocess.run([tool("zaryactl"), *args], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=timeout)


# ---- speaking the protocol by hand: for tests that must know exactly what was acknowledged and what is there ----

def create_topic(addr, topic, queues=4):
    head, _ = remoting(addr, 17, {"topic": topic, "defaultTopic": "TBW102", "readQueueNums": queues, "writeQueueNums": queues, "perm": 6,
                                  "topicFilterType": "SINGLE_TAG", "topicSysFlag": 0, "order": "false"})
    return head.get("code") == 0


def send_frame(topic, queue, body, opaque, keys="", tag=""):
    props = f"UNIQ_KEY\x01{opaque:032X}\x02WAIT\x01true\x02" + (f"KEYS\x01{keys}\x02" if keys else "") + (f"TAGS\x01{tag}\x02" if tag else "")
    return frame(310, {"a": "PG", "b": topic, "c": "TBW102", "d": 4, "e": queue, "f": 0, "g": int(time.time() * 1000), "h": 0, "i": props, "j": 0,
                       "k": "false", "m": "false"}, body, opaque=opaque)


class Sender(threading.Thread):
    """Sends numbered messages on one connection, some in flight, until told to stop or the broker is gone; remembers which
    were acknowledged, with queue and offset."""

    def __init__(self, addr, topic, name, queues=4, window=32, size=300, limit=None):
        super().__init__(daemon=True)
        self.addr, self.topic, self.name_, self.queues, self.window, self.size, self.limit = addr, topic, name, queues, window, size, limit
        self.acked, self.refused, self.sent, self.stop_now = {}, [], 0, False

    def run(self):
        host, port = self.addr.rsplit(":", 1)
        try:
            with socket.create_connection((host, int(port)), 5) as s:
                s.settimeout(10)
                pending, n = {}, 0
                while (not self.stop_now and (self.limit is None or n < self.limit)) or pending:
                    while len(pending) < self.window and not self.stop_now and (self.limit is None or n < self.limit):
                        text = f"{self.name_}:{n}:"
                        body = (text + "x" * (self.size - len(text))).encode()
                        pending[n] = (n % self.queues, text)
                        s.sendall(send_frame(self.topic, n % self.queues, body, n))
                        n += 1
                        self.sent = n
                    head, _ = read_frame(s)
                    queue, text = pending.pop(head["opaque"])
                    if head["code"] == 0:
                        self.acked[text] = (queue, int(head["extFields"]["queueOffset"]))
                    else:
                        self.refused.append((head["code"], head.get("remark")))
        except (OSError, ConnectionError, KeyError):
            pass


def records(body):
    """Message records back to back, as dictionaries."""
    at, out = 0, []
    while at + 4 <= len(body):
        size, magic = struct.unpack_from(">iI", body, at)
        r = body[at:at + size]
        queue, flag = struct.unpack_from(">ii", r, 12)
        qoff, phys = struct.unpack_from(">qq", r, 20)
        sysflag, = struct.unpack_from(">i", r, 36)
        p = 48 + (20 if sysflag & 0x10 else 8)
        store, = struct.unpack_from(">q", r, p)
        p += 8 + (20 if sysflag & 0x20 else 8) + 12
        reconsume, = struct.unpack_from(">i", r, p - 12)
        blen, = struct.unpack_from(">i", r, p)
        b = r[p + 4:p + 4 + blen]
        p += 4 + blen
        tlen = r[p] if magic == 0xDAA320A7 else struct.unpack_from(">h", r, p)[0]
        p += 1 if magic == 0xDAA320A7 else 2
        topic = r[p:p + tlen].decode()
        p += tlen
        plen, = struct.unpack_from(">h", r, p)
        props = dict(x.split("\x01", 1) for x in r[p + 2:p + 2 + plen].decode(errors="replace").split("\x02") if "\x01" in x)
        out.append({"queue": queue, "offset": qoff, "physical": phys, "store": store, "body": b, "topic": topic, "props": props, "size": size,
                    "reconsume": reconsume, "sysflag": sysflag})
        at += size
    return out


def pull_queue(addr, topic, queue, group="CG_pull"):
    """Every message of a queue from its minimum on, without long polling."""
    host, port = addr.rsplit(":", 1)
    out, offset, sysflag = [], 0, 4  # the request carries its subscription
    with socket.create_connection((host, int(port)), 5) as s:
        s.settimeout(20)
        for _ in range(1000000):
            s.sendall(frame(11, {"consumerGroup": group, "topic": topic, "queueId": queue, "queueOffset": offset, "maxMsgNums": 32, "sysFlag": sysflag,
                                 "commitOffset": 0, "suspendTimeoutMillis": 0, "subscription": "*", "subVersion": 1, "expressionType": "TAG"}))
            head, body = read_frame(s)
            code, ext = head["code"], head.get("extFields", {})
            if code == 0:
                out += records(body)
                offset = int(ext["nextBeginOffset"])
            elif code in (20, 21) and int(ext["nextBeginOffset"]) != offset:
                offset = int(ext["nextBeginOffset"])
            else:
                return out
    return out


def pull_all(addr, topic, queues=4):
    return {q: pull_queue(addr, topic, q) for q in range(queues)}


def check_kept(found, senders, what):
    """Every acknowledged message is there once, at its queue and offset, and queues have no gaps."""
    seen, bad = {}, []
    for q, list_ in found.items():
        for i, m in enumerate(list_):
            if i and m["offset"] != list_[i - 1]["offset"] + 1:
                bad.append(f"gap in queue {q} at {m['offset']}")
            text = ":".join(m["body"].decode(errors="replace").split(":")[:2]) + ":"
            if text in seen:
                bad.append(f"{text} twice")
            seen[text] = (q, m["offset"])
    acked = {}
    for s in senders:
        acked.update(s.acked)
    lost = [t for t in acked if t not in seen]
    moved = [t for t in acked if t in seen and seen[t] != acked[t]]
    check(acked and not lost and not moved and not bad, f"{what}: {len(acked)} acknowledged messages are there, once, in order",
          f"lost {lost[:5]} ({len(lost)}), moved {moved[:5]}, {bad[:5]}")
