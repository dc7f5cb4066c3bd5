#!/usr/bin/env python3
"""The control socket: its verbs, its limits, who it serves, and what zaryactl makes of it."""
import os, sys
sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
from zarya import *
import stat


def ctl(*args, data=None, env=None, program=None):
    r = subprocess.run([program or tool("zaryactl"), *(["--data", data] if data else []), *args], capture_output=True, text=True, timeout=60,
                       env={**os.environ, **(env or {})})
    return r.returncode, r.stdout, r.stderr


class Control:
    """A client that speaks the protocol itself."""

    def __init__(self, path, timeout=20):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(timeout)
        self.sock.connect(path)
        self.rest = b""

    def line(self):
        while b"\n" not in self.rest:
            try:
                got = self.sock.recv(1 << 20)
            except ConnectionResetError:
                got = b""
            if not got:
                return None
            self.rest += got
        line, self.rest = self.rest.split(b"\n", 1)
        return json.loads(line)

    def raw(self, data):
        self.sock.sendall(data)
        return self.line()

    def ask(self, *words):
        return self.raw(json.dumps({"run": words}).encode() + b"\n")


z = Zarya().start()
z.wait_registered()
PATH = os.path.join(z.data, "run/control.sock")
wait_for(lambda: "boot success" in text_of(z.log))
check(stat.S_IMODE(os.stat(PATH).st_mode) == 0o600, "the socket is its owner's alone", oct(os.stat(PATH).st_mode))

# ---- verbs
c = Control(PATH)
status = c.ask("status")["result"]
check(status["pid"] == z.proc.pid and status["broker"] == "broker-a" and f"tcp://{z.addr}" in status["listeners"] and status["store"]["writable"],
      "status: process, addresses, store", status)
plugins = {p["name"]: p for p in c.ask("plugins")["result"]}
check(plugins["broker"]["id"] == "transport-tcp" and plugins["feature-ordered"]["state"] == "active" and plugins["feature-ordered"]["generation"] > 0,
      "plugins: name, id, generation, state", plugins)
text = c.ask("metrics")["result"]
types = re.findall(r"^# TYPE (\S+)", text, re.M)
names = [m for m in re.findall(r"^(\w+)\{", text, re.M)]
runs = [n for i, n in enumerate(names) if i == 0 or names[i - 1] != n]
check(len(types) == len(set(types)) == len(runs) and "zarya_work_queued" in types, "metrics: one TYPE for each name, all series of a name together",
      [t for t in types if types.count(t) > 1])
check('name = "broker-a";' in c.ask("config")["result"] and "brokerName=broker-a" in c.ask("config", "--apache")["result"], "config, ours and as broker.conf")
check(c.ask("log", "level")["result"] == "info" and c.ask("log", "level", "warn")["result"] == "warn" and c.ask("log", "level")["result"] == "warn",
      "log level is shown and changed")
check('log_level = "warn"' in c.ask("config")["result"], "the changed level is in the configuration in effect")
check("usage: log level" in c.ask("log", "level", "loud")["error"], "a level that is none is refused with the usage")
c.ask("log", "level", "info")

# ---- a plugin's verb
body = {"clientId": "c1@host", "consumerGroup": "G1", "mqSet": [{"brokerName": "broker-a", "queueId": 3, "topic": "T1"}]}
remoting(z.addr, 41, {}, json.dumps(body).encode())
for words in (("ordered", "locks"), ("ordered", "locks", "G1"), ("feature-ordered", "ordered", "locks", "G1")):
    locks = c.ask(*words)["result"]
    check([(l["group"], l["topic"], l["queue"], l["client"]) for l in locks] == [("G1", "T1", 3, "c1@host")] and 0 < locks[0]["ends_in_ms"] <= 60000,
          "a plugin's verb: " + " ".join(words), locks)
check(c.ask("ordered", "locks", "G2")["result"] == [], "its argument reaches it")
check("usage: ordered locks" in c.ask("ordered", "locks", "a", "b")["error"], "its refusal comes back as it was raised")
helps = c.ask("help")["result"]
check({h["verb"] for h in helps} >= {"help", "status", "stop", "ordered locks"} and all(h["doc"] for h in helps), "help names them all", helps)

