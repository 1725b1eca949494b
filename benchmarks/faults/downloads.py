"""Faults of the Hub and of the network, each for an artifact and for a checkpoint that is exported at first use.

A server on this machine speaks the Hub's protocol. A new process loads a model from it while it fails. It may end with
a message, or get the right vectors all the same. Then the server works again, and the next process must succeed.
"""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.faults.judge import REFUSED, UNCHANGED, Outcome
from tests import hub_faults
from tests.hub_faults import announce, cut, damage, exchange, header, lengthen, on, relist, shorten, stall, status
from tests.hub_server import Fault, Hub, serve

ROOT = Path(__file__).parents[2]
TOKEN = "hf_aTokenThatNoMessageMayShow"
TEXTS = "the cat sat\nquery\na b c\n"
_TIME_LIMIT_S = 120
_PROCESSES = 20
_PAGE = b"<html><body>Sign in to this network</body></html>"
_WRONG_SHA256 = '"' + "0" * 64 + '"'
_API, _FILES, _FIRST, _TOKENIZER, _WEIGHTS, _ALL = (
    "api/models/*",
    "*/resolve/*",
    "FIRST",
    "*tokenizer.json",
    "WEIGHTS",
    "*",
)

# The name of each fault, what fails, which paths, and when. FIRST and WEIGHTS stand for files of the repository.
_FAULTS: tuple[tuple[str, Fault, str, dict[str, object]], ...] = (
    ("404, no such repository", status(404, X_Error_Code="RepoNotFound"), _ALL, {}),
    ("404, no such revision", status(404, X_Error_Code="RevisionNotFound"), _ALL, {}),
    ("404 for the first file", status(404, X_Error_Code="EntryNotFound"), _FIRST, {}),
    ("404 for the weights", status(404, X_Error_Code="EntryNotFound"), _WEIGHTS, {}),
    ("401", status(401, X_Error_Code="RepoNotFound"), _ALL, {}),
    ("401, wrong token", status(401, X_Error_Message="Invalid credentials in Authorization header"), _ALL, {}),
    ("401 for the weights", status(401), _WEIGHTS, {}),
    ("403, gated", status(403, X_Error_Code="GatedRepo"), _ALL, {}),
    ("403 for the weights", status(403), _WEIGHTS, {}),
    ("429 once, then well", status(429, Retry_After="1"), _ALL, {"times": 1}),
    ("429 for ever", status(429, Retry_After="1"), _ALL, {}),
    ("429, come back in a day", status(429, Retry_After="86400"), _ALL, {}),
    ("429 for the weights, come back in a day", status(429, Retry_After="86400"), _WEIGHTS, {}),
    ("429 without Retry-After", status(429), _WEIGHTS, {}),
    ("500 for ever", status(500), _ALL, {}),
    ("500 once for the weights", status(500), _WEIGHTS, {"times": 1}),
    ("502 with a page", status(502, _PAGE), _ALL, {}),
    ("503 for the weights", status(503), _WEIGHTS, {}),
    ("504 for the listing", status(504), _API, {}),
    ("no answer at all", stall(), _ALL, {}),
    ("no answer for the weights", stall(), _WEIGHTS, {}),
    ("silence within the weights", stall(500), _WEIGHTS, {"method": "GET"}),
    ("silence once within the weights", stall(500), _WEIGHTS, {"method": "GET", "times": 1, "skip": 1}),
    ("silence within the listing", stall(10), _API, {}),
    ("cut before the answer", cut(), _ALL, {}),
    ("cut before the weights", cut(), _WEIGHTS, {"method": "GET"}),
    ("cut within the first file", cut(10), _FIRST, {"method": "GET"}),
    ("cut within the tokenizer", cut(100), _TOKENIZER, {"method": "GET"}),
    ("cut within the weights", cut(500), _WEIGHTS, {"method": "GET"}),
    ("cut once within the weights", cut(500), _WEIGHTS, {"method": "GET", "times": 1, "skip": 1}),
    ("cut within the listing", cut(10), _API, {}),
    ("first file too short", shorten(1), _FIRST, {}),
    ("tokenizer too short", shorten(1), _TOKENIZER, {}),
    ("weights too short", shorten(100), _WEIGHTS, {}),
    ("weights empty", exchange(b""), _WEIGHTS, {}),
    ("weights too long", lengthen(b"more"), _WEIGHTS, {}),
    ("length announced too large", announce(10**12), _WEIGHTS, {"method": "GET"}),
    ("length announced too small", announce(10), _WEIGHTS, {"method": "GET"}),
    ("first file damaged", damage(20), _FIRST, {"method": "GET"}),
    ("tokenizer damaged", damage(-100), _TOKENIZER, {"method": "GET"}),
    ("weights damaged", damage(-100), _WEIGHTS, {"method": "GET"}),
    ("a page instead of the first file", exchange(_PAGE), _FIRST, {}),
    ("a page instead of the weights", exchange(_PAGE), _WEIGHTS, {}),
    ("a page instead of everything", exchange(_PAGE), _ALL, {}),
    ("wrong ETag of the first file", header(ETag=_WRONG_SHA256), _FIRST, {}),
    ("wrong ETag of the weights", header(ETag=_WRONG_SHA256, X_Linked_Etag=_WRONG_SHA256), _WEIGHTS, {}),
    ("no ETag", header(ETag=None, X_Linked_Etag=None), _ALL, {}),
    ("ETag that leaves the cache", header(ETag='"../../../evil"', X_Linked_Etag='"../../../evil"'), _ALL, {}),
    ("no commit", header(X_Repo_Commit=None), _ALL, {}),
    ("commit that leaves the cache", header(X_Repo_Commit="../../../evil"), _ALL, {}),
    ("redirect for ever", hub_faults.redirect_for_ever(), _ALL, {}),
    ("redirect to a file of this machine", status(302, Location="file:///etc/passwd"), _WEIGHTS, {}),
    ("listing of nothing", relist(lambda files: files.clear()), _API, {}),
    ("listing with wrong sizes", relist(lambda files: [file.update(size=1) for file in files]), _API, {}),
    ("listing that leaves the cache", relist(lambda files: [_rename(file) for file in files]), _API, {}),
    ("listing without the weights", relist(lambda files: files.__delitem__(slice(1, None))), _API, {}),
    ("listing that is no listing", exchange(b"[1, 2]"), _API, {}),
    ("listing of deep nesting", exchange(b"[" * 100_000), _API, {}),
)


