"""Make the graphs of one transformer: fp32, and each other dtype that is wanted."""

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from embedder_export.dtype.fp16 import convert_to_fp16
from embedder_export.dtype.fp32 import ChosenGraph, choose_form
from embedder_export.dtype.int8 import convert_to_int8
from embedder_export.dtype.timing import check_agreement, reference_vectors, time_graphs
from embedder_export.errors import CheckpointError, GraphError
from embedder_export.graph.run import Feed, Session
from embedder_export.samples.feeds import Samples

# The dtypes that an export can write.
DTYPES = ("fp32", "int8", "fp16")
# fp16 is for GPUs, so it is written only if it is asked for.
_DEFAULT_DTYPES = ("fp32", "int8")
# From a float32 graph and single inputs to calibrate on, to a new file.
_Converter = Callable[[Path, Sequence[Feed], Path], Path]
_CONVERTERS: dict[str, _Converter] = {"int8": convert_to_int8, "fp16": convert_to_fp16}


@dataclass(frozen=True)
class Conversion:
    """What the graphs of one transformer are made from.

    Attributes:
        name: of their files, without the dtype and the extension.
        forms: its float32 graphs with their heads, by form. The first is the reference.
        samples: inputs to time and calibrate on.
        directory: where new graphs go, each into a folder of its own.
    """

    name: str
    forms: Mapping[str, Path]
    samples: Samples
    directory: Path


def convert_dtypes(
    conversion: Conversion, dtypes: Collection[str] | None, report: Callable[[str], None]
) -> dict[str, ChosenGraph]:
    """Return the graphs by dtype, fp32 first.

    Args:
        conversion: what to make them from.
        dtypes: those of `DTYPES` that are wanted. None is the default ones, as far as they can be made.
        report: called with a line for each graph.

    Raises:
        CheckpointError: a dtype that was asked for cannot be made, or onnxruntime fails on the fp32 graph.
    """
    fp32 = choose_form(conversion.forms, conversion.samples.batches, report)
    graphs = {"fp32": fp32}
    for dtype in _CONVERTERS:
        if dtype not in (_DEFAULT_DTYPES if dtypes is None else dtypes):
            continue
        report(f"making {conversion.name}.{dtype}.onnx")
        try:
            graphs[dtype] = _convert(conversion, dtype, fp32)
        except GraphError as error:
            if dtypes is not None:
                raise CheckpointError(f"{dtype} cannot be made: {error}") from error
            report(f"{dtype} is not written, as it cannot be made: {error}")
    return graphs


def _convert(conversion: Conversion, dtype: str, fp32: ChosenGraph) -> ChosenGraph:
    # Fused attention hides its weights. In the first form every product is a node.
    form = next(iter(conversion.forms))
    target = conversion.directory / dtype / f"{conversion.name}.{dtype}.onnx"
    path = _CONVERTERS[dtype](conversion.forms[form], conversion.samples.singles, target)
    sessions = {"fp32": Session(fp32.path, threads=1), dtype: Session(path, threads=1)}
    batches = conversion.samples.batches
    # Any finite vectors will do here. How near they are is measured later, on other samples.
    check_agreement(sessions[dtype], batches, _expected(sessions["fp32"], batches), math.inf)
    return ChosenGraph(path, form, time_graphs(sessions, batches))


def _expected(fp32: Session, batches: Sequence[Feed]) -> list[NDArray[np.float32]]:
    try:
        return reference_vectors(fp32, batches)
    except GraphError as error:
        raise GraphError(f"the fp32 graph is not usable: {error}") from error
