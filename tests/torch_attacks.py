"""Try files on the reader of torch's format, each in a child process.

    python -m tests.torch_attacks DIRECTORY

prints a line of JSON for each file of the directory. The child has a limit of memory and of time. It notes each thing
that Python reports to its audit hooks, such as a command, an import or a file opened for writing. This needs no torch.
"""

import contextlib
import json
import os
import resource
import signal
import sys
from pathlib import Path

# The most memory of a child beyond what it has at its start and the file itself.
MAX_EXTRA_BYTES = 100 * 10**6
# Most seconds of a processor, and of waiting.
MAX_CPU_SECONDS, MAX_SECONDS = 20, 300
# What the reader may do, as Python reports it. Files may be opened for reading.
_HARMLESS = {"mmap.__new__", "array.__new__", "os.fstat", "object.__getattr__", "sys._getframe"}


def try_file(path: Path) -> dict[str, object]:
    """Read a file in a child process, and return what happened.

    Returns:
        The file's name, and one of these:
        read: the tensors by name, each as its format, its shape and its bytes in hexadecimal.
        refused: the message.
        fault: anything else that happened, such as another exception, a forbidden event or the end by a signal.
    """
    receiver, sender = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(receiver)
        with open(sender, "wb") as stream:
            stream.write(json.dumps(_read_limited(path)).encode())
            stream.flush()
            os._exit(0)
    os.close(sender)
    with open(receiver, "rb") as stream:
        answer = stream.read()
    _, status = os.waitpid(child, 0)
    result = json.loads(answer) if answer else {"fault": f"the process ended with {status}"}
    return {"file": path.name} | result


def _read_limited(path: Path) -> dict[str, object]:
    from embedder_export.checkpoint.torch_format.read import read_torch_file
    from embedder_export.errors import CheckpointError

    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    limit = used + MAX_EXTRA_BYTES + path.stat().st_size
    signal.setitimer(signal.ITIMER_PROF, MAX_CPU_SECONDS)
    signal.setitimer(signal.ITIMER_REAL, MAX_SECONDS)
    events: list[str] = []
    free = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (limit, free[1]))
    sys.addaudithook(lambda event, arguments: _note(events, event, arguments))
    try:
        tensors = read_torch_file(path)
        found = {
            key: [value.dtype.name, list(value.shape.numpy()), value.numpy().tobytes().hex()]
            for key, value in tensors.items()
        }
        result: dict[str, object] = {"read": found}
    except CheckpointError as error:
        result = {"refused": str(error)}
    except BaseException as error:
        result = {"fault": f"{type(error).__name__}: {error}"}
    noted = list(events)
    resource.setrlimit(resource.RLIMIT_AS, free)
    return {"fault": f"it did {noted}"} if noted else result


def _note(events: list[str], event: str, arguments: tuple[object, ...]) -> None:
    if event == "open":
        mode, flags = arguments[1], arguments[2]
        writes = isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        if mode in ("r", "rb", None) and not writes:
            return
    if event not in _HARMLESS:
        events.append(event)


def main(directory: Path) -> None:
    """Try each file of `directory`, and print what happened."""
    files = sorted(directory.iterdir())
    for path in files[:1]:  # what is imported only once, such as a codec, is imported here and not in the children
        _warm_up(path)
    for path in files:
        print(json.dumps(try_file(path)), flush=True)


def _warm_up(path: Path) -> None:
    import onnx_ir as ir
    from embedder_export.checkpoint.torch_format.read import read_torch_file

    ir.ExternalTensor(str(path), 0, 1, ir.DataType.UINT8, shape=ir.Shape((1,)), name="").numpy()
    with contextlib.suppress(Exception):
        read_torch_file(path)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
