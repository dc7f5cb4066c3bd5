#!/usr/bin/env python3
"""Failing calls: every call site of the I/O seam in the store, in the kernel's state documents and in the helpers between them
fails with EIO, ENOSPC, EINTR and short reads and writes; the share of the sites in the sources that were made to fail is printed.

    faults_test.py [--full]      each site once for each error; --full: its first, its middle and ten other calls"""
import glob, os, re, subprocess, sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
from zarya import *
import simulated

CALL = re.compile(r"\b(?:zk_)?io(?:\(\))?->(open|pread|pwrite|pwritev|fdatasync|fsync|sync_dir|fallocate|ftruncate|rename|unlink|mkdir|rmdir|stat|fstat|list"
                  r"|map|unmap|advise|lock|disk|seek_data|sync_fs|set_mtime|close)\(|\bzl_io_(read_all|write_all|load|mkdirs|replace)\(")
SCOPE = ["plugins/storage/log/*.c", "plugins/storage/zstd/*.c", "kernel/core/state.c", "sdk/lib/io.c"]

# Sites that no failing call leads to, or not each time, and why: (file, a part of the line with the one behind it).
ELSEWHERE = [
    ("index_bare.c", "zl_io_replace(", "64 KiB without keys only: tests/unit/storage"),
    ("bcq.c", "unlink(st->io->ctx, path) < 0) return;", "not each time: a small file of RocketMQ's that retention takes; tests/unit/storage"),
    ("append.c", "close(st->io->ctx, (int32_t)fd); return ZR_ENOMEM;", "not each time: no memory just there; its result is not looked at"),
    ("index.c", "f->name)) st->io->unlink(st->io->ctx, path);", "not each time: no memory just there; its result is not looked at"),
    ("index_mend.c", "f->name)) st->io->unlink(st->io->ctx, path);", "not each time: a stop in the middle of mending; its result is not looked at"),
    ("segment.c", "st->io->unlink(st->io->ctx, other);", "not each time: two make the same segment; its result is not looked at"),
    ("io.c", "&beyond, 1", "files of more than a GiB only: tests/unit/lib"),
    ("qfile.c", "if (r == 0) r = st->io->ftruncate(st->io->ctx, (int32_t)fd, at)", "torn entries behind a queue's end only: states_test.py, corrupt_test.py"),
    ("ext_write.c", "if (r == 0) r = st->io->ftruncate(st->io->ctx, (int32_t)fd, in)", "units behind the last entry's only: states_test.py, tests/unit/storage"),
    ("folders.c", "unlink(st->io->ctx,", "a log that came back to its own folder only: tests/plays/store_paths_test.py"),
    ("folders.c", "sync_dir(st->io->ctx, st->own_dir)", "a log that came back to its own folder only: tests/plays/store_paths_test.py"),
    ("folders.c", "zl_io_load(io, path, &text)", "a folder of the log that is configured no more only: tests/plays/store_paths_test.py"),
    ("folders.c", "list(st->io->ctx, f->path[i]", "a folder of the log that is configured no more only: tests/plays/store_paths_test.py"),
    ("vouch_topics.c", "stat(st->io->ctx, path, &stat)", "a store that another broker had only: tests/unit/storage"),
    ("vouch_topics.c", "any_name, &any)", "a store that another broker had only: tests/unit/storage"),
    ("vouch_topics.c", "zl_io_load(v->st->io", "a store that another broker had only: tests/unit/storage"),
    ("segment.c", "f->base) ? st->io->open(", "a segment in two folders only: tests/plays/store_paths_test.py"),
    ("segment.c", "zl_io_read_all(st->io, (int32_t)fd, head, sizeof head, at)", "a segment in two folders only: tests/plays/store_paths_test.py"),
    ("segment.c", "st->io->close(st->io->ctx, (int32_t)fd); return worth;", "a segment in two folders only: tests/plays/store_paths_test.py"),
    ("queue.c", "sync_fs(st->io->ctx, st->ext_dir)", "more than 256 queues with extents only"),
    ("qfile.c", "zl_io_write_all(st->io, fd, raw, (uint64_t)k", "not each time: a file that retention takes must be at hand when the call comes; tests/unit/storage"),
    ("qfile.c", "r = st->io->ftruncate(st->io->ctx, (int32_t)fd, 0);", "not each time: a file that retention takes must be at hand when the call comes; tests/unit/storage"),
    ("qfile.c", "int64_t r = st->io->unlink(st->io->ctx, path);", "not each time: a file that retention takes must be at hand when the call comes; tests/unit/storage"),
    ("advice.c", "if (how != ZS_AHEAD_ON)", "a mode of reading that a request sets only: tests/unit/storage, tests/plays"),
    ("segment.c", "r = fd, size = (int64_t)f->size;", "a log of one file of another size than configured, whose next one was not made ahead, only: tests/unit/storage"),
    ("segment.c", "zl_io_read_all(st->io, (int32_t)fd, head, n, at)", "a log of one file of another size than configured, whose next one was not made ahead, only: tests/unit/storage"),
    ("segment.c", "st->io->close(st->io->ctx, (int32_t)fd); return full;", "a log of one file of another size than configured, whose next one was not made ahead, only: tests/unit/storage"),
]


