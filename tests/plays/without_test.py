#!/usr/bin/env python3
"""Each feature plugin and filter is left out in turn: the broker starts, says in its answers which plugin is missing, everything
else works, nothing that pends is lost, and with the plugin it goes on. (What pends with feature-delay and its arbitrary times, and what a kill does
to it, is timer_test's.)"""
import os, sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
from zarya import *

ALL = ("admin", "ordered", "query", "reply", "delay", "transaction")
SETTINGS = {"delay": 'delay_levels = "1s 2s 300ms";', "transaction": 'timeout = "1 s"; check_interval = "1 s";'}
SQL, TAG = '{ use = "filter-sql92"; }', '{ use = "filter-tag"; }'


def plugins(*without):
    """What stands in the configuration, but for some."""
    lines = [f'{{ use = "feature-{f}"; settings = {{ {SETTINGS.get(f, "")} }}; }}' for f in ALL if f"feature-{f}" not in without]
    return ",\n  ".join(lines + ([SQL] if "filter-sql92" not in without else []))


def broker(*without, at=None):
    z = Zarya(directory=at and at.dir, ports=at and (at.port, at.ns_port), features=(), extra_plugins=plugins(*without))
    if "filter-tag" in without:
        with open(z.conf) as f:
            text = f.read()
        with open(z.conf, "w") as f:
            f.write(text.replace(TAG + ",\n  ", ""))
    z.start()
    z.wait_registered()
    return z


def send(z, topic, body, props="", sys_flag=0):
    return remoting(z.addr, 310, {"a": "PG", "b": topic, "c": "TBW102", "d": 1, "e": 0, "f": sys_flag, "g": int(time.time() * 1000), "h": 0, "j": 0,
                                  "i": f"UNIQ_KEY\x01U{body}\x02{props}"}, body.encode())[0]


def pull(z, group, expression, kind, offset=0):
    return remoting(z.addr, 11, {"consumerGroup": group, "topic": "T", "queueId": 0, "queueOffset": offset, "maxMsgNums": 32, "sysFlag": 4, "commitOffset": 0,
                                 "suspendTimeoutMillis": 0, "subVersion": 1, "subscription": expression, "expressionType": kind})


def bodies(z, topic="T"):
    return [m["body"].decode() for m in pull_queue(z.addr, topic, 0)]


def names(head, plugin, code=3):
    return head.get("code") == code and plugin in head.get("remark", "")


LOCK = json.dumps({"clientId": "c1", "consumerGroup": "G", "mqSet": [{"brokerName": "broker-a", "queueId": 0, "topic": "T"}], "onlyThisBroker": False}).encode()
#  plugin: a request that needs it
NEEDS = {
    "feature-admin": lambda z: remoting(z.addr, 28)[0],
    "feature-ordered": lambda z: remoting(z.addr, 41, {}, LOCK)[0],
    "feature-query": lambda z: remoting(z.addr, 12, {"topic": "T", "key": "k", "maxNum": 8, "beginTimestamp": 0, "endTimestamp": 9223372036854775807})[0],
    "feature-reply": lambda z: remoting(z.addr, 325, {"a": "PG", "b": "DefaultCluster_REPLY_TOPIC", "c": "TBW102", "d": 1, "e": 0, "f": 0, "g": 1, "h": 0, "i": "", "j": 0,
                                                      "bornHost": "127.0.0.1:1", "storeHost": "127.0.0.1:2"}, b"x")[0],
    "feature-delay": lambda z: send(z, "T", "no", "DELAY\x011\x02"),
    "feature-transaction": lambda z: send(z, "T", "no", "TRAN_MSG\x01true\x02PGROUP\x01PG\x02", 4),
    "filter-sql92": lambda z: pull(z, "GS", "a > 1", "SQL92")[0],
    "filter-tag": lambda z: pull(z, "GS", "A", "TAG")[0],
}
MORE = {  # and others
    "feature-admin": [lambda z, c=c: remoting(z.addr, c)[0] for c in (17, 21, 26, 43, 200, 201, 202, 203, 204, 208, 222, 223, 307, 309, 314, 353)],
    "feature-ordered": [lambda z: remoting(z.addr, 42, {}, LOCK)[0]],
    "feature-query": [lambda z: remoting(z.addr, 33, {"offset": 0})[0]],
    "feature-reply": [lambda z: remoting(z.addr, 324, {}, b"x")[0]],
    "feature-delay": [lambda z: remoting(z.addr, 370, {"topic": "T", "recallHandle": "x", "producerGroup": "PG"})[0], lambda z: remoting(z.addr, 45)[0]],
    "feature-transaction": [lambda z: remoting(z.addr, 37, {"producerGroup": "PG", "tranStateTableOffset": 0, "commitLogOffset": 0, "commitOrRollback": 8, "msgId": "x"})[0]],
}


