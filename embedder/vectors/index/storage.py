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
from numpy.typing import ArrayLike, NDArray

from embedder.common.forks import renew_after_fork
from embedder.common.records import frozen
from embedder.errors import InputError

# The number of rows that are copied at a time when the index is saved.
_ROWS_PER_CHUNK = 1 << 14
# The smallest number of rows to reserve memory for.
_MIN_CAPACITY = 64
# Every id is below this, so that it fits in an int64.
_ID_LIMIT = 1 << 63

Columns = dict[str, NDArray[Any]]


@frozen
class Part:
    """Rows of a snapshot that are all in memory or all in a file.

    Attributes:
        start: the number of the first row.
        count: the number of rows.
        columns: arrays of the shape (count, ...).
        alive: (count,), false for deleted rows. None means that no row is deleted.
    """

    start: int
    count: int
    columns: Columns
    alive: NDArray[np.bool_] | None


@frozen
class Snapshot:
    """An index at one moment.

    Attributes:
        loaded: the columns of the rows in the file.
        added: the columns of the rows that were added since. They have room for more rows.
        loaded_count: the number of rows in `loaded`.
        count: the number of rows in `loaded` and `added`, with the deleted rows.
        deleted_count: the number of deleted rows.
        next_id: the largest id so far, plus 1.
        id_buffer: the id of each row. It has room for more rows.
        alive_buffer: false for deleted rows. It has room for more rows.
    """

    loaded: Columns
    added: Columns
    loaded_count: int
    count: int
    deleted_count: int
    next_id: int
    id_buffer: NDArray[np.int64]
    alive_buffer: NDArray[np.bool_]

    def __len__(self) -> int:
        return self.count - self.deleted_count

    @property
    def ids(self) -> NDArray[np.int64]:
        """The id of each row, int64 (count,), with the deleted rows."""
        return self.id_buffer[: self.count]

    @property
    def alive(self) -> NDArray[np.bool_]:
        """False for deleted rows, bool (count,)."""
        return self.alive_buffer[: self.count]

    @property
    def parts(self) -> tuple[Part, Part]:
        """The rows of the file, and the rows that were added since."""
        split, added_count = self.loaded_count, self.count - self.loaded_count
        added = {name: column[:added_count] for name, column in self.added.items()}
        return (
            Part(0, split, self.loaded, self._alive_or_none(slice(0, split))),
            Part(split, added_count, added, self._alive_or_none(slice(split, self.count))),
        )

    def _alive_or_none(self, rows: slice) -> NDArray[np.bool_] | None:
        alive = self.alive[rows]
        return None if not self.deleted_count or alive.all() else alive

    def take(self, name: str, rows: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return the rows with the numbers `rows` (k,) of the column `name` as float64 (k, ...)."""
        loaded, added = self.loaded[name], self.added[name]
        taken = np.empty((len(rows), *added.shape[1:]))
        in_file = rows < self.loaded_count
        taken[in_file], taken[~in_file] = loaded[rows[in_file]], added[rows[~in_file] - self.loaded_count]
        return taken

    def kept_rows(self, name: str) -> Iterator[NDArray[Any]]:
        """Yield the rows of the column `name` that are not deleted, in chunks. The name "ids" gives their ids."""
        for part in self.parts:
            ids = self.ids[part.start : part.start + part.count]
            column = ids if name == "ids" else part.columns[name]
            for at in range(0, part.count, _ROWS_PER_CHUNK):
                chunk = column[at : at + _ROWS_PER_CHUNK]
                yield chunk if part.alive is None else chunk[part.alive[at : at + _ROWS_PER_CHUNK]]


class Storage:
    """Rows that can be appended and deleted. Each row has an id.

    Attributes:
        snapshot: the rows at this moment.
    """

    def __init__(self, ids: NDArray[np.int64], loaded: Columns, empty: Columns) -> None:
        """Begin with the rows of a file.

        Args:
            ids: (n,), the ids of the rows. The array may be read-only.
            loaded: the columns, with n rows each.
            empty: the same columns without rows. They give the dtypes and shapes of the rows to add.
        """
        self._begin(
            Snapshot(
                loaded=loaded,
                added=empty,
                loaded_count=len(ids),
                count=len(ids),
                deleted_count=0,
                next_id=int(ids.max(initial=-1)) + 1,
                id_buffer=np.array(ids, np.int64),
                alive_buffer=np.ones(len(ids), bool),
            )
        )

    def _begin(self, snapshot: Snapshot) -> None:
        self.snapshot = snapshot
        # The row of each id. It is made when a row is first added or deleted. It is None while it may be wrong.
        self._row_of_id: dict[int, int] | None = None
        self.renew()
        renew_after_fork(self)

    def renew(self) -> None:
        """Replace the lock after a fork: a thread of the parent may have held it."""
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        return {"snapshot": self.snapshot}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._begin(state["snapshot"])

    def __copy__(self) -> Storage:
        """Return independent rows. The rows in the file are shared, as nothing changes them."""
        snapshot = self.snapshot
        copied = Storage.__new__(Storage)
        copied._begin(
            replace(
                snapshot,
                added={name: column.copy() for name, column in snapshot.added.items()},
                id_buffer=snapshot.id_buffer.copy(),
                alive_buffer=snapshot.alive_buffer.copy(),
            )
        )
        return copied

    def append(self, columns: Columns, ids: NDArray[np.int64] | None, count: int) -> NDArray[np.int64]:
        """Add `count` rows and return their ids.

        Args:
            columns: the columns of the rows.
            ids: (count,). None takes the ids that follow the largest id so far.
            count: the number of rows.

        Raises:
            InputError: an id is in use or given twice, or there are no ids left. Then nothing is added.
        """
        with self._lock:
            old, row_of_id = self.snapshot, self._rows_by_id()
            taken = _next_ids(old.next_id, count) if ids is None else _check_ids(ids, count, row_of_id)
            self._row_of_id = None
            added_count = old.count - old.loaded_count
            self.snapshot = replace(
                old,
                added={name: _append(column, added_count, columns[name]) for name, column in old.added.items()},
                count=old.count + count,
                next_id=old.next_id + count if ids is None else max(old.next_id, int(taken.max(initial=-1)) + 1),
                id_buffer=_append(old.id_buffer, old.count, taken),
                alive_buffer=_append(old.alive_buffer, old.count, np.ones(count, bool)),
            )
            row_of_id.update(zip(taken.tolist(), range(old.count, old.count + count), strict=True))
            self._row_of_id = row_of_id
        return taken

    def delete(self, ids: NDArray[np.int64]) -> None:
        """Delete the rows of `ids`.

        Raises:
            InputError: an id is not in the index. Then nothing is deleted.
        """
        with self._lock:
            old, row_of_id = self.snapshot, self._rows_by_id()
            unique = list(dict.fromkeys(ids.tolist()))
            for number in unique:
                if number not in row_of_id:
                    raise InputError(f"id {number} is not in the index")
            if not unique:
                return
            self._row_of_id = None
            alive_buffer = old.alive_buffer.copy()
            alive_buffer[[row_of_id[number] for number in unique]] = False
            deleted_count = old.deleted_count + len(unique)
            self.snapshot = replace(old, deleted_count=deleted_count, alive_buffer=alive_buffer)
            for number in unique:
                del row_of_id[number]
            self._row_of_id = row_of_id

    def _rows_by_id(self) -> dict[int, int]:
        """Return the row of each id that is not deleted."""
        if self._row_of_id is None:
            rows = np.flatnonzero(self.snapshot.alive)
            self._row_of_id = dict(zip(self.snapshot.ids[rows].tolist(), rows.tolist(), strict=True))
        return self._row_of_id


def _next_ids(first: int, count: int) -> NDArray[np.int64]:
    """Return `count` ids from `first` on."""
    if first + count > _ID_LIMIT:
        raise InputError(f"there are no ids left after {first - 1}: give ids that are free")
    return np.arange(first, first + count)


def _check_ids(ids: NDArray[np.int64], count: int, row_of_id: dict[int, int]) -> NDArray[np.int64]:
    """Return `ids` if there are `count` of them and none is given twice or in use. Raises InputError otherwise."""
    if len(ids) != count:
        raise InputError(f"there are {len(ids)} ids for {count} vectors")
    seen: set[int] = set()
    for number in ids.tolist():
        if number in row_of_id:
            raise InputError(f"id {number} is in the index already: delete it first, or give another id")
        if number in seen:
            raise InputError(f"id {number} is given twice")
        seen.add(number)
    return ids


def _append(buffer: NDArray[Any], used: int, rows: NDArray[Any]) -> NDArray[Any]:
    """Write `rows` after the first `used` rows of a buffer. A full buffer is copied to one at least twice as large."""
    needed = used + len(rows)
    if needed > len(buffer):
        larger = np.empty((max(needed, 2 * len(buffer), _MIN_CAPACITY), *buffer.shape[1:]), buffer.dtype)
        larger[:used] = buffer[:used]
        buffer = larger
    buffer[used:needed] = rows
    return buffer


def _as_integers(numbers: NDArray[np.object_]) -> NDArray[np.int64]:
    try:
        return numbers.astype(np.int64)
    except OverflowError as error:
        raise InputError(f"ids should be from -2**63 to below 2**63: {error}") from error


def as_ids(ids: ArrayLike) -> NDArray[np.int64]:
    """Return one or several ids as int64 (n,).

    Raises:
        InputError: the ids are not whole numbers below 2**63.
    """
    try:
        numbers = np.atleast_1d(np.asarray(ids))
    except ValueError as error:
        raise InputError(f"ids should be whole numbers: {error}") from error
    if numbers.size == 0:
        return np.empty(0, np.int64)
    if numbers.dtype.kind == "O" and numbers.ndim == 1 and all(type(number) is int for number in numbers):
        numbers = _as_integers(numbers)  # a column of Python's numbers
    if numbers.ndim != 1 or numbers.dtype.kind not in "iu":
        raise InputError(f"ids should be whole numbers, not {numbers.dtype} of shape {numbers.shape}")
    if numbers.dtype == np.uint64 and numbers.max() >= _ID_LIMIT:
        raise InputError(f"ids should be below 2**63, not {numbers.max()}")
    return numbers.astype(np.int64)
