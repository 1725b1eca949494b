"""Options and settings: checked once, frozen, and refused by name if they are unknown."""

import dataclasses
import typing

import numpy as np
import pytest

from embedder import EncodeOptions, EncodeSettings
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
    "chunk_size": "use EncoderPool(model).encode(..., chunk_size=...)",
    "dtype": "choose the graph when you load the model: Embedder(model, dtype=...)",
    "graph": "choose the graph when you load the model: Embedder(model, dtype=...)",
    "colour": "known are prompt_name, prompt, batch_size",
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
@pytest.mark.parametrize("option", ["threads", "truncate_dim"])
def test_wrong_options_of_a_load_are_named(tiny, option, value):
    for make in (LoadSettings, lambda **options: Embedder(tiny, **options)):
        with pytest.raises(InputError, match=f"{option} should be a whole number, at least 1"):
            make(**{option: value})


def test_truncate_dim_of_a_load_is_at_most_the_models(tiny):
    with pytest.raises(InputError, match="truncate_dim should be a whole number, at least 1 and at most 8, not 9"):
        Embedder(tiny, truncate_dim=9)
