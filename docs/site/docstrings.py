"""An extension of griffe, which reads the signatures and docstrings for the API reference."""

import re
import sys
from pathlib import Path
from typing import Any

import griffe

sys.path.insert(0, str(Path(__file__).parent))
from build import API

NAMES = "|".join(name for names in API.values() for name in names.split() if name != "encode" and "." not in name)
RETURNED = re.compile(r"(?<=^Returns:\n).+", re.MULTILINE)
QUOTED_NAME = re.compile(rf"`((?:{NAMES})(?:\.[a-z]\w*)?)`")


class Reader(griffe.Extension):
    """Read what griffe takes for something else."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """Make a section of "Example:", and links of public names. griffe knows "Examples:" alone.

        griffe takes the first words under "Returns:" for a type if a colon follows. The types are in the signatures.
        """
        if obj.docstring is not None and obj.path.startswith("embedder."):
            text = re.sub(r"^Example:$", "Examples:", obj.docstring.value, flags=re.MULTILINE)
            text = RETURNED.sub(lambda found: found[0].replace(": ", "&#58; "), text)
            obj.docstring.value = QUOTED_NAME.sub(r"[`\1`][embedder.\1]", text)

    def on_function(self, *, func: griffe.Function, **kwargs: Any) -> None:
        """Show a default that is a constant of the module by its value."""
        for parameter in func.parameters:
            constant = func.module.members.get(str(parameter.default))
            if constant is not None and constant.is_attribute:
                parameter.default = constant.value

    def on_class_instance(self, *, cls: griffe.Class, **kwargs: Any) -> None:
        """Say that `@frozen` makes a dataclass."""
        if any(str(decorator.value) == "frozen" for decorator in cls.decorators):
            cls.decorators.append(
                griffe.Decorator(griffe.ExprName("dataclasses.dataclass"), lineno=None, endlineno=None)
            )
