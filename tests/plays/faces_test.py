#!/usr/bin/env python3
"""The faces that RocketMQ's users know: `zarya`, `zarya broker`, `zarya namesrv` with Apache's files and options, and the scripts
mqnamesrv, mqbroker, mqadmin, tools.sh and mqshutdown of an installation, on the usual ports.

What needs ports runs in a network and process namespace of its own where the system allows it: then 9876 and 10911 are free,
and mqshutdown, which ends every broker of the user, ends only ours."""
import fcntl, os, sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
from zarya import *

ZARYA = tool("zarya")
QUIET = {k: "" for k in ("NAMESRV_ADDR", "ZARYA_HOME", "ROCKETMQ_NAMESRV_DOMAIN", "ROCKETMQ_LOG_DIR", "ZARYA_BIN")}
BROKER_CONF = """# as in the distribution
brokerClusterName = TestCluster
brokerName = broker-x
brokerId = 0
deleteWhen = 04
fileReservedTime = 36
brokerRole = ASYNC_MASTER
flushDiskType = SYNC_FLUSH
brokerIP1 = 127.0.0.1
sendMessageThreadPoolNums = 16
pullMessageThreadPoolNums = 20
useEpollNativeSelector = true
autoCreateTopicEnabel = true
"""


def run(*args, env=None, cwd=None, timeout=60):
    return subprocess.run(args, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", timeout=timeout, cwd=cwd, env={**os.environ, **QUIET, **(env or {})})


def split(*args, env=None):
    r = subprocess.run(args, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=60, env={**os.environ, **QUIET, **(env or {})})
    return r.returncode, r.stdout, r.stderr


def write(path, text):
    with open(path, "w") as f:
        f.write(text)
    return path


def lines_of(text):
    return dict(l.split("=", 1) for l in text.splitlines() if "=" in l)


# ---- what prints and ends ----

def prints():
    home = temp_dir()
    env = {"HOME": home}
    conf = write(home + "/broker.conf", BROKER_CONF + f"listenPort = 23911\nstorePathRootDir = {home}/data\n")
    status, out, err = split(ZARYA, "broker", "-n", "127.0.0.1:23876", "-c", conf, "--check", env=env)
    check(status == 0 and "is good" in out, "zarya broker --check: a good broker.conf", out + err)
    effectless = [l for l in err.splitlines() if "no effect" in l]
    check(len(effectless) == 1 and all(k in effectless[0] for k in ("sendMessageThreadPoolNums", "pullMessageThreadPoolNums", "useEpollNativeSelector")) and "fileReservedTime" not in effectless[0],
          "keys without effect are listed once, the others not", err)
    check(f"{conf}:13: autoCreateTopicEnabel" in err and 'did you mean "autoCreateTopicEnable"' in err, "a mistyped key is named with its line and the right one", err)
    status, out, err = split(ZARYA, "broker", "-n", "127.0.0.1:23876", "-c", conf, "-p", env=env)
    all_keys = lines_of(out)
    check(status == 0 and all_keys.get("listenPort") == "23911" and all_keys.get("brokerName") == "broker-x" and all_keys.get("flushDiskType") == "SYNC_FLUSH" and
          all_keys.get("fileReservedTime") == "36" and all_keys.get("namesrvAddr") == "127.0.0.1:23876" and all_keys.get("storePathRootDir") == home + "/data",
          "zarya broker -p prints key=value", out)
    status, out, err = split(ZARYA, "broker", "-n", "127.0.0.1:23876", "-c", conf, "-m", env=env)
    some = lines_of(out)
    check(status == 0 and 5 < len(some) < len(all_keys) and all(all_keys.get(k) == v for k, v in some.items()) and "brokerName" in some, "zarya broker -m prints the important ones", out)
    for form in (["--configFile", conf], [f"--configFile={conf}"], [f"-c{conf}"], [f"-c={conf}"]):
        check(lines_of(split(ZARYA, "broker", *form, "-p", env=env)[1]).get("listenPort") == "23911", f"the file by {form[0].replace(home, '')}")
    status, out, err = split(ZARYA, "broker", "-c", conf, "--print-config", env=env)
    check(status == 0 and 'flush = "sync"' in out and 'name = "broker-x"' in out and "*:23911" in out and "*:23909" in out, "zarya broker --print-config shows what it becomes", out)
    again = write(home + "/again.conf", out)
    check(split(ZARYA, "-c", again, "--print-config", env=env)[1] == out, "and zarya -c reads that as the same", split(ZARYA, "-c", again, "--print-config", env=env)[2])
    check(not os.path.exists(home + "/data") and set(os.listdir(home)) == {"broker.conf", "again.conf"}, "none of them touches anything", os.listdir(home))

    nsconf = write(home + "/namesrv.conf", "listenPort = 23876\norderMessageEnable = true\nserverWorkerThreads = 8\n")
    status, out, err = split(ZARYA, "namesrv", "-c", nsconf, "-p", env=env)
    check(status == 0 and lines_of(out).get("listenPort") == "23876" and lines_of(out).get("orderMessageEnable") == "true", "zarya namesrv -p", out + err)
    check("serverWorkerThreads" in err, "and its keys without effect", err)
    check(split(ZARYA, "namesrv", "-c", nsconf, "--check", env=env)[0] == 0, "zarya namesrv --check")

    status, out, _ = split(ZARYA, "--list-plugins", env=env)
    check(status == 0 and all(p in out for p in ("transport-tcp", "storage-commitlog", "routing-namesrv", "routing-remote", "filter-tag", "feature-admin")), "zarya --list-plugins", out)
    status, out, _ = split(ZARYA, "--schema", env=env)
    try:
        d = json.loads(out)
        options = {o["name"]: o for o in d["plugins"]["storage-commitlog"]["options"]}
        good = d["node"] and d["broker"] and options["flush"]["choices"] and all(o.get("doc") for p in d["plugins"].values() for o in p["options"])
    except (ValueError, KeyError, TypeError) as e:
        good, options = False, e
    check(status == 0 and good, "zarya --schema is JSON, every option with its sentence", options)
    status, out, _ = split(ZARYA, "--print-config", env={**env, "ZARYA_HOME": home + "/z"})
    check(status == 0 and "127.0.0.1:9876" in out and "127.0.0.1:10911" in out and "0.0.0.0" not in out and home + "/z" in out, "bare zarya --print-config: loopback only, data in ZARYA_HOME", out)
    status, out, _ = split(ZARYA, "--print-config", env=env)
    check(home + "/.local/share/zarya" in out, "else in ~/.local/share/zarya", out[:300])
    check(split(ZARYA, "--version")[1].startswith("zarya "), "zarya --version")
    for args, word in ((("broker", "--help"), "-n"), (("namesrv", "-h"), "-c"), (("-h",), "--schema")):
        status, out, _ = split(ZARYA, *args)
        check(status == 0 and out.startswith("usage: zarya") and word in out, f"zarya {' '.join(args)}", out)
    for args in (("namesrv", "-n", "x"), ("brokr",), ("--chekc",), ("broker", "-c")):
        status, out, err = split(ZARYA, *args)
        check(status == 2 and "usage:" in err, f"zarya {' '.join(args)}: usage, status 2", err)
    status, out, err = split(ZARYA, "broker", "-c", home + "/none.conf", "--check", env=env)
    check(status == 1 and "none.conf" in err and "No such file" in err, "a file that is not there", err)
    bad = write(home + "/bad.conf", "aclEnable = true\n")
    status, out, err = split(ZARYA, "broker", "-c", bad, "--check", env=env)
    check(status == 1 and "aclEnable" in err and "bad.conf:1" in err, "a key whose loss would open the broker is refused, not ignored", err)


# ---- processes ----

class Proc:
    """A program in the background, its output in a file."""

    def __init__(self, *cmd, env=None, cwd=None):
        self.log = os.path.join(temp_dir(), "out")
        self.proc = start(list(cmd), self.log, {**QUIET, **(env or {})}, cwd)

    def says(self, pattern, seconds=15):
        return wait_for(lambda: re.search(pattern, text_of(self.log), re.M) or (self.proc.poll() is not None and None), seconds)

    def end(self, what):
        if self.proc.poll() is None:
            os.kill(self.proc.pid, signal.SIGTERM)
        try:
            status = self.proc.wait(20)
        except subprocess.TimeoutExpired:
            status = "none after 20 s"
        check(status == 0, f"{what} ends with 0", (status, text_of(self.log)[-500:]))


def listens_on(port):
    """Addresses (hex as /proc has them) that are listened on at this port."""
    out = set()
    for f in ("/proc/net/tcp", "/proc/net/tcp6"):
        for l in text_of(f).splitlines()[1:]:
            part = l.split()
            if part[3] == "0A" and int(part[1].rsplit(":", 1)[1], 16) == port:
                out.add(part[1].rsplit(":", 1)[0])
    return out


def quickstart(env, what):
    r = run(tool("zarya-quickstart"), "producer", env=env)
    check(r.returncode == 0 and r.stdout.count("sendStatus=SEND_OK") == 1000, f"{what}: the quickstart producer sends 1,000", r.stdout[-500:])
    r = run(tool("zarya-quickstart"), "consumer", "-c", "1000", env=env)
    check(r.returncode == 0 and r.stdout.count("Receive New Messages") >= 1000, f"{what}: the quickstart consumer gets 1,000", r.stdout[-500:])


def bare():
    home = temp_dir()
    env = {"HOME": home, "ZARYA_HOME": home + "/z"}
    p = Proc(ZARYA, env=env)
    up = p.says(r"^The Name Server boot success\. serializeType=JSON, address 127\.0\.0\.1:9876$") and p.says(r"^The broker\[[^,]+, 127\.0\.0\.1:10911\] boot success\. serializeType=JSON and name server is 127\.0\.0\.1:9876$")
    if not check(up, "bare zarya starts name server and broker and says so", text_of(p.log)[-1500:]):
        return
    check(p.says("it listens on 127.0.0.1 only"), "and how to open it", text_of(p.log)[-800:])
    check(all(listens_on(port) == {"0100007F"} for port in (9876, 10911, 10909)), "it listens on loopback only", [listens_on(x) for x in (9876, 10911, 10909)])
    quickstart({"HOME": home}, "bare zarya")
    check(os.path.isdir(home + "/z/commitlog") and os.path.isfile(home + "/z/config/topics.json"), "its data is in ZARYA_HOME", os.listdir(home + "/z"))
    r = run(ZARYA, env=env)
    check(r.returncode == 1 and home + "/z" in r.stdout and "in use" in r.stdout, "a second one on the same data is refused", r.stdout)
    r = run(ZARYA, env={"HOME": home, "ZARYA_HOME": home + "/other"})
    check(r.returncode == 1 and "9876" in r.stdout, "a second one on the same ports is refused, the address named", r.stdout)
    check(p.proc.poll() is None, "the first does not mind")
    p.end("bare zarya")


def apache_faces():
    home = temp_dir()
    env = {"HOME": home}
    port, nsport = free_port(), free_port()
    ns = Proc(ZARYA, "namesrv", "-c", write(home + "/namesrv.conf", f"listenPort={nsport}\n"), env=env)
    check(ns.says(rf"^The Name Server boot success\. serializeType=JSON, address 0\.0\.0\.0:{nsport}$"), "zarya namesrv -c says that it is there", text_of(ns.log))
    conf = write(home + "/broker.conf", BROKER_CONF + f"listenPort = {port}\n")
    b = Proc(ZARYA, "broker", "-n", f"localhost:{nsport}", "-c", conf, env=env)
    check(b.says(rf"^The broker\[broker-x, 127\.0\.0\.1:{port}\] boot success\. serializeType=JSON and name server is localhost:{nsport}$"), "zarya broker -n -c says that it is there, with name server", text_of(b.log))
    check(b.says("clients are told the address 127.0.0.1"), "it says what address clients are told", text_of(b.log))
    check(b.says("warn.*cannot reach 127.0.0.1.*brokerIP1"), "and warns when others cannot reach that", text_of(b.log))
    check(b.says("warn.*no authentication"), "and that anybody may come", text_of(b.log))
    everywhere = "0" * 32 if os.path.exists("/proc/net/tcp6") else "0" * 8  # an IPv6 socket serves IPv4 as well
    check(everywhere in listens_on(port) and everywhere in listens_on(port - 2), "it listens on all addresses, the fast port too", listens_on(port))
    if os.path.exists("/proc/net/if_inet6") and "00000000000000000000000000000001" in text_of("/proc/net/if_inet6"):
        with socket.create_connection(("::1", port), 5) as six, socket.create_connection(("127.0.0.1", port), 5) as four:
            check(six and four, "of both kinds")
    check(b.says("sendMessageThreadPoolNums"), "keys without effect are in the log", text_of(b.log))
    known = wait_for(lambda: f'"TestCluster":["broker-x"]' in remoting(f"127.0.0.1:{nsport}", 106)[1].decode() and f"127.0.0.1:{port}" in remoting(f"127.0.0.1:{nsport}", 106)[1].decode(), 10)
    check(known, "the name server knows it by cluster, name and brokerIP1", remoting(f"127.0.0.1:{nsport}", 106))
    quickstart({"HOME": home, "NAMESRV_ADDR": f"localhost:{nsport}"}, "the faces")
    layout = {"commitlog", "consumequeue", "config", "checkpoint"}
    check(layout <= set(os.listdir(home + "/store")), "the store is in ~/store, laid out as Apache's", os.listdir(home + "/store"))
    check(os.listdir(home + "/store/commitlog") and set(os.listdir(home + "/store/consumequeue/TopicTest")) >= {"0"}, "with its files", os.listdir(home + "/store/commitlog"))
    _, body = remoting(f"127.0.0.1:{port}", 26)
    told = lines_of(body.decode())
    check(told.get("fileReservedTime") == "36" and told.get("brokerName") == "broker-x" and told.get("sendMessageThreadPoolNums") == "16", "code 26 tells the keys as the file has them", body[:400])
    b.end("zarya broker")
    check(f"127.0.0.1:{port}" not in remoting(f"127.0.0.1:{nsport}", 106)[1].decode(), "and took itself off the name server")
    ns.end("zarya namesrv")

    b = Proc(ZARYA, "broker", "-c", conf, env=env)
    check(b.says(r"^The broker\[broker-x, .*\] boot success\. serializeType=JSON$"), "a broker without name server starts, and says none", text_of(b.log))
    b.end("a broker without name server")
    named = Proc(ZARYA, "broker", "-c", write(home + "/b2.conf", f"listenPort={port}\nstorePathRootDir={home}/two\n"), env=env)
    m = named.says(r"clients are told the address (\S+)")
    check(m and re.fullmatch(r"\d+\.\d+\.\d+\.\d+|[0-9a-f:]+", m.group(1)) and named.says(rf"^The broker\[{re.escape(socket.gethostname())}, {re.escape(m.group(1))}:{port}\] boot success"),
          "without brokerName and brokerIP1: the host's name, and an address of the machine", text_of(named.log))
    named.end("that broker")


# ---- an installation's scripts ----

def scripts(others):
    prefix, home = temp_dir(), temp_dir()
    r = run("cmake", "--install", BUILD, "--prefix", prefix)
    if not check(r.returncode == 0, "cmake --install", r.stdout[-800:]):
        return
    if not os.path.exists(prefix + "/bin/mqbroker"):
        skip("scripts", "packaging/bin is not installed")
        return
    env = {"HOME": home, "PATH": "/usr/bin:/bin"}
    logs = home + "/logs/rocketmqlogs"
    sh = lambda *args, **more: run("sh", *args, cwd=prefix, env={**env, **more})

    r = sh("bin/mqnamesrv", "-p")
    check(r.returncode == 0 and lines_of(r.stdout).get("listenPort") == "9876" and not os.path.exists(logs), "sh bin/mqnamesrv -p prints and leaves no log", r.stdout)
    r = sh("bin/mqbroker", "-m")
    check(r.returncode == 0 and "brokerName" in lines_of(r.stdout), "sh bin/mqbroker -m", r.stdout)
    ns = Proc("nohup", "sh", "bin/mqnamesrv", cwd=prefix, env=env)
    up = wait_for(lambda: re.search(r"^The Name Server boot success\. serializeType=JSON, address 0\.0\.0\.0:9876$", text_of(logs + "/namesrv.log"), re.M), 15)
    check(up, "nohup sh bin/mqnamesrv: boot success in ~/logs/rocketmqlogs/namesrv.log", (text_of(ns.log), text_of(logs + "/namesrv.log")))
    b = Proc("nohup", "sh", "bin/mqbroker", "-n", "localhost:9876", "-c", "conf/broker.conf", cwd=prefix, env=env)
    up = wait_for(lambda: re.search(r"^The broker\[broker-a, \S+:10911\] boot success\. serializeType=JSON and name server is localhost:9876$", text_of(logs + "/broker.log"), re.M), 15)
    check(up, "nohup sh bin/mqbroker: boot success in ~/logs/rocketmqlogs/broker.log", (text_of(b.log), text_of(logs + "/broker.log")))
    check("boot success" in text_of(b.log), "and on the console")
    wait_for(lambda: "broker-a" in remoting("127.0.0.1:9876", 106)[1].decode(), 10)

    quick = "org.apache.rocketmq.example.quickstart."
    at = {"NAMESRV_ADDR": "localhost:9876"}
    consumer = Proc("sh", "bin/tools.sh", quick + "Consumer", cwd=prefix, env={**env, **at})
    check(consumer.says("Consumer Started"), "sh bin/tools.sh ...quickstart.Consumer", text_of(consumer.log))
    r = sh("bin/tools.sh", quick + "Producer", **at)
    check(r.returncode == 0 and r.stdout.count("sendStatus=SEND_OK") == 1000, "sh bin/tools.sh ...quickstart.Producer: 1,000 SEND_OK", r.stdout[-500:])
    got = wait_for(lambda: text_of(consumer.log).count("Receive New Messages") >= 1000, 50)
    check(got, "which the consumer receives", text_of(consumer.log).count("Receive New Messages"))
    consumer.end("the consumer")
    r = sh("bin/tools.sh", "org.apache.rocketmq.example.Unknown", **at)
    check(r.returncode == 1 and "Unknown" in r.stdout, "tools.sh says which classes there are", r.stdout)

    admin = lambda *args: sh("bin/mqadmin", *args, "-n", "localhost:9876")

    def says(args, *wanted, status=0):
        r = admin(*args)
        bad = [w for w in wanted if not re.search(w, r.stdout, re.M)]
        check(r.returncode == status and not bad, f"sh bin/mqadmin {' '.join(args)}", (r.returncode, bad, r.stdout[-800:]))

    says(["clusterList"], r"DefaultCluster\s+broker-a\s+0\s+\S+:10911")
    says(["updateTopic", "-c", "DefaultCluster", "-t", "AdminT", "-r", "4", "-w", "4"], r"create topic to \S+:10911 success|AdminT")
    says(["topicList"], r"^AdminT\b", r"^TopicTest\b")
    says(["clusterList", "-m"], r"^#Cluster Name +#Broker Name +#InTotalYest +#OutTotalYest +#InTotalToday +#OutTotalToday", r"^DefaultCluster +broker-a +0 +0 +[1-9]\d* +[1-9]\d*$")
    says(["topicList", "-c"], r"^#Cluster Name +#Topic +#Consumer Group", r"^DefaultCluster +TopicTest +\w+", r"^DefaultCluster +AdminT *$")
    says(["topicRoute", "-t", "AdminT"], r"broker-a", r"4")
    says(["sendMessage", "-t", "AdminT", "-p", "hello admin", "-k", "key1", "-c", "TagM"], r"broker-a\s+\d\s+0\s+SEND_OK\s+\w{32}")
    says(["topicStatus", "-t", "AdminT"], r"^broker-a\s+0\s+0", r"^broker-a\s+3\s+0")
    says(["consumeMessage", "-t", "AdminT"], r"hello admin")
    broker = "127.0.0.1:10911"
    says(["brokerStatus", "-b", broker], r"\bputTps\b", r"\bbrokerVersionDesc\b")
    says(["deleteTopic", "-c", "DefaultCluster", "-t", "AdminT"], r"AdminT|success")
    r = admin("topicList")
    check("AdminT" not in r.stdout.split(), "deleted", r.stdout)
    says(["topicRoute", "-t", "AdminT"], r"AdminT", status=1)
    r = sh("bin/mqadmin", "noSuchCommand")
    check(r.returncode == 1 and "noSuchCommand" in r.stdout, "an unknown command of mqadmin", r.stdout)

    if others:
        skip("sh bin/mqshutdown", "it would end every broker of this user, and others run here: " + others)
        b.end("mqbroker"), ns.end("mqnamesrv")
        return
    for what, p in (("broker", b), ("namesrv", ns)):
        r = sh("bin/mqshutdown", what)
        check(r.returncode == 0 and re.search(rf"The mq{what}\({p.proc.pid}\) is running", r.stdout) and "Send shutdown request" in r.stdout, f"sh bin/mqshutdown {what}", r.stdout)
        try:
            status = p.proc.wait(20)
        except subprocess.TimeoutExpired:
            status = "none"
        check(status == 0, f"the {what} ends with 0", (status, text_of(p.log)[-400:]))
        r = sh("bin/mqshutdown", what)
        check(f"No mq{what} running" in r.stdout and r.returncode != 0, f"once more: there is none", r.stdout)
    check("stopped" in text_of(logs + "/broker.log"), "the log holds the end too", text_of(logs + "/broker.log")[-300:])


# ---- a namespace of our own ----

def loopback_up():
    with socket.socket() as s:
        fcntl.ioctl(s, 0x8914, struct.pack("16sH14x", b"lo", 0x1 | 0x40))  # SIOCSIFFLAGS, IFF_UP | IFF_RUNNING


def other_faces():
    """What mqshutdown would end beside ours."""
    for pid in (p for p in os.listdir("/proc") if p.isdigit()):
        args = text_of(f"/proc/{pid}/cmdline").split("\0")
        if os.path.basename(args[0]) == "zarya" and args[1:2] in (["broker"], ["namesrv"]):
            return f"process {pid}"
    return ""


def with_ports(alone):
    if alone:
        loopback_up()
    apache_faces()
    busy = [p for p in (9876, 10911, 10909) if listens_on(p)]
    if busy:
        skip("bare zarya and the scripts", f"the ports {busy} are taken, and the system allows no namespace of our own")
        return
    bare()
    scripts("" if alone else other_faces())


def main():
    if "--alone" in sys.argv or "--shared" in sys.argv:
        with_ports("--alone" in sys.argv)
        done()
    prints()
    for more in ([], ["--map-root-user"]):
        space = ["unshare", *more, "--net", "--pid", "--fork", "--mount-proc", "--kill-child"]
        if shutil.which("unshare") and subprocess.run([*space, "true"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode == 0:
            r = subprocess.run([*space, sys.executable, os.path.abspath(__file__), "--alone"])
            break
    else:
        r = subprocess.run([sys.executable, os.path.abspath(__file__), "--shared"])
    check(r.returncode == 0, "all faces that need ports", r.returncode)
    done()


main()
