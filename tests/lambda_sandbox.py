"""Run a function as AWS Lambda runs it: AWS' own runtime interface client, in a place as sparse, and within its limits.

As root on Linux, the function runs in a sandbox:

- its code is in /var/task, and only /tmp can be written;
- its network has 127.0.0.1 alone, and there the Runtime API;
- Python has no other packages than those of the function and of the client;
- it sees no other process, an empty /sys, and no /dev/shm;
- it runs as a user without rights and without a home directory, and some calls to the system are refused;
- control groups limit its memory, and its CPU time to the share that Lambda gives for that memory;
- it can reserve no more memory than its limit, as a machine with so little memory refuses more.

Elsewhere it is a plain process with the same environment variables, and memory is limited by its address space.
"""

import functools
import json
import os
import resource
import signal
import socket
import subprocess
import sys
import sysconfig
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from importlib.metadata import distribution
from pathlib import Path

from tests.control_groups import Group, can_limit, make_group
from tests.lambda_runtime import RuntimeApi, serve_runtime_api

# Lambda gives one vCPU for so many megabytes.
MB_PER_VCPU = 1769
_PORT = 9001
_INSIDE = Path(__file__).with_name("lambda_inside.py")
_CLIENT_PACKAGES = ("awslambdaric", "simplejson", "snapshot-restore-py")
_UNSHARE = ("unshare", "--mount", "--net", "--pid", "--fork", "--kill-child", "--propagation", "private")
_LIMITS = {"RLIMIT_NOFILE": 1024, "RLIMIT_CORE": 0}


@dataclass(frozen=True)
class Place:
    """Where and how a function runs.

    Attributes:
        task: the directory of its code.
        runtime: the directory of the runtime interface client; see `copy_client`.
        memory_mb: the memory of the function; None sets no limit.
        cpus: the CPUs; by default Lambda's share for the memory.
        hide_cpuinfo: whether /proc/cpuinfo cannot be read.
        user_has_name: whether /etc/passwd has the user of the function.
        environment: more environment variables.
        handler: its handler.
        command: what runs instead of the client: arguments of Python.
    """

    task: Path
    runtime: Path
    memory_mb: int | None = None
    cpus: float | None = None
    hide_cpuinfo: bool = False
    user_has_name: bool = True
    environment: Mapping[str, str] = field(default_factory=dict)
    handler: str = "lambda_function.handler"
    command: tuple[str, ...] = ()

    @property
    def cpu_share(self) -> float | None:
        """The CPUs that the function may use."""
        return self.cpus or (self.memory_mb / MB_PER_VCPU if self.memory_mb else None)


@dataclass(frozen=True)
class Function:
    """A function that runs.

    Attributes:
        api: the Runtime API that it asks.
        pid: its process, which leads a group of processes.
        group: its control group; it has no limits that cannot be set here.
        started: the second of the monotonic clock just before its Python started.
        tmp: the directory that is its /tmp.
        log: the file with its output.
    """

    api: RuntimeApi
    pid: int
    group: Group
    started: float
    tmp: Path
    log: Path
    _wait: Callable[[float], int]

    def wait_until_ready(self, wait_s: float = 60) -> float:
        """Wait until its start is over. Return how many seconds it took."""
        give_up = time.monotonic() + wait_s
        while not self.api.asked.wait(0.05):
            state = self.status()["State"]
            if time.monotonic() > give_up or state.startswith("Z"):
                raise AssertionError(f"the function did not start ({state}): {self.log.read_text()}")
        return self.api.times["ready"] - self.started

    def send_signal(self, number: signal.Signals) -> None:
        """Send a signal to all its processes."""
        os.killpg(self.pid, number)

    def freeze(self) -> None:
        """Stop it when it waits for an event, as Lambda does between calls."""
        assert self.api.idle.wait(60), "the function asks for no event"
        self.stop()

    def stop(self, wait_s: float = 60) -> None:
        """Stop it, also in a call. Where its CPU time is limited, it stops only when it has some again."""
        self.send_signal(signal.SIGSTOP)
        give_up = time.monotonic() + wait_s
        while not self.status()["State"].startswith("T"):
            assert time.monotonic() < give_up, "the function does not stop"

    def thaw(self) -> None:
        """Let it go on."""
        self.send_signal(signal.SIGCONT)

    def wait(self, wait_s: float = 60) -> int:
        """Wait until it ends. Return its exit status; a signal that ended it is negative."""
        return self._wait(wait_s)

    def status(self) -> dict[str, str]:
        """Return what the system says of its process, as `/proc/PID/status` has it."""
        try:
            lines = Path(f"/proc/{self.pid}/status").read_text().splitlines()
        except OSError:  # it was waited for
            return {"State": "Z (ended)"}
        return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}

    def peak_mb(self) -> float:
        """Return the peak of its resident memory in MB, with the pages of its files."""
        return int(self.status()["VmHWM"].split()[0]) * 1024 / 1e6


