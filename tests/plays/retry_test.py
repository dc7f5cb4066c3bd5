#!/usr/bin/env python3
"""Messages that consumers give back (36, and their own sends to %RETRY%), until they are dead letters; and `zaryactl dlq`, which
lists, shows, resends, exports and purges those."""
import os, sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
from zarya import *
import base64

LEVELS = " ".join(f"{n}ms" for n in range(1, 19))


def ctl(z, *args):
    r = subprocess.run([tool("zaryactl"), *args, "-n", z.ns], capture_output=True, text=True, timeout=60)
    return r.returncode, r.stdout, r.stderr


def rows(z, *args):
    code, out, err = ctl(z, *args, "--json")
    return json.loads(out) if code == 0 else (code, out, err)


def send(z, topic, body, keys="", tag=""):
    head, _ = remoting(z.addr, 310, {"a": "PG", "b": topic, "c": "TBW102", "d": 4, "e": 0, "f": 0, "g": 1000, "h": 0, "j": 0, "k": "false", "m": "false",
                                     "i": f"UNIQ_KEY\x01U{body}\x02TAGS\x01{tag}\x02KEYS\x01{keys}\x02"}, body.encode())
    return head


def back(z, group, message, level=0, most=None, version=513):
    """The consumer failed with a message."""
    ext = {"group": group, "offset": message["physical"], "delayLevel": level, "originTopic": message["topic"], "originMsgId": message["props"].get("UNIQ_KEY", ""),
           "unitMode": "false", "bname": "broker-a"}
    if most is not None:
        ext["maxReconsumeTimes"] = most
    return remoting(z.addr, 36, ext, version=version)[0]


def queue(z, topic, n=0):
    return pull_queue(z.addr, topic, n)


def last(z, topic, count, seconds=20):
    """The newest message of a topic's queue 0, once it holds so many."""
    got = wait_for(lambda: (lambda all_: all_ if len(all_) >= count else None)(queue(z, topic)), seconds)
    return got[-1] if got else {"body": b"", "props": {}, "topic": topic, "physical": -1, "reconsume": -1}


def by_policy(z):
    """A group with a policy of its own waits by that: as timed messages, to the millisecond."""
    policy = {"type": "EXPONENTIAL", "exponentialRetryPolicy": {"initial": 400, "max": 1500, "multiplier": 3}}
    check(remoting(z.addr, 200, {}, json.dumps({"groupName": "GP", "groupRetryPolicy": policy}).encode())[0].get("code") == 0, "a group with a retry policy")
    send(z, "TP", "patient")
    m = queue(z, "TP")[-1]
    for n, wait in enumerate((400, 1200, 1500), 1):
        began = time.time() * 1000
        check(back(z, "GP", m).get("code") == 0, f"failure {n} is taken back")
        check(len(queue(z, "%RETRY%GP")) == n - 1, "and does not come at once")
        m = last(z, "%RETRY%GP", n)
        held = queue(z, "rmq_sys_wheel_timer")
        check(m["reconsume"] == n and m["props"].get("TIMER_DELAY_MS") == str(wait) and "DELAY" not in m["props"] and m["store"] - held[-1]["store"] >= wait - 1 and
              m["store"] - began >= wait - 1 and len(held) == n and held[-1]["props"]["REAL_TOPIC"] == "%RETRY%GP", f"but after {wait} ms", (m, held[-1:]))
    policy["exponentialRetryPolicy"] = {"initial": 7200000, "max": 7200000, "multiplier": 2}
    remoting(z.addr, 200, {}, json.dumps({"groupName": "GL", "groupRetryPolicy": policy}).encode())
    began = time.time() * 1000
    check(back(z, "GL", m).get("code") == 0, "a policy beyond timer_max_delay is no error")
    late = queue(z, "rmq_sys_wheel_timer")[-1]["props"]
    check(late["REAL_TOPIC"] == "%RETRY%GL" and 3595000 <= int(late["TIMER_OUT_MS"]) - began <= 3620000 and queue(z, "%RETRY%GL") == [], "it waits that long", late)
    check(back(z, "GP", m, level=1).get("code") == 0, "the consumer's own word goes before it")
    m = last(z, "%RETRY%GP", 4)
    check(len(queue(z, "SCHEDULE_TOPIC_XXXX", 0)) == 1 and m["reconsume"] == 4, "by level", m)


