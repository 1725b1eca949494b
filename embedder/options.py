"""The options of `encode` and of a model, each set as one frozen object that is checked when it is made."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, TypedDict

from embedder.common.checks import check_choice, check_count, check_flag, shown
from embedder.errors import InputError

PRECISIONS = ("float32", "int8", "uint8", "binary", "ubinary")
# Precisions that need the smallest and the largest value of each dimension over all vectors.
RANGED_PRECISIONS = ("int8", "uint8")
ERRORS = ("raise", "skip")

_SURROGATE = re.compile("[\ud800-\udfff]")

# Options of sentence-transformers that `encode` does not take, and what to do instead.
_HINTS = {
    "errors": "encode returns one vector for each input. encode_readable leaves out images that cannot be read",
    "device": "choose the device when you load the model: Embedder(model, provider=...)",
    "convert_to_numpy": "encode always returns a NumPy array",
    "convert_to_tensor": "encode returns a NumPy array. torch.from_numpy(array) makes a tensor of it",
    "output_value": "encode always returns sentence embeddings",
    "pool": "use EncoderPool(model).encode(...)",
    "chunk_size": "use EncoderPool(model).encode(..., chunk_size=...)",
    "dtype": "choose the graph when you load the model: Embedder(model, dtype=...)",
    "graph": "choose the graph when you load the model: Embedder(model, dtype=...)",
}


class EncodeOptions(TypedDict, total=False):
    """Options of `encode` and its siblings. Names and meanings are those of sentence-transformers.

    Attributes:
        prompt_name: name of the prompt to put before each text; see `Embedder.prompts`. None takes the model's default.
        prompt: the prompt itself. It takes precedence over `prompt_name`.
        batch_size: most inputs in one call of the graph. Batches are filled by tokens, so this is only a ceiling.
        show_progress_bar: show progress on stderr.
        normalize_embeddings: scale each vector to length 1, after truncation.
        truncate_dim: keep the first dimensions only. None keeps as many as the model was loaded with.
        precision: "float32", or "int8", "uint8", "binary" or "ubinary" to quantise the vectors that are returned, as
            `quantize_embeddings` does.
        read_paths: treat strings that name an existing image file as images. Leave it False for strings of strangers:
            otherwise they choose which files are read.
    """

    prompt_name: str | None
    prompt: str | None
    batch_size: int | None
    show_progress_bar: bool | None
    normalize_embeddings: bool
    truncate_dim: int | None
    precision: str
    read_paths: bool


@dataclass(frozen=True)
class EncodeSettings:
    """One request's options, checked. `EncodeOptions` describes them.

    The same object goes from `encode` through the engine, and to the pool, the index, mining and the command line.

    Attributes:
        errors: what to do with images that cannot be read: "raise" an ImageError, or "skip" them.

    Raises:
        InputError: an option is of a wrong type or out of range.

    Example:
        >>> EncodeSettings(truncate_dim=64, normalize_embeddings=True).batch_size is None
        True
    """

    prompt_name: str | None = None
    prompt: str | None = None
    batch_size: int | None = None
    show_progress_bar: bool | None = False
    normalize_embeddings: bool = False
    truncate_dim: int | None = None
    precision: str = "float32"
    read_paths: bool = False
    errors: str = "raise"

    def __post_init__(self) -> None:
        if self.prompt is not None and (not isinstance(self.prompt, str) or _SURROGATE.search(self.prompt)):
            raise InputError(f"prompt should be a string of valid Unicode, not {shown(self.prompt)}")
        check_count("batch_size", self.batch_size)
        check_count("truncate_dim", self.truncate_dim)
        check_flag("show_progress_bar", False if self.show_progress_bar is None else self.show_progress_bar)
        check_flag("normalize_embeddings", self.normalize_embeddings)
        check_flag("read_paths", self.read_paths)
        check_choice("precision", self.precision, PRECISIONS)
        check_choice("errors", self.errors, ERRORS)

    @classmethod
    def of(cls, options: Mapping[str, Any], settings: EncodeSettings | None = None) -> EncodeSettings:
        """Return the settings that `encode` was called with: `settings`, or those of its keyword `options`.

        Raises:
            InputError: both were given; or an option is unknown, of a wrong type or out of range.

        Example:
            >>> EncodeSettings.of({"batch_size": 8}).batch_size
            8
        """
        if settings is not None:
            if options:
                raise InputError(f"settings and options ({', '.join(options)}) were both given: give one of them")
            if not isinstance(settings, cls):
                raise InputError(f"settings should be an EncodeSettings, not {type(settings).__name__}")
            return settings
        for name in options:
            if name not in EncodeOptions.__annotations__:
                hint = _HINTS.get(name, f"known are {', '.join(EncodeOptions.__annotations__)}")
                raise InputError(f"encode has no option {name!r}: {hint}")
        return cls(**options)

    def one_each(self) -> EncodeSettings:
        """Return the settings themselves, for calls that return one vector for each input.

        Raises:
            InputError: they ask to leave out images that cannot be read.
        """
        if self.errors != "raise":
            raise InputError(f"errors={self.errors!r} has no effect here: {_HINTS['errors']}")
        return self


@dataclass(frozen=True)
class LoadSettings:
    """How a model is loaded. `Embedder` describes the options.

    Raises:
        InputError: `threads` or `truncate_dim` is not a whole number of at least 1.
    """

    provider: str | None = None
    dtype: str | None = None
    threads: int | None = None
    truncate_dim: int | None = None

    def __post_init__(self) -> None:
        check_count("threads", self.threads)
        check_count("truncate_dim", self.truncate_dim)

    def options(self) -> dict[str, Any]:
        """Return the settings as keyword arguments of `Embedder`."""
        return {field.name: getattr(self, field.name) for field in fields(self)}
