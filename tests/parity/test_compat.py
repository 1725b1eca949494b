"""Programs give the same results with `sentence_transformers` and with `embedder.compat`.

Each program below is a function of the names that a program imports. Both libraries run it on all-MiniLM-L6-v2.
"""

import inspect

import numpy as np
import pytest

import embedder.compat
from embedder.compat import refusals
from embedder.compat.numpy_tensor import NumpyTensor
from embedder.errors import InputError

torch = pytest.importorskip("torch")
sentence_transformers = pytest.importorskip("sentence_transformers")

TEXTS = [
    "A man is eating food.",
    "A man is eating a piece of bread.",
    "The girl is carrying a baby.",
    "A man is riding a horse.",
    "A monkey is playing drums.",
    "Someone in a gorilla costume is playing a set of drums.",
    "",
    "long text " * 300,
]
QUERY = "A man is eating pasta."
# The vectors of the two libraries differ by less than this.
TOLERANCE = 1e-5


def search_with_tensors(library, model):
    corpus = model.encode(TEXTS, convert_to_tensor=True, show_progress_bar=False)
    query = model.encode_query(QUERY, convert_to_tensor=True)
    scores = library.util.cos_sim(query, corpus)[0]
    best = torch.topk(scores, k=3)
    yield [(TEXTS[index], score.item()) for score, index in zip(*best, strict=True)]
    for hit in library.util.semantic_search(query, corpus, top_k=3)[0]:
        yield TEXTS[hit["corpus_id"]], hit["score"]
    yield model.similarity(query, corpus).shape, f"{scores[0]:.3f}", scores.argmax().item()
    yield library.util.normalize_embeddings(corpus), library.util.truncate_embeddings(corpus, 3)


def compare(library, model):
    a, b = model.encode([TEXTS[0], TEXTS[2]]), model.encode([TEXTS[1], TEXTS[3]])
    for name in ("cosine", "dot", "euclidean", "manhattan"):
        model.similarity_fn_name = name
        yield model.similarity(a, b), model.similarity_pairwise(a, b), model.similarity(a[0], b[0]).item()
    model.similarity_fn_name = library.SimilarityFunction.DOT_PRODUCT
    yield model.similarity_fn_name, float(library.util.pytorch_cos_sim(a[0], b[0])), library.util.dot_score(a[0], b)
    yield library.util.pairwise_angle_sim(a, b), library.util.pairwise_cos_sim(list(a), b.tolist())


def mine(library, model):
    pairs = library.util.paraphrase_mining(model, TEXTS[:6], batch_size=2, top_k=2)
    yield [(i, j) for _, i, j in pairs], [score for score, _, _ in pairs]
    yield library.util.community_detection(model.encode(TEXTS[:6]), 0.5, 2)
    yield library.util.paraphrase_mining_embeddings(
        model.encode(TEXTS[:4], convert_to_tensor=True), score_function=library.util.dot_score
    )


def use_prompts(library, model):
    model.prompts = {"query": "query: ", "passage": "passage: "}
    model.default_prompt_name = "passage"
    yield model.encode_query("a"), model.encode_document(["a"]), model.encode("a"), model.encode("a", prompt="")
    yield model.encode(["a"], "query", None, 4, False, "sentence_embedding", "float32", True, False, None, True)


def change_results(library, model):
    yield model.get_embedding_dimension(), model.max_seq_length, str(model.device), model.device.type
    with model.truncate_embeddings(8):
        yield model.encode(TEXTS, normalize_embeddings=True), model.get_embedding_dimension()
    yield model.encode(TEXTS, truncate_dim=999), model.encode([]), model.encode([], convert_to_tensor=True)
    yield model.encode([], convert_to_numpy=False), model.encode("a", convert_to_numpy=False)
    yield model.encode(["a", "b"], convert_to_numpy=False)
    binary = model.encode(TEXTS, precision="ubinary")
    yield binary.dtype.name, binary.shape
    tokens = model.tokenizer(["hello world", "a"], padding=True, truncation=True, return_tensors="pt")
    yield tokens["input_ids"], tokens["attention_mask"], model.tokenizer.tokenize("Hello world")
    model.max_seq_length = 6
    yield model.encode(TEXTS), len(model.tokenizer.encode(TEXTS[0]))


