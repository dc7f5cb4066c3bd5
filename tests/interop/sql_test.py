#!/usr/bin/env python3
"""SQL92 filters against Apache 5.5.0's: its filter library beside ours on tens of thousands of generated pairs of expression and
properties, then both brokers at once with the official clients; consumerFilter.json handed over in both directions; a broker
without the plugin. Every answer and every refusal has to be the same, but for what compare() says."""
import os, sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from zarya import *
from sqlgen import Gen, BROKEN

HERE = os.path.dirname(os.path.abspath(__file__))
JAVA = ["java", "-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"]
SQL = '{ use = "filter-sql92"; }'
WRONG = ["a >", "a > 'x'", "a BETWEEN 10 AND 1", "a = 'x", "5 IN ('5')"]


def javac(cp, *names):
    out = temp_dir()
    r = subprocess.run(["javac", "-nowarn", "-cp", cp, "-d", out] + [os.path.join(HERE, "java", n) for n in names], stdout=subprocess.PIPE,
                       stderr=subprocess.STDOUT, text=True)
    return out if check(r.returncode == 0, f"{', '.join(names)} compiles", r.stdout) else None


def library(cp, classes, exprs):
    """Our program beside Apache's library. Returns those of exprs that the library refuses."""
    probe = os.path.join(BUILD, "probes/sql92_probe")
    seeds = range(1, 9) if FULL else [int(time.time()) % 100000]
    refused = set()
    for n, seed in enumerate(seeds):
        cases = ([(e, "") for e in exprs] if n == 0 else []) + list(Gen(seed).cases(20000 if FULL else 3000, 5))
        text = "".join(e.encode().hex() + " " + p.encode().hex() + "\n" for e, p in cases).encode()
        theirs = subprocess.run(JAVA + ["-cp", classes + ":" + cp, "SqlOracle"], input=text, stdout=subprocess.PIPE).stdout.decode().split()[-1]
        ours = subprocess.run([probe], input=text, stdout=subprocess.PIPE).stdout.decode().strip()
        bad = [(t, o, e, p) for (e, p), t, o in zip(cases, theirs, ours) if t != o]
        check(len(theirs) == len(ours) == len(cases) and not bad,
              f"seed {seed}: {len(cases)} pairs ({ours.count('Y')} match, {ours.count('E')} refused) as Apache's library", bad[:5])
        refused |= {e for e, t in zip(exprs if n == 0 else [], theirs) if t == "E"}
    return refused


def messages(gen, n):
    """Properties as a client may set them: no blank values, none of the reserved names."""
    out = []
    while len(out) < n:
        pairs = dict(x.split("\x01", 1) for x in gen.properties().split("\x02") if x.count("\x01") == 1)
        line = "\t".join(f"{k}={v}" for k, v in pairs.items() if k not in ("TAGS", "KEYS") and k and v.strip() and not set(v) & set("\t\n\r"))
        out.append(line)
    return out


def lines_file(lines):
    path = os.path.join(temp_dir(), "lines")
    with open(path, "w", encoding="utf-8", newline="\n") as f:
        f.write("".join(l + "\n" for l in lines))
    return path


def play(cp, classes, servers, send, pull, push, group):
    """One process of the client, at all servers at once: for each server its answers by verb, in the order of the lines; and the
    whole output."""
    began = time.time()
    files = [lines_file(x) if x else "-" for x in (send, pull, push)]
    r = subprocess.run(JAVA + ["-cp", classes + ":" + cp, "SqlPlay", "SqlTopic", *files, group, *servers], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                       text=True, errors="replace", timeout=1500 if FULL else 240)
    print(f"# {group}: {time.time() - began:.1f} s", flush=True)
    answers = [{"send": {}, "pull": {}, "push": {}} for _ in servers]
    for side, verb, line, answer in re.findall(r"^(\d) (send|pull|push) (\d+) (.*)$", r.stdout, re.M):
        answers[int(side)][verb][int(line)] = answer
    print("".join(f"# {l}\n" for l in r.stdout.splitlines() if " lacks " in l), end="", flush=True)
    return answers, "\n".join(l for l in r.stdout.splitlines() if not re.match(r"^\d (send|pull|push) ", l))[:1500]


