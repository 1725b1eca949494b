"""Encoders in NumPy float64, from their published definitions. They read the weights by the Hub's names.

transformers has no class for these models, or none with these settings: the code lies in repositories on the Hub, and
is not run. Each function takes the weights by name, the content of config.json, and the token ids of one text, and
returns its token vectors, float64 (tokens, width).
"""

import math
from collections.abc import Mapping

import numpy as np
from scipy.special import erf

Array = np.ndarray
ACTIVATIONS = {
    "gelu": lambda x: x * (1 + erf(x / math.sqrt(2))) / 2,
    "silu": lambda x: x / (1 + np.exp(-x)),
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "relu": lambda x: np.maximum(x, 0),
}


class Weights:
    """Weights in float64 by name, with the layers that read them."""

    def __init__(self, weights: Mapping[str, Array]) -> None:
        self.arrays = {name: np.asarray(array, np.float64) for name, array in weights.items()}

    def __getitem__(self, name: str) -> Array:
        return self.arrays[name]

    def linear(self, x: Array, name: str) -> Array:
        """Return x @ weight.T + bias. A layer may lack a bias."""
        return x @ self[f"{name}.weight"].T + self.arrays.get(f"{name}.bias", 0)

    def norm(self, x: Array, name: str, epsilon: float) -> Array:
        """Return layer normalisation. It may lack a bias."""
        centred = x - x.mean(axis=-1, keepdims=True)
        scaled = centred / np.sqrt((centred**2).mean(axis=-1, keepdims=True) + epsilon)
        return scaled * self[f"{name}.weight"] + self.arrays.get(f"{name}.bias", 0)


