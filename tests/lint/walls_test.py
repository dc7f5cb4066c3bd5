#!/usr/bin/env python3
"""The walls can fail: each breach is planted in a small tree of its own, and walls.py must refuse it with the rule and the line."""
import os, shutil, subprocess, sys, tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
TREE = tempfile.mkdtemp(prefix="zarya-walls-")
GOOD = {
    "sdk/include/zarya/abi.h": "#include <stdint.h>\n",
    "sdk/lib/zl/text.h": "#include <zarya/abi.h>\n",
    "sdk/lib/text.c": '#include "zl/text.h"\n#include <string.h>\n',
    "kernel/core/core.h": '#include "zl/text.h"\n',
    "kernel/core/log.c": '#include "core/core.h"\n#include "core.h"\n#include <sys/stat.h>\n',
    "kernel/read.c": "#include <libconfig.h>\n",
    "plugins/feature/admin/admin.h": "#include <zarya/abi.h>\n",
    "plugins/feature/query/query.h": "#include <zarya/abi.h>\n",
    "plugins/feature/query/query.c": '#include "query.h"\n#include "zl/text.h"\n#include <stdio.h>\n',
    "plugins/transport/common/wheel.h": "#include <stdint.h>\n",
    "plugins/transport/tcp/tcp.c": '#include "../common/wheel.h"\n',
    "plugins/storage/log/store.h": "#include <stdint.h>\n",
    "plugins/storage/log/deep/store.c": '#include "../store.h"\n',
    "plugins/storage/tool/tool.c": '#include "../log/store.h"\n#include "store.h"\n',
    "plugins/storage/zstd/zstd.c": "#include <zstd.h>\n",
}
failed = 0


def check(ok, what, why=""):
    global failed
    print(f"ok - {what}" if ok else f"not ok - {what}: {why}", flush=True)
    failed += not ok


def walls(*args):
    r = subprocess.run([sys.executable, os.path.join(TREE, "tests/lint/walls.py"), *args], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    return r.returncode, r.stdout


def plant(path, text):
    full = os.path.join(TREE, path)
    os.makedirs(os.path.dirname(full), exist_ok=True)
    with open(full, "w") as f:
        f.write(text)


def breaches(planted):
    """Each in a file of its own, in line 3: all are refused, and nothing else is."""
    wanted = {}
    for i, (wall, folder, include) in enumerate(planted):
        path = f"{folder}/breach{i}.{'h' if folder.startswith('sdk/include') else 'c'}"
        plant(path, "#include <stdint.h>\n\n" + include + "\n")
        wanted[f"{path}:3: error: wall {wall}: "] = f"refused in {folder}: {include!r}"
    status, out = walls("includes")
    lines = out.splitlines()
    for begin, what in wanted.items():
        check(status == 1 and sum(l.startswith(begin) for l in lines) == 1, what, out)
    check(len(lines) == len(wanted), "and nothing else is refused", out)


def compiled(name, text, *flags):
    so = os.path.join(TREE, name)
    plant(name + ".c", text)
    subprocess.run(["cc", "-shared", "-fPIC", so + ".c", "-o", so, *flags], check=True)
    return so


def main():
    plant("tests/lint/walls.py", open(os.path.join(HERE, "walls.py")).read())
    for path, text in GOOD.items():
        plant(path, text)
    status, out = walls("includes")
    check(status == 0 and not out, "a tree without a breach is good", out)

    query, log = "plugins/feature/query", "kernel/core"
    plant(query + "/query.inc", "")  # would not be looked through
    os.symlink("../../../kernel/core/core.h", os.path.join(TREE, query, "way.h"))
    breaches([(1, query, i) for i in (
        '#include "../admin/admin.h"', '#include "../query/../admin/admin.h"', '#include "../../../kernel/core/core.h"', '#include "core/core.h"',
        "#include <zarya/../../../kernel/core/core.h>", "#include <sys/../zstd.h>", '#include "zl/../text.c"', "#include <zstd.h>", "#include HIDDEN",
        "#include_next <stdio.h>", '  /* x */ # /* y */ include "../admin/admin.h"', '%:include "../admin/admin.h"', f'#include "{TREE}/kernel/core/core.h"',
        '#include "query.inc"', '#include "way.h"', '#incl\\\nude "../admin/admin.h"')] + [
        (1, "plugins/transport/tcp", '#include "../../storage/log/store.h"'), (1, "plugins/storage/zstd", '#include "../../feature/query/query.h"')] + [
        (2, log, i) for i in ('#include "../../plugins/feature/admin/admin.h"', '#include "../plugins/storage/log/store.h"', "#include <nng/nng.h>",
                              "#include <zarya/../../../plugins/feature/admin/admin.h>")] + [
        (1, "sdk/lib", '#include "../../kernel/core/core.h"'), (3, "sdk/include/zarya", "#include <unistd.h>"),
        (3, "sdk/include/zarya", "#include <zarya/../../lib/zl/text.h>")])

    for path in os.listdir(os.path.join(TREE, "sdk/include/zarya")):
        if path.startswith("breach"):
            os.unlink(os.path.join(TREE, "sdk/include/zarya", path))
    plant("sdk/include/zarya/abi.h", "#include <stdint.h>\nstruct hole { char a; int64_t b; };\n")
    status, out = walls("headers", "cc", "c++")
    check(status == 1 and "sdk/include/zarya/abi.h: error: wall 3" in out, "refused: a public struct with padding", out)
    plant("sdk/include/zarya/abi.h", "#include <stdint.h>\nstruct named { int64_t class; };\n")
    status, out = walls("headers", "cc", "c++")
    check(status == 1 and "does not compile alone as c++17" in out, "refused: a public header that is no C++", out)

    entry = "void zarya_plugin_entry_1(void);\nvoid zarya_plugin_entry_1(void) {}\n"
    one, two = compiled("one.so", entry), compiled("two.so", entry + "int more;\n")
    subprocess.run(["cc", "-x", "c", "-", "-o", os.path.join(TREE, "program")], input="int main(void) { return 0; }\n", text=True, check=True)
    program = os.path.join(TREE, "program")
    check(walls("symbols", program, one)[0] == 0, "a plugin with its one symbol is good")
    status, out = walls("symbols", program, two)
    check(status == 1 and "wall 4" in out and "'more'" in out, "refused: a second symbol", out)
    status, out = walls("symbols", one, one)
    check(status == 1 and "the kernel exports no symbol" in out, "refused: a symbol of the kernel", out)
    lib = compiled("libzarya-x.so", "int x;\n", "-Wl,-soname,libzarya-x.so")
    status, out = walls("symbols", program, compiled("linked.so", entry, "-Wl,--no-as-needed", lib))
    check(status == 1 and "wall 5" in out, "refused: a plugin linked to a library of ours", out)
    subprocess.run(["cc", "-x", "c", "-", "-x", "none", "-Wl,--no-as-needed", lib, "-o", program], input="int main(void) { return 0; }\n", text=True, check=True)
    status, out = walls("symbols", program)
    check(status == 1 and "the kernel links libzarya-x.so" in out, "refused: a kernel that links a plugin's library", out)


try:
    main()
finally:
    shutil.rmtree(TREE, True)
sys.exit(1 if failed else 0)
