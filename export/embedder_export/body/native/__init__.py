"""Graphs written directly from config.json and the weights: nothing is traced, and nothing of torch is needed.

A family of models is a file: the settings that it honours, its equations, and what its parts are called in a
checkpoint. `network` has the pieces that the families are built of.
"""

from embedder.artifact.manifest import TEXT

from embedder_export.body.body import NATIVE, Body
from embedder_export.body.native import clip
from embedder_export.body.native.albert import ALBERT
from embedder_export.body.native.bert import BERT
from embedder_export.body.native.clip import build_clip
from embedder_export.body.native.distilbert import DISTILBERT
from embedder_export.body.native.mpnet import MPNET
from embedder_export.body.native.network import Network
from embedder_export.body.native.roberta import ROBERTA, XLM_ROBERTA
from embedder_export.body.native.settings import check_aliases, read_settings
from embedder_export.body.native.t5 import T5
from embedder_export.checkpoint.files import read_json
from embedder_export.checkpoint.read import Checkpoint
from embedder_export.checkpoint.weights import Weights, read_weights
from embedder_export.errors import NotNativeError
from embedder_export.graph.operators import new_graph, new_model

# By config.json's model_type.
FAMILIES = {
    "albert": ALBERT,
    "bert": BERT,
    "camembert": XLM_ROBERTA,
    "distilbert": DISTILBERT,
    "mpnet": MPNET,
    "roberta": ROBERTA,
    "t5": T5,
    "xlm-roberta": XLM_ROBERTA,
}


def build_bodies(checkpoint: Checkpoint) -> dict[str, Body]:
    """Write the graph of each transformer of `checkpoint`, in float32: of texts, and of a CLIP's images.

    Raises:
        NotNativeError: the family is none that is known here, or a setting is none that it honours.
        CheckpointError: weights are damaged, missing, or not of the sizes that the settings say.
        NeedsTorchError: the weights are in torch's format, and torch is not installed.
    """
    config = read_json(checkpoint.transformer / "config.json", dict)
    if checkpoint.is_clip:
        return build_clip(config, _renamed(read_weights(checkpoint.transformer), clip.PREFIX))
    model_type = config.get("model_type")
    if not isinstance(model_type, str) or model_type not in FAMILIES:
        raise NotNativeError(f"config.json has {model_type!r:.80} as model_type")
    family = FAMILIES[model_type]
    values = read_settings(config, family.settings)
    check_aliases(config, family.aliases, values)
    graph = new_graph()
    net = Network(graph, _renamed(read_weights(checkpoint.transformer), family.prefix))
    tokens = family.build(net, values)
    width = getattr(values, family.width)
    model = new_model(graph, tokens, width)
    positions, usable = values.max_position_embeddings, family.usable_positions(values)
    return {TEXT: Body([(NATIVE, model)], width, positions, usable, vocabulary_size=values.vocab_size)}


def _renamed(weights: Weights, base: str) -> Weights:
    """`weights` by the names of the model `base` alone; they may be older names, or those of a larger model.

    As transformers has it, where any name starts with the base model's, all others are another part's.

    Raises:
        NotNativeError: two tensors have one name then, or one with and one without the base model's before it, of which
            versions of transformers take the one or the other.
    """
    prefix = f"{base}."
    within = any(name.startswith(base) for name in weights)
    renamed: Weights = {}
    for name in weights:
        plain = _plain(name.removeprefix(prefix))
        if not within or name.startswith(prefix):
            if plain in renamed:
                raise NotNativeError(f"the weights have {plain} twice")
            renamed[plain] = weights[name]
    for name in weights:
        # Token vectors have no use for a pooler.
        if within and not name.startswith((prefix, "pooler.")) and _plain(name) in renamed:
            raise NotNativeError(f"the weights have {_plain(name)} twice")
    return renamed


def _plain(name: str) -> str:
    return name.replace("LayerNorm.gamma", "LayerNorm.weight").replace("LayerNorm.beta", "LayerNorm.bias")
