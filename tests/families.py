"""Write checkpoints of every text family on sentence-transformers' page "Pretrained Models".

The layouts are the same as in the published repositories. Weights are random, from a fixed seed. Tokenizers are real if
the data folder exists, otherwise they are small tokenizers of the same kinds. `full` gives a model its true sizes.
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
# Rows of the word embeddings of published models.
MULTILINGUAL_MINILM_ROWS, XLM_ROBERTA_ROWS, LABSE_ROWS, T5_ROWS, SPECTER_ROWS = (
    250_037,
    250_002,
    501_153,
    32_128,
    31_090,
)
IDENTITY, TANH = "torch.nn.modules.linear.Identity", "torch.nn.modules.activation.Tanh"


@dataclass(frozen=True)
class Family:
    """A family of published models.

    Attributes:
        name: the name of one of its models.
        make: writes its checkpoint. It takes the directory, and whether the model has its true sizes.
        prompt: a typical prompt. None if the model is used without prompts.
    """

    name: str
    make: Callable[[Path, bool], Path]
    prompt: str | None = None


@dataclass(frozen=True)
class Layout:
    """The parts of a checkpoint beside its transformer.

    Attributes:
        max_seq_length: most tokens of a text.
        pooling: "mean" or "cls".
        dense: the settings of a Dense after the pooling. None for no Dense.
        normalize: whether a Normalize comes last.
        include_prompt: whether the prompt's tokens are pooled.
        similarity: the setting similarity_fn_name. None leaves it out.
        pickled: whether the weights have torch's own format instead of safetensors.
    """

    max_seq_length: int
    pooling: str = "mean"
    dense: dict[str, Any] | None = None
    normalize: bool = False
    include_prompt: bool = True
    similarity: str | None = None
    pickled: bool = False

    @property
    def modules(self) -> list[str]:
        """The names of the module classes, in order."""
        dense, normalize = ["Dense"] if self.dense else [], ["Normalize"] if self.normalize else []
        return ["Transformer", "Pooling", *dense, *normalize]


def bert(directory: Path, full: bool) -> Path:
    tokenizer = _uncased(BertTokenizerFast)
    config = BertConfig(vocab_size=len(tokenizer), **(MINILM if full else SMALL))
    return write_family(directory, BertModel(config), tokenizer, Layout(128, normalize=True))


def mpnet(directory: Path, full: bool) -> Path:
    return write_family(directory, *_mpnet(full), Layout(384, normalize=True))


def mpnet_unnormalised(directory: Path, full: bool) -> Path:
    return write_family(directory, *_mpnet(full), Layout(512))


def mpnet_cls_dot(directory: Path, full: bool) -> Path:
    return write_family(directory, *_mpnet(full), Layout(512, "cls", similarity="dot"))


def bert_dot(directory: Path, full: bool) -> Path:
    tokenizer = _uncased(BertTokenizerFast)
    config = BertConfig(vocab_size=len(tokenizer), **({} if full else SMALL))
    return write_family(directory, BertModel(config), tokenizer, Layout(512, similarity="dot"))


def distilbert_cls_dot(directory: Path, full: bool) -> Path:
    tokenizer = _uncased(DistilBertTokenizerFast)
    body = _distilbert(tokenizer, full)
    return write_family(directory, body, tokenizer, Layout(512, "cls", similarity="dot"))


def roberta(directory: Path, full: bool) -> Path:
    if TOKENIZERS.is_dir():
        folder = TOKENIZERS / "roberta-base"
        tokenizer = RobertaTokenizerFast(str(folder / "vocab.json"), str(folder / "merges.txt"))
    else:
        tokenizer = RobertaTokenizerFast(tokenizer_object=vocabularies.byte_level_bpe())
    shape = {"num_hidden_layers": 6, "type_vocab_size": 1, "layer_norm_eps": 1e-5} if full else SMALL
    config = RobertaConfig(vocab_size=len(tokenizer), max_position_embeddings=514, **shape)
    return write_family(directory, RobertaModel(config), tokenizer, Layout(512, normalize=True))


def multilingual_minilm(directory: Path, full: bool) -> Path:
    """Write a BERT with XLM-RoBERTa's tokenizer. The two have different padding ids, as in the published model."""
    tokenizer = unigram()
    rows = MULTILINGUAL_MINILM_ROWS if full else len(tokenizer)
    config = BertConfig(vocab_size=rows, pad_token_id=0, **(MINILM if full else SMALL))
    return write_family(directory, BertModel(config), tokenizer, Layout(128))


