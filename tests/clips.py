"""Write small random CLIP checkpoints in every layout. Their tokenizer is real if the data folder exists."""

import json
from pathlib import Path

import torch
from transformers import CLIPConfig, CLIPModel, CLIPTokenizerFast

from benchmarks.quality import DATA
from tests import vocabularies
from tests.checkpoints import NEW_TYPES, write_json, write_modules

TOKENIZER = DATA / "tokenizers/clip"
SMALL = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
IMAGE_SIZE = 32
PREPROCESSOR = {
    "crop_size": IMAGE_SIZE,
    "do_center_crop": True,
    "do_normalize": True,
    "do_resize": True,
    "feature_extractor_type": "CLIPFeatureExtractor",
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
    "resample": 3,
    "size": IMAGE_SIZE,
}
NEW_TRANSFORMER = {
    "transformer_task": "feature-extraction",
    "modality_config": {
        kind: {"method": f"get_{kind}_features", "method_output_name": None} for kind in ("text", "image")
    },
    "module_output_name": "sentence_embedding",
}
# The layouts of today's sentence-transformers, of its older versions, and of transformers.
LAYOUTS = ("new", "old", "transformers")


def write_clip(
    directory: Path,
    *,
    layout: str = "transformers",
    modules: tuple[str, ...] = (),
    text: dict[str, object] | None = None,
    vision: dict[str, object] | None = None,
    projection_dim: int = 24,
    preprocessor: dict[str, object] = PREPROCESSOR,
    seed: int = 0,
    **config: object,
) -> Path:
    """Write a CLIP with two towers of two layers and width 32, for images of 32 x 32 pixels in patches of 8 x 8.

    Args:
        directory: the new directory.
        layout: one of `LAYOUTS`.
        modules: the classes of the modules after the transformer.
        text: changes of the text tower's settings.
        vision: changes of the image tower's settings.
        projection_dim: length of the vectors.
        preprocessor: the content of preprocessor_config.json.
        seed: the seed of the weights.
        **config: changes of the other settings.
    """
    torch.manual_seed(seed)
    body = directory / "0_CLIPModel" if layout == "old" else directory
    body.mkdir(parents=True)
    tokenizer = _tokenizer()
    tokenizer.save_pretrained(body)
    ids = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    model = CLIPModel(
        CLIPConfig(
            text_config=SMALL | {"vocab_size": len(tokenizer)} | ids | (text or {}),
            vision_config=SMALL | {"image_size": IMAGE_SIZE, "patch_size": 8} | (vision or {}),
            projection_dim=projection_dim,
            **config,
        )
    )
    with torch.no_grad():  # with the initial weights, layers have little effect and all vectors are similar
        for name, weight in model.named_parameters():
            if weight.ndim > 1 and "embedding" not in name:
                weight.mul_(4)
    model.save_pretrained(body)
    write_json(body / "preprocessor_config.json", preprocessor)
    if layout == "old":
        (body / "tokenizer.json").unlink()
        write_modules(directory, ("CLIPModel", *modules), folder="0_CLIPModel")
    if layout == "new":
        write_modules(directory, ("Transformer", *modules), types=NEW_TYPES)
        write_json(directory / "sentence_bert_config.json", NEW_TRANSFORMER)
    return directory


def body_of(directory: Path) -> Path:
    """Return the directory of the model's own files."""
    return directory / "0_CLIPModel" if (directory / "0_CLIPModel").is_dir() else directory


def with_old_settings(directory: Path, **changes: object) -> None:
    """Write the settings of each tower twice in config.json, as in old files. The second part has the `changes`."""
    path = body_of(directory) / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    for name in ("text_config", "vision_config"):
        config[f"{name}_dict"] = config[name] | changes
    write_json(path, config)


def _tokenizer() -> CLIPTokenizerFast:
    if TOKENIZER.is_dir():
        return CLIPTokenizerFast.from_pretrained(TOKENIZER)
    return CLIPTokenizerFast(tokenizer_object=vocabularies.clip(), model_max_length=77)
