"""A queue that is fair to requests, whatever their number of texts.

Every request gets the same share of the model while it waits, so a huge request never stalls a small one, and is not
stalled by many small ones either. This is fair queueing by start times: A. Greenberg and N. Madras, "How fair is fair
queuing?", Journal of the ACM 39(3), 1992. A virtual clock advances by the tokens that a request gets if all waiting
requests are served at once, in equal shares. An entry starts at the time of the clock when its request begins, plus the
tokens of the request that come before. The entry with the earliest start is next. So requests of one text are served in
the order in which they come.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Callable, Collection, Sequence
from typing import Generic, TypeVar

_T = TypeVar("_T")

# A request of more entries than this is withdrawn by writing the queue anew.
_MAX_SINGLE_REMOVALS = 16


class Flow:
    """A request, as the queue sees it.

    Attributes:
        start: time of the clock when the request began.
        tokens: tokens of all of its entries so far.
        waiting: number of its entries that wait.
    """

    __slots__ = ("start", "tokens", "waiting")

    def __init__(self, start: float) -> None:
        self.start = start
        self.tokens = 0
        self.waiting = 0


class Entry(Generic[_T]):
    """An item in the queue.

    Attributes:
        item: what the caller has put.
        tokens: its tokens.
        flow: its request.
        start: the time of the clock when it should start.
        number: its place among entries of the same start.
        waits: whether it is still in the queue.
    """

    __slots__ = ("flow", "item", "number", "start", "tokens", "waits")

    def __init__(self, item: _T, tokens: int, flow: Flow, start: float, number: int) -> None:
        self.item = item
        self.tokens = tokens
        self.flow = flow
        self.start = start
        self.number = number
        self.waits = True


class FairQueue(Generic[_T]):
    """Entries in the order in which they should start. Not safe to share between threads.

    Example:
        >>> queue = FairQueue(quantum=1)
        >>> huge, small = queue.begin(), queue.begin()
        >>> entries = [queue.put(text, 10, huge) for text in ("a", "b", "c")] + [queue.put("d", 10, small)]
        >>> [entry.item for entry in queue.first(4)]
        ['a', 'd', 'b', 'c']
    """

    def __init__(self, quantum: int) -> None:
        """Make an empty queue.

        Args:
            quantum: entries of a request start together while they have no more tokens than this. One batch is best.
        """
        self._quantum = quantum
        self._clock = 0.0
        self._count = 0  # of entries and of moves so far
        self._tokens = 0
        self._flows = 0  # requests with entries that wait
        self._order: list[tuple[float, int, Entry[_T]]] = []

    def __len__(self) -> int:
        return len(self._order)

    @property
    def tokens(self) -> int:
        """The tokens of all entries that wait."""
        return self._tokens

    def begin(self) -> Flow:
        """Return a request that begins now."""
        return Flow(self._clock)

    def put(self, item: _T, tokens: int, flow: Flow) -> Entry[_T]:
        """Put an item of a request into the queue, after the earlier ones of the request."""
        self._count += 1
        entry = Entry(item, tokens, flow, self._start_of_next(flow), self._count)
        flow.tokens += tokens
        self._flows += flow.waiting == 0
        flow.waiting += 1
        self._tokens += tokens
        insort(self._order, (entry.start, entry.number, entry))
        return entry

    def hasten(self, entry: Entry[_T], flow: Flow) -> None:
        """Move an entry forward to the place of the next entry of `flow`, if that is earlier."""
        start = self._start_of_next(flow)
        if entry.waits and start < entry.start:
            del self._order[self._place_of(entry)]
            self._count += 1
            entry.start, entry.number = start, self._count
            insort(self._order, (entry.start, entry.number, entry))

    def first(self, count: int, accept: Callable[[Entry[_T]], bool] = lambda entry: True) -> list[Entry[_T]]:
        """Return the first `count` entries that `accept` takes, in order. They stay in the queue.

        Args:
            count: most entries.
            accept: whether an entry may start now.
        """
        found: list[Entry[_T]] = []
        for _, _, entry in self._order:
            if len(found) == count:
                break
            if accept(entry):
                found.append(entry)
        return found

    def take(self, entries: Sequence[Entry[_T]]) -> None:
        """Remove entries because they start now. The clock advances."""
        if entries:
            served = sum(entry.tokens for entry in entries)
            self._clock = max(self._clock + served / self._flows, min(entry.start for entry in entries))
            self.remove(entries)

    def remove(self, entries: Collection[Entry[_T]]) -> None:
        """Remove entries that nobody wants any more. Entries that have been removed or taken already are left out."""
        entries = [entry for entry in entries if entry.waits]
        for entry in entries:
            self._tokens -= entry.tokens
            entry.flow.waiting -= 1
            self._flows -= entry.flow.waiting == 0
            if len(entries) <= _MAX_SINGLE_REMOVALS:
                del self._order[self._place_of(entry)]
            entry.waits = False
        if len(entries) > _MAX_SINGLE_REMOVALS:
            self._order = [place for place in self._order if place[2].waits]

    def _start_of_next(self, flow: Flow) -> float:
        return flow.start + flow.tokens // self._quantum * self._quantum

    def _place_of(self, entry: Entry[_T]) -> int:
        return bisect_left(self._order, (entry.start, entry.number), key=lambda place: place[:2])