def plain(value):
    """Return tensors as arrays and nested values as lists."""
    if isinstance(value, torch.Tensor):
        return value.numpy()
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value


def check_same(found, expected):
    if isinstance(expected, list):
        assert len(found) == len(expected)
        for pair in zip(found, expected, strict=True):
            check_same(*pair)
    elif isinstance(expected, float | np.ndarray):
        assert np.asarray(found).shape == np.asarray(expected).shape
        np.testing.assert_allclose(found, expected, atol=TOLERANCE)
    else:
        assert found == expected


@pytest.mark.slow
@pytest.mark.parametrize("program", [search_with_tensors, compare, mine, use_prompts, change_results])
def test_program(program, minilm, minilm_checkpoint):
    reference = sentence_transformers.SentenceTransformer(str(minilm_checkpoint), device="cpu")
    expected = list(program(sentence_transformers, reference))
    found = list(program(embedder.compat, embedder.compat.SentenceTransformer(str(minilm), device="cpu")))
    check_same(plain(found), plain(expected))
    assert [type(item).__name__ for item in found] == [type(item).__name__ for item in expected]


def test_every_name_is_here_or_refused():
    for name, refused in (
        ("SentenceTransformer", refusals.MEMBERS),
        ("CrossEncoder", refusals.CROSS_ENCODER_MEMBERS),
    ):
        members = {member for member in dir(getattr(sentence_transformers, name)) if not member.startswith("_")}
        assert members - {*dir(getattr(embedder.compat, name)), *refused} == set()
    util = {name for name in sentence_transformers.util.__all__ if not name.startswith("_")}
    assert util - {*embedder.compat.util.__all__, *refusals.UTIL} == set()
    assert {*sentence_transformers.__all__} - {*embedder.compat.__all__, *refusals.PACKAGE} == set()


@pytest.mark.parametrize(
    "name", ["__init__", "encode", "encode_multi_process", "start_multi_process_pool", "similarity"]
)
def test_methods_have_the_arguments_of_sentence_transformers(name):
    def arguments(kind):
        parameters = inspect.signature(getattr(kind, name)).parameters.values()
        old = ("inputs", "tokenizer_kwargs")  # `inputs` may be called `sentences`, and has a default for that
        return [(each.name, each.kind, each.default) for each in parameters if each.name not in old]

    ours, theirs = embedder.compat.SentenceTransformer, sentence_transformers.SentenceTransformer
    if name == "__init__":
        assert sorted(map(str, arguments(ours))) == sorted(map(str, arguments(theirs)))
    else:
        assert arguments(ours) == arguments(theirs)


def test_functions_have_the_arguments_of_sentence_transformers():
    for name in ("semantic_search", "paraphrase_mining", "paraphrase_mining_embeddings", "community_detection"):
        ours, theirs = getattr(embedder.compat.util, name), getattr(sentence_transformers.util, name)
        for mine, other in zip(*(inspect.signature(each).parameters.values() for each in (ours, theirs)), strict=True):
            assert (mine.name, mine.kind) == (other.name, other.kind)
            assert mine.default == other.default or mine.name == "score_function"


def test_evaluators_take_the_similarity_functions():
    for function in embedder.compat.SimilarityFunction:
        assert sentence_transformers.SimilarityFunction(function).value == function.value


