"""A device that is slow, fails and runs out of memory: nothing is lost, nothing comes twice, and the order holds."""

import threading
from dataclasses import dataclass, field
from itertools import count, repeat

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embedder import CrossEncoder, DeviceMemoryError, Embedder
from embedder.errors import ArtifactError
from tests.tiny import DIMENSION, add_image_graph, expected_of_image, ids_of, write_tiny_artifact, write_tiny_ranker

WORDS = ("a", "b", "c", "cat", "dog", "mat", "sat", "the")
LONGEST = 16  # tokens that the tiny model reads
TEXT = st.lists(st.sampled_from(WORDS), max_size=LONGEST).map(" ".join)


@dataclass(eq=False)
class Gpu:
    """A device and a backend in one. Like a GPU, it runs several batches and has threads beside them.

    Attributes:
        capacity: for each call, most tokens that fit into its memory.
        before: called before each call.
    """

    capacity: object = field(default_factory=lambda: repeat(10**9))
    before: object = lambda: None
    token_budget: int = 64
    name: str = "abacus"
    threads: int = 3
    preparing_threads: int = 2
    unpadded_from_tokens: int | None = None
    preferred_dtypes: tuple[str, ...] = ("fp32",)
    calls: list = field(default_factory=list)

    def __post_init__(self):
        self.lock = threading.Lock()

    @property
    def device(self):
        return self

    def open(self, files):
        return self

    def run(self, feeds, *, single_batch=False):
        self.before()
        first = next(iter(feeds.values()))
        tokens = first.size if first.ndim == 2 else 5 * len(first)
        with self.lock:
            self.calls.append((len(first), tokens))
            capacity = next(self.capacity)
        if tokens > capacity:
            raise DeviceMemoryError("too little memory")
        if first.ndim == 4:
            values = [expected_of_image(np.rint(pixels.transpose(1, 2, 0) * 255)) for pixels in first]
        else:
            values = [np.full(DIMENSION, vector_of(ids)) for ids in feeds["input_ids"].tolist()]
        names = ("embedding", "score")
        return {name: np.array(values, np.float32)[:, : 1 if name == "score" else None] for name in names}


def vector_of(ids):
    """A number that depends on each token and its place. Padding does not count."""
    return sum(number * place for place, number in enumerate(ids, 1))


def expected(texts):
    return [[vector_of(cut(ids_of(text)))] * DIMENSION for text in texts]


def cut(ids):
    return ids if len(ids) <= LONGEST else ids[: LONGEST - 1] + ids[-1:]


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return write_tiny_artifact(tmp_path_factory.mktemp("tiny") / "model")


@pytest.fixture(scope="module")
def with_images(tmp_path_factory):
    directory = write_tiny_artifact(tmp_path_factory.mktemp("images") / "model")
    add_image_graph(directory)
    return directory


CAPACITIES = st.lists(st.integers(LONGEST, 80), min_size=1, max_size=20)


@given(st.lists(TEXT, max_size=60), CAPACITIES, st.none() | st.integers(1, 9), st.booleans())
def test_each_text_has_its_own_vector_however_often_memory_runs_out(path, texts, capacities, batch_size, stream):
    gpu = Gpu(capacity=(capacities[number % len(capacities)] for number in count()))
    model = Embedder(path, backend=gpu)
    if stream:
        arrays = list(model.encode_iter(iter(texts), batch_size=batch_size))
        vectors = np.concatenate(arrays) if arrays else np.empty((0, DIMENSION))
    else:
        vectors = model.encode(texts, batch_size=batch_size)
    assert vectors.tolist() == expected(texts)
    model.close()


def test_batches_stay_small_after_memory_has_run_out(path):
    gpu = Gpu(capacity=repeat(40))
    model = Embedder(path, backend=gpu)
    texts = [" ".join(WORDS[number % 8] for number in range(seed, seed + seed % 14)) for seed in range(500)]
    assert model.encode(texts).tolist() == expected(texts)
    assert 40 < max(tokens for _, tokens in gpu.calls) <= 64
    gpu.calls.clear()
    assert model.encode(texts).tolist() == expected(texts)
    assert max(tokens for _, tokens in gpu.calls) <= 32
    assert model.batch_limits.token_budget <= 32


class OneArray(Gpu):
    """A device that returns its own array each time."""

    def run(self, feeds, *, single_batch=False):
        outputs = super().run(feeds)
        if not hasattr(self, "array"):
            self.array = np.empty((99, DIMENSION), np.float32)
        self.array[: len(outputs["embedding"])] = outputs["embedding"]
        return {"embedding": self.array[: len(outputs["embedding"])]}


def test_the_parts_of_a_batch_may_share_an_array_of_the_backend(with_images):
    model = Embedder(with_images, backend=OneArray(capacity=repeat(20), threads=1, preparing_threads=0))
    texts = ["a cat", "a dog", "the mat", "cat sat", "dog sat", "mat", "a"]
    assert model.encode(texts).tolist() == expected(texts)
    images = model.encode(list(PIXELS[:9]))
    np.testing.assert_allclose(images, [expected_of_image(pixels) for pixels in PIXELS[:9]], atol=1e-5)


LONG = "the cat sat on a mat"
TOO_LONG = (
    r"'abacus' has too little free memory for input {} \(counted from 0\), which has 8 tokens\. Release other models"
)


