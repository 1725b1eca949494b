"""The options of `encode`, and those of loading a model. Each group is a frozen dataclass that checks its values."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import fields, replace
from typing import Any, TypedDict

from embedder.common.checks import check_choice, check_count, check_flag, find_surrogate, shown
from embedder.common.read_only import ReadOnlyDict
from embedder.common.records import frozen
from embedder.errors import InputError
from embedder.hints import ENCODE_HINTS, MULTI_VECTOR_HINTS, PREDICT_HINTS

PRECISIONS = ("float32", "int8", "uint8", "binary", "ubinary")
# These precisions scale each dimension by its range: the smallest and the largest value over all vectors.
RANGED_PRECISIONS = ("int8", "uint8")
ERROR_MODES = ("raise", "skip")
ACTIVATIONS = ("identity", "sigmoid", "softmax")


class EncodeOptions(TypedDict, total=False):
    """Options of `encode` and its siblings. Names and meanings are those of sentence-transformers.

    Attributes:
        prompt_name: name of the prompt to put before each text; see `Embedder.prompts`. None takes the model's default.
        prompt: text to put before each text. It takes precedence over `prompt_name`.
        batch_size: most inputs in one call of the graph. Batches are filled by tokens and may be smaller.
        show_progress_bar: show progress on stderr.
        normalize_embeddings: scale each vector to length 1, after truncation.
        truncate_dim: how many dimensions to keep, from the first on. None takes the value that the model was loaded
            with.
        precision: "float32"; or "int8", "uint8", "binary" or "ubinary" to quantise the returned vectors, as
            `quantize_embeddings` does.
        read_paths: treat strings that name an existing image file as images. Leave it False for untrusted strings.
            Otherwise their authors choose which files are read.
        warn_if_cut: give one CutTextWarning if the model does not read all of a text. `encode_readable` and
            `iter_results` do not warn: their results list the texts.

    Example:
        >>> options: EncodeOptions = {"batch_size": 32, "normalize_embeddings": True}
        >>> model.encode(["a text"], **options).shape  # doctest: +SKIP
        (1, 384)
    """

    prompt_name: str | None
    prompt: str | None
    batch_size: int | None
    show_progress_bar: bool | None
    normalize_embeddings: bool
    truncate_dim: int | None
    precision: str
    read_paths: bool
    warn_if_cut: bool


# What to do instead of options of `encode` that are given to a constructor.
OPTIONS_OF_ENCODE = dict.fromkeys(EncodeOptions.__annotations__, "pass it to encode")


@frozen
class EncodeSettings:
    """The checked options of one request. `EncodeOptions` describes all but `errors`.

    `Embedder`, `EncoderPool` and the engine pass this one object on.

    Attributes:
        errors: what to do if images cannot be read: "raise" an ImageError, or "skip" these images.

    Raises:
        InputError: an option has a wrong type or is out of range.

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
    warn_if_cut: bool = False
    errors: str = "raise"

    def __post_init__(self) -> None:
        if self.prompt is not None and (not isinstance(self.prompt, str) or find_surrogate(self.prompt)):
            raise InputError(f"prompt should be a string of valid Unicode, not {shown(self.prompt)}")
        check_count("batch_size", self.batch_size)
        check_count("truncate_dim", self.truncate_dim)
        check_flag("show_progress_bar", False if self.show_progress_bar is None else self.show_progress_bar)
        check_flag("normalize_embeddings", self.normalize_embeddings)
        check_flag("read_paths", self.read_paths)
        check_flag("warn_if_cut", self.warn_if_cut)
        check_choice("precision", self.precision, PRECISIONS)
        check_choice("errors", self.errors, ERROR_MODES)

    @classmethod
    def of(cls, options: Mapping[str, Any], settings: EncodeSettings | None = None) -> EncodeSettings:
        """Return `settings` if they were given, otherwise settings with the keyword `options`.

        Raises:
            InputError: both were given; or an option is unknown, has a wrong type or is out of range.

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
        if not options:
            return _DEFAULTS
        _refuse_unknown("encode", options, EncodeOptions.__annotations__, ENCODE_HINTS)
        return cls(**options)

    @classmethod
    def of_multi_vector(cls, options: Mapping[str, Any], call: str, keywords: Iterable[str] = ()) -> EncodeSettings:
        """Return settings with the `options` of `MultiVectorEncoder`.

        Args:
            options: the options.
            call: the method that got them, for errors.
            keywords: other keywords of this method, for errors.

        Raises:
            InputError: an option is unknown, has a wrong type or is out of range.

        Example:
            >>> EncodeSettings.of_multi_vector({"batch_size": 8}, "encode_query").batch_size
            8
        """
        _refuse_unknown(call, options, [*keywords, *MultiVectorOptions.__annotations__], MULTI_VECTOR_HINTS)
        return cls(**options) if options else _DEFAULTS

    def refuse_skip(self) -> EncodeSettings:
        """Return these settings. Calls that return one vector for each input cannot skip images.

        Raises:
            InputError: `errors` is "skip".

        Example:
            >>> EncodeSettings(batch_size=8).refuse_skip().batch_size
            8
        """
        if self.errors != "raise":
            raise InputError(f"errors={self.errors!r} has no effect here: {ENCODE_HINTS['errors']}")
        return self

    def refuse_ranged(self) -> EncodeSettings:
        """Return these settings. Calls that never have all vectors at once cannot find the ranges of the dimensions.

        Raises:
            InputError: the precision needs these ranges.

        Example:
            >>> EncodeSettings(precision="binary").refuse_ranged().precision
            'binary'
        """
        if self.precision in RANGED_PRECISIONS:
            raise InputError(
                f"precision {self.precision!r} needs the ranges of all vectors. Write float32 vectors, and quantise "
                "them with quantize_embeddings, or choose binary or ubinary"
            )
        return self

    def or_prompt(self, name: str) -> EncodeSettings:
        """Return these settings, with the model's prompt of this name if they have no prompt.

        Example:
            >>> EncodeSettings().or_prompt("query").prompt_name
            'query'
        """
        return self if self.prompt is not None or self.prompt_name is not None else replace(self, prompt_name=name)


# The settings are frozen and checked, so that all calls without options share them.
_DEFAULTS = EncodeSettings()


class MultiVectorOptions(TypedDict, total=False):
    """Options of `MultiVectorEncoder.encode` and its siblings, as in `EncodeOptions`.

    Attributes:
        prompt_name: name of the prompt to put before each text. None takes the model's default; `encode_query` and
            `encode_document` take the model's prompt for queries or documents.
        prompt: text to put before each text. It takes precedence over `prompt_name`.
        batch_size: most texts in one call of the graph. Batches are filled by tokens and may be smaller.
        show_progress_bar: show progress on stderr.
        normalize_embeddings: scale the vector of each token to length 1. Most models do so by themselves.
        warn_if_cut: give one CutTextWarning if the model does not read all of a text.

    Example:
        >>> options: MultiVectorOptions = {"batch_size": 32}
        >>> len(model.encode_document(["a text"], **options))  # doctest: +SKIP
        1
    """

    prompt_name: str | None
    prompt: str | None
    batch_size: int | None
    show_progress_bar: bool | None
    normalize_embeddings: bool
    warn_if_cut: bool


# What to do instead of options of `MultiVectorEncoder.encode` that are given to the constructor.
OPTIONS_OF_MULTI_VECTOR = dict.fromkeys(
    MultiVectorOptions.__annotations__, "pass it to encode_query or encode_document"
)


class PredictOptions(TypedDict, total=False):
    """Options of `CrossEncoder.predict` and its siblings. Names and meanings are those of sentence-transformers.

    Attributes:
        prompt_name: name of the prompt to put before the first text of each pair. None takes the model's default.
        prompt: text to put before the first text of each pair. It takes precedence over `prompt_name`.
        batch_size: most pairs in one call of the graph. Batches are filled by tokens and may be smaller.
        activation_fn: the function that scores go through: "identity", "sigmoid" or "softmax". None takes
            `CrossEncoder.activation_fn`.
        apply_softmax: apply a softmax over the labels after the activation. It has no effect if there is one label.
        show_progress_bar: show progress on stderr.
        warn_if_cut: give one CutTextWarning if the model does not read all of a pair.

    Example:
        >>> options: PredictOptions = {"batch_size": 32, "activation_fn": "identity"}
        >>> model.predict([("a query", "a passage")], **options).shape  # doctest: +SKIP
        (1,)
    """

    prompt_name: str | None
    prompt: str | None
    batch_size: int | None
    activation_fn: str | None
    apply_softmax: bool
    show_progress_bar: bool | None
    warn_if_cut: bool


# What to do instead of options of `predict` that are given to a constructor.
OPTIONS_OF_PREDICT = dict.fromkeys(PredictOptions.__annotations__, "pass it to predict or rank")


@frozen
class PredictSettings:
    """The checked options of one request for scores. `PredictOptions` describes `activation_fn` and `apply_softmax`.

    Attributes:
        encode_settings: the other options, as the engine takes them.

    Raises:
        InputError: an option has a wrong type or is out of range.

    Example:
        >>> PredictSettings.of({"batch_size": 8}).encode_settings.batch_size
        8
    """

    activation_fn: str | None = None
    apply_softmax: bool = False
    encode_settings: EncodeSettings = _DEFAULTS

    def __post_init__(self) -> None:
        if self.activation_fn is not None:
            check_choice("activation_fn", self.activation_fn, ACTIVATIONS)
        check_flag("apply_softmax", self.apply_softmax)

    @classmethod
    def of(cls, options: Mapping[str, Any], call: str = "predict", keywords: Iterable[str] = ()) -> PredictSettings:
        """Return settings with the keyword `options`.

        Args:
            options: the options.
            call: the method that got them, for errors.
            keywords: other keywords of this method, for errors.

        Raises:
            InputError: an option is unknown, has a wrong type or is out of range.

        Example:
            >>> PredictSettings.of({"activation_fn": "identity"}).activation_fn
            'identity'
        """
        _refuse_unknown(call, options, [*keywords, *PredictOptions.__annotations__], PREDICT_HINTS)
        own = {name: options[name] for name in ("activation_fn", "apply_softmax") if name in options}
        rest = {name: value for name, value in options.items() if name not in own}
        return cls(**own, encode_settings=EncodeSettings(**rest) if rest else _DEFAULTS)


def _refuse_unknown(call: str, options: Mapping[str, Any], known: Collection[str], hints: Mapping[str, str]) -> None:
    for name in options:
        if name not in known:
            hint = hints.get(name, f"known are {', '.join(known)}")
            raise InputError(f"{call} has no option {name!r}: {hint}")


@frozen
class LoadSettings:
    """How to load a model. `Embedder` describes the options.

    Raises:
        InputError: `threads`, `truncate_dim` or `max_seq_length` is not a whole number of at least 1, `verify` is not a
            bool, or `provider_options` is not a mapping from names to strings or whole numbers.

    Example:
        >>> LoadSettings(dtype="int8").options()["dtype"]
        'int8'
    """

    provider: str | None = None
    dtype: str | None = None
    threads: int | None = None
    truncate_dim: int | None = None
    verify: bool = True
    max_seq_length: int | None = None
    provider_options: Mapping[str, str | int] | None = None

    def __post_init__(self) -> None:
        if self.provider_options is not None:
            object.__setattr__(self, "provider_options", _checked_provider_options(self.provider_options))
        check_count("threads", self.threads)
        check_count("truncate_dim", self.truncate_dim)
        check_count("max_seq_length", self.max_seq_length)
        check_flag("verify", self.verify)

    def options(self) -> dict[str, Any]:
        """Return the settings as keyword arguments of `Embedder`.

        Example:
            >>> LoadSettings(threads=2).options()["threads"]
            2
        """
        return {field.name: getattr(self, field.name) for field in fields(self)}


def _checked_provider_options(options: object) -> Mapping[str, str | int]:
    """Return a copy that nobody can change."""
    if not isinstance(options, Mapping):
        raise InputError(
            f"provider_options should be a dict such as {{'gpu_mem_limit': 4000000000}}, not {shown(options)}"
        )
    for name, value in options.items():
        if not isinstance(name, str) or not isinstance(value, str | int):
            raise InputError(
                f"provider_options[{shown(name)}] should be a string or a whole number, not {shown(value)}"
            )
    return ReadOnlyDict(options)
