"""Checkpoints of every text family on the "Pretrained Models" page, in the layouts of their repositories.

Weights are random, from a fixed seed. Tokenizers are real if the data folder is here, otherwise small ones of the same
kinds. `full` gives the true sizes.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from transformers import (
    AlbertConfig,
    AlbertModel,
    AlbertTokenizerFast,
    BertConfig,
    BertModel,
    BertTokenizerFast,
    DistilBertConfig,
    DistilBertModel,
    DistilBertTokenizerFast,
    MPNetConfig,
    MPNetModel,
    MPNetTokenizerFast,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    RobertaConfig,
    RobertaModel,
    RobertaTokenizerFast,
    T5Config,
    T5EncoderModel,
    T5TokenizerFast,
    XLMRobertaConfig,
    XLMRobertaModel,
    XLMRobertaTokenizerFast,
)

from benchmarks.quality import DATA
from tests import vocabularies
from tests.checkpoints import SMALL, write_json, write_modules

TOKENIZERS = DATA / "tokenizers"
MINILM = {"hidden_size": 384, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 1536}
IDENTITY, TANH = "torch.nn.modules.linear.Identity", "torch.nn.modules.activation.Tanh"


@dataclass(frozen=True)
class Family:
    """A row of the page: a model that stands for it, how to make it, and a prompt if the model is used with one."""

    name: str
    make: Callable[[Path, bool], Path]
    prompt: str | None = None


def bert(directory: Path, full: bool) -> Path:
    tokenizer = _uncased(BertTokenizerFast)
    config = BertConfig(vocab_size=len(tokenizer), **(MINILM if full else SMALL))
    return _write(directory, BertModel(config), tokenizer, 128, "mean", normalize=True)


def mpnet(directory: Path, full: bool) -> Path:
    return _write(directory, *_mpnet(full), 384, "mean", normalize=True)


def mpnet_unnormalised(directory: Path, full: bool) -> Path:
    return _write(directory, *_mpnet(full), 512, "mean")


def mpnet_cls_dot(directory: Path, full: bool) -> Path:
    return _write(directory, *_mpnet(full), 512, "cls", config={"similarity_fn_name": "dot"})


def bert_dot(directory: Path, full: bool) -> Path:
    tokenizer = _uncased(BertTokenizerFast)
    config = BertConfig(vocab_size=len(tokenizer), **({} if full else SMALL))
    return _write(directory, BertModel(config), tokenizer, 512, "mean", config={"similarity_fn_name": "dot"})


def distilbert_cls_dot(directory: Path, full: bool) -> Path:
    tokenizer = _uncased(DistilBertTokenizerFast)
    body = _distilbert(tokenizer, full)
    return _write(directory, body, tokenizer, 512, "cls", config={"similarity_fn_name": "dot"})


def roberta(directory: Path, full: bool) -> Path:
    if TOKENIZERS.is_dir():
        folder = TOKENIZERS / "roberta-base"
        tokenizer = RobertaTokenizerFast(str(folder / "vocab.json"), str(folder / "merges.txt"))
    else:
        tokenizer = RobertaTokenizerFast(tokenizer_object=vocabularies.byte_level_bpe())
    shape = {"num_hidden_layers": 6, "type_vocab_size": 1, "layer_norm_eps": 1e-5} if full else SMALL
    config = RobertaConfig(vocab_size=len(tokenizer), max_position_embeddings=514, **shape)
    return _write(directory, RobertaModel(config), tokenizer, 512, "mean", normalize=True)


def multilingual_minilm(directory: Path, full: bool) -> Path:
    """A BERT with XLM-R's tokenizer. The two have different padding ids, as in the original."""
    tokenizer = _unigram()
    size = 250_037 if full else len(tokenizer)
    config = BertConfig(vocab_size=size, pad_token_id=0, **(MINILM if full else SMALL))
    return _write(directory, BertModel(config), tokenizer, 128, "mean")


def multilingual_mpnet(directory: Path, full: bool) -> Path:
    tokenizer = _unigram()
    config = XLMRobertaConfig(
        vocab_size=250_002 if full else len(tokenizer),
        max_position_embeddings=514,
        type_vocab_size=1,
        **({"layer_norm_eps": 1e-5} if full else SMALL),
    )
    return _write(directory, XLMRobertaModel(config), tokenizer, 128, "mean")


def distiluse(directory: Path, full: bool) -> Path:
    tokenizer = _multilingual_cased(DistilBertTokenizerFast)
    body = _distilbert(tokenizer, full)
    return _write(directory, body, tokenizer, 128, "mean", dense=_dense(body, 512 if full else 24, True, TANH))


