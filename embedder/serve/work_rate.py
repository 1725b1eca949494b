"""How many tokens a model computes in a second, from what it has computed lately."""

from __future__ import annotations

# Each batch counts for this part of what the batch after it counts for.
_FADING = 0.95
_MIN_WAIT_S = 1.0


class WorkRate:
    """Tokens in a second, while there is work.

    Example:
        >>> rate = WorkRate()
        >>> rate.start(0.0, idle=True)
        >>> rate.add(tokens=500, now=0.25)
        >>> rate.seconds_for(tokens=6000)
        3.0
    """

    def __init__(self) -> None:
        self._tokens = self._seconds = 0.0
        self._since = 0.0

    def start(self, now: float, *, idle: bool) -> None:
        """Note that there is work.

        Args:
            now: the time, in seconds.
            idle: whether there was none before.
        """
        if idle:
            self._since = now

    def add(self, tokens: int, now: float) -> None:
        """Note that a batch has ended.

        Args:
            tokens: its tokens.
            now: time when it ended, in seconds.
        """
        self._tokens = self._tokens * _FADING + tokens
        self._seconds = self._seconds * _FADING + max(0.0, now - self._since)
        self._since = max(self._since, now)

    def seconds_for(self, tokens: int) -> float:
        """Return the seconds for this many tokens, at least 1: a guess for those who should come again later."""
        if not (self._tokens and self._seconds):
            return _MIN_WAIT_S
        return max(_MIN_WAIT_S, tokens * self._seconds / self._tokens)
