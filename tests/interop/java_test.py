#!/usr/bin/env python3
"""The official Java clients, unchanged, against our name server and broker: Play.java's scenarios with 5.5.0 and 4.9.8, and
the quickstart programs of rocketmq-example 5.5.0."""
import os, sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
from zarya import *

HERE = os.path.dirname(os.path.abspath(__file__))
JAVA = ["java", "-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"]


def compile_play(cp, version):
    out = temp_dir()
    r = subprocess.run(["javac", "-nowarn", "-cp", cp, "-d", out, os.path.join(HERE, "java/Play.java")], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if r.returncode:
        check(False, f"Play.java compiles with {version}", r.stdout)
        return None
    return out


def play(ns, version, scenarios=()):
    cp = java_client(version)
    if not cp:
        skip(f"Java client {version}", "maven or javac is missing, or the registry cannot be reached")
        return
    classes = compile_play(cp, version)
    if classes:
        r = subprocess.run(JAVA + ["-cp", classes + ":" + cp, "Play", ns, "java-" + version, *scenarios], stdout=subprocess.PIPE,
                           stderr=subprocess.STDOUT, text=True, errors="replace", timeout=330)
        print("\n".join(l for l in r.stdout.splitlines() if l.startswith(("ok", "not ok", "#"))))
        check(r.returncode == 0, f"all scenarios with client {version}", r.stdout[-1500:])


def quickstart(ns):
    cp = java_client("5.5.0")
    if not cp:
        skip("quickstart of rocketmq-example", "maven or javac is missing")
        return
    d = temp_dir()
    env = {"NAMESRV_ADDR": ns}
    consumer = start(JAVA + ["-cp", cp, "org.apache.rocketmq.example.quickstart.Consumer"], d + "/consumer", env)
    wait_for(lambda: "Consumer Started" in text_of(d + "/consumer"), 30)
    start(JAVA + ["-cp", cp, "org.apache.rocketmq.example.quickstart.Producer"], d + "/producer", env).wait(120)
    sent = text_of(d + "/producer").count("SEND_OK")
    check(sent == 1000, "quickstart Producer: 1,000 messages SEND_OK", text_of(d + "/producer")[-600:])
    got = wait_for(lambda: text_of(d + "/consumer").count("Receive New Messages") >= 1000, 40)
    check(got, "quickstart Consumer receives them", text_of(d + "/consumer").count("Receive New Messages"))
    consumer.kill()


def main():
    if len(sys.argv) > 1 and ":" in sys.argv[1]:  # a name server that is there already: java_test.py HOST:PORT VERSION [scenario ...]
        play(sys.argv[1], sys.argv[2], sys.argv[3:])
        done()
    z = Zarya().start()
    check(z.wait_registered(), "the broker registers with the name server")
    play(z.ns, "5.5.0")
    play(z.ns, "4.9.8")
    quickstart(z.ns)
    check(z.proc.poll() is None, "zarya is still there", text_of(z.log)[-1500:])
    check(z.stop() == 0, "and stops cleanly", text_of(z.log)[-800:])
    done()


main()