def albert(directory: Path, full: bool) -> Path:
    if TOKENIZERS.is_dir():
        tokenizer = AlbertTokenizerFast.from_pretrained(TOKENIZERS / "albert-base-v2")
    else:
        tokenizer = AlbertTokenizerFast(tokenizer_object=vocabularies.unigram(["<pad>", "<unk>", "[CLS]", "[SEP]"]))
    shape = {"hidden_size": 768, "num_hidden_layers": 6, "num_attention_heads": 12, "intermediate_size": 3072}
    config = AlbertConfig(vocab_size=len(tokenizer), embedding_size=128 if full else 16, **(shape if full else SMALL))
    return _write(directory, AlbertModel(config), tokenizer, 100, "mean")


def labse(directory: Path, full: bool) -> Path:
    """Its table of embeddings alone has 1.5 GB."""
    if TOKENIZERS.is_dir():
        vocabulary = TOKENIZERS / "smaller-labse-15lang/vocab.txt"
        tokenizer = BertTokenizerFast(str(vocabulary), do_lower_case=False, model_max_length=512)
    else:
        tokenizer = _multilingual_cased(BertTokenizerFast)
    config = BertConfig(vocab_size=501_153 if full else len(tokenizer), **({} if full else SMALL))
    dense = _dense(config, config.hidden_size, True, TANH)
    return _write(directory, BertModel(config), tokenizer, 256, "cls", dense=dense, normalize=True)


def clip_multilingual(directory: Path, full: bool) -> Path:
    tokenizer = _multilingual_cased(DistilBertTokenizerFast)
    body = _distilbert(tokenizer, full)
    return _write(directory, body, tokenizer, 128, "mean", dense=_dense(body, 512 if full else 24, False, IDENTITY))


def instructor(directory: Path, full: bool) -> Path:
    if TOKENIZERS.is_dir():
        tokenizer = T5TokenizerFast.from_pretrained(TOKENIZERS / "t5-small")
    else:
        tokenizer = T5TokenizerFast(tokenizer_object=vocabularies.unigram(["<pad>", "</s>", "<unk>"], "$A </s>"))
    base = {"d_model": 768, "d_ff": 3072, "num_layers": 12, "num_heads": 12}
    # As in some T5s, the heads together are narrower than the model, and their number does not divide its width.
    small = {"d_model": 32, "d_ff": 64, "num_layers": 2, "num_heads": 3, "d_kv": 12}
    config = T5Config(vocab_size=32_128 if full else len(tokenizer), **(base if full else small))
    body = T5EncoderModel(config)
    dense = _dense(body, 768 if full else 24, False, IDENTITY)
    return _write(
        directory, body, tokenizer, 512, "mean", dense=dense, normalize=True, include_prompt=False, pickled=True
    )


def specter(directory: Path, full: bool) -> Path:
    tokenizer = _uncased(BertTokenizerFast)
    config = BertConfig(vocab_size=31_090 if full else len(tokenizer), **({} if full else SMALL))
    return _write(directory, BertModel(config), tokenizer, 512, "cls", pickled=True)


FAMILIES = [
    Family("all-MiniLM-L12-v2", bert),
    Family("all-mpnet-base-v2", mpnet),
    Family("paraphrase-mpnet-base-v2", mpnet_unnormalised),
    Family("multi-qa-mpnet-base-dot-v1", mpnet_cls_dot),
    Family("msmarco-bert-base-dot-v5", bert_dot),
    Family("msmarco-distilbert-base-tas-b", distilbert_cls_dot),
    Family("all-distilroberta-v1", roberta),
    Family("paraphrase-multilingual-MiniLM-L12-v2", multilingual_minilm),
    Family("paraphrase-multilingual-mpnet-base-v2", multilingual_mpnet),
    Family("distiluse-base-multilingual-cased-v2", distiluse),
    Family("paraphrase-albert-small-v2", albert),
    Family("LaBSE", labse),
    Family("clip-ViT-B-32-multilingual-v1", clip_multilingual),
    Family("instructor-base", instructor, "Represent the Science title: "),
    Family("allenai-specter", specter),
]


