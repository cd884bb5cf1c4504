#!/usr/bin/env -S python3 -I -S
"""Stands in for `virsh` in tests: knows exactly the calls that the example may make, and keeps domains and volumes as files.

What it is called with that it does not know is written to `complaints`, and fails. Files of its folder that tests put there: `start-says`
(a start fails with that text), `kill-at` (at that command the caller dies), `pause-at` (that command makes `paused`, and waits for `go`).
"""

import json
import os
import signal
import sys
import time

HERE = "@HERE@"


def path(*names):
    return os.path.join(HERE, *names)


def text(name):
    try:
        with open(path(name)) as file:
            return file.read()
    except FileNotFoundError:
        return ""


def fail(said):
    print("error: " + said, file=sys.stderr)
    sys.exit(1)


def complain(what):
    with open(path("complaints"), "a") as file:
        file.write(what + ": " + json.dumps(sys.argv[1:]) + "\n")
    fail(what)


def main():
    words = sys.argv[1:]
    with open(path("calls"), "a") as file:
        file.write(json.dumps(words) + "\n")
    if words[:3] != ["--connect", "test:///stand-in", "--quiet"]:
        complain("not our connection")
    command, rest = words[3], words[4:]
    if command == text("kill-at"):
        os.remove(path("kill-at"))
        os.kill(os.getppid(), signal.SIGKILL)
        sys.exit(1)
    if command == text("pause-at"):
        os.rename(path("pause-at"), path("paused"))
        while not os.path.exists(path("go")):
            time.sleep(0.01)
    known = {
        "list": (["--all", "--name"], []),
        "dumpxml": (["--inactive"], ["--domain"]),
        "define": ([], ["--file"]),
        "start": ([], ["--domain"]),
        "destroy": ([], ["--domain"]),
        "undefine": (["--managed-save", "--snapshots-metadata", "--nvram"], ["--domain"]),
        "domifaddr": ([], ["--domain", "--source"]),
        "vol-list": ([], ["--pool"]),
        "vol-info": (["--bytes"], ["--pool", "--vol"]),
        "vol-path": ([], ["--pool", "--vol"]),
        "vol-create-as": ([], ["--pool", "--name", "--capacity", "--format"]),
        "vol-upload": ([], ["--pool", "--vol", "--file"]),
        "vol-delete": ([], ["--pool", "--vol"]),
    }
    if command not in known:
        complain("unknown command")
    flags, options = known[command]
    for flag in flags:
        if flag not in rest:
            complain("missing " + flag)
        rest.remove(flag)
    values = dict(zip(rest[::2], rest[1::2]))
    if command == "vol-create-as" and values.get("--format") == "qcow2":
        options = options + ["--backing-vol", "--backing-vol-format"]
    if len(rest) % 2 or sorted(values) != sorted(options):
        complain("not its options")
    if values.get("--pool", "vms") != "vms":
        complain("not our pool")
    run(command, {name[2:]: value for name, value in values.items()})


def volume(name):
    """Anybody may want to delete it at the same time."""
    if not os.path.exists(path("volumes", name)):
        fail("Storage volume not found: no storage vol with matching name '{}'".format(name))
    return path("volumes", name)


def domain(name):
    if not os.path.exists(path("domains", name)):
        fail("failed to get domain '{}'".format(name))
    return path("domains", name)


def remove(file):
    try:
        os.remove(file)
    except FileNotFoundError:
        fail("it is gone")


def parsed(file):
    # Most calls do not need it, and it takes its time.
    import xml.etree.ElementTree

    return xml.etree.ElementTree.parse(file)


def run(command, of):
    if command == "list":
        print("\n".join(sorted(name for name in os.listdir(path("domains")) if not name.endswith(".new"))))
    elif command == "dumpxml":
        domain(of["domain"])
        print(text("domains/" + of["domain"]))
    elif command == "define":
        define(of["file"])
    elif command == "start":
        if text("start-says"):
            fail(text("start-says"))
        document = parsed(domain(of["domain"]))
        disks = document.findall("devices/disk")
        # With AppArmor, qemu gets at nothing but files that are named, and at what these are copies of.
        if len(disks) != 2 or any(disk.get("type") != "file" for disk in disks):
            complain("disks that cannot be opened")
        for source in document.findall("devices/disk/source"):
            if os.path.getsize(volume(os.path.basename(source.get("file")))) == 0:
                complain("an empty disk")
        open(path("running", of["domain"]), "w").close()
    elif command == "destroy":
        domain(of["domain"])
        if not os.path.exists(path("running", of["domain"])):
            fail("Requested operation is not valid: domain is not running")
        is_transient = text("running/" + of["domain"]) == "transient"
        remove(path("running", of["domain"]))
        if is_transient:
            remove(domain(of["domain"]))
    elif command == "undefine":
        if os.path.exists(path("running", of["domain"])):
            # It is there until it ends.
            with open(path("running", of["domain"]), "w") as file:
                file.write("transient")
        else:
            remove(domain(of["domain"]))
    elif command == "domifaddr":
        if of["source"] != "lease":
            complain("not its source")
        if not os.path.exists(path("running", of["domain"])):
            fail("Requested operation is not valid: domain is not running")
        print(" vnet0      52:54:00:00:00:01    ipv4         192.0.2.7/24")
    else:
        run_volumes(command, of)


def define(file):
    if os.stat(file).st_mode & 0o077:
        complain("others can read the description")
    document = parsed(file)
    name = document.findtext("name")
    if document.getroot().get("type") != "kvm" or document.find("memory").get("unit") != "bytes":
        complain("not a description of ours")
    sources = [source.attrib for source in document.findall("devices/disk/source")]
    files = [{"file": path("volumes", name + ending)} for ending in (".qcow2", "-seed.iso")]
    if sources != (files if os.path.exists(path("domains", name)) and sources else []):
        complain("not its disks")
    with open(path("domains", name + ".new"), "wb") as out:
        document.write(out)
    os.rename(path("domains", name + ".new"), path("domains", name))


def run_volumes(command, of):
    if command == "vol-list":
        for name in os.listdir(path("volumes")):
            print(" {}   {}".format(name, path("volumes", name)))
    elif command == "vol-info":
        volume(of["vol"])
        print("Name:           {}\nType:           file\nCapacity:       1000 bytes\nAllocation:     10 bytes".format(of["vol"]))
    elif command == "vol-path":
        print(volume(of["vol"]))
    elif command == "vol-create-as":
        if os.path.exists(path("volumes", of["name"])):
            fail("storage volume exists")
        if of["format"] == "qcow2":
            volume(of["backing-vol"])
            if of["backing-vol-format"] != "qcow2" or int(of["capacity"]) < 1000:
                complain("not a copy of the image")
        with open(path("volumes", of["name"]), "w") as file:
            file.write("disk" if of["format"] == "qcow2" else "")
    elif command == "vol-upload":
        with open(of["file"]) as file, open(volume(of["vol"]), "w") as out:
            out.write(file.read())
    elif command == "vol-delete":
        remove(volume(of["vol"]))


main()