def multilingual_mpnet(directory: Path, full: bool) -> Path:
    tokenizer = unigram()
    config = XLMRobertaConfig(
        vocab_size=XLM_ROBERTA_ROWS if full else len(tokenizer),
        max_position_embeddings=514,
        type_vocab_size=1,
        **({"layer_norm_eps": 1e-5} if full else SMALL),
    )
    return write_family(directory, XLMRobertaModel(config), tokenizer, Layout(128))


def distiluse(directory: Path, full: bool) -> Path:
    tokenizer = _multilingual_cased(DistilBertTokenizerFast)
    body = _distilbert(tokenizer, full)
    dense = _dense(body, 512 if full else 24, True, TANH)
    return write_family(directory, body, tokenizer, Layout(128, dense=dense))


def albert(directory: Path, full: bool) -> Path:
    if TOKENIZERS.is_dir():
        tokenizer = AlbertTokenizerFast.from_pretrained(TOKENIZERS / "albert-base-v2")
    else:
        tokenizer = AlbertTokenizerFast(tokenizer_object=vocabularies.unigram(["<pad>", "<unk>", "[CLS]", "[SEP]"]))
    shape = {"hidden_size": 768, "num_hidden_layers": 6, "num_attention_heads": 12, "intermediate_size": 3072}
    config = AlbertConfig(vocab_size=len(tokenizer), embedding_size=128 if full else 16, **(shape if full else SMALL))
    return write_family(directory, AlbertModel(config), tokenizer, Layout(100))


def labse(directory: Path, full: bool) -> Path:
    """Write LaBSE. At its true size the word embeddings alone have 1.5 GB."""
    if TOKENIZERS.is_dir():
        vocabulary = TOKENIZERS / "smaller-labse-15lang/vocab.txt"
        tokenizer = BertTokenizerFast(str(vocabulary), do_lower_case=False, model_max_length=512)
    else:
        tokenizer = _multilingual_cased(BertTokenizerFast)
    config = BertConfig(vocab_size=LABSE_ROWS if full else len(tokenizer), **({} if full else SMALL))
    dense = _dense(config, config.hidden_size, True, TANH)
    return write_family(directory, BertModel(config), tokenizer, Layout(256, "cls", dense, normalize=True))


def clip_multilingual(directory: Path, full: bool) -> Path:
    tokenizer = _multilingual_cased(DistilBertTokenizerFast)
    body = _distilbert(tokenizer, full)
    dense = _dense(body, 512 if full else 24, False, IDENTITY)
    return write_family(directory, body, tokenizer, Layout(128, dense=dense))


def instructor(directory: Path, full: bool) -> Path:
    if TOKENIZERS.is_dir():
        tokenizer = T5TokenizerFast.from_pretrained(TOKENIZERS / "t5-small")
    else:
        tokenizer = T5TokenizerFast(tokenizer_object=vocabularies.unigram(["<pad>", "</s>", "<unk>"], "$A </s>"))
    base = {"d_model": 768, "d_ff": 3072, "num_layers": 12, "num_heads": 12}
    # As in some T5s, the width of all heads is not the model's width, and the number of heads does not divide it.
    small = {"d_model": 32, "d_ff": 64, "num_layers": 2, "num_heads": 3, "d_kv": 12}
    config = T5Config(vocab_size=T5_ROWS if full else len(tokenizer), **(base if full else small))
    body = T5EncoderModel(config)
    dense = _dense(body, 768 if full else 24, False, IDENTITY)
    layout = Layout(512, dense=dense, normalize=True, include_prompt=False, pickled=True)
    return write_family(directory, body, tokenizer, layout)