def _rename(file: dict[str, object]) -> None:
    """Move a file of a listing out of the directory."""
    for key in file.keys() & {"path", "rfilename"}:
        file[key] = f"../../../../{file[key]}"


@dataclass(frozen=True)
class Repository:
    """A repository on the server.

    Attributes:
        id: its id on the server.
        directory: its files.
        first: the file that is fetched first.
        weights: the large file.
        printed: what a process prints that encodes `TEXTS` with it.
    """

    id: str
    directory: Path
    first: str
    weights: str
    printed: str = field(repr=False)


def environment_of(hub: Hub, home: Path) -> dict[str, str]:
    """Return the environment of a process that keeps its caches and models below `home` and uses the server `hub`."""
    timeout_s = "3" if hub.faults else "60"  # a busy machine makes the server slow
    return {
        "PATH": os.environ["PATH"],
        "HOME": str(home),
        "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'export'}",
        "EMBEDDER_HOME": str(home / "models"),
        "XDG_CACHE_HOME": str(home / "cache"),
        "HF_HOME": str(home / "hub"),
        "HF_ENDPOINT": hub.endpoint,
        "HF_TOKEN": TOKEN,
        "HF_HUB_ETAG_TIMEOUT": timeout_s,
        "HF_HUB_DOWNLOAD_TIMEOUT": timeout_s,
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "NO_PROXY": "127.0.0.1",
    }


def start(hub: Hub, home: Path, *arguments: str, before: Sequence[str] = ()) -> subprocess.Popen[str]:
    """Start a command of embedder in a new process, with `TEXTS` as its input. `before` is a program that starts it."""
    home.mkdir(parents=True, exist_ok=True)
    process = subprocess.Popen(
        [*before, sys.executable, "-m", "embedder", *arguments],
        env=environment_of(hub, home),
        cwd=home,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,  # so that all of its processes can be killed
    )
    process.stdin.write(TEXTS)
    process.stdin.close()
    process.stdin = None  # `communicate` would write to it
    return process


def outcome_of(process: subprocess.Popen[str], expected: str | None) -> Outcome:
    """Wait for a process, and say how it ended. `expected` is what it should print; None for anything."""
    try:
        printed, said = process.communicate(timeout=_TIME_LIMIT_S)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        return Outcome("", f"hang of more than {_TIME_LIMIT_S} s")
    if TOKEN in printed + said:
        return Outcome("", "the token was shown", said)
    if process.returncode == 0:
        return Outcome("", UNCHANGED if expected in (None, printed) else "wrong vectors", said)
    plain = process.returncode == 1 and "error: " in said and "Traceback" not in said and not printed
    return Outcome("", REFUSED if plain else f"exit {process.returncode}, or a traceback", said)


def run(repository: Repository, scratch: Path) -> Iterator[Outcome]:
    """Yield how each fault ended."""
    for number, (name, fault, path, when) in enumerate(_FAULTS):
        home = scratch / f"{repository.id.replace('/', '-')} {number}"
        path = {_FIRST: f"*/{repository.first}", _WEIGHTS: f"*{repository.weights}*"}.get(path, path)
        with serve({repository.id: repository.directory}) as hub:
            hub.faults.append(on(fault, path, **when))
            failed = outcome_of(start(hub, home, "encode", "--model", repository.id), repository.printed)
            hub.faults.clear()
            retried = outcome_of(start(hub, home, "encode", "--model", repository.id), repository.printed)
        strays = [path.name for path in scratch.iterdir() if "evil" in path.name]
        if strays:
            yield Outcome(name, "a file outside of the caches", strays[0])
        elif failed.result in (REFUSED, UNCHANGED) and retried.result != UNCHANGED:
            yield Outcome(name, f"the retry failed: {retried.result}", f"{failed.message} / {retried.message}")
        else:
            yield Outcome(name, failed.result, failed.message)
        shutil.rmtree(home)


def run_many_at_once(repository: Repository, home: Path) -> Iterator[Outcome]:
    """Start twenty processes on empty caches. Then stop the server, and start one more. Yield how each ended."""
    with serve({repository.id: repository.directory}) as hub:
        processes = [start(hub, home, "encode", "--model", repository.id) for _ in range(_PROCESSES)]
        for process in processes:
            yield must_succeed("twenty at once", outcome_of(process, repository.printed))
        fetched = hub.fetched.count(repository.weights)
        if fetched != 1:
            yield Outcome("twenty at once", f"the weights were fetched {fetched} times")
    offline = start(hub, home, "encode", "--model", repository.id)
    yield must_succeed("the network is gone", outcome_of(offline, repository.printed))


def must_succeed(kind: str, outcome: Outcome) -> Outcome:
    """Return the outcome of a run in which an error is a finding too."""
    return Outcome(kind, outcome.result if outcome.result != REFUSED else "an error", outcome.message)
