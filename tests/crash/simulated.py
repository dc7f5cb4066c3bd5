"""The programs of tests/crash/sim: where they are built, and running one of them with its lines counted as this test's own."""
import os, subprocess, sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
import zarya

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


def program(name, optimised=False):
    """The program in the build under test; optimised: in a build of its own, for the long loops."""
    folder = zarya.BUILD
    if optimised:
        folder = os.path.join(ROOT, "build", "crash")
        subprocess.run(["cmake", "-S", ROOT, "-B", folder, "-G", "Ninja", "-DCMAKE_BUILD_TYPE=RelWithDebInfo", "-DZARYA_TESTS=ON"],
                       check=True, stdout=subprocess.DEVNULL)
        subprocess.run(["cmake", "--build", folder, "--target", name], check=True, stdout=subprocess.DEVNULL)
    return os.path.join(folder, "crash", name)


def run(cmd):
    """Its "ok - " and "not ok - " lines become this test's; everything it prints is shown."""
    # Thousands of small stores are made and ended: memory that is kept from use for long would cost more than the stores.
    env = {**os.environ, "ASAN_OPTIONS": os.environ.get("ASAN_OPTIONS", "") + ":quarantine_size_mb=8"}
    proc = subprocess.Popen(cmd, env=env, stdout=subprocess.PIPE, text=True, errors="replace")
    seen = 0
    for line in proc.stdout:
        if line.startswith("ok - "):
            zarya.check(True, line[5:].rstrip())
            seen += 1
        elif line.startswith("not ok - "):
            zarya.check(False, line[9:].rstrip())
            seen += 1
        else:
            print(line.rstrip(), flush=True)
    zarya.check(proc.wait() == 0 and seen > 0, f"{os.path.basename(cmd[0])} ends well", proc.returncode)
