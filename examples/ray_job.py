"""Write the vectors of many files on a cluster of Ray. Run the same command again to go on after a kill.

Each file of texts gets a Parquet file of the same name in the output directory. Every node must be able to read the
texts and to write the vectors: they lie on a shared file system, or in an object store (s3://, gs://).

    python examples/ray_job.py texts/ vectors/ --model all-MiniLM-L6-v2
"""

import argparse
import sys
import time
from dataclasses import asdict

import ray
import ray.data

from embedder import EmbedderError
from embedder.files.file_pairs import pair_files
from embedder.integrations.ray import EncodeFiles, send_model, unfinished_files
from embedder.integrations.table_encoder import TableEncoder


def main():
    args = parse_arguments()
    encoder = TableEncoder(
        args.model,
        column=args.column,
        model_kwargs={"dtype": args.dtype},
        encode_kwargs={"prompt": args.prompt, "normalize_embeddings": args.normalize},
    ).pinned()
    pairs = pair_files(args.texts, args.vectors)
    ray.init(address=args.address)
    todo = unfinished_files(pairs, encoder.job())
    print(f"{len(pairs) - len(todo)} of {len(pairs)} files are done", flush=True)
    problems = encode(todo, encoder, args) if todo else 0
    return 1 if problems else 0


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("texts", help='a directory of files of one format, or a pattern such as "texts/*.parquet"')
    parser.add_argument("vectors", help="the directory of the Parquet files with the vectors")
    parser.add_argument("--model", default="all-MiniLM-L6-v2", help="a name, or a path that every node has")
    parser.add_argument("--send-model", action="store_true", help="send the model to the nodes: they have no such path")
    parser.add_argument("--column", default="text", help="the column with the texts; default: text")
    parser.add_argument("--dtype", help="which graph runs, such as int8")
    parser.add_argument("--prompt", help="text to put before each text")
    parser.add_argument("--normalize", action="store_true", help="scale each vector to length 1")
    parser.add_argument("--actors", type=int, help="how many models run; default: one for each --cpus of the cluster")
    parser.add_argument("--cpus", type=int, default=1, help="cores of each model; default: 1")
    parser.add_argument("--address", help="the cluster; default: RAY_ADDRESS, or a new one on this machine")
    return parser.parse_args()


def encode(pairs, encoder, args):
    """Encode the files, and print a line for each. Return how many could not be encoded."""
    actors = args.actors or max(1, int(ray.cluster_resources()["CPU"]) // args.cpus)
    files = ray.data.from_items([asdict(pair) for pair in pairs], override_num_blocks=len(pairs))
    done = files.map_batches(
        EncodeFiles,
        fn_constructor_kwargs={"encoder": encoder, "sent_model": send_model(encoder) if args.send_model else None},
        batch_format="pyarrow",
        batch_size=1,
        num_cpus=args.cpus,
        # A file that waits for a busy actor could not go to one that is free.
        compute=ray.data.ActorPoolStrategy(size=min(actors, len(pairs)), max_tasks_in_flight_per_actor=1),
    )
    start = time.monotonic()
    rows = problems = 0
    for file in done.iter_rows():
        if file["problem"]:
            problems += 1
            print(f"{file['input']}: {file['problem']}", file=sys.stderr, flush=True)
        else:
            rows += file["rows"]
            print(f"{file['output']}: {file['rows']:,} vectors", flush=True)
    print(f"{rows:,} vectors in {time.monotonic() - start:.0f} s; {problems} files have problems", flush=True)
    return problems


if __name__ == "__main__":
    try:
        sys.exit(main())
    except EmbedderError as error:
        sys.exit(f"error: {error}")
