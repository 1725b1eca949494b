"""A model that adds vectors to tables of Arrow, as jobs on clusters send and run it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from embedder.common.checks import shown
from embedder.encoder import DEFAULT_MODEL, Embedder
from embedder.errors import ArtifactError, InputError
from embedder.files.arrow import (
    check_text_column,
    first_null,
    import_arrow,
    is_string,
    schema_with,
    strings_of,
    vector_array,
    vector_field,
)
from embedder.files.encoding import job_of
from embedder.files.formats import EMBEDDING, Layout
from embedder.files.inputs import DEFAULT_COLUMN
from embedder.files.journal import Job
from embedder.files.outputs import PARQUET
from embedder.integrations.saved_model import HUB_OPTIONS, SavedModel, checked_options
from embedder.options import EncodeSettings

if TYPE_CHECKING:
    import pyarrow

_PLACE = "the table"
_MAX_SHOWN_FIELDS = 5


class TableEncoder(SavedModel):
    """Adds a column of vectors to tables of Arrow. Safe to share between threads.

    The model is loaded when it is first needed, once in each process. Pickle and `copy` keep the options alone.

    Attributes:
        name: name or path of the model.
        model_kwargs: options of `Embedder`.
        encode_kwargs: options of `encode`.
        column: the column with the texts.
        output_column: the column of the vectors.
        digest: the digest that the model must have. None takes any.

    Example:
        >>> encoder = TableEncoder("all-MiniLM-L6-v2", encode_kwargs={"normalize_embeddings": True})
        >>> encoder.encode(pyarrow.table({"text": ["A cat.", "A dog."]})).column_names  # doctest: +SKIP
        ['text', 'embedding']
    """

    def __init__(
        self,
        model: str | os.PathLike[str] | Embedder = DEFAULT_MODEL,
        *,
        column: str = DEFAULT_COLUMN,
        output_column: str = EMBEDDING,
        model_kwargs: Mapping[str, Any] | None = None,
        encode_kwargs: Mapping[str, Any] | None = None,
        digest: str | None = None,
    ) -> None:
        """Check the options.

        Args:
            model: name or path of a model, as `Embedder` takes it; or a loaded Embedder. Each process of the job loads
                the model by this name or path. A relative path begins at the working directory of the process.
            column: the column with the texts.
            output_column: the column of the vectors. A column of this name in the table is replaced.
            model_kwargs: options of `Embedder`, such as `{"dtype": "int8"}`.
            encode_kwargs: options of `encode`, such as `{"prompt": "passage: "}`. The precision is "float32", "binary"
                or "ubinary".
            digest: the `Embedder.digest` of the model. Processes that find another model raise an error. None takes any
                model; see `pinned`.

        Raises:
            InputError: an option cannot be used, or both columns have the same name.
            SettingError: the loaded model has a backend of its own.
            DependencyError: pyarrow is not installed.
        """
        super().__init__(model, model_kwargs)
        self._arrow = import_arrow("TableEncoder")
        self.encode_kwargs = checked_options("encode_kwargs", encode_kwargs)
        self._settings = EncodeSettings.of(self.encode_kwargs).refuse_ranged()
        for name, value in (("column", column), ("output_column", output_column)):
            if not isinstance(value, str):
                raise InputError(f"{name} should be the name of a column, not {shown(value)}")
        if column == output_column:
            raise InputError(f"column {column!r:.60}: the vectors are written to this column. Choose another name")
        self.column = column
        self.output_column = output_column
        self.digest = digest

    def __reduce__(self) -> tuple[Any, ...]:
        return _restore, (self.name, self.options())

    def options(self) -> dict[str, Any]:
        """Return the keyword arguments of the constructor, as values that JSON can hold.

        Example:
            >>> TableEncoder(column="body").options()["column"]
            'body'
        """
        return {
            "column": self.column,
            "output_column": self.output_column,
            "model_kwargs": dict(self.model_kwargs),
            "encode_kwargs": dict(self.encode_kwargs),
            "digest": self.digest,
        }

    @property
    def embedder(self) -> Embedder:
        """The loaded model.

        Raises:
            ArtifactError: it is not the model with the digest of this encoder.
            EmbedderError: as in `Embedder`.
        """
        found = super().embedder
        if self.digest not in (None, found.digest):
            raise ArtifactError(
                f"{self.name} is another model here: its digest is {found.digest}, and the job has {self.digest}. Give "
                "every machine the same model, and the same dtype"
            )
        return found

    def pinned(self) -> TableEncoder:
        """Return an encoder that raises an error in processes that find another model by this name, or choose a dtype.

        Otherwise the vectors of two models could be mixed. The model is loaded here.

        Raises:
            EmbedderError: as in `Embedder`.

        Example:
            >>> len(TableEncoder("all-MiniLM-L6-v2").pinned().digest)  # doctest: +SKIP
            64
        """
        return self._with(digest=self.embedder.digest)

    def with_threads(self, threads: int) -> TableEncoder:
        """Return an encoder whose model computes on `threads` cores, if the options do not say how many.

        Without it, each process takes all cores of its machine.

        Example:
            >>> TableEncoder().with_threads(2).model_kwargs
            {'threads': 2}
        """
        if self.model_kwargs.get("threads") is not None:
            return self
        return self._with(model_kwargs={**self.model_kwargs, "threads": threads})

    def at(self, directory: str | os.PathLike[str]) -> TableEncoder:
        """Return an encoder that loads the model from a directory.

        Example:
            >>> TableEncoder("all-MiniLM-L6-v2", model_kwargs={"local_files_only": True}).at("/models/minilm").name
            '/models/minilm'
        """
        own = {name: value for name, value in self.model_kwargs.items() if name not in HUB_OPTIONS}
        return TableEncoder(directory, **{**self.options(), "model_kwargs": own})

    def job(self) -> Job:
        """Return what decides the vectors: the digest of the model and the options, as `embedder encode` keeps them.

        Raises:
            InputError: the model has no such prompt, or `truncate_dim` is out of range.
            EmbedderError: as in `Embedder`.

        Example:
            >>> TableEncoder("all-MiniLM-L6-v2").job()["dimension"]  # doctest: +SKIP
            384
        """
        return job_of(self.embedder, self._settings, self._layout(), self.column, self._settings.precision)

    def field(self) -> pyarrow.Field:
        """Return the field of the vectors: a list of a fixed size of float32, or of int8 or uint8 for bits.

        Raises:
            InputError: the model has no such prompt, or `truncate_dim` is out of range.
            EmbedderError: as in `Embedder`.

        Example:
            >>> TableEncoder("all-MiniLM-L6-v2").field()  # doctest: +SKIP
            pyarrow.Field<embedding: fixed_size_list<item: float>[384]>
        """
        self.job()  # it checks the options that need the model
        return vector_field(self._layout(), self.output_column, self._arrow)

    def schema(self, schema: pyarrow.Schema) -> pyarrow.Schema:
        """Return the schema of the output for the schema of an input: the vectors come last.

        Raises:
            InputError: the column of texts is missing, or has no strings; or as in `field`.
            EmbedderError: as in `Embedder`.

        Example:
            >>> encoder.schema(pyarrow.schema({"text": pyarrow.string()})).names  # doctest: +SKIP
            ['text', 'embedding']
        """
        check_text_column(schema, self.column, _PLACE, "column=", self._arrow)
        return schema_with(schema, self.field())

    def encode(self, table: pyarrow.Table | pyarrow.RecordBatch) -> pyarrow.Table:
        """Return a table with its vectors. The order of its rows and its other columns are kept.

        The vectors are those of `Embedder.encode` for the same texts. Of batches in other sizes, they differ in their
        last bits.

        Raises:
            InputError: as in `schema`; or a text is null or not valid Unicode.
            EmbedderError: as in `Embedder`.

        Example:
            >>> encoder.encode(pyarrow.table({"text": ["A cat.", "A dog."]})).num_rows  # doctest: +SKIP
            2
        """
        if isinstance(table, self._arrow.RecordBatch):
            table = self._arrow.Table.from_batches([table])
        schema = self.schema(table.schema)
        column = table.column(self.column)
        if (null := first_null(column)) is not None:
            row = f"row {null + 1} of {_PLACE}{self._shown(table, null)}"
            raise InputError(f"{row}: the column {self.column!r:.60} is null")
        vectors = self.embedder.encode(strings_of(column, _PLACE), settings=self._settings)
        if self.output_column in table.column_names:
            table = table.drop_columns([self.output_column])
        field = schema.field(self.output_column)
        return table.append_column(field, vector_array(vectors, self._layout(), field, self._arrow))

    def _with(self, **changes: Any) -> TableEncoder:
        return TableEncoder(self.name, **{**self.options(), **changes})

    def _layout(self) -> Layout:
        dimension = self._settings.truncate_dim or self.embedder.dimension
        return Layout.of(PARQUET, dimension, self._settings.precision)

    def _shown(self, table: Any, row: int) -> str:
        """Return the numbers and strings of a row, which tell it from others: a job has many tables."""
        types = self._arrow.types
        fields = [
            f"{field.name:.40} {table.column(field.name)[row].as_py()!r:.40}"
            for field in table.schema
            if field.name != self.column and (types.is_integer(field.type) or is_string(field.type, self._arrow))
        ]
        return f" ({', '.join(fields[:_MAX_SHOWN_FIELDS])})" if fields else ""


def _restore(name: str, options: Mapping[str, Any]) -> TableEncoder:
    """Make a copy, or a pickled object, again."""
    return TableEncoder(name, **options)
