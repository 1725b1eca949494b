"""Encode queries by static weights: each token id that a query has gets its weight. No graph runs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from embedder.artifact.artifact import Artifact
from embedder.artifact.manifest import File, StaticQueries
from embedder.common.digests import CheckedFile, open_checked
from embedder.common.files import read_regular
from embedder.engine.tokenizer import TextTokenizer
from embedder.errors import ArtifactError
from embedder.vectors.sparse.vectors import SparseVectors


class QueryWeights:
    """The weights of token ids and the tokenizer of queries. Safe to call from many threads.

    Example:
        >>> QueryWeights(tokenizer, weights).encode(["a cat"])[0].shape  # doctest: +SKIP
        (1, 30522)
    """

    def __init__(self, tokenizer: TextTokenizer, weights: NDArray[np.float32]) -> None:
        self._tokenizer = tokenizer
        self._weights = weights

    @classmethod
    def load(
        cls, artifact: Artifact, tokenizer: File, queries: StaticQueries, dimension: int, *, verify: bool
    ) -> QueryWeights:
        """Load them.

        Args:
            artifact: the artifact.
            tokenizer: the file of its tokenizer.
            queries: what its manifest says of queries.
            dimension: number of token ids.
            verify: whether to check the files.

        Raises:
            ArtifactError: a file is missing, is damaged or does not match the manifest.
        """
        paths = [artifact.path(file) for file in (tokenizer, queries.weights)]
        digests = [file.sha256 if verify else None for file in (tokenizer, queries.weights)]
        files = [CheckedFile(path, digest) for path, digest in zip(paths, digests, strict=True)]
        return open_checked(files, lambda: cls._read(artifact, tokenizer, queries, dimension, verify=verify))

    @classmethod
    def _read(
        cls, artifact: Artifact, tokenizer: File, queries: StaticQueries, dimension: int, *, verify: bool
    ) -> QueryWeights:
        path = artifact.path(queries.weights)
        try:
            content = read_regular(path, queries.weights.size)
        except OSError as error:
            raise ArtifactError(f"{path} cannot be read: {error.strerror}") from error
        weights = np.frombuffer(content, "<f4")
        if len(weights) != dimension or not np.isfinite(weights).all():
            raise ArtifactError(f"{path} should have {dimension} finite numbers. Export the model again")
        limit = queries.max_seq_length
        return cls(TextTokenizer(artifact.path(tokenizer), limit, verify=verify), weights.astype(np.float32))

    @property
    def max_seq_length(self) -> int:
        """Most tokens of a query that are read."""
        return self._tokenizer.max_seq_length

    def encode(self, queries: Sequence[str]) -> tuple[SparseVectors, NDArray[np.bool_]]:
        """Return the vectors of queries; and whether a query has more tokens than are read, (queries,).

        Raises:
            ArtifactError: the tokenizer has a fault that shows only in use.

        Example:
            >>> weights.encode(["a cat"])[0].shape  # doctest: +SKIP
            (1, 30522)
        """
        rows, cut = [], np.zeros(len(queries), bool)
        for row, (ids, is_cut) in enumerate(self._tokenizer.first_tokens(queries)):
            present = np.unique(ids)
            values = self._weights[present]
            kept = values != 0
            rows.append((present[kept].astype(np.int32), values[kept]))
            cut[row] = is_cut
        return SparseVectors.of_rows(rows, len(self._weights)), cut
