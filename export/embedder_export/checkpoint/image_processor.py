"""Beside the second stage: how images are prepared, as transformers' CLIPImageProcessor has it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from embedder.artifact.manifest import RESAMPLES, ImageSettings

from embedder_export.checkpoint.files import read_json
from embedder_export.errors import CheckpointError

# Transformers 4's file, and 5's, which has the same under a name of its own.
_FILE, _NEW_FILE, _NEW_NAME = "preprocessor_config.json", "processor_config.json", "image_processor"
_CLASSES = ("CLIPFeatureExtractor", "CLIPImageProcessor", "CLIPImageProcessorFast", "CLIPImageProcessorPil")
_DEFAULTS: dict[str, Any] = {
    "do_resize": True,
    "size": {"shortest_edge": 224},
    "resample": 3,
    "do_center_crop": True,
    "crop_size": 224,
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
}
# Where these are null the default holds; a switch that is null is off, and the others may not be.
_NULLABLE = ("size", "crop_size", "image_mean", "image_std")
# What else may be there and changes nothing: an image is RGB in any case.
_IGNORED = ("do_convert_rgb", "feature_extractor_type", "image_processor_type", "processor_class", "return_tensors")
# As transformers' faster class always writes it.
_FIXED = {"data_format": "channels_first", "default_to_square": False}


def read_images(directory: Path, image_size: int, tokens: int) -> ImageSettings:
    """How `directory` has images prepared for a model of `image_size` pixels a side, where each takes `tokens`.

    Raises:
        CheckpointError: a file is missing or damaged, has a setting that is not known, or makes images of another size.
    """
    path, config = _find(directory)
    kind = config.get("image_processor_type", config.get("feature_extractor_type", _CLASSES[0]))
    if kind not in _CLASSES:
        raise CheckpointError(f"{path} has the image processor {kind!r:.80}, which is not supported")
    for key, value in config.items():
        if key not in (*_DEFAULTS, *_IGNORED) and value not in (None, _FIXED.get(key)):
            raise CheckpointError(f"{path} has {value!r:.80} as {key}, which is not supported")
    settings = _DEFAULTS | {key: value for key, value in config.items() if value is not None or key not in _NULLABLE}
    try:
        images = _images(settings, tokens)
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"{path} has a setting that cannot be used: {error!r}") from error
    size = images.crop or images.resize
    if size != (image_size, image_size):
        raise CheckpointError(f"{path} makes images of {list(size)} pixels, and the model takes {image_size} a side")
    return images


def _find(directory: Path) -> tuple[Path, dict[str, Any]]:
    new = read_json(directory / _NEW_FILE, dict, default={}).get(_NEW_NAME)
    old = read_json(directory / _FILE, dict, default={}) or None
    if new is None and old is None:
        raise CheckpointError(f"{directory} has no {_FILE}, which says how images are prepared")
    if new is not None and (not isinstance(new, dict) or (old is not None and old != new)):
        raise CheckpointError(f"{directory} has {_NEW_NAME} in {_NEW_FILE} that is not that of {_FILE}, or is damaged")
    return (directory / _FILE, old) if new is None else (directory / _NEW_FILE, new)


def _images(settings: Mapping[str, Any], tokens: int) -> ImageSettings:
    mean, std = settings["image_mean"], settings["image_std"]
    if settings["resample"] not in range(len(RESAMPLES)):
        raise ValueError(f"resample: {settings['resample']!r:.80}")
    return ImageSettings(
        resize=_resize(settings["size"]) if settings["do_resize"] else (),
        resample=RESAMPLES[settings["resample"]],
        crop=_square(settings["crop_size"]) if settings["do_center_crop"] else (),
        rescale=float(settings["rescale_factor"]) if settings["do_rescale"] else 1.0,
        mean=_three(mean) if settings["do_normalize"] else (0.0, 0.0, 0.0),
        std=_three(std) if settings["do_normalize"] else (1.0, 1.0, 1.0),
        tokens=tokens,
        parity=None,
    )


def _resize(size: Any) -> tuple[int, ...]:
    if isinstance(size, dict) and size.keys() == {"shortest_edge"}:
        return (int(size["shortest_edge"]),)
    return (int(size),) if isinstance(size, int) else _square(size)


def _square(size: Any) -> tuple[int, ...]:
    if isinstance(size, int):
        return (size, size)
    if isinstance(size, list):
        height, width = size
        return (int(height), int(width))
    if not isinstance(size, dict) or size.keys() != {"height", "width"}:
        raise ValueError(f"size: {size!r:.80}")
    return (int(size["height"]), int(size["width"]))


def _three(numbers: Any) -> tuple[float, ...]:
    return tuple(float(number) for number in (numbers if isinstance(numbers, list) else [numbers] * 3))
