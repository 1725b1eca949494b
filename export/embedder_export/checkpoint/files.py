"""Read a checkpoint's JSON files, and find its weights. No code in a file is ever run."""

import hashlib
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import Any

from embedder.common.digests import sha256_of
from embedder.common.files import lfs_pointer_problem, read_regular
from embedder.common.json_text import parse_json

from embedder_export.errors import CheckpointError

# The names of a file of weights, in the order of preference. If there are several files, an index beside them has the
# same name and this ending.
WEIGHTS = ("model.safetensors", "pytorch_model.bin")
INDEX = ".index.json"
# The settings of a folder, and whatever makes the export refuse it.
SETTINGS = (
    "modules.json", "config.json", "config_sentence_transformers.json", "sentence_*_config.json", "adapter_config.json",
    "artifact.metadata", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json",
    "preprocessor_config.json", "processor_config.json", "*.jinja", "router_config.json", "idf.json",
)  # fmt: skip
# A tokenizer is read from these if there is no tokenizer.json.
VOCABULARIES = (
    "vocab*.txt", "vocab*.json", "merges.txt", "dict.txt", "vocab.bpe", "bpe.codes", "*.model", "*.spm", "tekken.json",
)  # fmt: skip
# The largest tokenizer.json of a known checkpoint has 35 MB.
_MAX_JSON_BYTES = _MAX_TEXT_BYTES = 200_000_000
# Patterns of the files of weights, in one file or in several.
SAFETENSORS, TORCH_WEIGHTS = "model*.safetensors", "pytorch_model*.bin"
# Whether no weights are read. `blank_weights` sets it.
_are_blank: ContextVar[bool] = ContextVar("are_blank", default=False)


def read_json(path: Path, kind: type, default: Any = None) -> Any:
    """Return the content of the JSON file `path`.

    Args:
        path: the file's path.
        kind: the type that the file must hold, dict or list.
        default: returned if the file is missing. With None, a missing file is an error.

    Raises:
        CheckpointError: the file is missing, damaged, or holds another type.

    Example:
        >>> read_json(Path("no such file.json"), dict, default={})
        {}
    """
    try:
        content = parse_json(read_regular(path, _MAX_JSON_BYTES), allow_nan=True)
    except FileNotFoundError as error:
        if default is not None and not path.is_symlink():  # a broken link is damage, not absence
            return default
        raise CheckpointError(f"{path} is missing: is this a sentence-transformers checkpoint?") from error
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error
    if not isinstance(content, kind):
        raise CheckpointError(f"{path} should hold a JSON {kind.__name__}, not {content!r:.80}")
    return content


def read_text(path: Path) -> str:
    """Return the content of the text file `path`, which is in UTF-8. Every line ends in a line feed.

    Raises:
        OSError: the file cannot be read, or is not a regular file.
        ValueError: it is not UTF-8.

    Example:
        >>> read_text(Path("checkpoints/all-MiniLM-L6-v2/vocab.txt"))[:5]  # doctest: +SKIP
        '[PAD]'
    """
    text = read_regular(path, _MAX_TEXT_BYTES).decode("utf-8")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def check_special_files(directory: Path) -> None:
    """Check that no file in `directory` is a pipe, a socket or a device, or a link to one.

    Other libraries open a checkpoint's files by themselves. They would wait for ever at a pipe.

    Raises:
        CheckpointError: there is such a file. The message names it.

    Example:
        >>> check_special_files(Path("checkpoints/all-MiniLM-L6-v2"))  # doctest: +SKIP
    """
    for folder, _, names in os.walk(directory):
        for name in names:
            path = Path(folder, name)
            if path.exists() and not path.is_file():
                raise CheckpointError(f"{path} is not a regular file")


