"""Rotary position embedding, RoPE (Su et al., 2021: https://arxiv.org/abs/2104.09864).

It rotates pairs of numbers in each head's query and key. The angle of pair i at position p is p * frequency[i], where
frequency[i] = theta ** (-2 * i / width). So a score depends on the distance of two tokens, and the model needs no
table of position embeddings.

Models that read longer texts than they were trained on change the frequencies:

- "linear": frequency / factor.
- "ntk": theta * factor in the place of theta, and then frequency / factor ** (2 / width), as Alibaba's GTE has it
  (https://kexue.fm/archives/9706).
- "dynamic": theta grows with the length of the text, from `trained_positions` tokens on.
- "llama3": frequency / factor for pairs that turn fewer than `low_turns` times in `trained_positions` tokens. Pairs
  that turn more than `high_turns` times keep their frequency. Between the two, the change is gradual.
- "yarn": the same, but the change is linear in the number of the pair (Peng et al., 2023:
  https://arxiv.org/abs/2309.00071). Queries and keys are multiplied by `amplitude` too.
"""

import math
from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from embedder_export.checkpoint.weights import lazy
from embedder_export.graph.operators import Operators

Frequencies = NDArray[np.float32]


@dataclass(frozen=True)
class Rope:
    """A model's rotation of queries and keys.

    Attributes:
        theta: base of the frequencies.
        width: how many numbers of a head are rotated, from the first on. It is even.
        interleaved: whether the numbers of a pair are neighbours. Otherwise they lie width / 2 apart.
        scaling: "default", "linear", "ntk", "dynamic", "llama3" or "yarn", as in the module's description.
        factor: the factor of the scaling.
        trained_positions: for "dynamic", the longest text in tokens that leaves theta as it is. For "llama3" and
            "yarn", the longest text of the training.
        low_turns: for "llama3" and "yarn", as in the module's description.
        high_turns: for "llama3" and "yarn", more than `low_turns`.
        whole_pairs: for "yarn", whether the change begins and ends at the number of a pair, rounded outwards.
        amplitude: factor of the rotated queries and keys.
    """

    theta: float
    width: int
    interleaved: bool = False
    scaling: str = "default"
    factor: float = 1.0
    trained_positions: int = 0
    low_turns: float = 0.0
    high_turns: float = 0.0
    whole_pairs: bool = True
    amplitude: float = 1.0


@dataclass(frozen=True)
class Rotation:
    """The numbers of a rotation as values of a graph.

    Attributes:
        cosines: float32 (positions, width / 2).
        sines: float32 (positions, width / 2).
    """

    cosines: ir.Value
    sines: ir.Value


def frequencies(rope: Rope) -> Frequencies:
    """Return the angle of each pair for one position, float32 (width / 2,).

    Args:
        rope: the rotation. "dynamic" gives the frequencies of short texts.

    Example:
        >>> frequencies(Rope(theta=100.0, width=4))
        array([1. , 0.1], dtype=float32)
    """
    theta = rope.theta * (rope.factor if rope.scaling == "ntk" else 1)
    # Exponents in float32, as in transformers. Angles of long texts depend on the last bits.
    exponents = np.arange(0, rope.width, 2, dtype=np.float32) / np.float32(rope.width)
    powers = np.power(np.float64(np.float32(theta)), exponents.astype(np.float64)).astype(np.float32)
    found = np.float32(1) / powers
    if rope.scaling == "linear":
        found = found / np.float32(rope.factor)
    if rope.scaling == "ntk":
        found = found / np.float32(rope.factor ** (2 / rope.width))
    if rope.scaling == "yarn":
        return _yarn(rope, powers)
    return _llama3(rope, found) if rope.scaling == "llama3" else found


def _llama3(rope: Rope, found: Frequencies) -> Frequencies:
    turns = rope.trained_positions * found / (2 * np.pi)
    kept = np.clip((turns - rope.low_turns) / (rope.high_turns - rope.low_turns), 0, 1)
    changed: Frequencies = (found * (kept + (1 - kept) / rope.factor)).astype(np.float32)
    return changed


def _yarn(rope: Rope, powers: Frequencies) -> Frequencies:
    def pair_of(turns: float) -> float:
        """Return the pair that turns so often in the texts of the training. It need not be whole."""
        return rope.width * math.log(rope.trained_positions / (turns * 2 * math.pi)) / (2 * math.log(rope.theta))

    first, last = pair_of(rope.high_turns), pair_of(rope.low_turns)
    if rope.whole_pairs:
        first, last = math.floor(first), math.ceil(last)
    first, last = max(first, 0), min(last, rope.width - 1)
    steps = (np.arange(rope.width // 2, dtype=np.float32) - np.float32(first)) / np.float32((last - first) or 0.001)
    kept = 1 - np.clip(steps, 0, 1)
    changed: Frequencies = (1 - kept) / (np.float32(rope.factor) * powers) + kept / powers
    return changed


def write_rotation(op: Operators, rope: Rope, positions: int, length: ir.Value) -> Rotation:
    """Write the cosines and sines of `rope`.

    Args:
        op: writes the nodes.
        rope: the rotation.
        positions: the longest text of the graph, in tokens.
        length: number of tokens of the batch's texts, int64 (1,).

    Example:
        >>> rotation = write_rotation(op, Rope(theta=10000.0, width=64), 8192, length)  # doctest: +SKIP
    """
    if rope.scaling == "dynamic":
        return _write_dynamic(op, rope, length)
    shape = (positions, rope.width // 2)

    def angles() -> NDArray[np.float64]:
        # The product is rounded to float32, as in transformers.
        steps = np.arange(positions, dtype=np.float32)[:, None] * frequencies(rope)
        return steps.astype(np.float64)

    amplitude = np.float32(rope.amplitude)
    cosines = lazy(lambda: np.cos(angles()).astype(np.float32) * amplitude, shape)
    sines = lazy(lambda: np.sin(angles()).astype(np.float32) * amplitude, shape)
    return Rotation(op.initializer(cosines), op.initializer(sines))


def _write_dynamic(op: Operators, rope: Rope, length: ir.Value) -> Rotation:
    """Write the rotation whose theta depends on the length of the texts.

    It computes in float64, which the conversion to fp16 leaves alone.
    """
    factor, trained = rope.factor, float(rope.trained_positions)
    tokens = op.Max(op.Cast(length, to=ir.DataType.DOUBLE), op.constant(np.array([trained])))
    growth = op.Sub(op.Mul(tokens, op.constant(np.array([factor / trained]))), op.constant(np.array([factor - 1])))
    pairs = np.arange(0, rope.width, 2, dtype=np.float64)
    # (theta * growth ** (width / (width - 2))) ** (-pair / width)
    steady = op.constant(frequencies(replace(rope, scaling="default")).astype(np.float64))
    changes = op.Pow(op.Expand(growth, op.constant([len(pairs)])), op.constant(-pairs / (rope.width - 2)))
    zero, one = (op.constant(value) for value in (0, 1))
    steps = op.Cast(op.Range(zero, op.Squeeze(length), one), to=ir.DataType.DOUBLE)
    angles = op.Mul(op.Unsqueeze(steps, op.constant([1])), op.Mul(steady, changes))
    return Rotation(op.Cast(op.Cos(angles), to=ir.DataType.FLOAT), op.Cast(op.Sin(angles), to=ir.DataType.FLOAT))
