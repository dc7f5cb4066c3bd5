#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""How many topics a second a broker makes, one after another on one connection (code 17, as mqadmin updateTopic sends it), when
there are 10 already and when there are 10,000: Zarya and Apache RocketMQ 5.5.0 in turn, on the same disk.

    ZARYA_BUILD=build/release python3 tests/bench/topics.py [--seconds 5] [--rounds 2] [--sizes 10,10000]

How to read it: tests/bench/README.md."""
import argparse, os, statistics, sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
from zarya import *


def document(folder, n):
    """config/topics.json of n topics, as both brokers read it."""
    os.makedirs(os.path.join(folder, "config"), exist_ok=True)
    topics = {f"Made{i}": {"attributes": {}, "order": False, "perm": 6, "readQueueNums": 4, "topicFilterType": "SINGLE_TAG", "topicName": f"Made{i}",
                           "topicSysFlag": 0, "writeQueueNums": 4} for i in range(n)}
    with open(os.path.join(folder, "config/topics.json"), "w") as f:
        json.dump({"dataVersion": {"counter": 1, "stateVersion": 0, "timestamp": 1758272700123}, "topicConfigTable": topics}, f)


def make(addr, seconds):
    """(topics a second, the slowest in ms)."""
    host, port = addr.split(":")
    times, n, end = [], 0, time.time() + seconds
    with socket.create_connection((host, int(port)), 30) as s:
        s.settimeout(60)
        began = time.time()
        while time.time() < end:
            n += 1
            at = time.time()
            s.sendall(frame(17, {"topic": f"Fresh{n}", "defaultTopic": "TBW102", "readQueueNums": 4, "writeQueueNums": 4, "perm": 6,
                                 "topicFilterType": "SINGLE_TAG", "topicSysFlag": 0, "order": "false"}, opaque=n))
            head, _ = read_frame(s)
            if head.get("code") != 0:
                raise SystemExit(f"not ok - {addr} refused a topic: {head}")
            times.append(time.time() - at)
        return n / (time.time() - began), statistics.median(times) * 1e3, max(times) * 1e3


def one(side, n, seconds):
    where = temp_dir("zarya-topics-")
    if side == "Zarya":
        z = Zarya(directory=where)
        document(z.data, n)
    else:
        z = Apache(directory=where, jvm=())
        document(z.store, n)
    z.start()
    if side == "Zarya":
        z.wait_registered()
    r = make(z.addr, seconds)
    z.stop()
    shutil.rmtree(where, True)
    return r


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--seconds", type=float, default=5)
    p.add_argument("--rounds", type=int, default=2)
    p.add_argument("--sizes", default="10,10000")
    p.add_argument("--only", choices=("Zarya", "Apache"))
    a = p.parse_args()
    print("| topics there already | | topics/s | p50 ms | slowest ms |\n| ---: | --- | ---: | ---: | ---: |")
    for n in (int(s) for s in a.sizes.split(",")):
        seen = {s: [] for s in ("Zarya", "Apache") if a.only in (None, s)}
        for _ in range(a.rounds):
            for side in seen:
                seen[side].append(one(side, n, a.seconds))
        for side, rows in seen.items():
            rate = sorted(r[0] for r in rows)
            print(f"| {n:,} | {side} | {statistics.median(rate):,.0f} ({rate[0]:,.0f} – {rate[-1]:,.0f}) | {statistics.median(r[1] for r in rows):.1f} | "
                  f"{max(r[2] for r in rows):,.0f} |", flush=True)


main()
