"""Modules of sentence-transformers that programs import and that have no file here."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from importlib.abc import Loader
from importlib.machinery import ModuleSpec
from types import ModuleType

from embedder.compat.refusals import MODULES, refuse_import
from embedder.errors import DependencyError

# The modules by their names in sentence-transformers. Each has the names of one module here.
_SAME_NAMES = {
    "cross_encoder.model": "cross_encoder",
    "sentence_transformer": "sentence_transformers",
    "sentence_transformer.model": "sentence_transformers",
    "similarity_functions": "similarity",
    **dict.fromkeys(
        (
            *("util.dataset", "util.decorators", "util.distributed", "util.environment", "util.file_io"),
            *("util.hard_negatives", "util.logging", "util.misc", "util.quantization", "util.retrieval"),
            *("util.similarity", "util.tensor"),
        ),
        "util",
    ),
}
# Modules of older versions that have the name of their class. Their import would put them in the place of the class.
_NAMED_AS_CLASSES = ("SentenceTransformer", "LoggingHandler", "cross_encoder.CrossEncoder")
# The folders whose modules are refused with a hint. "" is the package itself.
_FOLDERS = ("", "sentence_transformer", "cross_encoder")


class ModuleFinder:
    """Finds modules of sentence-transformers, and raises an error with a hint for those that embedder does not have.

    `import embedder.compat` puts it last into `sys.meta_path`, so that it is asked for missing modules alone.

    Example:
        >>> from embedder.compat.util.similarity import cos_sim
        >>> float(cos_sim([1.0, 0.0], [1.0, 0.0]))
        1.0
    """

    @staticmethod
    def find_spec(fullname: str, path: Sequence[str] | None = None, target: object = None) -> ModuleSpec | None:
        """Return how to make a module, or None if sentence-transformers has no module of this name.

        Raises:
            DependencyError: embedder does not have the module, such as `embedder.compat.losses`.
        """
        package, _, name = fullname.partition(f"{__package__}.")
        if package or not name:
            return None
        if name in _SAME_NAMES:
            return ModuleSpec(fullname, _Loader(_SAME_NAMES[name]), is_package=True)
        folder, _, last = name.rpartition(".")
        if name in _NAMED_AS_CLASSES:
            raise DependencyError(f"{fullname} is a class here. Write: from {__package__} import {last}")
        if folder in _FOLDERS and last in MODULES:
            raise refuse_import(fullname.rpartition(".")[0], last, MODULES)
        return None


class _Loader(Loader):
    """Makes a module that has the names of another module."""

    def __init__(self, source: str) -> None:
        self._source = source

    def create_module(self, spec: ModuleSpec) -> None:
        """Return None: Python makes an empty module."""

    def exec_module(self, module: ModuleType) -> None:
        """Give the empty module the names of the other one."""
        source = import_module(f"{__package__}.{self._source}")
        public = getattr(source, "__all__", [name for name in vars(source) if not name.startswith("_")])
        vars(module).update({name: getattr(source, name) for name in public})
        vars(module)["__getattr__"] = lambda name: getattr(source, name)