def rotate(x: Array, frequencies: Array, *, interleaved: bool = False) -> Array:
    """Rotate the first numbers of each head, (heads, tokens, head width), by position * frequency."""
    angles = np.arange(x.shape[1])[:, None] * frequencies
    cosines, sines = np.cos(angles), np.sin(angles)
    width, rotated = 2 * len(frequencies), x.copy()
    first = slice(0, width, 2) if interleaved else slice(0, width // 2)
    second = slice(1, width, 2) if interleaved else slice(width // 2, width)
    rotated[..., first] = x[..., first] * cosines - x[..., second] * sines
    rotated[..., second] = x[..., second] * cosines + x[..., first] * sines
    return rotated


def attend(query: Array, key: Array, value: Array, bias: Array | float = 0) -> Array:
    """Return attention from (heads, tokens, head width) to (tokens, width)."""
    scores = query @ key.swapaxes(1, 2) / math.sqrt(query.shape[-1]) + bias
    shares = np.exp(scores - scores.max(axis=-1, keepdims=True))
    mixed = shares / shares.sum(axis=-1, keepdims=True) @ value
    return mixed.swapaxes(0, 1).reshape(mixed.shape[1], -1)


def split_heads(x: Array, heads: int) -> Array:
    """Return (tokens, width) as (heads, tokens, head width)."""
    return x.reshape(len(x), heads, -1).swapaxes(0, 1)


def nomic_bert(given: Mapping[str, Array], config: Mapping[str, object], ids: Array) -> Array:
    """Compute NomicBERT by nomic-ai/nomic-bert-2048's names: n_embd, rotary_emb_fraction, Wqkv, fc11 and so on."""
    weights, heads, epsilon = Weights(given), config["n_head"], config["layer_norm_epsilon"]
    width = int(config["n_embd"] // heads * config["rotary_emb_fraction"])
    theta, trained = config["rotary_emb_base"], config["max_trained_positions"]
    factor = config["rotary_scaling_factor"]
    if factor is not None and len(ids) > trained:
        theta *= (factor * len(ids) / trained - (factor - 1)) ** (width / (width - 2))
    frequencies = theta ** -(np.arange(0, width, 2) / width)
    names = {"swiglu": "silu", "geglu": "gelu", "glu": "sigmoid", "gelu": "gelu"}
    function, is_gated = ACTIVATIONS[names[config["activation_function"]]], config["activation_function"] != "gelu"
    every = config.get("moe_every_n_layers") or 0
    x = weights["embeddings.word_embeddings.weight"][ids] + weights["embeddings.token_type_embeddings.weight"][0]
    x = weights.norm(x, "emb_ln", epsilon)
    for index in range(config["n_layer"]):
        name = f"encoder.layers.{index}"
        stacked = np.split(weights.linear(x, f"{name}.attn.Wqkv"), 3, axis=1)
        query, key, value = (split_heads(part, heads) for part in stacked)
        query, key = (rotate(part, frequencies, interleaved=config["rotary_emb_interleaved"]) for part in (query, key))
        mixed = weights.linear(attend(query, key, value), f"{name}.attn.out_proj")
        x = weights.norm(x + mixed, f"{name}.norm1", epsilon)
        if every and index % every == 1:
            y = nomic_experts(weights, f"{name}.mlp", config, x)
        elif is_gated:
            y = function(weights.linear(x, f"{name}.mlp.fc12")) * weights.linear(x, f"{name}.mlp.fc11")
            y = weights.linear(y, f"{name}.mlp.fc2")
        else:
            y = weights.linear(function(weights.linear(x, f"{name}.mlp.fc1")), f"{name}.mlp.fc2")
        x = weights.norm(x + y, f"{name}.norm2", epsilon)
    return x


def nomic_experts(weights: Weights, name: str, config: Mapping[str, object], x: Array) -> Array:
    """Compute the experts of nomic-embed-text-v2-moe. A token's shares are a softmax over all experts."""
    scores = weights.linear(x, f"{name}.router.layer")
    shares = np.exp(scores - scores.max(axis=1, keepdims=True))
    shares /= shares.sum(axis=1, keepdims=True)
    up, down = (
        weights[f"{name}.experts.mlp.{part}"].reshape(config["num_experts"], config["n_inner"], -1)
        for part in ("w1", "w2")
    )
    result = np.tile(weights[f"{name}.experts.bias"], (len(x), 1))
    for token, best in enumerate(np.argsort(-shares, axis=1)[:, : config["moe_top_k"]]):
        for expert in best:
            y = ACTIVATIONS["gelu"](x[token] @ up[expert].T) @ down[expert]
            result[token] += shares[token, expert] * y
    return result


def gte(given: Mapping[str, Array], config: Mapping[str, object], ids: Array) -> Array:
    """Compute GTE by Alibaba-NLP/new-impl's names: qkv_proj, up_gate_proj, attn_ln and so on."""
    weights, heads, epsilon = Weights(given), config["num_attention_heads"], config["layer_norm_eps"]
    width, theta, scaling = config["hidden_size"] // heads, config["rope_theta"], config["rope_scaling"]
    exponents = np.arange(0, width, 2) / width
    frequencies = theta**-exponents
    if scaling is not None:  # NTK with one factor, equation 6 of https://kexue.fm/archives/9706
        frequencies = (theta * scaling["factor"]) ** -exponents / scaling["factor"] ** (2 / width)
    x = weights["new.embeddings.word_embeddings.weight"][ids]
    if config["type_vocab_size"]:
        x = x + weights["new.embeddings.token_type_embeddings.weight"][0]
    x = weights.norm(x, "new.embeddings.LayerNorm", epsilon)
    for index in range(config["num_hidden_layers"]):
        name = f"new.encoder.layer.{index}"
        stacked = np.split(weights.linear(x, f"{name}.attention.qkv_proj"), 3, axis=1)
        query, key, value = (split_heads(part, heads) for part in stacked)
        mixed = attend(rotate(query, frequencies), rotate(key, frequencies), value)
        x = weights.norm(x + weights.linear(mixed, f"{name}.attention.o_proj"), f"{name}.attn_ln", epsilon)
        up, gate = np.split(weights.linear(x, f"{name}.mlp.up_gate_proj"), 2, axis=1)
        y = weights.linear(ACTIVATIONS[config["hidden_act"]](gate) * up, f"{name}.mlp.down_proj")
        x = weights.norm(x + y, f"{name}.mlp_ln", epsilon)
    return x


def jina_v2(given: Mapping[str, Array], config: Mapping[str, object], ids: Array, types: Array | int = 0) -> Array:
    """Compute Jina Embeddings v2 by the names of jinaai/jina-bert-implementation: gated_layers and so on.

    Weights of jinaai/jina-bert-v2-qk-post-norm have other names, and other equations.
    """
    weights, heads, epsilon = Weights(given), config["num_attention_heads"], config["layer_norm_eps"]
    positions = np.arange(len(ids))
    bias = -slopes(heads)[:, None, None] * np.abs(positions - positions[:, None])
    x = weights["embeddings.word_embeddings.weight"][ids] + weights["embeddings.token_type_embeddings.weight"][types]
    x = weights.norm(x, "embeddings.LayerNorm", epsilon)
    for index in range(config["num_hidden_layers"]):
        name = f"encoder.layer.{index}"
        query, key, value = (weights.linear(x, f"{name}.attention.self.{part}") for part in ("query", "key", "value"))
        is_code = f"{name}.attention.self.layer_norm_q.weight" in weights.arrays
        if is_code:
            query = weights.norm(query, f"{name}.attention.self.layer_norm_q", epsilon)
            key = weights.norm(key, f"{name}.attention.self.layer_norm_k", epsilon)
        mixed = attend(*(split_heads(part, heads) for part in (query, key, value)), bias)
        mixed = weights.linear(mixed, f"{name}.attention.output.dense")
        y = weights.norm(x + mixed, f"{name}.attention.output.LayerNorm", epsilon)
        if is_code:
            x = weights.norm(x + y, f"{name}.layer_norm_1", epsilon)
            up, gate = np.split(weights.linear(x, f"{name}.mlp.up_gated_layer"), 2, axis=1)
            function = ACTIVATIONS[{"geglu": "gelu", "reglu": "relu"}[config["feed_forward_type"]]]
            y = weights.linear(up * function(gate), f"{name}.mlp.down_layer")
            x = weights.norm(x + y, f"{name}.layer_norm_2", epsilon)
            continue
        x = y
        if config["feed_forward_type"] == "original":
            y = ACTIVATIONS[config["hidden_act"]](weights.linear(x, f"{name}.intermediate.dense"))
            x = weights.norm(x + weights.linear(y, f"{name}.output.dense"), f"{name}.output.LayerNorm", epsilon)
            continue
        gate, up = np.split(weights.linear(x, f"{name}.mlp.gated_layers"), 2, axis=1)
        function = ACTIVATIONS[{"geglu": "gelu", "reglu": "relu"}[config["feed_forward_type"]]]
        y = weights.linear(function(gate) * up, f"{name}.mlp.wo")
        x = weights.norm(x + y, f"{name}.mlp.layernorm", epsilon)
    return x


def slopes(heads: int) -> Array:
    """Return the slopes of ALiBi: 2 ** (-8 / n), its square and so on. n is a power of two up to `heads`."""
    if math.log2(heads).is_integer():
        return (2.0 ** (-8 / heads)) ** np.arange(1, heads + 1)
    power = 2 ** math.floor(math.log2(heads))
    return np.concatenate([slopes(power), slopes(2 * power)[::2][: heads - power]])


def jina_v3(given: Mapping[str, Array], config: Mapping[str, object], ids: Array) -> Array:
    """Compute the base of Jina Embeddings v3 by the names of jinaai/xlm-roberta-flash-implementation."""
    weights, heads, epsilon = Weights(given), config["num_attention_heads"], config["layer_norm_eps"]
    width = config["hidden_size"] // heads
    frequencies = config["rotary_emb_base"] ** -(np.arange(0, width, 2) / width)
    x = weights["roberta.embeddings.word_embeddings.weight"][ids]
    x = weights.norm(x + weights["roberta.embeddings.token_type_embeddings.weight"][0], "roberta.emb_ln", epsilon)
    for index in range(config["num_hidden_layers"]):
        name = f"roberta.encoder.layers.{index}"
        stacked = np.split(weights.linear(x, f"{name}.mixer.Wqkv"), 3, axis=1)
        query, key, value = (split_heads(part, heads) for part in stacked)
        mixed = attend(rotate(query, frequencies), rotate(key, frequencies), value)
        x = weights.norm(x + weights.linear(mixed, f"{name}.mixer.out_proj"), f"{name}.norm1", epsilon)
        y = ACTIVATIONS[config["hidden_act"]](weights.linear(x, f"{name}.mlp.fc1"))
        x = weights.norm(x + weights.linear(y, f"{name}.mlp.fc2"), f"{name}.norm2", epsilon)
    return x
