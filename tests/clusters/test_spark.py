"""Vectors in Spark, on a cluster of two executors on this machine."""

import contextlib
import datetime
import io
import json
import os
import shutil
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

import embedder
from embedder.errors import InputError
from embedder.integrations.table_encoder import TableEncoder
from tests.pages import assert_same, code_blocks, hard_link
from tests.tiny import write_tiny_artifact

pytest.importorskip("pyspark")
if not (shutil.which("java") or os.environ.get("JAVA_HOME")):
    pytest.skip("Spark needs Java, which is not here: apt-get install openjdk-17-jre-headless", allow_module_level=True)
if not Path(find_spec("pyspark").origin).with_name("bin").is_dir():
    pytest.skip("this pyspark is a client without a cluster: pip install pyspark", allow_module_level=True)

import pandas as pd
import pyarrow as pa
from pyspark.errors import PythonException
from pyspark.sql import functions
from pyspark.sql.types import ArrayType, ByteType, FloatType, StringType, StructField, StructType

from embedder.integrations.spark import SparkEncoder
from tests.clusters.spark_session import local_cluster
from tests.clusters.spark_tasks import KillOnce, Report

PAGE = Path(__file__).parents[2] / "docs/jobs/spark.md"
# A task has more cores than there are, so that its number of threads is not the default by chance.
TASK_CPUS = 3
PARTITIONS = 5
ROWS_PER_BATCH = 3
TEXTS = [f"{text} {number}" for number in range(8) for text in ("the cat", "", "dog sat on mat", "字 é", "long words")]


@pytest.fixture(scope="module")
def artifact(tmp_path_factory):
    return write_tiny_artifact(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="module")
def model(artifact):
    return embedder.Embedder(artifact)


@pytest.fixture(scope="module")
def spark(artifact, tmp_path_factory):
    settings = {
        "spark.task.cpus": TASK_CPUS,
        "spark.task.maxFailures": 2,
        "spark.sql.shuffle.partitions": 2,
        "spark.sql.execution.arrow.maxRecordsPerBatch": ROWS_PER_BATCH,
    }
    environment = {"EMBEDDER_HOME": str(artifact.parent), "EMBEDDER_PREPACK": "0"}
    home = tmp_path_factory.mktemp("spark")
    with (
        contextlib.chdir(tmp_path_factory.mktemp("here")),  # the relative paths of Spark begin here
        local_cluster(home, executors=2, cores=TASK_CPUS, settings=settings, environment=environment) as session,
    ):
        yield session


@pytest.fixture(scope="module")
def texts(spark):
    """TEXTS in partitions of 8 rows: after one batch of a partition, others follow."""
    text = functions.element_at(functions.array(*map(functions.lit, TEXTS)), (functions.col("id") + 1).cast("int"))
    return spark.range(0, len(TEXTS), 1, PARTITIONS).select("id", text.alias("text"))


@pytest.fixture(scope="module")
def encoder(artifact):
    return SparkEncoder(TableEncoder(artifact))


FORMS = {
    "mapInArrow": lambda encoder, frame: encoder.add_vectors(frame),
    "mapInPandas": lambda encoder, frame: frame.mapInPandas(encoder.map_pandas, encoder.schema(frame.schema)),
    "udf": lambda encoder, frame: frame.withColumn("embedding", encoder.udf()("text")),
}


@pytest.mark.parametrize("form", FORMS)
def test_vectors_are_those_of_encode_row_by_row(encoder, texts, model, form):
    found = FORMS[form](encoder, texts)
    assert found.schema == StructType([*texts.schema.fields, StructField("embedding", ArrayType(FloatType()))])
    rows = found.collect()
    assert [(row.id, row.text) for row in rows] == list(enumerate(TEXTS))
    np.testing.assert_array_equal([row.embedding for row in rows], model.encode(TEXTS))


