"""`embedder.compat.SentenceTransformer`: what it takes, what it returns, and what it refuses. No test needs torch."""

import copy
import logging
import pickle
import sys
from pathlib import Path

import numpy as np
import pytest

import embedder
from embedder.artifact.manifest import Head
from embedder.compat import SentenceTransformer, SimilarityFunction, members, refusals
from embedder.compat.refusals import UnsupportedError
from embedder.encoder import Embedder
from embedder.errors import DependencyError, InputError, ModelNotFoundError, ProviderError
from tests.tiny import DIMENSION, add_image_graph, add_int8_graph

TEXTS = ["the cat sat on the mat", "a", "dogs !", "long " * 30]
PROMPTS = {"query": "query : ", "passage": "document : ", "b": "b "}


@pytest.fixture(autouse=True)
def _without_torch(monkeypatch):
    """torch cannot be imported, even where it is installed."""
    monkeypatch.setitem(sys.modules, "torch", None)


@pytest.fixture
def model(tiny):
    return SentenceTransformer(str(tiny))


@pytest.fixture
def prompted(make_artifact):
    return SentenceTransformer(str(make_artifact(prompts=PROMPTS)))


def test_encode_returns_the_vectors_of_embedder(model, tiny):
    vectors = Embedder(tiny).encode(TEXTS)
    for found in (
        model.encode(TEXTS),
        model.encode(sentences=TEXTS),
        model.encode_query(sentences=TEXTS),
        model.encode(tuple(TEXTS)),
        model.encode(TEXTS, task="query", batch_size=1),
        [model.encode(text) for text in TEXTS],
    ):
        np.testing.assert_allclose(found, vectors, atol=1e-6)


def test_empty_list_has_the_shape_of_sentence_transformers(model):
    assert model.encode([]).shape == (0,)
    assert model.encode([]).dtype == np.float64


def test_arguments_have_the_order_of_sentence_transformers(prompted):
    texts = ["cat", "dog"]
    everything = (None, "b ", 1, False, "sentence_embedding", "float32", True, False, "cpu", True, 3, None, None)
    expected = prompted.embedder.encode(texts, prompt="b ", normalize_embeddings=True, truncate_dim=3)
    for method in (prompted.encode, prompted.encode_query, prompted.encode_document):
        np.testing.assert_array_equal(method(texts, *everything), expected)
    with pytest.raises(InputError, match="encode takes at most 14 arguments, not 15"):
        prompted.encode_query(texts, *everything, None)


def test_prompts(prompted):
    encode = prompted.embedder.encode
    assert prompted.prompts == {"document": "", **PROMPTS}
    np.testing.assert_array_equal(prompted.encode_query("a"), encode("a", prompt="query : "))
    np.testing.assert_array_equal(prompted.encode_document("a"), encode("a"))
    np.testing.assert_array_equal(prompted.encode("a", "b"), encode("a", prompt="b "))
    np.testing.assert_array_equal(prompted.encode("a", "b", "c "), encode("a", prompt="c "))
    prompted.prompts = {"corpus": "c "}
    np.testing.assert_array_equal(prompted.encode_document("a"), encode("a", prompt="c "))
    prompted.default_prompt_name = "corpus"
    prompted.prompts["none"] = None
    np.testing.assert_array_equal(prompted.encode("a", "none"), encode("a"))
    np.testing.assert_array_equal(prompted.encode_query("a"), encode("a", prompt="c "))
    with pytest.raises(ValueError, match="prompt_name should be one of corpus, none, not 'query'"):
        prompted.encode("a", prompt_name="query")


def test_prompts_of_the_constructor(make_artifact):
    path = str(make_artifact(prompts=PROMPTS, default_prompt_name="b"))
    model = SentenceTransformer(path, prompts={"query": "a ", "b": None, "new": None}, default_prompt_name="query")
    assert model.prompts == {"query": "a ", "document": "", "passage": "document : ", "b": "b ", "new": ""}
    np.testing.assert_array_equal(model.encode("c"), model.embedder.encode("c", prompt="a "))
    assert SentenceTransformer(path).default_prompt_name == "b"
    model.default_prompt_name = None
    np.testing.assert_array_equal(model.encode("c"), model.embedder.encode("c", prompt=""))
    with pytest.raises(ValueError, match="default_prompt_name should be one of query, document, passage, b, not 'x'"):
        SentenceTransformer(path, default_prompt_name="x")


