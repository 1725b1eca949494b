"""Write small random checkpoints of language models that give embeddings, in the layouts of published repositories.

The weights are random, from a fixed seed. The settings are those of the published models, with smaller sizes.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import save_file
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from tests.checkpoints import write_json, write_modules

QWEN_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
MERGES = [("t", "h"), ("th", "e"), ("e", "r"), ("i", "n")]
LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.,!?'-"
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
SIZES = {
    "hidden_size": 48,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}


@dataclass(frozen=True)
class Decoder:
    """A small checkpoint in the layout of a published model.

    Attributes:
        model: the beginning of its classes' names in transformers.
        config: the settings of config.json.
        tokenizer: the tokenizer.
        tokenizer_config: the content of tokenizer_config.json.
        pooling: the mode of the pooling.
        dense: the output sizes of its Dense modules.
        prompts: its prompts.
        max_seq_length: most tokens of a text.
        dtype: the number format of the weights.
        shards: number of files of weights.
        prefix: the beginning of the weights' names.
    """

    model: str
    config: dict[str, Any]
    tokenizer: Tokenizer
    tokenizer_config: dict[str, Any]
    pooling: str = "lasttoken"
    dense: tuple[int, ...] = ()
    prompts: dict[str, str] = field(default_factory=dict)
    max_seq_length: int = 280
    dtype: torch.dtype = torch.float32
    shards: int = 1
    prefix: str = ""


def byte_level_tokenizer(special: list[str], template: str) -> Tokenizer:
    """Make a byte-level BPE tokenizer like that of Qwen, with special tokens after the vocabulary."""
    words = [*sorted(pre_tokenizers.ByteLevel.alphabet()), *("".join(merge) for merge in MERGES)]
    tokenizer = Tokenizer(models.BPE({word: at for at, word in enumerate(words)}, MERGES))
    tokenizer.normalizer = normalizers.NFC()
    split = pre_tokenizers.Split(Regex(QWEN_WORDS), behavior="isolated")
    last = pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, last])
    tokenizer.decoder = decoders.ByteLevel()
    return _finished(tokenizer, special, template)


def sentencepiece_tokenizer(special: list[str], template: str) -> Tokenizer:
    """Make a BPE tokenizer over marked words with a fallback to bytes, like those of Llama 2 and Gemma."""
    words = [*special, *BYTES, "▁", *LETTERS, *("".join(merge) for merge in MERGES)]
    vocabulary = {word: at for at, word in enumerate(words)}
    tokenizer = Tokenizer(models.BPE(vocabulary, MERGES, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    return _finished(tokenizer, special, template)


def gemma_tokenizer() -> Tokenizer:
    tokenizer = sentencepiece_tokenizer(["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"], "<bos> $A <eos>")
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", behavior="merged_with_previous")
    return tokenizer


def llama_tokenizer(template: str = "<s> $A </s>") -> Tokenizer:
    tokenizer = sentencepiece_tokenizer(["<unk>", "<s>", "</s>"], template)
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace("▁", "first", split=False)
    return tokenizer


def old_llama_tokenizer(template: str = "<s> $A </s>") -> Tokenizer:
    """Make Llama's tokenizer as older versions of transformers saved it."""
    tokenizer = sentencepiece_tokenizer(["<unk>", "<s>", "</s>"], template)
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    return tokenizer


def qwen_tokenizer(template: str = "$A <|endoftext|>") -> Tokenizer:
    return byte_level_tokenizer(["<|endoftext|>", "<|im_start|>", "<|im_end|>"], template)


def llama3_tokenizer() -> Tokenizer:
    special = ["<|begin_of_text|>", "<|end_of_text|>", "<|mask|>", "<|eot_id|>"]
    return byte_level_tokenizer(special, "<|begin_of_text|> $A <|end_of_text|>")


def _finished(tokenizer: Tokenizer, special: list[str], template: str) -> Tokenizer:
    tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in special])
    ids = [(token, tokenizer.token_to_id(token)) for token in special if token in template.split()]
    tokenizer.post_processor = processors.TemplateProcessing(single=template, special_tokens=ids)
    return tokenizer


def _settings(kind: str, tokenizer: Tokenizer, **settings: Any) -> dict[str, Any]:
    """Return a tokenizer_config.json as transformers 4 writes it."""
    added = {
        str(at): {
            "content": token.content, "lstrip": False, "normalized": False, "rstrip": False, "single_word": False,
            "special": True,
        }
        for at, token in sorted(tokenizer.get_added_tokens_decoder().items())
    }  # fmt: skip
    return {"tokenizer_class": kind, "added_tokens_decoder": added, "clean_up_tokenization_spaces": False} | settings


