#!/usr/bin/env python3
"""The four ways of saying where the name servers are: in the configuration, on the command line, NAMESRV_ADDR, and an HTTP address
server that is asked again and again; for the broker, zaryactl, zarya-bench and the C client."""
import os, sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
from zarya import *
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

CLEAN = {k: "" for k in ("NAMESRV_ADDR", "ROCKETMQ_NAMESRV_DOMAIN", "ROCKETMQ_NAMESRV_SUBGROUP", "ROCKETMQ_NAMESRV_INTERVAL")}


class AddressServer:
    """Says self.text (status self.status) at self.path, and counts who asked."""

    def __init__(self, text, path="/rocketmq/nsaddr"):
        outer = self
        self.text, self.status, self.path, self.asked, self.keep, self.wrong = text, 200, path, 0, False, []

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                right = self.path == outer.path
                outer.asked += right
                outer.wrong += [] if right else [self.path]
                body = outer.text.encode()
                self.send_response(outer.status if right else 404)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)
                if outer.keep:
                    self.close_connection = False

            def log_message(self, *args):
                pass

        Handler.protocol_version = "HTTP/1.1"
        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        self.addr = "127.0.0.1:%d" % self.http.server_address[1]
        threading.Thread(target=self.http.serve_forever, daemon=True).start()


def known(ns):
    return remoting(ns, 106)[1].decode(errors="replace")


class Face:
    """`zarya broker` as users start it; its broker.conf has the lines given."""

    def __init__(self, what, lines="", args=(), env=None):
        self.what, self.dir, self.port = what, temp_dir(), free_port()
        self.addr = f"127.0.0.1:{self.port}"
        with open(self.dir + "/broker.conf", "w") as f:
            f.write(f"brokerClusterName=DefaultCluster\nbrokerName=broker-a\nbrokerIP1=127.0.0.1\nlistenPort={self.port}\nstorePathRootDir={self.dir}/store\n"
                    f"mappedFileSizeCommitLog=16777216\n{lines}\n")
        self.log = self.dir + "/log"
        self.proc = start([tool("zarya"), "broker", "-c", self.dir + "/broker.conf", *args], self.log, {**CLEAN, "HOME": self.dir, **(env or {})}, self.dir)

    def registers(self, *names):
        ok = wait_for(lambda: self.proc.poll() is not None or all(self.addr in known(ns) for ns in names), 15)
        check(ok and self.proc.poll() is None, f"the broker finds its name server: {self.what}", text_of(self.log)[-1200:])
        return self

    def end(self):
        if self.proc.poll() is None:
            os.kill(self.proc.pid, signal.SIGTERM)
            check(self.proc.wait(20) == 0, f"and ends cleanly ({self.what})", text_of(self.log)[-800:])


def brokers(a, b, http):
    wrong = "127.0.0.1:9"
    for face in (("namesrvAddr in broker.conf", f"namesrvAddr={a.ns}"),
                 ("-n", "", ("-n", a.ns)),
                 ("-n wins over file and environment", f"namesrvAddr={wrong}", ("-n", a.ns), {"NAMESRV_ADDR": wrong}),
                 ("-Drocketmq.namesrv.addr=", "", (f"-Drocketmq.namesrv.addr={a.ns}",)),
                 ("NAMESRV_ADDR", "", (), {"NAMESRV_ADDR": a.ns}),
                 ("-Drocketmq.namesrv.domain=", "", (f"-Drocketmq.namesrv.domain={http.addr}",)),
                 ("-Drocketmq.namesrv.domain.subgroup=", "", (f"-Drocketmq.namesrv.domain={AddressServer(a.ns, '/rocketmq/mine').addr}", "-Drocketmq.namesrv.domain.subgroup=mine")),
                 ("ROCKETMQ_NAMESRV_DOMAIN", "", (), {"ROCKETMQ_NAMESRV_DOMAIN": http.addr}),
                 ("NAMESRV_ADDR wins over the address server of the environment", "", (f"-Drocketmq.namesrv.domain={wrong}",), {"NAMESRV_ADDR": a.ns}),
                 ("the file's address server wins over the environment's", f"rmqAddressServerDomain={http.addr}", (f"-Drocketmq.namesrv.domain={wrong}",)),
                 ("the file wins over NAMESRV_ADDR", f"namesrvAddr={a.ns}", (), {"NAMESRV_ADDR": wrong})):
        Face(*face).registers(a.ns).end()
    Face("two in a list", "", ("-n", f"{a.ns};{b.ns}")).registers(a.ns, b.ns).end()

    face = Face("HTTP address server", f"rmqAddressServerDomain={http.addr}\nfetchNamesrvAddrByAddressServer=true\nfetchNamesrvAddrInterval=300").registers(a.ns)
    asked = http.asked
    check(wait_for(lambda: http.asked >= asked + 3, 5), "the address server is asked again and again", http.asked - asked)
    http.text = b.ns + "\n"
    check(wait_for(lambda: face.addr in known(b.ns), 10), "a changed address is followed", text_of(face.log)[-800:])
    check(wait_for(lambda: face.addr not in known(a.ns), 5), "and the name server that is no longer named forgets the broker")
    http.status = 500
    asked = http.asked
    wait_for(lambda: http.asked >= asked + 2, 5)
    check(face.addr in known(b.ns), "an address server that fails changes nothing")
    http.status, http.text = 200, "\n"
    asked = http.asked
    wait_for(lambda: http.asked >= asked + 2, 5)
    check(face.addr in known(b.ns), "an empty answer changes nothing")
    http.text = f"  {a.ns};{b.ns} \n"
    check(wait_for(lambda: face.addr in known(a.ns) and face.addr in known(b.ns), 10), "and a list of two is taken")
    face.end()
    http.text = a.ns

    z = Zarya(namesrv=False, namesrv_addr=a.ns).start()
    check(wait_for(lambda: z.addr in known(a.ns), 10), "the broker finds its name server: namesrv in zarya.conf")
    z.stop()
    z = Zarya(namesrv=False, namesrv_addr=a.ns)
    with open(z.conf) as f:
        text = f.read()
    with open(z.conf, "w") as f:
        f.write(text.replace(f'namesrv = "{a.ns}";', f'fetch_address = true; namesrv_domain = "{http.addr}"; fetch_interval = "300 ms";'))
    z.start()
    check(wait_for(lambda: z.addr in known(a.ns), 10), "the broker finds its name server: address server in zarya.conf", text_of(z.log)[-800:])
    z.stop()


