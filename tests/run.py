#!/usr/bin/env python3
"""Runs every test and counts. Called by tests/run, which installs the packages first.

A test is a command. Criterion programs are counted by the line they end with; every other command prints lines
    ok - what          not ok - what: why          skip - what: why
and exits non-zero when something failed. A command that prints none of them counts as one test by its exit status.
"""
import argparse, concurrent.futures, glob, os, re, signal, subprocess, sys, threading, time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
JOBS = str(max(2, os.cpu_count() or 2))


# Lines of a failed program that are shown first, and once more at the end of all.
WORD_OF_FAILURE = re.compile(r"^not ok|^\[FAIL\]|Assertion failed|CRASH!|Timed out|ERROR: \w+Sanitizer|runtime error", re.I)


class Count:
    def __init__(self):
        self.passed = self.failed = self.skipped = 0
        self.failures = []
        self.told = []  # the lines that failed, for the end
        self.lock = threading.Lock()  # guards the counts, and keeps what one program says together


def say(text):
    print(text, flush=True)


def build(preset, targets=()):
    """Configures and builds a preset (or only some targets of it); the whole output only when it fails."""
    say(f"== build {preset}")
    began = time.time()
    log = os.path.join(ROOT, "build", f"{preset}.log")
    os.makedirs(os.path.dirname(log), exist_ok=True)
    with open(log, "w") as out:
        for cmd in (["cmake", "--preset", preset], ["cmake", "--build", "--preset", preset, "-j", JOBS] + (["--target", *targets] if targets else [])):
            if subprocess.run(cmd, cwd=ROOT, stdout=out, stderr=subprocess.STDOUT).returncode:
                out.flush()
                sys.stdout.write(open(log).read()[-20000:])
                return False
    say(f"   {time.time() - began:.0f} s")
    return True