def counts(z):
    """How often a message failed is what its record says, and that came from a client."""
    for n, times in enumerate((-5, 2147483647)):
        head, _ = remoting(z.addr, 310, {"a": "PG", "b": "TC", "c": "TBW102", "d": 1, "e": 0, "f": 0, "g": 1, "h": 0, "j": times, "i": f"UNIQ_KEY\x01C{n}\x02"}, b"count")
        check(head.get("code") == 0 and back(z, "GC", queue(z, "TC")[-1]).get("code") == 0, f"{times} failures", head)
    m = last(z, "%RETRY%GC", 1)
    check(m["reconsume"] == 1 and len([h for h in queue(z, "SCHEDULE_TOPIC_XXXX", 2) if h["props"]["REAL_TOPIC"] == "%RETRY%GC"]) == 1, "fewer than none are none, and it waits", m)
    dead = last(z, "%DLQ%GC", 1)
    check(dead["reconsume"] == 2147483647, "more than can be counted stay as many", dead)
    send(z, "TC", "kept")
    check(back(z, "GC", queue(z, "TC")[-1], level=2147483647).get("code") == 0 and last(z, "%RETRY%GC", 2)["body"] == b"kept", "a level beyond the last is the last")


def until_dead(z):
    send(z, "T", "stubborn", "k1 k2", "TagA")
    m = queue(z, "T")[-1]
    first = m
    for n in range(1, 4):
        head = back(z, "G", m, most=3)
        check(head.get("code") == 0, f"failure {n} is taken back", head)
        m = last(z, "%RETRY%G", n)
        check(m["reconsume"] == n and m["body"] == b"stubborn" and m["props"].get("RETRY_TOPIC") == "T", f"it comes again, with its count {n} and its topic", m)
        held = queue(z, "SCHEDULE_TOPIC_XXXX", 2 + n - 1)
        check(len(held) == 1 and held[0]["props"]["REAL_TOPIC"] == "%RETRY%G", f"after the delay of level {2 + n}", held)
    check(back(z, "G", m, most=3).get("code") == 0, "the last failure is taken")
    dead = last(z, "%DLQ%G", 1)
    p = dead["props"]
    check(dead["body"] == b"stubborn" and dead["reconsume"] == 4 and p["TAGS"] == "TagA" and p["KEYS"] == "k1 k2" and p["UNIQ_KEY"] == "Ustubborn",
          "after as many as the request allows it is a dead letter, with all it had", dead)
    check(p["RETRY_TOPIC"] == "T" and p["DLQ_ORIGIN_TOPIC"] == "T" and p["DLQ_ORIGIN_MESSAGE_ID"] == "Ustubborn" and len(p["ORIGIN_MESSAGE_ID"]) == 32 and
          p["DLQ_REASON"] == "failed 3 times, allowed 3", "which says where it came from and why it is dead", p)
    head, conf = remoting(z.addr, 351, {"topic": "%DLQ%G"})
    check(json.loads(conf or b"{}").get("perm") == 6, "and can be read", conf)
    check(remoting(z.ns, 105, {"topic": "%DLQ%G"})[0].get("code") == 0, "its route is known")
    return first