_QWEN, _GEMMA, _LLAMA, _OLD_LLAMA, _LLAMA3 = (
    qwen_tokenizer(), gemma_tokenizer(), llama_tokenizer(), old_llama_tokenizer(), llama3_tokenizer(),
)  # fmt: skip
_OF_QWEN = _settings(
    "Qwen2Tokenizer",
    _QWEN,
    add_bos_token=False,
    add_prefix_space=False,
    bos_token=None,
    eos_token="<|im_end|>",
    pad_token="<|endoftext|>",
    errors="replace",
    model_max_length=131072,
    split_special_tokens=False,
    unk_token=None,
    chat_template="{% for message in messages %}{{ message.content }}{% endfor %}",
)
_OF_LLAMA = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "</s>", "unk_token": "<unk>", "padding_side": "left"}
_OF_LLAMA3 = _settings(
    "PreTrainedTokenizerFast",
    _LLAMA3,
    bos_token="<|begin_of_text|>",
    eos_token="<|end_of_text|>",
    pad_token="<|end_of_text|>",
    mask_token="<|mask|>",
    model_input_names=["input_ids", "attention_mask"],
    model_max_length=8192,
)
_QUERY = "Instruct: Given a web search query, retrieve relevant passages that answer the query\nQuery:"

# By the name of the published model.
DECODERS = {
    "Qwen3-Embedding-0.6B": Decoder(
        "Qwen3",
        {"head_dim": 16, "max_position_embeddings": 32768, "rope_theta": 1000000, "rms_norm_eps": 1e-6,
         "use_sliding_window": False, "sliding_window": None, "max_window_layers": 28, "tie_word_embeddings": True},
        _QWEN,
        _OF_QWEN | {"padding_side": "left"},
        prompts={"query": _QUERY, "document": ""},
        dtype=torch.bfloat16,
    ),
    "gte-Qwen2-1.5B-instruct": Decoder(
        "Qwen2",
        {"max_position_embeddings": 131072, "rope_theta": 1000000.0, "is_causal": False, "max_window_layers": 21,
         "sliding_window": 131072, "use_sliding_window": False},
        _QWEN,
        _OF_QWEN | {"eos_token": "<|endoftext|>"},
        prompts={"query": "Instruct: Retrieve relevant passages\nQuery: "},
        shards=3,
        prefix="model.",
    ),
    "Qwen2.5-0.5B": Decoder(
        "Qwen2",
        {"max_position_embeddings": 32768, "rope_theta": 1000000.0, "use_sliding_window": True, "sliding_window": 40,
         "max_window_layers": 1},
        _QWEN,
        _OF_QWEN,
        pooling="mean",
    ),
    "e5-mistral-7b-instruct": Decoder(
        "Mistral",
        {"max_position_embeddings": 32768, "rope_theta": 10000.0, "sliding_window": 300, "rms_norm_eps": 1e-5},
        _OLD_LLAMA,
        _settings("LlamaTokenizer", _OLD_LLAMA, add_bos_token=True, add_eos_token=True, legacy=True,
                  model_max_length=1000000000000000019884624838656, **_OF_LLAMA),
        prompts={"web_search_query": "Instruct: Given a web search query, retrieve passages\nQuery: "},
        dtype=torch.float16,
        shards=2,
    ),
    "llama-2-embedding": Decoder(
        "Llama",
        {"max_position_embeddings": 4096, "rms_norm_eps": 1e-5, "attention_bias": False, "mlp_bias": False},
        _LLAMA,
        _settings("LlamaTokenizer", _LLAMA, legacy=False, model_max_length=4096, **_OF_LLAMA),
        pooling="weightedmean",
    ),
    "llama-3.2-1b-embedding": Decoder(
        "Llama",
        {"max_position_embeddings": 131072, "rms_norm_eps": 1e-5, "rope_theta": 500000.0, "head_dim": 16,
         "rope_scaling": {"factor": 32.0, "high_freq_factor": 4.0, "low_freq_factor": 1.0,
                          "original_max_position_embeddings": 8192, "rope_type": "llama3"}},
        _LLAMA3,
        _OF_LLAMA3,
        pooling="mean",
        dtype=torch.bfloat16,
        prefix="model.",
    ),
    "EuroBERT-210m": Decoder(
        "EuroBert",
        {"max_position_embeddings": 8192, "rms_norm_eps": 1e-5, "rope_theta": 250000, "num_key_value_heads": 4,
         "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 1, "mask_token_id": 2},
        _LLAMA3,
        _OF_LLAMA3,
        pooling="mean",
    ),
    "embeddinggemma-300m": Decoder(
        "Gemma3Text",
        {"head_dim": 16, "num_key_value_heads": 1, "max_position_embeddings": 2048, "sliding_window": 512,
         "use_bidirectional_attention": True, "query_pre_attn_scalar": 256, "rope_theta": 1000000.0,
         "rope_local_base_freq": 10000.0, "num_hidden_layers": 4, "rms_norm_eps": 1e-6,
         "layer_types": [*["sliding_attention"] * 3, "full_attention"]},
        _GEMMA,
        _settings("GemmaTokenizer", _GEMMA, add_bos_token=True, add_eos_token=True, bos_token="<bos>",
                  eos_token="<eos>", pad_token="<pad>", unk_token="<unk>", mask_token="<mask>", padding_side="right",
                  model_max_length=2048),
        pooling="mean",
        dense=(96, 48),
        prompts={"query": "task: search result | query: ", "document": "title: none | text: "},
    ),
}  # fmt: skip
# The models that transformers 4.57 lacks.
OF_VERSION_5 = ("EuroBERT-210m",)


def write_decoder(directory: Path, decoder: Decoder, **changes: Any) -> Path:
    """Write a checkpoint. `changes` change its config.json."""
    config_class = getattr(transformers, f"{decoder.model}Config")
    rows = decoder.tokenizer.get_vocab_size(with_added_tokens=True)
    torch.manual_seed(0)
    model = getattr(transformers, f"{decoder.model}Model")(
        config_class(**{"vocab_size": rows, "pad_token_id": 0} | SIZES | decoder.config | changes)
    )
    with torch.no_grad():
        for parameter in model.parameters():  # training leaves scales that are not 1
            parameter.add_(torch.randn(parameter.shape), alpha=0.1)
    directory.mkdir(parents=True)
    _write_config(directory, model, decoder, rows, changes)
    _write_weights(directory, model, decoder)
    decoder.tokenizer.save(str(directory / "tokenizer.json"))
    write_json(directory / "tokenizer_config.json", decoder.tokenizer_config)
    _write_modules(directory, decoder)
    return directory


def _write_config(
    directory: Path, model: transformers.PreTrainedModel, decoder: Decoder, rows: int, changes: dict[str, Any]
) -> None:
    """Write config.json with the names of transformers 4, as the published models have it."""
    own = {
        "model_type": model.config.model_type,
        "architectures": [f"{decoder.model}Model"],
        "torch_dtype": str(decoder.dtype).removeprefix("torch."),
        "vocab_size": rows,
        "transformers_version": "4.51.2",
    }
    write_json(directory / "config.json", {"pad_token_id": 0} | own | SIZES | decoder.config | changes)


def _write_weights(directory: Path, model: transformers.PreTrainedModel, decoder: Decoder) -> None:
    state = {
        f"{decoder.prefix}{name}": tensor.to(decoder.dtype).contiguous() for name, tensor in model.state_dict().items()
    }
    if decoder.shards == 1:
        save_file(state, directory / "model.safetensors", {"format": "pt"})
        return
    places: dict[str, str] = {}
    for shard in range(decoder.shards):
        file = f"model-{shard + 1:05d}-of-{decoder.shards:05d}.safetensors"
        part = {name: tensor for at, (name, tensor) in enumerate(state.items()) if at % decoder.shards == shard}
        save_file(part, directory / file, {"format": "pt"})
        places |= dict.fromkeys(part, file)
    size = sum(tensor.nbytes for tensor in state.values())
    write_json(directory / "model.safetensors.index.json", {"metadata": {"total_size": size}, "weight_map": places})


def _write_modules(directory: Path, decoder: Decoder) -> None:
    kinds = ["Transformer", "Pooling", *["Dense"] * len(decoder.dense), "Normalize"]
    write_modules(directory, kinds)
    width = (SIZES | decoder.config)["hidden_size"]
    pooling = {"word_embedding_dimension": width, "include_prompt": True, "pooling_mode_mean_tokens": False}
    name = {"lasttoken": "lasttoken", "mean": "mean_tokens", "weightedmean": "weightedmean_tokens"}[decoder.pooling]
    write_json(directory / "1_Pooling/config.json", pooling | {f"pooling_mode_{name}": True})
    for at, size in enumerate(decoder.dense):
        folder = directory / f"{at + 2}_Dense"
        settings = {"in_features": width, "out_features": size, "bias": False}
        write_json(folder / "config.json", settings | {"activation_function": "torch.nn.modules.linear.Identity"})
        weight = torch.nn.Linear(width, size, bias=False).weight.detach()
        save_file({"linear.weight": weight}, folder / "model.safetensors")
        width = size
    write_json(directory / "sentence_bert_config.json", {"max_seq_length": decoder.max_seq_length})
    declared = {"prompts": decoder.prompts, "default_prompt_name": None, "similarity_fn_name": "cosine"}
    write_json(directory / "config_sentence_transformers.json", declared)