def environment(a, http):
    """zarya -c FILE whose routing-remote names none."""
    for what, settings, env, found in (("NAMESRV_ADDR", "", {"NAMESRV_ADDR": a.ns}, True), ("ROCKETMQ_NAMESRV_DOMAIN", "", {"ROCKETMQ_NAMESRV_DOMAIN": http.addr}, True),
                                       ("NAMESRV_ADDR, and an address server", "", {"NAMESRV_ADDR": a.ns, "ROCKETMQ_NAMESRV_DOMAIN": "127.0.0.1:9"}, True),
                                       ("the file's own against the environment", f'namesrv = "{a.ns}";', {"NAMESRV_ADDR": "127.0.0.1:9"}, True),
                                       ("a file that says none", "namesrv = [];", {"NAMESRV_ADDR": a.ns}, False)):
        z = Zarya(namesrv=False, namesrv_addr="x:1")
        with open(z.conf) as f:
            text = f.read()
        with open(z.conf, "w") as f:
            f.write(text.replace('namesrv = "x:1";', settings))
        old = {k: os.environ.get(k) for k in CLEAN}
        os.environ.update({**CLEAN, **env})
        z.start()
        for k, v in old.items():
            os.environ.pop(k) if v is None else os.environ.update({k: v})
        if found:
            check(wait_for(lambda: z.addr in known(a.ns), 10), f"zarya -c FILE finds its name server: {what}", text_of(z.log)[-800:])
        else:
            check(wait_for(lambda: "no name server is configured" in text_of(z.log), 10), f"zarya -c FILE: {what}", text_of(z.log)[-800:])
        z.stop()


def late_address_server(a):
    """The address server comes up after the broker."""
    http = AddressServer(a.ns, "/rocketmq/mygroup-unit1?nofix=1")
    http.status = 503
    z = Zarya(namesrv=False, namesrv_addr=a.ns)
    with open(z.conf) as f:
        text = f.read()
    with open(z.conf, "w") as f:
        f.write(text.replace(f'namesrv = "{a.ns}";', f'namesrv_domain = "{http.addr}"; namesrv_subgroup = "mygroup"; namesrv_unit = "unit1"; fetch_interval = "300 ms";'))
    z.start()
    check(wait_for(lambda: http.asked >= 2, 5) and z.addr not in known(a.ns) and z.proc.poll() is None, "a broker starts without an answer of the address server, and says so", text_of(z.log)[-500:])
    check("address server" in text_of(z.log), "it is in the log")
    http.status = 200
    check(wait_for(lambda: z.addr in known(a.ns), 10), "and registers when there is one (subgroup and unit are in the path)", (http.wrong, text_of(z.log)[-500:]))
    z.stop()


