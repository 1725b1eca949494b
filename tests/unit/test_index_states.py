"""An index of each precision does what a dict of entries would do, in whatever order it is changed."""

import copy
import os
import pickle

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from embedder import VectorIndex
from embedder.errors import InputError
from embedder.vectors.index import storage
from tests.vectors import clustered, ids_of, random_vectors

VECTORS = clustered(1, 200, 12, 20)
VECTORS[50:60] = VECTORS[40:50]
QUERIES = random_vectors(3, 2, 12)

numbers = st.lists(st.integers(0, 199), unique=True, max_size=12)
texts = st.sampled_from([None, "", "a text", "é\0"])
metadata = st.sampled_from([None, {}, {"a": 1}, {"a": 1, "b": [None, "x"]}, {"a": "1"}, {"b": {"a": 1}}])
FILTERS = [{"a": 1}, {"a": "1"}, {"c": 1}, lambda metadata: "b" in metadata, lambda metadata: not metadata]


def passes(filter_, metadata):
    """Return whether an entry passes. No entry has a value that equals another one in Python and not in JSON."""
    metadata = metadata or {}
    if callable(filter_):
        return filter_(metadata)
    return all(metadata.get(key) == value for key, value in filter_.items())


class States(RuleBasedStateMachine):
    """`model` has the row in `VECTORS`, the text and the metadata of each entry by id, in the order of the index."""

    path = precision = None

    @initialize(strings=st.booleans(), similarity=st.sampled_from(["cosine", "dot"]))
    def begin(self, strings, similarity):
        self.strings, self.similarity = strings, similarity
        self.index, self.model = self.new_index(), {}

    def new_index(self):
        return VectorIndex(12, precision=self.precision, similarity=self.similarity)

    def id_of(self, number):
        return f"entry {number}" if self.strings else number

    @rule(rows=numbers, data=st.data())
    def add(self, rows, data):
        free = [row for row in rows if self.id_of(row) not in self.model]
        self.change(self.index.add, free, data)

    @rule(rows=numbers, data=st.data())
    def upsert(self, rows, data):
        self.change(self.index.upsert, rows, data)

    def change(self, call, numbers, data):
        """Add or replace the entries with these ids. Entries that are replaced get other vectors."""
        n = len(numbers)
        rows = [number if self.id_of(number) not in self.model else (number * 7 + 3) % 200 for number in numbers]
        kept = data.draw(st.none() | st.lists(texts, min_size=n, max_size=n))
        objects = data.draw(st.none() | st.lists(metadata, min_size=n, max_size=n))
        ids = [self.id_of(number) for number in numbers]
        call(VECTORS[rows], ids, texts=kept, metadata=objects)
        for id_, row, text, each in zip(ids, rows, kept or [None] * n, objects or [None] * n, strict=True):
            self.model.pop(id_, None)
            self.model[id_] = (row, text, each)

    @rule(number=st.integers(0, 199))
    def add_an_id_that_is_there(self, number):
        if self.id_of(number) in self.model:
            with pytest.raises(InputError, match="is in the index already"):
                self.index.add(VECTORS[:2], [self.id_of(number), self.id_of(777)])

    @rule(data=st.data())
    def delete(self, data):
        if self.model:
            for id_ in (ids := data.draw(st.lists(st.sampled_from(list(self.model)), unique=True))):
                del self.model[id_]
            self.index.delete(ids)

    @rule()
    def delete_all(self):
        self.index.delete(list(self.model))
        self.model = {}

    @rule()
    def save_and_load(self):
        self.index.save(self.path)
        self.index = VectorIndex.load(self.path)

    @rule()
    def copy(self):
        old, self.index = self.index, copy.copy(self.index)
        old.upsert(VECTORS[:1], [self.id_of(500)])
        old.delete(list(self.model))

    @rule()
    def pickle(self):
        self.index = pickle.loads(pickle.dumps(self.index))

    @rule()
    def compare_the_files(self):
        """The file depends on the entries alone, not on how they came to be there."""
        files = []
        for index in (self.index, self.fresh()):
            index.save(self.path)
            files.append(self.path.read_bytes())
        assert files[0] == files[1]
        self.index = VectorIndex.load(self.path)

    @rule(number=st.integers(0, 199))
    def get(self, number):
        id_ = self.id_of(number)
        entry = self.index.get(id_)
        assert (entry is None) == (id_ not in self.model) == (id_ not in self.index)
        if entry is not None:
            row, text, each = self.model[id_]
            assert (entry.id, entry.text, entry.metadata) == (id_, text, each)
            np.testing.assert_allclose(entry.vector, VECTORS[row], atol=1e-6 if self.precision == "float32" else 0.02)

    @rule(top_k=st.sampled_from([1, 5, 300]), filter_=st.sampled_from([None, *FILTERS]))
    def search(self, top_k, filter_):
        expected = self.fresh(filter_).search(QUERIES, top_k)
        assert self.index.search(QUERIES, top_k, filter=filter_) == expected
        for id_ in ids_of(expected)[0]:
            assert id_ in self.model

    def fresh(self, filter_=None):
        """Return a new index to which the entries that pass were added at once."""
        index = self.new_index()
        kept = {id_: entry for id_, entry in self.model.items() if filter_ is None or passes(filter_, entry[2])}
        if kept:
            rows, kept_texts, objects = zip(*kept.values(), strict=True)
            index.add(VECTORS[list(rows)], list(kept), texts=kept_texts, metadata=objects)
        return index

    @invariant()
    def has_the_ids(self):
        assert self.index.ids.tolist() == list(self.model)
        assert len(self.index) == len(self.model)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["float32", "int8", "binary"])
def test_any_sequence_of_changes(precision, tmp_path, monkeypatch):
    monkeypatch.setattr(storage, "_MIN_DELETED_ROWS", 5)  # free memory often
    monkeypatch.setattr(storage, "_ROWS_PER_CHUNK", 7)
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)  # it takes most of the time of a save

    class OfPrecision(States):
        pass

    OfPrecision.precision, OfPrecision.path = precision, tmp_path / "index"
    run_state_machine_as_test(OfPrecision, settings=settings(max_examples=40, stateful_step_count=25))
