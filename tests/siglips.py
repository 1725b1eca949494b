"""Write small random SigLIP checkpoints in every layout, with each of the tokenizers that published models have."""

import struct
from collections.abc import Sequence
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import SiglipConfig, SiglipModel

from tests.checkpoints import NEW_TYPES, write_json, write_modules
from tests.vocabularies import CHARACTERS

# The heads of siglip-so400m-patch14-384 have 72 numbers each.
SMALL = {"hidden_size": 72, "intermediate_size": 100, "num_hidden_layers": 2, "num_attention_heads": 1}
IMAGE_SIZE = 32
PREPROCESSOR = {
    "do_convert_rgb": True,
    "do_normalize": True,
    "do_rescale": True,
    "do_resize": True,
    "image_mean": [0.5, 0.5, 0.5],
    "image_processor_type": "SiglipImageProcessor",
    "image_std": [0.5, 0.5, 0.5],
    "processor_class": "SiglipProcessor",
    "resample": 3,
    "rescale_factor": 0.00392156862745098,
    "size": {"height": IMAGE_SIZE, "width": IMAGE_SIZE},
}
NEW_TRANSFORMER = {
    "transformer_task": "feature-extraction",
    "modality_config": {
        kind: {"method": f"get_{kind}_features", "method_output_name": "pooler_output"} for kind in ("text", "image")
    },
    "module_output_name": "sentence_embedding",
}
LAYOUTS = ("transformers", "new", "old")
# The settings of the tokenizers of google/siglip-* and google/siglip2-*.
PUBLISHED = {"model_input_names": ["input_ids"], "model_max_length": 64, "padding_side": "right"}
SPECIAL = {"bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<pad>", "unk_token": "<unk>"}
# Numbers of kinds of pieces in a SentencePiece model.
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED = range(1, 6)


def write_siglip(
    directory: Path,
    *,
    layout: str = "transformers",
    tokenizer: str = "GemmaTokenizer",
    settings: dict[str, object] = PUBLISHED,
    text: dict[str, object] | None = None,
    vision: dict[str, object] | None = None,
    preprocessor: dict[str, object] | None = None,
    seed: int = 0,
) -> Path:
    """Write a SigLIP with two towers of two layers, for images of 32 x 32 pixels in patches of 8 x 8.

    Args:
        directory: the new directory.
        layout: one of `LAYOUTS`.
        tokenizer: the class of the tokenizer. "SiglipTokenizer" gets a spiece.model, the others a tokenizer.json.
        settings: the settings of the tokenizer.
        text: changes of the text tower's settings.
        vision: changes of the image tower's settings.
        preprocessor: changes of preprocessor_config.json.
        seed: the seed of the weights.
    """
    torch.manual_seed(seed)
    body = directory / "0_CLIPModel" if layout == "old" else directory
    body.mkdir(parents=True)
    rows = write_tokenizer(body, tokenizer, settings)
    ids = {"vocab_size": rows, "bos_token_id": None, "eos_token_id": 1, "pad_token_id": 1}
    config = SiglipConfig(
        text_config=SMALL | ids | (text or {}),
        vision_config=SMALL | {"image_size": IMAGE_SIZE, "patch_size": 8} | (vision or {}),
    )
    model = SiglipModel(config)
    with torch.no_grad():  # initial biases are zeros, and would hide a bias that is left out
        for name, weight in model.named_parameters():
            if name.endswith("bias") or "norm" in name:
                weight.add_(torch.randn_like(weight) / 5)
        model.logit_scale.fill_(2.5)
        model.logit_bias.fill_(-3.0)
    model.save_pretrained(body)
    write_json(body / "preprocessor_config.json", PREPROCESSOR | (preprocessor or {}))
    if layout == "old":
        write_modules(directory, ["CLIPModel"], folder="0_CLIPModel")
    if layout == "new":
        write_modules(directory, ["Transformer"], types=NEW_TYPES)
        write_json(directory / "sentence_bert_config.json", NEW_TRANSFORMER)
    return directory


def write_tokenizer(directory: Path, kind: str, settings: dict[str, object] = PUBLISHED) -> int:
    """Write the files of a tokenizer of the class `kind`, and return the number of its words."""
    if kind == "SiglipTokenizer":
        special = {"eos_token": "</s>", "pad_token": "</s>", "unk_token": "<unk>"}
        rows = write_spiece(directory / "spiece.model")
    else:
        special, found = SPECIAL, gemma(lowercase=kind == "Siglip2Tokenizer")
        found.save(str(directory / "tokenizer.json"))
        rows = found.get_vocab_size()
    write_json(directory / "tokenizer_config.json", {"tokenizer_class": kind} | special | settings)
    return rows


def gemma(*, lowercase: bool = False) -> Tokenizer:
    """Make a BPE tokenizer like Gemma's. A text ends with <eos>."""
    words = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", *(f"<0x{byte:02X}>" for byte in range(256))]
    words += ["▁", *CHARACTERS, "th", "the", "▁the", "ca", "cat"]
    merges = [("t", "h"), ("th", "e"), ("▁", "the"), ("c", "a"), ("ca", "t")]
    vocabulary = {word: at for at, word in enumerate(words)}
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, fuse_unk=True, unk_token="<unk>", byte_fallback=True))
    marks = normalizers.Replace(" ", "▁")
    tokenizer.normalizer = normalizers.Sequence([normalizers.Lowercase(), marks]) if lowercase else marks
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", behavior="merged_with_previous")
    tokenizer.post_processor = processors.TemplateProcessing(single="$A <eos>", special_tokens=[("<eos>", 1)])
    tokenizer.add_special_tokens(words[:5])
    return tokenizer


def write_spiece(
    path: Path, extra: Sequence[tuple[str, int]] = (), *, training: bytes = b"", normalizer: bytes = b""
) -> int:
    """Write a Unigram model of SentencePiece, and return the number of its pieces.

    Args:
        path: the new file.
        extra: further pieces, each with its kind.
        training: the content of the message about the training.
        normalizer: the content of the message about the normaliser.
    """
    pieces = [("<pad>", CONTROL, 0.0), ("</s>", CONTROL, 0.0), ("<unk>", UNKNOWN, 0.0), ("▁", NORMAL, -2.0)]
    pieces += [(word, NORMAL, -3.0 - at / 10) for at, word in enumerate(("▁the", "▁cat", "at", "ing", "▁1"))]
    pieces += [(character, NORMAL, -5.0 - at / 100) for at, character in enumerate(CHARACTERS)]
    pieces += [(piece, kind, 0.0) for piece, kind in extra]
    content = b"".join(_field(1, _piece(*piece)) for piece in pieces)
    path.write_bytes(content + _field(2, training) + _field(3, normalizer))
    return len(pieces)


def _piece(text: str, kind: int, score: float) -> bytes:
    return _field(1, text.encode()) + b"\x15" + struct.pack("<f", score) + bytes([0x18, kind])


def _field(number: int, content: bytes) -> bytes:
    """Return a field of protobuf that holds fewer than 16,384 bytes."""
    length = len(content)
    return bytes([number << 3 | 2, length & 0x7F | 0x80, length >> 7]) + content


def body_of(directory: Path) -> Path:
    """Return the directory of the model's own files."""
    return directory / "0_CLIPModel" if (directory / "0_CLIPModel").is_dir() else directory