def run(count, place, name, cmd, timeout, env):
    """Runs one command in a process group of its own; ends the whole group."""
    began = time.time()
    with count.lock:
        say(f"[{place}] {name}")
    proc = subprocess.Popen(cmd, cwd=ROOT, env={**os.environ, **(env or {})}, stdout=subprocess.PIPE,
                            stderr=subprocess.STDOUT, text=True, errors="replace", start_new_session=True)
    try:
        out, _ = proc.communicate(timeout=timeout)
        status = proc.returncode
    except subprocess.TimeoutExpired:
        os.killpg(proc.pid, signal.SIGKILL)
        out, _ = proc.communicate()
        out += f"\nnot ok - {name}: no end after {timeout} s\n"
        status = 1
    try:
        os.killpg(proc.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    ok = re.findall(r"^ok\b.*$", out, re.M)
    bad = re.findall(r"^not ok\b.*$", out, re.M)
    skip = re.findall(r"^skip\b.*$", out, re.M)
    crit = re.findall(r"Tested: \S*?(\d+).*?Passing: \S*?(\d+).*?Failing: \S*?(\d+).*?Crashing: \S*?(\d+)",
                      re.sub(r"\x1b\[[0-9;]*m", "", out))
    if crit:
        passed, failed = int(crit[-1][1]), int(crit[-1][2]) + int(crit[-1][3])
        if int(crit[-1][0]) == 0:
            failed += 1
    elif ok or bad or skip:
        passed, failed = len(ok), len(bad)
    else:
        passed, failed = (1, 0) if status == 0 else (0, 1)
    if status != 0 and failed == 0:
        failed = 1
    with count.lock:
        count.passed += passed
        count.failed += failed
        count.skipped += len(skip)
        mark = "ok  " if failed == 0 else "FAIL"
        say(f"{mark} {name}: {passed} passed" + (f", {failed} failed" if failed else "") +
            (f", {len(skip)} skipped" if skip else "") + f" ({time.time() - began:.1f} s)")
        for line in skip:
            say("     " + line)
        if failed:
            count.failures.append(name)
            log = os.path.join(ROOT, "build", "logs", re.sub(r"\W+", "-", name) + ".log")
            os.makedirs(os.path.dirname(log), exist_ok=True)
            open(log, "w").write(out)
            lines = [re.sub(r"\x1b\[[0-9;]*m", "", line) for line in out.splitlines()]
            told = [f"     | {line}" for line in lines if WORD_OF_FAILURE.search(line)][:40]
            count.told += [f"{name}:"] + told
            say("\n".join(told + ["     its end:"] + ["     | " + line for line in lines[-60:]]))
            say(f"     the whole of it: {os.path.relpath(log, ROOT)}")


def tests(full):
    """(name, command, time limit in s), in the order they run. Sanitized unit tests first, whole processes after."""
    for prog in sorted(glob.glob(os.path.join(ROOT, "build/asan/tests/*"))):
        if os.access(prog, os.X_OK) and os.path.isfile(prog) and not prog.endswith(".so"):  # what tests preload is none
            yield "unit " + os.path.basename(prog), [prog, "--jobs", "2"], 400
    for prog in sorted(glob.glob(os.path.join(ROOT, "build/tsan/tests/*"))):
        if os.path.basename(prog) in TSAN and os.access(prog, os.X_OK):
            yield "tsan " + os.path.basename(prog), [prog, "--jobs", "2"], 600
    yield "lint acknowledgement", [sys.executable, os.path.join(ROOT, "tests/lint/acknowledgement.py")], 60
    yield "lint walls", [sys.executable, os.path.join(ROOT, "tests/lint/walls_test.py")], 120
    more = ["--full"] if full else []
    for folder, limit in (("plays", 300), ("crash", 300), ("interop", 900)):
        for prog in sorted(glob.glob(os.path.join(ROOT, f"tests/{folder}/*_test.py"))):
            name = f"{folder} {os.path.basename(prog)[:-8]}"
            if name in FULL_ONLY and not full:
                continue
            yield name, [sys.executable, prog] + more, LIMITS.get(name, limit) * (40 if full else 1)
    if full:
        yield "bare Debian 12", [sys.executable, os.path.join(ROOT, "tests/bare.py")], 1800
        yield "figures", [os.path.join(ROOT, "tests/bench/run")], 3600
    yield "fuzz", [os.path.join(ROOT, "tests/fuzz/run"), "60" if full else "10"], 1800


# Programs that start a Java broker for each of their steps: most of their time is its, and a busy machine makes it long.
LIMITS = {"crash flip": 600, "crash formats": 600, "crash pending": 600}

# Have no short form: of "interop timer" that is "crash pending".
FULL_ONLY = ["interop consumption", "interop timer"]

# What takes minutes of waiting begins first, so that nothing else waits for it at the end.
LONG = ["crash pending", "interop transaction"]

# What measures or loads the whole machine.
ALONE = ["figures", "fuzz", "bare Debian 12"]

# Unit tests that are also run under the thread sanitizer: those with threads. They bring a runner of their own for it, since
# Criterion does not start there.
TSAN = ["test_remoting", "test_remoting_stress", "test_transport", "storage_stress", "storage_power", "storage_zstd_store"]


def main():
    parser = argparse.ArgumentParser(prog="tests/run")
    parser.add_argument("--full", action="store_true")
    parser.add_argument("--only", default="")
    parser.add_argument("--list", action="store_true")
    parser.add_argument("--jobs", type=int, default=2, help="programs that run at the same time")
    parser.add_argument("--no-install", action="store_true")
    args = parser.parse_args()
    count = Count()
    began = time.time()
    if not args.list:
        for preset in ("release", "asan", "tsan"):
            if not build(preset, TSAN if preset == "tsan" else ()):
                say(f"FAIL build {preset}")
                count.failed += 1
                say(f"{count.passed} passed, {count.failed} failed")
                return 1
    todo = [t for t in tests(args.full) if args.only in t[0]]
    if args.list:
        say("\n".join(t[0] for t in todo))
        return 0
    # Whole processes are sanitized too; ZARYA_BUILD_PLAIN is for those that measure memory.
    env = {"ZARYA_BUILD": os.path.join(ROOT, "build/asan"), "ZARYA_BUILD_PLAIN": os.path.join(ROOT, "build/release"),
           "ASAN_OPTIONS": "detect_leaks=1:abort_on_error=0:handle_abort=1", "UBSAN_OPTIONS": "print_stacktrace=1",
           "LSAN_OPTIONS": "print_suppressions=0:suppressions=" + os.path.join(ROOT, "sdk/cmake/lsan.supp")}
    # Two at a time: most whole-process tests wait for clients more than they compute. Those that load the machine on purpose
    # run by themselves, at the end.
    together = sorted((t for t in todo if t[0] not in ALONE), key=lambda t: t[0] not in LONG)
    with concurrent.futures.ThreadPoolExecutor(args.jobs) as pool:
        under_way = [pool.submit(run, count, f"{n}/{len(todo)}", name, cmd, limit, env)
                     for n, (name, cmd, limit) in enumerate(together, 1)]
        for one in under_way:
            one.result()  # a fault of this runner is not a passed test
    for n, (name, cmd, limit) in enumerate((t for t in todo if t[0] in ALONE), len(together) + 1):
        run(count, f"{n}/{len(todo)}", name, cmd, limit, env)
    if os.environ.get("ZARYA_SKIP_FAILS") and count.skipped:
        say(f"{count.skipped} tests were skipped, which is a failure here")
        count.failed += count.skipped
        count.skipped = 0
    if count.told:
        say("what failed:\n" + "\n".join(count.told))
    say(f"took {time.time() - began:.0f} s" + (f"; failed: {', '.join(count.failures)}" if count.failures else ""))
    say(f"{count.passed} passed, {count.failed} failed" + (f", {count.skipped} skipped" if count.skipped else ""))
    return 1 if count.failed or not count.passed else 0


if __name__ == "__main__":
    sys.exit(main())
