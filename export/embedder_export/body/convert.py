"""Second stage: each transformer as a graph, by a native builder if one honours all of it, or by optimum."""

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

from embedder.artifact.manifest import TEXT

from embedder_export.body.body import Body
from embedder_export.body.native import build_bodies
from embedder_export.checkpoint.read import Checkpoint
from embedder_export.errors import CheckpointError, NeedsTorchError, NotNativeError

CONVERTERS = ("auto", "native", "optimum")


def check_converter(converter: str) -> None:
    """Raise NeedsTorchError where `converter`, one of `CONVERTERS`, cannot be had."""
    if converter == "optimum":
        _check_optimum("optimum converts by tracing")


def convert_bodies(
    checkpoint: Checkpoint, converter: str, directory: Path, report: Callable[[str], None]
) -> dict[str, Body]:
    """By modality the transformers of `checkpoint`, by `converter`, one of `CONVERTERS`; optimum's files go to a new
    `directory`.

    Raises:
        NotNativeError: the converter is "native", and no builder honours the checkpoint.
        NeedsTorchError: optimum or torch is needed, and is not installed.
        CheckpointError: the checkpoint is damaged, or neither can convert it.
    """
    if converter != "optimum":
        try:
            return build_bodies(checkpoint)
        except CheckpointError as error:
            raise CheckpointError(f"{checkpoint.name}: {error}") from error
        except NotNativeError as error:
            reason = f"no native builder for {checkpoint.name}: {error}"
            if converter == "native":
                raise NotNativeError(f"{reason}; --converter auto would go to optimum") from error
            _check_optimum(reason)
            report(f"{reason}; converting it with optimum")
    from embedder_export.body.traced import trace_body, trace_clip

    return trace_clip(checkpoint, directory) if checkpoint.is_clip else {TEXT: trace_body(checkpoint, directory)}


def _check_optimum(reason: str) -> None:
    if any(find_spec(package) is None for package in ("optimum", "torch", "transformers")):
        raise NeedsTorchError(reason)
