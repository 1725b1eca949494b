"""Read a table of static embeddings: a vector for each token, from a file of sentence-transformers or of model2vec.

sentence-transformers' `StaticEmbedding` has one tensor, `embedding.weight`. model2vec has `embeddings`, and in newer
files `mapping` and `weights`. A token's vector is then `embeddings[mapping[token]] * weights[token]`: several tokens
share a row (quantisation of the vocabulary), and each has its own weight.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from embedder_export.checkpoint.weights import (
    BlankWeights,
    Floats,
    Weights,
    as_float32,
    is_finite,
    read_integers,
    read_weights,
    shape_of,
)
from embedder_export.errors import CheckpointError

# The names of the table: in sentence-transformers, and in model2vec.
_ROWS = ("embedding.weight", "embeddings")
_MAPPING, _WEIGHTS = "mapping", "weights"


@dataclass(frozen=True)
class StaticTable:
    """The vectors of tokens.

    Attributes:
        rows: the rows, float32 (rows, dimension).
        row_of_token: the row of each token, int64 (tokens,). None: a token's id is its row.
        weight_of_token: the factor of each token's vector, float32 (tokens,). None: all are 1.
    """

    rows: ir.TensorProtocol
    row_of_token: NDArray[np.int64] | None
    weight_of_token: Floats | None

    @property
    def dimension(self) -> int:
        """Length of a vector."""
        return shape_of(self.rows)[1]

    @property
    def token_count(self) -> int:
        """Number of tokens that have a vector."""
        counts = [len(each) for each in (self.row_of_token, self.weight_of_token) if each is not None]
        return min(counts, default=shape_of(self.rows)[0])


def read_static_table(directory: Path) -> StaticTable:
    """Read the table of static embeddings in `directory`.

    Raises:
        CheckpointError: the weights are missing or damaged, have other tensors or shapes, or are not finite.
        NotNativeError: a tensor has a number format that is not known here.

    Example:
        >>> read_static_table(Path("checkpoints/potion-base-8M")).dimension  # doctest: +SKIP
        256
    """
    floats, integers = read_weights(directory), read_integers(directory)
    if isinstance(floats, BlankWeights):
        return StaticTable(floats.zeros(1, 1), None, None)
    tensors = integers | floats
    name = next((name for name in _ROWS if name in tensors), None)
    if name is None:
        raise CheckpointError(f"{directory} has neither the tensor {_ROWS[0]} nor {_ROWS[1]}")
    # model2vec can save its table as int8, without a scale. Its vectors are means of these integers.
    rows = as_float32(tensors[name])
    if len(shape_of(rows)) != 2 or 0 in shape_of(rows):
        raise CheckpointError(f"{directory} has {name} of the shape {shape_of(rows)}, which is no table")
    if not is_finite(rows):
        raise CheckpointError(f"the weights in {directory} are not finite: {name} has NaN or infinity in it")
    if name == _ROWS[0]:  # sentence-transformers reads only this one then
        return StaticTable(rows, None, None)
    mapping = _read_mapping(directory, integers, shape_of(rows)[0])
    return StaticTable(rows, mapping, _read_token_weights(directory, floats))


def _read_mapping(directory: Path, integers: Weights, rows: int) -> NDArray[np.int64] | None:
    if _MAPPING not in integers:
        return None
    mapping: NDArray[np.int64] = integers[_MAPPING].numpy().astype(np.int64)
    if mapping.ndim != 1 or not len(mapping) or mapping.min() < 0 or mapping.max() >= rows:
        raise CheckpointError(f"{directory} has a {_MAPPING} that does not map each token to one of {rows} rows")
    return mapping


def _read_token_weights(directory: Path, floats: Weights) -> Floats | None:
    if _WEIGHTS not in floats:
        return None
    weights: Floats = floats[_WEIGHTS].numpy()
    if weights.ndim != 1 or not len(weights) or not np.isfinite(weights).all():
        raise CheckpointError(f"{directory} has {_WEIGHTS} that are not one finite number for each token")
    return weights
