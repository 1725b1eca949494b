"""What the sides of a model need to know of the request that they work for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from embedder.artifact.manifest import Output
from embedder.common.executor import Executor
from embedder.errors import ArtifactError


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


def fixed_shape(output: Output) -> tuple[int, ...]:
    """Return the shape of `output` for one input.

    Raises:
        ArtifactError: the shape depends on the input, which this version cannot run.
    """
    shape = tuple(size for size in output.shape if size is not None)
    if len(shape) < len(output.shape):
        raise ArtifactError(f"this version cannot run outputs whose length depends on the text ({output.name!r})")
    return shape
