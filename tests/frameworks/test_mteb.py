"""An encoder in mteb: the prompts by task, the scores, and where the results are kept."""

import numpy as np
import pytest

import embedder
from embedder.errors import InputError

PROMPTS = {
    "query": "a ",
    "document": "b ",
    "Retrieval-query": "c ",
    "MockSTSTask": "d ",
}


def encode(encoder, task, prompt_type=None, **options):
    batches = [{"text": ["cat", "dog"]}, {"text": ["sat"]}]
    return encoder.encode(
        batches, task_metadata=task.metadata, hf_split="test", hf_subset="default", prompt_type=prompt_type, **options
    )


def test_example_on_the_page(mteb, check_page):
    check_page("mteb")


def test_prompts_are_those_of_the_task(mteb, make_artifact):
    from mteb.mocks.mock_tasks import MockRetrievalTask, MockSTSTask
    from mteb.models.models_protocols import EncoderProtocol
    from mteb.types import PromptType

    encoder = mteb.EmbedderEncoder(make_artifact("prompted", prompts=PROMPTS))
    assert isinstance(encoder, EncoderProtocol)
    for task, prompt_type, prompt in (
        (MockRetrievalTask(), PromptType.query, "c "),
        (MockRetrievalTask(), PromptType.document, "b "),
        (MockRetrievalTask(), None, ""),
        (MockSTSTask(), None, "d "),
        (MockSTSTask(), PromptType.query, "d "),
    ):
        vectors = encoder.model.encode(["cat", "dog", "sat"], prompt=prompt)
        np.testing.assert_array_equal(encode(encoder, task, prompt_type, batch_size=2), vectors)


@pytest.mark.parametrize("similarity", ["cosine", "dot", "euclidean", "manhattan"])
def test_similarity_is_that_of_the_model(mteb, make_artifact, similarity):
    encoder = mteb.EmbedderEncoder(
        embedder.Embedder(make_artifact("other", similarity_fn_name=similarity, normalize=False))
    )
    a, b = encoder.model.encode(["cat", "dog"]), encoder.model.encode(["sat", "mat"])
    scores = encoder.model.similarity(a, b)
    np.testing.assert_array_equal(encoder.similarity(a, b), scores)
    np.testing.assert_allclose(encoder.similarity_pairwise(a, b), scores.diagonal(), atol=1e-6)
    assert encoder.mteb_model_meta.similarity_fn_name == similarity


def test_tasks_run_and_results_are_kept_apart_by_options(mteb, tiny, tmp_path):
    from mteb import ResultCache, evaluate
    from mteb.mocks.mock_tasks import MockRetrievalTask, MockSTSTask

    cache = ResultCache(tmp_path)
    for options in ({}, {"truncate_dim": 4}):
        encoder = mteb.EmbedderEncoder(embedder.Embedder(tiny, **options))
        result = evaluate(encoder, [MockSTSTask(), MockRetrievalTask()], cache=cache, show_progress_bar=False)
        assert [task.task_name for task in result.task_results] == ["MockSTSTask", "MockRetrievalTask"]
    assert len(list(tmp_path.rglob("MockSTSTask.json"))) == 2


def test_inputs_that_are_no_texts_are_refused(mteb, tiny):
    from mteb.mocks.mock_tasks import MockSTSTask

    with pytest.raises(InputError, match="the task MockSTSTask has inputs other than texts: image"):
        mteb.EmbedderEncoder(tiny).encode(
            [{"image": []}], task_metadata=MockSTSTask().metadata, hf_split="", hf_subset=""
        )
