"""Options and settings: checked once, frozen, and refused by name if they are unknown."""

import dataclasses
import typing

import numpy as np
import pytest

from embedder import EncodeOptions, EncoderPool, EncodeSettings, hints
from embedder.encoder import Embedder
from embedder.errors import InputError
from embedder.options import LoadSettings

# Options that `encode` does not have, and the start of the hint. Most are options of sentence-transformers.
HINTS = {
    "errors": "encode returns one vector for each input. encode_readable",
    "device": "choose the device when you load the model: Embedder(model, provider=...)",
    "convert_to_numpy": "encode always returns a NumPy array",
    "convert_to_tensor": "encode returns a NumPy array. torch.from_numpy(array)",
    "output_value": "encode always returns sentence embeddings",
    "pool": "use EncoderPool(model).encode(...)",
    "target_devices": "use EncoderPool(model).encode(...)",
    "sentences": "the inputs are the first argument: encode(texts)",
    "task": "pass prompt= or prompt_name=, or call encode_query or encode_document",
    "instruction": "pass prompt=",
    "max_seq_length": "pass it when you load the model: Embedder(model, max_seq_length=...)",
    "max_length": "pass the limit when you load the model: Embedder(model, max_seq_length=...)",
    "num_workers": "pass threads= when you load the model: Embedder(model, threads=...)",
    "chunk_size": "use EncoderPool(model).encode(..., chunk_size=...)",
    "dtype": "choose the graph when you load the model: Embedder(model, dtype=...)",
    "graph": "choose the graph when you load the model: Embedder(model, dtype=...)",
    "colour": "known are prompt_name, prompt, batch_size",
}

# Options that `Embedder` does not have, and the start of the hint.
LOAD_HINTS = {
    "model_name_or_path": "the model's name or path is the first argument: Embedder(model)",
    "model_name": "the model's name or path is the first argument: Embedder(model)",
    "modules": "export the checkpoint with embedder-export",
    "device": "pass provider= instead. Without it, a GPU is used if one works",
    "providers": "pass provider= instead. Without it, a GPU is used if one works",
    "prompts": "pass prompt= or prompt_name= to encode",
    "default_prompt_name": "pass prompt_name= to encode, or call encode_query and encode_document",
    "similarity_fn_name": "call embedder.cos_sim, dot_score, euclidean_sim or manhattan_sim on the vectors",
    "cache_folder": "set the environment variable HF_HOME",
    "cache_dir": "set the environment variable HF_HOME",
    "trust_remote_code": "leave it out. Artifacts contain no code",
    "use_auth_token": "pass token= instead",
    "model_kwargs": "pass dtype= to choose the graph",
    "torch_dtype": "pass dtype= to choose the graph",
    "tokenizer_kwargs": "pass max_seq_length= for the limit of a text",
    "processor_kwargs": "pass max_seq_length= for the limit of a text",
    "config_kwargs": "the artifact holds the settings of the model",
    "config_args": "the artifact holds the settings of the model",
    "model_card_data": "leave it out. embedder does not train models",
    "batch_size": "pass it to encode",
    "normalize_embeddings": "pass it to encode",
    "colour": "known are provider, dtype, threads, truncate_dim, max_seq_length, verify",
}
POOL_HINTS = {name: hint for name, hint in LOAD_HINTS.items() if name != "providers"} | {
    "device": "pass providers=, with one for each worker",
    "provider": "pass providers=, with one for each worker",
    "target_devices": "pass providers=, with one for each worker",
    "truncate_dim": "pass it to encode",
    "verify": "leave it out. Each worker checks the files",
    "backend": "leave it out. Each worker uses onnxruntime",
    "colour": "known are providers, dtype, threads, max_seq_length",
}


@pytest.fixture
def model(tiny):
    return Embedder(tiny)


def calls(model):
    return (
        *(model.encode, model.encode_query, model.encode_document, model.encode_readable),
        *(model.encode_iter, model.iter_results),
    )


def test_every_option_is_a_setting():
    fields = {field.name: field for field in dataclasses.fields(EncodeSettings)}
    assert set(EncodeOptions.__annotations__) == set(fields) - {"errors"}
    hints = typing.get_type_hints(EncodeSettings)
    assert {name: hints[name] for name in EncodeOptions.__annotations__} == typing.get_type_hints(EncodeOptions)


