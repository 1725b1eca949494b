"""Search the fastest int8 graph that is close enough to fp32: keep as few products as possible in float32.

Most models need no product in float32, and then the search ends after one measurement. Otherwise it has three steps:

1. Convert the graph so that each product has both dtypes, and an input chooses. So no further graph is built.
2. Convert one product at a time, and measure the error of the vectors. The errors of the products nearly add up. So the
   product with the largest error for its time is the best to keep. Its time is taken as proportional to its weights.
3. Keep the first products of this order: as few as reach the limits. A bisection needs few measurements for that.

The order depends on no time measurement, so the same checkpoint gives the same graph. The graph has to be close enough
on the samples that calibrate it, and on those that `verify.quality` measures. The search aims a little higher than the
limits, because the runtime rounds otherwise in its batches.
"""

import shutil
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from embedder.artifact.int8_products import Int8Products
from numpy.typing import NDArray

from embedder_export.checkpoint.layers import TOKENS
from embedder_export.dtype.int8 import SWITCHES, convert_to_int8
from embedder_export.dtype.outliers import split_outliers
from embedder_export.dtype.products import check_products, count_weights
from embedder_export.graph.run import Feed, Session
from embedder_export.head.dense import SCORES
from embedder_export.samples.feeds import Samples
from embedder_export.verify.closeness import Closeness, ScoreCloseness, TokenCloseness, Values, VectorCloseness

# The search allows this share of the error that the limits allow.
_TARGET_SHARE = 0.8
# At most this share of the weights stays in float32. With more, int8 would hardly be faster than fp32.
_MAX_KEPT_SHARE = 0.5
# The second step runs the graph once for each product. It takes so many texts or images that the runs multiply about
# this many weights with a token, but within the limits. all-mpnet-base-v2: 14 texts, 20 seconds on two cores.
_WEIGHTS_PER_STEP = 6e10
_MIN_INPUTS, _MAX_INPUTS = 4, 16


@dataclass(frozen=True)
class _Sample:
    """Inputs to measure a graph on, which are alike: all calibrate the graph, or none does.

    Attributes:
        singles: single texts, pairs or images.
        closeness: compares their results with those in fp32.
    """

    singles: Sequence[Feed]
    closeness: Closeness

    def subset(self, indices: Sequence[int]) -> "_Sample":
        """Return some of the inputs, in the order of `indices`."""
        return _Sample([self.singles[index] for index in indices], self.closeness.subset(indices))

    def run(self, session: Session, is_int8: NDArray[np.bool_] | None = None) -> Values:
        """Return the results of a graph, float32 (n, size); or for texts with a vector for each token, n arrays.

        Args:
            session: the graph.
            is_int8: which products are int8, bool (products,). Only for a graph with switches.
        """
        switches = {} if is_int8 is None else {SWITCHES: is_int8}
        return _results(session, [{**feed, **switches} for feed in self.singles])

    def share_of_limits(self, session: Session, is_int8: NDArray[np.bool_] | None = None) -> float:
        """Return the share of the allowed error that a graph has. See `run` for the arguments."""
        return self.closeness.share_of_limits(self.run(session, is_int8))


def _sample_of(session: Session, singles: Sequence[Feed]) -> _Sample:
    """Return `singles` as a sample. `session` is the fp32 graph."""
    expected = _results(session, singles)
    if TOKENS in session.outputs:
        return _Sample(singles, TokenCloseness(expected))
    return _Sample(singles, ScoreCloseness.of(expected) if SCORES in session.outputs else VectorCloseness(expected))


def _results(session: Session, singles: Sequence[Feed]) -> Values:
    """Return the results of a graph for single inputs, as `_Sample.run` does."""
    found = [session.run(feed)[0] for feed in singles]
    if TOKENS not in session.outputs:
        return np.concatenate(found)
    results = np.empty(len(found), object)
    for row, (vectors,) in enumerate(found):
        results[row] = vectors
    return results


