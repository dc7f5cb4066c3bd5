#!/usr/bin/env python3
"""SQL92 filters against Apache 5.5.0's: its filter library beside ours on tens of thousands of generated pairs of expression and
properties, then both brokers with the official clients; consumerFilter.json handed over in both directions; a broker without the
plugin. Every answer and every refusal has to be the same."""
import os, sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from zarya import *
from sqlgen import Gen, BROKEN
import glob

HERE = os.path.dirname(os.path.abspath(__file__))
JAVA = ["java", "-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"]
SQL = '{ use = "filter-sql92"; }'
WRONG = ["a >", "a > 'x'", "a BETWEEN 10 AND 1", "a = 'x", "5 IN ('5')"]


def javac(cp, *names):
    out = temp_dir()
    r = subprocess.run(["javac", "-nowarn", "-cp", cp, "-d", out] + [os.path.join(HERE, "java", n) for n in names], stdout=subprocess.PIPE,
                       stderr=subprocess.STDOUT, text=True)
    return out if check(r.returncode == 0, f"{', '.join(names)} compiles", r.stdout) else None


def library(cp, classes):
    """Our program beside Apache's library."""
    probe = os.path.join(BUILD, "probes/sql92_probe")
    seeds = range(1, 9) if FULL else [int(time.time()) % 100000]
    for seed in seeds:
        cases = list(Gen(seed).cases(20000 if FULL else 3000, 5))
        text = "".join(e.encode().hex() + " " + p.encode().hex() + "\n" for e, p in cases).encode()
        theirs = subprocess.run(["java", "-XX:+UseSerialGC", "-cp", classes + ":" + cp, "SqlOracle"], input=text, stdout=subprocess.PIPE).stdout.decode().split()[-1]
        ours = subprocess.run([probe], input=text, stdout=subprocess.PIPE).stdout.decode().strip()
        bad = [(t, o, e, p) for (e, p), t, o in zip(cases, theirs, ours) if t != o]
        check(len(theirs) == len(ours) == len(cases) and not bad, f"seed {seed}: {len(cases)} pairs ({ours.count('Y')} match, {ours.count('E')} refused) as Apache's library", bad[:5])


def messages(gen, n):
    """Properties as a client may set them: no blank values, none of the reserved names."""
    out = []
    while len(out) < n:
        pairs = dict(x.split("\x01", 1) for x in gen.properties().split("\x02") if x.count("\x01") == 1)
        line = "\t".join(f"{k}={v}" for k, v in pairs.items() if k not in ("TAGS", "KEYS") and k and v.strip() and not set(v) & set("\t\n\r"))
        out.append(line)
    return out


def play(cp, classes, ns, topic, verb, lines, *more):
    path, began = os.path.join(temp_dir(), "lines"), time.time()
    with open(path, "w", encoding="utf-8", newline="\n") as f:
        f.write("".join(l + "\n" for l in lines))
    r = subprocess.run(JAVA + ["-cp", classes + ":" + cp, "SqlPlay", ns, topic, verb, path, *more], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                       errors="replace", timeout=600)
    print(f"# {verb} at {ns}: {time.time() - began:.1f} s", flush=True)
    found = [l.split(" ", 1)[1] for l in r.stdout.splitlines() if re.match(r"^(\d+|sent) ", l)]
    return found if len(found) == (1 if verb == "send" else len(lines)) else r.stdout[-1500:]


def expressions(gen, n):
    out = [e for e in BROKEN if e.strip()]
    while len(out) < n:
        e = gen.text()
        if e.strip():
            out.append(e)
    return out[:n]


def compare(what, exprs, zarya, apache):
    same = isinstance(zarya, list) and isinstance(apache, list)
    bad = [(e, z, a) for e, z, a in zip(exprs, zarya, apache) if z != a] if same else (zarya, apache)
    check(same and not bad, f"{what}: {len(exprs)} expressions, the same messages and refusals", bad[:6])


