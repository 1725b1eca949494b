"""Second stage: the transformer as a graph, by a native builder if one honours all of the checkpoint, or by optimum."""

from collections.abc import Callable
from pathlib import Path

from embedder_export.body import Body
from embedder_export.checkpoint import Checkpoint
from embedder_export.errors import NeedsTorchError, NotNativeError
from embedder_export.native import build_body

CONVERTERS = ("auto", "native", "optimum")


def convert_body(checkpoint: Checkpoint, converter: str, directory: Path, report: Callable[[str], None]) -> Body:
    """The transformer of `checkpoint` by `converter`, one of `CONVERTERS`; optimum's files go to a new `directory`.

    Raises:
        NotNativeError: the converter is "native", and no builder honours the checkpoint.
        NeedsTorchError: optimum or torch is needed, and is not installed.
        CheckpointError: the checkpoint is damaged, or neither can convert it.
    """
    reason = ""
    if converter != "optimum":
        try:
            return build_body(checkpoint)
        except NotNativeError as error:
            if converter == "native":
                raise NotNativeError(f"no native builder for {checkpoint.name}: {error}") from error
            reason = f"no native builder for {checkpoint.name}: {error}"
            report(f"{reason}; converting it with optimum")
    try:
        from embedder_export.traced import trace_body
    except ImportError as error:
        raise NeedsTorchError(reason or "optimum converts by tracing") from error
    return trace_body(checkpoint, directory)
