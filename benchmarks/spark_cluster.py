"""Measure texts per second of Spark on this machine, beside one process. Prints a table.

Usage: PYTHONPATH=. .venv/clusters/bin/python benchmarks/spark_cluster.py MODEL TEXTS

MODEL is the path of an artifact, TEXTS a file with a text in each line. Each figure is the median of three runs over
all texts, with its range, after a run that loads the model. Spark computes the vectors and writes them nowhere.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

from embedder import Embedder
from embedder.integrations.spark import SparkEncoder
from embedder.integrations.table_encoder import TableEncoder
from tests.clusters.spark_session import local_cluster

RUNS = 3
FORMS = {
    "mapInArrow": lambda encoder, frame: encoder.add_vectors(frame),
    "mapInPandas": lambda encoder, frame: frame.mapInPandas(encoder.map_pandas, encoder.schema(frame.schema)),
    "pandas UDF": lambda encoder, frame: frame.withColumn("embedding", encoder.udf()("text")),
}


def measure(name, count, run):
    """Print the row of a way to encode `count` texts."""
    run()
    rates = []
    for _ in range(RUNS):
        start_s = time.perf_counter()
        run()
        rates.append(count / (time.perf_counter() - start_s))
    print(f"| {name} | {statistics.median(rates):,.0f} ({min(rates):,.0f}-{max(rates):,.0f}) |", flush=True)


def measure_spark(model, texts, *, executors, cores, forms):
    """Print the rows of a cluster with one task for each executor."""
    settings = {"spark.task.cpus": cores, "spark.sql.shuffle.partitions": 4 * executors}
    with (
        tempfile.TemporaryDirectory() as home,
        local_cluster(Path(home), executors=executors, cores=cores, settings=settings, environment={}) as spark,
    ):
        frame = spark.createDataFrame(list(enumerate(texts)), "id long, text string").repartition(4 * executors).cache()
        frame.count()
        encoder = SparkEncoder(TableEncoder(model))
        for form in forms:
            vectors = FORMS[form](encoder, frame)
            name = f"Spark, {executors} x {cores} threads, {form}"
            measure(name, len(texts), lambda: vectors.write.format("noop").mode("overwrite").save())  # noqa: B023


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("texts", type=Path)
    options = parser.parse_args()
    texts = options.texts.read_text(encoding="utf-8").splitlines()
    model_path = options.model.resolve()
    print("| | texts/s |\n|---|---:|")
    with Embedder(model_path, threads=2) as model:
        measure("one process, 2 threads", len(texts), lambda: model.encode(texts))
    measure_spark(model_path, texts, executors=2, cores=1, forms=FORMS)
    measure_spark(model_path, texts, executors=1, cores=2, forms=["mapInArrow"])


if __name__ == "__main__":
    main()