def test_dimensions(tiny):
    model = SentenceTransformer(str(tiny), truncate_dim=4)
    assert model.encode("a").shape == (4,)
    assert model.get_sentence_embedding_dimension() == model.get_embedding_dimension() == 4
    assert model.encode("a", truncate_dim=100).shape == (DIMENSION,)
    model.truncate_dim = None
    for shorter in (model.truncate_embeddings, model.truncate_sentence_embeddings):
        with shorter(3):
            assert model.encode(["a"], normalize_embeddings=True).shape == (1, 3)
            assert model.get_embedding_dimension() == 3
    assert model.encode("a").shape == (model.get_embedding_dimension(),) == (DIMENSION,)
    with pytest.raises(ValueError, match="truncate_dim should be a whole number, at least 1, not 0"):
        model.truncate_dim = 0


def test_dimensions_that_the_graph_does_not_have(make_artifact):
    model = SentenceTransformer(str(make_artifact(head=Head(("mean",), True, ("truncate(8)",)))), truncate_dim=100)
    with pytest.raises(InputError, match="truncate_dim=100 cannot be honoured: the checkpoint sets truncate_dim to 8"):
        model.encode("a")


def test_precision(model):
    texts = [f"a b {word}" for word in ("cat", "dog", "mat")]
    for precision in ("int8", "uint8", "binary", "ubinary"):
        expected = model.embedder.encode(texts, precision=precision)
        np.testing.assert_array_equal(model.encode(texts, precision=precision), expected)
    assert model.encode(texts, precision=None).dtype == np.float32


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"output_value": "token_embeddings"},
            "a vector for each input, not for each token. Use sentence-transformers",
        ),
        ({"output_value": None}, "output_value=None cannot be honoured"),
        ({"normalize": True}, r"encode has no option 'normalize' \(it is True\)"),
        ({"processing_kwargs": {}}, "Set model.max_seq_length to change the limit"),
        ({"pool": {"processes": []}}, r"pool should come from model.start_multi_process_pool\(\), not"),
        ({"batch_size": 0}, "batch_size should be a whole number, at least 1, not 0"),
        ({"chunk_size": 0}, "chunk_size should be a whole number, at least 1, not 0"),
        ({"precision": "int4"}, "precision should be one of"),
        ({"device": 0}, 'device should be a name such as "cpu", not 0'),
    ],
)
def test_refused_options_of_encode(model, options, message):
    with pytest.raises(ValueError, match=message):
        model.encode(["a"], **options)


@pytest.mark.parametrize("options", [{"convert_to_tensor": True}, {"convert_to_numpy": False}])
def test_tensors_need_torch_which_is_found_out_before_the_work(model, options):
    with pytest.raises(
        DependencyError, match=r'A tensor needs torch, which is not installed. Run: pip install "torch"'
    ):
        model.encode(iter(lambda: pytest.fail("a text was read"), None), **options)


