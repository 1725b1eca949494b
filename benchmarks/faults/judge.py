"""Run a case in this process, and say how it ended. The process should be a child with limits of memory and time."""

import ctypes
import json
import os
import resource
import shutil
import sys
import unicodedata
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import embedder
from benchmarks.faults.cases import FILE_NAMES, ROOT, Case, base_files, damage, replace_by_special_file, seal
from benchmarks.faults.torch_files import read_state, write_torch_file
from embedder.artifact.locate import open_artifact
from embedder.artifact.manifest import MANIFEST_NAME
from embedder.backends.prepacked import prepack
from embedder.common import digests
from embedder.common.digests import sha256_of
from embedder.errors import EmbedderError

MEMORY_LIMIT_BYTES = 4 * 10**9
TEXTS = ["the cat sat on the mat", "x" * 40, "é字 \0 🙂 long short <s> [SEP] word 12 ##s"]
_IMAGE = np.random.default_rng(1).integers(0, 256, (2, 2, 3), np.uint8)
_QUERIES = np.random.default_rng(2).normal(size=(3, 16)).astype(np.float32)
# Two kernels may differ by rounding. Vectors have length 1 in the undamaged models.
_TOLERANCE = 1e-5
_IN_OPEN = 0x20
# The directories of a case: what it damages, the caches, and what links lead to.
_FOLDERS = ("artifact", "cache", "elsewhere", "files")

# The outcomes that are allowed. Every other outcome is a finding.
REFUSED = "error of embedder"
UNCHANGED = "the original vectors"
OTHER = "other vectors"
ENTANGLED = "vectors that depend on the batch"
ALLOWED = (REFUSED, UNCHANGED, OTHER, ENTANGLED)


@dataclass(frozen=True)
class Outcome:
    """How a case ended: the kind of the damage, one of `ALLOWED` or a finding, and the message."""

    kind: str
    result: str
    message: str = ""


