"""The verdict from the files of settings alone, for models that only transformers 5 has, or no transformers."""

import pytest
from embedder_export.checkpoint.settings_files import read_settings_files
from embedder_export.support import NATIVE, Support, check_support

from tests.decoders import DECODERS, OF_VERSION_5, write_decoder
from tests.remote_models import write_jina_v2
from tests.rotary_models import MODELS, convert_to_hub, write_rotary


def support_of(directory):
    """Return the verdict without the weights and the vocabulary. Other tests here export the same models natively."""
    for path in [*directory.rglob("*.safetensors"), *directory.rglob("tokenizer.json")]:
        path.write_bytes(b"")
    return check_support("org/name", read_settings_files(directory))


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("labels", [0, 2])
def test_rotary_models(name, labels, tmp_path):
    checkpoint = write_rotary(tmp_path / "checkpoint", name, labels=labels)
    assert support_of(checkpoint) == Support(NATIVE)


@pytest.mark.parametrize("name", MODELS)
def test_rotary_models_in_the_layout_of_the_hub(name, tmp_path):
    write_rotary(tmp_path / "checkpoint", name)
    assert support_of(convert_to_hub(tmp_path / "checkpoint", name)) == Support(NATIVE)


def test_jina_v2(tmp_path):
    assert support_of(write_jina_v2(tmp_path / "checkpoint")) == Support(NATIVE)


@pytest.mark.parametrize("name", OF_VERSION_5)
def test_decoders(name, tmp_path):
    assert support_of(write_decoder(tmp_path / "checkpoint", DECODERS[name])) == Support(NATIVE)
