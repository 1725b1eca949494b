"""Write an artifact of one dtype for a machine that can write nothing later, such as a cloud function.

onnxruntime's file of prepacked weights holds the plain weights too. So the plain graph is pointed to that file: the
artifact has one file of weights and two graphs. The packed graph loads faster on CPUs of this kind. On all others the
plain graph runs.
"""

import hashlib
import mmap
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
from embedder.artifact.artifact import Artifact
from embedder.artifact.int8_products import with_graphs
from embedder.artifact.manifest import Graph, Manifest, write_manifest
from embedder.backends.prepacked import save_prepacked, with_shared_form, without_forms
from embedder.backends.prepacked_form import can_prepack
from embedder.common.digests import check_digest
from embedder.errors import InputError

from embedder_export.graph.files import weights_of
from embedder_export.write.artifact import describe_file
from embedder_export.write.output import staged

# Of a tensor that is added to the file of weights: a multiple of a cache line.
_ALIGNMENT_BYTES = 64


def write_prepacked_artifact(artifact: Artifact, dtype: str, output: Path, *, prepack: bool = True) -> Path:
    """Write an artifact that has the graphs of one dtype, with prepacked weights for this kind of CPU.

    Its vectors are those of `artifact`, on every machine. The same inputs give the same bytes.

    Args:
        artifact: an artifact. It does not change.
        dtype: the dtype to keep.
        output: directory to write. An artifact there is replaced.
        prepack: whether to prepack the weights. Set it to False if the model will run on another architecture. Weights
            in int4 are never prepacked.

    Returns:
        `output`.

    Raises:
        InputError: `artifact` has no graph of `dtype`. The message lists its dtypes.
        ArtifactError: a file of `artifact` is damaged, or weights cannot be prepacked on this machine.
        OutputError: `output` cannot be written, or holds other files than an artifact's.

    Example:
        >>> artifact = open_artifact("all-MiniLM-L6-v2")  # doctest: +SKIP
        >>> write_prepacked_artifact(artifact, "int8", Path("model"))  # doctest: +SKIP
        PosixPath('model')
    """
    manifest = artifact.manifest
    kept = tuple(graph for graph in manifest.graphs if graph.dtype == dtype)
    if {graph.modality for graph in kept} != set(manifest.modalities):
        dtypes = ", ".join(dict.fromkeys(repr(graph.dtype) for graph in manifest.graphs))
        raise InputError(f"{artifact.directory} has no graph of dtype {dtype!r} for each modality; it has {dtypes}")
    written = without_forms(with_graphs(manifest, kept))
    artifact.ensure(written.files)
    for file in written.files:
        check_digest(artifact.path(file), file.sha256)
    with staged(output) as stage:
        shutil.copyfile(artifact.path(manifest.tokenizer.file), stage / manifest.tokenizer.file.name)
        for graph in kept:
            if prepack and can_prepack(graph):
                written = _write_both_graphs(artifact, graph, stage, written)
            else:
                for file in (graph.file, graph.weights):
                    shutil.copyfile(artifact.path(file), stage / file.name)
        write_manifest(written, stage)
    return output


def _write_both_graphs(artifact: Artifact, graph: Graph, stage: Path, manifest: Manifest) -> Manifest:
    """Write a graph, its packed graph and their weights to `stage`. Return `manifest` with them."""
    source, plain = artifact.path(graph.file), stage / graph.file.name
    packed = plain.with_name(f"{plain.stem}.prepacked.onnx")
    save_prepacked(source, packed, weights_of(plain).name)
    model = onnx.load(source, load_external_data=False)
    _point_to(weights_of(plain), _offsets(packed, weights_of(plain)), model, weights_of(source))
    onnx.save_model(model, plain)
    described = replace(graph, file=describe_file(plain), weights=describe_file(weights_of(plain)))
    graphs = tuple(described if other == graph else other for other in manifest.graphs)
    return with_shared_form(replace(manifest, graphs=graphs), described, describe_file(packed))


def _offsets(graph: Path, weights: Path) -> dict[bytes, int]:
    """Return where `weights` has the tensors of `graph`, by the digests of their bytes."""
    model = onnx.load(graph, load_external_data=False)
    with _mapped(weights) as content:
        places = [_place(tensor) for tensor in _external_tensors(model)]
        return {_digest(content[place]): place.start for place in places}


def _point_to(weights: Path, offsets: dict[bytes, int], model: onnx.ModelProto, old_weights: Path) -> None:
    """Let the external tensors of `model` point to `weights` instead of `old_weights`. Add there what it lacks."""
    with _mapped(old_weights) as old, weights.open("ab") as stream:
        for tensor in _external_tensors(model):
            content = old[_place(tensor)]
            digest = _digest(content)
            if digest not in offsets:  # an optimisation of onnxruntime has replaced this tensor
                stream.write(bytes(-stream.tell() % _ALIGNMENT_BYTES))
                offsets[digest] = stream.tell()
                stream.write(content)
            del tensor.external_data[:]
            for key, value in (("location", weights.name), ("offset", offsets[digest]), ("length", len(content))):
                tensor.external_data.add(key=key, value=str(value))


def _external_tensors(message: Any) -> Iterator[onnx.TensorProto]:
    """Yield all tensors in a message of protobuf that lie in a file, such as those of a model, wherever they stand."""
    if isinstance(message, onnx.TensorProto):
        if message.data_location == onnx.TensorProto.EXTERNAL:
            yield message
        return
    for field, value in message.ListFields():
        if field.message_type is not None:
            for part in [value] if hasattr(value, "ListFields") else value:
                yield from _external_tensors(part)


def _place(tensor: onnx.TensorProto) -> slice:
    """Return the bytes of an external tensor in its file."""
    place = {entry.key: entry.value for entry in tensor.external_data}
    start = int(place["offset"])
    return slice(start, start + int(place["length"]))


def _digest(content: bytes) -> bytes:
    return hashlib.sha256(content).digest()


@contextmanager
def _mapped(path: Path) -> Iterator[mmap.mmap | bytes]:
    """Yield the content of a file, without reading it. onnx itself reads no file that has two names."""
    with path.open("rb") as stream:
        if path.stat().st_size == 0:  # which cannot be mapped
            yield b""
            return
        with mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content:
            yield content
