"""NumKong makes search over bits and 8-bit integers faster, and changes no result."""

import subprocess
import sys
import types

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedder import VectorIndex, dot_score, quantize_embeddings, semantic_search, semantic_search_quantized
from embedder.common.load_once import LoadOnce
from embedder.vectors import code_scoring, hamming, scoring, search, simd
from embedder.vectors.code_scoring import CodeScorer, choose_scorer
from embedder.vectors.hamming import nearest_bits
from embedder.vectors.scoring import Scorer
from tests.vectors import best_by_sorting, pairs_of, random_vectors

numkong = pytest.importorskip("numkong")
pytestmark = pytest.mark.skipif(not numkong.get_capabilities()["haswell"], reason="the CPU has no AVX2")


def without_numkong(call):
    """Return the result of `call` where NumKong is not installed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(simd, "_numkong", LoadOnce(lambda: None))
        return call()


def both(call):
    """Return the result of `call`, after a check that it is the same without NumKong."""
    assert simd.has_simd()
    found = call()
    assert repr(found) == repr(without_numkong(call))
    return found


@st.composite
def byte_rows(draw, dtype=np.uint8, dim=None):
    """Draw rows of bytes among which are copies, and rows of the smallest and the largest numbers."""
    dim = dim or draw(st.integers(1, 70))
    info = np.iinfo(dtype)
    random = np.random.default_rng(draw(st.integers(0, 99)))
    different = random.integers(info.min, info.max, (draw(st.integers(1, 9)), dim), dtype, endpoint=True)
    different = np.concatenate([different, np.full((1, dim), info.min, dtype), np.full((1, dim), info.max, dtype)])
    return different[draw(st.lists(st.integers(0, len(different) - 1), min_size=1, max_size=60))]


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    """Split even small corpora into blocks and tasks."""
    monkeypatch.setattr(hamming, "_MIN_ROWS_PER_TASK", 10)
    monkeypatch.setattr(hamming, "_BYTES_PER_PIECE", 200)
    monkeypatch.setattr(hamming, "_NUMPY_DISTANCES", 20)
    monkeypatch.setattr(code_scoring, "_PRODUCTS_PER_BLOCK", 60)
    monkeypatch.setattr(scoring, "NUMBERS_PER_BLOCK", 300)
    monkeypatch.setattr(search, "_MIN_CROWD", 8)


@given(data=st.data())
def test_nearest_bits(data):
    queries = data.draw(byte_rows())
    corpus = data.draw(byte_rows(dim=queries.shape[1]))
    k = data.draw(st.integers(1, 70))
    scores, rows = both(lambda: tuple(x.tolist() for x in nearest_bits(queries, corpus, k)))
    expected = -(np.unpackbits(queries, axis=1)[:, None] != np.unpackbits(corpus, axis=1)).sum(axis=-1)
    assert [list(zip(*pair, strict=True)) for pair in zip(rows, scores, strict=True)] == best_by_sorting(expected, k)


@given(data=st.data())
@pytest.mark.parametrize("dtype", [np.int8, np.uint8])
def test_integer_queries(dtype, data):
    queries = data.draw(byte_rows(dtype))
    corpus = data.draw(byte_rows(dtype, dim=queries.shape[1]))
    k = data.draw(st.integers(1, 70))
    found = both(lambda: semantic_search(queries, corpus, top_k=k, score_function=dot_score))
    assert pairs_of(found) == best_by_sorting(queries.astype(int) @ corpus.astype(int).T, k)


@given(data=st.data())
def test_float_queries(data):
    """A query is coded by two int8 vectors. The codes only find candidates."""
    corpus = data.draw(byte_rows(np.int8))
    queries = random_vectors(data.draw(st.integers(0, 99)), data.draw(st.integers(1, 4)), corpus.shape[1])
    scale = data.draw(st.sampled_from([1, 1e-30, 1e-42, 1e30, 3e38, 0, np.inf, np.nan]))
    with np.errstate(all="ignore"):
        queries[-1] *= np.float32(scale)
        k = data.draw(st.integers(1, 70))
        found = both(lambda: semantic_search(queries, corpus, top_k=k, score_function=dot_score))
        exact = (queries.astype(np.float64)[:, None] * corpus.astype(np.float64)).sum(axis=-1)
        assert pairs_of(found)[:-1] == best_by_sorting(exact.astype(np.float32), k)[:-1]


@pytest.mark.parametrize("precision", ["int8", "binary"])
def test_index(precision):
    vectors = random_vectors(1, 300, 50)
    vectors[200:] = vectors[:100]
    for similarity in ("cosine", "dot"):
        index = VectorIndex(50, precision=precision, similarity=similarity)
        index.add(vectors)
        index.delete(range(0, 300, 3))
        both(lambda index=index: index.search(vectors[:1], top_k=20))
        both(lambda index=index: index.search(vectors[:30] * 3, top_k=150))


@pytest.mark.parametrize("precision", ["int8", "uint8", "binary", "ubinary"])
def test_quantised_search_and_a_mapped_corpus(precision, tmp_path):
    vectors = random_vectors(1, 300, 50)
    np.save(tmp_path / "codes.npy", quantize_embeddings(vectors, precision))
    codes = np.load(tmp_path / "codes.npy", mmap_mode="r")
    for n in (1, 30):
        call = [vectors[:n], codes, precision, 20]
        both(lambda call=call: semantic_search_quantized(*call, calibration_embeddings=vectors))
        reverse = [vectors[:n], np.asfortranarray(codes)[:, ::-1], precision, 20]
        both(lambda call=reverse: semantic_search_quantized(*call, calibration_embeddings=vectors, rescore=False))


def test_more_dimensions_than_a_sum_of_32_bits_holds(monkeypatch):
    """NumPy scores them."""
    monkeypatch.setattr(simd, "dot_products", None)
    codes = np.full((3, simd.MAX_DIMENSION + 1), 255, np.uint8)
    ((hit, *_),) = semantic_search(codes[0], codes, top_k=2, score_function=dot_score)
    assert hit == {"corpus_id": 0, "score": float(np.float32(255**2 * (simd.MAX_DIMENSION + 1)))}


def fake(**changes):
    """Return NumKong with other attributes. None leaves an attribute out."""
    names = ("get_capabilities", "hammings_pack", "hammings_packed", "dots_pack", "dots_packed", "cdist")
    attributes = {name: getattr(numkong, name) for name in names} | changes
    return types.SimpleNamespace(**{name: value for name, value in attributes.items() if value is not None})


@pytest.mark.parametrize(("vnni", "most"), [(True, 300), (False, 64)])
def test_many_queries_are_multiplied_by_numpy_without_vnni(vnni, most, monkeypatch):
    library = fake(get_capabilities=lambda: {"haswell": True, "icelake": vnni})
    monkeypatch.setattr(simd, "_numkong", LoadOnce(lambda: library))
    codes, floats = random_vectors(1, 300, 8, np.int8), random_vectors(1, 300, 8)
    chosen = [type(choose_scorer(codes[:n], dot_score, codes.dtype)) for n in (1, most, most + 1)]
    assert chosen == [CodeScorer, CodeScorer, CodeScorer if vnni else Scorer]
    chosen = [type(choose_scorer(floats[:n], dot_score, codes.dtype)) for n in (1, most // 2, most // 2 + 1)]
    assert chosen == [CodeScorer, CodeScorer, CodeScorer if vnni else Scorer]


def raising(*_, **__):
    raise TypeError("hammings_pack() takes no keyword arguments")


UNUSABLE = {
    "not installed": None,
    "older, without a function": fake(dots_packed=None),
    "older, with other arguments": fake(hammings_pack=raising),
    "without AVX2": fake(get_capabilities=lambda: {"serial": True, "haswell": False}),
    "of another architecture": fake(get_capabilities=lambda: {"serial": True, "neon": True}),
    "wrong distances": fake(hammings_packed=lambda *args: np.asarray(numkong.hammings_packed(*args)) + 1),
    "wrong products": fake(dots_packed=lambda *args: np.asarray(numkong.dots_packed(*args)).astype(np.int16)),
    "wrong products of one query": fake(cdist=lambda *args: np.asarray(numkong.cdist(*args)) % 2**16),
}


@pytest.mark.parametrize("module", UNUSABLE.values(), ids=UNUSABLE.keys())
def test_numpy_is_used_instead(module, monkeypatch):
    monkeypatch.setitem(sys.modules, "numkong", module)
    monkeypatch.setattr(simd, "_numkong", LoadOnce(simd._load))
    assert not simd.has_simd()
    vectors = random_vectors(1, 30, 16)
    codes = quantize_embeddings(vectors, "ubinary")
    found = semantic_search_quantized(vectors[:5], codes, "ubinary", 3, rescore=False)
    assert [row[0] for row in found] == [{"corpus_id": at, "score": 0.0} for at in range(5)]


def test_numkong_is_imported_when_it_is_needed():
    code = (
        "import sys, numpy as np, embedder\n"
        "vectors = np.ones((3, 8), np.float32)\n"
        "embedder.semantic_search(vectors, vectors)\n"
        "assert 'numkong' not in sys.modules\n"
        "codes = embedder.quantize_embeddings(vectors, 'ubinary')\n"
        "embedder.semantic_search_quantized(vectors, codes, 'ubinary')\n"
        "assert 'numkong' in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
