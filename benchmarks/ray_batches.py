"""Texts for each second of CPU time: `EncodeBatches` on Ray, beside `Embedder.encode` in one process.

Usage: python benchmarks/ray_batches.py FILE [--model all-MiniLM-L6-v2] [--dtype int8] [--texts 4096]

FILE is JSONL with a text in the field "text" of each line. The CPU time is summed over all threads of the process that
encodes, so other work on the machine has little influence on it. What Ray does in the actor between the first batch and
the last one counts. The start of the actor does not.
"""

import argparse
import itertools
import json
import os
import time

import pyarrow as pa
import ray
import ray.data

from embedder import Embedder
from embedder.common.cores import usable_cores
from embedder.integrations.ray import EncodeBatches
from embedder.integrations.table_encoder import TableEncoder

# Actors, cores of each, and rows of a batch.
LAYOUTS = [(1, 2, 1024), (1, 2, 256), (1, 2, 64), (2, 1, 1024), (1, 2, 4096)]
BLOCK_ROWS = 1024


class TimedBatches(EncodeBatches):
    """Adds the actor, and the CPU time of its process before and after the batch, in seconds."""

    def __call__(self, batch):
        begun = time.process_time()
        table = super().__call__(batch)
        for name, value in (("actor", os.getpid()), ("begun", begun), ("ended", time.process_time())):
            table = table.append_column(name, pa.array([value] * len(batch)))
        return table


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file")
    parser.add_argument("--model", default="all-MiniLM-L6-v2")
    parser.add_argument("--texts", type=int, default=4096, help="how many texts of the file; default: 4096")
    parser.add_argument("--dtype", default="fp32", help="default: fp32")
    parser.add_argument("--layouts", type=int, default=len(LAYOUTS), help="use only the first N layouts")
    options = parser.parse_args()
    with open(options.file, encoding="utf-8") as lines:
        texts = [json.loads(line)["text"] for line in itertools.islice(lines, options.texts)]
    cores = usable_cores()
    print(f"{len(texts):,} texts of {sum(map(len, texts)) / len(texts):.0f} characters, {cores} cores")
    print(
        f"encode, {cores} threads: {rate_of_encode(texts, options, cores):,.0f} texts/CPU s",
        flush=True,
    )
    # By default, other programs of the machine go before the processes of Ray.
    settings = {"worker_niceness": 0}
    ray.init("local", num_cpus=cores, include_dashboard=False, logging_level="ERROR", _system_config=settings)
    for actors, cpus, rows in LAYOUTS[: options.layouts]:
        rate = rate_of_ray(texts, options, actors, cpus, rows)
        print(
            f"Ray, {actors} actors of {cpus} cores, batches of {rows:,} rows: {rate:,.0f} texts/CPU s",
            flush=True,
        )


def rate_of_encode(texts, options, threads):
    loaded = Embedder(options.model, threads=threads, dtype=options.dtype)
    loaded.encode(texts[:64])
    begun = time.process_time()
    loaded.encode(texts)
    return len(texts) / (time.process_time() - begun)


def rate_of_ray(texts, options, actors, cpus, rows):
    tables = [pa.table({"text": texts[start : start + BLOCK_ROWS]}) for start in range(0, len(texts), BLOCK_ROWS)]
    encoder = TableEncoder(options.model, model_kwargs={"dtype": options.dtype})
    encoded = ray.data.from_arrow(tables).map_batches(
        TimedBatches,
        fn_constructor_kwargs={"encoder": encoder},
        batch_format="pyarrow",
        batch_size=rows,
        num_cpus=cpus,
        compute=ray.data.ActorPoolStrategy(size=actors),
    )
    found = encoded.select_columns(["actor", "begun", "ended"]).to_pandas().groupby("actor")
    return found.size().sum() / (found["ended"].max() - found["begun"].min()).sum()


if __name__ == "__main__":
    main()
