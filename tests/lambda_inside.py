"""Make a place as in AWS Lambda, and run a function in it. `tests/lambda_sandbox.py` starts this file.

It starts as root, as the first process of new mount, network and process namespaces. The only argument is the settings,
as JSON. Standard input is a socket to the parent, which gets the listening socket of the Runtime API, a message of the
function's process, and its exit status. If the parent ends, everything here ends.
"""

import array
import ctypes
import fcntl
import json
import os
import resource
import select
import shutil
import socket
import struct
import sys
import time
from pathlib import Path
from typing import Any

# The user of Lambda's functions.
USER = 993
NAME = "sbx_user1051"
_LIBC = ctypes.CDLL(None, use_errno=True)
_READ_ONLY, _NO_SUID, _NO_DEVICES, _REMOUNT, _BIND, _RECURSIVE = 1, 2, 4, 32, 4096, 16384
_SYSTEM = ("/usr", "/lib", "/lib32", "/lib64", "/libx32", "/bin", "/sbin")
_DEVICES = ("null", "zero", "full", "random", "urandom")
# Calls to the system that a sandbox may refuse, by machine. Lambda refuses some of them.
_REFUSED = {
    "x86_64": {
        "ptrace": 101,
        "sched_setaffinity": 203,
        "mbind": 237,
        "set_mempolicy": 238,
        "keyctl": 250,
        "move_pages": 279,
        "perf_event_open": 298,
        "process_vm_readv": 310,
        "memfd_create": 319,
        "bpf": 321,
        "userfaultfd": 323,
        "io_uring_setup": 425,
    }
}
_MACHINES = {"x86_64": 0xC000003E}


def main() -> None:
    settings = json.loads(sys.argv[1])
    parent = socket.socket(fileno=0)
    groups = [os.open(path, os.O_WRONLY) for path in settings["groups"]]
    _start_loopback()
    with socket.create_server(("127.0.0.1", settings["port"])) as listening:
        socket.send_fds(parent, [b"listening"], [listening.fileno()])
    _make_root(Path(settings["root"]), settings)
    child = os.fork()
    if child == 0:
        _become_function(parent, groups, settings)
    _wait_for(child, parent)


def _start_loopback() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        set_flags, up_and_running = 0x8914, 0x41
        fcntl.ioctl(control, set_flags, struct.pack("16sh", b"lo", up_and_running))


def _mount(source: object, target: Path, kind: str = "", flags: int = 0, options: str = "") -> None:
    words = [str(word).encode() for word in (source, target, kind)]
    if _LIBC.mount(*words, ctypes.c_ulong(flags), options.encode()) != 0:
        error = ctypes.get_errno()
        raise OSError(error, f"mount {source} on {target}: {os.strerror(error)}")


def _bind(source: object, target: Path, *, writable: bool = False) -> None:
    if Path(str(source)).is_dir():
        target.mkdir(parents=True, exist_ok=True)
    else:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.touch()
    _mount(source, target, flags=_BIND)
    if not writable:
        _mount("none", target, flags=_BIND | _REMOUNT | _READ_ONLY | _NO_SUID)


def _make_root(root: Path, settings: dict[str, Any]) -> None:
    """Make the file system in memory at `root`, and enter it."""
    _mount("root", root, "tmpfs", options="mode=755")
    for name in _SYSTEM:
        if os.path.islink(name):
            (root / name[1:]).symlink_to(os.readlink(name))
        elif os.path.isdir(name):
            _bind(name, root / name[1:])
    for source, target in settings["mounts"].items():
        _bind(source, root / target[1:])
    _bind(settings["tmp"], root / "tmp", writable=True)
    for name in _DEVICES:
        _bind(f"/dev/{name}", root / "dev" / name, writable=True)
    for name in ("opt", "proc", "sys", "etc", "var/task", "var/runtime"):
        (root / name).mkdir(parents=True, exist_ok=True)
    if os.path.exists("/etc/ld.so.cache"):
        shutil.copy("/etc/ld.so.cache", root / "etc/ld.so.cache")
    if settings["user_has_name"]:
        (root / "etc/passwd").write_text(f"{NAME}:x:{USER}:{USER}::/home/{NAME}:/sbin/nologin\n")
    _mount("proc", root / "proc", "proc", _NO_SUID | _NO_DEVICES)
    if settings["hide_cpuinfo"]:
        (root / "etc/nothing").touch(mode=0o000)
        _bind(root / "etc/nothing", root / "proc/cpuinfo")
    _mount("none", root, flags=_REMOUNT | _READ_ONLY)
    os.chroot(root)
    os.chdir("/var/task")


def _become_function(parent: socket.socket, groups: list[int], settings: dict[str, Any]) -> None:
    """Turn this process into the function's."""
    os.setsid()
    for group in groups:
        os.write(group, b"0")
        os.close(group)
    # The kernel translates the process id to that of the parent's namespace.
    me = struct.pack("3i", os.getpid(), os.getuid(), os.getgid())
    parent.sendmsg([b"started"], [(socket.SOL_SOCKET, socket.SCM_CREDENTIALS, me)])
    os.dup2(os.open("/dev/null", os.O_RDONLY), 0)
    for name, limit in settings["resources"].items():
        resource.setrlimit(getattr(resource, name), (limit, limit))
    os.setgroups([])
    os.setgid(USER)
    os.setuid(USER)
    _refuse_system_calls()
    command, environment = settings["command"], settings["environment"]
    os.execve(command[0], command, {**environment, "STARTED": repr(time.monotonic())})


def _refuse_system_calls() -> None:
    """Make the system refuse some calls of this process with EPERM, by a filter of seccomp."""
    machine = os.uname().machine
    calls = sorted(_REFUSED.get(machine, {}).values())
    no_new_privileges, set_seccomp, filter_mode = 38, 22, 2
    _LIBC.prctl(no_new_privileges, 1, 0, 0, 0)
    if not calls:
        return
    load, equal, answer = 0x20, 0x15, 0x06
    allow, refuse = 0x7FFF0000, 0x00050000 | 1
    program = [(load, 0, 0, 4), (equal, 1, 0, _MACHINES[machine]), (answer, 0, 0, allow), (load, 0, 0, 0)]
    program += [(equal, len(calls) - index, 0, number) for index, number in enumerate(calls)]
    program += [(answer, 0, 0, allow), (answer, 0, 0, refuse)]
    code = array.array("B", b"".join(struct.pack("HBBI", *step) for step in program))
    address, _ = code.buffer_info()
    head = ctypes.create_string_buffer(struct.pack("HxxxxxxQ", len(program), address))
    if _LIBC.prctl(set_seccomp, filter_mode, head, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "seccomp")


def _wait_for(child: int, parent: socket.socket) -> None:
    """Wait until the function or the parent ends."""
    process = os.pidfd_open(child)
    ready, _, _ = select.select([process, parent], [], [])
    if process in ready:
        _, status = os.waitpid(child, 0)
        parent.sendall(json.dumps(os.waitstatus_to_exitcode(status)).encode())


if __name__ == "__main__":
    main()