def check_pointers(directory: Path) -> None:
    """Check that no file of settings or of a vocabulary in `directory` is a git-lfs pointer.

    Raises:
        CheckpointError: there is such a file. The message names it.

    Example:
        >>> check_pointers(Path("checkpoints/all-MiniLM-L6-v2"))  # doctest: +SKIP
    """
    if not directory.is_dir():  # a module without settings may have no directory
        return
    for path in sorted(directory.iterdir()):
        if any(fnmatchcase(path.name, pattern) for pattern in (*SETTINGS, *VOCABULARIES)):
            _check_pointer(path)


def _check_pointer(path: Path) -> None:
    problem = lfs_pointer_problem(path)
    if problem is not None:
        raise CheckpointError(problem)


@contextmanager
def blank_weights() -> Iterator[None]:
    """Find no weights inside the block, so that a checkpoint can be read without them. Zeros stand for them.

    All decisions that follow from its other files are the same as with weights. Nothing of it may be exported.

    Example:
        >>> with blank_weights():
        ...     find_weights(Path("no such directory"))
        {}
    """
    token = _are_blank.set(True)
    try:
        yield
    finally:
        _are_blank.reset(token)


def are_weights_blank() -> bool:
    """Return whether the caller is inside of `blank_weights`.

    Example:
        >>> are_weights_blank()
        False
    """
    return _are_blank.get()


def find_weights(directory: Path) -> dict[Path, set[str] | None]:
    """Find the files of weights in `directory`, as transformers does.

    Returns:
        For each file the names of its tensors. None stands for all tensors of the file. If there are several files, an
        index names their tensors: transformers fills a tensor that the index lacks with random numbers. There are no
        files inside of `blank_weights`.

    Raises:
        CheckpointError: there are no weights; the index is damaged or leads out of the directory; or a file is only a
            git-lfs pointer.

    Example:
        >>> find_weights(Path("small"))  # doctest: +SKIP
        {PosixPath('small/model.safetensors'): None}
    """
    if are_weights_blank():
        return {}
    for name in WEIGHTS:
        if os.path.lexists(directory / name):
            found: dict[Path, set[str] | None] = {directory / name: None}
            break
        index = directory / (name + INDEX)
        if os.path.lexists(index):
            found = {directory / file: tensors for file, tensors in read_index(index).items()}
            break
    else:
        raise CheckpointError(f"{directory} has none of {', '.join(WEIGHTS)}, whole or in parts")
    for path in found:
        _check_pointer(path)
    return found


def read_index(index: Path) -> dict[str, set[str]]:
    """Return the names of the files that an index of weights names, each with the names of its tensors.

    Raises:
        CheckpointError: the index is damaged or leads out of its directory.

    Example:
        >>> read_index(Path("large/model.safetensors.index.json"))  # doctest: +SKIP
        {'model-00001-of-00002.safetensors': {'embeddings.weight'}, 'model-00002-of-00002.safetensors': {'norm.weight'}}
    """
    parts = read_json(index, dict).get("weight_map")
    if not isinstance(parts, dict) or not all(_is_file_name(part) for part in parts.values()):
        raise CheckpointError(f"{index} does not map tensors to files beside it")
    return {file: {tensor for tensor, part in parts.items() if part == file} for file in sorted(set(parts.values()))}


def _is_file_name(name: object) -> bool:
    if not isinstance(name, str) or name in ("", "..") or "\0" in name:
        return False
    return PurePosixPath(name).name == name and name.isprintable()  # a lone surrogate is not printable


def digest_weights(directories: list[Path], files: Sequence[Path] = ()) -> str:
    """Return the SHA-256 of the weights in `directories` and of further `files`, in hexadecimal.

    If there are several files, it is the SHA-256 of their joined digests.

    Raises:
        CheckpointError: as `find_weights`.

    Example:
        >>> digest_weights([Path("checkpoints/all-MiniLM-L6-v2")])[:8]  # doctest: +SKIP
        '53aa5117'
    """
    digests = [sha256_of(file) for directory in directories for file in find_weights(directory)]
    digests += map(sha256_of, files)
    return digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()