def unpack(archive: Path, directory: Path) -> Path:
    """Unpack a zip as Lambda does, with the permissions that are in it. Return the directory."""
    directory.chmod(0o755)
    with zipfile.ZipFile(archive) as opened:
        for entry in opened.infolist():
            Path(opened.extract(entry, directory)).chmod(entry.external_attr >> 16)
    return directory


def copy_client(directory: Path) -> Path:
    """Copy AWS' runtime interface client, and what it needs, from this environment into `directory`. Return that."""
    directory.chmod(0o755)
    for name in _CLIENT_PACKAGES:
        for file in distribution(name).files or ():
            if ".." not in file.parts and file.suffix != ".pyc":
                target = directory / file
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(file.locate().read_bytes())
    subprocess.run([sys.executable, "-m", "compileall", "-q", directory], check=True)
    return directory


@functools.cache
def no_sandbox() -> str | None:
    """Return why there is no sandbox here, or None if there is one."""
    if sys.platform != "linux":
        return "namespaces are of Linux"
    if os.geteuid() != 0:
        return "a sandbox needs root"
    try:
        subprocess.run([*_UNSHARE, "mount", "-t", "proc", "proc", "/proc"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        return f"this machine allows no namespaces: {error}"
    return None


@functools.cache
def no_limit_of(controller: str) -> str | None:
    """Return why "memory" or "cpu" cannot be limited in a sandbox here, or None if it can be."""
    return no_sandbox() or (None if can_limit(controller) else f"no control group can limit the {controller} here")


@contextmanager
def run_function(place: Place) -> Iterator[Function]:
    """Start a function, in a sandbox if there is one. End it at the end."""
    with ExitStack() as stack:
        base = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="lambda-")))
        for name in ("root", "tmp", "empty"):
            (base / name).mkdir()
        (base / "tmp").chmod(0o777)
        start = _start_plain if no_sandbox() else _start_sandbox
        yield stack.enter_context(start(place, base))


@contextmanager
def _start_sandbox(place: Place, base: Path) -> Iterator[Function]:
    with ExitStack() as stack:
        group = stack.enter_context(make_group(place.memory_mb, place.cpu_share))
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        stack.enter_context(ours)
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        ours.settimeout(60)
        settings = {
            "groups": [str(door) for door in group.doors],
            "port": _PORT,
            "root": str(base / "root"),
            "tmp": str(base / "tmp"),
            "mounts": _mounts(place, base / "empty"),
            "user_has_name": place.user_has_name,
            "hide_cpuinfo": place.hide_cpuinfo,
            "resources": _resources(place),
            "command": _command(place),
            "environment": _environment(place, "/var/task", "/var/runtime", _PORT),
        }
        with theirs, (base / "log").open("wb") as log:
            process = subprocess.Popen(
                [*_UNSHARE, sys.executable, "-I", _INSIDE, json.dumps(settings)], stdin=theirs, stdout=log, stderr=log
            )
        stack.callback(_end, process)
        pid, listening = _greetings(ours, base / "log")
        api = stack.enter_context(serve_runtime_api(listening))
        stack.callback(_kill_group, pid)
        wait = functools.partial(_exit_status, ours)
        yield Function(api, pid, group, _start_time(pid), base / "tmp", base / "log", wait)


def _resources(place: Place) -> dict[str, int]:
    return _LIMITS | ({"RLIMIT_DATA": place.memory_mb * 2**20} if place.memory_mb else {})


def _mounts(place: Place, empty: Path) -> dict[str, str]:
    """Return what is mounted where, to be read only. `empty` is an empty directory."""
    mounts = {str(place.task): "/var/task", str(place.runtime): "/var/runtime"}
    if not Path(sys.base_prefix).is_relative_to("/usr"):
        mounts[sys.base_prefix] = sys.base_prefix
    # Packages there can import others when Python starts, and so hide how long the function's own imports take.
    packages = sysconfig.get_path("purelib", vars={"base": sys.base_prefix})
    if Path(packages).is_dir():
        mounts[str(empty)] = packages
    return mounts


