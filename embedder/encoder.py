"""The public class: texts in, vectors out.

prompt → tokenise → sort by length → batches of a token budget → onnxruntime → back into the caller's order.
One path for one text and for a million: they go through it in windows, so memory stays bounded.
"""

import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sized
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypedDict, Unpack

import numpy as np
from numpy.typing import ArrayLike, NDArray

from embedder import similarity
from embedder.artifact import open_artifact
from embedder.batching import pad, plan_batches, windows
from embedder.cores import has_fast_integers
from embedder.digests import check_digest, check_digest_once
from embedder.errors import InputError
from embedder.inputs import check_count, check_prompt, checked_list, checked_texts
from embedder.manifest import DEFAULT_PROMPTS, POOLING_MASK, Graph
from embedder.packed import packed_graph
from embedder.session import Session, choose_provider
from embedder.tokenizer import TextTokenizer, TokenIds

DEFAULT_MODEL = "all-MiniLM-L6-v2"


class EncodeOptions(TypedDict, total=False):
    """The options of `encode` and its siblings; their names and meanings are those of sentence-transformers.

    prompt_name: the model's prompt to put before each text; see `Embedder.prompts`. By default the model's default.
    prompt: the prompt itself; takes precedence over `prompt_name`.
    batch_size: most texts in one call of the model. Batches are filled by tokens, so this is only a ceiling.
    show_progress_bar: show progress on stderr.
    normalize_embeddings: scale each vector to length 1, after truncation.
    truncate_dim: keep the first so many dimensions.
    """

    prompt_name: str | None
    prompt: str | None
    batch_size: int | None
    show_progress_bar: bool | None
    normalize_embeddings: bool
    truncate_dim: int | None


