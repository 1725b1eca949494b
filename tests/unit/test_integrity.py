"""One model never runs the files of two, and no wrong output is returned."""

import os
import shutil
import sys
from dataclasses import replace

import numpy as np
import onnx
import onnxruntime
import pytest
from PIL import Image

import embedder
from embedder.artifact.manifest import read_manifest, write_manifest
from embedder.backends import cpu
from embedder.backends.cpu import CpuDevice
from embedder.engine import engine, loading
from embedder.errors import ArtifactError
from tests.tiny import TABLE, VOCABULARY, add_image_graph, described, redescribe, write_tiny_ranker

# All differ, because copies of a text are encoded once.
MANY = [f"{text} {number}" for number in range(100) for text in ("the cat sat on the mat", "dog", "a b c", "")]
FILES = ["model.onnx", "model.onnx.data"]


@pytest.fixture(params=["0", "1"], ids=["plain", "prepacked"])
def prepacking(request, monkeypatch):
    """The environment variable: whether sessions are opened from a prepacked form."""
    monkeypatch.setenv("EMBEDDER_PREPACK", request.param)
    return request.param == "1"


@pytest.fixture
def two_sessions(monkeypatch):
    """A single text and many texts run in two sessions, also of the tiny model."""
    monkeypatch.setattr(cpu, "_MIN_SHARED_WORK", 0)


def replace_by_rename(path):
    """Replace a file by one of the same size and the same times, with other content."""
    before = path.stat()
    content = path.read_bytes()
    other = path.with_name("other")
    other.write_bytes(content[32:] + content[:32] if path.suffix == ".data" else content[:-1] + b"\0")
    os.utime(other, ns=(before.st_atime_ns, before.st_mtime_ns))
    other.rename(path)


def replace_all(path):
    """Replace the graph and its weights by those of another export."""
    for name in FILES:
        replace_by_rename(path.with_name(name))


def remove(path):
    path.unlink()


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("change", [replace_by_rename, replace_all, remove])
def test_a_second_session_is_not_opened_from_other_files(tiny, two_sessions, change, name):
    model = embedder.Embedder(tiny, threads=2)
    one = model.encode("dog")
    change(tiny / name)
    for _ in range(2):
        with pytest.raises(ArtifactError, match=r"has been altered or damaged|cannot be read"):
            model.encode(MANY)
    np.testing.assert_array_equal(model.encode("dog"), one)


def test_a_prepacked_session_outlives_the_artifact(tiny, two_sessions, monkeypatch):
    monkeypatch.delenv("EMBEDDER_PREPACK")
    expected = embedder.Embedder(tiny).encode(MANY)
    model = embedder.Embedder(tiny, threads=2)
    one = model.encode("dog")
    replace_all(tiny / "model.onnx")
    np.testing.assert_allclose(model.encode(MANY), expected, atol=1e-6)
    np.testing.assert_array_equal(model.encode("dog"), one)
    with pytest.raises(ArtifactError, match="altered or damaged"):
        embedder.Embedder(tiny)


@pytest.mark.parametrize("name", FILES)
def test_a_prepacked_form_that_is_replaced_gives_no_second_session(tiny, two_sessions, monkeypatch, name, tmp_path):
    monkeypatch.delenv("EMBEDDER_PREPACK")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    expected = embedder.Embedder(tiny).encode(MANY)
    model = embedder.Embedder(tiny, threads=2)
    model.encode("dog")
    (form,) = (tmp_path / "cache/embedder/prepacked").iterdir()
    replace_by_rename(form / name)
    np.testing.assert_allclose(model.encode(MANY), expected, atol=1e-6)  # from the artifact, which is unchanged


def test_a_file_that_was_copied_again_is_the_same_file(tiny, two_sessions, prepacking):
    model = embedder.Embedder(tiny, threads=2)
    one = model.encode("dog")
    for name in FILES:
        shutil.copy(tiny / name, tiny / "copy")
        (tiny / "copy").rename(tiny / name)
    np.testing.assert_allclose(model.encode(["dog", *MANY])[0], one, atol=1e-6)


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_is_replaced_while_it_is_opened(tiny, monkeypatch, prepacking, name):
    start = onnxruntime.InferenceSession

    def replace_then_start(graph, *rest, **options):
        replace_by_rename(tiny / name)
        return start(graph, *rest, **options)

    monkeypatch.setattr(onnxruntime, "InferenceSession", replace_then_start)
    with pytest.raises(ArtifactError):
        embedder.Embedder(tiny)