def _command(place: Place) -> list[str]:
    arguments = place.command or ("-m", "awslambdaric", place.handler)
    return [str(Path(sys._base_executable).resolve()), *arguments]


def _environment(place: Place, task: str, runtime: str, port: int) -> dict[str, str]:
    """Return the environment variables that Lambda sets."""
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    return {
        "AWS_DEFAULT_REGION": "eu-central-1",
        "AWS_EXECUTION_ENV": f"AWS_Lambda_python{version}",
        "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": str(place.memory_mb or 128),
        "AWS_LAMBDA_FUNCTION_NAME": "vectors",
        "AWS_LAMBDA_FUNCTION_VERSION": "$LATEST",
        "AWS_LAMBDA_INITIALIZATION_TYPE": "on-demand",
        "AWS_LAMBDA_LOG_GROUP_NAME": "/aws/lambda/vectors",
        "AWS_LAMBDA_LOG_STREAM_NAME": "2026/01/01/[$LATEST]0123456789abcdef",
        "AWS_LAMBDA_RUNTIME_API": f"127.0.0.1:{port}",
        "AWS_REGION": "eu-central-1",
        "LAMBDA_RUNTIME_DIR": runtime,
        "LAMBDA_TASK_ROOT": task,
        "LANG": "en_US.UTF-8",
        "LD_LIBRARY_PATH": f"/var/lang/lib:/lib64:/usr/lib64:{runtime}:{runtime}/lib:{task}:{task}/lib:/opt/lib",
        "PATH": "/var/lang/bin:/usr/local/bin:/usr/bin:/bin:/opt/bin",
        "PYTHONPATH": runtime,
        "TZ": ":UTC",
        "_HANDLER": place.handler,
        **place.environment,
    }


def _greetings(ours: socket.socket, log: Path) -> tuple[int, socket.socket]:
    """Return the id of the function's process, and the listening socket of its Runtime API."""
    found = {}
    for _ in range(2):
        message, ancillary, _, _ = ours.recvmsg(100, socket.CMSG_SPACE(4) + socket.CMSG_SPACE(12))
        if not message:
            raise AssertionError(f"there is no sandbox: {log.read_text()}")
        # Credentials come with every message. Those of the last one are the function's.
        found.update({kind: int.from_bytes(data[:4], sys.byteorder) for _, kind, data in ancillary})
    return found[socket.SCM_CREDENTIALS], socket.socket(fileno=found[socket.SCM_RIGHTS])


def _start_time(pid: int) -> float:
    """Return the second of the monotonic clock at which a process started its program."""
    while True:
        variables = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        for variable in variables:
            if variable.startswith(b"STARTED="):
                return float(variable.partition(b"=")[2])
        if Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z":
            raise AssertionError("the function ended before it started")


def _exit_status(ours: socket.socket, wait_s: float) -> int:
    ours.settimeout(wait_s)
    return int(json.loads(ours.recv(100)))


def _kill_group(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)


def _end(process: "subprocess.Popen[bytes]") -> None:
    process.wait(60)


@contextmanager
def _start_plain(place: Place, base: Path) -> Iterator[Function]:
    """Start the function without a sandbox."""
    with ExitStack() as stack:
        listening = socket.create_server(("127.0.0.1", 0))
        api = stack.enter_context(serve_runtime_api(listening))
        environment = _environment(place, str(place.task), str(place.runtime), listening.getsockname()[1])
        log = stack.enter_context((base / "log").open("wb"))
        started = time.monotonic()
        process = subprocess.Popen(
            _command(place),
            cwd=place.task,
            env={**environment, "TMPDIR": str(base / "tmp"), "HOME": "/dev/null"},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            preexec_fn=functools.partial(_limit_address_space, place.memory_mb),
        )
        stack.callback(process.wait, 60)
        stack.callback(_kill_group, process.pid)
        yield Function(api, process.pid, Group(None, None), started, base / "tmp", base / "log", process.wait)


def _limit_address_space(memory_mb: int | None) -> None:
    if memory_mb:
        limit = memory_mb * 2**20
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