def rules(z):
    """Who decides how often: the request of newer clients, else the group; and the ways straight to the end."""
    group = {"groupName": "Once", "retryMaxTimes": 1, "retryQueueNums": 1, "consumeEnable": True}
    check(remoting(z.addr, 200, {}, json.dumps(group).encode())[0].get("code") == 0, "a group that allows one retry")
    send(z, "T", "once")
    m = queue(z, "T")[-1]
    back(z, "Once", m)
    m = last(z, "%RETRY%Once", 1)
    check(back(z, "Once", m).get("code") == 0 and last(z, "%DLQ%Once", 1)["props"]["DLQ_REASON"] == "failed 1 times, allowed 1", "the group's maximum counts without a request's")
    back(z, "Once", m, most=0, version=100)
    check(len(queue(z, "%DLQ%Once")) == 2, "an old client's maximum is not looked at")
    back(z, "Once", m, most=5)
    check(last(z, "%RETRY%Once", 2)["reconsume"] == 2, "a request's maximum goes before the group's")
    send(z, "T", "hopeless")
    back(z, "G", queue(z, "T")[-1], level=-1)
    dead = last(z, "%DLQ%G", 2)
    check(dead["body"] == b"hopeless" and dead["props"]["DLQ_REASON"] == "given up by the consumer", "delayLevel -1 is the end at once", dead)
    none = {"groupName": "Never", "retryMaxTimes": 16, "retryQueueNums": 0}
    remoting(z.addr, 200, {}, json.dumps(none).encode())
    head = back(z, "Never", m)
    check(head.get("code") == 0 and remoting(z.addr, 351, {"topic": "%RETRY%Never"})[0].get("code") == 17, "a group without retry queues: taken, and stored nowhere", head)
    head = back(z, "G", {**m, "physical": 7})
    check(head.get("code") == 1 and "look message by offset failed, 7" in head.get("remark", ""), "an offset where no message begins", head)
    head = back(z, "no good", m)
    check(head.get("code") == 26, "a group that cannot be", head)


def own_send(z):
    """A client whose 36 failed sends the message to its retry topic itself."""
    ext = {"a": "CLIENT_INNER_PRODUCER", "b": "%RETRY%G", "c": "TBW102", "d": 4, "e": 0, "f": 0, "g": 1, "h": 0, "k": "false", "m": "false",
           "i": "UNIQ_KEY\x01UA\x02RETRY_TOPIC\x01T\x02ORIGIN_MESSAGE_ID\x01OID\x02DELAY\x014\x02DLQ_REASON\x01old\x02"}
    n = len(queue(z, "%RETRY%G"))
    check(remoting(z.addr, 310, {**ext, "j": 2, "l": 2}, b"own")[0].get("code") == 0 and last(z, "%RETRY%G", n + 1)["body"] == b"own", "at its maximum it is tried once more")
    n = len(queue(z, "%DLQ%G"))
    check(remoting(z.addr, 310, {**ext, "j": 3, "l": 2}, b"over")[0].get("code") == 0, "beyond it it is taken")
    p = last(z, "%DLQ%G", n + 1)["props"]
    check(p.get("DLQ_ORIGIN_TOPIC") == "T" and p.get("DLQ_ORIGIN_MESSAGE_ID") == "UA" and p.get("DLQ_REASON") == "failed more often than allowed" and p.get("DELAY") == "-1",
          "and dead, with its origin", p)


def own_timed(z):
    """A time of its own counts in a retry topic too, unless it has come already."""
    ext = {"a": "PG", "b": "%RETRY%GT", "c": "TBW102", "d": 4, "e": 0, "f": 0, "g": 1, "h": 0, "k": "false", "m": "false"}
    held = len(queue(z, "rmq_sys_wheel_timer"))
    began = time.time() * 1000
    head, _ = remoting(z.addr, 310, {**ext, "j": 0, "i": "UNIQ_KEY\x01UT\x02TIMER_DELAY_MS\x01700\x02"}, b"timed")
    waits = queue(z, "rmq_sys_wheel_timer")[held:]
    check(head.get("code") == 0 and [m["props"]["REAL_TOPIC"] for m in waits] == ["%RETRY%GT"], "a timed message to a retry topic waits", (head, waits))
    m = last(z, "%RETRY%GT", 1)
    check(m["body"] == b"timed" and m["store"] - began >= 699 and "TIMER_OUT_MS" in m["props"], "and comes at its time", m)
    check(back(z, "GT", m, level=1).get("code") == 0 and last(z, "%RETRY%GT", 2)["reconsume"] == 1, "given back, it waits by level")
    for n, (reconsume, level, where, count) in enumerate(((1, "DELAY\x011\x02", "%RETRY%GT", 3), (1, "", "%RETRY%GT", 4), (17, "", "%DLQ%GT", 1))):
        props = "UNIQ_KEY\x01UT\x02TIMER_DELAY_MS\x013000000\x02TIMER_OUT_MS\x01%s\x02%s" % (m["props"].get("TIMER_OUT_MS"), level)
        head, _ = remoting(z.addr, 310, {**ext, "j": reconsume, "l": 16, "i": props}, b"again%d" % n)
        check(head.get("code") == 0 and last(z, where, count)["body"] == b"again%d" % n, f"its consumer's own send of it, {n}, does not wait for its time again", head)


