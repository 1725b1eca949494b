"""sentence-transformers' names for its users: change the import, and the program runs on embedder.

`docs/moving-over.md` says what is the same, what differs, and what is refused. torch is imported only by a call that
asks for a tensor.

Example:
    >>> from embedder.compat import SentenceTransformer, util
    >>> model = SentenceTransformer("all-MiniLM-L6-v2")  # doctest: +SKIP
    >>> util.cos_sim(model.encode("a text"), model.encode("a text")).item()  # doctest: +SKIP
    1.0
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from embedder import __version__
from embedder.compat.module_finder import ModuleFinder
from embedder.compat.refusals import PACKAGE, refuse_import

if TYPE_CHECKING:
    from embedder.compat import cross_encoder, quantization, util
    from embedder.compat.cross_encoder import CrossEncoder
    from embedder.compat.quantization import quantize_embeddings
    from embedder.compat.sentence_transformers import SentenceTransformer
    from embedder.compat.similarity import SimilarityFunction
    from embedder.compat.util import LoggingHandler

__all__ = [
    "CrossEncoder",
    "LoggingHandler",
    "SentenceTransformer",
    "SimilarityFunction",
    "__version__",
    "cross_encoder",
    "quantization",
    "quantize_embeddings",
    "util",
]

# Public names by module; "" is the module itself.
_LAZY = {
    "cross_encoder": ("", "CrossEncoder"),
    "quantization": ("", "quantize_embeddings"),
    "sentence_transformers": ("SentenceTransformer",),
    "similarity": ("SimilarityFunction",),
    "util": ("", "LoggingHandler"),
}

if not TYPE_CHECKING:

    def __getattr__(name):  # noqa: ANN001, ANN202
        from importlib import import_module

        for module, names in _LAZY.items():
            if name in names:
                return getattr(import_module(f"{__name__}.{module}"), name)
            if name == module and "" in names:
                return import_module(f"{__name__}.{module}")
        raise refuse_import(__name__, name, PACKAGE)

    def __dir__():  # noqa: ANN202
        return sorted({*globals(), *__all__})


sys.meta_path.append(ModuleFinder)
