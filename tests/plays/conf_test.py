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
# Values that only a plugin can judge: the file, the line and the key are those of the file that was written.
path = os.path.join(temp_dir(), "broker.conf")
for line, wanted in (("deleteWhen=25", "plugin storage-commitlog: L18: its check says no: deleteWhen: hours from 00 to 23"),
                     ("namesrvAddr=foo", "plugin routing-remote: L18: its check says no: namesrvAddr: 'foo' is no address"),
                     ("messageDelayLevel=1s 5x", "plugin storage-commitlog: L18: its check says no: messageDelayLevel: up to 64 delays"),
                     ("messageDelayLevel=1s 5x", "plugin feature-delay: L18: its check says no: messageDelayLevel: 1 to 64 delays")):
    with open(path, "w") as f:
        f.write("# a comment\nbrokerName=b\n" + line + "\n")
    r = zarya("broker", "-c", path, "--check")
    check(r.returncode == 1 and f"zarya: {path}:3: {wanted}" in r.stderr, f"{line} is refused with file, line and Apache's key: {wanted.split(':')[0]}", r.stderr)
# In a file of our own, for an optional plugin too: what somebody wrote and cannot be is no reason to go without it.
path = os.path.join(temp_dir(), "zarya.conf")
with open(path, "w") as f:
    f.write('plugins = (\n { use = "transport-tcp"; settings = { listen = "127.0.0.1:0"; }; },\n { use = "storage-commitlog"; },\n'
            ' { use = "feature-delay"; optional = true; settings = {\n   delay_levels = "1s 5x"; }; }\n);\n')
r = zarya("-c", path, "--check")
check(r.returncode == 1 and f"zarya: {path}:5: plugin feature-delay: L18: its check says no: delay_levels: 1 to 64 delays" in r.stderr,
      "a value that cannot be stops a start, in an optional plugin too", r.stderr)
done()
