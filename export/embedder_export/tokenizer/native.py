"""Read a checkpoint's tokenizer as transformers' AutoTokenizer does, with only the tokenizers library.

The steps have the same order as in transformers 4.57, because a token's id depends on when it is added. A setting that
changes the tokenizer and is not known here raises NotNativeError. Then the caller can let transformers read the
tokenizer.
"""

import os
from pathlib import Path
from typing import Any

from embedder.common.tokenizer_file import load_tokenizer
from tokenizers import AddedToken, Tokenizer, pre_tokenizers

from embedder_export.checkpoint.files import read_json
from embedder_export.errors import CheckpointError, NotNativeError
from embedder_export.tokenizer.classes import CLASSES, effective_class, usual_class
from embedder_export.tokenizer.classes.decoders import LLAMA, has_byte_level
from embedder_export.tokenizer.classes.general import GENERAL
from embedder_export.tokenizer.classes.tokenizer_class import Settings, Token, TokenizerClass, flag
from embedder_export.tokenizer.contract import EffectiveTokenizer
from embedder_export.tokenizer.settings import (
    CONFIG_FILE,
    TOKENIZER_FILE,
    gives_mask,
    gives_types,
    model_max_length,
    read_settings,
    side,
)
from embedder_export.tokenizer.tokens import add_tokens, additional_tokens, all_special_tokens, special_tokens
from embedder_export.tokenizer.transformers5 import as_version_4, is_from_version_5, with_list_of_version_4

# transformers reads a vocabulary from each of these files, for every class.
_OTHER_VOCABULARIES = ("tokenizer.model", "tekken.json")
# transformers reads tokenizers only from files with one of these in their names.
_FILE_NAME_PARTS = (TOKENIZER_FILE, "vocab", "merges", ".model", ".spm", "bpe", "tekken", "tiktoken")


class UnknownClassError(NotNativeError):
    """The tokenizer has a class that is not known here.

    Attributes:
        name: the name of the class, without "Fast".
    """

    def __init__(self, name: str) -> None:
        super().__init__(f"its class {name!r:.80} is not known")
        self.name = name.removesuffix("Fast")


def read_natively(directory: Path) -> EffectiveTokenizer:
    """Read the tokenizer in `directory` without transformers.

    Raises:
        NotNativeError: its class or one of its settings is not known here. transformers may know it.
        CheckpointError: a file is missing or damaged.

    Example:
        >>> read_natively(Path("checkpoints/all-MiniLM-L6-v2")).pad_id  # doctest: +SKIP
        0
    """
    config = read_json(directory / CONFIG_FILE, dict, default={})
    name, kind = _class_of(directory, config)
    backend = None if kind.ignores_tokenizer_json else load_backend(directory / TOKENIZER_FILE)
    if backend is None:
        _check_class_files(directory, kind)
    elif kind is LLAMA and has_byte_level(backend):
        kind = GENERAL  # as in transformers 5: a Llama 3 that names the class of older Llamas
    if kind.ignores_tokenizer_json:
        config = with_list_of_version_4(config)
    elif is_from_version_5(name, config):
        config = as_version_4(directory, config, backend)
    settings, added = read_settings(directory, config, backend)
    settings = _saved_padding(backend) | kind.special_tokens | kind.complete(settings)
    special = special_tokens(settings, kind.bare_token_options if backend is None else kind.token_options)
    if backend is None:
        backend = _build(directory, kind, settings, special, added)
    tokens = all_special_tokens(special, additional_tokens(settings))
    add_tokens(backend, added, tokens)
    _set_prefix_space(backend, settings.get("add_prefix_space", False))
    kind.adapt(backend, settings)
    return EffectiveTokenizer(
        backend=backend,
        model_max_length=model_max_length(settings),
        pad_id=backend.token_to_id(str(special["pad_token"])) if "pad_token" in special else None,
        special_ids=tuple(sorted(backend.token_to_id(str(token)) for token in tokens)),
        has_token_types=gives_types(settings, kind.has_token_types),
        has_pair_types=gives_types(settings, kind.has_pair_types),
        splits_white_space=kind.splits_white_space,
        padding_side=side(settings, "padding_side", backend.padding, kind.padding_side),
        gives_mask=gives_mask(settings),
        truncation_side=side(settings, "truncation_side", backend.truncation),
        splits_special_tokens=flag(settings, "split_special_tokens", False) is True,
        unknown_token=_first_of(special, "unk_token"),
        expansion_token=_first_of(special, "mask_token", "eos_token"),
    )


def _first_of(special: dict[str, Token], *roles: str) -> str | None:
    return next((str(special[role]) for role in roles if role in special), None)


def read_known_settings(directory: Path) -> Settings:
    """Return the settings of the tokenizer in `directory`, after a check without its vocabulary.

    The content of tokenizer.json and of the vocabulary files is not read. `read_natively` checks it.

    Raises:
        NotNativeError: its class or one of its settings is not known here. transformers may know it.
        CheckpointError: a file is missing or damaged.

    Example:
        >>> read_known_settings(Path("checkpoints/all-MiniLM-L6-v2"))["do_lower_case"]  # doctest: +SKIP
        True
    """
    config: Settings = read_json(directory / CONFIG_FILE, dict, default={})
    name, kind = _class_of(directory, config)
    has_file = not kind.ignores_tokenizer_json and os.path.lexists(directory / TOKENIZER_FILE)
    if not has_file:
        _check_class_files(directory, kind)
    if has_file and is_from_version_5(name, config):
        return config  # the rest follows from tokenizer.json
    settings, _ = read_settings(directory, config, None)
    return settings