class Watch:
    """Notes what must not happen: files opened elsewhere, programs started, sockets, unpickling.

    Python's audit hook sees what Python opens. inotify sees everybody who opens the file `canary`, also compiled code.
    """

    _FORBIDDEN = ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "socket.connect", "pickle.find_class")

    def __init__(self, root: Path) -> None:
        """Make the canary. Files below `root` may be opened, but not this one."""
        self.canary = root / "outside" / "canary.bin"
        self.canary.parent.mkdir(parents=True)
        self.canary.write_bytes(bytes(range(256)) * 64)
        places = [*(root / name for name in _FOLDERS), ROOT, sys.prefix, sys.base_prefix, "/proc/", "/sys/"]
        self._allowed = (*map(str, places), os.devnull, "/dev/urandom", "/etc/mime.types")
        self._seen: list[str] = []
        self._active = False
        libc = ctypes.CDLL(None)
        self._notify = libc.inotify_init1(os.O_NONBLOCK)
        libc.inotify_add_watch(self._notify, os.fsencode(self.canary), _IN_OPEN)
        sys.addaudithook(self._hook)

    @contextmanager
    def watching(self) -> Iterator[list[str]]:
        """Watch until the `with` statement ends. What was seen is then in the list."""
        self._seen = []
        self._active = True
        try:
            yield self._seen
        finally:
            self._active = False
            with suppress(BlockingIOError):
                os.read(self._notify, 4096)
                self._seen.append("the canary was opened")

    def _hook(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self._active:
            return
        if event in self._FORBIDDEN:
            self._seen.append(f"{event} {arguments[:2]!r:.200}")
        elif event == "open" and isinstance(arguments[0], str | bytes):
            path = os.path.abspath(os.fsdecode(arguments[0]))
            if not path.startswith(self._allowed):
                self._seen.append(f"opened {path!r:.200}")


def limit_memory() -> None:
    """Limit the address space of this process, and write no core files."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_LIMIT_BYTES, MEMORY_LIMIT_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    digests._MIN_AGE_NS = 0  # else a check record is only written for files of two seconds and more


def run(case: Case, root: Path, scratch: Path, expected: np.ndarray, watch: Watch) -> Outcome:
    """Put the fault of `case` into the directories below `root`. Use the files, and return how that ended."""
    for name in _FOLDERS:
        shutil.rmtree(root / name, ignore_errors=True)
        (root / name).mkdir()
    os.environ.update(XDG_CACHE_HOME=str(root / "cache"), EMBEDDER_PREPACK=str(int(case.prepack)))
    use = _use_of(case)
    kind = _plant(case, root, scratch, watch.canary)
    with watch.watching() as seen:
        outcome = _judge(case, kind, lambda: use(root), expected)
    leftovers = [f"left {path.name}" for path in root.rglob("*.partial*")]
    finding = [*seen, *leftovers]
    return Outcome(kind, finding[0], outcome.result) if finding else outcome


def _plant(case: Case, root: Path, scratch: Path, canary: Path) -> str:
    artifact = root / "artifact"
    if case.target in FILE_NAMES:
        return damage(case, _write_file(case, root), canary)
    for name, content in base_files(case.base, scratch).items():
        (artifact / name).write_bytes(content)
    if case.target == "packed by the publisher":
        prepack(open_artifact(artifact))
    elif case.prepack:
        embedder.Embedder(artifact).close()
    path = _target(case, root)
    if case.target == "special file":
        return f"{path.name}: {replace_by_special_file(case.rng, path, root / 'elsewhere')}"
    kind = damage(case, path, canary)
    if case.sealed and case.target != "manifest":
        seal(artifact)
    if case.target == "packed by the publisher" and case.rng.random() < 0.5:
        _seal_form(path.parent)
        kind += ", with a right record"
    return kind


def _seal_form(directory: Path) -> None:
    """Write the digests of the files of prepacked weights into their record."""
    record = directory / "prepacked.json"
    digests_now = {path.name: sha256_of(path) for path in directory.iterdir() if path != record}
    record.write_text(json.dumps(digests_now))


def _target(case: Case, root: Path) -> Path:
    """Return the file to damage."""
    artifact, cache = root / "artifact", root / "cache" / "embedder"
    prepacked, in_artifact, records = (
        [path for path in sorted(place.rglob("*")) if path.is_file()]
        for place in (cache / "prepacked", artifact / "prepacked", cache / "verified")
    )
    names = {
        "manifest": MANIFEST_NAME,
        "tokenizer": "tokenizer.json",
        "graph": "model.onnx",
        "weights": "model.onnx.data",
    }
    if case.target in names:
        return artifact / names[case.target]
    files = {"prepacked copy": prepacked, "packed by the publisher": in_artifact, "check record": records}
    return case.rng.choice(files.get(case.target) or [*sorted(artifact.iterdir()), *prepacked, *records])


def _judge(case: Case, kind: str, use: Callable[[], np.ndarray], expected: np.ndarray) -> Outcome:
    try:
        with np.errstate(all="ignore"):
            vectors = use()
            again = use()
    except EmbedderError as error:
        message = str(error)
        if not message:
            return Outcome(kind, "an error without a message", type(error).__name__)
        if any(unicodedata.category(character) == "Cc" and character not in "\n\t" for character in message):
            return Outcome(kind, "control characters in a message", ascii(message))
        return Outcome(kind, REFUSED, message)
    except _WrongResultError as fault:
        allowed = case.sealed and case.target == "graph" and str(fault) == ENTANGLED
        return Outcome(kind, ENTANGLED if allowed else str(fault))
    except BaseException as error:
        return Outcome(kind, f"{type(error).__module__}.{type(error).__name__}", ascii(str(error))[:300])
    if not np.array_equal(vectors, again):
        return Outcome(kind, "different vectors at the second load")
    if vectors.shape == expected.shape and np.allclose(vectors, expected, rtol=0, atol=_TOLERANCE):
        return Outcome(kind, UNCHANGED)
    return Outcome(kind, OTHER if case.sealed else "wrong vectors")


class _WrongResultError(Exception):
    """A wrong result."""


def _use_texts(root: Path) -> np.ndarray:
    with embedder.Embedder(root / "artifact", threads=2) as model:
        together = model.encode(TEXTS)
        alone = np.stack([model.encode(text) for text in TEXTS])
        return _checked(together, alone, model.encode(TEXTS))


def _use_images(root: Path) -> np.ndarray:
    inputs = [*TEXTS, _IMAGE]
    with embedder.Embedder(root / "artifact", threads=2) as model:
        together = model.encode(inputs)
        alone = np.stack([model.encode(item) for item in inputs])
        return _checked(together, alone, model.encode(inputs))


def _checked(together: np.ndarray, alone: np.ndarray, again: np.ndarray) -> np.ndarray:
    if not np.isfinite(together).all() or not np.isfinite(alone).all():
        raise _WrongResultError("vectors that are not finite")
    if not np.array_equal(together, again):
        raise _WrongResultError("vectors that are not deterministic")
    if not np.allclose(together, alone, rtol=_TOLERANCE, atol=_TOLERANCE):
        raise _WrongResultError(ENTANGLED)
    return together


def _use_index(root: Path) -> np.ndarray:
    index = embedder.VectorIndex.load(root / "files" / FILE_NAMES["index"])
    hits = index.search(_QUERIES, top_k=3)
    filtered = index.search(_QUERIES, top_k=3, filter={"odd": True})
    found = [hit for row in (*hits, *filtered) for hit in row]
    for hit in found:
        if hit["corpus_id"] not in index:
            raise _WrongResultError("ids that are not in the index")
    scores = np.array([hit["score"] for hit in found])
    if not np.isfinite(scores).all():
        raise _WrongResultError("scores that are not finite")
    others = [zlib.crc32(repr((hit["corpus_id"], hit.get("text"), hit.get("metadata"))).encode()) for hit in found]
    return np.stack([scores, others], axis=1)


def _use_torch_file(root: Path) -> np.ndarray:
    return read_state(root / "files" / FILE_NAMES["torch file"])


def _use_of(case: Case) -> Callable[[Path], np.ndarray]:
    uses = {"index": _use_index, "torch file": _use_torch_file}
    return uses.get(case.target) or (_use_images if case.base == "images" else _use_texts)


def _write_file(case: Case, root: Path) -> Path:
    """Write an index of 40 vectors, or a checkpoint's weights in torch's format."""
    path = root / "files" / FILE_NAMES[case.target]
    if case.target == "torch file":
        write_torch_file(path)
    else:
        index = embedder.VectorIndex(_QUERIES.shape[1], precision=case.base)
        vectors = np.random.default_rng(3).normal(size=(40, _QUERIES.shape[1])).astype(np.float32)
        metadata = [{"number": number, "odd": number % 2 == 1} for number in range(40)]
        index.add(vectors, list(map(str, range(40))), texts=[f"text {n}" for n in range(40)], metadata=metadata)
        index.save(path)
    return path


def expected_of(case: Case, root: Path, scratch: Path) -> np.ndarray:
    """Return what the files of `case` give without the fault."""
    for name in _FOLDERS:
        (root / name).mkdir(parents=True)
    os.environ.update(XDG_CACHE_HOME=str(root / "cache"), EMBEDDER_PREPACK="0")
    if case.target in FILE_NAMES:
        _write_file(case, root)
    else:
        for name, content in base_files(case.base, scratch).items():
            (root / "artifact" / name).write_bytes(content)
    return _use_of(case)(root)
