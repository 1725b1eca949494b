"""What the sides of a model need of the request that they work for."""

from collections.abc import Callable
from dataclasses import dataclass

from embedder.common.executor import Executor


@dataclass(frozen=True)
class Job:
    """One request, as the text side and the image side see it.

    Attributes:
        batch_size: most inputs of a batch; None sets no such limit.
        prompt_token_count: tokens at the start of each text that the pooling leaves out.
        executor: runs batches side by side.
        advance: is called with the number of inputs of each batch that is done.
    """

    batch_size: int | None
    prompt_token_count: int
    executor: Executor
    advance: Callable[[int], None]