NUMBERS = np.random.default_rng(3).normal(size=(4, 3)).astype(np.float32)
CALLS = (
    *(lambda x: x[0], lambda x: x[:, 1], lambda x: x[x > 0], lambda x: x[[0, 2]], lambda x: x[1][2].item()),
    *(lambda x: 1 - x, lambda x: x * 2 + x, lambda x: -x, lambda x: x > 0.5, lambda x: (x > 0).sum(), abs),
    *(lambda x: x.max(), lambda x: x.max(1), lambda x: x.max(dim=0, keepdim=True).values, lambda x: x.min(dim=1)[1]),
    *(lambda x: x.argmax(), lambda x: x.argmax(dim=1), lambda x: x.argmin(dim=0, keepdim=True)),
    *(lambda x: x.topk(2), lambda x: x.topk(2, dim=0, largest=False), lambda x: x[0].topk(k=3).indices.tolist()),
    *(lambda x: x.sort(descending=True), lambda x: x.sort(dim=0), lambda x: x.argsort(descending=True), len),
    *(lambda x: x.mean(), lambda x: x.mean(dim=1, keepdim=True), lambda x: x.sum(0), lambda x: x.std()),
    *(lambda x: x.max(axis=1), lambda x: x.sum(axis=1, keepdims=True), lambda x: x.argsort(axis=0, stable=True)),
    *(lambda x: (x > 0).any(dim=1), lambda x: (x > 0).all(0), lambda x: x.topk(2, axis=0), lambda x: x.sum((0, 1))),
    *(lambda x: x.std(dim=1), lambda x: x.var(0, unbiased=False), lambda x: x.softmax(dim=1), lambda x: x.abs()),
    *(lambda x: x.nonzero(as_tuple=True), lambda x: x.ravel(), lambda x: x.clip(0, 1), lambda x: str(x.shape)),
    *(lambda x: repr(x.round()), lambda x: repr(x > 0), lambda x: repr(x[0][0]), lambda x: repr(x[:0])),
    *(lambda x: x.round(decimals=2), lambda x: x.clamp(min=0), lambda x: x.clamp(-0.1, 0.1), lambda x: x.nonzero()),
    *(lambda x: (x > 9).any(), lambda x: (x < 9).all(), lambda x: x.flatten(), lambda x: x.view(-1), lambda x: x.T),
    *(
        lambda x: x.reshape(2, 6),
        lambda x: x.unsqueeze(0).squeeze(),
        lambda x: x.unsqueeze(1).squeeze(0),
        lambda x: x.t(),
    ),
    *(lambda x: x.transpose(0, 1), lambda x: x.diagonal(), lambda x: x[:3].diag(), lambda x: x[0].diag()),
    *(lambda x: x.triu(diagonal=1), lambda x: x.tril(), lambda x: x.clone().fill_diagonal_(0), lambda x: x.double()),
    *(lambda x: (x * 10).long(), lambda x: x.size(), lambda x: x.size(0), lambda x: (x.dim(), x.ndim, x.numel())),
    *(lambda x: [row.tolist() for row in x], lambda x: f"{x[0][1]:.3f}", lambda x: sorted(x[0], reverse=True)),
    *(lambda x: repr(x[:, :2]), lambda x: x.cpu().detach().numpy(), lambda x: x.tolist(), lambda x: x.float()),
)


@pytest.mark.parametrize("number", range(len(CALLS)))
def test_numbers_without_torch_answer_as_a_tensor_does(number):
    found, expected = (CALLS[number](kind(NUMBERS.copy())) for kind in (NumpyTensor, torch.from_numpy))
    for ours, theirs in zip(
        *((each if isinstance(each, tuple) else (each,)) for each in (found, expected)), strict=True
    ):
        check_same(np.asarray(ours).tolist() if isinstance(theirs, list | str) else ours, plain(theirs))


def test_functions_of_torch_take_numbers_that_are_older_than_the_import_of_torch():
    numbers, tensor = NumpyTensor(NUMBERS), torch.from_numpy(NUMBERS)
    for found, expected in (
        (torch.topk(numbers, k=2).values, torch.topk(tensor, k=2).values),
        (torch.cat([numbers, numbers]), torch.cat([tensor, tensor])),
        (tensor * numbers, tensor * tensor),
        (torch.softmax(input=numbers, dim=1), torch.softmax(tensor, dim=1)),
    ):
        torch.testing.assert_close(found, expected)


def test_tensors_at_the_border():
    util = embedder.compat.util
    numbers = torch.from_numpy(NUMBERS)
    for tensor in (numbers, numbers.to_sparse(), list(numbers), numbers.double()):
        torch.testing.assert_close(util.cos_sim(tensor, NUMBERS), sentence_transformers.util.cos_sim(numbers, numbers))
    half = numbers.bfloat16()
    torch.testing.assert_close(util.dot_score(half, half), sentence_transformers.util.dot_score(half, half))
    with pytest.raises(
        InputError, match=r"requires gradients, which embedder does not compute. Pass tensor.detach\(\)"
    ):
        util.cos_sim(numbers.requires_grad_(), numbers)
