"""Convert natively: write graphs from config.json and the weights. This needs no tracing and no torch."""

from dataclasses import replace

from embedder.artifact.manifest import RANK, TEXT

from embedder_export.body.contract import ALL_TOKENS, Body, BodyRequest
from embedder_export.checkpoint.checkpoint import Checkpoint
from embedder_export.checkpoint.files import read_json
from embedder_export.checkpoint.static_table import read_static_table
from embedder_export.checkpoint.weights import BlankWeights, Weights, read_weights
from embedder_export.errors import NotNativeError
from embedder_export.families.settings import check_aliases
from embedder_export.families.static import STATIC, static_body
from embedder_export.tokenizer.static import read_unknown_id


def build_bodies(checkpoint: Checkpoint, request: BodyRequest = ALL_TOKENS) -> dict[str, Body]:
    """Write the graph of each transformer of `checkpoint` in float32.

    Args:
        checkpoint: what to build.
        request: what the later stages need.

    Returns:
        The transformers by modality.

    Raises:
        NotNativeError: the family has no native builder, or its equations do not honour a setting.
        CheckpointError: a weight is damaged, missing, not finite, or has another size than the settings say.

    Example:
        >>> build_bodies(read_checkpoint("checkpoints/all-MiniLM-L6-v2"))["text"].sizes.width  # doctest: +SKIP
        384
    """
    if checkpoint.family is STATIC:
        unknown_id = read_unknown_id(checkpoint.transformer) if checkpoint.is_model2vec else None
        return {TEXT: static_body(read_static_table(checkpoint.transformer), unknown_id)}
    config, family = read_json(checkpoint.transformer / "config.json", dict), checkpoint.family
    # A head that is not known is traced together with its transformer.
    if not family.builders or (checkpoint.task == RANK and not checkpoint.layers):
        raise NotNativeError(f"config.json has {config.get('model_type')!r:.80} as model_type")
    settings = family.read_settings(config, family.settings)
    check_aliases(config, family.aliases, settings)
    weights = read_weights(checkpoint.transformer)
    if not isinstance(weights, BlankWeights):
        weights = _rename(family.rename(weights), family.prefix)
    request = replace(request, max_seq_length=checkpoint.max_seq_length)
    return {modality: build(weights, settings, request) for modality, build in family.builders.items()}


def _rename(weights: Weights, base: str) -> Weights:
    """Return the weights of the model `base` under this model's own names.

    A checkpoint may use older names. It may also hold a larger model that contains `base`. transformers assumes a
    larger model if any name starts with `base`. Then it ignores all names without the prefix.

    Raises:
        NotNativeError: two weights get the same name, or a weight is there with and without the prefix. Different
            versions of transformers choose different ones.
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
