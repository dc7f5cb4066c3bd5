#!/usr/bin/env python3
"""The official clients' delays, unchanged: levels with Java 4.9.8 and 5.5.0 (Go: tests/interop/go_test.py), and times of their own and
recalls with Java 5.5.0."""
import os, sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
if len(sys.argv) > 1 and os.path.isdir(sys.argv[1]):
    os.environ["ZARYA_BUILD"] = os.path.abspath(sys.argv[1])
from zarya import *

HERE = os.path.dirname(os.path.abspath(__file__))

if __name__ == "__main__":
    jars = java_client("5.5.0")
    if not jars:
        skip("delays of the Java clients", "maven or javac is missing, or the registry cannot be reached")
        done()
    out = temp_dir()
    r = subprocess.run(["javac", "-nowarn", "-cp", jars, "-d", out, os.path.join(HERE, "java", "DelayPlay.java")], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    check(r.returncode == 0, "the Java program compiles", r.stdout)
    z = Zarya(features=("admin", "ordered", "query"), extra_plugins='{ use = "feature-delay"; settings = { recall = true; }; }').start()
    z.wait_registered()
    for version, what in (("5.5.0", "all"), ("4.9.8", "levels")):
        jars = java_client(version)
        if not jars:
            skip("delays of Java " + version, "its jars cannot be had")
            continue
        r = subprocess.Popen(["java", "-Xmx128m"] + JAVA_OPENS + ["-cp", out + ":" + jars, "DelayPlay", z.ns, "Delay" + version.replace(".", ""), what],
                             stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        try:
            said = r.communicate(timeout=180)[0]
        except subprocess.TimeoutExpired:
            r.send_signal(signal.SIGQUIT)  # its threads, for whoever reads this
            threading.Timer(2, r.kill).start()
            said = r.communicate()[0]
            print(said[-12000:], text_of(z.log)[-3000:])
        lines = [l for l in said.splitlines() if l.startswith(("ok", "not ok"))]
        check(len(lines) >= 2, f"Java {version} ran", said[-1500:])
        for l in lines:
            check(l.startswith("ok"), f"Java {version}: " + l.split(" - ", 1)[1])
    check(z.stop() == 0, "it stops cleanly")
    done()
