"""What it takes to embed a corpus: hours, cost and bytes. Nothing goes wrong here; fleet.py simulates what does."""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.plan.measured import Speed

# Bytes of one dimension.
BYTES_PER_DIMENSION = {"float32": 4.0, "float16": 2.0, "int8": 1.0, "binary": 0.125}
# pyarrow uploads an object in parts of this size, and asks for two more requests: to begin and to complete the upload.
UPLOAD_PART_BYTES = 10 << 20
UPLOAD_EXTRA_REQUESTS = 2


@dataclass(frozen=True)
class Corpus:
    """The texts to embed, and the size of their vectors.

    Attributes:
        passages: how many texts.
        tokens: mean tokens of a passage, as the model counts them. 100 are about 75 words of English.
        text_bytes: mean bytes of a passage in UTF-8.
        dimension: numbers of a vector.
    """

    passages: int
    tokens: float = 100.0
    text_bytes: float = 450.0
    dimension: int = 384

    def vector_bytes(self, precision: str) -> float:
        """Return the bytes of all vectors.

        Example:
            >>> Corpus(passages=1_000_000).vector_bytes("binary")
            48000000.0
        """
        return self.passages * self.dimension * BYTES_PER_DIMENSION[precision]

    @property
    def all_text_bytes(self) -> float:
        """The bytes of all texts."""
        return self.passages * self.text_bytes


@dataclass(frozen=True)
class Prices:
    """Prices in US dollars. The defaults are examples: round figures, written down on the day `noted_on`.

    They are not the prices of any provider today. Give your own.

    Attributes:
        noted_on: the day on which the examples were written down.
        core_hour_usd: an hour of one core with its memory.
        gpu_hour_usd: an hour of one GPU with its host.
        storage_gb_month_usd: a month of 10**9 bytes in an object store.
        put_1000_usd: a thousand requests that write.
        get_1000_usd: a thousand requests that read.
    """

    noted_on: str = "2026-11-26"
    core_hour_usd: float = 0.04
    gpu_hour_usd: float = 3.0
    storage_gb_month_usd: float = 0.023
    put_1000_usd: float = 0.005
    get_1000_usd: float = 0.0004


@dataclass(frozen=True)
class NodeKind:
    """A machine that encodes.

    Attributes:
        name: what tables call it.
        speed: texts per second of the whole machine.
        hour_usd: what an hour of it costs.
    """

    name: str
    speed: Speed
    hour_usd: float


@dataclass(frozen=True)
class Embedding:
    """What it takes to embed a corpus on nodes of one kind, if nothing goes wrong.

    Attributes:
        passages_per_s: of one node.
        node_hours: hours of one node for all passages.
        usd: what these hours cost.
    """

    passages_per_s: float
    node_hours: float
    usd: float

    def hours(self, nodes: int) -> float:
        """Return the hours of a fleet, if its nodes share the work evenly. No fleet is faster than that."""
        return self.node_hours / nodes


def embed(corpus: Corpus, kind: NodeKind) -> Embedding:
    """Return what it takes to embed a corpus.

    Example:
        >>> embed(Corpus(passages=36_000_000), NodeKind("a node", Speed(((100, 1000.0),)), hour_usd=2.0))
        Embedding(passages_per_s=1000.0, node_hours=10.0, usd=20.0)
    """
    per_s = kind.speed.texts_per_s(corpus.tokens)
    hours = corpus.passages / per_s / 3600
    return Embedding(per_s, hours, hours * kind.hour_usd)


@dataclass(frozen=True)
class Storage:
    """The files of a corpus of vectors in an object store.

    Attributes:
        shards: how many files.
        shard_bytes: bytes of a file.
        puts: requests that write them.
        lists: requests that list them. One returns 1,000 names.
        month_usd: what a month of the vectors costs.
        puts_usd: what writing costs in requests.
    """

    shards: int
    shard_bytes: float
    puts: int
    lists: int
    month_usd: float
    puts_usd: float


def store(corpus: Corpus, prices: Prices, precision: str, shard_rows: int) -> Storage:
    """Return the files of a corpus of vectors.

    Example:
        >>> stored = store(Corpus(passages=10**9), Prices(), "float32", shard_rows=100_000)
        >>> stored.shards, stored.shard_bytes, stored.puts, stored.lists
        (10000, 153600000.0, 170000, 10)
    """
    shards = -(-corpus.passages // shard_rows)
    total = corpus.vector_bytes(precision)
    shard_bytes = total / corpus.passages * min(shard_rows, corpus.passages)
    puts = shards * puts_of(shard_bytes)
    month_usd = total / 1e9 * prices.storage_gb_month_usd
    return Storage(shards, shard_bytes, puts, -(-shards // 1000), month_usd, puts / 1000 * prices.put_1000_usd)


def puts_of(shard_bytes: float) -> int:
    """Return the requests that write one file. A small one needs one.

    Example:
        >>> puts_of(1_000), puts_of(25 << 20)
        (1, 5)
    """
    parts = int(-(-shard_bytes // UPLOAD_PART_BYTES))
    return 1 if parts <= 1 else parts + UPLOAD_EXTRA_REQUESTS