def brokers(classes):
    gen = Gen(7)
    sent, exprs = messages(gen, 200 if FULL else 32), expressions(gen, 2000 if FULL else 250)
    sent += ["a=10\ts=abc\ti=100\tx_1=55\tb=1", "s=x"]  # so that each good expression matches something
    hexes = [e.encode().hex() for e in exprs]
    good = ["a > 5", "a IS NULL", "s IN ('abc', 'ABC', '7') OR t = TRUE", "NOT (i BETWEEN -5 AND 10)", "x_1 CONTAINS '5' AND b IS NOT NULL"]
    push = [e.encode().hex() for e in good + WRONG]
    clients = [(v, java_client(v)) for v in ("5.5.0", "4.9.8")]
    clients = [(v, cp) for v, cp in clients if cp]
    pushing = [v for v, _ in clients][:2 if FULL else 1]  # starting and stopping them takes long
    z = Zarya(extra_plugins=SQL).start()
    z.wait_registered()
    results = {}

    def run(name, ns):
        cp = clients[0][1]
        got = play(cp, classes, ns, "SqlTopic", "send", sent)
        check(isinstance(got, list), f"{name}: {len(sent)} messages are sent", got)
        for version, cp in clients:
            results[name, version, "pull"] = play(cp, classes, ns, "SqlTopic", "pull", hexes)
            if version in pushing:
                results[name, version, "push"] = play(cp, classes, ns, "SqlTopic", "push", push, "CG_sql_" + version.replace(".", "_"))

    create_topic(z.addr, "SqlTopic", 1)
    run("zarya", z.ns)
    check(z.stop() == 0, "zarya stops cleanly", text_of(z.log)[-800:])
    store = os.path.join(temp_dir(), "store")
    os.makedirs(os.path.join(store, "config"))
    ours = os.path.join(z.data, "config/consumerFilter.json")
    shutil.copy(ours, os.path.join(store, "config"))
    a = Apache("5.5.0", store=store).start()
    create_topic(a.addr, "SqlTopic", 1)
    run("apache", a.ns)
    a.stop()
    for version, _ in clients:
        compare(f"pull, client {version}", exprs, results["zarya", version, "pull"], results["apache", version, "pull"])
    for version in pushing:
        compare(f"push, client {version}", good + WRONG, results["zarya", version, "push"], results["apache", version, "push"])
        got = results["zarya", version, "push"]
        check(isinstance(got, list) and all(got[:len(good)]) and got[len(good):] == ["E23"] * len(WRONG), f"client {version}: good ones match something, wrong ones are 23", got)
    handed_over(ours, os.path.join(store, "config/consumerFilter.json"))


def filters_of(path):
    with open(path) as f:
        return {(t, g): d for t, x in json.load(f)["filterDataByTopic"].items() for g, d in x["groupFilterData"].items()}


def handed_over(ours, apaches):
    """Apache kept what Zarya wrote (it drops the whole file if it does not like its bloom data); Zarya keeps what Apache wrote."""
    before, after = filters_of(ours), filters_of(apaches)
    check(before and set(before) == set(after) and all(before[k]["bornTime"] == after[k]["bornTime"] and before[k]["bloomFilterData"] == after[k]["bloomFilterData"]
                                                       for k in before), f"consumerFilter.json: Apache loads {len(before)} filters of Zarya's", (before, after))
    z = Zarya(extra_plugins=SQL)
    os.makedirs(os.path.join(z.data, "config"))
    shutil.copy(apaches, os.path.join(z.data, "config"))
    z.start()
    z.stop()
    again = filters_of(os.path.join(z.data, "config/consumerFilter.json"))
    check(again == {k: {**d, "dead": True} for k, d in after.items()} or set(again) == set(after), "and Zarya loads what Apache wrote", again)


def without_plugin():
    z = Zarya().start()
    create_topic(z.addr, "T", 1)
    body = json.dumps({"clientId": "c", "group": "G", "subscriptionData": {"expressionType": "SQL92", "subString": "a > 1", "topic": "T"}}).encode()
    for what, got in (("46", remoting(z.addr, 46, None, body)[0]),
                      ("11", remoting(z.addr, 11, {"consumerGroup": "G", "topic": "T", "queueId": 0, "queueOffset": 0, "maxMsgNums": 32, "sysFlag": 4, "commitOffset": 0,
                                                   "suspendTimeoutMillis": 0, "subscription": "a > 1", "subVersion": 1, "expressionType": "SQL92"})[0])):
        check(got.get("code") == 1 and "filter-sql92" in (got.get("remark") or ""), f"code {what} without the plugin: the answer names it", got)
    z.stop()


def main():
    cp = apache_server("5.5.0")
    without_plugin()
    if not cp or not shutil.which("javac"):
        skip("SQL92 beside Apache's", "maven or javac is missing, or the registry cannot be reached")
        done()
    classes = javac(cp, "SqlOracle.java", "SqlPlay.java")  # once, for both clients: it takes long
    if classes:
        library(cp, classes)
        brokers(classes)
    done()


main()
