"""A graph on a GPU: one session of onnxruntime. `cuda.py` starts the device."""

from __future__ import annotations

from collections.abc import Mapping

from embedder.backends.backend import Device, Feeds, GraphFiles, Outputs
from embedder.backends.sessions import check_outputs, open_session, run_session, session_options


class CudaBackend:
    """A graph on a GPU. Safe to call from many threads."""

    def __init__(
        self, files: GraphFiles, device: Device, execution_provider: str, provider_options: Mapping[str, str]
    ) -> None:
        """Load the graph of `files`.

        Args:
            files: the graph.
            device: the device that runs it.
            execution_provider: onnxruntime's name of the provider.
            provider_options: the number of the device, and the options that the user gave.

        Raises:
            ArtifactError: onnxruntime cannot load the graph, or its outputs are not those of the manifest.
        """
        self.device = device
        self._output_names = [output.name for output in files.graph.outputs]
        files.opening()
        self._session = open_session(
            files.path, execution_provider, session_options(1), provider_options=provider_options
        )
        check_outputs(self._session, files.path, files.graph)

    def run(self, feeds: Feeds, *, single_batch: bool = False) -> Outputs:
        """Run the graph; see `Backend.run`."""
        return run_session(self._session, feeds, self._output_names)
