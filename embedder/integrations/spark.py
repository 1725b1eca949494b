"""Vectors in Spark: functions for `mapInArrow` and `mapInPandas`, and a pandas UDF."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

from embedder.common.checks import shown
from embedder.common.imports import import_optional
from embedder.errors import InputError
from embedder.files.arrow import check_text_column
from embedder.integrations.table_encoder import TableEncoder

import_optional("pyspark", needed_for=__name__, requirement="pyspark")
# Spark itself needs both for these functions.
import_optional("pandas", needed_for=__name__, requirement="pandas")
import_optional("pyarrow", needed_for=__name__, requirement="pyarrow")

import pandas as pd
import pyarrow as pa
from pyspark import SparkFiles, TaskContext
from pyspark.sql import DataFrame
from pyspark.sql.functions import pandas_udf
from pyspark.sql.types import ArrayType, ByteType, FloatType, StringType, StructField, StructType

_PLACE = "the table"
_BITS = "binary"
_UNSIGNED_BITS = "ubinary"


class SparkEncoder:
    """Adds a column of vectors to DataFrames of Spark.

    Each Python worker of Spark loads the model once, when its first task needs it. Spark uses its workers again for
    later tasks. A model computes on as many cores as a task has (`spark.task.cpus`), if the options of the encoder do
    not say how many.

    Attributes:
        encoder: the model, its options, and the columns.

    Example:
        >>> encoder = SparkEncoder(TableEncoder("all-MiniLM-L6-v2"))
        >>> encoder.add_vectors(spark.read.parquet("texts")).write.parquet("vectors")  # doctest: +SKIP
    """

    def __init__(self, encoder: TableEncoder) -> None:
        """Keep the encoder. The driver does not load the model.

        Args:
            encoder: the model, its options, and the columns. The name or path of the model is one on the executors; or
                the name of a directory that `SparkContext.addArchive` brings there.

        Raises:
            InputError: `encoder` is no TableEncoder; or its vectors are unsigned bytes, which Spark does not have.
        """
        if not isinstance(encoder, TableEncoder):
            raise InputError(f"SparkEncoder takes a TableEncoder, not {shown(encoder)}")
        self.encoder = encoder
        if self._precision == _UNSIGNED_BITS:
            raise InputError(f"precision {_UNSIGNED_BITS!r} gives unsigned bytes. Spark has none: choose {_BITS!r}")

    def add_vectors(self, frame: DataFrame) -> DataFrame:
        """Return a DataFrame with the vectors, array<float>, as its last column; array<tinyint> for bits.

        The rows keep their partitions, and their order there. Spark computes the vectors when they are needed: write
        them, or `cache()` the result, if they are used more than once.

        Args:
            frame: a DataFrame with a column of texts. A task fails if a text is null.

        Raises:
            InputError: the column of texts is missing, or has no strings, or two columns have the same name.

        Example:
            >>> encoder.add_vectors(spark.createDataFrame([("A cat.",)], ["text"])).columns  # doctest: +SKIP
            ['text', 'embedding']
        """
        return frame.mapInArrow(self.map_arrow, self.schema(frame.schema))

    def schema(self, schema: StructType) -> StructType:
        """Return the schema of the output for the schema of an input: the vectors come last.

        Raises:
            InputError: as in `add_vectors`.

        Example:
            >>> encoder.schema(texts.schema).simpleString()  # doctest: +SKIP
            'struct<text:string,embedding:array<float>>'
        """
        column, output_column = self.encoder.column, self.encoder.output_column
        names = pa.schema([(field.name, pa.string()) for field in schema.fields])
        check_text_column(names, column, _PLACE, "column=", pa)
        kind = schema[column].dataType
        if not isinstance(kind, StringType):
            raise InputError(
                f"{_PLACE}: the column {column!r:.60} should have strings, but its type is {kind.simpleString()}"
            )
        kept = [field for field in schema.fields if field.name != output_column]
        return StructType([*kept, StructField(output_column, self.vector_type)])

    @property
    def vector_type(self) -> ArrayType:
        """The type of the vectors: an array of floats, or of bytes for bits. Spark has no arrays of a fixed size."""
        return ArrayType(ByteType() if self._precision == _BITS else FloatType())

    def map_arrow(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """Add the vectors to the batches of a partition: a function for `DataFrame.mapInArrow`.

        Raises:
            InputError: a text is null or not valid Unicode.
            EmbedderError: as in `Embedder`.

        Example:
            >>> texts.mapInArrow(encoder.map_arrow, encoder.schema(texts.schema))  # doctest: +SKIP
            DataFrame[text: string, embedding: array<float>]
        """
        encoder = self._in_task()
        for batch in batches:
            if batch.num_rows:
                yield from _with_arrays(encoder.encode(batch)).to_batches()

    def map_pandas(self, frames: Iterator[pd.DataFrame]) -> Iterator[pd.DataFrame]:
        """Add the vectors to the frames of a partition: a function for `DataFrame.mapInPandas`.

        `map_arrow` keeps all types of the other columns. pandas turns whole numbers with nulls into floats.

        Raises:
            InputError: as in `map_arrow`.
            EmbedderError: as in `Embedder`.

        Example:
            >>> texts.mapInPandas(encoder.map_pandas, encoder.schema(texts.schema))  # doctest: +SKIP
            DataFrame[text: string, embedding: array<float>]
        """
        encoder = self._in_task()
        output_column = encoder.output_column
        for frame in frames:
            kept = frame.drop(columns=output_column, errors="ignore")
            yield kept.assign(**{output_column: _vectors(encoder, frame[encoder.column])})

    def udf(self) -> Any:
        """Return a pandas UDF from texts to vectors. It is for SQL, and for columns that are computed.

        The names of the columns have no effect on it.

        Raises:
            InputError: as in `map_arrow`, when it runs.
            EmbedderError: as in `Embedder`, when it runs.

        Example:
            >>> spark.udf.register("embed", encoder.udf())  # doctest: +SKIP
            >>> spark.sql("SELECT id, embed(title || ' ' || body) AS embedding FROM notes")  # doctest: +SKIP
            DataFrame[id: bigint, embedding: array<float>]
        """

        def embed(columns: Iterator[pd.Series]) -> Iterator[pd.Series]:
            encoder = self._in_task()
            for texts in columns:
                yield _vectors(encoder, texts)

        return pandas_udf(embed, self.vector_type)

    @property
    def _precision(self) -> Any:
        return self.encoder.encode_kwargs.get("precision")

    def _in_task(self) -> TableEncoder:
        """Return the encoder for a task: with the model that Spark has brought here, and the cores of the task."""
        context = TaskContext.get()
        if context is None:  # the caller tries the function outside Spark
            return self.encoder
        directory = SparkFiles.get(self.encoder.name)
        encoder = self.encoder.at(directory) if os.path.isdir(directory) else self.encoder
        return encoder.with_threads(context.cpus())


def _vectors(encoder: TableEncoder, texts: pd.Series) -> pd.Series:
    """Return a Series of the vectors of a Series of texts."""
    table = pa.table({encoder.column: pa.array(texts, pa.string(), from_pandas=True)})
    vectors = encoder.encode(table).column(encoder.output_column)
    width = vectors.type.list_size
    numbers = vectors.combine_chunks().flatten().to_numpy()
    return pd.Series(list(numbers.reshape(-1, width)), index=texts.index, dtype=object)


def _with_arrays(table: pa.Table) -> pa.Table:
    """Return a table whose last column has lists of any size instead of a fixed size."""
    last = table.num_columns - 1
    vectors = table.column(last)
    return table.set_column(last, table.field(last).name, vectors.cast(pa.list_(vectors.type.value_type)))
