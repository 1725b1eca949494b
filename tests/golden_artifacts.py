"""Write the golden artifacts in tests/golden: small artifacts of every released format of the manifest.

Their names are `artifact-vFORMAT[-KIND]`. The files of a released format never change. When the format changes, keep
the old directories, and run `python -m tests.golden_artifacts` from the root to write the new ones.
"""

import shutil
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from embedder.artifact.manifest import (
    Source,
    read_manifest,
    write_manifest,
)
from embedder.artifact.measurements import Candidate, Parity, Quality, ScoreParity, ScoreQuality
from embedder.artifact.scores import ScoreSettings
from embedder.artifact.upgrades import FORMAT_VERSION
from tests.tiny import (
    MULTI_VECTOR,
    add_image_graph,
    add_int8_graph,
    described,
    redescribe,
    write_tiny_artifact,
    write_tiny_multi_vector,
    write_tiny_ranker,
)

GOLDEN = Path(__file__).parent / "golden"

# The inputs of the vectors in texts.npy, images.npy and prompts.npy, and of the scores in scores.npy.
TEXTS = ("the cat sat", "query", "a b c d e f the cat dog sat on mat document long short word", "")
IMAGES = list(np.random.default_rng(3).integers(0, 256, (4, 2, 2, 3), np.uint8))
PROMPT = "query : "
PAIRS = (("the cat", "a dog sat on"), ("query", ""), ("long " * 20, "short"))
LABELS = 3


def write_full(directory: Path) -> None:
    """Write an artifact for texts and images, with int8 graphs, prompts, and a value in every optional field."""
    write_tiny_artifact(directory)
    add_int8_graph(directory)
    add_image_graph(directory)
    manifest = read_manifest(directory)
    assert manifest.images is not None
    fp32, int8, image = manifest.graphs
    # The int8 image graph is a copy of the fp32 image graph.
    for file in (image.file, image.weights):
        shutil.copy(directory / file.name, directory / file.name.replace("image.", "image.int8."))
    int8_image = replace(
        int8,
        modality="image",
        inputs=image.inputs,
        file=described(directory / "image.int8.onnx"),
        weights=described(directory / "image.int8.onnx.data"),
    )
    full = replace(
        manifest,
        source=Source("org/tiny", "0123456789abcdef0123456789abcdef01234567", "f" * 64),
        images=replace(manifest.images, parity=Parity("sentence-transformers 6.2.0", 16, 0.999, 0.25)),
        prompts={"query": PROMPT, "passage": "字: "},
        default_prompt_name="document",
        graphs=(
            replace(fp32, form="fused", candidates=(Candidate("traced", 2.5), Candidate("fused", 1.25))),
            replace(int8, quality=Quality(120, 0.998, 0.99)),
            image,
            int8_image,
        ),
        parity=Parity("sentence-transformers 6.2.0", 120, 1.0, 1e-07),
        tools={"embedder-export": "0.1.0", "onnx": "1.23.2"},
        extra={"org.example": {"note": ["any", "JSON", 1, 0.5, None, True]}},
    )
    write_manifest(full, directory)


def write_prompt(directory: Path) -> None:
    """Write an artifact that leaves the prompt's tokens out of the pooling."""
    write_tiny_artifact(directory, include_prompt=False, image_model="org/tiny-images", similarity_fn_name="dot")


def write_ranker(directory: Path) -> None:
    """Write an artifact that gives a pair of texts three scores, with a value in every field of scores."""
    parity = ScoreParity("sentence-transformers 6.2.0", 120, 1.0, 1e-07)
    scores = ScoreSettings("identity", ("contradiction", "entailment", "neutral"), "longest_first", parity)
    write_tiny_ranker(directory, labels=LABELS, scores=scores)
    manifest = read_manifest(directory)
    (graph,) = manifest.graphs
    measured = replace(graph, score_quality=ScoreQuality(120, 0.9995, 0.01))
    write_manifest(replace(manifest, graphs=(measured,)), directory)


def write_tokens(directory: Path) -> None:
    """Write an artifact that gives a vector for each token, with a value in every field of multi_vector."""
    settings = replace(MULTI_VECTOR, skipped_in=("query", "document"), skipped_first=1)
    write_tiny_multi_vector(directory, multi_vector=settings, similarity_fn_name="meanmaxsim")


# The function that writes each artifact of the current format. Older code wrote the artifacts of older formats.
ARTIFACTS: dict[str, Callable[[Path], None]] = {
    f"artifact-v{FORMAT_VERSION}": write_full,
    f"artifact-v{FORMAT_VERSION}-prompt": write_prompt,
    f"artifact-v{FORMAT_VERSION}-ranker": write_ranker,
    f"artifact-v{FORMAT_VERSION}-tokens": write_tokens,
}


def write_with_golden_files(name: str, directory: Path) -> None:
    """Write the artifact `name` with today's code, and replace its graphs and tokenizer by the golden files.

    Another version of onnx or tokenizers may write the same graph with other bytes. The manifest holds their digests.
    """
    ARTIFACTS[name](directory)
    for file in read_manifest(directory).files:
        shutil.copy(GOLDEN / name / file.name, directory)
    redescribe(directory)


if __name__ == "__main__":
    for name in ARTIFACTS:
        if (GOLDEN / name).exists():
            print(f"tests/golden/{name} exists and stays unchanged")
        else:
            with tempfile.TemporaryDirectory() as scratch:
                ARTIFACTS[name](Path(scratch) / name)
                shutil.copytree(Path(scratch) / name, GOLDEN / name)
            print(f"wrote tests/golden/{name}, format {FORMAT_VERSION}")
