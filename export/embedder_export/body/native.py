"""Native conversion: graphs written from config.json and the weights. Nothing is traced, and torch is not needed."""

from embedder_export.body.contract import Body
from embedder_export.checkpoint.files import read_json
from embedder_export.checkpoint.read import Checkpoint
from embedder_export.checkpoint.weights import Weights, read_weights
from embedder_export.errors import NotNativeError
from embedder_export.families.settings import check_aliases


def build_bodies(checkpoint: Checkpoint) -> dict[str, Body]:
    """Write the graph of each transformer of `checkpoint` in float32.

    Returns:
        The transformers by modality.

    Raises:
        NotNativeError: the family has no native builder, or its equations do not honour a setting.
        CheckpointError: weights are damaged, missing, not finite, or not of the sizes that the settings say.
        NeedsTorchError: the weights are in torch's format, and torch is not installed.
    """
    config, family = read_json(checkpoint.transformer / "config.json", dict), checkpoint.family
    if not family.builders:
        raise NotNativeError(f"config.json has {config.get('model_type')!r:.80} as model_type")
    settings = family.read_settings(config, family.settings)
    check_aliases(config, family.aliases, settings)
    weights = _rename(read_weights(checkpoint.transformer), family.prefix)
    return {modality: build(weights, settings) for modality, build in family.builders.items()}


def _rename(weights: Weights, base: str) -> Weights:
    """Return the weights of the model `base` by its own names.

    The checkpoint may have older names, or be of a larger model. transformers takes it for a larger model where any
    name starts with `base`. Then it ignores all others.

    Raises:
        NotNativeError: two weights get one name, or one weight is there with and without the prefix. Versions of
            transformers differ in which they take.
    """
    prefix = f"{base}."
    is_larger = any(name.startswith(base) for name in weights)
    renamed: Weights = {}
    for name in weights:
        new = _new_name(name.removeprefix(prefix))
        if not is_larger or name.startswith(prefix):
            if new in renamed:
                raise NotNativeError(f"the weights have {new} twice")
            renamed[new] = weights[name]
    for name in weights:
        # Token vectors do not depend on a pooler.
        if is_larger and not name.startswith((prefix, "pooler.")) and _new_name(name) in renamed:
            raise NotNativeError(f"the weights have {_new_name(name)} twice")
    return renamed


def _new_name(name: str) -> str:
    return name.replace("LayerNorm.gamma", "LayerNorm.weight").replace("LayerNorm.beta", "LayerNorm.bias")
