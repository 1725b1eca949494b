"""Say for the most used models whether they are exported natively, traced with torch, or refused. Writes a table.

Usage: `make models`, or with --fetch after a look at the Hub for the newest settings.

`embedder-export --check` gives the same verdicts. They follow from the settings in files/. The tables go to
benchmarks/results/models.md and to docs/models.md. The first file also says where the settings come from.
"""

import argparse
import sys
from collections import Counter
from pathlib import Path, PurePosixPath

from embedder_export.support import NATIVE, REFUSED, TRACED, Support, check_support

from benchmarks.pages import with_tables
from benchmarks.popular_models.models import DEFAULT, FILES, TASKS, Model, fetch_model, read_models, write_model
from embedder.errors import EmbedderError

ROOT = Path(__file__).parents[2]
RESULT = ROOT / "benchmarks/results/models.md"
# The page with the table. It is between these two lines.
PAGE = ROOT / "docs/models.md"
PAGE_MARKS = ("<!-- popular models -->", "<!-- /popular models -->")
_LEGEND = (
    "The last column says where the settings come from. *Hub*: all files are from the Hub. *memory*: all files are "
    "written from memory, and have not been compared with the Hub. *copy*: config.json has the values of a copy "
    "elsewhere, and the other files are written from memory."
)
_WORDS = {NATIVE: "native", TRACED: "with `[torch]`", REFUSED: "refused"}


def main(arguments: list[str] | None = None) -> int:
    """Write the table. Return 1 if a model could not be fetched."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--fetch", action="store_true", help="fetch the files of settings anew from the Hub first")
    options = parser.parse_args(arguments)
    failed = fetch_all(FILES) if options.fetch else 0
    models = read_models()
    tables = describe(models)
    RESULT.write_text(f"{tables}\n\n{describe_copies(models)}\n", encoding="utf-8")
    PAGE.write_text(with_tables(PAGE.read_text(encoding="utf-8"), tables, PAGE_MARKS), encoding="utf-8")
    return int(failed > 0)


def fetch_all(directory: Path) -> int:
    """Fetch the settings of all models into `directory`. Return the number of models that could not be fetched."""
    failed = 0
    for model in read_models(directory):
        try:
            write_model(fetch_model(model), directory)
        except EmbedderError as error:
            failed += 1
            print(f"{model.name}: {error}. Its settings stay as they are", file=sys.stderr)
    return failed


def describe(models: list[Model]) -> str:
    """Return the tables of `models`."""
    supports = {model.name: check_support(model.name, model.files) for model in models}
    counts = Counter(support.verdict for support in supports.values())
    totals = ", ".join(f"{counts[verdict]} {word}" for verdict, word in _WORDS.items())
    parts = [f"{len(models)} models: {totals}."]
    for task in TASKS:
        rows = [_row(model, supports[model.name]) for model in models if model.task == task]
        if rows:
            parts.append(f"### {task.capitalize()}\n\n| model | architecture | export | why not native | settings |")
            parts[-1] += "\n|---|---|---|---|---|\n" + "\n".join(rows)
    return "\n\n".join([*parts, _LEGEND])


def _row(model: Model, support: Support) -> str:
    why = "; ".join(support.reasons).replace("|", "\\|")
    origin = "copy" if len(model.origins) > 1 else "memory" if "memory" in model.origins[DEFAULT] else "Hub"
    return f"| `{model.name}` | {architecture(model)} | {_WORDS[support.verdict]} | {why} | {origin} |"


def architecture(model: Model) -> str:
    """Return the class that config.json names, otherwise the kind of the first module."""
    modules = model.files.get("modules.json") or [{"path": "", "type": ""}]
    config = model.files.get((PurePosixPath(modules[0]["path"]) / "config.json").as_posix()) or {}
    names = config.get("architectures") or [modules[0]["type"].rpartition(".")[2]]
    return str(names[0])


def describe_copies(models: list[Model]) -> str:
    """Return a list of the copies that settings were read from."""
    lines = [
        f"- `{model.name}`, {path}: {text}"
        for model in models
        for path, text in model.origins.items()
        if path != DEFAULT
    ]
    return "\n\n".join(["### Copies", "Repositories are named as on GitHub.", "\n".join(lines)])


if __name__ == "__main__":
    sys.exit(main())
