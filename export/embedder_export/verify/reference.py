"""Use sentence-transformers as a reference: compute its vectors or scores for the same checkpoint."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import numpy as np
from embedder.artifact.manifest import TOKEN_TYPE_IDS
from embedder.artifact.multi_vector import QUERY, MultiVectorSettings
from embedder.common.panics import panics_as_exceptions
from embedder.inputs import Pair
from PIL import Image

from embedder_export.checkpoint.checkpoint import Checkpoint
from embedder_export.checkpoint.files import read_json
from embedder_export.checkpoint.modules import read_modules
from embedder_export.checkpoint.multi_vector import FLAG_PROJECTION
from embedder_export.checkpoint.sparse_layers import StaticWeights
from embedder_export.errors import NoReferenceError, library_failure
from embedder_export.families.static import STATIC
from embedder_export.packages import is_installed
from embedder_export.tokenizer.classes import splits_white_space
from embedder_export.tokenizer.transformers5 import needs_version_5
from embedder_export.tokenizer.white_space import split_at_white_space
from embedder_export.verify.compare import Vectors

if TYPE_CHECKING:
    from sentence_transformers import CrossEncoder, SentenceTransformer

# transformers' plain attention holds the scores of all pairs of tokens. A batch of texts of 2,000 tokens would take
# gigabytes, so models with a higher limit than this are given one text at a time.
_MAX_BATCHED_TOKENS, _BATCH_SIZE = 512, 8
_FIRST_SPARSE_RELEASE = (5, 0)
# Called with inputs and a prompt. The inputs are texts, or images as uint8 (height, width, 3). Returns float32 (n,
# dimension).
Encode = Callable[[Sequence[Any], str | None], Vectors]


@dataclass(frozen=True)
class Reference:
    """Another program that embeds the same inputs.

    Attributes:
        name: the program's name and version.
        encode: returns its vectors, float32 (n, dimension). It raises NoReferenceError or CheckpointError if the
            program fails.
    """

    name: str
    encode: Encode


def is_reference_installed() -> bool:
    """Return whether sentence-transformers is installed.

    Example:
        >>> is_reference_installed()  # doctest: +SKIP
        True
    """
    return is_installed("sentence_transformers")


def sentence_transformers_reference(checkpoint: Checkpoint, max_seq_length: int) -> Reference | None:
    """Load the checkpoint with sentence-transformers on the CPU.

    Args:
        checkpoint: the checkpoint to load.
        max_seq_length: most tokens of a text. Longer texts are cut.

    Returns:
        The reference, or None if sentence-transformers is not installed. Its `encode` raises CheckpointError if
        sentence-transformers fails on an input.

    Raises:
        NoReferenceError: a newer library saved the checkpoint, and the installed version cannot load it; or it is a
            model of the code in its repository.
        CheckpointError: sentence-transformers cannot load the checkpoint for another reason.

    Example:
        >>> reference = sentence_transformers_reference(checkpoint, 256)  # doctest: +SKIP
        >>> reference.encode(["a text"], None).shape  # doctest: +SKIP
        (1, 384)
    """
    if not is_reference_installed():
        return None
    model: SentenceTransformer = _load(checkpoint, "SentenceTransformer")
    if checkpoint.family is STATIC:
        model.float()  # a table in float16 would give means in float16
    else:
        _set_padding(model, checkpoint)
        # sentence-transformers fails on long texts if its limit exceeds the position table.
        model.max_seq_length = min(model.max_seq_length or max_seq_length, max_seq_length)

    batch_size = _batch_size(max_seq_length)

    def encode(inputs: Sequence[Any], prompt: str | None) -> Vectors:
        given = [Image.fromarray(one) if isinstance(one, np.ndarray) else one for one in inputs]
        try:
            with panics_as_exceptions():
                vectors: Vectors = model.encode(given, prompt=prompt, batch_size=batch_size, show_progress_bar=False)
        except Exception as error:  # the libraries raise any class; this block holds only their call
            raise library_failure(f"sentence-transformers fails on {checkpoint.name}", error) from error
        return vectors

    return Reference(f"sentence-transformers {version('sentence-transformers')}", encode)


def _set_padding(model: SentenceTransformer, checkpoint: Checkpoint) -> None:
    """Let the vectors of texts not depend on their batch.

    Raises:
        NoReferenceError: texts must be padded to one length, and this sentence-transformers has no such setting.
    """
    transformer = model[0]
    if not checkpoint.family.pads_texts:
        # With padding on the left, some models count positions from the start of the padding. Their vectors then depend
        # on the batch. With padding on the right, they do not.
        model.tokenizer.padding_side = "right"
    elif hasattr(transformer, "processing_kwargs"):
        transformer.processing_kwargs = {"text": {"padding": "max_length"}}
    else:
        raise NoReferenceError(f"this sentence-transformers cannot pad the texts of {checkpoint.name} to one length")


@dataclass(frozen=True)
class ScoreReference:
    """Another program that scores the same pairs.

    Attributes:
        name: the program's name and version.
        predict: returns its scores without activation, float32 (pairs, labels). It raises CheckpointError if the
            program fails.
    """

    name: str
    predict: Callable[[Sequence[Pair]], Vectors]


def cross_encoder_reference(checkpoint: Checkpoint, max_seq_length: int, *, token_types: bool) -> ScoreReference | None:
    """Load the checkpoint with sentence-transformers' CrossEncoder on the CPU.

    Args:
        checkpoint: the checkpoint to load.
        max_seq_length: most tokens of a pair. Longer pairs are cut.
        token_types: whether the model is given token types. Versions of transformers differ in this.

    Returns:
        The reference, or None if sentence-transformers is not installed.

    Raises:
        NoReferenceError: a newer library saved the checkpoint, and the installed version cannot load it; or it is a
            model of the code in its repository.
        CheckpointError: sentence-transformers cannot load the checkpoint for another reason.

    Example:
        >>> reference = cross_encoder_reference(checkpoint, 512, token_types=True)  # doctest: +SKIP
        >>> reference.predict([Pair("a query", "a passage")]).shape  # doctest: +SKIP
        (1, 1)
    """
    if not is_reference_installed():
        return None
    newer = _newer_library(checkpoint)
    if newer is not None and len(read_modules(checkpoint.directory) or ()) > 1:
        # An older version would ignore the modules after the first, and make up a head with random weights.
        raise NoReferenceError(f"sentence-transformers would load {checkpoint.name} without its head: {newer}")
    model: CrossEncoder = _load(checkpoint, "CrossEncoder")
    model.tokenizer.padding_side = "right"
    # sentence-transformers fails on long pairs if its limit exceeds the position table.
    model.tokenizer.model_max_length = min(model.tokenizer.model_max_length, max_seq_length)
    if version("transformers").startswith("4."):
        _follow_version_5(model.tokenizer, token_types=token_types)
    # A prompt is a part of the query, which the runtime puts there.
    prompt = {} if checkpoint.default_prompt_name is None else {"prompt": ""}

    batch_size = _batch_size(max_seq_length)

    def predict(pairs: Sequence[Pair]) -> Vectors:
        from torch.nn import Identity

        given = [(pair.first, pair.second) for pair in pairs]
        try:
            with panics_as_exceptions():
                scores: Vectors = model.predict(
                    given, batch_size=batch_size, show_progress_bar=False, activation_fn=Identity(), **prompt
                )
        except Exception as error:  # the libraries raise any class; this block holds only their call
            raise library_failure(f"sentence-transformers fails on {checkpoint.name}", error) from error
        return scores.reshape(len(given), -1)

    return ScoreReference(f"sentence-transformers {version('sentence-transformers')}", predict)


# Called with texts and a role of the manifest's. Returns for each text float32 (tokens, dimension).
EncodeTokens = Callable[[Sequence[str], str], list[Vectors]]


@dataclass(frozen=True)
class TokenReference:
    """Another program that gives a vector for each token of the same texts.

    Attributes:
        name: the program's name and version.
        encode: returns its vectors. It raises CheckpointError if the program fails.
    """

    name: str
    encode: EncodeTokens


def multi_vector_reference(checkpoint: Checkpoint, settings: MultiVectorSettings) -> TokenReference | None:
    """Load the checkpoint with sentence-transformers' MultiVectorEncoder on the CPU.

    Args:
        checkpoint: the checkpoint to load.
        settings: how the artifact turns queries and documents into tokens. The reference cuts them at the same limits.

    Returns:
        The reference, or None if sentence-transformers is not installed.

    Raises:
        NoReferenceError: sentence-transformers does not read such a checkpoint, or the installed version is too old.
        CheckpointError: sentence-transformers cannot load the checkpoint for another reason.

    Example:
        >>> reference = multi_vector_reference(checkpoint, settings)  # doctest: +SKIP
        >>> reference.encode(["a text"], "document")[0].shape  # doctest: +SKIP
        (4, 128)
    """
    if not is_reference_installed():
        return None
    import sentence_transformers

    installed = f"sentence-transformers {version('sentence-transformers')}"
    if not hasattr(sentence_transformers, "MultiVectorEncoder"):
        raise NoReferenceError(f"{installed} has no MultiVectorEncoder, so there is nothing to compare with")
    if (checkpoint.directory / FLAG_PROJECTION).exists():
        raise NoReferenceError(f"{installed} does not read {FLAG_PROJECTION}, so there is nothing to compare with")
    # The implementations differ for tokens that see no other token, such as a distant [MASK]. This one is the default.
    model: Any = _load(checkpoint, "MultiVectorEncoder", "sdpa")
    limits = settings.query_length, settings.document_length
    # sentence-transformers fails on long texts if its limit exceeds the position table.
    if model[0].query_expansion is None:
        model[0].query_length = limits[0]
    model[0].document_length = limits[1]
    batch_size = _batch_size(max(limits))

    def encode(texts: Sequence[str], role: str) -> list[Vectors]:
        encode_role = model.encode_query if role == QUERY else model.encode_document
        try:
            with panics_as_exceptions():
                vectors: list[Vectors] = encode_role(
                    list(texts), batch_size=batch_size, show_progress_bar=False, convert_to_numpy=True
                )
        except Exception as error:  # the libraries raise any class; this block holds only their call
            raise library_failure(f"sentence-transformers fails on {checkpoint.name}", error) from error
        return vectors

    return TokenReference(installed, encode)


def sparse_encoder_reference(checkpoint: Checkpoint, max_seq_length: int) -> Reference | None:
    """Load the checkpoint with sentence-transformers' SparseEncoder on the CPU.

    Args:
        checkpoint: the checkpoint to load.
        max_seq_length: most tokens of a text. Longer texts are cut.

    Returns:
        The reference, or None if sentence-transformers is not installed. Instead of a prompt, its `encode` takes the
        task "query", or None for documents. It gives all numbers of a vector.

    Raises:
        NoReferenceError: the installed version has no SparseEncoder; or a newer library saved the checkpoint, and the
            installed version cannot load it; or it is a model of the code in its repository.
        CheckpointError: sentence-transformers cannot load the checkpoint for another reason.

    Example:
        >>> reference = sparse_encoder_reference(checkpoint, 256)  # doctest: +SKIP
        >>> reference.encode(["a text"], None).shape  # doctest: +SKIP
        (1, 30522)
    """
    if not is_reference_installed():
        return None
    name = f"sentence-transformers {version('sentence-transformers')}"
    if _release(version("sentence-transformers")) < _FIRST_SPARSE_RELEASE:
        raise NoReferenceError(f"{name} has no sparse models. Version 5 has them")
    model: Any = _load(checkpoint, "SparseEncoder")
    if checkpoint.queries is None and not any(isinstance(layer, StaticWeights) for layer in checkpoint.layers):
        model.tokenizer.padding_side = "right"
        model.max_seq_length = min(model.max_seq_length or max_seq_length, max_seq_length)
    model.max_active_dims = None
    batch_size = _batch_size(max_seq_length)

    def encode(inputs: Sequence[Any], task: str | None) -> Vectors:
        options = {"batch_size": batch_size, "show_progress_bar": False, "convert_to_sparse_tensor": False}
        try:
            with panics_as_exceptions():
                given = {} if task is None else {"task": task}
                vectors: Vectors = model.encode(list(inputs), prompt="", **options, **given).numpy()
        except Exception as error:  # the libraries raise any class; this block holds only their call
            raise library_failure(f"sentence-transformers fails on {checkpoint.name}", error) from error
        return vectors

    return Reference(name, encode)


def _batch_size(max_seq_length: int) -> int:
    return 1 if max_seq_length > _MAX_BATCHED_TOKENS else _BATCH_SIZE


def _follow_version_5(tokenizer: Any, *, token_types: bool) -> None:
    """Let a tokenizer of transformers 4 prepare pairs as transformers 5 does."""
    names = [name for name in tokenizer.model_input_names if name != TOKEN_TYPE_IDS]
    tokenizer.model_input_names = [*names, TOKEN_TYPE_IDS] if token_types else names
    if splits_white_space(type(tokenizer).__name__):
        split_at_white_space(tokenizer.backend_tokenizer)


def _load(checkpoint: Checkpoint, kind: str, attention: str = "eager") -> Any:
    """Load the checkpoint as sentence-transformers' class `kind`. `attention` names transformers' implementation."""
    config = read_json(checkpoint.transformer / "config.json", dict, default={})
    if checkpoint.family.is_remote(config):
        raise NoReferenceError(
            f"sentence-transformers would need the code in the repository of {checkpoint.name}, which is never run"
        )
    name, revision = checkpoint.repository or (str(checkpoint.directory), None)
    try:
        import sentence_transformers

        with panics_as_exceptions():
            return getattr(sentence_transformers, kind)(
                name,
                revision=revision,
                device="cpu",
                local_files_only=True,
                # The checkpoint may name another implementation of attention, and transformers would fetch its code.
                # transformers 5 computes in the number format of the weights. The artifact's reference is float32.
                model_kwargs={"attn_implementation": attention, "dtype": "float32"},
            )
    except Exception as error:  # the libraries raise any class; this block holds only their calls
        problem = f"sentence-transformers cannot load {checkpoint.name}"
        newer = _newer_library(checkpoint)
        if newer is not None:
            raise NoReferenceError(f"{problem}: {newer}") from error
        raise library_failure(problem, error) from error


def _newer_library(checkpoint: Checkpoint) -> str | None:
    """Say which library saved the checkpoint in a newer version than the installed one. Return None if none did."""
    saved = read_json(checkpoint.directory / "config_sentence_transformers.json", dict, default={}).get("__version__")
    config = read_json(checkpoint.transformer / "config.json", dict, default={})
    by = {
        "sentence-transformers": saved.get("sentence_transformers") if isinstance(saved, dict) else None,
        "transformers": "5" if needs_version_5(checkpoint.transformer) else config.get("transformers_version"),
    }
    for library, text in by.items():
        installed = version(library)
        if _release(text) > _release(installed):
            return f"{library} {text} saved it, and {library} {installed} is installed"
    return None


def _release(text: object) -> tuple[int, ...]:
    """Return the major and the minor number of a version. The result is empty if the text is no version."""
    found = re.match(r"(\d+)(?:\.(\d+))?", text) if isinstance(text, str) else None
    return tuple(int(number) for number in found.groups(default="0")) if found else ()
