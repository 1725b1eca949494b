"""Exported cross-encoders give the scores of sentence-transformers, for every family and every layout that it saves."""

import json
import shutil
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers as t
from embedder_export.checkpoint.read import read_checkpoint
from embedder_export.errors import CheckpointError
from embedder_export.families.table import FAMILIES as EXPORTED
from embedder_export.pipeline import ExportSettings, export
from sentence_transformers import CrossEncoder
from sentence_transformers.base.modules import Dense, Transformer
from sentence_transformers.sentence_transformer.modules import Pooling
from tokenizers import Tokenizer
from tokenizers.processors import TemplateProcessing

import embedder
from embedder import compat
from embedder.artifact.locate import open_artifact
from tests import decoders, vocabularies
from tests.checkpoints import edit_json

LIMIT = 63
SIZES = {"num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64, "hidden_size": 32}
LONG, LONGER = "the cat. " * 20, "a dog " * 60
TEXTS = ["", " ", "Where is the cat?", "the cat is here, the dog is there", "[SEP] </s>", "日本", LONG]
PAIRS = [(a, b) for a in TEXTS for b in TEXTS] + [(LONGER, LONG), (LONG, LONGER)]
QUERY = "Where is the cat?"
# Some are far beyond the limit, and some are equal.
DOCUMENTS = [f"{index % 97} passages " + "the cat " * (index % 11) ** 2 for index in range(100)]


def wordpiece(kind: type, special: list[str] = vocabularies.BERT_SPECIAL) -> t.PreTrainedTokenizerBase:
    template = f"{special[0]} $A"
    return kind(vocab=vocabularies.wordpiece(special, template).get_vocab(), model_max_length=LIMIT)


def byte_level_bpe() -> t.PreTrainedTokenizerBase:
    model = json.loads(vocabularies.byte_level_bpe().to_str())["model"]
    merges = [tuple(merge) for merge in model["merges"]]
    return t.RobertaTokenizer(vocab=model["vocab"], merges=merges, model_max_length=LIMIT)


def unigram(kind: type, special: list[str]) -> t.PreTrainedTokenizerBase:
    model = json.loads(vocabularies.unigram(special, f"{special[0]} $A").to_str())["model"]
    return kind(vocab=[tuple(piece) for piece in model["vocab"]], model_max_length=LIMIT)


def modernbert_tokenizer() -> t.PreTrainedTokenizerBase:
    special = {"cls_token": "[CLS]", "sep_token": "[SEP]", "pad_token": "[PAD]", "unk_token": "[UNK]"}
    tokenizer = vocabularies.wordpiece()
    pair = "[CLS]:0 $A:0 [SEP]:0 $B:0 [SEP]:0"
    ids = [(token, tokenizer.token_to_id(token)) for token in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = TemplateProcessing(single="[CLS] $A [SEP]", pair=pair, special_tokens=ids)
    return t.PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=LIMIT, **special)


def decoder_tokenizer(tokenizer: Tokenizer, begin: str, end: str, padding: str) -> t.PreTrainedTokenizerBase:
    """Return a tokenizer that pads on the left, with these tokens around a pair. It may end in the padding token."""
    special = [(token, tokenizer.token_to_id(token)) for token in (begin, end) if token]
    single, pair = (" ".join(f"{begin} {text} {end}".split()) for text in ("$A", f"$A {end} $B"))
    tokenizer.post_processor = TemplateProcessing(single=single, pair=pair, special_tokens=special)
    names = {"pad_token": padding} | ({"bos_token": begin} if begin else {}) | ({"eos_token": end} if end else {})
    return t.PreTrainedTokenizerFast(tokenizer_object=tokenizer, padding_side="left", model_max_length=LIMIT, **names)


def qwen_tokenizer() -> t.PreTrainedTokenizerBase:
    return decoder_tokenizer(decoders.qwen_tokenizer(), "", "", "<|endoftext|>")


def llama_tokenizer() -> t.PreTrainedTokenizerBase:
    return decoder_tokenizer(decoders.llama_tokenizer(), "<s>", "</s>", "</s>")


def gemma_tokenizer() -> t.PreTrainedTokenizerBase:
    return decoder_tokenizer(decoders.gemma_tokenizer(), "<bos>", "<eos>", "<pad>")


ROBERTA_SPECIAL = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
# qwen_tokenizer has its first special token here.
QWEN_PADDING = 260
DECODER = SIZES | {"num_key_value_heads": 2, "head_dim": 16, "pad_token_id": 0}
EUROBERT = SIZES | {"num_key_value_heads": 4, "pad_token_id": 0}
DISTILBERT_SIZES = {"dim": 32, "hidden_dim": 64, "n_layers": 2, "n_heads": 4}
# The class, the class of its settings, the settings, and the tokenizer of each family.
FAMILIES: dict[str, tuple[type, type, dict[str, object], Callable[[], t.PreTrainedTokenizerBase]]] = {
    "bert": (t.BertForSequenceClassification, t.BertConfig, SIZES, lambda: wordpiece(t.BertTokenizer)),
    "distilbert": (
        t.DistilBertForSequenceClassification,
        t.DistilBertConfig,
        DISTILBERT_SIZES,
        lambda: wordpiece(t.DistilBertTokenizer),
    ),
    "electra": (
        t.ElectraForSequenceClassification,
        t.ElectraConfig,
        SIZES | {"embedding_size": 16},
        lambda: wordpiece(t.BertTokenizer),
    ),
    "mpnet": (
        t.MPNetForSequenceClassification,
        t.MPNetConfig,
        SIZES,
        lambda: wordpiece(t.MPNetTokenizer, ["<s>", "<pad>", "</s>", "[UNK]", "<mask>"]),
    ),
    "roberta": (t.RobertaForSequenceClassification, t.RobertaConfig, SIZES | {"type_vocab_size": 1}, byte_level_bpe),
    "xlm-roberta": (
        t.XLMRobertaForSequenceClassification,
        t.XLMRobertaConfig,
        SIZES | {"type_vocab_size": 1},
        lambda: unigram(t.XLMRobertaTokenizer, ROBERTA_SPECIAL),
    ),
    "modernbert": (
        t.ModernBertForSequenceClassification,
        t.ModernBertConfig,
        SIZES | {"local_attention": 8, "num_hidden_layers": 3, "pad_token_id": 0},
        modernbert_tokenizer,
    ),
    "modernbert-mean": (
        t.ModernBertForSequenceClassification,
        t.ModernBertConfig,
        SIZES | {"classifier_pooling": "mean", "classifier_bias": True, "norm_bias": True, "pad_token_id": 0},
        modernbert_tokenizer,
    ),
    "albert": (
        t.AlbertForSequenceClassification,
        t.AlbertConfig,
        SIZES | {"embedding_size": 16},
        lambda: unigram(t.AlbertTokenizer, ["<pad>", "<unk>", "[CLS]", "[SEP]", "[MASK]"]),
    ),
    "qwen3": (
        t.Qwen3ForSequenceClassification,
        t.Qwen3Config,
        DECODER | {"pad_token_id": QWEN_PADDING},
        qwen_tokenizer,
    ),
    "llama": (t.LlamaForSequenceClassification, t.LlamaConfig, DECODER | {"pad_token_id": 2}, llama_tokenizer),
    "gemma3": (t.Gemma3TextForSequenceClassification, t.Gemma3TextConfig, DECODER, gemma_tokenizer),
    "eurobert-late": (t.EuroBertForSequenceClassification, t.EuroBertConfig, EUROBERT, modernbert_tokenizer),
    "eurobert-bos": (
        t.EuroBertForSequenceClassification,
        t.EuroBertConfig,
        EUROBERT | {"classifier_pooling": "bos"},
        modernbert_tokenizer,
    ),
}
CHECKPOINTS = [*FAMILIES, "bare", "three-labels", "modules", "saved-by-4"]


def write_family(directory: Path, family: str, labels: int = 1) -> Path:
    """Write a sequence classifier of transformers with random weights."""
    model_class, config_class, sizes, make_tokenizer = FAMILIES[family]
    tokenizer = make_tokenizer()
    config = config_class(vocab_size=len(tokenizer), max_position_embeddings=80, num_labels=labels, **sizes)
    torch.manual_seed(0)
    model = model_class(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape), alpha=0.3)
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory


def write_modules(directory: Path, base: Path) -> None:
    """Write a cross-encoder of a transformer, a pooling and a Dense, with prompts."""
    transformer, dense = Transformer(str(base)), Dense(32, 1, activation_function=None, module_output_name="scores")
    modules = [transformer, Pooling(32, pooling_mode="mean"), dense]
    model = CrossEncoder(modules=modules, device="cpu", prompts={"q": "query: "}, activation_fn=torch.nn.Identity())
    model.save_pretrained(str(directory))


def write_saved_by_4(directory: Path, base: Path) -> None:
    """Write an XLM-RoBERTa whose tokenizer has no split at white space, as transformers 4 saved it."""
    shutil.copytree(base, directory)
    path = directory / "tokenizer.json"
    tokenizer = json.loads(path.read_text(encoding="utf-8"))
    _, tokenizer["pre_tokenizer"] = tokenizer["pre_tokenizer"]["pretokenizers"]
    path.write_text(json.dumps(tokenizer), encoding="utf-8")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The checkpoints, each with its artifact beside it."""
    folder = tmp_path_factory.mktemp("cross-encoders")
    for name in FAMILIES:
        bare = write_family(folder / f"{name}-classifier", name)
        CrossEncoder(str(bare), device="cpu").save_pretrained(str(folder / name))
    shutil.copytree(folder / "bert-classifier", folder / "bare")
    three = write_family(folder / "three-classifier", "bert", labels=3)
    CrossEncoder(str(three), device="cpu").save_pretrained(str(folder / "three-labels"))
    write_modules(folder / "modules", folder / "bert-classifier")
    write_saved_by_4(folder / "saved-by-4", folder / "xlm-roberta-classifier")
    settings = ExportSettings("native", ("fp32",), "reference")
    for name in CHECKPOINTS:
        export(read_checkpoint(folder / name), folder / f"{name}-artifact", lambda line: None, settings)
    return folder


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_scores_are_those_of_sentence_transformers(folder, name):
    reference = CrossEncoder(str(folder / name), device="cpu")
    model = embedder.CrossEncoder(folder / f"{name}-artifact", provider="cpu")
    assert model.activation_fn == type(reference.activation_fn).__name__.lower()
    assert model.label_count == reference.num_labels
    assert model.max_seq_length == reference.max_seq_length == LIMIT
    assert model.manifest.prompts == reference.prompts
    assert model.manifest.scores.parity.reference == f"sentence-transformers {version('sentence-transformers')}"
    pairs = PAIRS[1:] if name == "qwen3" else PAIRS  # its tokenizer has no token for two empty texts
    theirs = reference.predict(pairs, activation_fn=torch.nn.Identity(), batch_size=16)
    ours = model.predict(pairs, activation_fn="identity")
    assert np.ptp(theirs) > 0.05
    tolerance = 1e-5 * np.ptp(theirs)
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=tolerance)
    order = np.random.default_rng(0).permutation(len(pairs))
    permuted = model.predict([pairs[row] for row in order], activation_fn="identity", batch_size=5)
    np.testing.assert_allclose(permuted, theirs[order], rtol=0, atol=tolerance)
    activated = model.predict(pairs[:8], apply_softmax=True)
    np.testing.assert_allclose(activated, reference.predict(pairs[:8], apply_softmax=True), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "limit"), [*((name, LIMIT) for name in FAMILIES), *((name, 36) for name in ("bert", "roberta", "modules"))]
)
def test_documents_are_ranked_as_by_sentence_transformers(folder, name, limit):
    reference = CrossEncoder(str(folder / name), device="cpu", max_length=limit)
    model = embedder.CrossEncoder(folder / f"{name}-artifact", provider="cpu", max_seq_length=limit)
    theirs = reference.rank(QUERY, DOCUMENTS, activation_fn=torch.nn.Identity(), batch_size=16, return_documents=True)
    ours = model.rank(QUERY, DOCUMENTS, activation_fn="identity", return_documents=True)
    assert [found["text"] for found in ours] == [found["text"] for found in theirs]
    scores = [found["score"] for found in theirs]
    tolerance = 1e-5 * (max(scores) - min(scores))
    np.testing.assert_allclose([found["score"] for found in ours], scores, rtol=0, atol=tolerance)


def test_prompts_are_those_of_sentence_transformers(folder):
    reference = CrossEncoder(str(folder / "modules"), device="cpu", default_prompt_name="q")
    model = embedder.CrossEncoder(folder / "modules-artifact", provider="cpu")
    np.testing.assert_allclose(model.predict(PAIRS, prompt_name="q"), reference.predict(PAIRS), rtol=1e-4)


@pytest.mark.parametrize("name", ["bert", "three-labels"])
def test_compat_gives_what_sentence_transformers_gives(folder, name):
    reference = CrossEncoder(str(folder / name), None, LIMIT, torch.nn.Tanh(), "cpu")
    model = compat.CrossEncoder(str(folder / f"{name}-artifact"), None, LIMIT, torch.nn.Tanh(), "cpu")
    for inputs in (PAIRS[:9], PAIRS[3], np.array(PAIRS[:3]), []):
        for options in (
            {},
            {"convert_to_tensor": True},
            {"convert_to_numpy": False},
            {"activation_fn": torch.nn.Sigmoid(), "apply_softmax": True},
            {"activation_fct": torch.nn.Softmax(dim=1)},
        ):
            ours, theirs = model.predict(inputs, **options), reference.predict(inputs, **options)
            assert type(ours) is type(theirs)
            if isinstance(ours, list):
                assert all(isinstance(tensor, torch.Tensor) for tensor in ours)
                ours, theirs = map(torch.tensor if not ours else torch.stack, (ours, theirs))
            assert (ours.shape, ours.dtype) == (theirs.shape, theirs.dtype)
            np.testing.assert_allclose(ours, theirs, rtol=0, atol=2e-5)
    assert type(model.activation_fn) is torch.nn.Tanh
    model.activation_fn = None
    assert type(model.activation_fn) is type(CrossEncoder(str(folder / name), device="cpu").activation_fn)


def test_all_decoders_have_the_head_that_is_tested():
    assert {EXPORTED[name].rank_head for name in ("llama", "mistral", "qwen2", "qwen3")} == {
        EXPORTED["llama"].rank_head
    }


def test_a_decoder_without_a_padding_token_is_refused(tmp_path):
    checkpoint = write_family(tmp_path / "llama", "llama")
    edit_json(checkpoint / "config.json", pad_token_id=None)
    with pytest.raises(CheckpointError, match="None as pad_token_id"):
        read_checkpoint(str(checkpoint))


def test_token_types_are_fed_where_the_tokenizer_gives_them(folder):
    fed = {name for name in FAMILIES if "token_type_ids" in _inputs(folder / f"{name}-artifact")}
    assert fed == {"bert", "electra"}


def _inputs(artifact: Path) -> tuple[str, ...]:
    return open_artifact(artifact).manifest.graphs[0].inputs