# ---- mistakes
for words, near in ((["pluginz"], '"plugins"'), (["log", "levle"], '"log level"'), (["orderd", "locks"], '"ordered locks"'), (["ordered"], '"ordered locks"')):
    answer = c.ask(*words)
    check(not answer["ok"] and answer["status"] == "EINVAL" and near in answer["error"], "unknown verb " + " ".join(words), answer)
check("help" in c.ask("q" * 300)["error"], "a name like no other", "")
for data, part in ((b"hello\n", "not JSON"), (b"{}\n", "a request is"), (b'{"run":[1]}\n', "each a text"), (b'{"run":"status"}\n', "a request is"),
                   (json.dumps({"run": ["x"] * 65}).encode() + b"\n", "64 words"), (b'{"run":["a\\u0000b"]}\n', "each a text")):
    answer = c.raw(data)
    check(not answer["ok"] and part in answer["error"], f"refused: {data[:20]!r}", answer)
check(c.ask("log", "level")["ok"], "after all of these the connection still serves")
big = Control(PATH)
answer = big.raw(b"x" * 70000)
check(not answer["ok"] and "64 KiB" in answer["error"] and big.line() is None, "a line without end is refused and closed", answer)
two = Control(PATH)
two.sock.sendall(b'\n{"run":["log","level"]}\n{"run":["nothing"]}\n{"run":["log","level"]}\n')
check([two.line()["ok"] for _ in range(3)] == [True, False, True], "several requests in one piece are answered in order")
slow = Control(PATH)
for byte in b'{"run":["log","level"]}':
    slow.sock.sendall(bytes([byte]))
check(slow.raw(b"\n")["ok"], "a request that comes byte by byte")

# ---- those who are stuck
stuck = []
for i in range(40):
    s = Control(PATH)
    s.sock.sendall((b"", b'{"run":["sta', b'{"run":["metrics"]}\n' * 3000)[i % 3 if i < 20 else 0])  # silent; half a line; takes no answer
    stuck.append(s)
code, out, err = ctl("status", data=z.data)
check(code == 0 and "uptime_ms" in out, "clients that are silent, half done or take no answer disturb nobody", out + err)
n = len(os.listdir(f"/proc/{z.proc.pid}/fd"))
check(sum(1 for l in open("/proc/net/unix") if l.rstrip().endswith("control.sock")) < 80 and n < 300, "the number of clients is bounded", n)
remoting(z.addr, 41, {}, json.dumps(body).encode())
check(ctl("ordered", "locks", data=z.data)[1].count("T1") == 1, "plugins' verbs run meanwhile")
for s in stuck:
    s.sock.close()
threads = []
good = []
for i in range(24):
    t = threading.Thread(target=lambda: good.append(sum(1 for _ in range(20) if k.ask("plugins")["ok"]) if (k := Control(PATH)) else 0))
    t.start()
    threads.append(t)
for t in threads:
    t.join()
check(good == [20] * 24, "twenty-four clients at once, twenty requests each", good)

# ---- zaryactl
code, out, err = ctl("plugins", data=z.data)
check(code == 0 and out.splitlines()[0].split()[:3] == ["name", "id", "version"] and len(out.splitlines()) == len(plugins) + 1, "zaryactl shows rows as a table", out + err)
check(json.loads(ctl("--json", "status", data=z.data)[1])["pid"] == z.proc.pid and json.loads(ctl("status", "--json", data=z.data)[1])["broker"] == "broker-a",
      "zaryactl --json, before or behind the verb")
check(ctl("metrics", data=z.data)[1].startswith("# HELP "), "a text is printed as it is")
check(ctl("--socket", PATH, "ctl", "log", "level")[1] == "info\n", "--socket, and ctl before the verb")
check(ctl("log", "level", env={"ZARYA_HOME": z.data})[1] == "info\n", "without either ZARYA_HOME is asked")
code, out, err = ctl("pluginz", data=z.data)
check(code == 2 and 'did you mean "plugins"' in err, "zaryactl: an unknown verb", err)
code, out, err = ctl("help", data=z.data)
check(code == 0 and "topic create" in out and "ordered locks [GROUP]" in out, "zaryactl help lists commands and verbs", out)
nobody = temp_dir()
code, out, err = ctl("status", data=nobody)
check(code == 1 and f"no Zarya answers at {nobody}/run/control.sock" in err, "zaryactl says where nobody answers", err)
code, out, err = ctl("topic", "lst", env={"HOME": nobody, "ZARYA_HOME": ""})
check(code == 2 and 'did you mean "topic list"' in err, "a slip in a command of its own stays one", err)
code, out, err = ctl("sttus", env={"HOME": nobody, "ZARYA_HOME": ""})
check(code == 2 and "there is no command" in err, "an unknown word without a process to ask", err)

