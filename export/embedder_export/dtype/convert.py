"""Make the graphs of one transformer: fp32, and the other dtypes that the caller asks for."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx_ir as ir
from embedder.artifact.int8_products import Int8Products
from embedder.backends import default_device
from numpy.typing import NDArray

from embedder_export.body.contract import FOR_GPUS
from embedder_export.dtype.fp16 import convert_model, convert_to_fp16
from embedder_export.dtype.fp32 import ChosenGraph, choose_form
from embedder_export.dtype.int4 import convert_to_int4
from embedder_export.dtype.search import search_int8
from embedder_export.dtype.timing import check_agreement, reference_vectors, time_graphs
from embedder_export.errors import CheckpointError, GraphError
from embedder_export.graph.files import save_graph
from embedder_export.graph.run import Feed, Session
from embedder_export.samples.feeds import Samples

# The dtypes that an export can write.
DTYPES = ("fp32", "int8", "int4", "fp16")
# Called with a float32 graph, samples, the path of the new graph, and `report`. Returns which products of an int8 graph
# are computed in fp32.
_Converter = Callable[[Path, Samples, Path, Callable[[str], None]], Int8Products | None]
_CONVERTERS: dict[str, _Converter] = {"int8": search_int8, "int4": convert_to_int4, "fp16": convert_to_fp16}


@dataclass(frozen=True)
class Conversion:
    """The material for the graphs of one transformer.

    Attributes:
        name: the name of the new files, without the dtype and the extension.
        forms: the transformer's float32 graphs with their heads, by form. The first is the reference.
        samples: inputs to time and calibrate on.
        directory: the parent of the new folders. Each new graph gets one.
        write_for_gpu: writes the graph in float32 in the form that is fastest on GPUs in fp16. None if there is none.
        write_dtype: writes the graph in a dtype, as that of `Body`. None: the fp32 graph is converted.
    """

    name: str
    forms: Mapping[str, Path]
    samples: Samples
    directory: Path
    write_for_gpu: Callable[[], ir.Model] | None = None
    write_dtype: Callable[[str], ir.Model] | None = None


def convert_dtypes(
    conversion: Conversion, dtypes: Collection[str] | None, report: Callable[[str], None]
) -> dict[str, ChosenGraph]:
    """Make the graphs, and return them by dtype. fp32 comes first.

    Args:
        conversion: what to make them from.
        dtypes: which of `DTYPES` to make. None makes fp32 and int8, on a machine with a GPU also fp16, and leaves out
            what cannot be made.
        report: called with a line for each graph.

    Raises:
        CheckpointError: a dtype that was asked for cannot be made, or onnxruntime fails on the fp32 graph.

    Example:
        >>> conversion = Conversion("model", forms, text_samples(tokenizer), directory)  # doctest: +SKIP
        >>> list(convert_dtypes(conversion, None, print))  # doctest: +SKIP
        ['fp32', 'int8']
    """
    fp32 = choose_form(conversion.forms, conversion.samples.batches, report)
    graphs = {"fp32": fp32}
    chosen = _default_dtypes() if dtypes is None else dtypes
    for dtype in _CONVERTERS:
        if dtype not in chosen:
            continue
        report(f"making {conversion.name}.{dtype}.onnx")
        try:
            if dtype == "fp16" and conversion.write_for_gpu is not None:
                graphs[dtype] = _write_for_gpu(conversion, conversion.write_for_gpu, fp32)
            else:
                graphs[dtype] = _convert(conversion, dtype, fp32, report)
        except GraphError as error:
            if dtypes is not None:
                raise CheckpointError(f"{dtype} cannot be made: {error}") from error
            report(f"{dtype} is not written, as it cannot be made: {error}")
    return graphs


def _default_dtypes() -> tuple[str, ...]:
    """Return the dtypes of an export that is asked for none. A GPU prefers fp16, so a machine with one gets it too."""
    device, _ = default_device()
    return "fp32", "int8", device.preferred_dtypes[0]


def _convert(conversion: Conversion, dtype: str, fp32: ChosenGraph, report: Callable[[str], None]) -> ChosenGraph:
    # The first form has a node for every product. Fused attention hides its products and weights.
    form = next(iter(conversion.forms))
    target = conversion.directory / dtype / f"{conversion.name}.{dtype}.onnx"
    products = None
    if conversion.write_dtype is None:
        products = _CONVERTERS[dtype](conversion.forms[form], conversion.samples, target, report)
    else:
        save_graph(conversion.write_dtype(dtype), target.parent, target.name)
    sessions = {"fp32": Session(fp32.path, threads=1), dtype: Session(target, threads=1)}
    batches = conversion.samples.batches
    # Here the vectors need only be finite. `verify.quality` measures the difference later, in the runtime.
    check_agreement(sessions[dtype], batches, _fp32_vectors(sessions["fp32"], batches), None)
    return ChosenGraph(target, form, time_graphs(sessions, batches), products)


def _write_for_gpu(conversion: Conversion, write: Callable[[], ir.Model], fp32: ChosenGraph) -> ChosenGraph:
    """Write the fp16 graph for GPUs. It is not timed, because there may be no GPU here."""
    model = write()
    convert_model(model)
    path = save_graph(model, conversion.directory / "fp16", f"{conversion.name}.fp16.onnx")
    batches = conversion.samples.batches
    check_agreement(Session(path), batches, _fp32_vectors(Session(fp32.path), batches), None)  # as in `_convert`
    return ChosenGraph(path, FOR_GPUS, ())


def _fp32_vectors(fp32: Session, batches: Sequence[Feed]) -> list[NDArray[np.float32]]:
    try:
        return reference_vectors(fp32, batches)
    except GraphError as error:
        raise GraphError(f"the fp32 graph is not usable: {error}") from error
