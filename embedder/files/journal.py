"""The journal of a file that is being written: which blocks of the file are whole, and which inputs they are of.

    FILE.partial   the head of the format, then one block after the other
    FILE.journal   a line with the job, then a line for each block: its end, its CRC-32, and a digest of the inputs

A block is written first, its line after it. So a process may be killed at any moment, and the machine may lose power.
The blocks up to the first one that does not fit its line are kept. The rest is computed again.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from enum import Enum
from typing import IO, Any

from embedder.common.records import frozen

VERSION = 1
_VERSION_KEY = "embedder_journal"
_CHUNK_BYTES = 1 << 20
_CHECKSUM_DIGITS = 8

Job = dict[str, Any]


@frozen
class Tally:
    """What has become of the first inputs of a job.

    Attributes:
        inputs: how many inputs are done.
        digest: a digest of these inputs. Empty if there are none.
        unreadable: how many of them are images that could not be read. They have no vector.
        cut: how many of them are texts that the model did not read to their end.
        first_cut: the index of the first such text.
    """

    inputs: int = 0
    digest: str = ""
    unreadable: int = 0
    cut: int = 0
    first_cut: int | None = None


class Coverage(Enum):
    """Which inputs of a job a tally is of.

    Attributes:
        ALL: all of them.
        FIRST: the first ones, and others follow.
        OTHERS: other inputs.
        UNKNOWN: nobody knows, because the inputs can be read only once.
    """

    ALL = "all"
    FIRST = "first"
    OTHERS = "others"
    UNKNOWN = "unknown"


@frozen
class Progress:
    """What a file holds at the end of a block.

    Attributes:
        tally: the inputs up to there.
        rows: the number of vectors in the file.
        size_bytes: where the block ends.
        crc32: the CRC-32 of the bytes of the block.
    """

    tally: Tally
    rows: int
    size_bytes: int
    crc32: int = 0

    def line(self) -> bytes:
        """Return the line of the journal for this block."""
        return _line(asdict(self))


@frozen
class Journal:
    """The content of a journal.

    Attributes:
        job: the job of its first line.
        start: the state before the first block.
        blocks: the blocks of its other lines.
    """

    job: Job
    start: Progress
    blocks: tuple[Progress, ...] = ()

    def content(self) -> bytes:
        """Return the journal as `read_journal` reads it."""
        first = _line({_VERSION_KEY: VERSION, "job": self.job, "start": asdict(self.start)})
        return b"".join([first, *(block.line() for block in self.blocks)])

    def whole(self, stream: IO[bytes]) -> Journal:
        """Return the journal up to the first block that `stream`, the partial file, does not hold."""
        stream.seek(self.start.size_bytes)
        end, kept = self.start.size_bytes, 0
        for block in self.blocks:
            if _crc32(stream, block.size_bytes - end) != block.crc32:
                break
            end, kept = block.size_bytes, kept + 1
        return Journal(self.job, self.start, self.blocks[:kept])

    @property
    def end(self) -> Progress:
        """The state after the last block."""
        return self.blocks[-1] if self.blocks else self.start


def read_journal(content: bytes) -> Journal | None:
    """Return the journal up to its first line that is not whole. None if that is the first line of all.

    Example:
        >>> journal = Journal({"format": "npy"}, Progress(Tally(), 0, 128))
        >>> read_journal(journal.content()) == journal
        True
        >>> read_journal(journal.content()[:-1]) is None
        True
    """
    lines = content.split(b"\n")[:-1]  # what follows the last line feed is no whole line
    try:
        first = _value(lines[0])
        if first[_VERSION_KEY] != VERSION:
            return None
        start = _progress(first["start"])
        job = dict(first["job"])
    except (ValueError, TypeError, KeyError, IndexError):
        return None
    return Journal(job, start, tuple(_blocks(lines[1:])))


def is_start_of_journal(content: bytes) -> bool:
    """Return whether content is a journal, or the start of one whose first line was not written to its end.

    Example:
        >>> is_start_of_journal(b""), is_start_of_journal(b"a diary")
        (True, False)
    """
    mark = b' {"%s": ' % _VERSION_KEY.encode()
    checksum, rest = content[:_CHECKSUM_DIGITS], content[_CHECKSUM_DIGITS:]
    return set(checksum) <= set(b"0123456789abcdef") and rest[: len(mark)] == mark[: len(rest)]


def differences(old: Job, new: Job) -> list[str]:
    """Return how two jobs differ, in words.

    Example:
        >>> differences({"prompt": "", "precision": "float32"}, {"prompt": "query: ", "precision": "float32"})
        ["prompt was '', and is now 'query: '"]
    """
    names = dict.fromkeys([*old, *new])
    return [
        f"{name} was {old.get(name)!r:.70}, and is now {new.get(name)!r:.70}"
        for name in names
        if old.get(name) != new.get(name)
    ]


def _blocks(lines: Iterable[bytes]) -> Iterator[Progress]:
    for line in lines:
        try:
            yield _progress(_value(line))
        except (ValueError, TypeError, KeyError):
            return


def _line(value: Mapping[str, Any]) -> bytes:
    """Return a line of the journal. It begins with its own CRC-32, so that a damaged line is found."""
    content = json.dumps(value).encode()
    return b"%08x %s\n" % (zlib.crc32(content), content)


def _value(line: bytes) -> Any:
    """Return the value of a line. Raise ValueError if the line is damaged."""
    checksum, _, content = line.partition(b" ")
    if int(checksum, 16) != zlib.crc32(content):
        raise ValueError("the line is damaged")
    return json.loads(content)


def _progress(fields: Mapping[str, Any]) -> Progress:
    return Progress(**{**fields, "tally": Tally(**fields["tally"])})


def _crc32(stream: IO[bytes], size_bytes: int) -> int | None:
    """Return the CRC-32 of the next bytes of a stream. None if it has fewer."""
    crc = 0
    while size_bytes:
        chunk = stream.read(min(size_bytes, _CHUNK_BYTES))
        if not chunk:
            return None
        crc = zlib.crc32(chunk, crc)
        size_bytes -= len(chunk)
    return crc
