"""Cross-encoders are read from every layout, and exported with the head that transformers computes."""

import json
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from embedder_export.checkpoint.layers import Dense, Pooling
from embedder_export.checkpoint.read import read_checkpoint
from embedder_export.cli import main
from embedder_export.errors import CheckpointError, NoReferenceError, ParityError
from embedder_export.publish.card import write_card
from embedder_export.samples.pairs import calibration_pairs, parity_pairs, quality_pairs
from embedder_export.verify.closeness import ScoreCloseness, VectorCloseness, spearman
from embedder_export.verify.reference import ScoreReference
from embedder_export.verify.scores import compare_scores, scores_of
from tokenizers import Tokenizer
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    DistilBertConfig,
    DistilBertForSequenceClassification,
    ElectraConfig,
    ElectraForSequenceClassification,
    RobertaConfig,
    RobertaForSequenceClassification,
    RoFormerConfig,
    RoFormerForSequenceClassification,
)

import embedder
from embedder.artifact.manifest import Output
from embedder.artifact.measurements import ScoreParity, ScoreQuality
from embedder.cli.main import main as embedder_main
from embedder.errors import ArtifactError
from embedder.inputs import Pair
from tests import vocabularies
from tests.checkpoints import SMALL, VOCABULARY_SIZE, edit_json, write_checkpoint, write_json
from tests.cross_encoders import (
    IDENTITY,
    POSITIONS,
    SIGMOID,
    change_weights,
    write_classifier,
    write_cross_encoder,
    write_dense_cross_encoder,
)
from tests.exports import export_fp32, export_quietly

SIZES = {"vocab_size": VOCABULARY_SIZE, "max_position_embeddings": POSITIONS, "num_labels": 1}
PAIRS = [Pair("where is the cat", "on the mat"), Pair("", "a dog"), Pair("a", ""), Pair("word " * 30, "text " * 40)]


