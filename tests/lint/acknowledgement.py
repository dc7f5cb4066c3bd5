#!/usr/bin/env python3
"""Every test that packaging/doc/acknowledgement.md names exists, every row of its table of faults names one, and every mode meets
every fault."""
import glob, os, re, sys

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
failed = 0


def check(ok, what, why=""):
    global failed
    failed += not ok
    print(f"ok - {what}" if ok else f"not ok - {what}: {why}", flush=True)


def read(path):
    with open(os.path.join(ROOT, path), encoding="utf-8") as f:
        return f.read()


def unit_tests():
    found = set()
    for path in glob.glob(os.path.join(ROOT, "tests/unit/**/*.c"), recursive=True):
        found |= {f"{s}/{n}" for s, n in re.findall(r"^Test\((\w+), *(\w+)", read(path), re.M)}
    return found


def exists(name, units):
    path, _, function = name.partition(":")
    if not path.startswith("tests/"):
        return name in units
    return os.path.exists(os.path.join(ROOT, path)) and (not function or re.search(rf"^def {function}\(", read(path), re.M))


units = unit_tests()
text = read("packaging/doc/acknowledgement.md")
rows = [[c.strip() for c in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")]
faults = [r for r in rows if len(r) == 4 and r[0] not in ("mode", "---")]
for r in faults:
    tests = re.findall(r"`([^`]+)`", r[3])
    missing = [t for t in tests if not exists(t, units)]
    check(tests and not missing, f"{r[0]}, {r[1]}: shown by {len(tests)} tests that exist", missing or "it names no test")
for mode in ("async", "sync", "waitStoreMsgOK=false"):
    told = " ".join(r[1] for r in faults if r[0] == mode)
    check(all(w in told for w in ("killed", "kernel", "power", "full", "fail")), f"{mode}: every fault has a row", told)
check(not exists("tests/plays/no_such_test.py", units) and not exists("recover/no_such_test", units), "a test that does not exist is noticed")
sys.exit(1 if failed else 0)
