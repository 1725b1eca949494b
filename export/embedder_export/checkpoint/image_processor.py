"""Read how the model's images are prepared: the settings of transformers' image processor."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from embedder.artifact.image_settings import RESAMPLES, ImageSettings

from embedder_export.body.contract import BodySizes
from embedder_export.checkpoint.files import read_json
from embedder_export.errors import CheckpointError
from embedder_export.families.family import ImageProcessor

# transformers 4 writes the first file. transformers 5 writes the second, with the same settings under a key.
_FILE, _NEW_FILE, _NEW_KEY = "preprocessor_config.json", "processor_config.json", "image_processor"
# Settings for which null means the default. For the other settings, null turns a switch off and is no valid number.
_NULLABLE = ("size", "crop_size", "image_mean", "image_std")
# Settings without effect: the runtime converts every image to RGB.
_IGNORED = ("do_convert_rgb", "feature_extractor_type", "image_processor_type", "processor_class", "return_tensors")
# Settings that transformers' fast image processor writes, always with these values.
_FIXED = {"data_format": "channels_first", "default_to_square": False}


def read_images(directory: Path, processor: ImageProcessor, sizes: BodySizes) -> ImageSettings:
    """Read the settings of the image processor in `directory`.

    Args:
        directory: the directory of the transformer.
        processor: the image processor of the family.
        sizes: the sizes of the transformer that takes images.

    Raises:
        CheckpointError: a file is missing or damaged, a setting is not known, or the prepared images have another size
            than the transformer takes.

    Example:
        >>> read_images(Path("clip-ViT-B-32"), CLIP.image_processor, bodies["image"].sizes).crop  # doctest: +SKIP
        (224, 224)
    """
    path, config = _find(directory)
    kind = config.get("image_processor_type", config.get("feature_extractor_type", processor.classes[0]))
    if kind not in processor.classes:
        raise CheckpointError(f"{path} has the image processor {kind!r:.80}, which is not supported")
    for key, value in config.items():
        if key not in (*processor.defaults, *_IGNORED) and value not in (None, _FIXED.get(key)):
            raise CheckpointError(f"{path} has {value!r:.80} as {key}, which is not supported")
    given = {key: value for key, value in config.items() if value is not None or key not in _NULLABLE}
    if sizes.image_size is None or sizes.usable_positions is None:
        raise CheckpointError(f"{path} prepares images for a transformer of no known image size")
    try:
        images = _image_settings({**processor.defaults, **given}, sizes.usable_positions)
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"{path} has a setting that cannot be used: {error!r}") from error
    prepared, side = images.crop or images.resize, sizes.image_size
    if prepared != (side, side):
        raise CheckpointError(f"{path} makes images of {list(prepared)} pixels, and the model takes {[side, side]}")
    return images


def _find(directory: Path) -> tuple[Path, dict[str, Any]]:
    new: Any = read_json(directory / _NEW_FILE, dict, default={}).get(_NEW_KEY)
    old: dict[str, Any] = read_json(directory / _FILE, dict, default={})
    if new is None and not old:
        raise CheckpointError(f"{directory} has no {_FILE}, which says how images are prepared")
    if new is not None and (not isinstance(new, dict) or (old and old != new)):
        raise CheckpointError(f"{directory / _NEW_FILE} has an {_NEW_KEY} that is damaged, or differs from {_FILE}")
    return (directory / _FILE, old) if new is None else (directory / _NEW_FILE, new)


def _image_settings(settings: Mapping[str, Any], tokens: int) -> ImageSettings:
    mean, std = settings["image_mean"], settings["image_std"]
    if settings["resample"] not in range(len(RESAMPLES)):
        raise ValueError(f"resample: {settings['resample']!r:.80}")
    return ImageSettings(
        resize=_resize(settings["size"]) if settings["do_resize"] else (),
        resample=RESAMPLES[settings["resample"]],
        crop=_square(settings["crop_size"]) if settings["do_center_crop"] else (),
        rescale=float(settings["rescale_factor"]) if settings["do_rescale"] else 1.0,
        mean=_channel_values(mean) if settings["do_normalize"] else (0.0, 0.0, 0.0),
        std=_channel_values(std) if settings["do_normalize"] else (1.0, 1.0, 1.0),
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


def _channel_values(numbers: Any) -> tuple[float, ...]:
    return tuple(float(number) for number in (numbers if isinstance(numbers, list) else [numbers] * 3))
