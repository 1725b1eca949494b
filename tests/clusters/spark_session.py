"""A cluster of Spark on this machine: the executors are processes of their own, each with a daemon for Python."""

import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

import pyspark
from pyspark.sql import SparkSession

ROOT = Path(__file__).parents[2]
# Less work for Java's compiler, and fewer threads: the cluster starts sooner.
_JAVA_OPTIONS = "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC"
_EXIT_TIMEOUT_S = 30


@contextmanager
def local_cluster(
    home: Path, *, executors: int, cores: int, settings: Mapping[str, object], environment: Mapping[str, str]
) -> Iterator[SparkSession]:
    """Start a cluster, and end all its processes afterwards.

    Args:
        home: an empty directory. Spark writes the files of its executors there. Relative paths begin at the working
            directory.
        executors: the number of executors.
        cores: the number of cores that Spark counts for each executor.
        settings: settings of Spark.
        environment: variables of the executors.
    """
    for path in Path(pyspark.__file__).parent.iterdir():
        (home / path.name).symlink_to(path)
    variables = {
        "SPARK_HOME": str(home),
        "SPARK_LOCAL_IP": "127.0.0.1",
        "SPARK_LOCAL_HOSTNAME": "localhost",
        "PYSPARK_PYTHON": sys.executable,
        "PYTHONPATH": str(ROOT),
        **environment,
    }
    with mock.patch.dict(os.environ, variables):
        builder = (
            SparkSession.builder.master(f"local-cluster[{executors},{cores},1024]")
            .config("spark.ui.enabled", "false")
            .config("spark.log.level", "ERROR")
            .config("spark.driver.extraJavaOptions", _JAVA_OPTIONS)
            .config("spark.executor.extraJavaOptions", _JAVA_OPTIONS)
        )
        for name, value in settings.items():
            builder = builder.config(name, value)
        session = builder.getOrCreate()
        gateway = session.sparkContext._gateway
        try:
            yield session
        finally:
            session.stop()
            gateway.shutdown()
            gateway.proc.stdin.close()  # the JVM ends with it
            gateway.proc.wait(_EXIT_TIMEOUT_S)
            pyspark.SparkContext._gateway = pyspark.SparkContext._jvm = None