def _class_of(directory: Path, config: Settings) -> tuple[str, TokenizerClass]:
    """Return the name of the tokenizer's class, and the class.

    Raises:
        UnknownClassError: the class is not known here.
        NotNativeError: no file names the class.
    """
    name = _class_name(directory, config)
    if name.removesuffix("Fast") not in CLASSES:
        raise UnknownClassError(name)
    return name, CLASSES[name.removesuffix("Fast")]


def _check_class_files(directory: Path, kind: TokenizerClass) -> None:
    """Check that a tokenizer of the class `kind` can be built from the files of a `directory` without tokenizer.json.

    Raises:
        CheckpointError: a vocabulary file is missing.
        NotNativeError: only transformers can build it.
    """
    missing = [name for name in kind.vocabulary_files if not (directory / name).is_file()]
    if missing and kind.ignores_tokenizer_json:
        raise CheckpointError(f"its files are missing: {directory} has no {' and '.join(missing)}")
    if (missing or not kind.vocabulary_files) and not _other_vocabularies(directory):
        instead = f" and no {' and '.join(missing)}" if missing else ""
        raise CheckpointError(f"its files are missing: {directory} has no {TOKENIZER_FILE}{instead}")
    if kind.build is None:
        raise NotNativeError("it has no tokenizer.json")
    if _other_vocabularies(directory):
        raise NotNativeError("it has no tokenizer.json, and a vocabulary file that only transformers reads")


def _other_vocabularies(directory: Path) -> list[Path]:
    return [file for file in directory.iterdir() if any(name in file.name for name in _OTHER_VOCABULARIES)]


def check_any_file(directory: Path) -> None:
    """Check that `directory` has a file from which a tokenizer can be read.

    Raises:
        CheckpointError: it has no such file.
    """
    if not any(part in file.name for file in directory.iterdir() for part in _FILE_NAME_PARTS):
        names = ", ".join(sorted({name for kind in CLASSES.values() for name in kind.vocabulary_files}))
        raise CheckpointError(f"its files are missing: {directory} has neither {TOKENIZER_FILE} nor any of {names}")


def _class_name(directory: Path, config: Settings) -> str:
    name = config.get("tokenizer_class")
    if name is None:
        model = read_json(directory / "config.json", dict)
        usual = usual_class(str(model.get("model_type")))
        if usual is None or "auto_map" in model or "configuration_files" in model:
            raise NotNativeError("its class is not named, and does not follow from the type of the model")
        name = usual if model.get("tokenizer_class") is None else model["tokenizer_class"]
    if not isinstance(name, str):
        raise CheckpointError(f"it has {name!r:.80} as tokenizer_class")
    return effective_class(name, read_json(directory / "config.json", dict, default={}).get("model_type"))


def load_backend(file: Path) -> Tokenizer | None:
    """Return the tokenizer of a tokenizer.json, or None if there is no such file.

    Raises:
        CheckpointError: the file cannot be read, or is damaged.

    Example:
        >>> load_backend(Path("checkpoints/all-MiniLM-L6-v2/tokenizer.json")).get_vocab_size()  # doctest: +SKIP
        30522
    """
    if not os.path.lexists(file):  # a broken link is damage, not absence
        return None
    try:
        tokenizer: Tokenizer = load_tokenizer(file)
    except OSError as error:
        raise CheckpointError(f"{file} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise CheckpointError(f"{file} is damaged: {error}") from error
    return tokenizer


def _saved_padding(backend: Tokenizer | None) -> Settings:
    padding: dict[str, Any] | None = None if backend is None else backend.padding
    return {} if padding is None else {"pad_token": padding["pad_token"]}


def _build(
    directory: Path, kind: TokenizerClass, settings: Settings, special: dict[str, Token], added: dict[int, AddedToken]
) -> Tokenizer:
    """Build the tokenizer of a checkpoint without tokenizer.json."""
    assert kind.build is not None  # `_check_class_files` made sure
    try:
        backend = kind.build(directory, settings, special)
    except (CheckpointError, NotNativeError):
        raise
    except Exception as error:  # damaged files may raise any class
        raise CheckpointError(f"{' or '.join(kind.vocabulary_files)} is damaged: {error}") from error
    # transformers would add these tokens first. That may change the ids of the tokens at a text's start and end.
    shifted = [token for token_id, token in added.items() if backend.token_to_id(str(token)) != token_id]
    if shifted:
        raise NotNativeError(f"it has no tokenizer.json, and {str(shifted[0])!r:.80} is not in its vocabulary")
    return backend


def _set_prefix_space(backend: Tokenizer, prefix_space: Any) -> None:
    pre_tokenizer = backend.pre_tokenizer
    if isinstance(pre_tokenizer, pre_tokenizers.ByteLevel) and isinstance(prefix_space, bool):
        pre_tokenizer.add_prefix_space = prefix_space
        backend.pre_tokenizer = pre_tokenizer
