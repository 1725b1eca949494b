"""Keep the measurements of a benchmark in a file, so that a run that is stopped goes on, and more runs add to it."""

import json


def read(path):
    """Return the entries of a file of JSON lines. A last line that was cut off is left out."""
    if path is None or not path.exists():
        return []
    entries = []
    for line in path.read_text(encoding="utf-8").split("\n"):
        try:
            entries.append(json.loads(line))
        except ValueError:
            break
    return entries


def append(path, entry):
    """Add an entry to the file, if there is one."""
    if path is not None:
        with path.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(entry) + "\n")