def specter(directory: Path, full: bool) -> Path:
    tokenizer = _uncased(BertTokenizerFast)
    config = BertConfig(vocab_size=SPECTER_ROWS if full else len(tokenizer), **({} if full else SMALL))
    return write_family(directory, BertModel(config), tokenizer, Layout(512, "cls", pickled=True))


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
    if TOKENIZERS.is_dir():  # MPNet's vocabulary is BERT's with a few more tokens
        return kind(str(TOKENIZERS / "all-mpnet-base-v2/vocab.txt"), do_lower_case=True, model_max_length=512)
    return kind(tokenizer_object=vocabularies.wordpiece(), do_lower_case=True, model_max_length=512)


def _multilingual_cased(kind: type) -> PreTrainedTokenizerFast:
    if TOKENIZERS.is_dir():
        vocabulary = TOKENIZERS / "bert-base-multilingual-cased/vocab.txt"
        return kind(str(vocabulary), do_lower_case=False, model_max_length=512)
    return kind(tokenizer_object=vocabularies.wordpiece(), do_lower_case=False, model_max_length=512)


def unigram() -> PreTrainedTokenizerFast:
    if TOKENIZERS.is_dir():
        file = TOKENIZERS / "xlmr-like-128k-derived/tokenizer.json"
        return XLMRobertaTokenizerFast(tokenizer_file=str(file), model_max_length=512)
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    return XLMRobertaTokenizerFast(tokenizer_object=vocabularies.unigram(special, "<s> $A </s>"), model_max_length=512)


def _dense(body: Any, outputs: int, bias: bool, activation: str) -> dict[str, Any]:
    inputs = getattr(body, "config", body).hidden_size
    return {"in_features": inputs, "out_features": outputs, "bias": bias, "activation_function": activation}


def write_family(directory: Path, body: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, layout: Layout) -> Path:
    """Write a checkpoint with the old names of module classes, as the published repositories have them."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in body.parameters():  # training leaves biases and scales that are not 0 and 1
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.05)
    body.save_pretrained(directory, safe_serialization=not layout.pickled)
    tokenizer.save_pretrained(directory)
    write_modules(directory, layout.modules)
    _write_pooling(directory / "1_Pooling/config.json", layout, body.config.hidden_size)
    if layout.dense is not None:
        _write_dense(directory / "2_Dense", layout.dense, pickled=layout.pickled)
    limits = {"max_seq_length": layout.max_seq_length, "do_lower_case": False}
    write_json(directory / "sentence_bert_config.json", limits)
    similarity = {} if layout.similarity is None else {"similarity_fn_name": layout.similarity}
    write_json(directory / "config_sentence_transformers.json", {"__version__": {}} | similarity)
    return directory


def _write_pooling(path: Path, layout: Layout, width: int) -> None:
    settings: dict[str, object] = {"word_embedding_dimension": width}
    for mode in ("cls_token", "mean_tokens", "max_tokens"):
        settings[f"pooling_mode_{mode}"] = mode.startswith(layout.pooling)
    if not layout.include_prompt:
        settings["include_prompt"] = False
    write_json(path, settings)


def _write_dense(directory: Path, settings: dict[str, Any], *, pickled: bool) -> None:
    write_json(directory / "config.json", settings)
    linear = torch.nn.Linear(settings["in_features"], settings["out_features"], bias=settings["bias"])
    state = {f"linear.{name}": tensor for name, tensor in linear.state_dict().items()}
    if pickled:
        torch.save(state, directory / "pytorch_model.bin")
    else:
        save_file(state, directory / "model.safetensors")


def seeded(make: Callable[[Path, bool], Path], directory: Path, *, full: bool = False) -> Path:
    """Write a checkpoint with `make`. Its weights are the same each time."""
    torch.manual_seed(0)
    return make(directory, full)


def unpickle(checkpoint: Path) -> None:
    """Convert weights from torch's own format to safetensors."""
    for path in checkpoint.rglob("pytorch_model.bin"):
        weights = {name: tensor.clone() for name, tensor in torch.load(path).items()}
        save_file(weights, path.with_name("model.safetensors"), {"format": "pt"})
        path.unlink()
