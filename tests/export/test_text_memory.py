"""The memory that long texts need, as the export measures it."""

import os
import sys
from dataclasses import replace

import pytest
from embedder_export.verify import memory
from embedder_export.verify.memory import fit, measure_text_memory
from hypothesis import given
from hypothesis import strategies as st

from embedder.artifact.manifest import read_manifest
from embedder.artifact.text_memory import TextMemory, text_memory
from tests.checkpoints import write_checkpoint
from tests.exports import export_fp32

LENGTHS = (1024, 2048, 4096)


@given(st.integers(10_000, 10**6), st.sampled_from([0, 96, 1000]), st.integers(-(10**7), 10**8))
def test_the_memory_of_three_texts_gives_both_terms(token, pair, constant):
    peaks = tuple(constant + token * length + pair * length**2 for length in LENGTHS)
    found = fit(LENGTHS, peaks)
    share = pair * LENGTHS[-1] / (token + pair * (LENGTHS[1] + LENGTHS[2]))
    if share > 0.25 or pair == 0:
        assert abs(found.bytes_per_token - token) <= 1
        assert found.bytes_per_pair == pair
    else:  # what grows with the square is no more than the noise
        assert found.bytes_per_pair == 0
        assert found.bytes_per_token >= token


@given(st.lists(st.floats(-0.02, 0.02), min_size=3, max_size=3))
def test_noise_is_no_square(noise):
    peaks = tuple(round(80_000 * length * (1 + change)) for length, change in zip(LENGTHS, noise, strict=True))
    assert fit(LENGTHS, peaks).bytes_of(1, 32768) == pytest.approx(80_000 * 32768, rel=0.2)


def test_memory_that_does_not_grow():
    assert fit(LENGTHS, (5_000_000, 5_000_000, 4_000_000)) == TextMemory(0, 0)


def test_models_of_short_texts_are_not_measured(tmp_path):
    export_fp32(write_checkpoint(tmp_path / "checkpoint"), tmp_path / "artifact")
    assert "text_memory" not in read_manifest(tmp_path / "artifact").extra


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux says how much memory a process had at most")
def test_models_of_long_texts_are_measured(tmp_path, monkeypatch):
    # Modules of the working directory must not take the place of others.
    (tmp_path / "numpy.py").write_text("raise SystemExit(3)")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, map(os.path.abspath, sys.path))))
    monkeypatch.chdir(tmp_path)
    artifact, lines = tmp_path / "artifact", []
    export_fp32(write_checkpoint(tmp_path / "checkpoint", positions=8192), artifact, lines.append)
    assert "measuring the memory that model.onnx takes for texts of up to 4,096 tokens" in lines
    manifest = read_manifest(artifact)
    found = text_memory(manifest, manifest.graphs[0])
    assert found is not None
    assert found.bytes_per_pair == 0
    assert 100 < found.bytes_per_token < 100_000


def test_a_failed_measurement_leaves_the_field_out(tmp_path, monkeypatch):
    artifact = tmp_path / "artifact"
    manifest = export_fp32(write_checkpoint(tmp_path / "checkpoint"), artifact)
    manifest = replace(manifest, extra={"positions": 8192})
    monkeypatch.setattr(sys, "executable", "/bin/false")
    lines = []
    assert measure_text_memory(artifact, manifest, lines.append) == manifest
    assert lines[-1] == "the memory of model.onnx could not be measured, so long texts are not checked"
    monkeypatch.setattr(memory, "_RESET_PEAK", tmp_path / "nowhere")
    assert measure_text_memory(artifact, manifest, lines.append) == manifest
    assert len(lines) == 2