@pytest.mark.parametrize("call", ["encode", "encode_iter", "encode_batch", "one"])
def test_a_text_that_does_not_fit_alone_is_named(path, call):
    model = Embedder(path, backend=Gpu(capacity=repeat(7)))
    texts = ["a", "b", "a", "c"] + ["dog"] * 2000 + [LONG, "cat"]
    calls = {
        "encode": lambda: model.encode(texts),
        "encode_iter": lambda: list(model.encode_iter(texts)),
        "encode_batch": lambda: model.encode_batch(model.tokenize_texts(texts[-6:])),
        "one": lambda: model.encode(LONG),
    }
    index = {"encode": 2004, "encode_iter": 2004, "encode_batch": 4, "one": 0}[call]
    with pytest.raises(DeviceMemoryError, match=TOO_LONG.format(index)):
        calls[call]()
    assert model.encode(["cat", "dog"]).tolist() == expected(["cat", "dog"])


def test_a_pair_that_does_not_fit_alone_is_named(tmp_path):
    model = CrossEncoder(write_tiny_ranker(tmp_path / "ranker"), backend=Gpu(capacity=repeat(7)))
    with pytest.raises(DeviceMemoryError, match="for input 1"):
        model.predict([("a", "b"), ("the cat sat", "on a mat"), ("a", "c")])
    assert model.predict([("a", "b"), ("a", "c"), ("b", "c")]).shape == (3,)


PIXELS = np.random.default_rng(0).integers(0, 256, (150, 2, 2, 3), np.uint8)


@settings(max_examples=20)
@given(st.lists(st.integers(5, 200), min_size=1, max_size=20), st.none() | st.integers(1, 90))
def test_each_image_has_its_own_vector_however_often_memory_runs_out(with_images, capacities, batch_size):
    gpu = Gpu(capacity=(capacities[number % len(capacities)] for number in count()), token_budget=300)
    model = Embedder(with_images, backend=gpu)
    inputs = [*PIXELS[:100], b"no image", "the cat", *PIXELS[100:], "a dog"]
    result = model.encode_readable(inputs, batch_size=batch_size)
    assert list(result.reasons) == [100]
    assert result.embeddings[[100, 151]].tolist() == expected(["the cat", "a dog"])
    images = np.delete(result.embeddings, [100, 151], axis=0)
    np.testing.assert_allclose(images, [expected_of_image(pixels) for pixels in PIXELS], atol=1e-5)
    model.close()


def test_an_image_that_does_not_fit_alone_is_named(with_images):
    model = Embedder(with_images, backend=Gpu(capacity=repeat(4)))
    with pytest.raises(DeviceMemoryError, match="for input 1 "):
        model.encode(["cat", PIXELS[0], PIXELS[1]])


@settings(max_examples=20)
@given(st.integers(0, 30), st.booleans())
def test_a_failure_reaches_the_caller_and_the_next_call_works(path, failing, stream):
    numbers = count()

    def fail():
        if next(numbers) == failing:
            raise ArtifactError("the device fails")

    model = Embedder(path, backend=Gpu(before=fail, token_budget=16))
    texts = [f"{first} {second}" for first in WORDS for second in WORDS]

    def encode():
        for _ in range(3):
            list(model.encode_iter(texts)) if stream else model.encode(texts)

    with pytest.raises(ArtifactError, match="the device fails"):
        encode()
    assert model.encode(texts).tolist() == expected(texts)
    model.close()


def test_a_stream_that_is_closed_early_starts_no_more_batches(path):
    gpu = Gpu(token_budget=16)
    model = Embedder(path, backend=gpu)
    read = []
    texts = (read.append(number) or WORDS[number % 8] + " a" * (number % 5) for number in count())
    stream = model.encode_iter(texts)
    assert len(next(stream)) == 1024
    stream.close()
    model.close()  # ends the threads after what runs
    assert len(read) <= 1024 * 5
    assert len(gpu.calls) < 5 * 1024


def test_the_error_of_a_stream_comes_after_its_earlier_texts(path):
    def texts():
        yield from (f"{WORDS[number % 8]} {number % 3}" for number in range(3000))
        raise OSError("the file ends here")

    found = []
    with pytest.raises(OSError, match="the file ends here"):
        found.extend(map(len, Embedder(path, backend=Gpu()).encode_iter(texts())))
    assert sum(found) == 3000


def test_so_many_batches_run_at_a_time(path):
    together = threading.Barrier(3, timeout=20)
    gpu = Gpu(before=together.wait, token_budget=12)
    texts = list(WORDS[:6])
    assert Embedder(path, backend=gpu).encode(texts, batch_size=1).tolist() == expected(texts)
    assert len(gpu.calls) == 6


def test_many_threads_of_a_program_share_a_device(path):
    capacities = [70, 20, 33, 64, 16]
    gpu = Gpu(capacity=(capacities[number % 5] for number in count()))
    model = Embedder(path, backend=gpu)
    texts = [" ".join(WORDS[number % 8] for number in range(seed, seed + seed % 14)) for seed in range(300)]
    found = {}
    threads = [
        threading.Thread(target=lambda start=start: found.update({start: model.encode(texts[start:]).tolist()}))
        for start in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {start: expected(texts[start:]) for start in range(8)}
