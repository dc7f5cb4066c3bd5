#!/usr/bin/env python3
"""The five walls of the house, checked as part of every build. A breach fails the build with the rule and the line.

    walls.py includes                      1 and 2: who includes what            (sources)
    walls.py headers CC CXX                3: public headers alone, C11 and C++17, no padding
    walls.py symbols ZARYA PLUGIN...       2 and 4: libraries of the kernel; exported symbols
    walls.py sdk BUILD_DIR STAMP CMAKE     5: our own plugins build against the installed SDK alone
"""
import glob, os, re, shutil, subprocess, sys

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

# Headers of the C library and of the Linux API that comes with it.
LIBC = set("""aio.h alloca.h assert.h byteswap.h ctype.h dirent.h dlfcn.h elf.h endian.h errno.h fcntl.h fenv.h float.h fnmatch.h
ftw.h getopt.h glob.h grp.h iconv.h ifaddrs.h inttypes.h langinfo.h libgen.h limits.h link.h locale.h malloc.h math.h netdb.h
poll.h pthread.h pwd.h regex.h sched.h search.h semaphore.h setjmp.h signal.h spawn.h stdalign.h stdarg.h stdatomic.h stdbool.h
stddef.h stdint.h stdio.h stdlib.h stdnoreturn.h string.h strings.h syslog.h termios.h threads.h time.h unistd.h utime.h
wchar.h wctype.h immintrin.h emmintrin.h tmmintrin.h smmintrin.h x86intrin.h arm_neon.h cpuid.h execinfo.h""".split())
LIBC_DIRS = ("sys/", "linux/", "netinet/", "arpa/", "net/", "bits/")

# A plugin's own libraries, by folder; and the private static library that sisters of one kind share.
OWN = {
    "plugins/transport/nng": ["nng/"],
    "plugins/storage/zstd": ["zstd.h", "zdict.h"],
    "plugins/routing/namesrv": ["libdeflate.h"],
    "plugins/routing/remote": ["libdeflate.h"],
}
SHARED = {"plugins/storage": ["plugins/storage/log", "plugins/storage/zstd"], "plugins/routing": ["plugins/routing/common"], "plugins/transport": ["plugins/transport/common"]}
KERNEL_OWN = ["libconfig.h"]
SDK_LIB_OWN = ["libdeflate.h"]
KERNEL_LIBRARIES = re.compile(r"lib(c|m|dl|pthread|config|deflate|asan|ubsan|tsan|gcc_s|stdc\+\+)\.so|ld-linux")

breaches = 0


def breach(rule, where, text):
    global breaches
    breaches += 1
    print(f"{where}: error: wall {rule}: {text}", flush=True)


SCANNED = (".c", ".h", ".cc", ".re", ".y", ".l")
COMMENT = r"(?:\s|/\*.*?\*/)*"
DIRECTIVE = re.compile(r"^" + COMMENT + r"(?:#|%:|\?\?=)" + COMMENT + r"(include|include_next|import|embed)\b" + COMMENT + r"(.*)")
WRITTEN = re.compile(r'([<"])([^>"]+)[>"]')


def includes_of(path):
    """(line, < or ", name) of each; a name that is not written out (a macro) comes as ("?", text), which no rule allows."""
    with open(os.path.join(ROOT, path), encoding="utf-8") as f:
        text = f.read()
    while "\\\n" in text:  # a directive may go on in the next line; the count of lines stays
        text = re.sub(r"\\\n([^\n]*)", r"\1\n", text, count=1)
    for n, line in enumerate(text.split("\n"), 1):
        m = DIRECTIVE.match(line)
        if m:
            w = WRITTEN.match(m.group(2))
            yield (n, w.group(1), w.group(2)) if w and m.group(1) == "include" else (n, "?", m.group(2) or m.group(1))


def sources(folder):
    for base, dirs, files in os.walk(os.path.join(ROOT, folder)):
        dirs[:] = sorted(d for d in dirs if not d.startswith("."))
        for f in sorted(files):
            if f.endswith(SCANNED):
                yield os.path.relpath(os.path.join(base, f), ROOT)


def climbs(name):
    return ".." in name.split("/") or name.startswith("/")


def is_libc(name):
    return not climbs(name) and (name in LIBC or name.startswith(LIBC_DIRS))


def is_ours(name):
    """The public headers and the static helper library."""
    return not climbs(name) and name.startswith(("zarya/", "zl/"))


def allowed(name, own):
    return not climbs(name) and any(name == o or (o.endswith("/") and name.startswith(o)) for o in own)


def within(path, folders):
    return any(path.startswith(f + "/") for f in folders)


def local(path, name, folders):
    """An include in quotes, of a file that lies in one of the folders, wherever the way to it goes; or that is generated from a
    grammar or lexer file there. What is included is a file that is looked through too."""
    stem = name[:-2] if name.endswith(".h") else name
    if name.startswith("/") or not name.endswith(SCANNED):
        return False
    for place in [os.path.dirname(path)] + folders:
        for n in (name, stem + ".y", stem + ".l"):
            found = os.path.realpath(os.path.join(ROOT, place, n))
            if os.path.exists(found):
                return within(os.path.relpath(found, os.path.realpath(ROOT)), folders)  # the first is what the compiler takes
    return False


