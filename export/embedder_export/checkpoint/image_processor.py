"""How images are prepared: the settings of transformers' image processor."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from embedder.artifact.manifest import RESAMPLES, ImageSettings

from embedder_export.body.contract import BodySizes
from embedder_export.checkpoint.files import read_json
from embedder_export.errors import CheckpointError
from embedder_export.families.family import ImageProcessor

# The file of transformers 4. That of transformers 5 has the same settings under a key.
_FILE, _NEW_FILE, _NEW_KEY = "preprocessor_config.json", "processor_config.json", "image_processor"
# Settings where null means the default. Of the others, a switch that is null is off, and null is refused elsewhere.
_NULLABLE = ("size", "crop_size", "image_mean", "image_std")
# Settings that change nothing: the runtime converts an image to RGB in any case.
_IGNORED = ("do_convert_rgb", "feature_extractor_type", "image_processor_type", "processor_class", "return_tensors")
# Settings that transformers' faster class always writes with these values.
_FIXED = {"data_format": "channels_first", "default_to_square": False}


def read_images(directory: Path, processor: ImageProcessor, sizes: BodySizes) -> ImageSettings:
    """Read how `directory` has images prepared.

    Args:
        directory: of the transformer.
        processor: of its family.
        sizes: of the transformer of images.

    Raises:
        CheckpointError: a file is missing or damaged, a setting is not known, or it makes images of another size than
            the transformer takes.
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
    made, taken = images.crop or images.resize, sizes.image_size
    if made != (taken, taken):
        raise CheckpointError(f"{path} makes images of {list(made)} pixels, and the model takes {taken} a side")
    return images


def _find(directory: Path) -> tuple[Path, dict[str, Any]]:
    new: Any = read_json(directory / _NEW_FILE, dict, default={}).get(_NEW_KEY)
    old: dict[str, Any] = read_json(directory / _FILE, dict, default={})
    if new is None and not old:
        raise CheckpointError(f"{directory} has no {_FILE}, which says how images are prepared")
    if new is not None and (not isinstance(new, dict) or (old and old != new)):
        raise CheckpointError(f"{directory} has {_NEW_KEY} in {_NEW_FILE} that is not that of {_FILE}, or is damaged")
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