def tools(z, http):
    """z: a name server and broker in one."""
    wrong = "127.0.0.1:9"
    dead = AddressServer("")
    ctl = lambda *args, **env: subprocess.run([tool("zaryactl"), "cluster", "list", *args], env={**os.environ, **CLEAN, **env}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=30)
    if os.path.exists(tool("zaryactl")):
        for what, args, env in (("-n", ("-n", z.ns), {}), ("-n wins over NAMESRV_ADDR", ("-n", z.ns), {"NAMESRV_ADDR": wrong}), ("NAMESRV_ADDR", (), {"NAMESRV_ADDR": z.ns}),
                                ("a list whose first is down", ("-n", f"{wrong};{z.ns}"), {}), ("HTTP address server", (), {"ROCKETMQ_NAMESRV_DOMAIN": http.addr}),
                                ("NAMESRV_ADDR wins over the address server", (), {"NAMESRV_ADDR": z.ns, "ROCKETMQ_NAMESRV_DOMAIN": dead.addr})):
            r = ctl(*args, **env)
            check(r.returncode == 0 and z.addr in r.stdout, f"zaryactl finds the name server: {what}", r.stdout)
        check(dead.asked == 0, "the address server is not asked when an address is given", dead.asked)
        r = ctl(ROCKETMQ_NAMESRV_DOMAIN=dead.addr)
        check(r.returncode == 1 and dead.addr in r.stdout and "NAMESRV_ADDR" in r.stdout, "without an address zaryactl says where it looked", r.stdout)
        r = ctl("-n", wrong)
        check(r.returncode == 1 and wrong in r.stdout, "a name server that is down is named", r.stdout)
    else:
        skip("zaryactl", "it is not built")
    r = subprocess.run([tool("zarya-bench"), "send", "--namesrv", z.ns, "--topic", "DiscB", "--count", "100", "--warmup", "0", "--json"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=30)
    check(r.returncode == 0, "zarya-bench finds brokers by --namesrv", r.stdout)

    quick = lambda *args, **env: subprocess.run([tool("zarya-quickstart"), *args], env={**os.environ, "NAMESRV_ADDR": "", **env}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=30)
    for what, args, env in (("-n", ("-n", z.ns), {}), ("NAMESRV_ADDR", (), {"NAMESRV_ADDR": z.ns}), ("HTTP address server", (), {"ROCKETMQ_NAMESRV_DOMAIN": http.addr}),
                            ("HTTP address server, subgroup", (), {"ROCKETMQ_NAMESRV_DOMAIN": AddressServer(z.ns, "/rocketmq/other").addr, "ROCKETMQ_NAMESRV_SUBGROUP": "other"})):
        r = quick("producer", "-c", "3", *args, **env)
        check(r.returncode == 0 and r.stdout.count("SEND_OK") == 3, f"the C client finds the name server: {what}", r.stdout[-600:])
    keep = AddressServer(z.ns)
    keep.keep = True
    began = time.time()
    r = quick("producer", "-c", "1", ROCKETMQ_NAMESRV_DOMAIN=keep.addr)
    check(r.returncode == 0 and time.time() - began < 3, "an address server that keeps the connection open does not hold the client up", (time.time() - began, r.stdout[-600:]))


def client_follows(first, second):
    """A C client that runs on while the address server's answer changes: from one cluster to another."""
    http = AddressServer(first.ns)
    d = temp_dir()
    p = start([tool("zarya-quickstart"), "consumer", "-t", "FollowT", "-g", "FollowG"], d + "/out", {"NAMESRV_ADDR": "", "ROCKETMQ_NAMESRV_DOMAIN": http.addr, "ROCKETMQ_NAMESRV_INTERVAL": "300"})
    send = lambda z, text: remoting(z.addr, 310, {"a": "PG", "b": "FollowT", "c": "TBW102", "d": 1, "e": 0, "f": 0, "g": 1, "h": 0, "i": "TAGS\x01TagA\x02", "j": 0}, text)
    for z in (first, second):
        create_topic(z.addr, "FollowT", 1)
    send(first, b"from the first")
    check(wait_for(lambda: "from the first" in text_of(d + "/out"), 40), "a consumer of the C client works by the address server", text_of(d + "/out")[-500:])
    asked = http.asked
    http.text = second.ns
    check(wait_for(lambda: http.asked >= asked + 2, 5), "it asks again and again")
    send(second, b"from the second")
    check(wait_for(lambda: "from the second" in text_of(d + "/out"), 60), "and goes where it points", text_of(d + "/out")[-500:])
    os.kill(p.pid, signal.SIGTERM)
    check(p.wait(20) == 0, "it ends cleanly", p.returncode)


def main():
    a, b = Zarya(broker=False).start(), Zarya(broker=False).start()
    http = AddressServer(a.ns)
    brokers(a, b, http)
    environment(a, AddressServer(a.ns))
    late_address_server(a)
    a.stop(), b.stop()
    one, two = Zarya().start(), Zarya(name="broker-b").start()
    one.wait_registered(), two.wait_registered()
    tools(one, AddressServer(one.ns))
    client_follows(one, two)
    one.stop(), two.stop()
    done()


main()