def lists(z):
    groups = {r["group"]: r for r in rows(z, "dlq", "list")}
    check(groups.get("G", {}).get("letters") == 3 and groups["Once"]["letters"] == 2, "dlq list counts by group", groups)
    letters = rows(z, "dlq", "list", "-g", "G")
    check([r["msg_id"] for r in letters] == ["Ustubborn", "Uhopeless", "UA"] and letters[0]["origin_topic"] == "T" and letters[0]["tries"] == 4 and
          letters[0]["reason"] == "failed 3 times, allowed 3", "dlq list -g: each letter", letters)
    check([r["msg_id"] for r in rows(z, "dlq", "list", "-g", "G", "-k", "k2")] == ["Ustubborn"] and rows(z, "dlq", "list", "-g", "G", "-t", "Other") == [] and
          len(rows(z, "dlq", "list", "-g", "G", "-c", "2")) == 2 and len(rows(z, "dlq", "list", "-g", "G", "-s", str(int(time.time() * 1000) + 60000))) == 0,
          "by key, origin, time and count")
    code, out, err = ctl(z, "dlq", "list", "-g", "Nobody")
    check(code == 1 and "there are no dead letters" in err, "a group without", err)
    for id_ in ("Ustubborn", letters[0]["offset_msg_id"]):
        code, out, err = ctl(z, "dlq", "show", "-g", "G", "-i", id_)
        check(code == 0 and "stubborn" in out and "DLQ_REASON" in out, f"dlq show by {'unique' if id_[0] == 'U' else 'offset'} id", out + err)
    check(ctl(z, "dlq", "show", "-g", "G", "-i", "nothing")[0] == 1, "dlq show of none")
    return letters


def exports(z):
    path = os.path.join(temp_dir(), "letters")
    code, out, err = ctl(z, "dlq", "export", "-g", "G", "-f", path)
    lines = [json.loads(l) for l in text_of(path).splitlines()]
    check(code == 0 and [base64.b64decode(l["body_base64"]) for l in lines] == [b"stubborn", b"hopeless", b"over"] and lines[0]["properties"]["KEYS"] == "k1 k2" and
          lines[0]["group"] == "G", "dlq export: a line of JSON for each", (lines, err))
    check(ctl(z, "dlq", "export", "-g", "G", "-f", path)[0] == 1 and len(text_of(path).splitlines()) == 3, "a file that is there is left alone")
    check(len(ctl(z, "dlq", "export", "-g", "G")[1].splitlines()) == 3, "or to standard output")


