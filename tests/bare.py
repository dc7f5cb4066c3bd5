#!/usr/bin/env python3
"""packaging/quickstart --once in a clean clone in a bare Debian 12 root, made with debootstrap: what a stranger sees first.
Needs root and debootstrap; `tests/run --full` runs it. A root that is there already can be given: bare.py DIR."""
import os, shutil, subprocess, sys, tempfile, time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def sh(*cmd, **more):
    return subprocess.run(cmd, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", **more)


def main():
    if os.geteuid() != 0 or not shutil.which("debootstrap"):
        print("skip - quickstart in a bare Debian 12: needs root and debootstrap")
        return 0
    given = [a for a in sys.argv[1:] if not a.startswith("--")]
    base = given[0] if given else tempfile.mkdtemp(prefix="zarya-bare-")
    mounts = []
    try:
        if not given:
            r = sh("debootstrap", "--variant=minbase", "bookworm", base, "http://deb.debian.org/debian")
            if r.returncode:
                print("not ok - a bare Debian 12 root: " + r.stdout[-800:])
                return 1
        for f in ("resolv.conf", "hosts"):
            shutil.copy("/etc/" + f, os.path.join(base, "etc", f))
        for kind, where in (("proc", "proc"), ("devtmpfs", "dev"), ("tmpfs", "tmp")):
            if sh("mount", "-t", kind, kind, os.path.join(base, where)).returncode == 0:
                mounts.append(os.path.join(base, where))
        clone = os.path.join(base, "home/zarya")
        shutil.rmtree(clone, True)
        r = sh("git", "clone", "-q", ROOT, clone)
        began = time.time()
        r = sh("chroot", base, "/bin/bash", "-c", "cd /home/zarya && packaging/quickstart --once")
        print("\n".join("# " + line for line in r.stdout.splitlines()))
        ok = r.returncode == 0 and "Received 3000 of 3000" in r.stdout
        print(("ok" if ok else "not ok") + f" - quickstart --once in a bare Debian 12 root, {time.time() - began:.0f} s with the packages")
        return 0 if ok else 1
    finally:
        for m in reversed(mounts):
            sh("umount", "-l", m)
        if not given:
            shutil.rmtree(base, True)


sys.exit(main())