@pytest.mark.parametrize("form", FORMS)
def test_partitions_without_rows(encoder, texts, model, form):
    rows = FORMS[form](encoder, texts.where("id < 8 OR id >= 24")).collect()
    kept = [*range(8), *range(24, 40)]
    assert [row.id for row in rows] == kept
    np.testing.assert_array_equal([row.embedding for row in rows], model.encode([TEXTS[number] for number in kept]))
    assert FORMS[form](encoder, texts.where("id < 0")).collect() == []


def test_text_that_is_null_fails_the_job_with_a_clear_error(encoder, spark):
    frame = spark.createDataFrame([(7, "a"), (8, None)], "id long, text string").coalesce(1)
    with pytest.raises(PythonException, match=r"InputError: row 2 of the table \(id 8\): the column 'text' is null"):
        encoder.add_vectors(frame).collect()


def test_text_that_is_null_in_pandas(encoder):
    texts = pd.Series(["a", None])
    with pytest.raises(InputError, match="row 2 of the table: the column 'text' is null"):
        list(encoder.map_pandas(iter([pd.DataFrame({"text": texts})])))
    with pytest.raises(InputError, match="row 2 of the table: the column 'text' is null"):
        list(encoder.udf().func(iter([texts])))


def test_other_columns_are_kept_and_an_old_one_is_replaced(artifact, spark, model):
    schema = (
        "embedding string, id int, nested struct<a: array<int>, b: map<string, double>>, time timestamp, day date, "
        "bytes binary, price decimal(10, 2), body string"
    )
    kept = [
        (7, ([1, None], {"x": 0.5}), datetime.datetime(2024, 5, 1, 12), datetime.date(1969, 1, 2), b"\0", None, "cat"),
        (None, None, None, None, None, None, "dog"),
    ]
    frame = spark.createDataFrame([("old", *row) for row in kept], schema)
    found = SparkEncoder(TableEncoder(artifact, column="body")).add_vectors(frame)
    assert found.schema.fields[:-1] == frame.schema.fields[1:]
    rows = found.collect()
    assert [tuple(row)[:-1] for row in rows] == [tuple(row)[1:] for row in frame.collect()]
    np.testing.assert_array_equal([row.embedding for row in rows], model.encode(["cat", "dog"]))


def test_columns_that_cannot_be_null_keep_their_type(encoder, texts):
    assert [field.nullable for field in encoder.add_vectors(texts).schema] == [False, False, True]


@pytest.mark.parametrize("form", FORMS)
def test_bits_are_bytes(artifact, texts, model, form):
    options = {"precision": "binary", "normalize_embeddings": True}
    found = FORMS[form](SparkEncoder(TableEncoder(artifact, encode_kwargs=options)), texts)
    assert found.schema["embedding"].dataType == ArrayType(ByteType())
    np.testing.assert_array_equal([row.embedding for row in found.collect()], model.encode(TEXTS, **options))


def test_udf_in_sql(encoder, spark, texts, model):
    texts.createOrReplaceTempView("notes")
    spark.udf.register("embed", encoder.udf())
    rows = spark.sql("SELECT embed('the ' || text) AS vector FROM notes WHERE id < 4").collect()
    np.testing.assert_array_equal([row.vector for row in rows], model.encode([f"the {text}" for text in TEXTS[:4]]))


def test_examples_on_the_page(spark, artifact, minilm):
    """The blocks are one program. The executors find the model by its name, and then in an archive."""
    shutil.copytree(minilm, artifact.parent / minilm.name, copy_function=hard_link)
    shutil.copytree(minilm, Path("artifacts", minilm.name), copy_function=hard_link)
    names = {"__name__": "__main__"}
    blocks = [block for block in code_blocks(PAGE) if block.language == "python"]
    assert len(blocks) == 4
    for block in blocks:
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(block.code, str(PAGE), "exec"), names)
        assert_same(printed.getvalue(), block.output)


def reports_of(encoder, texts):
    schema = StructType([*encoder.schema(texts.schema).fields, StructField("report", StringType())])
    return [json.loads(row.report) for row in texts.mapInArrow(Report(encoder), schema).collect()]


