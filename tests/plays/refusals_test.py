#!/usr/bin/env python3
"""Every mistake in a configuration and every kind of bad plugin is refused, with file, line, what was wrong and what would be right;
nothing is loaded or touched by --check, and a start that fails takes back what it did."""
import glob, os, sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
if len(sys.argv) > 1 and os.path.isdir(sys.argv[1]):
    os.environ["ZARYA_BUILD"] = os.path.abspath(sys.argv[1])
from zarya import *

ZARYA = os.path.join(BUILD, "bin/zarya")
DIR = temp_dir()
PLUGINS = os.path.join(DIR, "plugins")
os.mkdir(PLUGINS)
CONF = os.path.join(DIR, "zarya.conf")
DATA = os.path.join(DIR, "data")


def plugin(name, folder=PLUGINS, **macros):
    """Compiles tests/unit/kernel/plugin.c, good or bad as the macros say."""
    flags = ["-D%s%s" % (k, "" if v is True else "=" + (v if k == "T_FLAGS" else '"%s"' % v.replace("\n", "\\n"))) for k, v in macros.items()]
    so = os.path.join(folder, name + ".so")
    subprocess.run(["cc", "-std=c17", "-D_GNU_SOURCE", "-fPIC", "-shared", "-fvisibility=hidden", "-w", "-I" + os.path.join(ROOT, "sdk/include"),
                    '-DT_ID="%s"' % name] + flags + [os.path.join(ROOT, "tests/unit/kernel/plugin.c"), "-o", so], check=True)
    os.chmod(so, 0o644)
    return so


def write(path, text):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w", encoding="latin-1") as f:
        f.write(text)
    return path


def zarya(*args, env=None, timeout=30):
    r = subprocess.run([ZARYA, *args], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=timeout,
                       env={**os.environ, "HOME": DIR, "ZARYA_HOME": DATA, **(env or {})}, errors="replace")
    return r.returncode, r.stdout, r.stderr


def conf(plugins, node="", rest=""):
    """Line 1: node, 2: rest, 3: plugins, 4: the first entry."""
    return write(CONF, 'node = { data = "%s"; plugin_dirs = [ "%s" ]; %s };\n%s\nplugins = (\n%s\n);\n' % (DATA, PLUGINS, node, rest, plugins))


def refused(what, message, *args):
    """The configuration at CONF is refused with exactly this line (after "zarya: "), and status 1."""
    status, out, err = zarya(*(args or ("-c", CONF, "--check")))
    lines = [l[7:] for l in err.splitlines() if l.startswith("zarya: ")]
    check(status == 1 and message in lines, what, f"status {status}, wanted {message!r}, got {lines or err!r}")


def entry(use, settings="", more=""):
    return '  { use = "%s"; %s settings = { %s }; }' % (use, more, settings)


plugin("test-a")
plugin("test-b")

# ---- the text of the file
write(CONF, 'node = { name = "x" };\nplugins = (\n  { use = "test-a" }\n')
refused("a missing brace", f'{CONF}:4: syntax error at or before "" (is a \';\' or \',\' or a closing brace missing?)')
write(CONF, 'node = { name = "x"; };\nnode = { name = "y"; };\n')
refused("a section twice in one file", f'{CONF}:2: duplicate setting name: "node = {{ name = "y"; }};"')
refused("no such file", f"{DIR}/none.conf: cannot be read: No such file or directory", "-c", DIR + "/none.conf", "--check")
write(CONF, 'node = { id = 99999999999999999999; };\n')
refused("a number beyond 64 bits", f"{CONF}:1: the number 99999999999999999999 is beyond 64 bits")