@pytest.mark.parametrize(
    ("level", "shown"), [(logging.INFO, True), (logging.DEBUG, True), (logging.WARNING, False)], ids=str
)
def test_progress_is_shown_as_the_level_of_the_logger_says(model, capsys, level, shown):
    logger = logging.getLogger("embedder")
    before = logger.level
    logger.setLevel(level)
    try:
        model.encode(["a"])
    finally:
        logger.setLevel(before)
    assert ("Encoding" in capsys.readouterr().err) == shown


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"modules": []}, "embedder loads exported models, and does not build them of modules"),
        ({"backend": "tensorrt"}, "backend should be one of torch, onnx, openvino, not 'tensorrt'"),
        ({"config_kwargs": {"a": 1}}, "config_kwargs .* Change config.json of the checkpoint, and export it again"),
        ({"token": False}, "token=False cannot be honoured. Unset HF_TOKEN"),
        ({"tokenizer_kwargs": {"model_max_length": 9}}, "set the limit after loading: model.max_seq_length = 9"),
        ({"processor_kwargs": {"do_lower_case": True}}, r"processor_kwargs\['do_lower_case'\] cannot be honoured"),
        ({"model_kwargs": {"file_name": "onnx/model_qint8_avx512.onnx"}}, r'int8 graph is model_kwargs=\{"dtype": "i'),
        ({"model_kwargs": {"file_name": "model_quantized.onnx"}}, "may be another quantisation"),
        ({"model_kwargs": {"file_name": "onnx/model_q4f16.onnx"}}, "Leave file_name out for the fp32 graph"),
        ({"model_kwargs": {"torch_dtype": "bfloat16"}}, r'model_kwargs\["dtype"\] should be one of float32, fp32, flo'),
        ({"model_kwargs": {"quantization_config": 1}}, r"model_kwargs\['quantization_config'\] cannot be honoured"),
        ({"model_kwargs": {"torch_dtype": "float16"}}, "fp16"),
        ({"model_kwargs": {"file_name": "model_O4.onnx"}}, "fp16"),
        ({"similarity_fn_name": "maxsim"}, "similarity_fn_name should be one of cosine, dot, euclidean, manhattan, no"),
    ],
)
def test_refused_arguments_of_the_constructor(tiny, arguments, message):
    with pytest.raises(ValueError, match=message):
        SentenceTransformer(str(tiny), **arguments)


def test_model_is_needed():
    with pytest.raises(InputError, match="export it with embedder-export, and pass the artifact's path"):
        SentenceTransformer()


@pytest.mark.parametrize(
    "arguments",
    [
        {"trust_remote_code": True, "token": True, "backend": "onnx", "model_card_data": object(), "device": "cpu:0"},
        {"model_kwargs": {"torch_dtype": "auto", "attn_implementation": "sdpa", "device_map": "auto"}},
        {"model_kwargs": {"dtype": None, "file_name": "onnx/model_O2.onnx", "provider": "CPUExecutionProvider"}},
        {"model_kwargs": {"file_name": "openvino/openvino_model.xml"}},
        {"model_kwargs": {"device_map": "cpu", "export": False}, "backend": "openvino"},
        {"tokenizer_kwargs": {"use_fast": True}, "processor_kwargs": {"padding_side": "left"}},
    ],
)
def test_arguments_that_change_no_vector(tiny, arguments):
    np.testing.assert_array_equal(SentenceTransformer(str(tiny), **arguments).encode("a"), Embedder(tiny).encode("a"))


def test_dtype_chooses_the_graph(tiny):
    add_int8_graph(tiny)
    model = SentenceTransformer(str(tiny), model_kwargs={"dtype": "int8"})
    int8 = Embedder(tiny, dtype="int8").encode("cat")
    np.testing.assert_array_equal(model.encode("cat"), int8)
    np.testing.assert_array_equal(model.float().encode("cat"), Embedder(tiny, dtype="fp32").encode("cat"))
    with pytest.raises(InputError, match="fp16"):
        model.half()
    np.testing.assert_array_equal(model.encode("cat"), Embedder(tiny, dtype="fp32").encode("cat"))


def test_cache_folder_holds_exported_models(make_artifact, tmp_path):
    (tmp_path / "org").mkdir()
    path = make_artifact("org/tiny")
    model = SentenceTransformer("org/tiny", cache_folder=str(tmp_path))
    np.testing.assert_array_equal(model.encode("a"), Embedder(path).encode("a"))
    with pytest.raises(ModelNotFoundError, match=r"hold the exported model 'org/x'. .*EMBEDDER_HOME=.* embedder pull "):
        SentenceTransformer("org/x", cache_folder=str(tmp_path))
    SentenceTransformer(str(path), cache_folder="no-such-folder")