class Embedder:
    """A model, loaded. Safe to call from many threads at once.

    Attributes:
        manifest: what the artifact says of itself: its source, settings, files, and measured parity.
    """

    def __init__(
        self,
        model: str | os.PathLike[str] = DEFAULT_MODEL,
        *,
        provider: str | None = None,
        graph: str | None = None,
        threads: int | None = None,
    ) -> None:
        """Load an exported model.

        Args:
            model: the path of an artifact; the name of one in `artifacts/` (or in `$EMBEDDER_ARTIFACTS`); or the id of
                a Hub repository that holds one.
            provider: "cpu" or "cuda"; None takes a GPU where onnxruntime has one, else the CPU.
            graph: "fp32" or "int8", of those that the artifact has; "auto" is the fastest for the provider and the CPU;
                None is fp32, the exact one, where the artifact has it.
            threads: most threads to compute with on a CPU; None takes one for each core that this process may use.

        Raises:
            InputError: the artifact has no such graph, or `threads` is out of range; the message says which it has.
            ModelNotFoundError: there is no such artifact; the message says how to export it.
            ArtifactError: a file is missing, truncated, altered, or of a format this version does not read.
            ProviderError: the provider is unknown or not available.
            DependencyError: onnxruntime is not installed.
        """
        check_count("threads", threads)
        artifact = open_artifact(model)
        self.manifest = artifact.manifest
        settings = self.manifest.tokenizer
        device = choose_provider(provider)
        self._graph = chosen = choose_graph(self.manifest.graphs, graph, device)
        check_digest(artifact.path(chosen.file), chosen.file.sha256)
        check_digest(artifact.path(settings.file), settings.file.sha256)
        check_digest_once(artifact.path(chosen.weights), chosen.weights.sha256)
        packed = packed_graph(artifact, chosen) if device == "cpu" else None
        self._session = Session(artifact.path(chosen.file), chosen, self.dimension, provider, threads, packed)
        self._tokenizer = TextTokenizer(artifact.path(settings.file), settings.max_seq_length)

    def __repr__(self) -> str:
        return (
            f"Embedder({self.manifest.source.model!r}, dimension={self.dimension}, "
            f"max_seq_length={self.max_seq_length}, graph={self._graph.precision!r}, "
            f"provider={self._session.provider!r})"
        )

    @property
    def dimension(self) -> int:
        """Length of a vector."""
        return self.manifest.dimension

    @property
    def max_seq_length(self) -> int:
        """Most tokens of a text, special tokens included, that the model sees; the rest is cut off."""
        return self.manifest.tokenizer.max_seq_length

    @property
    def prompts(self) -> dict[str, str]:
        """The model's prompts by name; "query" and "document" are always there, empty where the model has none."""
        return DEFAULT_PROMPTS | self.manifest.prompts

    def encode(
        self,
        texts: str | Iterable[str],
        *,
        prompt_name: str | None = None,
        prompt: str | None = None,
        batch_size: int | None = None,
        show_progress_bar: bool | None = False,
        normalize_embeddings: bool = False,
        truncate_dim: int | None = None,
    ) -> NDArray[np.float32]:
        """The embeddings of `texts`; `EncodeOptions` describes the options.

        Returns:
            float32: (dim,) for one string, (n, dim) in the caller's order for n of them, (0, dim) for none.

        Raises:
            InputError: a text is not a string, or holds a lone surrogate (the message says which); or an option
                is out of range. Nothing has been encoded then.
        """
        checked = checked_list(texts)
        blocks = self.encode_iter(
            checked,
            prompt_name=prompt_name,
            prompt=prompt,
            batch_size=batch_size,
            show_progress_bar=show_progress_bar,
            normalize_embeddings=normalize_embeddings,
            truncate_dim=truncate_dim,
        )
        embeddings = np.empty((len(checked), truncate_dim or self.dimension), np.float32)
        done = 0
        for block in blocks:
            embeddings[done : done + len(block)] = block
            done += len(block)
        return embeddings[0] if isinstance(texts, str) else embeddings

    def encode_iter(
        self,
        texts: Iterable[str],
        *,
        prompt_name: str | None = None,
        prompt: str | None = None,
        batch_size: int | None = None,
        show_progress_bar: bool | None = False,
        normalize_embeddings: bool = False,
        truncate_dim: int | None = None,
    ) -> Iterator[NDArray[np.float32]]:
        """The embeddings of a stream of texts, in bounded memory: at most some thousand texts are held at once.

        Up to 1,024 texts make an array, and as many are read ahead.

        Yields:
            float32 arrays (k, dim), k varying, which laid end to end are the embeddings in the order of `texts`.

        Raises:
            InputError: as `encode`; for an option at once, for a text when its turn comes.
        """
        if isinstance(texts, str):
            raise InputError("encode_iter takes an iterable of strings; for one string call encode")
        check_count("batch_size", batch_size)
        check_count("truncate_dim", truncate_dim, self.dimension)
        prefix = self._resolve_prompt(prompt_name, prompt)
        unpooled = 0
        if not self.manifest.head.include_prompt:
            unpooled = self._tokenizer.prompt_length(prefix, self.manifest.tokenizer.special_ids)
        stream = windows(prefix + text for text in checked_texts(texts))

        def blocks() -> Iterator[NDArray[np.float32]]:
            with (
                _progress_bar(texts) if show_progress_bar else nullcontext() as bar,
                ThreadPoolExecutor(self._session.threads, "embedder") as pool,
            ):
                for token_ids in _read_ahead(stream, self._tokenizer, pool):
                    block = self._encode_window(token_ids, unpooled, batch_size, pool, bar)
                    block = np.ascontiguousarray(block[:, :truncate_dim])
                    yield similarity.normalize(block) if normalize_embeddings else block

        return blocks()

    def encode_query(self, texts: str | Iterable[str], **options: Unpack[EncodeOptions]) -> NDArray[np.float32]:
        """As `encode`, with the model's prompt for queries where no prompt is given."""
        return self.encode(texts, **self._with_prompt(options, "query"))

    def encode_document(self, texts: str | Iterable[str], **options: Unpack[EncodeOptions]) -> NDArray[np.float32]:
        """As `encode`, with the model's prompt for documents where no prompt is given."""
        return self.encode(texts, **self._with_prompt(options, "document"))

    def similarity(self, a: ArrayLike, b: ArrayLike) -> NDArray[np.float32]:
        """Every vector of `a` (n, dim) against every one of `b` (m, dim), by the model's own function.

        Returns:
            float32 of shape (n, m); higher is nearer (distances are negated). A single vector counts as one row.

        Raises:
            InputError: the shapes do not fit.
        """
        return similarity.similarity(self.manifest.similarity, a, b)

    def tokenize(self, texts: str | Iterable[str]) -> dict[str, NDArray[np.int64]]:
        """What the model is given for `texts`: `input_ids` and `attention_mask`, int64 of shape (n, longest).

        Raises:
            InputError: a text is not a string.
        """
        input_ids, attention_mask = pad(self._tokenizer(checked_list(texts)), self.manifest.tokenizer.pad_id)
        return {"input_ids": input_ids, "attention_mask": attention_mask}

    def _encode_window(
        self, token_ids: list[TokenIds], unpooled: int, batch_size: int | None, pool: ThreadPoolExecutor, bar: Any
    ) -> NDArray[np.float32]:
        """The embeddings of texts that are held at once: by batches in many threads, or by one batch in all threads."""
        embeddings = np.empty((len(token_ids), self.dimension), np.float32)
        batches = plan_batches(list(map(len, token_ids)), self._session.token_budget, self._session.threads, batch_size)

        def run(rows: NDArray[np.intp]) -> int:
            inputs = self._inputs([token_ids[row] for row in rows], unpooled)
            embeddings[rows] = self._session.run(inputs, alone=len(batches) == 1)
            return len(rows)

        for count in map(run, batches) if len(batches) == 1 else pool.map(run, batches):
            if bar is not None:
                bar.update(count)
        return embeddings

    def _inputs(self, token_ids: list[NDArray[np.int32]], unpooled: int) -> dict[str, NDArray[np.int64]]:
        """What the graph takes; the first `unpooled` tokens of each text are left out of its pooling."""
        input_ids, attention_mask = pad(token_ids, self.manifest.tokenizer.pad_id)
        inputs = {"input_ids": input_ids, "attention_mask": attention_mask}
        if POOLING_MASK in self._graph.inputs:
            inputs[POOLING_MASK] = attention_mask.copy()
            inputs[POOLING_MASK][:, :unpooled] = 0
        return inputs

    @staticmethod
    def _with_prompt(options: EncodeOptions, name: str) -> EncodeOptions:
        if options.get("prompt") is None and options.get("prompt_name") is None:
            options["prompt_name"] = name
        return options

    def _resolve_prompt(self, prompt_name: str | None, prompt: str | None) -> str:
        if prompt is None:
            name = prompt_name if prompt_name is not None else self.manifest.default_prompt_name
            if name is not None and name not in list(self.prompts):  # a list, as not all that is given can be hashed
                raise InputError(f"unknown prompt_name {name!r}: the model has {', '.join(map(repr, self.prompts))}")
            prompt = "" if name is None else self.prompts[name]
        check_prompt(prompt)
        return prompt