@pytest.mark.parametrize("name", HINTS)
def test_unknown_options_are_refused_with_a_hint(model, name):
    for call in calls(model):
        with pytest.raises(InputError) as raised:
            call(["cat"], **{name: None})
        assert str(raised.value).startswith(f"encode has no option {name!r}: {HINTS[name]}")


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("prompt", 3, "prompt should be a string of valid Unicode, not 3"),
        ("prompt", "\ud800", r"prompt should be a string of valid Unicode, not '\\ud800'"),
        *(
            ("batch_size", value, "batch_size should be a whole number, at least 1, not ")
            for value in (0, -1, 1.5, "8", True)
        ),
        *(
            ("truncate_dim", value, "truncate_dim should be a whole number, at least 1")
            for value in (0, -1, 2.0, "3", False)
        ),
        *(("show_progress_bar", value, "show_progress_bar should be True or False, not ") for value in (1, "yes")),
        *(("normalize_embeddings", value, "normalize_embeddings should be True or False") for value in (None, 1, "no")),
        *(("read_paths", value, "read_paths should be True or False, not ") for value in (None, 0, "yes")),
        *(("warn_if_cut", value, "warn_if_cut should be True or False, not ") for value in (None, 0, "yes")),
        *(
            ("precision", value, "precision should be one of float32, int8, uint8, binary, ubinary, not ")
            for value in ("int4", None, 8, ["int8"])
        ),
    ],
)
def test_a_wrong_value_is_named(model, option, value, message):
    with pytest.raises(InputError, match=message):
        EncodeSettings(**{option: value})
    for call in calls(model):
        with pytest.raises(InputError, match=message):
            call(["cat"], **{option: value})


def test_numbers_and_flags_of_numpy_are_taken(model):
    vectors = model.encode(["cat"], truncate_dim=np.int64(3), batch_size=np.int32(2), normalize_embeddings=np.True_)
    assert vectors.shape == (1, 3)


def test_unknown_options_of_a_load_are_refused_with_a_hint(tiny):
    assert set(hints.LOAD_HINTS) <= set(LOAD_HINTS)
    assert set(hints.ENCODE_HINTS) <= set(HINTS)
    for kind, expected in ((Embedder, LOAD_HINTS), (EncoderPool, POOL_HINTS)):
        for name, hint in expected.items():
            with pytest.raises(InputError) as raised:
                kind(tiny, **{name: None})
            assert str(raised.value).startswith(f"{kind.__name__} has no option {name!r}: {hint}")


@pytest.mark.parametrize("backend", ["onnx", "openvino", 3, True])
def test_a_backend_that_runs_nothing_is_refused(tiny, backend):
    with pytest.raises(InputError, match=f"runs the graph of texts, not {backend!r}. Leave it out: embedder always"):
        Embedder(tiny, backend=backend)


def test_settings_are_frozen():
    for settings in (EncodeSettings(), LoadSettings()):
        for field in dataclasses.fields(settings):
            with pytest.raises(dataclasses.FrozenInstanceError):
                setattr(settings, field.name, None)


def test_settings_instead_of_options(model):
    settings = EncodeSettings(prompt="the ", truncate_dim=3)
    wanted = model.encode(["cat", "dog"], prompt="the ", truncate_dim=3)
    for call in (model.encode, model.encode_query, model.encode_document):
        np.testing.assert_array_equal(call(["cat", "dog"], settings=settings), wanted)
    np.testing.assert_array_equal(model.encode_readable(["cat", "dog"], settings=settings).embeddings, wanted)
    np.testing.assert_array_equal(next(model.encode_iter(["cat", "dog"], settings=settings)), wanted)
    np.testing.assert_array_equal(next(model.iter_results(["cat", "dog"], settings=settings)).embeddings, wanted)


def test_settings_and_options_together_are_refused(model):
    for call in calls(model):
        with pytest.raises(InputError, match=r"settings and options \(batch_size, truncate_dim\) were both given"):
            call(["cat"], settings=EncodeSettings(), batch_size=3, truncate_dim=3)
        with pytest.raises(InputError, match="settings should be an EncodeSettings, not dict"):
            call(["cat"], settings={"batch_size": 3})


def test_settings_that_a_call_cannot_follow_are_refused(model):
    settings = EncodeSettings(errors="skip")
    for call in (model.encode, model.encode_query, model.encode_document, model.encode_iter):
        with pytest.raises(InputError, match=r"errors='skip' has no effect here: .* encode_readable leaves out"):
            call(["cat"], settings=settings)
    assert model.encode_readable(["cat"], settings=settings).embeddings.shape == (1, 8)
    with pytest.raises(InputError, match="errors should be one of raise, skip, not 'ignore'"):
        EncodeSettings(errors="ignore")


@pytest.mark.parametrize("value", [0, -1, 2.5, "2", True])
@pytest.mark.parametrize("option", ["threads", "truncate_dim", "max_seq_length"])
def test_wrong_options_of_a_load_are_named(tiny, option, value):
    for make in (LoadSettings, lambda **options: Embedder(tiny, **options)):
        with pytest.raises(InputError, match=f"{option} should be a whole number, at least 1"):
            make(**{option: value})


def test_truncate_dim_of_a_load_is_at_most_the_models(tiny):
    with pytest.raises(InputError, match="truncate_dim should be a whole number, at least 1 and at most 8, not 9"):
        Embedder(tiny, truncate_dim=9)
