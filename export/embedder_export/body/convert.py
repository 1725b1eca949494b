"""Choose the converter: a native builder if one honours all settings, otherwise optimum."""

from collections.abc import Callable
from pathlib import Path

from embedder_export.body.contract import ALL_TOKENS, Body, BodyRequest
from embedder_export.body.native import build_bodies
from embedder_export.body.static import static_bodies
from embedder_export.checkpoint.checkpoint import Checkpoint
from embedder_export.checkpoint.files import read_json
from embedder_export.checkpoint.sparse_layers import StaticWeights
from embedder_export.errors import CheckpointError, NeedsTorchError, NotNativeError
from embedder_export.families.static import STATIC
from embedder_export.packages import is_installed

CONVERTERS = ("auto", "native", "optimum")


def check_converter(converter: str) -> None:
    """Check that `converter`, one of `CONVERTERS`, can run here.

    Raises:
        NeedsTorchError: its packages are not installed.

    Example:
        >>> check_converter("native")
    """
    if converter == "optimum":
        _check_optimum("optimum converts by tracing")


def convert_bodies(
    checkpoint: Checkpoint,
    converter: str,
    directory: Path,
    report: Callable[[str], None],
    request: BodyRequest = ALL_TOKENS,
) -> dict[str, Body]:
    """Convert the transformers of `checkpoint` to graphs, and return them by modality.

    Args:
        checkpoint: what to convert.
        converter: one of `CONVERTERS`.
        directory: a new directory for optimum's files.
        report: called with a line if "auto" chooses optimum.
        request: what the later stages need.

    Raises:
        NotNativeError: the converter is "native", and no builder honours the checkpoint.
        NeedsTorchError: optimum or torch is needed, and is not installed.
        CheckpointError: the checkpoint is damaged, or neither converter can convert it. optimum converts no model of
            its repository's own code.

    Example:
        >>> checkpoint = read_checkpoint("checkpoints/all-MiniLM-L6-v2")  # doctest: +SKIP
        >>> convert_bodies(checkpoint, "auto", Path("bodies"), print)["text"].sizes.width  # doctest: +SKIP
        384
    """
    first = checkpoint.layers[0] if checkpoint.layers else None
    if isinstance(first, StaticWeights):
        return static_bodies(len(first.weights))
    if converter == "optimum" and checkpoint.family is STATIC:
        raise CheckpointError(f"{checkpoint.name} is a table of embeddings: it is not traced. Leave out --converter")
    if converter != "optimum":
        try:
            return build_bodies(checkpoint, request)
        except CheckpointError as error:
            raise CheckpointError(f"{checkpoint.name}: {error}") from error
        except NotNativeError as error:
            reason = f"no native builder for {checkpoint.name}: {error}"
            if converter == "native":
                raise NotNativeError(f"{reason}; --converter auto would use optimum") from error
            check_traceable(checkpoint, reason)
            _check_optimum(reason)
            report(f"{reason}; converting it with optimum")
    else:
        check_traceable(checkpoint, f"{checkpoint.name} cannot be converted with optimum")
    from embedder_export.body.traced import trace_bodies

    return trace_bodies(checkpoint, directory, request)


def check_traceable(checkpoint: Checkpoint, reason: str) -> None:
    """Check that tracing would load the checkpoint's own model, and would give the vectors of the reference.

    Args:
        checkpoint: what to trace.
        reason: why it is traced. The message begins with it.

    Raises:
        CheckpointError: config.json names code in the repository. Without it, another model would be traced. Or texts
            are padded to one length, which only a native graph does.

    Example:
        >>> check_traceable(read_checkpoint("checkpoints/all-MiniLM-L6-v2"), "wanted")  # doctest: +SKIP
    """
    if checkpoint.family.pads_texts:
        raise CheckpointError(f"{reason}; it cannot be traced, because all texts are padded to one length")
    if read_json(checkpoint.transformer / "config.json", dict).get("auto_map"):
        raise CheckpointError(f"{reason}; tracing would need the code in the repository, which is never run")


def _check_optimum(reason: str) -> None:
    if not is_installed("optimum", "torch", "transformers"):
        raise NeedsTorchError(reason)