@pytest.fixture
def classifier(tmp_path):
    return write_classifier(tmp_path / "classifier")


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A cross-encoder with an int8 and an fp16 graph, exported."""
    folder = tmp_path_factory.mktemp("exported")
    checkpoint = write_classifier(folder / "small")
    manifest = export_quietly(checkpoint, folder / "artifact", dtypes=("fp32", "int8", "fp16"))
    return folder / "artifact", manifest


class TestScores:
    def test_are_those_of_sentence_transformers(self, exported):
        _, manifest = exported
        assert (manifest.task, manifest.output_shape, manifest.similarity_fn_name) == ("rank", (1,), None)
        assert manifest.graphs[0].inputs == ("input_ids", "attention_mask", "token_type_ids")
        assert manifest.graphs[0].outputs[0].name == "scores"
        assert manifest.head.layers == ("dense(32, 32, tanh)", "dense(32, 1, identity)")
        assert manifest.tokenizer.max_seq_length == POSITIONS
        parity = manifest.scores.parity
        assert parity.reference.startswith("sentence-transformers ")
        assert parity.max_difference < 1e-5
        assert manifest.parity is None

    @pytest.mark.parametrize(
        ("model_class", "config"),
        [
            (
                DistilBertForSequenceClassification,
                DistilBertConfig(dim=32, hidden_dim=64, n_layers=2, n_heads=4, **SIZES),
            ),
            (ElectraForSequenceClassification, ElectraConfig(embedding_size=16, **SIZES, **SMALL)),
            (RobertaForSequenceClassification, RobertaConfig(**SIZES, **SMALL, type_vocab_size=2, pad_token_id=0)),
            # A setting that the native builder does not know: the transformer is traced, and the head is not.
            (BertForSequenceClassification, BertConfig(hidden_act="mish", **SIZES, **SMALL)),
        ],
        ids=["distilbert", "electra", "roberta", "traced"],
    )
    def test_of_other_families(self, tmp_path, model_class, config):
        checkpoint = write_classifier(tmp_path / "model", model=model_class(config))
        manifest = export_fp32(checkpoint, tmp_path / "artifact", verification="reference")
        assert manifest.scores.parity.max_difference < 1e-5
        assert (manifest.graphs[0].form == "native") == (config.model_type != "bert")
        types = "token_type_ids" in manifest.graphs[0].inputs
        assert types == (config.model_type != "distilbert")

    @pytest.mark.slow
    def test_of_a_head_that_is_traced(self, tmp_path):
        config = RoFormerConfig(embedding_size=16, **SIZES, **SMALL)
        checkpoint = write_classifier(tmp_path / "model", model=RoFormerForSequenceClassification(config))
        manifest = export_fp32(checkpoint, tmp_path / "artifact", verification="reference")
        assert manifest.scores.parity.max_difference < 1e-4
        assert (manifest.head, manifest.label_count) == (None, 1)

    @pytest.mark.parametrize("pooling", ["mean", "cls"])
    def test_of_a_dense_after_a_pooling(self, tmp_path, pooling):
        """Only the reference of tests/parity can load this layout. The numbers here come from the embedder."""
        checkpoint = write_dense_cross_encoder(tmp_path / "model", pooling=pooling, labels=2)
        read = read_checkpoint(str(checkpoint))
        manifest = export_fp32(checkpoint, tmp_path / "artifact")
        assert manifest.scores.activation_fn == "identity"
        assert manifest.scores.parity is None
        tokens = _token_vectors(tmp_path / "model", PAIRS[0])
        pooled = tokens.mean(axis=0) if pooling == "mean" else tokens[0]
        expected = pooled @ read.layers[-1].weight.T + read.layers[-1].bias
        np.testing.assert_allclose(
            scores_of(tmp_path / "artifact", "fp32", PAIRS[:1])[0], expected, rtol=1e-4, atol=1e-4
        )
        with pytest.raises(NoReferenceError, match=r"would load model without its head: sentence-transformers 6\.2\.0"):
            export_fp32(checkpoint, tmp_path / "artifact", verification="reference")

    def test_of_int8_do_not_depend_on_the_batch(self, exported):
        artifact, manifest = exported
        pairs = [*PAIRS, *quality_pairs()[:12]]
        for dtype in ("int8", "fp32"):
            together = scores_of(artifact, dtype, pairs)
            alone = np.concatenate([scores_of(artifact, dtype, [pair]) for pair in pairs])
            if dtype == "int8":
                assert together.tobytes() == alone.tobytes()
            else:
                np.testing.assert_allclose(together, alone, rtol=0, atol=1e-5 * np.ptp(together))
        fp32, int8, fp16 = manifest.graphs
        assert fp32.quality is int8.quality is fp32.score_quality is None
        assert int8.score_quality.samples == fp16.score_quality.samples == len(quality_pairs())
        assert int8.score_quality.spearman > 0.99
        assert fp16.score_quality.spearman > 0.999


def _token_vectors(checkpoint, pair):
    from transformers import AutoModel, AutoTokenizer

    tokens = AutoTokenizer.from_pretrained(checkpoint)(pair.first, pair.second, return_tensors="pt")
    with torch.no_grad():
        return AutoModel.from_pretrained(checkpoint).eval()(**tokens).last_hidden_state[0].numpy()


class TestSettings:
    @pytest.mark.parametrize(
        ("labels", "settings", "activation_fn"),
        [
            (1, {}, "sigmoid"),
            (3, {}, "identity"),
            (1, {"sbert_ce_default_activation_function": IDENTITY}, "identity"),
            (1, {"sentence_transformers": {"activation_fn": IDENTITY, "version": "4.1.0"}}, "identity"),
            (2, {"sentence_transformers": {"activation_fn": "torch.nn.Sigmoid"}}, "sigmoid"),
            # The newer key counts, also if it holds nothing.
            (
                1,
                {"sentence_transformers": {"activation_fn": None}, "sbert_ce_default_activation_function": IDENTITY},
                "sigmoid",
            ),
        ],
    )
    def test_activation_of_older_versions(self, tmp_path, labels, settings, activation_fn):
        checkpoint = write_classifier(tmp_path / "model", labels=labels)
        edit_json(checkpoint / "config.json", **settings)
        assert read_checkpoint(str(checkpoint)).scores.activation_fn == activation_fn

    def test_activation_and_prompts_of_version_6(self, tmp_path):
        declared = {"activation_fn": IDENTITY, "prompts": {"q": "query: "}, "default_prompt_name": "q"}
        checkpoint = write_cross_encoder(tmp_path / "model", declared=declared)
        edit_json(checkpoint / "config.json", sbert_ce_default_activation_function=SIGMOID)
        read = read_checkpoint(str(checkpoint))
        assert (read.task, read.scores.activation_fn, read.label_count) == ("rank", "identity", 1)
        assert (read.prompts, read.default_prompt_name) == ({"q": "query: "}, "q")
        # Without modules.json, sentence-transformers reads no settings of its own.
        (checkpoint / "modules.json").unlink()
        read = read_checkpoint(str(checkpoint))
        assert (read.scores.activation_fn, read.prompts, read.default_prompt_name) == ("sigmoid", {}, None)

    def test_layers_of_a_classifier(self, classifier):
        pooling, dense, out = read_checkpoint(str(classifier)).layers
        assert pooling == Pooling(("cls",), True)
        assert isinstance(dense, Dense)
        assert (dense.weight.shape, dense.activation, dense.gives_scores) == ((32, 32), "Tanh", False)
        assert (out.weight.shape, out.activation, out.gives_scores) == ((1, 32), "Identity", True)

    def test_names_of_labels(self, tmp_path):
        checkpoint = write_classifier(tmp_path / "model", labels=3)
        assert read_checkpoint(str(checkpoint)).scores.label_names == ()
        names = {"0": "contradiction", "1": "entailment", "2": "neutral"}
        edit_json(checkpoint / "config.json", id2label=names)
        assert read_checkpoint(str(checkpoint)).scores.label_names == tuple(names.values())

    @pytest.mark.parametrize(("settings", "count"), [({"num_labels": 3}, 3), ({}, 2)])
    def test_number_of_labels_without_names(self, tmp_path, settings, count):
        checkpoint = write_classifier(tmp_path / "model", labels=count)
        config = json.loads((checkpoint / "config.json").read_text())
        write_json(checkpoint / "config.json", {k: v for k, v in config.items() if "label" not in k} | settings)
        assert read_checkpoint(str(checkpoint)).label_count == count

    def test_other_architectures_have_one_label(self, tmp_path):
        """sentence-transformers gives a CrossEncoder of a model without such a head one label."""
        checkpoint = write_cross_encoder(tmp_path / "model")
        edit_json(checkpoint / "config.json", architectures=["BertModel"], id2label={"0": "a", "1": "b"})
        read = read_checkpoint(str(checkpoint))
        assert (read.label_count, read.scores.label_names) == (1, ())

    def test_limit_is_that_of_a_pair(self, classifier, tmp_path):
        edit_json(classifier / "tokenizer_config.json", model_max_length=16)
        assert export_fp32(classifier, tmp_path / "artifact").tokenizer.max_seq_length == 16
        edit_json(classifier / "tokenizer_config.json", model_max_length=3)
        with pytest.raises(CheckpointError, match="a limit of 3 tokens leaves no room for a pair beside 3 special"):
            export_fp32(classifier, tmp_path / "artifact")

    def test_token_types_that_the_tokenizer_does_not_give(self, classifier, tmp_path):
        edit_json(classifier / "tokenizer_config.json", model_input_names=["input_ids", "attention_mask"])
        manifest = export_fp32(classifier, tmp_path / "artifact", verification="reference")
        assert manifest.graphs[0].inputs == ("input_ids", "attention_mask")
        assert manifest.scores.parity.max_difference < 1e-5

    def test_tokenizer_without_special_tokens_for_pairs(self, classifier, tmp_path):
        """Two empty texts then have no token, and sentence-transformers fails on them."""
        tokenizer = json.loads((classifier / "tokenizer.json").read_text(encoding="utf-8"))
        pair = [part for part in tokenizer["post_processor"]["pair"] if "Sequence" in part]
        tokenizer["post_processor"]["pair"] = pair
        write_json(classifier / "tokenizer.json", tokenizer)
        manifest = export_fp32(classifier, tmp_path / "artifact", verification="reference")
        assert manifest.scores.parity.max_difference < 1e-5

    @pytest.mark.parametrize("name", ["XLMRobertaTokenizer", "AlbertTokenizer"])
    def test_white_space_is_no_token(self, classifier, tmp_path, name):
        """Of these classes transformers 4 saved a tokenizer that makes a token of a space at the end."""
        special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", "[CLS]", "[SEP]", "[MASK]"]
        vocabularies.unigram(special, "<s> $A </s>").save(str(classifier / "tokenizer.json"))
        settings = {"tokenizer_class": name, "model_max_length": POSITIONS}
        write_json(classifier / "tokenizer_config.json", settings)
        manifest = export_fp32(classifier, tmp_path / "artifact", verification="reference")
        assert manifest.scores.parity.max_difference < 1e-5
        tokenizer = Tokenizer.from_file(str(tmp_path / "artifact/tokenizer.json"))
        assert tokenizer.encode("the  cat ", add_special_tokens=False).tokens == ["▁the", "▁", "c", "a", "t"]
        assert tokenizer.encode(" ", add_special_tokens=False).tokens == []

    def test_vocabulary_without_a_tokenizer_json(self, classifier, tmp_path):
        vocabulary = json.loads((classifier / "tokenizer.json").read_text(encoding="utf-8"))["model"]["vocab"]
        (classifier / "tokenizer.json").unlink()
        (classifier / "vocab.txt").write_text("\n".join(sorted(vocabulary, key=vocabulary.get)), encoding="utf-8")
        manifest = export_fp32(classifier, tmp_path / "artifact", verification="reference")
        assert manifest.scores.parity.max_difference < 1e-5


class TestRefusals:
    @pytest.mark.parametrize("name", ["torch.nn.Tanh", "mycode.Calibrated", "torch.nn.Sigmoid()", 3])
    def test_activations(self, classifier, name):
        edit_json(classifier / "config.json", sentence_transformers={"activation_fn": name})
        message = rf"its scores have the activation {re.escape(repr(name))}, which is not supported; torch"
        with pytest.raises(CheckpointError, match=message):
            read_checkpoint(str(classifier))

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"bert__pooler__dense__bias": None}, r"the weights lack bert\.pooler\.dense\.bias, a part of the head"),
            ({"classifier__weight": None}, r"the weights lack classifier\.weight, a part of the head"),
            ({"classifier__weight": torch.ones(2, 32)}, r"have classifier\.weight of shape \(2, 32\), not \(1, 32\)"),
            ({"classifier__bias": torch.full((1,), torch.nan)}, r"not finite: classifier\.bias has NaN or infinity"),
        ],
    )
    def test_weights_of_the_head(self, classifier, change, message):
        change_weights(classifier, **change)
        with pytest.raises(CheckpointError, match=message):
            read_checkpoint(str(classifier))

    @pytest.mark.parametrize(
        "settings",
        [{"id2label": []}, {"id2label": {"1": "a"}}, {"id2label": {"0": 3}}, {"id2label": None, "num_labels": 0}],
    )
    def test_labels(self, classifier, settings):
        edit_json(classifier / "config.json", **settings)
        with pytest.raises(CheckpointError, match=r"config\.json has .* as (id2label|num_labels)"):
            read_checkpoint(str(classifier))

    def test_causal_language_models(self, tmp_path):
        checkpoint = write_cross_encoder(tmp_path / "model")
        edit_json(checkpoint / "sentence_bert_config.json", transformer_task="text-generation")
        with pytest.raises(CheckpointError, match="has 'text-generation' as transformer_task, which is not supported"):
            read_checkpoint(str(checkpoint))
        (checkpoint / "modules.json").unlink()
        edit_json(checkpoint / "config.json", architectures=["Qwen3ForCausalLM"])
        with pytest.raises(CheckpointError, match=r"it is a causal language model \(Qwen3ForCausalLM\), and such"):
            read_checkpoint(str(checkpoint))

    def test_modules(self, tmp_path):
        checkpoint = write_dense_cross_encoder(tmp_path / "model")
        edit_json(checkpoint / "2_Dense/config.json", use_residual="yes")
        with pytest.raises(CheckpointError, match="has 'yes' as use_residual"):
            read_checkpoint(str(checkpoint))
        edit_json(checkpoint / "2_Dense/config.json", use_residual=True)
        with pytest.raises(CheckpointError, match=r"holds the tensors .*, not .*residual\.weight"):
            read_checkpoint(str(checkpoint))
        edit_json(checkpoint / "2_Dense/config.json", use_residual=False, module_output_name=None)
        with pytest.raises(CheckpointError, match="the last module of the CrossEncoder should be a Dense that gives"):
            read_checkpoint(str(checkpoint))
        edit_json(checkpoint / "2_Dense/config.json", module_output_name="scores")
        edit_json(checkpoint / "config_sentence_transformers.json", model_type="SentenceTransformer")
        with pytest.raises(CheckpointError, match="a Dense that gives scores, and is no CrossEncoder"):
            read_checkpoint(str(checkpoint))

    def test_module_after_a_classifier(self, tmp_path):
        checkpoint = write_dense_cross_encoder(tmp_path / "model")
        settings = {"transformer_task": "sequence-classification"}
        write_json(checkpoint / "sentence_bert_config.json", settings)
        with pytest.raises(CheckpointError, match="the module 'Pooling' after a sequence classifier is not supported"):
            read_checkpoint(str(checkpoint))

    def test_token_types_that_the_model_lacks(self, tmp_path):
        config = RobertaConfig(**SIZES, **SMALL, type_vocab_size=1)
        checkpoint = write_classifier(tmp_path / "model", model=RobertaForSequenceClassification(config))
        with pytest.raises(CheckpointError, match="gives the second text of a pair token type 1"):
            export_fp32(checkpoint, tmp_path / "artifact")

    def test_own_graph_as_the_reference(self, classifier, tmp_path):
        with pytest.raises(NoReferenceError, match="the scores of a cross-encoder are not compared with its own graph"):
            export_fp32(classifier, tmp_path / "artifact", verification="graph")

    @pytest.mark.parametrize("depends_on_padding", [True, False])
    def test_scores_that_depend_on_the_padding(self, classifier, tmp_path, monkeypatch, depends_on_padding):
        """As those of ConvBERT do: it reads the tokens beside each token."""

        def predict(pairs):
            padding = len(pairs) if depends_on_padding else 0
            return np.array([[len(pair.second) + padding] for pair in pairs], np.float32)

        reference = ScoreReference("another program", predict)
        monkeypatch.setattr("embedder_export.verify.scores.cross_encoder_reference", lambda *_, **__: reference)
        with pytest.raises(ParityError, match="parity with another program fell short") as caught:
            export_fp32(classifier, tmp_path / "artifact")
        assert ("depend on the padding of a batch, also in another program" in str(caught.value)) == depends_on_padding

    def test_scores_that_are_not_finite(self, classifier, tmp_path):
        change_weights(classifier, bert__encoder__layer__1__output__LayerNorm__weight=torch.full((32,), 3e38))
        with pytest.raises(ParityError, match="gives scores that are not finite, although its weights are"):
            export_fp32(classifier, tmp_path / "artifact")

    def test_tokenizer_that_fails_on_a_pair(self, classifier, tmp_path):
        (classifier / "tokenizer.json").write_text("{", encoding="utf-8")
        with pytest.raises(CheckpointError, match=r"the tokenizer of classifier cannot be used: .* is damaged"):
            export_fp32(classifier, tmp_path / "artifact")


class TestPrograms:
    def test_embedder_export(self, classifier, tmp_path, capsys):
        output = tmp_path / "artifact"
        assert main([str(classifier), "--output", str(output), "--dtypes", "fp32"]) == 0
        line = capsys.readouterr().err.splitlines()[-1]
        assert re.search(r"compared with sentence-transformers .* over \d+ pairs: largest difference of scores", line)
        assert embedder_main(["verify", str(output)]) == 0
        assert "ok       text graph of fp32" in capsys.readouterr().out

    def test_without_a_reference(self, classifier, tmp_path, capsys, monkeypatch):
        monkeypatch.setattr("embedder_export.verify.reference.is_reference_installed", lambda: False)
        assert main([str(classifier), "--output", str(tmp_path / "artifact"), "--dtypes", "fp32"]) == 0
        assert "not compared with a reference: sentence-transformers is not installed" in capsys.readouterr().err

    def test_int8_that_is_too_far_from_fp32_is_not_written(self, classifier, tmp_path, monkeypatch):
        lines = []
        quality = ScoreQuality(96, 0.9985, 0.03)
        monkeypatch.setattr("embedder_export.verify.quality.measure_score_quality", lambda *arguments: quality)
        manifest = export_fp32(classifier, tmp_path / "artifact", lines.append, dtypes=None)
        assert [graph.dtype for graph in manifest.graphs] == ["fp32"]
        line = (
            "compared with fp32: Spearman 0.99850, largest difference 3.00 % of the scores' range, over 96 pairs. The "
        )
        assert any(
            line + "limit of the Spearman correlation is 0.999, so it is not written" in given for given in lines
        )

    def test_embedder_refuses_a_cross_encoder(self, exported):
        with pytest.raises(ArtifactError, match="is for the task 'rank'"):
            embedder.Embedder(exported[0])

    def test_card(self, exported):
        _, manifest = exported
        card = write_card(manifest, "ann/ranker", None)
        for part in (
            'pipeline_tag: "text-ranking"',
            "gives a pair of texts, such as a query and a passage, a score with ONNX Runtime",
            f"Pairs are cut at {POSITIONS} tokens.",
            'model = CrossEncoder("ann/ranker")',
            f"The scores of {manifest.scores.parity.samples} pairs were compared with those of sentence-transformers",
            "| Spearman | largest difference, of the range | pairs |\n|---|---|---|---|---|\n| `model.int8",
        ):
            assert part in card
        graph = manifest.graphs[0]
        three = (Output("scores", "score", (3,)),)
        scores = replace(manifest.scores, label_names=("no", "yes", "may`be"), parity=None)
        card = write_card(replace(manifest, graphs=(replace(graph, outputs=three),), scores=scores), "ann/ranker", None)
        assert "gives a pair of texts 3 scores (`no`, `yes`, `may be`)" in card
        assert "The scores were not compared with those of another program." in card


class TestMeasures:
    def test_rank_correlation(self):
        rising = np.arange(5.0)[:, None]
        assert spearman(rising, rising**3) == 1
        assert spearman(rising, -rising) == pytest.approx(-1)
        assert spearman(np.hstack([rising, rising]), np.hstack([rising, -rising])) == pytest.approx(-1)
        assert spearman(np.array([[1.0], [1.0], [2.0]]), np.array([[1.0], [1.0], [9.0]])) == 1
        assert spearman(np.ones((3, 1)), np.ones((3, 1))) == 1
        assert spearman(np.ones((3, 1)), rising[:3]) == -1
        assert spearman(np.array([[np.nan], [1.0]]), rising[:2]) == -1

    def test_scores_are_compared_by_their_range(self):
        theirs = np.array([[0.0], [10.0]])
        assert compare_scores(theirs + 1e-4, theirs, PAIRS[:2], "itself") == ScoreParity("itself", 2, 1.0, 1e-5)
        with pytest.raises(ParityError, match=r"largest difference of scores 1\.00e-03 of their range"):
            compare_scores(theirs + np.array([[0], [0.01]]), theirs, PAIRS[:2], "it")
        with pytest.raises(ParityError, match=r"scores have the shape \(2, 1\), but it gives \(2, 3\)"):
            compare_scores(theirs, np.zeros((2, 3)), PAIRS[:2], "it")
        # Equal scores have no range. Their size counts instead.
        assert compare_scores(np.full((2, 1), 5 + 1e-7), np.full((2, 1), 5.0), PAIRS[:2], "it").max_difference < 1e-5

    def test_search_of_int8_measures_scores_by_their_rank(self):
        expected = np.linspace(-3, 3, 50)[:, None]
        closeness = ScoreCloseness.of(expected)
        noisy = expected + np.where(np.arange(50) % 2, 0.1, -0.1)[:, None]
        assert closeness.share_of_limits(expected) == 0
        assert closeness.share_of_limits(noisy) > 0.8
        assert closeness.cost(noisy) > closeness.cost(expected) == 0
        assert closeness.subset([3, 4]).errors(expected[3:5]).tolist() == [0, 0]
        assert "a Spearman correlation with the scores of fp32 of 1.00000" in closeness.describe(expected)

    def test_search_of_int8_measures_vectors_by_their_cosine(self):
        vectors = np.eye(4)
        closeness = VectorCloseness(vectors)
        assert closeness.share_of_limits(vectors) == closeness.cost(vectors) == 0
        assert closeness.errors(vectors[::-1]).tolist() == [1, 1, 1, 1]
        assert closeness.subset([1]).errors(vectors[1:2]).tolist() == [0]

    def test_sample_pairs_are_many_and_split(self):
        calibrated, measured = ({text for pair in pairs for text in (pair.first, pair.second)} for pairs in _halves())
        assert not calibrated & measured
        assert [len(calibration_pairs()), len(quality_pairs())] == [140, 142]
        assert {Pair("", ""), Pair(" ", " ")} <= set(parity_pairs(512))


def _halves():
    return calibration_pairs(), quality_pairs()


def test_embedders_are_still_read(tmp_path):
    checkpoint = write_checkpoint(tmp_path / "model")
    assert (read_checkpoint(str(checkpoint)).task, read_checkpoint(str(checkpoint)).scores) == ("embed", None)
