#!/usr/bin/env python3
"""Every configuration that we ship is good: `zarya --check` takes each file of conf/, and --print-config's output is one that
--check takes again and prints the same."""
import glob, os, sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
from zarya import *


def zarya(*args):
    return subprocess.run([tool("zarya"), *args], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=30)


files = sorted(glob.glob(os.path.join(ROOT, "conf/zarya*.conf")))
check(len(files) >= 4, "conf/ has ready configurations", files)
for path in files:
    name = os.path.relpath(path, ROOT)
    r = zarya("--check", "-c", path)
    check(r.returncode == 0, f"{name} is good", r.stderr + r.stdout)
    printed = zarya("--print-config", "-c", path)
    again = os.path.join(temp_dir(), "printed.conf")
    with open(again, "w") as f:
        f.write(printed.stdout)
    r = zarya("--check", "-c", again)
    check(printed.returncode == 0 and r.returncode == 0, f"{name}: what --print-config prints is good too", r.stderr + printed.stderr)
    check(zarya("--print-config", "-c", again).stdout == printed.stdout, f"{name}: and prints the same again")
for face, path in (("broker", "conf/broker.conf"), ("namesrv", "conf/namesrv.conf")):
    r = zarya(face, "-c", os.path.join(ROOT, path), "-p")
    check(r.returncode == 0 and "=" in r.stdout, f"{path} is taken by zarya {face}", r.stderr)
# A mode of a broker.conf that is none (Apache takes the default, which may promise less than was meant) is refused.
for line, wanted in (("flushDiskType=SYNC_FLUSHX", 'flushDiskType: "SYNC_FLUSHX" is not one of'), ("brokerRole=SYNC_MASTERR", 'brokerRole: "SYNC_MASTERR" is not one of')):
    path = os.path.join(temp_dir(), "broker.conf")
    with open(path, "w") as f:
        f.write("# a comment\n" + line + "\n")
    r = zarya("broker", "-c", path, "--check")
    check(r.returncode != 0 and f"{path}:2: {wanted}" in r.stderr + r.stdout, f"{line} is refused with file and line", r.stderr + r.stdout)
done()