def check_includes():
    for path in sources("plugins"):
        parts = path.split("/")
        own_dir = "/".join(parts[:3])
        own = [o for d, lst in OWN.items() if own_dir == d for o in lst]
        shared = [s for d, lst in SHARED.items() if path.startswith(d + "/") for s in lst]
        for n, kind, name in includes_of(path):
            if is_ours(name) or is_libc(name) or allowed(name, own):
                continue
            if kind == '"' and local(path, name, [own_dir] + shared):
                continue
            breach(1, f"{path}:{n}", f"a plugin includes only <zarya/*.h>, libc, sdk/lib and its own libraries, not {name}")
    for path in sources("kernel"):
        for n, kind, name in includes_of(path):
            if is_ours(name) or is_libc(name) or allowed(name, KERNEL_OWN):
                continue
            if kind == '"' and local(path, name, ["kernel"]):
                continue
            breach(2, f"{path}:{n}", f"the kernel includes no plugin and no third-party library but libconfig, not {name}")
    for path in sources("sdk/lib"):
        for n, kind, name in includes_of(path):
            if is_ours(name) or is_libc(name) or allowed(name, SDK_LIB_OWN) or (kind == '"' and local(path, name, ["sdk/lib"])):
                continue
            breach(1, f"{path}:{n}", f"sdk/lib includes only <zarya/*.h>, libc and libdeflate, not {name}")
    for path in sources("sdk/include"):
        for n, kind, name in includes_of(path):
            if name not in ("stdint.h", "stddef.h") and (climbs(name) or not name.startswith("zarya/")):
                breach(3, f"{path}:{n}", f"a public header includes only <stdint.h>, <stddef.h> and its sisters, not {name}")


def check_headers(cc, cxx):
    flags = ["-Wall", "-Wextra", "-Wpedantic", "-Wpadded", "-Werror", "-I" + os.path.join(ROOT, "sdk/include"), "-fsyntax-only"]
    jobs = []
    for h in sorted(glob.glob(os.path.join(ROOT, "sdk/include/zarya/*.h"))):
        for cmd in ([cc, "-std=c11", "-x", "c"], [cxx, "-std=c++17", "-x", "c++"]):
            jobs.append((h, cmd, subprocess.Popen(cmd[:2] + flags + cmd[2:] + [h], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)))
    for h, cmd, p in jobs:
        out, _ = p.communicate()
        if p.returncode:
            first = next((l for l in out.splitlines() if "error" in l), out.strip())
            breach(3, os.path.relpath(h, ROOT), f"does not compile alone as {cmd[1][5:]} with -Wpadded -Werror: {first}")


def defined(path):
    """Exported symbols that are the file's own: not versioned copies of the C library's."""
    out = subprocess.run(["nm", "-D", "--defined-only", path], stdout=subprocess.PIPE, text=True, check=True).stdout
    return sorted(l.split()[-1] for l in out.splitlines() if l.strip() and "@" not in l.split()[-1])


def check_symbols(zarya, plugins):
    for s in defined(zarya):
        if s not in ("_IO_stdin_used", "__bss_start", "_edata", "_end", "_init", "_fini", "environ", "__environ", "_environ"):
            breach(4, zarya, f"the kernel exports no symbol, but it exports {s}")
    out = subprocess.run(["readelf", "-d", zarya], stdout=subprocess.PIPE, text=True, check=True).stdout
    for lib in re.findall(r"NEEDED.*\[(.*)\]", out):
        if not KERNEL_LIBRARIES.match(lib):
            breach(2, zarya, f"the kernel links {lib}, a library that belongs to a plugin")
    for p in plugins:
        got = defined(p)
        if got != ["zarya_plugin_entry_1"]:
            breach(4, p, f"a plugin exports exactly zarya_plugin_entry_1, this one exports {got}")
        out = subprocess.run(["readelf", "-d", p], stdout=subprocess.PIPE, text=True, check=True).stdout
        for lib in re.findall(r"NEEDED.*\[(.*)\]", out):
            if "zarya" in lib:
                breach(5, p, f"a plugin links to nothing of ours dynamically, this one needs {lib}")


def check_sdk(build, stamp, cmake):
    """Installs the SDK into a folder of its own and builds every plugin from copies of their sources against it."""
    stage, tree, out = (os.path.join(build, "walls", d) for d in ("sdk", "tree", "out"))
    shutil.rmtree(stage, True)
    shutil.rmtree(tree, True)
    subprocess.run([cmake, "--install", build, "--prefix", stage, "--component", "sdk"], check=True, stdout=subprocess.DEVNULL)
    shutil.copytree(os.path.join(ROOT, "plugins"), tree)
    r = subprocess.run([cmake, "-S", tree, "-B", out, "-G", "Ninja", "-DCMAKE_PREFIX_PATH=" + stage, "-DCMAKE_BUILD_TYPE=Debug"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if r.returncode == 0:
        r = subprocess.run([cmake, "--build", out], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if r.returncode:
        first = next((l for l in r.stdout.splitlines() if "error" in l.lower() or "undefined" in l), r.stdout[-2000:])
        breach(5, "plugins", "our own plugins do not build against the installed SDK alone: " + first.replace(tree, "plugins"))
    else:
        open(stamp, "w").close()


def main():
    what = sys.argv[1]
    if what == "includes":
        check_includes()
    elif what == "headers":
        check_headers(sys.argv[2], sys.argv[3])
    elif what == "symbols":
        check_symbols(sys.argv[2], sys.argv[3:])
    elif what == "sdk":
        check_sdk(*sys.argv[2:5])
    sys.exit(1 if breaches else 0)


main()