# ---- programs beside zaryactl
folder = temp_dir()
os.makedirs(folder + "/bin"), os.makedirs(folder + "/libexec/zarya"), os.makedirs(folder + "/path")
program = shutil.copy(tool("zaryactl"), folder + "/bin/zaryactl")
for where, name in (("bin", "hello"), ("libexec/zarya", "far"), ("path", "evil")):
    with open(f"{folder}/{where}/zaryactl-{name}", "w") as f:
        f.write(f'#!/bin/sh\necho "{name} $*"\nexit 7\n')
    os.chmod(f"{folder}/{where}/zaryactl-{name}", 0o755)
env = {"PATH": f"{folder}/path:{os.environ['PATH']}", "HOME": nobody, "ZARYA_HOME": ""}
check(ctl("hello", "a", "--json", program=program, env=env)[:2] == (7, "hello a --json\n"), "zaryactl hello runs the zaryactl-hello beside it")
check(ctl("far", program=program, env=env)[:2] == (7, "far \n"), "or in ../libexec/zarya")
check(ctl("evil", program=program, env=env)[0] == 2, "never one of PATH")
check(ctl("../path/zaryactl-evil", program=program, env=env)[0] == 2 and ctl("../../path/evil", program=program, env=env)[0] == 2, "a name is no path")

# ---- drain and stop
c = Control(PATH)  # the first one gave way to the stuck
check(c.ask("drain")["ok"], "drain is answered")
gone = wait_for(lambda: b"broker-a" not in remoting(z.ns, 106, {})[1])
check(gone, "drain leaves the name servers")
check(c.ask("status")["result"]["state"] == "leaving" and listening(z.port), "who is connected is served on")
check(ctl("stop", data=z.data)[:2] == (0, "stopping\n") and z.proc.wait(20) == 0, "stop ends the process with status 0", text_of(z.log)[-800:])
check(not os.path.exists(PATH), "the socket is gone with it")

# ---- sockets of others, and long paths
z.start()
wait_for(lambda: os.path.exists(PATH) and ctl("status", data=z.data)[0] == 0)
z.kill()
check(os.path.exists(PATH), "a killed process leaves its socket")
z.start()
check(wait_for(lambda: ctl("status", data=z.data)[0] == 0), "the next one replaces it")
z.stop()
with socket.socket(socket.AF_UNIX) as alive:
    alive.bind(PATH)
    alive.listen(1)
    inode = os.stat(PATH).st_ino
    z.start()
    check(wait_for(lambda: f"the control socket {PATH} cannot be taken" in text_of(z.log)), "a socket that somebody answers on is left alone, and said so", text_of(z.log)[-500:])
    z.stop()
    check(os.path.exists(PATH) and os.stat(PATH).st_ino == inode, "it is still there after the end")
os.unlink(PATH)
with open(PATH, "w") as f:
    f.write("mine")
z.start()
wait_for(lambda: text_of(z.log).count(f"the control socket {PATH} cannot be taken") == 2)
z.stop()
check(text_of(PATH) == "mine", "a file that is no socket is left alone")
far = os.path.join(temp_dir(), "d" * 100, "e" * 100)
os.makedirs(far)
deep = Zarya(directory=far, broker=False).start()
check(wait_for(lambda: ctl("status", data=deep.data)[0] == 0), "a data directory whose path is longer than a socket's address", text_of(deep.log)[-500:])
deep.stop()
leaks = "Sanitizer" in text_of(z.log) + text_of(deep.log)
check(not leaks, "no sanitizer complains", text_of(z.log)[-3000:])
done()