def some(out, z):
    """z runs with everything; returns one that does again."""
    what = ", ".join(out)
    for plugin in out:
        head = NEEDS[plugin](z)
        check(not names(head, plugin, head.get("code")), f"with {plugin}", head)
    before = bodies(z)
    check(z.stop() == 0, f"it stops, {what} goes")
    z = broker(*out, at=z)
    for plugin in out:
        refuses(plugin, z)
    check(send(z, "T", f"without {what}", "TAGS\x01A\x02").get("code") == 0, "sends go on", what)
    if "filter-tag" not in out:
        check({*before, f"without {what}"} <= set(bodies(z)), "and pulls", bodies(z))
    check(z.stop() == 0 and "Sanitizer" not in text_of(z.log), f"it stops without {what}", text_of(z.log)[-800:])
    z = broker(at=z)
    check({*before, f"without {what}"} <= set(bodies(z)), f"{what} is back, and everything is there", bodies(z))
    for plugin in out:
        head = NEEDS[plugin](z)
        check(not names(head, plugin, head.get("code")), f"{plugin} answers again", head)
    return z


def refuses(plugin, z):
    head = NEEDS[plugin](z)
    check(names(head, plugin, 1 if plugin in ("feature-delay", "feature-transaction", "filter-sql92") else 23 if plugin == "filter-tag" else 3), f"without {plugin} the answer names it", head)
    for n, ask in enumerate(MORE.get(plugin, ())):
        head = ask(z)
        check(names(head, plugin), f"so does answer {n} to another of its requests", head)


def pending():
    """A delayed message, a half message and a registered SQL92 filter wait while their plugins are gone."""
    z = broker()
    create_topic(z.addr, "T", 1)
    check(send(z, "T", "late", "DELAY\x012\x02").get("code") == 0 and send(z, "T", "half", "TRAN_MSG\x01true\x02PGROUP\x01PG\x02", 4).get("code") == 0, "a delayed message and half of a transaction")
    due = send(z, "T", "half later", "TRAN_MSG\x01true\x02PGROUP\x01PG\x02DELAY\x013\x02", 4)["extFields"]
    beat = {"clientID": "s", "producerDataSet": [], "consumerDataSet": [
        {"groupName": "GF", "consumeType": "CONSUME_PASSIVELY", "messageModel": "CLUSTERING", "consumeFromWhere": "CONSUME_FROM_FIRST_OFFSET", "unitMode": False,
         "subscriptionDataSet": [{"topic": "T", "subString": "a > 1", "tagsSet": [], "codeSet": [], "subVersion": 1, "expressionType": "SQL92", "classFilterMode": False}]}]}
    remoting(z.addr, 34, {}, json.dumps(beat).encode())
    check(z.stop() == 0, "it stops with what waits")
    z = broker("feature-delay", at=z)
    head = wait_for(lambda: (lambda h: h if h.get("code") != 11 else None)(remoting(z.addr, 37, {
        "producerGroup": "PG", "tranStateTableOffset": due["queueOffset"], "commitLogOffset": int(due["msgId"][-16:], 16), "commitOrRollback": 8, "msgId": "x"})[0]), 10)
    check(names(head or {}, "feature-delay", 1) and bodies(z) == [], "a half message with a delay is not committed without what delays it", head)
    check(z.stop() == 0, "it stays open")
    z = broker("feature-delay", "feature-transaction", "filter-sql92", at=z)
    check(bodies(z) == [], "nothing comes without the plugins", bodies(z))
    c = Conn(z.addr)
    c.ask(34, {}, json.dumps(beat).encode())
    head, _ = c.ask(11, {"consumerGroup": "GF", "topic": "T", "queueId": 0, "queueOffset": 0, "maxMsgNums": 8, "sysFlag": 0, "commitOffset": 0, "suspendTimeoutMillis": 0, "subVersion": 1})
    check(head.get("code") == 1 and "filter-sql92" in head.get("remark", ""), "a group that filters by SQL92 is told so", head)
    c.close()
    check(z.stop() == 0, "it stops without them")
    z = broker(at=z)
    c = Conn(z.addr)
    c.ask(34, {}, json.dumps({"clientID": "p", "producerDataSet": [{"groupName": "PG"}], "consumerDataSet": []}).encode())
    ids = lambda: {h["extFields"]["msgId"] for h, _ in c.pushed(39)}
    wait_for(lambda: len(ids()) >= 2 or c.read(0.1) and False, 20)
    came = {h["extFields"]["msgId"]: (h, b) for h, b in c.pushed(39)}.values()
    check(len(came) == 2, "both half messages are asked for", came)
    for asked, _ in came:
        ext = asked["extFields"]
        c.send(37, {"producerGroup": "PG", "tranStateTableOffset": ext["tranStateTableOffset"], "commitLogOffset": ext["commitLogOffset"], "commitOrRollback": 8,
                    "fromTransactionCheck": "true", "msgId": ext.get("msgId", ""), "transactionId": ext.get("transactionId", "")})
    check(wait_for(lambda: sorted(bodies(z)) == ["half", "half later", "late"], 20), "all come, once", bodies(z))
    c.close()
    return z


z = pending()
# One by one in full; else some of those that keep nothing go together.
SETS = [[p] for p in NEEDS] if "--full" in sys.argv else [["feature-admin", "feature-ordered", "feature-query", "feature-reply"], ["feature-delay"],
                                                          ["feature-transaction", "filter-sql92"], ["filter-tag"]]
for out in SETS:
    z = some(out, z)
check(z.stop() == 0 and "Sanitizer" not in text_of(z.log), "zarya stops cleanly", text_of(z.log)[-1500:])
done()