def elsewhere(path, text):
    return any(path.endswith("/" + f) and part in text for f, part, _ in ELSEWHERE)


def sites_of(root):
    """{(file, line, what is called): (how often it stands there, the line with the one behind it)} of every call in the sources."""
    found = {}
    for pattern in SCOPE:
        for path in glob.glob(os.path.join(root, pattern)):
            lines = open(path).read().split("\n")
            for n, line in enumerate(lines[:-1], 1):
                code = re.sub(r"/\*.*?\*/|//.*", "", line)
                for m in CALL.finditer(code):
                    if re.match(r"\s*(static )?(int64_t|void) zl_io_", code):
                        continue  # its definition
                    site = os.path.relpath(path, root), n, m.group(1) or "zl_io_" + m.group(2)
                    found[site] = (found.get(site, (0,))[0] + 1, f"{code} {lines[n].strip()}")
    return found


def reached_by(prog, chains):
    """{(file, line, what is called): the calls' addresses} of the chains that were made to fail, from the seam up to the first caller
    outside of the helpers. A line holds as many call instructions as it has calls, each with a return address of its own."""
    pcs = sorted({pc for _, chain in chains for pc in chain if pc != "(nil)"})
    base = load_base(prog)
    places = {}
    ask = "\n".join(hex(int(pc, 16) - base - 1) for pc in pcs)
    out = subprocess.run(["addr2line", "-f", "-e", prog], input=ask, capture_output=True, text=True).stdout.splitlines()
    for pc, function, where in zip(pcs, out[::2], out[1::2]):
        path, _, line = where.partition(":")
        places[pc] = (os.path.realpath(path), int(re.match(r"\d*", line).group() or 0), function)
    reached = {}
    for op, chain in chains:
        called = op
        for pc in chain:
            if pc not in places:
                break
            path, line, function = places[pc]
            reached.setdefault((path, line, called), set()).add(pc)
            if not path.endswith("sdk/lib/io.c"):
                break
            called = function
    return reached


def load_base(prog):
    return 0 if "EXEC" in subprocess.run(["readelf", "-h", prog], capture_output=True, text=True).stdout else LOADED


def run(cmd):
    """Without a moving load address, so that return addresses can be named afterwards."""
    global LOADED
    LOADED = 0x555555554000
    proc = subprocess.Popen(["setarch", "-R"] + cmd, stdout=subprocess.PIPE, text=True, errors="replace")
    chains = []
    for line in proc.stdout:
        if line.startswith("site "):
            chains.append((line.split()[1], line.split()[2:]))
        elif re.match(r"(not )?ok - ", line):
            check(line.startswith("ok"), line.rstrip().partition(" - ")[2])
        else:
            print(line.rstrip(), flush=True)
    check(proc.wait() == 0, "every failing call is survived", proc.returncode)
    return chains


def main():
    prog = simulated.program("storage_faults")
    chains = run([prog, "--each", "12" if FULL else "1"])
    root = os.environ.get("ZARYA_SOURCES", ROOT)
    sites = sites_of(root)
    reached = {(os.path.relpath(path, os.path.realpath(root)), line, what): len(pcs) for (path, line, what), pcs in reached_by(prog, chains).items()}
    missing = {s: n - reached.get(s, 0) for s, (n, _) in sites.items() if n > reached.get(s, 0)}
    other = {s for s in missing if elsewhere(s[0], sites[s][1])}
    print(f"   {len(other)} more sites need other means: {'; '.join(sorted({why for _, _, why in ELSEWHERE}))}")
    for s in other:
        del missing[s]
    for path, line, what in sorted(s for s in sites if s not in other and elsewhere(s[0], sites[s][1])):
        print(f"   is reached after all: {path}:{line} {what}: {sites[path, line, what][1].strip()}")
    for path, line, what in sorted(missing):
        print(f"   not made to fail: {path}:{line} {what}: {sites[path, line, what][1].strip()}")
    n = sum(n for s, (n, _) in sites.items() if s not in other)
    hit = n - sum(missing.values())
    check(n > 0 and hit == n, f"{hit} of {n} calls of the seam were made to fail, each by itself: {100 * hit / max(1, n):.1f} %", n - hit)
    done()


main()