def expressions(gen, n):
    """The broken ones (each time others, in the short form), then generated ones."""
    broken = [e for e in BROKEN if e.strip()]
    out = broken if FULL else gen.r.sample(broken, n // 2)
    while len(out) < n:
        e = gen.text()
        if e.strip():
            out.append(e)
    return out


def compare(what, exprs, zarya, apache, output, refused=(), everything=None):
    """The same answers. But where a pull brings an expression that cannot be read, Apache's broker looks for that only in an assert,
    which is off, and gives everything; Zarya refuses."""
    bad = []
    for i, e in enumerate(exprs):
        wanted = apache.get(i, "E-1")
        if e in refused and wanted == everything:
            wanted = "E23"
        if wanted == "E-1" or zarya.get(i) != wanted:
            bad.append((e, zarya.get(i), apache.get(i)))
    check(not bad, f"{what}: {len(exprs)} expressions, the same messages and refusals", (bad[:6], output))


def filters_of(path):
    with open(path) as f:
        return {(t, g): d for t, x in json.load(f)["filterDataByTopic"].items() for g, d in x["groupFilterData"].items()}


def subscribe(addr, group, expression):
    """A consumer's heartbeat."""
    sub = {"topic": "SqlTopic", "subString": expression, "tagsSet": [], "codeSet": [], "subVersion": 7, "expressionType": "SQL92", "classFilterMode": False}
    beat = {"clientID": "127.0.0.1@" + group, "producerDataSet": [], "consumerDataSet": [
        {"groupName": group, "consumeType": "CONSUME_PASSIVELY", "messageModel": "CLUSTERING", "consumeFromWhere": "CONSUME_FROM_LAST_OFFSET",
         "unitMode": False, "subscriptionDataSet": [sub]}]}
    return remoting(addr, 34, {}, json.dumps(beat).encode())[0].get("code")


def filters_for_apache(store):
    """Zarya's consumerFilter.json, laid where Apache's broker finds it."""
    z = Zarya(extra_plugins=SQL).start()
    create_topic(z.addr, "SqlTopic", 1)
    for i, e in enumerate(["a > 5", "s IN ('abc', 'ABC') OR t = TRUE", "x_1 CONTAINS '5'"]):
        subscribe(z.addr, f"CG_kept_{i}", e)
    z.stop()
    os.makedirs(os.path.join(store, "config"))
    ours = os.path.join(z.data, "config/consumerFilter.json")
    shutil.copy(ours, os.path.join(store, "config"))
    return filters_of(ours)


def handed_over(before, apaches):
    """Apache kept what Zarya wrote (it drops the whole file if it does not like its bloom data); Zarya keeps what Apache wrote."""
    after = filters_of(apaches)
    same = lambda x, y: all(x[k] == y[k] for k in ("expression", "bornTime", "bloomFilterData"))
    check(len(before) == 3 and all(k in after and same(before[k], after[k]) for k in before), "consumerFilter.json: Apache loads and keeps Zarya's filters",
          (before, after))
    z = Zarya(extra_plugins=SQL)
    os.makedirs(os.path.join(z.data, "config"))
    shutil.copy(apaches, os.path.join(z.data, "config"))
    z.start()
    z.stop()
    again = filters_of(os.path.join(z.data, "config/consumerFilter.json"))
    check(len(after) > 3 and set(again) == set(after) and all(same(again[k], after[k]) for k in after), f"and Zarya the {len(after)} that Apache wrote", again)


def brokers(classes, apache, before, sent, exprs, refused):
    good = ["a > 5", "a IS NULL", "s IN ('abc', 'ABC', '7') OR t = TRUE", "NOT (i BETWEEN -5 AND 10)", "x_1 CONTAINS '5' AND b IS NOT NULL"]
    hexes, push = ([e.encode().hex() for e in some] for some in (exprs, good + WRONG))
    everything = ",".join(str(i) for i in range(len(sent)))
    z = Zarya(extra_plugins=SQL).start()
    create_topic(z.addr, "SqlTopic", 1)
    create_topic(apache.addr, "SqlTopic", 1)
    for ns in (z.ns, apache.ns):
        wait_for(lambda: remoting(ns, 105, {"topic": "SqlTopic"})[0].get("code") == 0, 60)
    for n, version in enumerate(("5.5.0", "4.9.8")):
        cp = java_client(version)
        if not cp:
            skip(f"client {version}", "it cannot be had")
            continue
        pushing = FULL or n == 0  # starting push consumers takes long
        (ours, theirs), output = play(cp, classes, (z.ns, apache.ns), sent if n == 0 else None, hexes, push if pushing else None,
                                      "CG_sql_" + version.replace(".", "_"))
        if n == 0:
            check(ours["send"] == theirs["send"] == {0: f"sent {len(sent)}"}, f"{len(sent)} messages are sent to both", output)
        compare(f"pull, client {version}", exprs, ours["pull"], theirs["pull"], output, refused, everything)
        if pushing:
            compare(f"push, client {version}", good + WRONG, ours["push"], theirs["push"], output)
            got = [ours["push"].get(i) for i in range(len(push))]
            check(all(got[:len(good)]) and got[len(good):] == ["E23"] * len(WRONG), f"client {version}: good ones match something, wrong ones are 23", got)
    check(z.stop() == 0, "zarya stops cleanly", text_of(z.log)[-800:])
    apache.stop()
    handed_over(before, os.path.join(apache.store, "config/consumerFilter.json"))


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
    # Apache's broker takes long to start: meanwhile the rest is compiled, and its library asked.
    store = os.path.join(temp_dir(), "store")
    before = filters_for_apache(store)
    apache = Apache("5.5.0", store=store, heap="256m")
    up = []
    starting = threading.Thread(target=lambda: up.append(apache.start()))
    starting.start()
    seed = 7 if FULL else int(time.time()) % 100000
    print(f"# expressions and messages of seed {seed}", flush=True)
    gen = Gen(seed)
    sent, exprs = messages(gen, 200 if FULL else 20), expressions(gen, 2000 if FULL else 80)
    sent += ["a=10\ts=abc\ti=100\tx_1=55\tb=1", "s=x"]  # so that each good expression matches something
    classes = javac(cp, "SqlOracle.java", "SqlPlay.java")  # once, for both clients
    refused = library(cp, classes, exprs) if classes else ()
    starting.join()
    if check(up, "Apache's broker starts") and classes:
        brokers(classes, apache, before, sent, exprs, refused)
    done()


main()
