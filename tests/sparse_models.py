"""Small random sparse models, in the layouts that sentence-transformers saves and that the Hub has."""

import json
from pathlib import Path

import torch
import transformers as t
from sentence_transformers import SparseEncoder
from sentence_transformers.base.modules import Router, Transformer
from sentence_transformers.sparse_encoder.modules import SparseStaticEmbedding, SpladePooling

from tests import vocabularies

LIMIT = 60
ROBERTA_SPECIAL = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
MPNET_SPECIAL = ["<s>", "<pad>", "</s>", "[UNK]", "<mask>"]
_SIZES = {"num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48, "hidden_size": 32}
_OLD_TYPES = "sentence_transformers.sparse_encoder.models."


def wordpiece(
    kind: type = t.BertTokenizer, special: list[str] = vocabularies.BERT_SPECIAL
) -> t.PreTrainedTokenizerBase:
    """Return a WordPiece tokenizer of transformers."""
    template = f"{special[0]} $A"
    return kind(vocab=vocabularies.wordpiece(special, template).get_vocab(), model_max_length=LIMIT)


def _byte_level_bpe() -> t.PreTrainedTokenizerBase:
    model = json.loads(vocabularies.byte_level_bpe().to_str())["model"]
    merges = [tuple(merge) for merge in model["merges"]]
    return t.RobertaTokenizer(vocab=model["vocab"], merges=merges, model_max_length=LIMIT)


def unigram(kind: type = t.XLMRobertaTokenizer, special: list[str] = ROBERTA_SPECIAL) -> t.PreTrainedTokenizerBase:
    """Return a Unigram tokenizer of transformers."""
    model = json.loads(vocabularies.unigram(special, f"{special[0]} $A").to_str())["model"]
    return kind(vocab=[tuple(piece) for piece in model["vocab"]], model_max_length=LIMIT)


def _modernbert_tokenizer() -> t.PreTrainedTokenizerBase:
    special = {"cls_token": "[CLS]", "sep_token": "[SEP]", "pad_token": "[PAD]", "unk_token": "[UNK]"}
    return t.PreTrainedTokenizerFast(
        tokenizer_object=vocabularies.wordpiece(), model_max_length=LIMIT, mask_token="[MASK]", **special
    )


# By model_type: the class of the model, its configuration, and its tokenizer.
FAMILIES = {
    "bert": (t.BertForMaskedLM, t.BertConfig, {"max_position_embeddings": LIMIT + 4}, wordpiece),
    "distilbert": (
        t.DistilBertForMaskedLM,
        t.DistilBertConfig,
        {"dim": 32, "hidden_dim": 48, "n_layers": 2, "n_heads": 4},
        lambda: wordpiece(t.DistilBertTokenizer),
    ),
    "roberta": (t.RobertaForMaskedLM, t.RobertaConfig, {"max_position_embeddings": LIMIT + 4}, _byte_level_bpe),
    "xlm-roberta": (t.XLMRobertaForMaskedLM, t.XLMRobertaConfig, {"max_position_embeddings": LIMIT + 4}, unigram),
    "mpnet": (
        t.MPNetForMaskedLM,
        t.MPNetConfig,
        {"max_position_embeddings": LIMIT + 4},
        lambda: wordpiece(t.MPNetTokenizer, MPNET_SPECIAL),
    ),
    "modernbert": (
        t.ModernBertForMaskedLM,
        t.ModernBertConfig,
        {"pad_token_id": 0, "local_attention": 8, "global_attn_every_n_layers": 2, "num_hidden_layers": 3},
        _modernbert_tokenizer,
    ),
    "electra": (
        t.ElectraForMaskedLM,
        t.ElectraConfig,
        {"embedding_size": 16, "max_position_embeddings": LIMIT + 4},
        lambda: wordpiece(t.ElectraTokenizer),
    ),
    "albert": (
        t.AlbertForMaskedLM,
        t.AlbertConfig,
        {"embedding_size": 16, "max_position_embeddings": LIMIT + 4},
        lambda: unigram(t.AlbertTokenizer, ["<pad>", "<unk>", "[CLS]", "[SEP]", "[MASK]"]),
    ),
}


def write_language_model(directory: Path, family: str = "bert", **settings: object) -> Path:
    """Write a masked language model without modules.json. `settings` replace settings of its config.json.

    The weights are large enough that half of the words have a weight in a text.
    """
    torch.manual_seed(7)
    model_class, config_class, sizes, make_tokenizer = FAMILIES[family]
    tokenizer = make_tokenizer()
    config = config_class(vocab_size=len(tokenizer), **_SIZES | sizes | settings)
    model = model_class(config).eval()
    for name, parameter in model.named_parameters():
        spread = 0.3 if name.endswith("bias") else 0.15
        noise = torch.randn_like(parameter) * spread
        parameter.data = 1 + noise if "norm" in name.lower() and name.endswith("weight") else noise
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory


def splade_modules(directory: Path, pooling: SpladePooling | None = None, limit: int | None = None) -> list:
    """Return sentence-transformers' modules of the language model in `directory`."""
    transformer = Transformer(str(directory), transformer_task="fill-mask", max_seq_length=limit)
    return [transformer, pooling or SpladePooling()]


def write_splade(
    directory: Path, family: str = "bert", pooling: SpladePooling | None = None, **options: object
) -> Path:
    """Write a SPLADE as sentence-transformers saves it. `options` are those of SparseEncoder."""
    bare = write_language_model(directory.parent / f"{directory.name}-bare", family)
    SparseEncoder(modules=splade_modules(bare, pooling), device="cpu", **options).save(str(directory))
    return directory


def with_old_layout(directory: Path) -> Path:
    """Change a SPLADE to the layout of version 5, which has the module MLMTransformer."""
    path = directory / "modules.json"
    kinds = ("MLMTransformer", "SpladePooling")
    modules = [
        module | {"type": _OLD_TYPES + kind} for module, kind in zip(json.loads(path.read_text()), kinds, strict=True)
    ]
    path.write_text(json.dumps(modules))
    (directory / "sentence_bert_config.json").write_text('{"max_seq_length": 40, "do_lower_case": false}')
    pooling = {"pooling_strategy": "max", "activation_function": "relu", "word_embedding_dimension": None}
    (directory / "1_SpladePooling/config.json").write_text(json.dumps(pooling))
    return directory


def static_embedding(tokenizer: t.PreTrainedTokenizerBase | None = None) -> SparseStaticEmbedding:
    """Return static weights, some of which are 0 and some of which are negative."""
    tokenizer = tokenizer or wordpiece()
    weights = torch.randn(len(tokenizer), generator=torch.Generator().manual_seed(3))
    weights[::5] = 0
    return SparseStaticEmbedding(tokenizer, weight=weights)


def write_router(directory: Path, **options: object) -> Path:
    """Write a SPLADE with static weights for queries. `options` are those of SparseEncoder."""
    bare = write_language_model(directory.parent / f"{directory.name}-bare", "distilbert")
    static = static_embedding(wordpiece(t.DistilBertTokenizer))
    pooling = SpladePooling(activation_function="log1p_relu")
    router = Router.for_query_document([static], splade_modules(bare, pooling))
    SparseEncoder(modules=[router], device="cpu", **options).save(str(directory))
    return directory


def write_bge_m3(directory: Path) -> Path:
    """Write an embedder with the sparse head of BGE-M3 beside it."""
    write_language_model(directory, "xlm-roberta")
    t.XLMRobertaModel.from_pretrained(directory).save_pretrained(directory)
    modules = [
        {"idx": index, "name": str(index), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for index, (path, kind) in enumerate([("", "Transformer"), ("1_Pooling", "Pooling"), ("2", "Normalize")])
    ]
    (directory / "modules.json").write_text(json.dumps(modules))
    (directory / "1_Pooling").mkdir()
    (directory / "1_Pooling/config.json").write_text('{"pooling_mode": "cls", "embedding_dimension": 32}')
    generator = torch.Generator().manual_seed(5)
    head = {"weight": torch.randn(1, 32, generator=generator), "bias": torch.randn(1, generator=generator)}
    torch.save(head, directory / "sparse_linear.pt")
    return directory
