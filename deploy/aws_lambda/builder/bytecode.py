"""Compile a directory: `PYTHON bytecode.py DIRECTORY HANDLER`. The target's Python runs this file alone.

Each module becomes bytecode without its source. It needs no check when it is loaded, and no disk to write to. The
docstrings of modules and functions are left out. Those of classes stay: `dataclass` makes one where there is none,
which takes longer than to load it. The module HANDLER keeps its source, for people who look into the zip.
"""

from __future__ import annotations

import ast
import importlib.util
import marshal
import sys
import warnings
from pathlib import Path

# The flags of bytecode that names the digest of its source, and asks for no comparison with it (PEP 552).
_UNCHECKED_HASH = (1).to_bytes(4, "little")
_WITH_DOCSTRING = (ast.Module, ast.FunctionDef, ast.AsyncFunctionDef)


def compile_directory(directory: Path, handler: str) -> None:
    """Compile each module in `directory`, and remove its source, but for the module `handler`."""
    for path in sorted(directory.rglob("*.py")):
        name = path.relative_to(directory).as_posix()
        source = path.read_bytes()
        if name == f"{handler}.py":
            target = Path(importlib.util.cache_from_source(str(path)))
            target.parent.mkdir(exist_ok=True)
        else:
            target = path.with_suffix(".pyc")
            path.unlink()
        target.write_bytes(_bytecode(source, name))


def without_docstrings(tree: ast.Module) -> ast.Module:
    """Remove the docstrings of the module and of its functions from `tree`, and return it."""
    for node in ast.walk(tree):
        if isinstance(node, _WITH_DOCSTRING) and ast.get_docstring(node, clean=False) is not None:
            node.body = node.body[1:] or [ast.copy_location(ast.Pass(), node.body[0])]  # a function needs a body
    return tree


def _bytecode(source: bytes, name: str) -> bytes:
    code = compile(without_docstrings(ast.parse(source, name)), name, "exec", dont_inherit=True)
    return importlib.util.MAGIC_NUMBER + _UNCHECKED_HASH + importlib.util.source_hash(source) + marshal.dumps(code)


if __name__ == "__main__":
    warnings.simplefilter("ignore")  # of others' sources
    compile_directory(Path(sys.argv[1]), sys.argv[2])