def test_directory_of_a_checkpoint_names_the_command_that_exports_it(tmp_path):
    with pytest.raises(ModelNotFoundError, match=r"embedder-export .* --output DIRECTORY"):
        SentenceTransformer(str(tmp_path))


def test_device(model):
    before = model.embedder
    assert model.device == "cpu"
    assert model.device.type == "cpu"
    assert model.to("cpu").cpu().to(device="cpu", non_blocking=True).embedder is before
    with pytest.raises(ProviderError, match="unknown provider 'tpu'"):
        model.to("tpu")
    with pytest.raises(ProviderError, match="unknown provider 'cpu:1'"):
        model.encode("a", device="cpu:1")
    assert model.embedder is before


def test_no_gpu(model, monkeypatch):
    before = model.embedder
    monkeypatch.setattr(members, "Embedder", lambda *arguments, **options: before)
    with pytest.raises(ProviderError, match=r"no GPU works here. Leave this call out"):
        model.cuda()
    with pytest.raises(InputError, match="device should be a name"):
        model.cuda(1)
    assert model.embedder is before


def test_limit(model):
    assert model.max_seq_length == model.get_max_seq_length() == model.tokenizer.model_max_length == 16
    model.max_seq_length = 4
    np.testing.assert_allclose(model.encode("the cat sat on the mat"), model.encode("the cat"), atol=1e-6)
    assert model.tokenizer.model_max_length == model.max_seq_length == 4
    with pytest.raises(InputError, match="max_seq_length"):
        model.max_seq_length = 1000
    assert model.max_seq_length == 4


def test_calls_that_do_nothing(model):
    assert model.eval() is model.train(False) is model.requires_grad_(False) is model.share_memory() is model
    assert model.compile() is None
    assert not model.training
    assert model
    assert (model.backend, model.get_backend(), model.get_model_kwargs()) == ("torch", "torch", [])
    assert (model.modalities, model.supports("text"), model.supports("image")) == (["text"], True, False)
    assert model.is_singular_input("a")
    assert not model.is_singular_input(["a"])
    assert repr(model).startswith("SentenceTransformer(Embedder('tiny', dimension=8")


def test_refused_attributes(model):
    for name, hint in refusals.MEMBERS.items():
        assert not hasattr(model, name)
        with pytest.raises(UnsupportedError) as caught:
            getattr(model, name)
        assert str(caught.value) == f"embedder's SentenceTransformer has no {name!r}: {hint}"
        with pytest.raises(UnsupportedError, match=f"SentenceTransformer.{name} cannot be set: "):
            setattr(model, name, None)


@pytest.mark.parametrize("name", refusals.FIXED)
def test_attributes_that_cannot_be_set(model, name):
    assert getattr(model, name) is not None
    with pytest.raises(UnsupportedError, match=f"SentenceTransformer.{name} cannot be set: "):
        setattr(model, name, None)


def test_other_attributes(model):
    model.note = "mine"
    assert model.note == "mine"
    with pytest.raises(AttributeError, match="'SentenceTransformer' object has no attribute 'notes'"):
        model.notes  # noqa: B018
    with pytest.raises(UnsupportedError, match="has no modules: the model is one ONNX graph"):
        model[0]
    with pytest.raises(UnsupportedError, match="has no modules: the model is one ONNX graph"):
        list(model)
    with pytest.raises(UnsupportedError, match=r"cannot be called on token ids. Call model.encode\(texts\)"):
        model({"input_ids": []})
    for call in (model.train, model.requires_grad_):
        with pytest.raises(UnsupportedError, match="has no training mode: embedder does not train"):
            call()


