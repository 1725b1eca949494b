"""Distil a model into static embeddings, and write them as an artifact."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from embedder import Embedder
from embedder.artifact.distillation import Distillation, with_distillation
from embedder.artifact.hub_access import DEFAULT_ACCESS, HubAccess
from embedder.artifact.manifest import EMBED, MANIFEST_NAME, Manifest, read_manifest, write_manifest
from embedder.errors import InputError
from numpy.typing import NDArray
from safetensors.numpy import save_file

from embedder_export.checkpoint.read import read_checkpoint
from embedder_export.checkpoint.weights import Floats
from embedder_export.distill.token_vectors import meaningful_ids, static_rows
from embedder_export.pipeline import ExportSettings, export
from embedder_export.samples.pairs import calibration_pairs, quality_pairs
from embedder_export.tokenizer.native import load_backend
from embedder_export.tokenizer.settings import TOKENIZER_FILE
from embedder_export.tokenizer.static import read_unknown_id
from embedder_export.write.output import staged

# Length of the new vectors, if the teacher's are not shorter.
DEFAULT_DIMENSION = 256
# The folder of the new artifact, until it is complete.
_STUDENT = "student"
# The folder and the class of each module.
_MODULES = (("", "StaticEmbedding"), ("1_Normalize", "Normalize"))


def distill_static(
    model: str,
    output: Path,
    report: Callable[[str], None],
    settings: ExportSettings,
    *,
    dimension: int | None = None,
    access: HubAccess = DEFAULT_ACCESS,
) -> Manifest:
    """Distil `model` into static embeddings, and write them to `output` as an artifact.

    Args:
        model: the directory of an artifact, or a checkpoint as `read_checkpoint` takes it.
        output: the directory to write. An artifact there is replaced.
        report: called with a line at each stage.
        settings: how to export. The dtypes are those of the new artifact.
        dimension: length of the new vectors. None takes `DEFAULT_DIMENSION`, or less if the teacher's are shorter.
        access: the revision, the token, and whether the network may be used.

    Returns:
        The manifest of the new artifact. It says from what the model was distilled, and how close the two are.

    Raises:
        InputError: the model gives no vectors, or shorter ones than `dimension`; or its vocabulary is smaller; or it
            takes images.
        EmbedderError: as in `read_checkpoint` and `export`.

    Example:
        >>> distill_static("artifacts/small", Path("static"), print, ExportSettings()).dimension  # doctest: +SKIP
        256
    """
    with staged(output) as stage, TemporaryDirectory(dir=stage) as scratch:
        with _teacher_artifact(model, Path(scratch), report, settings, access) as place:
            manifest = _distill(place, Path(scratch), report, settings, dimension)
        write_manifest(manifest, Path(scratch) / _STUDENT)
        for path in (Path(scratch) / _STUDENT).iterdir():
            path.rename(stage / path.name)
    return manifest


def _distill(
    place: Path, scratch: Path, report: Callable[[str], None], settings: ExportSettings, dimension: int | None
) -> Manifest:
    """Write the new artifact to `scratch`, and return its manifest with what the teacher was."""
    found = read_manifest(place)
    _check_teacher(found)
    source, student_place = found.source, scratch / _STUDENT
    with Embedder(place, dtype="fp32") as teacher:
        checkpoint = scratch / f"{Path(source.model).name}-static"
        report(f"computing the vector of each token with {source.model}")
        _write_checkpoint(checkpoint, _rows(teacher, place, dimension), place / found.tokenizer.file.name)
        manifest = export(read_checkpoint(str(checkpoint)), student_place, report, settings)
        with Embedder(student_place) as student:
            spearman, pairs = compare_similarities(teacher, student)
    report(f"similarities of {pairs} pairs compared with {source.model}: Spearman {spearman:.3f}")
    return with_distillation(manifest, Distillation(source.model, source.weights_sha256, spearman, pairs))


def _check_teacher(manifest: Manifest) -> None:
    name = manifest.source.model
    if manifest.task != EMBED:
        raise InputError(f"{name} is for the task {manifest.task!r}: only embedding models can teach")
    if manifest.images is not None:
        raise InputError(
            f"{name} takes images too. Vectors of a distilled model do not match those of images, so only models of "
            "texts can teach"
        )


def compare_similarities(teacher: Embedder, student: Embedder) -> tuple[float, int]:
    """Return the rank correlation of two models' cosines over pairs of texts, and the number of pairs.

    Args:
        teacher: a model.
        student: another model. Its vectors may have another length.

    Example:
        >>> compare_similarities(model, model)  # doctest: +SKIP
        (1.0, 372)
    """
    pairs = [*calibration_pairs(), *quality_pairs()]
    ranks = []
    for model in (teacher, student):
        first, second = (
            model.encode([getattr(pair, side) for pair in pairs], normalize_embeddings=True)
            for side in ("first", "second")
        )
        ranks.append(_ranks((first * second).sum(axis=1)))
    return float(np.corrcoef(ranks[0], ranks[1])[0, 1]), len(pairs)


@contextmanager
def _teacher_artifact(
    model: str, scratch: Path, report: Callable[[str], None], settings: ExportSettings, access: HubAccess
) -> Iterator[Path]:
    """Yield the directory of the teacher's artifact. A checkpoint is exported into `scratch`."""
    directory = Path(model).expanduser()
    if (directory / MANIFEST_NAME).is_file():
        yield directory
        return
    place = scratch / "teacher"
    export(read_checkpoint(model, access), place, report, replace(settings, dtypes=("fp32",)))
    yield place


def _rows(teacher: Embedder, artifact: Path, dimension: int | None) -> Floats:
    tokenizer = load_backend(artifact / TOKENIZER_FILE)
    assert tokenizer is not None  # the teacher has been loaded with it
    unknown_id = read_unknown_id(artifact)
    count = len(meaningful_ids(tokenizer, unknown_id))
    most = min(teacher.dimension, count)
    dimension = min(DEFAULT_DIMENSION, most) if dimension is None else dimension
    if not 0 < dimension <= most:
        raise InputError(
            f"--dimension should be from 1 to {most}, not {dimension}: the model's vectors "
            f"have {teacher.dimension} numbers, and its vocabulary has {count} tokens with a meaning"
        )
    return static_rows(teacher, tokenizer, unknown_id, dimension)


def _write_checkpoint(directory: Path, rows: Floats, tokenizer: Path) -> None:
    """Write a checkpoint of sentence-transformers. The vectors are normalised, so tokens with zeros do not count."""
    directory.mkdir()
    save_file({"embedding.weight": rows}, directory / "model.safetensors")
    (directory / TOKENIZER_FILE).write_bytes(tokenizer.read_bytes())
    modules = [
        {"idx": index, "name": str(index), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for index, (path, kind) in enumerate(_MODULES)
    ]
    (directory / "modules.json").write_text(json.dumps(modules))


def _ranks(values: NDArray[np.float32]) -> NDArray[np.intp]:
    return np.argsort(np.argsort(values))
