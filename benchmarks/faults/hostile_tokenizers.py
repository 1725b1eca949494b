"""Parts of a tokenizer.json that a hostile publisher could write. The library reads most of them."""

import base64
import json
from random import Random
from typing import Any

_ENDLESS = {"Regex": "(x+x+)+y"}
_LONG = "x" * 1_000_000


def _charsmap(size: int, rest: bytes) -> dict[str, object]:
    """Return a table of characters that announces `size` bytes."""
    content = base64.b64encode(size.to_bytes(4, "little") + rest).decode()
    return {"type": "Precompiled", "precompiled_charsmap": content}


def _template(*parts: object, **tokens: object) -> dict[str, object]:
    return {"type": "TemplateProcessing", "single": list(parts), "pair": list(parts), "special_tokens": tokens}


def _special(name: str) -> dict[str, object]:
    return {"SpecialToken": {"id": name, "type_id": 0}}


_SEQUENCE = {"Sequence": {"id": "A", "type_id": 0}}

_PARTS: dict[str, list[Any]] = {
    "normalizer": [
        *(
            _charsmap(size, rest)
            for size in (2**32 - 1, 2**32 - 4, 2**31, 1024, 8, 4, 3, 0)
            for rest in (b"", bytes(8))
        ),
        *(_charsmap(1024, bytes([byte]) * 1024 + b"a\0b\0") for byte in (1, 127, 255)),
        *(
            {"type": "Replace", "pattern": pattern, "content": "x"}
            for pattern in (_ENDLESS, {"String": ""}, {"Regex": "("})
        ),
        {"type": "Replace", "pattern": {"Regex": ""}, "content": "x" * 100_000},
        {"type": "Replace", "pattern": {"String": "x"}, "content": _LONG},
        {"type": "Prepend", "prepend": _LONG},
        {"type": "Sequence", "normalizers": [{"type": "NFKD"}] * 1000},
        {"type": "Sequence", "normalizers": []},
        {"type": "Strip", "strip_left": True, "strip_right": True},
        {"type": "ByteLevel"},
        {"type": "Nmt"},
    ],
    "pre_tokenizer": [
        *(
            {"type": "Split", "pattern": pattern, "behavior": behavior, "invert": invert}
            for pattern in (_ENDLESS, {"Regex": ""}, {"String": ""}, {"Regex": "(?<=x*)x"})
            for behavior in ("Removed", "Isolated", "MergedWithPrevious", "Contiguous")
            for invert in (False, True)
        ),
        *({"type": "FixedLength", "length": length} for length in (0, 1, 2**63)),
        {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True},
        {"type": "Metaspace", "replacement": "ab", "prepend_scheme": "first", "split": False},
        {"type": "CharDelimiterSplit", "delimiter": ""},
        {"type": "Sequence", "pretokenizers": [{"type": "Digits", "individual_digits": True}] * 1000},
        {"type": "UnicodeScripts"},
    ],
    "post_processor": [
        *(
            _template(*parts, **tokens)
            for parts in ((), (_SEQUENCE,), (_special("[CLS]"), _SEQUENCE))
            for tokens in ({}, {"x": {}})
        ),
        *(
            _template(_special("z"), _SEQUENCE, z={"id": "z", "ids": ids, "tokens": ["z"] * len(ids)})
            for ids in ([], [2**31 - 1], [2**32 - 1], [0] * 100_000)
        ),
        {"type": "BertProcessing", "sep": ["z", 2**32 - 1], "cls": ["z", 2**31]},
        {"type": "RobertaProcessing", "sep": ["", 0], "cls": ["", 0], "trim_offsets": True, "add_prefix_space": True},
        {
            "type": "Sequence",
            "processors": [{"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True}] * 1000,
        },
        {"type": "Sequence", "processors": []},
    ],
    "added_tokens": [
        [
            {
                "id": at,
                "content": content,
                "single_word": False,
                "lstrip": True,
                "rstrip": True,
                "normalized": flag,
                "special": flag,
            }
        ]
        for at in (0, 10**6, 2**32 - 1)
        for content in ("", "x", " ", "the", _LONG, "\0", "\x1b[2J")
        for flag in (True, False)
    ],
    "model": [
        {
            "type": "WordPiece",
            "unk_token": "?",
            "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 0,
            "vocab": {},
        },
        {
            "type": "WordPiece",
            "unk_token": "a",
            "continuing_subword_prefix": "",
            "max_input_chars_per_word": 2**63,
            "vocab": {"a": 2**32 - 1},
        },
        {"type": "WordLevel", "unk_token": "?", "vocab": {"x": 0}},
        {"type": "Unigram", "unk_id": 9, "vocab": [["a", 0.0]], "byte_fallback": False},
        {"type": "Unigram", "unk_id": 0, "vocab": [["", 0.0]], "byte_fallback": True},
        {"type": "Unigram", "unk_id": None, "vocab": [], "byte_fallback": False},
        {"type": "BPE", "dropout": 1.5, "unk_token": None, "vocab": {"a": 0}, "merges": []},
        {"type": "BPE", "dropout": 0.5, "unk_token": "a", "vocab": {"a": 0, "x": 1, "xx": 2}, "merges": [["x", "x"]]},
        {"type": "BPE", "dropout": None, "unk_token": "b", "vocab": {"a": 0}, "merges": []},
        {
            "type": "BPE",
            "dropout": None,
            "unk_token": "a",
            "vocab": {"a": 0, "b": 1, "ab": 2},
            "merges": [["a", "c"]],
            "byte_fallback": True,
        },
    ],
}


def put_hostile_part(rng: Random, content: bytes) -> tuple[str, bytes]:
    """Replace one part of a tokenizer. Return the kind of the part, and the tokenizer."""
    document = json.loads(content)
    key = rng.choice(list(_PARTS))
    document[key] = rng.choice(_PARTS[key])
    return f"hostile {key}", json.dumps(document).encode()