# ---- sections and entries
conf(entry("test-a"), rest="brokr = { };")
refused("an unknown section", f'{CONF}:2: there is no section "brokr"; did you mean "broker"?')
conf(entry("test-a"), node='nmae = "x";')
refused("an unknown key of node", f'{CONF}:1: node.nmae: there is no such option; did you mean "name"?')
conf(entry("test-a"), node='log_level = "chatty";')
refused("a word that is not one of the choices", f'{CONF}:1: node.log_level: "chatty" is not one of "error", "warn", "info", "debug"')
conf(entry("test-a"), node="workers = 1000;")
refused("a number above its limit", f"{CONF}:1: node.workers: 1000 is above 256 (allowed: 0 to 256)")
conf("  { as = \"x\"; }")
refused("an entry without use", f'{CONF}:4: plugins: an entry needs use = "plugin id or file"')
conf(entry("test-a") + ",\n  { usr = \"test-a\"; }")
refused("an entry with a mistyped key", f'{CONF}:5: plugins: an entry has no key "usr"; did you mean "use"?')
conf(entry("test-a") + ",\n" + entry("test-a"))
refused("two entries with one name", f'{CONF}:5: plugins: two entries are named "test-a"; the other is at {CONF}:4 (give one another `as`)')
conf(entry("test-a") + ",\n  7")
refused("an entry that is no group", f'{CONF}:5: plugins: an entry must be {{ use = "..."; ... }}')
write(CONF, 'plugins = { use = "test-a"; };\n')
refused("plugins that is no list", f'{CONF}:1: plugins must be a list: plugins = ( {{ use = "..."; }}, ... );')
conf(entry("test-a", more="critical = true; optional = true;"))
refused("critical and optional at once", f"{CONF}:4: plugins: an entry is either critical or optional")

# ---- settings of a plugin
for what, written, message in (
        ("an unknown option", "cuont = 3;", 'cuont: there is no such option; did you mean "count"?'),
        ("text for a number", 'count = "many";', 'count: "many" is no whole number'),
        ("a fraction for a whole number", "count = 1.5;", 'count: "1.5" is no whole number'),
        ("a truth for a number", "count = true;", "count: must be a whole number"),
        ("a number below its limit", "count = 0;", "count: 0 is below 1 (allowed: 1 to 10)"),
        ("a size below its limit", 'size = "1 KiB";', "size: 1 KiB is below 4 KiB (allowed: 4 KiB to 1 GiB)"),
        ("a size above its limit, as a bare number beyond 32 bits", "size = 3000000000;", "size: 3000000000 is above 1 GiB (allowed: 4 KiB to 1 GiB)"),
        ("an unknown unit of size", 'size = "4 Kib";', 'size: "4 Kib" has the unit "Kib"; known here: B, KiB, MiB, GiB, TiB, kB, MB, GB, TB'),
        ("a time that is no whole number of ms", 'wait = "1500 us";', 'wait: "1500 us" is no whole number of ms'),
        ("a time beyond 64 bits", 'wait = "9000000000000000000 d";', 'wait: "9000000000000000000 d" is beyond 64 bits'),
        ("a word near a choice", 'mode = "fsat";', 'mode: "fsat" is not one of "slow", "fast", "middle"; did you mean "fast"?'),
        ("a share above 1", "ratio = 1.5;", "ratio: 1.5 is above 1 (allowed: 0 to 1)"),
        ("a number for text", "word = 7;", "word: must be text in quotes, not the number 7"),
        ("a number in a list of texts", "names = [ 1, 2 ];", "names: must be a list of texts in quotes (item 1 is none)"),
        ("text for a truth", 'flag = "perhaps";', 'flag: "perhaps" is neither true nor false'),
        ("a wrong secret is not shown", "secret = 12345;", "secret: the value (not shown, it is a secret) must be text in quotes")):
    conf("  { use = \"test-a\"; settings = {\n    " + written + " }; }")
    refused(what, f"{CONF}:5: test-a.settings.{message}")
plugin("test-required", T_REQUIRED=True)
conf(entry("test-required"))
refused("a required option that is missing", f"{CONF}:4: test-required.settings.flag: must be given (Whether.)")
conf(entry("test-a", "cuont = 1; size = 1;"), node="wrokers = 1;")
status, out, err = zarya("-c", CONF, "--check")
check(err.count("zarya: ") == 1, "mistakes of node are shown before plugins are looked at", err)
conf(entry("test-a", "cuont = 1; size = 1;"))
status, out, err = zarya("-c", CONF, "--check")
check(len([l for l in err.splitlines() if l.startswith("zarya: ")]) == 2, "all mistakes of an entry are shown at once", err)

# ---- conf.d
conf(entry("test-a"))
write(DIR + "/conf.d/10-b.conf", 'plugins = ( { use = "test-b"; } );\n')
write(DIR + "/conf.d/20-node.conf", 'node = { cluster = "C2"; };\n')
write(DIR + "/conf.d/ignored.conf.bak", "this is no configuration")
status, out, err = zarya("-c", CONF, "--print-config")
check(status == 0 and 'use = "test-b"' in out and 'cluster = "C2"' in out and f'data = "{DATA}"' in out, "conf.d is merged in name order", out + err)
write(DIR + "/conf.d/30-a.conf", '\nplugins = ( { use = "test-b"; as = "test-a"; } );\n')
refused("two entries with one name in two files",
        f'{DIR}/conf.d/30-a.conf:2: plugins: two entries are named "test-a"; the other is at {CONF}:4 (give one another `as`)')
