"""The model's tokenizer, with the methods of transformers that programs call to count, cut and show tokens."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from embedder.common.checks import check_choice, check_flag
from embedder.common.read_only import ReadOnly
from embedder.common.tokenizer_file import load_tokenizer
from embedder.compat.refusals import UnsupportedError
from embedder.compat.tensors import as_array, as_tensor
from embedder.errors import InputError

_FORMATS = ("np", "pt")
_PADDINGS = (True, False, "longest", "max_length", "do_not_pad")
_INSTEAD = (
    "tokenizer.backend_tokenizer is the tokenizers.Tokenizer; transformers.AutoTokenizer loads the checkpoint's own "
    "tokenizer"
)


class BatchEncoding(dict[str, Any]):
    """Token ids and the attention mask. The keys are attributes too."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}") from None


class Tokenizer(ReadOnly):
    """A tokenizer with transformers' names. By default it neither cuts nor pads, as in transformers.

    Example:
        >>> tokenizer = model.tokenizer  # doctest: +SKIP
        >>> tokenizer.tokenize("Hello world"), len(tokenizer.encode("Hello world"))  # doctest: +SKIP
        (['hello', 'world'], 4)
    """

    _instead: ClassVar[Mapping[str, str]] = {"model_max_length": "set model.max_seq_length"}

    def __init__(self, path: Path, *, model_max_length: int, pad_token_id: int, special_ids: Iterable[int]) -> None:
        """Load the file `tokenizer.json` at `path`.

        Args:
            path: the file.
            model_max_length: most tokens of a text that the model reads.
            pad_token_id: the id of the token that fills a row.
            special_ids: the ids of the special tokens.
        """
        self._backend = load_tokenizer(path)
        self._backend.no_truncation()
        self._backend.no_padding()
        self._model_max_length = model_max_length
        self._pad_token_id = pad_token_id
        self._special_ids = list(special_ids)

    @property
    def backend_tokenizer(self) -> Any:
        """The `tokenizers.Tokenizer`."""
        return self._backend

    @property
    def model_max_length(self) -> int:
        """Most tokens of a text that the model reads."""
        return self._model_max_length

    @property
    def pad_token_id(self) -> int:
        """The id of the token that fills a row."""
        return self._pad_token_id

    @property
    def all_special_ids(self) -> list[int]:
        """The ids of the special tokens."""
        return list(self._special_ids)

    @property
    def vocab_size(self) -> int:
        """The number of tokens, without those that were added later."""
        return int(self._backend.get_vocab_size(with_added_tokens=False))

    def __len__(self) -> int:
        return int(self._backend.get_vocab_size())

    def get_vocab(self) -> dict[str, int]:
        """Return the id of each token."""
        return dict(self._backend.get_vocab())

    def __call__(
        self,
        text: str | Iterable[str],
        *pair: Any,
        add_special_tokens: bool = True,
        padding: bool | str = False,
        truncation: bool = False,
        max_length: int | None = None,
        return_tensors: str | None = None,
        **others: Any,
    ) -> BatchEncoding:
        """Return `input_ids` and `attention_mask` of one text or of many.

        Args:
            text: one text gives one row without a batch dimension, unless `return_tensors` is given.
            *pair: refused. The model reads single texts.
            add_special_tokens: whether to add the model's special tokens.
            padding: True fills up to the longest text, "max_length" up to `max_length`.
            truncation: cut at `max_length` tokens.
            max_length: None takes `model_max_length`.
            return_tensors: "np" for arrays, "pt" for tensors of torch, None for lists.
            **others: refused.

        Raises:
            InputError: an option is unknown, or texts of different lengths are to become one array.
        """
        _refuse_options(pair, others)
        check_flag("truncation", truncation)
        if padding not in _PADDINGS:
            raise InputError(f"padding should be one of {_PADDINGS}, not {padding!r}")
        if return_tensors is not None:
            check_choice("return_tensors", return_tensors, _FORMATS)
        limit = self.model_max_length if max_length is None else max_length
        single = isinstance(text, str)
        texts = [text] if isinstance(text, str) else list(text)
        rows = [self._ids(one, add_special_tokens, limit if truncation else None) for one in texts]
        masks = [[1] * len(row) for row in rows]
        if padding not in (False, "do_not_pad"):
            width = limit if padding == "max_length" else max(map(len, rows), default=0)
            rows = [row + [self.pad_token_id] * (width - len(row)) for row in rows]
            masks = [mask + [0] * (width - len(mask)) for mask in masks]
        return self._pack(rows, masks, single, return_tensors)

    def _pack(self, rows: list[list[int]], masks: list[list[int]], single: bool, kind: str | None) -> BatchEncoding:
        values: dict[str, Any] = {"input_ids": rows, "attention_mask": masks}
        if kind is None:
            return BatchEncoding({name: value[0] if single else value for name, value in values.items()})
        if len({len(row) for row in rows}) > 1:
            raise InputError("texts of different lengths become one array only with padding=True")
        arrays = {name: np.array(value, np.int64) for name, value in values.items()}
        return BatchEncoding(arrays if kind == "np" else {name: as_tensor(array) for name, array in arrays.items()})

    def _ids(self, text: str, add_special_tokens: bool, limit: int | None) -> list[int]:
        ids: list[int] = self._backend.encode(text, add_special_tokens=add_special_tokens).ids
        if limit is None or len(ids) <= limit:
            return ids
        special = self._backend.num_special_tokens_to_add(is_pair=False) if add_special_tokens else 0
        encoding = self._backend.encode(text, add_special_tokens=False)
        encoding.truncate(max(0, limit - special))
        cut = self._backend.post_process(encoding, None, add_special_tokens)
        return list(cut.ids)

    def encode(
        self,
        text: str,
        *pair: Any,
        add_special_tokens: bool = True,
        truncation: bool = False,
        max_length: int | None = None,
        **others: Any,
    ) -> list[int]:
        """Return the token ids of a text. `pair` and `others` are refused."""
        _refuse_options(pair, others)
        found = self(text, add_special_tokens=add_special_tokens, truncation=truncation, max_length=max_length)
        return list(found["input_ids"])

    def tokenize(self, text: str, *pair: Any, **others: Any) -> list[str]:
        """Return the tokens of a text, without special tokens. `pair` and `others` are refused."""
        _refuse_options(pair, others)
        return list(self._backend.encode(text, add_special_tokens=False).tokens)

    def decode(self, token_ids: Any, skip_special_tokens: bool = False, **others: Any) -> str:
        """Return the text of token ids. `others` are refused."""
        _refuse_options((), others)
        ids = np.atleast_1d(as_array(token_ids)).tolist()
        return str(self._backend.decode(ids, skip_special_tokens=skip_special_tokens))

    def batch_decode(self, sequences: Iterable[Any], skip_special_tokens: bool = False) -> list[str]:
        """Return the text of each sequence of token ids."""
        return [self.decode(ids, skip_special_tokens) for ids in sequences]

    def convert_ids_to_tokens(self, ids: Any) -> Any:
        """Return the token of an id, or a list of tokens for a list of ids."""
        if isinstance(ids, int):
            return self._backend.id_to_token(ids)
        return [self._backend.id_to_token(int(item)) for item in as_array(ids)]

    def convert_tokens_to_ids(self, tokens: Any) -> Any:
        """Return the id of a token, or a list of ids for a list of tokens."""
        if isinstance(tokens, str):
            return self._backend.token_to_id(tokens)
        return [self._backend.token_to_id(token) for token in tokens]

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        raise UnsupportedError(f"the tokenizer has no {name!r}. {_INSTEAD}")


def _refuse_options(pair: tuple[Any, ...], others: dict[str, Any]) -> None:
    for name in ("text_pair",) if pair else others:
        raise InputError(f"the tokenizer has no option {name!r}. {_INSTEAD}")
