"""The rows of an index: columns, ids and deletions. They are safe to share between threads, and usable after a fork.

Readers take a snapshot and never wait. Writers wait for each other. Each writer publishes a new snapshot at its end. A
snapshot never changes: new rows are written after its last row, and a deletion changes a copy of the flags.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedder.common.forks import renew_after_fork
from embedder.common.records import frozen
from embedder.errors import InputError
from embedder.vectors.index.columns import Columns, Rows, Strings, append_rows, encode_strings, extend
from embedder.vectors.index.ids import Id, Ids, check_kind, check_unique, listed_ids, next_ids

# The number of rows that are copied at a time when the index is saved.
_ROWS_PER_CHUNK = 1 << 14
# The memory of fewer deleted rows is not worth the time to free it.
_MIN_DELETED_ROWS = 1 << 10


@frozen
class Part:
    """Rows of a snapshot that are all in memory or all in a file.

    Attributes:
        start: the number of the first row.
        count: the number of rows.
        columns: arrays of the shape (count, ...).
        strings: columns of strings with `count` rows.
        alive: (count,), false for rows that are deleted or left out. None means that there are none.
    """

    start: int
    count: int
    columns: Columns
    strings: dict[str, Strings]
    alive: NDArray[np.bool_] | None

    def chunks(self) -> Iterator[tuple[slice, NDArray[np.bool_] | None]]:
        """Yield all rows in chunks, each with its part of `alive`."""
        for at in range(0, self.count, _ROWS_PER_CHUNK):
            rows = slice(at, min(at + _ROWS_PER_CHUNK, self.count))
            yield rows, None if self.alive is None else self.alive[rows]


@frozen
class Snapshot:
    """An index at one moment, or some of its rows.

    Attributes:
        loaded: the rows in the file.
        added: the rows that were added since.
        loaded_count: the number of rows in `loaded`.
        count: the number of rows in `loaded` and `added`, with the deleted rows.
        deleted_count: the number of rows that are deleted or left out.
        next_id: the largest whole number that was an id so far, plus 1.
        alive_buffer: false for rows that are deleted or left out. It has room for more rows.
    """

    loaded: Rows
    added: Rows
    loaded_count: int
    count: int
    deleted_count: int
    next_id: int
    alive_buffer: NDArray[np.bool_]

    def __len__(self) -> int:
        return self.count - self.deleted_count

    @property
    def alive(self) -> NDArray[np.bool_]:
        """False for rows that are deleted or left out, bool (count,)."""
        return self.alive_buffer[: self.count]

    @property
    def parts(self) -> tuple[Part, Part]:
        """The rows of the file, and the rows that were added since."""
        split, added_count = self.loaded_count, self.count - self.loaded_count
        return self._part(self.loaded, 0, split), self._part(self.added.first(added_count), split, added_count)

    def _part(self, rows: Rows, start: int, count: int) -> Part:
        alive = self.alive[start : start + count]
        all_alive = not self.deleted_count or alive.all()
        return Part(start, count, rows.columns, dict(rows.strings), None if all_alive else alive)

    def only(self, alive: NDArray[np.bool_]) -> Snapshot:
        """Return this snapshot without the rows that are false in `alive` (count,)."""
        return replace(self, deleted_count=self.count - int(np.count_nonzero(alive)), alive_buffer=alive)

    @property
    def has_string_ids(self) -> bool:
        """Whether ids are strings."""
        return "ids" in (self.loaded if self.loaded_count else self.added).strings

    def take(self, name: str, rows: NDArray[np.int64]) -> NDArray[Any]:
        """Return the rows with the numbers `rows` (k,) of the column `name`, of the shape (k, ...)."""
        in_file = rows < self.loaded_count
        loaded, added = self.loaded.columns[name], self.added.columns[name]
        taken = np.empty((len(rows), *added.shape[1:]), added.dtype)
        taken[in_file], taken[~in_file] = loaded[rows[in_file]], added[rows[~in_file] - self.loaded_count]
        return taken

    def string(self, name: str, row: int) -> str | None:
        """Return the string in `row` of the column `name`, or None."""
        in_file = row < self.loaded_count
        strings = (self.loaded if in_file else self.added).strings.get(name)
        return None if strings is None else strings.get(row if in_file else row - self.loaded_count)

    def ids_of(self, rows: NDArray[np.int64]) -> list[Any]:
        """Return the ids of the rows with the numbers `rows` (k,), as `int` or `str`."""
        if self.has_string_ids:
            return [self.string("ids", row) for row in rows.tolist()]
        return self.take("ids", rows).tolist() if len(rows) else []

    def all_ids(self) -> Ids:
        """Return the ids of all rows that are not deleted, in the order of the rows."""
        if not self.has_string_ids:
            return np.concatenate([np.empty(0, np.int64), *self.kept_rows("ids")])
        return [
            text
            for part in self.parts
            if part.count
            for text, alive in zip(part.strings["ids"].all(), self.alive[part.start :].tolist(), strict=False)
            if alive and text is not None
        ]

    def kept_rows(self, name: str) -> Iterator[NDArray[Any]]:
        """Yield the rows of the column `name` that are not deleted, in chunks."""
        for part in self.parts:
            for rows, alive in part.chunks():
                chunk = part.columns[name][rows]
                yield chunk if alive is None else chunk[alive]

    def kept_lengths(self, name: str) -> Iterator[NDArray[np.int64]]:
        """Yield the number of bytes of each row of a column of strings that is not deleted, in chunks."""
        for part in self.parts:
            strings = part.strings.get(name)
            for rows, alive in part.chunks():
                lengths = np.zeros(rows.stop - rows.start, np.int64) if strings is None else strings.lengths(rows)
                yield lengths if alive is None else lengths[alive]

    def kept_ends(self, name: str) -> Iterator[NDArray[np.int64]]:
        """Yield where each row of a column of strings that is not deleted ends in the bytes of `kept_bytes`."""
        total = 0
        for lengths in self.kept_lengths(name):
            yield total + np.cumsum(lengths)
            total += int(lengths.sum())

    def kept_bytes(self, name: str) -> Iterator[NDArray[np.uint8]]:
        """Yield the bytes of the rows of a column of strings that are not deleted, in chunks."""
        for part in self.parts:
            if name in part.strings:
                strings = part.strings[name]
                for rows, alive in part.chunks():
                    content = strings.bytes_of(rows)
                    yield content if alive is None else content[np.repeat(alive, strings.lengths(rows))]


class Storage:
    """Rows that can be appended and deleted. Each row has an id.

    Attributes:
        snapshot: the rows at this moment.
    """

    def __init__(self, loaded: Rows, count: int, empty: Columns) -> None:
        """Begin with the rows of a file.

        Args:
            loaded: the rows. Their arrays may be read-only. The ids are the column "ids", of whole numbers or strings.
            count: the number of rows.
            empty: all columns of arrays without rows. They give the dtypes and shapes of the rows to add.
        """
        self._empty = Rows(empty)
        ids = loaded.columns.get("ids")
        next_id = 0 if ids is None else int(ids.max(initial=-1)) + 1
        self._begin(Snapshot(loaded, self._empty, count, count, 0, next_id, np.ones(count, bool)))

    def _begin(self, snapshot: Snapshot) -> None:
        self.snapshot = snapshot
        # The row of each id. It is made when it is first needed. It is None while it may be wrong.
        self._row_of_id: dict[Id, int] | None = None
        self.renew()
        renew_after_fork(self)

    def renew(self) -> None:
        """Replace the lock after a fork: a thread of the parent may have held it."""
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        return {"snapshot": self.snapshot, "empty": self._empty}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._empty = state["empty"]
        self._begin(state["snapshot"])

    def __copy__(self) -> Storage:
        """Return independent rows. The rows in the file are shared, as nothing changes them."""
        snapshot = self.snapshot
        copied = Storage.__new__(Storage)
        copied._empty = self._empty
        copied._begin(replace(snapshot, added=snapshot.added.copy(), alive_buffer=snapshot.alive_buffer.copy()))
        return copied

    def find(self, id_: Id) -> tuple[Snapshot, int | None]:
        """Return a snapshot, and the row in it that has this id. The row is None if there is no such id."""
        with self._lock:
            return self.snapshot, self._rows_by_id().get(id_)

    def append(self, new: Rows, ids: Ids | None, count: int, *, replace_rows: bool = False) -> Ids:
        """Add `count` rows and return their ids.

        Args:
            new: the rows without their ids.
            ids: the ids. None takes the whole numbers that follow the largest id so far.
            count: the number of rows.
            replace_rows: delete the rows that have these ids already. If False, such an id is refused.

        Raises:
            InputError: an id cannot be used, or there are no ids left. Then nothing changes.
        """
        with self._lock:
            self._free_deleted_rows()
            old, row_of_id = self.snapshot, self._rows_by_id()
            taken = _check_ids(old, ids, count)
            if not count:
                return taken
            used = [id_ for id_ in listed_ids(taken) if id_ in row_of_id]
            if used and not replace_rows:
                raise InputError(
                    f"id {used[0]!r} is in the index already: delete it first, give another id, or use upsert"
                )
            self._row_of_id = None
            alive = _without(old.alive_buffer, [row_of_id[id_] for id_ in used]) if used else old.alive_buffer
            self.snapshot = replace(
                old,
                added=extend(old.added, old.count - old.loaded_count, _with_ids(new, taken), count),
                count=old.count + count,
                deleted_count=old.deleted_count + len(used),
                next_id=old.next_id if isinstance(taken, list) else max(old.next_id, int(taken.max(initial=-1)) + 1),
                alive_buffer=append_rows(alive, old.count, np.ones(count, bool)),
            )
            row_of_id.update(zip(listed_ids(taken), range(old.count, old.count + count), strict=True))
            self._row_of_id = row_of_id
        return taken

    def _free_deleted_rows(self) -> None:
        """Free the memory of the deleted rows if there are no others, or if those in memory are most of all rows."""
        old, split = self.snapshot, self.snapshot.loaded_count
        if not old.deleted_count or (len(old) and old.deleted_count < _MIN_DELETED_ROWS):
            return
        alive = old.alive[split:]
        deleted = len(alive) - int(np.count_nonzero(alive))
        if not len(old):  # both kinds of ids can be added then
            freed = Snapshot(self._empty, self._empty, 0, 0, 0, old.next_id, np.empty(0, bool))
        elif deleted >= _MIN_DELETED_ROWS and 2 * deleted >= old.count:
            freed = replace(
                old,
                added=old.added.first(len(alive)).only(alive),
                count=old.count - deleted,
                deleted_count=old.deleted_count - deleted,
                alive_buffer=np.concatenate([old.alive[:split], alive[alive]]),
            )
        else:
            return
        self._row_of_id = None
        self.snapshot = freed

    def delete(self, ids: Ids) -> None:
        """Delete the rows of `ids`.

        Raises:
            InputError: an id is not in the index. Then nothing is deleted.
        """
        with self._lock:
            old, row_of_id = self.snapshot, self._rows_by_id()
            if len(old):
                check_kind(ids, old.has_string_ids)
            unique = list(dict.fromkeys(listed_ids(ids)))
            for id_ in unique:
                if id_ not in row_of_id:
                    raise InputError(f"id {id_!r} is not in the index")
            if not unique:
                return
            self._row_of_id = None
            alive_buffer = _without(old.alive_buffer, [row_of_id[id_] for id_ in unique])
            deleted_count = old.deleted_count + len(unique)
            self.snapshot = replace(old, deleted_count=deleted_count, alive_buffer=alive_buffer)
            for id_ in unique:
                del row_of_id[id_]
            self._row_of_id = row_of_id
            self._free_deleted_rows()

    def _rows_by_id(self) -> dict[Id, int]:
        """Return the row of each id that is not deleted."""
        if self._row_of_id is None:
            snapshot = self.snapshot
            rows = np.flatnonzero(snapshot.alive).tolist()
            self._row_of_id = dict(zip(listed_ids(snapshot.all_ids()), rows, strict=True))
        return self._row_of_id


def _check_ids(old: Snapshot, ids: Ids | None, count: int) -> Ids:
    """Return the ids of `count` new rows. Raises InputError if they cannot be used."""
    if ids is None:
        if count and old.has_string_ids:
            raise InputError("the ids of this index are strings: give an id for each item")
        return next_ids(old.next_id, count)
    if len(ids) != count:
        raise InputError(f"there are {len(ids)} ids for {count} vectors")
    if len(old):
        check_kind(ids, old.has_string_ids)
    check_unique(ids)
    return ids


def _with_ids(rows: Rows, ids: Ids) -> Rows:
    """Return `rows` with the column "ids"."""
    if isinstance(ids, list):
        return Rows(rows.columns, {**rows.strings, "ids": encode_strings(ids)})
    return Rows({**rows.columns, "ids": ids}, rows.strings)


def _without(alive: NDArray[np.bool_], rows: list[int]) -> NDArray[np.bool_]:
    """Return a copy of `alive` that is false for `rows`."""
    changed = alive.copy()
    changed[rows] = False
    return changed
