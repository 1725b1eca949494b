"""Write the graphs for GPUs of small random checkpoints, and the fp32 graphs beside them."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from embedder_export.body.contract import ALL_TOKENS, Body, BodyRequest, TextPadding
from embedder_export.body.native import build_bodies
from embedder_export.body.rope import Rope
from embedder_export.checkpoint.layers import SENTENCE, Dense, Layer, Normalize, Pooling
from embedder_export.checkpoint.read import read_checkpoint
from embedder_export.dtype.fp16 import convert_model
from embedder_export.families.gte import GTE, GteSettings
from embedder_export.families.jina_bert import JINA_BERT, JinaBertSettings
from embedder_export.families.table import FAMILIES as FAMILIES_OF_EXPORT
from embedder_export.graph.files import save_graph
from embedder_export.head.heads import add_head

from tests.clips import IMAGE_SIZE, write_clip
from tests.native_models import FAMILIES, LENGTH, ROWS, batches, write_model
from tests.siglips import write_siglip

ROTARY_SIZES = {
    "vocab_size": ROWS,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": LENGTH,
}
MEAN = (Pooling(("mean",), True), Normalize())
WIDTH = 32


@dataclass(frozen=True)
class Case:
    """A body, its head, and inputs for it."""

    body: Body
    layers: tuple[Layer, ...]
    feeds: list[dict[str, np.ndarray]]

    def fp16_model(self) -> ir.Model:
        """Return the fp16 graph for GPUs."""
        model = self.body.write_for_gpu()
        add_head(model.graph, self.layers, self.body.sizes.width)
        convert_model(model)
        return model

    def save_fp16(self, directory: Path) -> Path:
        """Save the fp16 graph for GPUs to a new directory."""
        return save_graph(self.fp16_model(), directory)

    def save_fp32(self, directory: Path) -> Path:
        """Save the fp32 graph to a new directory."""
        ((_, model),) = self.body.forms
        add_head(model.graph, self.layers, self.body.sizes.width)
        return save_graph(model, directory)


def text_body(directory: Path, family: str, request: BodyRequest = ALL_TOKENS, **changes: object) -> Body:
    """Build the body of a small random checkpoint of `family`."""
    write_model(family, directory / "checkpoint", **changes)
    return build_bodies(read_checkpoint(str(directory / "checkpoint")), request)["text"]


def text_case(directory: Path, family: str) -> Case:
    """Return an embedder."""
    feeds = [{"input_ids": ids, "attention_mask": mask} for ids, mask in batches(1)]
    return Case(text_body(directory, family), MEAN, feeds)


def pair_case(directory: Path, family: str) -> Case:
    """Return a cross-encoder, which computes only the first token in its last layer."""
    has_types = family != "mpnet"
    body = text_body(directory, family, BodyRequest(token_types=has_types, first_token_only=True))
    weight = np.random.default_rng(0).normal(size=(3, WIDTH)).astype(np.float32)
    feeds = [{"input_ids": ids, "attention_mask": mask} for ids, mask in batches(1)]
    for feed in feeds if has_types else ():
        feed["token_type_ids"] = (np.arange(feed["input_ids"].shape[1]) > 3) * feed["attention_mask"]
    return Case(body, (Dense(weight, weight[:, 0], "Tanh", SENTENCE),), feeds)


def clip_cases(directory: Path) -> dict[str, Case]:
    """Return both towers of a CLIP, by modality."""
    return _tower_cases(build_bodies(read_checkpoint(str(write_clip(directory / "clip")))))


def siglip_cases(directory: Path, side: str = "right") -> dict[str, Case]:
    """Return both towers of a SigLIP, by modality. Its texts are padded on the `side`."""
    request = BodyRequest(padding=TextPadding(0, 64, side, is_masked=False))
    return _tower_cases(build_bodies(read_checkpoint(str(write_siglip(directory / "siglip"))), request))


def _tower_cases(bodies: dict[str, Body]) -> dict[str, Case]:
    draw = np.random.default_rng(0)
    texts = [{"input_ids": np.where(mask, ids, 1), "attention_mask": mask} for ids, mask in batches(1)]
    pixels = [
        {"pixel_values": draw.normal(size=(rows, 3, IMAGE_SIZE, IMAGE_SIZE)).astype(np.float32)} for rows in (1, 5)
    ]
    return {kind: Case(body, (Normalize(),), texts if kind == "text" else pixels) for kind, body in bodies.items()}


def gte_case(rope: Rope) -> Case:
    """Return a GTE. transformers 4 has no class for it."""
    config, inner = replace(GteSettings(), **ROTARY_SIZES, rope=rope), ROTARY_SIZES["intermediate_size"]
    shapes = {"embeddings.word_embeddings.weight": (ROWS, WIDTH), "embeddings.token_type_embeddings.weight": (1, WIDTH)}
    shapes |= _linear("embeddings.LayerNorm", WIDTH)
    for name in (f"layers.{index}" for index in range(config.num_hidden_layers)):
        shapes |= {f"{name}.mlp.{part}_proj.weight": (inner, WIDTH) for part in ("up", "gate")}
        shapes |= _linear(f"{name}.mlp.down_proj", WIDTH, inner)
        for part in "qkvo":
            shapes |= _linear(f"{name}.self_attn.{part}_proj", WIDTH, WIDTH)
        for part in ("attention", "mlp"):
            shapes |= _linear(f"{name}.post_{part}_layernorm", WIDTH)
    return _rotary_case(GTE, config, shapes)


def modernbert_case() -> Case:
    """Return a ModernBERT. Its class in transformers takes seconds to import."""
    family, inner = FAMILIES_OF_EXPORT["modernbert"], ROTARY_SIZES["intermediate_size"]
    config = family.read_settings(ROTARY_SIZES | {"local_attention": 16, "num_hidden_layers": 4}, family.settings)
    shapes = {"embeddings.tok_embeddings.weight": (ROWS, WIDTH)}
    shapes |= {f"{name}.weight": (WIDTH,) for name in ("embeddings.norm", "final_norm")}
    for name in (f"layers.{index}" for index in range(config.num_hidden_layers)):
        shapes |= {f"{name}.{part}_norm.weight": (WIDTH,) for part in ("attn", "mlp")}
        shapes |= {f"{name}.attn.{part}.weight": (WIDTH, WIDTH) for part in ("q", "k", "v", "Wo")}
        shapes |= {f"{name}.mlp.{part}.weight": (inner, WIDTH) for part in ("gate", "up")}
        shapes |= {f"{name}.mlp.Wo.weight": (WIDTH, inner)}
    return _rotary_case(family, config, shapes)


def jina_v2_case(*, is_for_code: bool = False) -> Case:
    """Return a Jina Embeddings v2, or the one for code. transformers has no class for them."""
    config, inner = replace(JinaBertSettings(), **ROTARY_SIZES, type_vocab_size=1), ROTARY_SIZES["intermediate_size"]
    shapes = {"embeddings.word_embeddings.weight": (ROWS, WIDTH), "embeddings.token_type_embeddings.weight": (1, WIDTH)}
    shapes |= _linear("embeddings.LayerNorm", WIDTH)
    for name in (f"encoder.layer.{index}" for index in range(config.num_hidden_layers)):
        for part in ("attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense"):
            shapes |= _linear(f"{name}.{part}", WIDTH, WIDTH)
        shapes |= _linear(f"{name}.intermediate.dense", inner, WIDTH) | _linear(f"{name}.output.dense", WIDTH, inner)
        shapes |= _linear(f"{name}.attention.output.LayerNorm", WIDTH) | _linear(f"{name}.output.LayerNorm", WIDTH)
        if is_for_code:
            shapes |= {f"{name}.mlp.{part}.weight": (inner, WIDTH) for part in ("up", "gate")}
            shapes |= _linear(f"{name}.mlp.down_layer", WIDTH, inner)
            norms = ("layer_norm_1", "layer_norm_2", "attention.self.layer_norm_q", "attention.self.layer_norm_k")
            shapes |= {key: shape for norm in norms for key, shape in _linear(f"{name}.{norm}", WIDTH).items()}
    if is_for_code:
        config = replace(config, feed_forward_type="geglu")
    return _rotary_case(JINA_BERT, config, shapes)


def _rotary_case(family: Any, config: Any, shapes: dict[str, tuple[int, ...]]) -> Case:
    """Return a model with random weights of these shapes."""
    draw = np.random.default_rng(0)
    weights = {name: ir.tensor(draw.normal(size=shape).astype(np.float32) / 4) for name, shape in shapes.items()}
    feeds = [{"input_ids": ids, "attention_mask": mask} for ids, mask in batches(1)]
    return Case(family.builders["text"](weights, config, ALL_TOKENS), MEAN, feeds)


def _linear(name: str, *shape: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": shape, f"{name}.bias": shape[:1]}


# Every small checkpoint, by a name for it. Each function takes a new directory.
CASES = {
    **{family: lambda directory, family=family: text_case(directory, family) for family in FAMILIES},
    **{
        f"{family} pairs": lambda directory, family=family: pair_case(directory, family) for family in ("bert", "mpnet")
    },
    "gte": lambda directory: gte_case(Rope(10000.0, 8, scaling="ntk", factor=2.0)),
    "modernbert": lambda directory: modernbert_case(),
    "jina v2": lambda directory: jina_v2_case(),
    "jina v2 for code": lambda directory: jina_v2_case(is_for_code=True),
    **{f"clip {kind}": lambda directory, kind=kind: clip_cases(directory)[kind] for kind in ("text", "image")},
    **{f"siglip {kind}": lambda directory, kind=kind: siglip_cases(directory)[kind] for kind in ("text", "image")},
    "siglip text, padded on the left": lambda directory: siglip_cases(directory, "left")["text"],
}


def smallest_cosine(ours: np.ndarray, theirs: np.ndarray) -> float:
    """Return the smallest cosine of two vectors of the same row."""
    cosine = (ours * theirs).sum(axis=1) / np.linalg.norm(ours, axis=1) / np.linalg.norm(theirs, axis=1)
    return float(cosine.min())


def single_feeds(feed: dict[str, np.ndarray]) -> list[dict[str, np.ndarray]]:
    """Return the inputs of each row alone, without padding."""
    rows = len(next(iter(feed.values())))
    lengths = feed["attention_mask"].sum(axis=1) if "attention_mask" in feed else [None] * rows
    return [{name: value[row : row + 1, :length] for name, value in feed.items()} for row, length in enumerate(lengths)]