def test_similarity(model):
    a, b = model.encode(["cat", "dog"]), model.encode(["mat", "sat"])
    assert model.similarity_fn_name == "cosine"
    np.testing.assert_array_equal(model.similarity(a, b), embedder.cos_sim(a, b))
    np.testing.assert_array_equal(model.similarity_pairwise(a, b), embedder.pairwise_cos_sim(a, b))
    for name, function in (
        ("dot", embedder.dot_score),
        (SimilarityFunction.EUCLIDEAN, embedder.euclidean_sim),
        ("manhattan", embedder.manhattan_sim),
    ):
        model.similarity_fn_name = name
        np.testing.assert_array_equal(model.similarity(a, b), function(a, b))
    model.similarity_fn_name = None
    assert model.similarity_fn_name == "cosine"


def test_model_can_be_copied_and_pickled(prompted):
    prompted.truncate_dim = 5
    prompted.similarity_fn_name = "dot"
    prompted.default_prompt_name = "b"
    for same in (copy.deepcopy(prompted), pickle.loads(pickle.dumps(prompted))):
        np.testing.assert_array_equal(same.encode("a"), prompted.encode("a"))
        assert (same.truncate_dim, same.similarity_fn_name) == (5, "dot")


def test_strings_that_name_images(tiny, tmp_path):
    add_image_graph(tiny)
    model = SentenceTransformer(str(tiny))
    photo = tmp_path / "photo.png"
    photo.write_bytes(b"")
    for name in (str(photo), "http://example.org/cat.JPG?size=1", "data:image/png;base64,"):
        for inputs in (name, ["a", name], iter([name])):
            with pytest.raises(InputError, match=r"names an image, and a string is a text here. Pass pathlib.Path"):
                model.encode(inputs)
    for text in ("a photo.png", "http://[", "https://example.org/cat"):
        assert model.encode([text]).shape == (1, DIMENSION)
    pixels = np.zeros((2, 2, 3), np.uint8)
    np.testing.assert_array_equal(model.encode(["a", pixels])[1], model.embedder.encode(pixels))


@pytest.mark.slow
def test_pool(prompted):
    encode = prompted.embedder.encode
    pool = prompted.start_multi_process_pool(["cpu", "cpu"])
    try:
        assert len(pool["processes"]) == 2
        expected = encode(TEXTS, prompt="b ", truncate_dim=4)
        options = {"prompt_name": "b", "truncate_dim": 4, "chunk_size": 1}
        np.testing.assert_allclose(prompted.encode(TEXTS, pool=pool, **options), expected, atol=1e-6)
        np.testing.assert_allclose(prompted.encode_multi_process(TEXTS, pool, **options), expected, atol=1e-6)
        assert prompted.encode("cat", pool=pool).shape == (DIMENSION,)
        assert prompted.encode([], pool=pool).shape == (0,)
        prompted.max_seq_length = 4
        with pytest.raises(InputError, match=r"the pool has loaded another model, limit or dtype. Start a pool"):
            prompted.encode(TEXTS, pool=pool)
        with pytest.raises(InputError, match=r"the pool has no 'input': call model.encode\(inputs, pool=pool\)"):
            pool["input"]
    finally:
        prompted.stop_multi_process_pool(pool)
    assert not any(process.is_alive() for process in pool["processes"])
    np.testing.assert_allclose(prompted.encode(TEXTS, device=["cpu"]), prompted.encode(TEXTS), atol=1e-6)


@pytest.mark.parametrize("devices", ["cpu", []])
def test_devices_of_a_pool(model, devices):
    with pytest.raises(InputError, match=r'target_devices should be a list such as \["cpu", "cpu"\], not'):
        model.start_multi_process_pool(devices)


def test_evaluators_get_the_model_and_the_directory(model, tmp_path):
    def evaluator(evaluated, output_path):
        evaluated.model_card_data.set_evaluation_metrics(evaluated, {"accuracy": 1.0})
        return evaluated, Path(output_path).is_dir()

    assert model.evaluate(evaluator, str(tmp_path / "out")) == (model, True)


def test_libraries_that_ask_for_the_name_of_the_class_find_it(model):
    """BERTopic and KeyBERT take another model for an object without this word, and raise an error for one with it."""
    assert "sentence_transformers" in str(type(model))


def test_load(tiny):
    assert SentenceTransformer.load(str(tiny)).encode("a").shape == (DIMENSION,)
