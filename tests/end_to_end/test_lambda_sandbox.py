"""The place in which the functions of the tests run is as sparse as AWS Lambda's, and its limits hold."""

import signal

import pytest

from tests.lambda_sandbox import Place, copy_client, no_limit_of, no_sandbox, run_function

pytest.importorskip("awslambdaric")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(no_sandbox() is not None, reason=str(no_sandbox())),
]
# A handler that tells what the value of an expression is there.
PROBE = """
import errno, mmap, os, socket

def failure(function, *arguments):
    try:
        function(*arguments)
    except OSError as error:
        return errno.errorcode[error.errno]

def connect(address):
    with socket.socket() as client:
        client.settimeout(9)
        client.connect(address)

def burn():
    start = os.times().elapsed
    while os.times().elapsed < start + 1:
        pass
    return os.times().user + os.times().system

def handler(event, context):
    return eval(event)
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A place with the probe as its function."""
    task = tmp_path_factory.mktemp("task")
    (task / "lambda_function.py").write_text(PROBE)
    task.chmod(0o755)
    return Place(task, copy_client(tmp_path_factory.mktemp("runtime")))


@pytest.fixture(scope="module")
def ask(place):
    """A function that asks the probe for the value of an expression."""
    with run_function(place) as function:
        function.wait_until_ready()
        yield function.api.call


@pytest.mark.parametrize("path", ["/x", "/var/task/x", "/var/runtime/x", "/etc/x", "/usr/x", "/dev/x", "/sys/x"])
def test_only_tmp_can_be_written(path, ask):
    assert ask(f"failure(open, {path!r}, 'w')") == "EROFS"
    assert ask("failure(open, '/tmp/x', 'w')") is None


def test_there_is_no_network(ask):
    assert ask("failure(connect, ('192.0.2.1', 80))") == "ENETUNREACH"
    assert ask("failure(connect, ('127.0.0.1', 1))") == "ECONNREFUSED"
    assert ask("[name for _, name in socket.if_nameindex()]") == ["lo"]


def test_nothing_is_there_that_lambda_does_not_have(ask):
    assert ask("os.listdir('/sys')") == []
    assert ask("failure(os.stat, '/dev/shm')") == "ENOENT"
    assert ask("__import__('importlib').util.find_spec('pip')") is None
    assert ask("failure(os.stat, os.path.expanduser('~'))") == "ENOENT"
    assert ask("sorted(int(name) for name in os.listdir('/proc') if name.isdigit())") == [1, 2]


def test_the_user_has_no_rights(ask):
    assert ask("os.getuid()") == 993
    assert ask("[line for line in open('/proc/self/status') if line.startswith('CapEff')]") == [
        "CapEff:\t0000000000000000\n"
    ]
    assert ask("failure(os.setuid, 0)") == "EPERM"
    assert ask("failure(os.kill, 1, 9)") == "EPERM"


def test_some_calls_to_the_system_are_refused(ask):
    if ask("os.uname().machine") != "x86_64":
        pytest.skip("the numbers of the calls are those of x86_64")
    assert ask("failure(os.sched_setaffinity, 0, [0])") == "EPERM"
    assert ask("failure(os.memfd_create, 'x')") == "EPERM"


def test_cpuinfo_can_be_hidden(place):
    with run_function(Place(place.task, place.runtime, hide_cpuinfo=True, user_has_name=False)) as function:
        assert function.api.call("failure(open, '/proc/cpuinfo')") == "EACCES"
        assert function.api.call("os.path.expanduser('~')") == "~"


@pytest.mark.skipif(no_limit_of("memory") is not None, reason=str(no_limit_of("memory")))
def test_memory_is_limited(place):
    with run_function(Place(place.task, place.runtime, memory_mb=100, cpus=1)) as function:
        # The pages of a file in /proc/self/fd are memory too, and no limit of the process counts them.
        function.api.send("[bytearray(2**20) for _ in range(50)] and 'fits'").response()
        outcome = function.api.send("len(bytearray(2**27))")
        assert outcome.done.wait(60)
        assert outcome.outcome[0] == "error"
        assert outcome.outcome[1]["errorType"] == "MemoryError"
        assert 50e6 < function.group.peak_memory_bytes() <= 100 * 2**20


@pytest.mark.skipif(no_limit_of("memory") is not None, reason=str(no_limit_of("memory")))
def test_a_function_that_uses_more_memory_is_killed(place):
    with run_function(Place(place.task, place.runtime, memory_mb=64, cpus=1)) as function:
        # Shared memory is no data of the process, so only the control group counts it.
        function.api.send("[area.write(bytes(2**20)) for area in [mmap.mmap(-1, 2**27)] for _ in range(99)]")
        assert function.wait() == -signal.SIGKILL
        assert function.group.killed_for_memory() == 1


@pytest.mark.skipif(no_limit_of("cpu") is not None, reason=str(no_limit_of("cpu")))
def test_cpu_time_is_limited(place):
    with run_function(Place(place.task, place.runtime, cpus=0.25)) as function:
        before = function.api.call("os.times().user + os.times().system")
        # A second and a last period of 20 ms.
        assert function.api.call("burn()") - before < 0.25 + 0.1