_loaded: dict[tuple[str | None, ...], Embedder] = {}
_loading = threading.Lock()


def encode(
    texts: str | Iterable[str],
    model: str | os.PathLike[str] = DEFAULT_MODEL,
    *,
    provider: str | None = None,
    graph: str | None = None,
    threads: int | None = None,
    **options: Unpack[EncodeOptions],
) -> NDArray[np.float32]:
    """Encode `texts` by `model`, which is loaded at the first call and kept for the next ones.

    As `Embedder(model, provider=provider, ...).encode(texts, **options)`, with the same result and errors.
    """
    # What a name or a relative path means depends on where one is.
    here = None if os.path.isabs(str(model)) else os.getcwd()
    key = (str(model), repr((provider, graph, threads)), here, os.environ.get("EMBEDDER_ARTIFACTS"))
    if key not in _loaded:
        with _loading:
            if key not in _loaded:  # another thread may have been first
                _loaded[key] = Embedder(model, provider=provider, graph=graph, threads=threads)
    return _loaded[key].encode(texts, **options)


def choose_graph(graphs: tuple[Graph, ...], wanted: str | None, provider: str) -> Graph:
    """The one of `graphs` that `wanted` is, as `Embedder` has it; InputError if there is none."""
    by_precision = {graph.precision: graph for graph in graphs}
    if wanted == "auto":
        order = ("int8", "fp32") if provider == "cpu" and has_fast_integers() else ("fp32", "int8")
        wanted = next(precision for precision in order if precision in by_precision)
    elif wanted is None:
        wanted = graphs[0].precision
    if not isinstance(wanted, str) or wanted not in by_precision:
        raise InputError(
            f"the model has no graph {wanted!r}, it has {', '.join(map(repr, by_precision))}: choose one of them, or "
            '"auto"; embedder-export --graphs says which to write'
        )
    return by_precision[wanted]


def _read_ahead(
    stream: Iterator[list[str]], tokenize: Callable[[list[str]], list[TokenIds]], pool: ThreadPoolExecutor
) -> Iterator[list[TokenIds]]:
    """The token ids of each window of texts, made while the caller is busy with those of the window before it."""
    window = next(stream, None)
    token_ids = tokenize(window) if window else None
    while token_ids is not None:
        error, following = None, None
        try:
            following = next(stream, None)
        except Exception as raised:  # whatever the caller's texts raise comes after what they gave before
            error = raised
        tokenized = pool.submit(tokenize, following) if following else None
        yield token_ids
        if error is not None:
            raise error
        token_ids = tokenized.result() if tokenized else None


def _progress_bar(texts: Iterable[str]) -> AbstractContextManager[Any]:
    from tqdm import tqdm

    total = len(texts) if isinstance(texts, Sized) else None
    bar: AbstractContextManager[Any] = tqdm(total=total, unit="text", desc="Encoding")
    return bar
