#!/usr/bin/env python3
"""The official Go client (rocketmq-client-go v2), unchanged, against our name server and broker: send, push, tags, order."""
import os, sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
from zarya import *

HERE = os.path.dirname(os.path.abspath(__file__))


def main():
    if not shutil.which("go"):
        skip("Go client", "go is missing")
        done()
    exe = os.path.join(temp_dir(), "interop")
    env = {**os.environ, "GOFLAGS": "-mod=mod", "GOTOOLCHAIN": "local"}
    r = subprocess.run(["go", "build", "-o", exe, "."], cwd=os.path.join(HERE, "go"), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=env)
    if r.returncode:
        check(False, "the Go program builds", r.stdout)
        done()
    z = Zarya().start()
    z.wait_registered()
    r = subprocess.run([exe, z.ns, str(int(time.time()))], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=280)
    print("\n".join(l for l in r.stdout.splitlines() if l.startswith(("ok", "not ok"))))
    check(r.returncode == 0, "all scenarios of the Go client", r.stdout[-1500:])
    check(z.stop() == 0, "zarya stops cleanly", text_of(z.log)[-800:])
    done()


main()
