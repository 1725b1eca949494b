"""Say whether a checkpoint can be exported, from its files of settings alone.

The stages of the export decide it themselves. They run on a copy of these files, with zeros for the weights. Whatever
depends on the weights or on the vocabulary is checked only by the export: damaged or missing tensors, tokens without a
row, and the comparison with the reference.
"""

import json
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory

from embedder.artifact.manifest import IMAGE

from embedder_export.body.contract import Body, BodyRequest, TextPadding
from embedder_export.body.convert import check_traceable
from embedder_export.body.native import build_bodies
from embedder_export.checkpoint.checkpoint import Checkpoint
from embedder_export.checkpoint.files import SAFETENSORS, TORCH_WEIGHTS, blank_weights
from embedder_export.checkpoint.image_processor import read_images
from embedder_export.checkpoint.locate import Location
from embedder_export.checkpoint.read import read_located
from embedder_export.checkpoint.settings_files import SettingsFiles
from embedder_export.errors import CheckpointError, NeedsTorchError, NotNativeError
from embedder_export.tokenizer.convert import check_tokenizer

# The verdicts: exported without torch; exported with the packages of the extra [torch]; not exported.
NATIVE, TRACED, REFUSED = "native", "traced", "refused"
# The length that a model pads its texts to follows from the vocabulary's files, and decides nothing here.
_ANY_PADDING = TextPadding(0, 64, "right", is_masked=False)


@dataclass(frozen=True)
class Support:
    """Whether a checkpoint can be exported.

    Attributes:
        verdict: `NATIVE`, `TRACED` or `REFUSED`.
        reasons: why it is not native. Empty if it is.
    """

    verdict: str
    reasons: tuple[str, ...] = ()


def check_support(name: str, files: SettingsFiles, task: str | None = None) -> Support:
    """Say whether the checkpoint `name` can be exported.

    Args:
        name: its name in messages.
        files: its files. Files of weights have no role.
        task: as in `read_checkpoint`.

    Example:
        >>> check_support("org/name", {"config.json": {"model_type": "bert"}, "vocab.txt": None})
        Support(verdict='native', reasons=())
    """
    with TemporaryDirectory() as scratch:
        directory = Path(scratch, "checkpoint")
        _write(directory, files)
        try:
            with blank_weights():
                reasons = _reasons_for_torch(read_located(Location(directory, name, None), task))
        except CheckpointError as error:
            return Support(REFUSED, (_without_paths(str(error), directory, name),))
    return Support(TRACED if reasons else NATIVE, tuple(_without_paths(reason, directory, name) for reason in reasons))


def _write(directory: Path, files: SettingsFiles) -> None:
    """Write `files` to a new `directory`, without the weights. A file without known content is empty."""
    directory.mkdir()
    for name, content in files.items():
        path = directory / name
        if ".." in path.parts or PurePosixPath(name).is_absolute():
            continue
        if any(fnmatchcase(path.name, pattern) for pattern in (SAFETENSORS, TORCH_WEIGHTS)):
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("" if content is None else json.dumps(content), encoding="utf-8")


def _reasons_for_torch(checkpoint: Checkpoint) -> list[str]:
    """Return why an export of `checkpoint` needs torch. The list is empty if it does not.

    Raises:
        CheckpointError: it cannot be exported.
    """
    reasons, bodies = list[str](), dict[str, Body]()
    try:
        padding = _ANY_PADDING if checkpoint.family.pads_texts else None
        bodies = build_bodies(checkpoint, BodyRequest(padding=padding))
    except NotNativeError as error:
        check_traceable(checkpoint, f"no native builder: {error}")
        reasons.append(str(error))
    try:
        check_tokenizer(checkpoint)
    except NeedsTorchError as error:
        reasons.append(error.reason)
    processor = checkpoint.family.image_processor
    if processor is not None and IMAGE in bodies:
        read_images(checkpoint.transformer, processor, bodies[IMAGE].sizes)
    return reasons


def _without_paths(message: str, directory: Path, name: str) -> str:
    """Return `message` without the name of the checkpoint in front, and without the directory of the copy."""
    return message.removeprefix(f"{name}: ").replace(f"{directory}/", "").replace(str(directory), "the checkpoint")
