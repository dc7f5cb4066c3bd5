#!/usr/bin/env python3
"""A log that lies elsewhere than DIR/commitlog, in one folder or in several: zaryactl store finds it by --log-path or --conf, checks,
shows, converts and repairs it there, and says what is the matter when it is not told where to look."""
import glob, os, sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
from zarya import *

TOOL = tool("zaryactl-store")
N, SEGMENT = 1200, 262144
SHAPE = 'segment_size = "256 KiB"; queue_file_size = 8000; index_slots = 1000; index_entries = 3000;'


def store(*args):
    r = subprocess.run([TOOL, *args], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=120, errors="replace")
    return r.returncode, r.stdout, r.stderr


def findings(*args):
    status, out, err = store("check", *args, "--json")
    try:
        return status, json.loads(out)["findings"]
    except ValueError:
        return 3, [{"level": "lost", "kind": "none", "file": err[-1500:]}]


def wrong(found):
    return [f for f in found if f["level"] != "note"] if isinstance(found, list) else found


def send_all(addr, topic, n):
    c, flying = Conn(addr), 0
    for i in range(n):
        c.sock.sendall(send_frame(topic, i % 4, f"m:{i}:".encode() + b"x" * 900, i + 10, keys=f"k{i}"))
        flying += 1
        while flying >= 64 or (i == n - 1 and flying):
            got = c.read(20)
            check(got and got[0]["code"] == 0, "a message is taken", got) if not got or got[0]["code"] else None
            flying -= 1
    c.close()


def flip(path, at):
    with open(path, "r+b") as f:
        f.seek(at)
        b = f.read(1)[0]
        f.seek(at)
        f.write(bytes([b ^ 0x41]))


