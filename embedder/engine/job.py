"""What the text side and the image side of a model know about a request."""

from __future__ import annotations

from collections.abc import Callable

from embedder.common.executor import Executor
from embedder.common.records import frozen


@frozen
class Job:
    """One request, as the text side and the image side see it.

    Attributes:
        batch_size: most inputs of a batch. None sets no such limit.
        prompt_token_count: number of tokens at the start of each text that the pooling leaves out.
        executor: runs batches side by side.
        advance: called after each batch, with its number of inputs.

    Example:
        >>> Job(8, 0, Executor(2), print).batch_size
        8
    """

    batch_size: int | None
    prompt_token_count: int
    executor: Executor
    advance: Callable[[int], object]
