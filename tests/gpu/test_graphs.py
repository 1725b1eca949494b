"""The fp16 graphs of every family on a real GPU: their vectors, and where their nodes run. Elsewhere skipped."""

import json

import numpy as np
import onnxruntime
import pytest

from benchmarks.quality import sts
from embedder import Embedder
from tests.exports import export_quietly
from tests.gpu_graphs import CASES, single_feeds, smallest_cosine

SENTENCES = 200


def session_of(path, providers, **settings):
    options = onnxruntime.SessionOptions()
    for name, value in settings.items():
        setattr(options, name, value)
    return onnxruntime.InferenceSession(path, options, providers=providers)


@pytest.mark.parametrize("case", CASES)
def test_vectors_are_those_of_fp32_in_any_batch(tmp_path, case):
    small = CASES[case](tmp_path)
    ours = session_of(small.save_fp16(tmp_path / "fp16"), ["CUDAExecutionProvider"])
    theirs = session_of(small.save_fp32(tmp_path / "fp32"), ["CPUExecutionProvider"])
    for feed in small.feeds:
        vectors, exact = (session.run(None, feed)[0] for session in (ours, theirs))
        assert smallest_cosine(vectors, exact) >= 0.9999
        alone = [ours.run(None, single)[0] for single in single_feeds(feed)]
        np.testing.assert_allclose(vectors, np.concatenate(alone), rtol=0, atol=2e-3 * np.abs(exact).max())


@pytest.mark.parametrize("case", CASES)
def test_no_number_of_a_vector_leaves_the_gpu(tmp_path, case):
    """onnxruntime computes shapes on the CPU. It must compute nothing else there."""
    small = CASES[case](tmp_path)
    prefix = str(tmp_path / "profile")
    path = small.save_fp16(tmp_path / "fp16")
    session = session_of(path, ["CUDAExecutionProvider"], enable_profiling=True, profile_file_prefix=prefix)
    session.run(None, small.feeds[0])
    with open(session.end_profiling(), encoding="utf-8") as stream:
        events = json.load(stream)
    nodes = [event["args"] for event in events if event.get("cat") == "Node" and "output_type_shape" in event["args"]]
    assert nodes
    on_cpu = {
        node["op_name"]
        for node in nodes
        if node.get("provider") == "CPUExecutionProvider"
        and any(kind in ("float", "float16", "double") for output in node["output_type_shape"] for kind in output)
    }
    assert on_cpu == set()


def test_all_minilm_l6_v2(tmp_path, minilm_checkpoint, data):
    """Its score on STS Benchmark changes by less than 0.1."""
    artifact = tmp_path / "artifact"
    export_quietly(minilm_checkpoint, artifact, dtypes=("fp32", "fp16"))
    with Embedder(artifact, provider="cuda", dtype="fp16") as ours, Embedder(artifact, provider="cpu") as exact:
        assert abs(sts(ours) - sts(exact)) < 0.1
        texts = (data / "sts/stsb-en-dev.tsv").read_text(encoding="utf-8").splitlines()[:SENTENCES]
        together = ours.encode(texts)
        assert smallest_cosine(together, exact.encode(texts)) >= 0.9999
        np.testing.assert_allclose(together, np.stack([ours.encode(text) for text in texts]), rtol=0, atol=2e-3)