def a_second_broker(z, shape, folder, log_path):
    """With a data directory of its own, but a folder of the log that the first one has: neither it nor the tool gets in."""
    other = Zarya(storage=shape.replace(log_path, folder), name="broker-b")
    os.mkdir(other.data) if not os.path.isdir(other.data) else None
    r = subprocess.run([os.path.join(BUILD, "bin/zarya"), "-c", other.conf], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=60)
    check(r.returncode != 0 and folder in r.stdout and other.data in r.stdout and "another broker" in r.stdout,
          "a second broker on a folder of the log is refused, with both places named", r.stdout[-600:])
    for command in (["convert", other.data, "--to", "plain"], ["check", other.data, "--repair"]):
        status, out, err = store(*command, "--log-path", folder)
        check(status == 3 and folder in err and "has this folder of the log open" in err, f"so is {command[0]}", (status, out[-300:], err))
    check(len(pull_queue(z.addr, "Paths", 0)) == N // 4, "the first one goes on")


def ratios():
    """Messages refused before old ones are deleted: they would be for ever."""
    z = Zarya(storage="disk_force_ratio = 0.85; disk_refuse_ratio = 0.7;")
    r = subprocess.run([os.path.join(BUILD, "bin/zarya"), "-c", z.conf, "--check"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=60)
    line = next(i for i, l in enumerate(text_of(z.conf).splitlines(), 1) if "storage-commitlog" in l)
    check(r.returncode == 1 and f"zarya.conf:{line}: " in r.stdout and "disk_refuse_ratio is below disk_force_ratio" in r.stdout, "disk_refuse_ratio below disk_force_ratio is refused with its line", r.stdout)


def names(folder):
    return sorted(os.listdir(folder))


def moved_to(z, top, log_path):
    """A broker on a copy of the other one's folders."""
    d = temp_dir()
    shutil.rmtree(d)
    subprocess.run(["cp", "-r", "--sparse=always", top, d], check=True)
    return Zarya(directory=d, storage=SHAPE + f' path_commitlog = "{log_path.replace(top, d)}";')


def refused(z):
    r = subprocess.run([os.path.join(BUILD, "bin/zarya"), "-c", z.conf], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=60)
    return r.stdout if r.returncode else ""


def half_of_it():
    """The log lies in DIR/commitlog and on another disk. A tool or a start that knows of the one only takes nothing for lost."""
    d = temp_dir()
    log_path = f"{d}/data/commitlog,{d}/two"
    os.mkdir(d + "/two")
    z = Zarya(directory=d, storage=SHAPE + f' path_commitlog = "{log_path}";').start()
    create_topic(z.addr, "Paths")
    send_all(z.addr, "Paths", N)
    check(z.stop() == 0, "zarya stops", text_of(z.log)[-600:])
    before = names(d + "/data/commitlog"), names(d + "/two")
    check(min(len(b) for b in before) >= 2, "segments lie beside the queues and on the other disk", before)

    status, found = findings(d + "/data")
    check(status == 0, "check finds the folders in the broker's note", (status, str(wrong(found))[:600]))
    status, out, err = store("check", d + "/data", "--repair")
    check(status == 0 and (names(d + "/data/commitlog"), names(d + "/two")) == before, "--repair too, and has nothing to do", (status, out[-300:], err))
    status, out, err = store("show", d + "/data", "--key", "Paths", "k7")
    check(status == 0 and "k7" in out, "show too", (out[-300:], err))

    half = moved_to(z, d, f"{d}/data/commitlog")
    os.rename(half.dir + "/two", half.dir + "/elsewhere")
    with open(half.data + "/zarya/folders") as f:
        note = f.read()
    check("log commitlog\n" in note and f"log {d}/two\n" in note, "the note is relative where the folder lies inside", note)
    status, out, err = store("check", half.data, "--repair")
    check(status == 3 and d + "/two" in err and "moved or copied" in err, "a copy's note is not taken for where its log is", (status, out[-300:], err))
    with open(half.data + "/zarya/folders", "w") as f:
        f.write(note.replace(d + "/", half.dir + "/"))
    status, out, err = store("check", half.data, "--repair")
    check(status == 3 and half.dir + "/two" in err and "zarya/folders" in err, "a folder of the note that is not there is named, with the note", (status, out[-300:], err))
    os.unlink(half.data + "/zarya/folders")
    files = names(half.data + "/commitlog"), names(half.data + "/zarya")
    status, out, err = store("check", half.data, "--repair")
    check(status == 2 and "--accept-loss" in err and "nothing is changed" in err, "without the note --repair does not take missing segments for lost", (status, out[-300:], err))
    check((names(half.data + "/commitlog"), names(half.data + "/zarya")) == files, "and makes none", names(half.data + "/commitlog"))
    os.rename(half.dir + "/elsewhere", half.dir + "/two")
    half = Zarya(directory=half.dir, storage=SHAPE + f' path_commitlog = "{half.data}/commitlog,{half.dir}/two";').start()
    check(pulled(half) == N, "with both folders all is served", pulled(half))
    check(half.stop() == 0, "zarya stops", text_of(half.log)[-600:])

    lost = moved_to(z, d, f"{d}/data/commitlog")
    os.unlink(lost.data + "/zarya/folders")
    status, out, err = store("check", lost.data, "--repair", "--accept-loss")
    check(status == 0 and len(names(lost.data + "/commitlog")) > len(before[0]), "with --accept-loss it does", (status, out[-600:], err))

    one = Zarya(directory=half.dir, storage=SHAPE)
    said = refused(one)
    check(half.dir + "/two" in said and "path_commitlog" in said, "a start with the one folder only is refused, and the other is named", said[-600:])
    shutil.copytree(half.dir + "/two", half.data + "/commitlog", dirs_exist_ok=True)
    one = Zarya(directory=half.dir, storage=SHAPE).start()
    check(pulled(one) == N, "not when all of the log was moved there", pulled(one))
    check(one.stop() == 0 and not os.path.exists(one.data + "/zarya/folders"), "and the log's own folder needs no note", names(one.data + "/zarya"))

    twice = moved_to(z, d, log_path)
    sealed = before[1][0]
    blank = struct.pack(">II", SEGMENT, 0xCBD43194)
    with open(twice.data + "/commitlog/" + sealed, "wb") as f:
        f.write(blank)
        f.truncate(SEGMENT)
    twice.start()
    check(pulled(twice) == N and "is in" in text_of(twice.log), "of a segment in two folders the one with messages is used", (pulled(twice), text_of(twice.log)[-600:]))
    check(twice.stop() == 0, "zarya stops", text_of(twice.log)[-600:])


def main():
    ratios()
    half_of_it()
    d = temp_dir()
    folders = [d + "/one", d + "/two", d + "/three"]
    for p in folders[:2]:
        os.mkdir(p)
    log_path = ",".join(folders[:2])
    shape = f'segment_size = "256 KiB"; queue_file_size = 8000; index_slots = 1000; index_entries = 3000; path_commitlog = "{log_path}";'
    z = Zarya(directory=d, storage=shape).start()
    create_topic(z.addr, "Paths")
    send_all(z.addr, "Paths", N)
    status, live = findings(d + "/data", "--log-path", log_path)
    check(status == 0, "check of a running broker whose log is in two folders", wrong(live))
    a_second_broker(z, shape, folders[1], log_path)
    check(z.stop() == 0, "zarya stops", text_of(z.log)[-600:])
    count = [len(glob.glob(p + "/*")) for p in folders[:2]]
    check(min(count) >= 2, "segments lie in both folders", count)

    status, found = findings(d + "/data")
    check(status == 0, "the broker's note says where the log is", wrong(found))
    os.rename(d + "/data/zarya/folders", d + "/folders")
    status, out, err = store("check", d + "/data")
    check(status == 3 and "--log-path" in err, "without it check says what is missing", (status, out[-200:], err))
    for command in (["show", d + "/data", "--segment"], ["stats", d + "/data"], ["convert", d + "/data", "--to", "zstd"], ["check", d + "/data", "--repair"]):
        status, out, err = store(*command)
        check(status == 3 and "--log-path" in err, f"so does {command[0]} {' '.join(command[2:])}", (status, err))
    os.mkdir(d + "/data/commitlog")
    status, out, err = store("check", d + "/data")
    check(status == 3 and "--log-path" in err, "an empty commitlog beside queues is no log", (status, out[-300:], err))
    os.rmdir(d + "/data/commitlog")
    status, out, err = store("check", d + "/data", "--log-path", log_path + "," + folders[2])
    check(status == 3 and folders[2] in err, "a folder that is not there is named", err)

    status, found = findings(d + "/data", "--log-path", log_path)
    check(status == 0, "check with --log-path", wrong(found))
    status, found = findings(d + "/data", "--conf", z.conf)
    check(status == 0, "check with --conf zarya.conf", wrong(found))
    with open(d + "/broker.conf", "w") as f:
        f.write(f"storePathRootDir={d}/data\nstorePathCommitLog={log_path}\n")
    status, found = findings(d + "/data", "--conf", d + "/broker.conf")
    check(status == 0, "check with --conf broker.conf", wrong(found))
    status, found = findings(d + "/data", "--log-path", folders[0])
    check(status == 2 and [f for f in found if f["kind"] == "log.missing"], "with half of the folders, what is missing is told", (status, str(wrong(found))[:400]))
    status, out, err = store("show", d + "/data", "--log-path", log_path, "--key", "Paths", "k7")
    check(status == 0 and "k7" in out, "show --key", (out[-300:], err))
    status, out, err = store("stats", d + "/data", "--log-path", log_path, "--json")
    check(status == 0 and str(N) in out, "stats", (out[:600], err))

    status, out, err = store("convert", d + "/data", "--log-path", log_path, "--to", "zstd")
    packed, plain = [[f for p in folders[:2] for f in glob.glob(p + "/*") if f.endswith(".zst") == w] for w in (True, False)]
    check(status == 0 and len(packed) == sum(count) - len(plain) and len(packed) >= 3, "convert packs both folders' segments", (status, out[-300:], err))
    check(plain and min(os.path.basename(f) for f in plain) > max(os.path.basename(f)[:20] for f in packed), "and leaves the newest plain", (packed, plain))
    status, found = findings(d + "/data", "--log-path", log_path)
    check(status == 0, "the packed log is whole", wrong(found))
    status, out, err = store("convert", d + "/data", "--log-path", log_path, "--to", "plain")
    check(status == 0 and not [f for p in folders[:2] for f in glob.glob(p + "/*.zst")], "and back", (status, out[-300:], err))

    name = sorted(glob.glob(folders[1] + "/*"))[0]
    flip(name, 20000)
    status, found = findings(d + "/data", "--log-path", log_path)
    check(status == 2 and [f for f in found if f["file"] == name], "damage in a folder elsewhere is named by its path", (status, str(wrong(found))[:600]))
    status, out, err = store("check", d + "/data", "--repair", "--log-path", log_path)
    check(status in (0, 2) and not glob.glob(folders[1] + "/*.tmp"), "it is repaired there", (status, out[-600:], err))
    aside = glob.glob(d + "/data/zarya/aside-*/" + os.path.basename(name))
    check(aside, "and what was replaced is kept", glob.glob(d + "/data/zarya/*/*"))
    status, found = findings(d + "/data", "--log-path", log_path)
    check(status == 0 or not [f for f in wrong(found) if f["kind"].startswith("log.")], "check is content with the log", (status, str(wrong(found))[:600]))
    z.start()
    there = pulled(z)
    check(there >= N - 2, "the broker serves all but the damaged message", there)
    check(z.stop() == 0, "zarya stops", text_of(z.log)[-600:])
    done()


def pulled(z):
    return sum(len(v) for v in pull_all(z.addr, "Paths").values())


main()