def test_a_file_that_is_replaced_and_put_back_while_it_is_opened(tiny, monkeypatch):
    start, weights = onnxruntime.InferenceSession, tiny / "model.onnx.data"

    def replace_then_start(graph, *rest, **options):
        shutil.copy2(weights, tiny / "kept")
        replace_by_rename(weights)
        session = start(graph, *rest, **options)
        (tiny / "kept").rename(weights)
        return session

    monkeypatch.setattr(onnxruntime, "InferenceSession", replace_then_start)
    with pytest.raises(ArtifactError, match=r"data was replaced while it was opened\. Load the model again"):
        embedder.Embedder(tiny)


def test_a_file_that_gets_a_hard_link_while_it_is_opened(tiny, monkeypatch):
    """A link changes one of the file's times, and not its content. Backup programs make links."""
    start, links = onnxruntime.InferenceSession, iter(["link"])

    def link_then_start(graph, *rest, **options):
        for name in links:
            os.link(tiny / "model.onnx.data", tiny / name)
        return start(graph, *rest, **options)

    monkeypatch.setattr(onnxruntime, "InferenceSession", link_then_start)
    assert embedder.Embedder(tiny).encode("dog").any()


def test_a_tokenizer_that_is_replaced_while_it_is_opened(tiny, monkeypatch):
    start = loading.TextTokenizer

    def replace_then_start(path, *rest, **options):
        path.rename(tiny / "kept")
        path.write_bytes((tiny / "kept").read_bytes().replace(b'"cat":', b'"cot":'))
        return start(path, *rest, **options)

    monkeypatch.setattr(loading, "TextTokenizer", replace_then_start)
    with pytest.raises(ArtifactError, match=r"tokenizer\.json has been altered or damaged"):
        embedder.Embedder(tiny)


@pytest.mark.parametrize("name", ["image.onnx", "image.onnx.data", "tokenizer.json", *FILES])
@pytest.mark.parametrize("change", [replace_by_rename, remove])
def test_a_side_that_is_loaded_later_is_checked_then(tiny, change, name, prepacking):
    """A model of images loads each side when it is first needed."""
    add_image_graph(tiny)
    if name == "image.onnx.data" and not (tiny / name).stat().st_size:
        (tiny / name).write_bytes(bytes(range(64)))
        redescribe(tiny)
    model = embedder.Embedder(tiny)
    change(tiny / name)
    inputs = Image.new("RGB", (2, 2)) if name.startswith("image") else "dog"
    with pytest.raises(ArtifactError, match=f"{name} (has been altered or damaged|cannot be read)"):
        model.encode([inputs])


class FixedBackend:
    """A backend that returns what `make` makes of the number of inputs."""

    def __init__(self, make):
        self.device, self.make = CpuDevice(2), make

    def run(self, feeds, *, single_batch=False):
        return self.make(len(next(iter(feeds.values()))))


WRONG = {
    "one row for all": lambda count: np.ones((1, 8), np.float32),
    "no rows": lambda count: np.ones((0, 8), np.float32),
    "a row too many": lambda count: np.ones((count + 1, 8), np.float32),
    "a row without its batch": lambda count: np.ones(8, np.float32),
    "another dimension": lambda count: np.ones((count, 9), np.float32),
    "one number for all": lambda count: np.ones((count, 1), np.float32),
    "token vectors": lambda count: np.ones((count, 1, 8), np.float32),
    "a number": lambda count: 1.0,
    "a list": lambda count: [[1.0] * 8] * count,
    "None": lambda count: None,
    "float64": lambda count: np.ones((count, 8)),
    "float16": lambda count: np.ones((count, 8), np.float16),
    "integers": lambda count: np.ones((count, 8), np.int64),
    "complex numbers": lambda count: np.ones((count, 8), np.complex64),
}


@pytest.mark.parametrize("kind", WRONG)
@pytest.mark.parametrize("texts", [["cat", "dog", "mat"], MANY])
def test_outputs_of_another_shape_or_dtype_are_refused(tiny, kind, texts):
    model = embedder.Embedder(tiny, backend=FixedBackend(lambda count: {"embedding": WRONG[kind](count)}))
    with pytest.raises(ArtifactError, match=r"gave the output 'embedding' as .* it should be float32 \(\d+, 8\)"):
        model.encode(texts)


def test_an_output_that_is_missing_is_refused(tiny):
    model = embedder.Embedder(tiny, backend=FixedBackend(lambda count: {"other": np.ones((count, 8), np.float32)}))
    with pytest.raises(ArtifactError, match="gave the output 'embedding' as NoneType"):
        model.encode("cat")


@pytest.mark.parametrize("outputs", [None, [np.ones((1, 8), np.float32)], np.ones((1, 8), np.float32)])
def test_a_backend_that_gives_no_mapping_is_refused(tiny, outputs):
    model = embedder.Embedder(tiny, backend=FixedBackend(lambda count: outputs))
    with pytest.raises(ArtifactError, match=r"the backend gave \w+ instead of its outputs by name.* float32 \(1, 8\)"):
        model.encode("cat")