for f in glob.glob(DIR + "/conf.d/*"):
    os.unlink(f)
check(not os.path.exists(DATA), "--check and --print-config touch nothing")

# ---- what is printed can be read again
conf(entry("test-a", 'count = 4; size = 3000000000L; wait = "90 s"; names = "one"; secret = "hush"; word = "say \\"hi\\"";').replace("size = 3000000000L;", 'size = "1 MiB";'))
status, printed, err = zarya("-c", CONF, "--print-config")
check('secret = "***";' in printed and "hush" not in printed + err, "a secret is not printed", printed)
check('wait = "90 s";' in printed and 'size = "1 MiB";' in printed and 'names = [ "one" ];' in printed, "values are printed with their units", printed)
again = write(DIR + "/again.conf", printed)
check(zarya("-c", again, "--print-config")[1] == printed, "what --print-config prints is a configuration that prints the same")
status, out, err = zarya("--schema", "-c", CONF)
check(status == 0 and {o["name"] for o in json.loads(out)["plugins"]["test-a"]["options"]} >= {"count", "secret"}, "--schema is JSON with every option", err)

# ---- bad plugins
conf(entry("test-aa"))
refused("no such plugin", f'{CONF}:4: plugin test-aa: L01: there is no test-aa.so in {PLUGINS}; did you mean "test-a"?')
conf(entry("feature-unheard-of"))
refused("no such plugin, and none near", f"{CONF}:4: plugin feature-unheard-of: L01: there is no feature-unheard-of.so in {PLUGINS}; "
        "is the package zarya-plugin-feature-unheard-of installed?")


def bad(what, name, message, *, make=True, **macros):
    so = plugin(name, **macros) if make else os.path.join(PLUGINS, name + ".so")
    conf(entry(name))
    refused(what, f"{CONF}:4: plugin {name}: " + message.replace("{so}", so))