def search_int8(path: Path, samples: Samples, target: Path, report: Callable[[str], None]) -> Int8Products:
    """Convert the float32 graph at `path` to int8, as far as the vectors stay close to fp32.

    Args:
        path: the graph's file.
        samples: the graph is calibrated on `samples.singles`, and measured on them and on `samples.unseen`.
        target: the new file, in a new directory.
        report: called with a line if products stay in fp32.

    Returns:
        Which products of the new graph are computed in fp32.

    Raises:
        GraphError: onnxruntime fails on the graph, an activation is not finite, or the graph has no product.

    Example:
        >>> search_int8(Path("model.onnx"), samples, Path("int8/model.int8.onnx"), print).fp32  # doctest: +SKIP
        ()
    """
    singles = samples.singles
    with TemporaryDirectory(dir=target.parent.parent) as scratch:
        source = Path(scratch) / "split" / path.name
        split = split_outliers(path, singles, source)
        source = source if split else path
        weights = count_weights(source)
        check_products(weights)
        names = list(weights)
        fp32 = Session(path)
        parts = [_sample_of(fp32, part) for part in (singles, samples.unseen)]
        int8 = Session(convert_to_int8(source, singles, target))
        values = [part.run(int8) for part in parts]
        shares = [part.closeness.share_of_limits(found) for part, found in zip(parts, values, strict=True)]
        worst = int(np.argmax(shares))
        kept: tuple[int, ...] = ()
        if shares[worst] > _TARGET_SHARE:
            closeness = parts[worst].closeness
            report(
                f"with all products in int8 there is {closeness.describe(values[worst])}: searching the products to "
                "keep in fp32"
            )
            switched = Session(convert_to_int8(source, singles, Path(scratch) / "switched" / path.name, switched=True))
            farthest_first = np.argsort(-closeness.errors(values[worst]), kind="stable").tolist()
            order = _rank(switched, parts[worst].subset(farthest_first), list(weights.values()))
            kept = _search(switched, parts, order, list(weights.values()))
            shutil.rmtree(target.parent)
            convert_to_int8(source, singles, target, [names[index] for index in kept])
            report(f"{len(kept)} of {len(names)} products stay in fp32")
    return Int8Products(len(names), kept, tuple(index for index in map(names.index, split) if index not in kept))


def _search(
    session: Session, parts: Sequence[_Sample], order: Sequence[int], weights: Sequence[int]
) -> tuple[int, ...]:
    """Return the fewest products whose float32 makes the results reach the target.

    Args:
        session: the graph with switches.
        parts: the inputs to measure. The target is to be reached on each part.
        order: the products in the order in which to keep them.
        weights: the number of weights of each product.
    """
    shares = np.cumsum([weights[index] for index in order]) / sum(weights)
    most = int(np.searchsorted(shares, _MAX_KEPT_SHARE, side="right"))

    def reaches(count: int) -> bool:
        is_int8 = ~np.isin(np.arange(len(weights)), order[:count])
        return all(part.share_of_limits(session, is_int8) <= _TARGET_SHARE for part in parts)

    count = bisect_left(range(1, most), True, key=reaches) + 1
    return tuple(sorted(order[:count]))


def _rank(session: Session, sample: _Sample, weights: Sequence[int]) -> list[int]:
    """Return the products in the order in which to keep them in float32."""
    count = int(np.clip(_WEIGHTS_PER_STEP / (len(weights) * sum(weights)), _MIN_INPUTS, _MAX_INPUTS))
    step = max(1, len(sample.singles) // count)  # the farthest is always among them
    few = sample.subset(range(0, len(sample.singles), step))
    alone = (few.run(session, np.arange(len(weights)) == index) for index in range(len(weights)))
    gains = np.array([few.closeness.cost(values) for values in alone]) / np.array(weights)
    return [int(index) for index in np.argsort(-gains, kind="stable")]