def test_images_with_outputs_of_another_shape_are_refused(tiny, monkeypatch):
    add_image_graph(tiny)
    monkeypatch.setattr(cpu.CpuBackend, "run", lambda *args, **options: {"embedding": np.ones((1, 8), np.float32)})
    model = embedder.Embedder(tiny, threads=1)
    with pytest.raises(ArtifactError, match=r"as float32 \(1, 8\)\. For a batch of 2 it should be float32 \(2, 8\)"):
        model.encode([Image.new("RGB", (2, 2))] * 2)


def test_scores_of_another_shape_are_refused(tmp_path):
    artifact = write_tiny_ranker(tmp_path / "ranker", labels=3)
    backend = FixedBackend(lambda count: {"score": np.ones((count, 1), np.float32)})
    loaded = engine.Engine(embedder.artifact.locate.open_artifact(artifact), embedder.options.LoadSettings(), backend)
    with pytest.raises(ArtifactError, match=r"gave the output 'score' as float32 \(1, 1\)"):
        list(loaded.run([embedder.inputs.Pair("a", "b")], embedder.options.EncodeSettings()))


@pytest.fixture(params=["nan", "inf", "-inf"])
def broken(request, make_artifact):
    """An artifact that gives texts with the word "dog" a vector that is not finite."""
    directory = make_artifact(normalize=False)
    table = TABLE.copy()
    table[VOCABULARY["dog"], 3] = float(request.param)
    (directory / "model.onnx.data").write_bytes(table.tobytes())
    redescribe(directory)
    return directory


def test_numbers_that_are_not_finite_are_refused_and_the_input_is_named(broken):
    model = embedder.Embedder(broken)
    assert model.encode(["the cat", ""]).shape == (2, 8)
    for texts, index in ((["the cat", "", "a dog", "dog"], 2), ("dog", 0), (["cat"] * 3000 + ["dog"], 3000)):
        with pytest.raises(ArtifactError, match=rf"gave NaN or infinity for input {index} \(counted from 0\)"):
            model.encode(texts)


def test_blocks_before_a_number_that_is_not_finite_are_yielded(broken):
    stream = embedder.Embedder(broken).encode_iter(["cat"] * 1024 + ["mat", "dog"])
    assert len(next(stream)) == 1024
    with pytest.raises(ArtifactError, match="for input 1025 "):
        next(stream)


def test_an_input_among_texts_and_images_is_named(broken):
    add_image_graph(broken)
    model = embedder.Embedder(broken)
    image = Image.new("RGB", (2, 2))
    with pytest.raises(ArtifactError, match="for input 3 "):
        model.encode([image, "cat", image, "dog"])
    with pytest.raises(ArtifactError, match="for input 1 "):
        model.encode_readable([b"no image", "dog"])


def test_an_overflow_of_fp16_is_refused(make_artifact):
    """Numbers above 65,504 become infinite in float16."""
    directory = make_artifact(normalize=False)
    model = onnx.load(directory / "model.onnx")
    (gather,) = [node for node in model.graph.node if node.op_type == "Gather"]
    name, gather.output[0] = gather.output[0], "large"
    place = list(model.graph.node).index(gather) + 1
    for node in (
        onnx.helper.make_node("Cast", ["half"], [name], to=onnx.TensorProto.FLOAT),
        onnx.helper.make_node("Cast", ["large"], ["half"], to=onnx.TensorProto.FLOAT16),
    ):
        model.graph.node.insert(place, node)
    (directory / "model.onnx.data").unlink()
    onnx.save_model(
        model, directory / "model.onnx", save_as_external_data=True, location="model.onnx.data", size_threshold=1024
    )
    table = TABLE.copy()
    table[VOCABULARY["dog"]] = 70_000
    (directory / "model.onnx.data").write_bytes(table.tobytes())
    manifest = read_manifest(directory)
    graph = replace(
        manifest.graphs[0],
        dtype="fp16",
        file=described(directory / "model.onnx"),
        weights=described(directory / "model.onnx.data"),
    )
    write_manifest(replace(manifest, graphs=(graph,)), directory)
    loaded = embedder.Embedder(directory)
    assert loaded.encode("cat").shape == (8,)
    with pytest.raises(ArtifactError, match=r"infinity for input 1 .* load it with another dtype"):
        loaded.encode(["cat", "dog"])


@pytest.mark.skipif(sys.platform == "win32", reason="hard links and modes of POSIX")
def test_a_file_whose_attributes_change_is_the_same_file(tiny, two_sessions):
    model = embedder.Embedder(tiny, threads=2)
    one = model.encode("dog")
    for name in FILES:
        os.link(tiny / name, tiny / f"{name}.link")
        (tiny / name).chmod(0o400)
    np.testing.assert_allclose(model.encode(["dog", *MANY])[0], one, atol=1e-6)