write(PLUGINS + "/test-text.so", "this is a text, not a program; it is long enough to hold a header of an ELF file, though")
bad("a file that is no ELF file", "test-text", "L03: {so} is no ELF file", make=False)
write(PLUGINS + "/test-empty.so", "")
bad("an empty file", "test-empty", "L03: {so} is no ELF file", make=False)
data = open(PLUGINS + "/test-a.so", "rb").read()
open(PLUGINS + "/test-cut.so", "wb").write(data[:100])
bad("a cut file", "test-cut", "L03: {so} is a damaged ELF file (program headers)", make=False)
open(PLUGINS + "/test-half.so", "wb").write(data[:len(data) // 3])
bad("half a file", "test-half", "L03: {so} is a damaged ELF file (it ends within a segment)", make=False)
open(PLUGINS + "/test-foreign.so", "wb").write(data[:18] + b"\x02\x00" + data[20:])
bad("another processor's file", "test-foreign", "L03: {so} was built for another processor", make=False)
bad("no note", "test-nonote", "L04: {so} has no Zarya manifest note (is it a plugin? ZR_MANIFEST is missing)", T_NO_NOTE=True)
bad("a note with an unreadable abi", "test-abi", "L05: {so} has a manifest whose abi is not of the form major.minor", T_ABI="one")
bad("another ABI major", "test-major", "L06: {so} needs ABI major 2, this kernel has 1", T_ABI="2.0")
bad("a newer ABI minor", "test-minor", "L07: {so} needs ABI 1.99, this kernel has 1.0; a newer zarya would run it", T_ABI="1.99")
bad("a note with another id", "test-note", "L08: {so} calls itself test-other in its note, not test-note", T_NOTE_ID="test-other")
bad("a descriptor with another id", "test-desc", "L08: {so} calls itself test-other in its descriptor and test-desc in its note", T_DESC_ID="test-other")
plugin("test-provider", T_MORE="provides = test.thing/1\n")
bad("a requirement nobody meets, and who could", "test-needy", "L09: it requires test.thing/1, which no configured plugin provides (test-provider would)",
    T_MORE="requires = test.thing/1\n")
bad("a requirement nobody could meet", "test-needier", "L09: it requires test.nothing/1, which no configured plugin provides and no installed one does",
    T_MORE="requires = test.nothing/1\n")
plugin("test-rival", T_MORE="conflicts = test-a\n")
conf(entry("test-a") + ",\n" + entry("test-rival"))
refused("a conflict", f"{CONF}:5: plugin test-rival: L10: it conflicts with test-a, and test-a ({CONF}:4) is that")
plugin("test-x", T_MORE="provides = test.x/1\nrequires = test.z/1\n")
plugin("test-y", T_MORE="provides = test.y/1\nrequires = test.x/1\n")
plugin("test-z", T_MORE="provides = test.z/1\nrequires = test.y/1\n")
conf(",\n".join(entry(n) for n in ("test-x", "test-y", "test-z")))
refused("a loop of requirements", f"{CONF}: L11: the requirements go in a loop: test-x requires test.z/1 of test-z requires test.y/1 of test-y requires test.x/1 of test-x")
bad("a symbol that is missing", "test-symbol", "L13: {so} cannot be loaded: undefined symbol: symbol_that_nobody_has", T_NEED=True)
bad("no entry symbol", "test-entry", "L14: {so} does not export zarya_plugin_entry_1", T_NO_ENTRY=True)
bad("no descriptor", "test-null", "L15: the descriptor of {so} is NULL", T_NULL=True)
bad("a must-understand flag", "test-flags", "L15: the descriptor of {so} has the must-understand flags 0x04, which this kernel does not know", T_FLAGS="4")
bad("no create", "test-create", "L15: the descriptor of {so} has no create, destroy or query", T_NO_CREATE=True)
plugin("test-row", T_BAD_ROW=True)
conf(entry("test-row"))
refused("an option row outside of the struct", f"{CONF}:4: test-row.settings: option row 9 (outside) lies outside of the settings struct")
plugin("test-default", T_BAD_DEFAULT=True)
conf(entry("test-default"))
refused("a default that is not allowed",
        f"{CONF}:4: test-default.settings: option row size has a default that is not allowed: 1 KiB is below 4 KiB (allowed: 4 KiB to 1 GiB)")
bad("a check that says no", "test-check", "L18: its check says no: the moon is in the wrong phase", T_FAIL="check")

so = plugin("test-open")
os.chmod(so, 0o666)
bad("a file that everybody may write", "test-open", "L02: {so} may be written by everybody (chmod o-w)", make=False)
os.chmod(so, 0o644)
os.chmod(PLUGINS, 0o777)
bad("a folder that everybody may write", "test-open", f"L02: the folder {PLUGINS} of this plugin may be written by everybody (chmod o-w)", make=False)
os.chmod(PLUGINS, 0o755)
check(not os.path.exists(DATA), "none of these checks touched the data directory")

# ---- the data directory, which only a start takes
write(CONF, f'plugins = (\n{entry("test-a")}\n);\nnode = {{ plugin_dirs = [ "{PLUGINS}" ];\n  data = "{CONF}/below";\n}};\n')
refused("a data directory that cannot be made", f"{CONF}:5: node.data: the data directory {CONF}/below/run cannot be made: Not a directory", "-c", CONF)
props = write(os.path.join(DIR, "broker.conf"), f"brokerName=b\nstorePathRootDir={CONF}/store\nlistenPort=0\n")
refused("the same in a broker.conf", f"{props}:2: storePathRootDir: the data directory {CONF}/store/run cannot be made: Not a directory", "broker", "-c", props)
conf(entry("test-a"), node="")
write(CONF, f'node = {{ plugin_dirs = [ "{PLUGINS}" ]; }};\nplugins = (\n{entry("test-a")}\n);\n')
status, out, err = zarya("-c", CONF, env={"ZARYA_HOME": CONF + "/home"})
check(status == 1 and f"node.data: the data directory {CONF}/home/run cannot be made: Not a directory ($ZARYA_HOME" in err, "the same where it is not configured", err)

# ---- folders that no code can be loaded from (hardened machines mount /tmp and /var so)
NOEXEC = os.path.join(DIR, "noexec")
os.mkdir(NOEXEC)
MOUNT = ["unshare"] + ([] if os.geteuid() == 0 else ["-Ur"]) + ["-m", "sh", "-ec", 'mount -t tmpfs -o noexec none "$0"; exec "$@"', NOEXEC]
if subprocess.run(MOUNT + ["true"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode == 0:
    conf(entry("test-a"))
    env = {**os.environ, "HOME": DIR, "ZARYA_HOME": DATA, "TMPDIR": NOEXEC}
    r = subprocess.run(MOUNT + [ZARYA, "-c", CONF, "--check"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=30, env=env)
    check(r.returncode == 0 and "the configuration is good" in r.stdout, "--check with a TMPDIR that is mounted noexec goes elsewhere", r.stdout)
    write(CONF, f'node = {{ data = "{NOEXEC}/data"; plugin_dirs = [ "{PLUGINS}" ]; }};\nplugins = (\n{entry("test-a")}\n);\n')
    log = os.path.join(DIR, "noexec.log")
    p = start(MOUNT + [ZARYA, "-c", CONF], log, {"HOME": DIR})
    wait_for(lambda: "step activate" in text_of(log) or p.poll() is not None)
    p.terminate()
    check(p.wait(20) == 0 and "step activate" in text_of(log), "so does a start whose data directory is", text_of(log))
else:
    skip("folders mounted noexec", "no file system can be mounted here")

# ---- starts that fail take back what they did


def start_fails(what, plugins, message, steps):
    conf(plugins)
    status, out, err = zarya("-c", CONF)
    seen = [l.split(" info  ")[1].replace("#", " ").split() for l in err.splitlines() if ": step " in l]
    seen = [s[0] + " " + s[-1] for s in seen if s[-1] not in ("check", "create")]
    check(status == 1 and "zarya: " + message in err.splitlines() and seen == steps, what, f"status {status}, {seen}, {err}")


plugin("test-warm", T_FAIL="warm")
start_fails("a warm that fails cools what was warm, in reverse, and the failed one gets destroy only",
            ",\n".join(entry(n) for n in ("test-a", "test-b", "test-warm")),
            f"{CONF}:6: plugin test-warm: cannot start: the moon is in the wrong phase",
            ["test-a warm", "test-b warm", "test-warm warm", "test-warm destroy", "test-b cool", "test-a cool", "test-b destroy", "test-a destroy"])
plugin("test-made", T_FAIL="create")
start_fails("a create that fails destroys what was made", ",\n".join(entry(n) for n in ("test-a", "test-made")),
            f"{CONF}:5: plugin test-made: cannot be created: the moon is in the wrong phase", ["test-a destroy"])
plugin("test-table", T_MORE="provides = zarya.hooks/1\n", T_NO_TABLE=True)
start_fails("an interface that is promised and not there", entry("test-table"),
            f"{CONF}:4: plugin test-table: cannot be created: L16: the table zarya.hooks/1 of test-table is provided by its note but not by its query",
            ["test-table destroy"])
plugin("test-h1", T_MORE="provides = zarya.hooks/1\n", T_HOOK_AFTER="test-h2")
plugin("test-h2", T_MORE="provides = zarya.hooks/1\n", T_HOOK_AFTER="test-h1")
start_fails("hooks in a loop", entry("test-h1") + ",\n" + entry("test-h2"),
            "L17: the hooks at point 40 cannot be put in order: test-h1 is in a loop of before and after", ["test-h2 destroy", "test-h1 destroy"])


def run_until(plugins, text="step activate", **more):
    conf(plugins, **more)
    log = os.path.join(DIR, "run.log")
    open(log, "w").close()
    p = start([ZARYA, "-c", CONF], log, {"HOME": DIR})
    wait_for(lambda: text in text_of(log) or p.poll() is not None)
    return p, log


# ---- a good one: order, two instances of one file, optional ones, stop
plugin("test-h3", T_MORE="provides = zarya.hooks/1\nrequires = test.thing/1\n", T_HOOK_BEFORE="test-h4")
plugin("test-h4", T_MORE="provides = zarya.hooks/1\n")
p, log = run_until(",\n".join([entry("test-h4"), entry("test-h3"), entry("test-provider", "count = 1;"), entry("test-provider", "count = 2;", 'as = "second";'),
                               entry("test-warm", more="optional = true;"), entry("test-needier", more="optional = true;"),
                               entry("feature-none", more="optional = true;")]), "second#1: step activate")
status, out, err = zarya("-c", CONF)
check(status == 1 and f"zarya: {CONF}:1: node.data: the data directory {DATA} is in use by another zarya" in err, "a second process on one data directory", err)
os.kill(p.pid, signal.SIGHUP)
check(wait_for(lambda: "SIGHUP: the running configuration stays" in text_of(log)), "SIGHUP is noted and ends nothing", text_of(log))
p.send_signal(signal.SIGTERM)
check(p.wait(20) == 0, "SIGTERM ends it with status 0", text_of(log))
steps = re.findall(r"info  (\S+?)#\d+: step (\w+)", text_of(log))
order = [n for n, s in steps if s == "activate"]
check(order == ["test-h4", "test-provider", "second", "test-h3"], "providers start before users, else in the order of the file", order)
check([n for n, s in steps if s == "cool"] == order[::-1], "they are cooled in reverse", steps)
check([n for n, s in steps if s == "hook"] == ["test-h3", "test-h4"], "`before` puts a hook in front of one that is configured earlier", steps)
for name, why in (("test-warm", "cannot start: the moon is in the wrong phase"), ("test-needier", "L09: it requires test.nothing/1"), ("feature-none", "L01: there is no feature-none.so")):
    check(f"optional plugin {name} is left out: {why}" in text_of(log), f"an optional plugin is left out and said so: {name}", text_of(log))
leaks = [l for l in text_of(log).splitlines() if "ERROR: " in l]
check(not leaks, "no sanitizer complains", leaks)

plugin("test-stuck", T_NO_DRAIN=True)
p, log = run_until(entry("test-stuck"), node='drain_timeout = "200 ms";')
p.send_signal(signal.SIGINT)
check(p.wait(20) == 0 and "test-stuck did not finish what it had open within 200 ms" in text_of(log), "a plugin that does not drain is stopped after the deadline", text_of(log))
p, log = run_until(entry("test-a"), node='log_format = "json";')
p.terminate()
p.wait(20)
lines = [json.loads(l) for l in text_of(log).splitlines() if l.startswith("{")]
check(any(l["instance"] == "test-a" and l["generation"] == 1 and l["text"] == "step warm" and l["level"] == "info" for l in lines), "the log as JSON lines", text_of(log))

# ---- the command line
for args, message in ((["--chekc"], "there is no option --chekc; did you mean --check?"), (["brokr"], "there is no command brokr"), (["-c"], "-c needs a value")):
    status, out, err = zarya(*args)
    check(status == 2 and err.splitlines()[0] == "zarya: " + message, "command line " + " ".join(args), err)
for args in (["broker", "-n", ""], ["broker", "-n", "  "], ["broker", "--namesrvAddr="], ["-c", ""]):
    status, out, err = zarya(*args, "--check")
    check(status == 2 and "needs a value, and it is empty" in err.splitlines()[0], f"command line {args}: an empty value is refused", (status, err))
check(zarya("--version")[1].startswith("zarya 0."), "--version")

# ---- Apache's files
BROKER = os.path.join(DIR, "broker.conf")
have = all(os.path.exists(os.path.join(BUILD, "plugins", f + ".so")) for f in ("transport-tcp", "storage-commitlog", "routing-remote", "routing-namesrv", "filter-tag"))
if have:
    write(BROKER, "# a comment\nbrokerName = broker-x\nbrokerId=0\nlistenPort=20911\nflushDiskType=SYNC_FLUSH\nnamesrvAddr=10.0.0.1:9876;10.0.0.2:9876\n"
          "storePathRootDir=${user.home}/st\nsendMessageThreadPoolNums=4 \nautoCreateTopicEnable=maybe\nfileReservdTime=48\nsomethingElse=1\n"
          "sendThreadPoolQueueCapacity=10\nmaxMessageSize=notanumber\n")
    status, out, err = zarya("broker", "-c", BROKER, "-p")
    got = dict(l.split("=", 1) for l in out.splitlines() if "=" in l)
    want = {"brokerName": "broker-x", "listenPort": "20911", "namesrvAddr": "10.0.0.1:9876;10.0.0.2:9876", "storePathRootDir": DIR + "/st",
            "flushDiskType": "SYNC_FLUSH", "autoCreateTopicEnable": "false"}
    check(status == 0 and all(got.get(k) == v for k, v in want.items()), "zarya broker -c FILE -p prints what the file means", {k: got.get(k) for k in want})
    important = zarya("broker", "-c", BROKER, "-m")[1]
    check("brokerName=broker-x" in important and "longPollingEnable" not in important, "-m prints the important ones", important)
    for line in (f'{BROKER}:8: sendMessageThreadPoolNums: "4 " is no integer (blanks at its end count), so it is ignored, as Apache does',
                 f'{BROKER}:10: fileReservdTime: Apache knows no such key; did you mean "fileReservedTime"?',
                 f"{BROKER}:11: somethingElse: Apache knows no such key, so it is ignored",
                 f'{BROKER}:13: maxMessageSize: "notanumber" is no integer (blanks at its end count), so it is ignored, as Apache does'):
        check("zarya: warning: " + line in err.splitlines(), "warned: " + line.split(":", 2)[2], err)
    check(f"zarya: warning: {BROKER}: these keys have no effect here: sendThreadPoolQueueCapacity" in err.splitlines(), "keys without effect are listed once", err)
    status, out, err = zarya("broker", "-c", BROKER, "-n", "10.9.9.9:9876", "-p")
    check("namesrvAddr=10.9.9.9:9876\n" in out, "-n wins over the file", out)
    write(BROKER, "brokerName=b\n")
    check("namesrvAddr=10.8.8.8:9876\n" in zarya("broker", "-c", BROKER, "-p", env={"NAMESRV_ADDR": "10.8.8.8:9876"})[1], "NAMESRV_ADDR is taken when the file names none")
    check("namesrvAddr" not in zarya("broker", "-c", BROKER, "-p", env={"NAMESRV_ADDR": ""})[1], "without a name server the broker runs alone")
    write(BROKER, "brokerName=b\nstorePathCommitLog=/a/x, st/y\nreadOnlyCommitLogStorePaths=/old/\n")
    out = zarya("broker", "-c", BROKER, "--print-config")[1]
    check(f'path_commitlog = "/a/x,{os.getcwd()}/st/y";' in out and 'path_commitlog_read_only = "/old";' in out, "a log in several folders", out)
    write(BROKER, "brokerName=b\nmaxMessageSize=8388608\nserverChannelMaxIdleTimeSeconds=60\ndiskMaxUsedSpaceRatio=80\nstorePathCommitLog=st/log\n")
    out = zarya("broker", "-c", BROKER, "--print-config")[1]
    check(all(t in out for t in ('maxMessageSize = "8 MiB";', 'max_message_size = "8 MiB";', 'idle_timeout = "1 min";', "disk_clean_ratio = 0.8;",
                                 f'path_commitlog = "{os.getcwd()}/st/log";')), "keys of Apache's in other units and places", out)
    for key, value in (("aclEnable", "true"), ("authenticationEnabled", "true"), ("enableDLegerCommitLog", "true"), ("storeType", "defaultRocksDB"), ("brokerRole", "SLAVE")):
        write(BROKER, f"brokerName=b\n{key}={value}\n")
        status, out, err = zarya("broker", "-c", BROKER, "--check")
        check(status == 1 and f"zarya: {BROKER}:2: {key} = {value}: " in err, f"{key}={value} is refused, not ignored", err)
    write(BROKER, "brokerRole=SYNC_MASTER\ninSyncReplicas=2\n")
    status, out, err = zarya("broker", "-c", BROKER, "--check")
    check(status == 1 and f"zarya: {BROKER}:2: inSyncReplicas = 2: " in err, "copies that nobody makes are refused", err)
    write(BROKER, "brokerId=1\n")
    check("  id = 0;" in zarya("broker", "-c", BROKER, "--print-config")[1], "a master's id is 0, as Apache makes it")
    # ---- what cannot be together, and what would start and be of no use: before anything is opened, by --check as by a start

    def useless(what, entries, *messages):
        write(CONF, f'node = {{ data = "{DIR}/useless"; }};\nplugins = (\n' + ",\n".join(entries) + "\n);\n")
        for args in (("-c", CONF, "--check"), ("-c", CONF)):
            status, out, err = zarya(*args)
            told = [l[7:] for l in err.splitlines() if l.startswith("zarya: ")]
            check(status == 1 and told == list(messages) and "boot success" not in out, what + (", by --check" if "--check" in args else ", by a start"), (status, out, err))
        made = [os.path.join(b, f) for b, _, fs in os.walk(f"{DIR}/useless") for f in fs if "/run" not in b]
        check(not made, what + ": nothing was opened", made)

    tcp = '  { use = "transport-tcp"; settings = { listen = "127.0.0.1:0"; }; }'
    store, admin = '  { use = "storage-commitlog"; }', '  { use = "feature-admin"; }'
    if os.path.exists(os.path.join(BUILD, "plugins/storage-zstd.so")):
        useless("two storages", [tcp, store, '  { use = "storage-zstd"; }'],
                f"{CONF}:5: plugin storage-zstd: L12: it is a storage, and there can be one only: storage-commitlog ({CONF}:4) is one too")
    useless("two handlers for a request code", [tcp, store, admin, '  { use = "feature-admin"; as = "again"; }'],
            f"{CONF}:6: plugin again: L19: request code 17 (UPDATE_AND_CREATE_TOPIC) has two handlers: of feature-admin ({CONF}:5) and of again ({CONF}:6)")
    useless("a broker without a listener", [store], f"{CONF}:3: plugin storage-commitlog makes this a broker, and no listener is configured that clients reach it by "
            '({ use = "transport-tcp"; settings = { listen = "0.0.0.0:10911"; serves = [ "broker" ]; }; })')
    useless("a listener for which nobody answers", [tcp, store, '  { use = "transport-tcp"; as = "ns"; settings = { listen = "127.0.0.1:0";\n    serves = [ "routing" ]; }; }'],
            f'{CONF}:6: plugin ns: it serves "routing", and no configured plugin answers there (routing-namesrv does)')

    # ---- a port that is taken: plugin, address, file and line of the option
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        at = "127.0.0.1:%d" % taken.getsockname()[1]
        reason = f"cannot listen on {{}}: {{}}; another process listens there (ss -ltnp shows which)"
        for use, value, word in (("transport-tcp", at, "Address already in use"), ("transport-nng", "tcp://" + at, "Address in use")):
            if not os.path.exists(os.path.join(BUILD, "plugins", use + ".so")):
                continue
            scheme = "tcp://" if use.endswith("nng") else ""
            write(CONF, f'node = {{ data = "{DATA}"; }};\nplugins = (\n  {{ use = "{use}"; as = "ns"; settings = {{\n    serves = [ "routing" ];\n    listen = [ "{scheme}127.0.0.1:0",\n'
                  f'               "{value}" ]; }}; }},\n  {{ use = "routing-namesrv"; }}\n);\n')
            status, out, err = zarya("-c", CONF)
            wanted = f"zarya: {CONF}:6: plugin ns: cannot start: " + reason.format(value, word)
            check(status == 1 and wanted in err.splitlines(), f"a port that is taken ({use})", (wanted, err))
        write(BROKER, f"brokerName=b\nbindAddress=127.0.0.1\nlistenPort={at.split(':')[1]}\nstorePathRootDir={DIR}/taken\n")
        status, out, err = zarya("broker", "-c", BROKER)
        wanted = f"zarya: {BROKER}:3: plugin broker: cannot start: " + reason.format(at, "Address already in use")
        check(status == 1 and wanted in err.splitlines(), "a port that is taken, in a broker.conf", (wanted, err))
    if socket.has_ipv6 and os.path.exists("/proc/net/if_inet6") and "00000000000000000000000000000001" in text_of("/proc/net/if_inet6"):
        write(BROKER, f"brokerName=b\nbindAddress=::1\nbrokerIP1=::1\nlistenPort={free_port()}\nstorePathRootDir={DIR}/six\n")
        log = os.path.join(DIR, "six.log")
        p = start([ZARYA, "broker", "-c", BROKER], log, {"HOME": DIR, "NAMESRV_ADDR": ""})
        wait_for(lambda: "boot success" in text_of(log) or p.poll() is not None)
        p.terminate()
        check(p.wait(20) == 0 and re.search(r"The broker\[b, \[::1\]:\d+\] boot success", text_of(log)), "an IPv6 address stands in brackets in the boot line", text_of(log))
    else:
        skip("the boot line of an IPv6 address", "there is no IPv6 here")
    NS = write(os.path.join(DIR, "namesrv.conf"), "listenPort=29876\nsupportActingMaster=false\nkvConfigPath=%s/kv.json\n" % DIR)
    status, out, err = zarya("namesrv", "-c", NS, "-p")
    check(status == 0 and "listenPort=29876\n" in out, "zarya namesrv -c FILE -p", out + err)
    check(zarya("namesrv", "-c", NS, "--check")[0] == 0 and not os.path.exists(DIR + "/namesrv"), "zarya namesrv --check touches nothing")
else:
    skip("Apache's files", "the plugins of a broker are not built")
done()