def _mpnet(full: bool) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    if TOKENIZERS.is_dir():
        tokenizer = MPNetTokenizerFast.from_pretrained(TOKENIZERS / "all-mpnet-base-v2")
    else:
        special = ["<s>", "<pad>", "</s>", "[UNK]", "<mask>"]
        tokenizer = MPNetTokenizerFast(tokenizer_object=vocabularies.wordpiece(special, "<s> $A </s>"))
    shape = {"layer_norm_eps": 1e-5} if full else SMALL
    return MPNetModel(MPNetConfig(vocab_size=len(tokenizer), max_position_embeddings=514, **shape)), tokenizer


def _distilbert(tokenizer: PreTrainedTokenizerFast, full: bool) -> PreTrainedModel:
    shape = {} if full else {"dim": 32, "hidden_dim": 64, "n_layers": 2, "n_heads": 4}
    return DistilBertModel(DistilBertConfig(vocab_size=len(tokenizer), **shape))


def _uncased(kind: type) -> PreTrainedTokenizerFast:
    if TOKENIZERS.is_dir():  # MPNet's vocabulary is BERT's, with a few tokens of its own around it
        return kind(str(TOKENIZERS / "all-mpnet-base-v2/vocab.txt"), do_lower_case=True, model_max_length=512)
    return kind(tokenizer_object=vocabularies.wordpiece(), do_lower_case=True, model_max_length=512)


def _multilingual_cased(kind: type) -> PreTrainedTokenizerFast:
    if TOKENIZERS.is_dir():
        vocabulary = TOKENIZERS / "bert-base-multilingual-cased/vocab.txt"
        return kind(str(vocabulary), do_lower_case=False, model_max_length=512)
    return kind(tokenizer_object=vocabularies.wordpiece(), do_lower_case=False, model_max_length=512)


def _unigram() -> PreTrainedTokenizerFast:
    if TOKENIZERS.is_dir():
        file = TOKENIZERS / "xlmr-like-128k-derived/tokenizer.json"
        return XLMRobertaTokenizerFast(tokenizer_file=str(file), model_max_length=512)
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    return XLMRobertaTokenizerFast(tokenizer_object=vocabularies.unigram(special, "<s> $A </s>"), model_max_length=512)


def _dense(body: Any, outputs: int, bias: bool, activation: str) -> dict[str, Any]:
    inputs = getattr(body, "config", body).hidden_size
    return {"in_features": inputs, "out_features": outputs, "bias": bias, "activation_function": activation}


def _write(
    directory: Path,
    body: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    max_seq_length: int,
    pooling: str,
    *,
    dense: dict[str, Any] | None = None,
    normalize: bool = False,
    include_prompt: bool = True,
    config: dict[str, Any] | None = None,
    pickled: bool = False,
) -> Path:
    """Write a checkpoint with the modules' old names, as the page's repositories have it."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in body.parameters():  # biases and scales as training leaves them, not 0 and 1
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.05)
    body.save_pretrained(directory, safe_serialization=not pickled)
    tokenizer.save_pretrained(directory)
    kinds = ["Transformer", "Pooling", *(["Dense"] if dense else []), *(["Normalize"] if normalize else [])]
    write_modules(directory, kinds)
    settings: dict[str, object] = {"word_embedding_dimension": body.config.hidden_size}
    settings |= {
        f"pooling_mode_{mode}": mode.startswith(pooling) for mode in ("cls_token", "mean_tokens", "max_tokens")
    }
    write_json(directory / "1_Pooling/config.json", settings | ({} if include_prompt else {"include_prompt": False}))
    if dense:
        write_json(directory / "2_Dense/config.json", dense)
        linear = torch.nn.Linear(dense["in_features"], dense["out_features"], bias=dense["bias"])
        state = {f"linear.{name}": tensor for name, tensor in linear.state_dict().items()}
        if pickled:
            torch.save(state, directory / "2_Dense/pytorch_model.bin")
        else:
            save_file(state, directory / "2_Dense/model.safetensors")
    write_json(directory / "sentence_bert_config.json", {"max_seq_length": max_seq_length, "do_lower_case": False})
    write_json(directory / "config_sentence_transformers.json", {"__version__": {}} | (config or {}))
    return directory


def seeded(make: Callable[[Path, bool], Path], directory: Path, *, full: bool = False) -> Path:
    """Make a checkpoint that is the same each time."""
    torch.manual_seed(0)
    return make(directory, full)


def unpickle(checkpoint: Path) -> None:
    """Convert weights from torch's own format to safetensors, which can be read without torch."""
    for path in checkpoint.rglob("pytorch_model.bin"):
        weights = {name: tensor.clone() for name, tensor in torch.load(path).items()}
        save_file(weights, path.with_name("model.safetensors"), {"format": "pt"})
        path.unlink()
