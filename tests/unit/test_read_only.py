"""No assignment is accepted and then ignored."""

import copy
import pickle

import pytest

from embedder.common.read_only import ReadOnly, ReadOnlyDict
from embedder.encoder import Embedder
from embedder.errors import EmbedderError, SettingError
from embedder.pool import EncoderPool

ATTRIBUTES = {
    "truncate_dim": "pass truncate_dim= to Embedder",
    "similarity_fn_name": "call embedder.cos_sim, dot_score, euclidean_sim or manhattan_sim",
    "prompts": "pass prompt= or prompt_name= to encode",
    "default_prompt_name": "pass prompt_name= to encode",
    "max_seq_length": "pass max_seq_length= to Embedder",
    "device": "pass provider= to Embedder",
    "dimension": "pass truncate_dim= to Embedder",
    "manifest": "make another Embedder with the value that you want",
    "modalities": "make another Embedder",
    "encode": "make another Embedder",
    "colour": "make another Embedder",
}


@pytest.fixture
def model(make_artifact):
    return Embedder(make_artifact(prompts={"query": "query : "}))


@pytest.mark.parametrize("name", ATTRIBUTES)
def test_attributes_of_a_model_cannot_be_set(model, name):
    before = {attribute: getattr(model, attribute, None) for attribute in ATTRIBUTES}
    problem = "does not exist, and cannot be set" if name == "colour" else "cannot be set"
    for change in (lambda: setattr(model, name, 64), lambda: delattr(model, name)):
        for kind in (SettingError, EmbedderError, AttributeError, TypeError):
            with pytest.raises(kind) as raised:
                change()
            assert str(raised.value).startswith(f"Embedder.{name} {problem}: {ATTRIBUTES[name]}")
    assert {attribute: getattr(model, attribute, None) for attribute in ATTRIBUTES} == before


@pytest.mark.parametrize(
    "change",
    [
        lambda prompts: prompts.__setitem__("query", "other"),
        lambda prompts: prompts.__delitem__("query"),
        lambda prompts: prompts.update(query="other"),
        lambda prompts: prompts.setdefault("new", "other"),
        lambda prompts: prompts.pop("query"),
        lambda prompts: prompts.popitem(),
        lambda prompts: prompts.clear(),
        lambda prompts: prompts.__ior__({"query": "other"}),
    ],
)
def test_prompts_cannot_be_changed(model, change):
    for prompts in (model.prompts, model.manifest.prompts):
        with pytest.raises(SettingError, match=r"this dict cannot be changed. Make a copy with dict"):
            change(prompts)
    assert model.prompts == {"query": "query : ", "document": ""}


def test_prompts_cannot_be_extended_in_place(model):
    with pytest.raises(SettingError):
        model.prompts |= {"query": "other"}
    assert model.prompts["query"] == "query : "


def test_the_manifest_cannot_be_changed(model):
    for name in ("prompts", "graphs", "similarity_fn_name", "dimension"):
        with pytest.raises(AttributeError):
            setattr(model.manifest, name, None)
    for value in (model.manifest.prompts, model.manifest.tools, model.manifest.extra):
        with pytest.raises(SettingError):
            value["key"] = "value"


def test_attributes_of_a_pool_cannot_be_set(tiny):
    with EncoderPool(tiny, 1) as pool:
        with pytest.raises(SettingError, match=r"EncoderPool\.processes cannot be set: make another EncoderPool"):
            pool.processes = ()
        with pytest.raises(SettingError, match=r"EncoderPool\.workers does not exist, and cannot be set"):
            pool.workers = 3


def test_a_read_only_dict_is_a_dict():
    values = ReadOnlyDict(a=1)
    assert values == {"a": 1}
    assert values | {"b": 2} == {"a": 1, "b": 2}
    for made in (pickle.loads(pickle.dumps(values)), copy.copy(values), copy.deepcopy(values)):
        assert made == values
        assert type(made) is ReadOnlyDict
    changed = dict(values)
    changed["a"] = 2
    assert values == {"a": 1}


def test_a_class_sets_its_own_private_attributes():
    class Thing(ReadOnly):
        def __init__(self):
            self._value = 3

    thing = Thing()
    assert thing._value == 3
    with pytest.raises(SettingError, match=r"Thing\.value does not exist, and cannot be set: make another Thing"):
        thing.value = 4
