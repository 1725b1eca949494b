"""The inputs of a job as a stream, with a digest of those that are done."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from embedder.errors import InputError
from embedder.files.formats import RowFields
from embedder.files.journal import Tally

_DIGEST_BYTES = 16


class RowStream:
    """An iterator over the inputs of a model. It keeps the fields of each input until they are taken.

    It is made of pairs: an input, and its fields. A record that cannot be read ends the iteration, so that the model
    still encodes all inputs before it.

    Attributes:
        error: the error that ended the iteration early, or None.
        skipped: how many inputs an earlier run has done.

    Example:
        >>> rows = RowStream([("a", JsonFields({"text": "a"})), ("b", JsonFields({"text": "b"}))])  # doctest: +SKIP
        >>> next(rows)  # doctest: +SKIP
        'a'
    """

    def __init__(self, pairs: Iterable[tuple[Any, RowFields]]) -> None:
        import hashlib  # here, as it takes milliseconds of the start of every command

        self._pairs = iter(pairs)
        self._waiting: dict[int, RowFields] = {}
        self._index = 0
        self._digest = hashlib.blake2b(digest_size=_DIGEST_BYTES)
        self.error: Exception | None = None
        self.skipped = 0

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        try:
            item, fields = next(self._pairs)
        except (InputError, OSError) as error:
            self.error = error
            raise StopIteration from error
        self._waiting[self._index] = fields
        self._index += 1
        return item

    @property
    def digest(self) -> str:
        """A digest of the inputs that were skipped or taken."""
        return self._digest.hexdigest()

    def take(self, index: int) -> RowFields:
        """Return the fields of an input, and drop them from memory. Take all inputs, in their order."""
        fields = self._waiting.pop(index)
        self._add(fields)
        return fields

    def skip(self, done: Tally) -> None:
        """Pass over the inputs that an earlier run has done.

        Raises:
            InputError: the inputs are others than in that run, or one cannot be read.
            OSError: an input cannot be read.
        """
        for _ in range(done.inputs):
            pair = next(self._pairs, None)
            if pair is None:
                raise InputError(
                    f"the input is not that of the stopped run: it has fewer than {done.inputs:,} records. {_ADVICE}"
                )
            self._add(pair[1])
        if done.inputs and self.digest != done.digest:
            raise InputError(
                f"the input is not that of the stopped run: its first {done.inputs:,} records differ. {_ADVICE}"
            )
        self.skipped = done.inputs

    def _add(self, fields: RowFields) -> None:
        identity = fields.identity()
        self._digest.update(len(identity).to_bytes(8, "little"))
        self._digest.update(identity)


class CountedRows(RowStream):
    """Inputs with a known count, so that the progress bar can show the remaining time."""

    def __init__(self, pairs: Iterable[tuple[Any, RowFields]], count: int) -> None:
        super().__init__(pairs)
        self._count = count

    def __len__(self) -> int:
        return self._count - self.skipped


_ADVICE = "Give the same input, or delete the .partial file to start again"