def resends(z):
    n, t = len(queue(z, "%RETRY%G")), len(queue(z, "T"))
    check(ctl(z, "dlq", "resend", "-g", "G")[0] == 2, "dlq resend wants to know which")
    code, out, err = ctl(z, "dlq", "resend", "-g", "G", "-i", "Ustubborn")
    m = last(z, "%RETRY%G", n + 1)
    check(code == 0 and m["body"] == b"stubborn" and m["reconsume"] == 0 and m["props"]["RETRY_TOPIC"] == "T" and m["props"]["UNIQ_KEY"] == "Ustubborn" and
          "DELAY" not in m["props"] and "DLQ_REASON" not in m["props"] and m["props"]["DLQ_ORIGIN_TOPIC"] == "T", "to the group alone, at once, as new", (m, err))
    code, out, err = ctl(z, "dlq", "resend", "-g", "G", "-a", "-o")
    got = queue(z, "T")[t:] + queue(z, "T", 1) + queue(z, "T", 2) + queue(z, "T", 3)
    check(code == 0 and sorted(m["body"] for m in got) == [b"hopeless", b"over", b"stubborn"] and all("RETRY_TOPIC" not in m["props"] for m in got), "or all, to where they came from", (got, err))
    lock = {"clientId": "c1", "consumerGroup": "G", "mqSet": [{"brokerName": "broker-a", "queueId": 0, "topic": "T"}]}
    remoting(z.addr, 41, {}, json.dumps(lock).encode())
    n = len(queue(z, "%RETRY%G"))
    code, out, err = ctl(z, "dlq", "resend", "-g", "G", "-a")
    check(code == 0 and len(queue(z, "%RETRY%G")) == n + 3 and len(queue(z, "%DLQ%G")) == 3, "a group that holds queue locks gets them too: only their holder's own sends are dead letters", err)
    code, out, err = ctl(z, "dlq", "resend", "-g", "G", "-i", "none")
    check(code == 1, "none is a failure", out + err)


def purges(z):
    code, out, err = ctl(z, "dlq", "purge", "-g", "Once")
    check(code == 2 and "2 dead letters" in err and len(queue(z, "%DLQ%Once")) == 2, "dlq purge says first what would go", err)
    code, out, err = ctl(z, "dlq", "purge", "-g", "Once", "-y")
    check(code == 0 and "2 dead letters are gone" in out, "and with -y they are", out + err)
    check("Once" not in [r["group"] for r in rows(z, "dlq", "list")], "they are listed no more")
    send(z, "T", "again")
    back(z, "Once", queue(z, "T")[-1], level=-1)
    dead = wait_for(lambda: queue(z, "%DLQ%Once"))
    check(dead and [m["body"] for m in dead] == [b"again"], "the next one makes the topic anew", dead)


def without_delay():
    z = Zarya(features=("admin", "query")).start()
    z.wait_registered()
    create_topic(z.addr, "T")
    send(z, "T", "soon")
    m = queue(z, "T")[-1]
    head = back(z, "G", m)
    check(head.get("code") == 1 and "feature-delay" in head["remark"] and queue(z, "%RETRY%G") == [], "without feature-delay the consumer keeps it, and is told why", head)
    ext = {"a": "CLIENT_INNER_PRODUCER", "b": "%RETRY%G", "c": "TBW102", "d": 4, "e": 0, "f": 0, "g": 1, "h": 0, "j": 1, "l": 16,
           "i": "UNIQ_KEY\x01UA\x02RETRY_TOPIC\x01T\x02DELAY\x014\x02"}
    head, _ = remoting(z.addr, 310, ext, b"own")
    check(head.get("code") == 1 and "feature-delay" in head["remark"] and queue(z, "%RETRY%G") == [], "so is one that sends it itself", head)
    check(back(z, "G", m, level=-1).get("code") == 0 and last(z, "%DLQ%G", 1)["body"] == b"soon", "the end needs no delay")
    check(remoting(z.addr, 310, {**ext, "j": 17}, b"over")[0].get("code") == 0 and last(z, "%DLQ%G", 2)["body"] == b"over", "nor does that of one that sends it itself")
    z.stop()


z = Zarya(features=("admin", "query", "ordered"), extra_plugins=f'{{ use = "feature-delay"; settings = {{ delay_levels = "{LEVELS}"; timer_max_delay = 3600; timer_precision = "100 ms"; }}; }}').start()
z.wait_registered()
create_topic(z.addr, "T")
create_topic(z.addr, "TP", 1)
create_topic(z.addr, "TC", 1)
until_dead(z)
by_policy(z)
rules(z)
own_send(z)
lists(z)
own_timed(z)
exports(z)
resends(z)
purges(z)
counts(z)
check(z.stop() == 0, "zarya stops cleanly", text_of(z.log)[-800:])
check("Sanitizer" not in text_of(z.log), "no sanitizer complains", text_of(z.log)[-3000:])
without_delay()
done()
