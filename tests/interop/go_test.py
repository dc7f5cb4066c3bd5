#!/usr/bin/env python3
"""The official Go client (rocketmq-client-go v2), unchanged, against our name server and broker: send, push, tags, order, delays,
transactions (of a producer that dies in between, too), dead letters, SQL92, request and reply."""
import os, sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
from zarya import *

LEVELS = "1s 5s " + " ".join("100ms" for _ in range(16))
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
    z = Zarya(features=("admin", "ordered", "query"), extra_plugins=",\n  ".join((
        f'{{ use = "feature-delay"; settings = {{ delay_levels = "{LEVELS}"; }}; }}', '{ use = "feature-reply"; }', '{ use = "filter-sql92"; }',
        '{ use = "feature-transaction"; settings = { timeout = "2 s"; check_interval = "1 s"; }; }'))).start()
    z.wait_registered()
    run = str(int(time.time()))
    died = subprocess.run([exe, z.ns, run, "vanish"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=100)
    check(died.returncode == 0, "a producer dies within its transaction", died.stdout[-800:])
    both = {what: start([exe, z.ns, run, what], os.path.join(z.dir, what + ".log")) for what in ("plain", "features")}
    for what, p in both.items():
        p.wait(280)
        text = text_of(os.path.join(z.dir, what + ".log"))
        print("\n".join(l for l in text.splitlines() if l.startswith(("ok", "not ok"))))
        check(p.returncode == 0, f"all scenarios of the Go client: {what}", text[-1500:])
    check(z.stop() == 0, "zarya stops cleanly", text_of(z.log)[-800:])
    done()


main()