def test_each_worker_loads_the_model_once_and_the_daemon_never(artifact, texts):
    encoder = SparkEncoder(
        TableEncoder(artifact, model_kwargs={"truncate_dim": 5})
    )  # no other test has loaded this one
    reports = [*reports_of(encoder, texts), *reports_of(encoder, texts)]
    assert len(reports) == 2 * len(TEXTS)
    assert 1 <= len({report["daemon"] for report in reports}) <= 2
    assert len({report["worker"] for report in reports}) == len({report["daemon"] for report in reports})
    assert all(report["threads_of_loads"] == [TASK_CPUS] for report in reports)
    assert all(report["onnxruntime_in_worker"] for report in reports)
    assert not any(report["onnxruntime_in_daemon"] for report in reports)


def test_threads_of_the_options_come_first(artifact, texts):
    encoder = SparkEncoder(TableEncoder(artifact, model_kwargs={"threads": 1}))
    assert all(report["threads_of_loads"][-1] == 1 for report in reports_of(encoder, texts))


@pytest.mark.parametrize("victim", ["worker", "executor"])
def test_killed_process_costs_no_row(encoder, texts, model, tmp_path, victim):
    marker = tmp_path / "killed"
    rows = texts.mapInArrow(KillOnce(encoder, marker, victim), encoder.schema(texts.schema)).collect()
    assert marker.exists()
    assert [(row.id, row.text) for row in rows] == list(enumerate(TEXTS))
    np.testing.assert_array_equal([row.embedding for row in rows], model.encode(TEXTS))


def test_model_that_spark_brings_to_the_executors(artifact, spark, texts, model, tmp_path):
    archive = shutil.make_archive(str(tmp_path / "archive"), "tar", artifact.parent, artifact.name)
    spark.sparkContext.addArchive(f"{archive}#models")
    rows = SparkEncoder(TableEncoder("models/tiny")).add_vectors(texts).collect()
    np.testing.assert_array_equal([row.embedding for row in rows], model.encode(TEXTS))


def test_directory_needs_an_archive(artifact, spark):
    with pytest.raises(Exception, match=r"local directory .* is not supported"):
        spark.sparkContext.addFile(str(artifact), recursive=True)


def test_model_by_its_name_on_the_executors(spark, texts, model):
    rows = SparkEncoder(TableEncoder("tiny")).add_vectors(texts.where("id < 8")).collect()
    np.testing.assert_array_equal([row.embedding for row in rows], model.encode(TEXTS[:8]))


def test_model_that_is_not_there_fails_the_job_with_its_name(texts, tmp_path):
    missing = SparkEncoder(TableEncoder(tmp_path / "missing"))
    with pytest.raises(PythonException, match=r"ModelNotFoundError: .*missing"):
        missing.add_vectors(texts.coalesce(1)).collect()


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        ("id int", "the table: the column 'text' is missing. Its columns are 'id'. Choose one with column="),
        ("text int", "the table: the column 'text' should have strings, but its type is int"),
        ("text string, text string", "the table has the column 'text' twice. Rename one"),
    ],
)
def test_wrong_columns_are_refused_in_the_driver(encoder, spark, schema, message):
    with pytest.raises(InputError, match=message):
        encoder.add_vectors(spark.createDataFrame([], schema))


def test_wrong_encoders_are_refused(artifact):
    with pytest.raises(InputError, match="SparkEncoder takes a TableEncoder, not 'tiny'"):
        SparkEncoder("tiny")
    with pytest.raises(InputError, match=r"precision 'ubinary' gives unsigned bytes\. Spark has none: choose 'binary'"):
        SparkEncoder(TableEncoder(artifact, encode_kwargs={"precision": "ubinary"}))


def test_functions_run_outside_spark(encoder, model):
    (batch,) = encoder.map_arrow(iter([pa.record_batch({"text": TEXTS})]))
    assert batch.schema.field("embedding").type == pa.list_(pa.float32())
    np.testing.assert_array_equal(batch.column("embedding").to_pylist(), model.encode(TEXTS))
