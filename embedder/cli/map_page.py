"""Write the page of `embedder map`: one HTML file that needs nothing else.

The texts may come from a stranger. They stand in the page as JSON that has no character of HTML, and the page's script
only ever shows them as text. The page's policy allows its own script and style, by their digests, and nothing else.
"""

from __future__ import annotations

import base64
import hashlib
import html
import re
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from embedder.cli.console import shorten
from embedder.cli.keywords import keywords
from embedder.common.counted import counted
from embedder.common.json_lines import json_line
from embedder.common.records import frozen

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

MAX_TEXT_CHARACTERS = 1000
# The words of a label, and the width of the label.
_LABEL_WORDS, _LABEL_COLUMNS = 3, 32
_TITLE_COLUMNS = 160
_DECIMALS = 5
# JSON has these only in strings, and may have escapes there. So the text cannot end its element.
_HTML_ESCAPES = {ord(character): f"\\u{ord(character):04x}" for character in "<>&"}


@frozen
class MapPoints:
    """What the page shows.

    Attributes:
        points: the place of each text, (n, 2).
        cluster: the number of each text's cluster, (n,). It is -1 for a text in none.
        texts: the texts.
        places: where each text is.
        centres: the row of the central text of each cluster.
    """

    points: NDArray[np.float64]
    cluster: NDArray[np.int64]
    texts: list[str]
    places: list[str]
    centres: list[int]


def make_page(title: str, notes: list[str], shown: MapPoints) -> bytes:
    """Return the page, in UTF-8. `notes` are sentences that say how the map was made."""
    page = files("embedder.cli").joinpath("map_page.html").read_text(encoding="utf-8")
    policy = "; ".join(
        [
            "default-src 'none'",
            f"script-src {_digest(page, 'script')}",
            f"style-src {_digest(page, 'style')}",
            "base-uri 'none'",
            "form-action 'none'",
        ]
    )
    values = {"POLICY": policy, "TITLE": html.escape(title), "DATA": _data(title, notes, shown)}
    filled = re.sub("__(POLICY|TITLE|DATA)__", lambda match: values[match[1]], page)
    return filled.encode("utf-8", "backslashreplace")  # a lone surrogate becomes an escape of JSON


def _digest(page: str, element: str) -> str:
    """Return the digest of the content of `<script>` or `<style>`, as a policy names it."""
    found = re.search(f"<{element}>(.*?)</{element}>", page, re.DOTALL)
    assert found is not None
    digest = hashlib.sha256(found[1].encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"


def _data(title: str, notes: list[str], shown: MapPoints) -> str:
    """Return the JSON of the page."""
    points, width, height = _fit(shown.points)
    fields = {
        "title": title,
        "count": counted(len(shown.texts), "text"),
        "notes": notes,
        "width": width,
        "height": height,
        "x": points[:, 0].tolist(),
        "y": points[:, 1].tolist(),
        "cluster": shown.cluster.tolist(),
        "texts": [_cut(text) for text in shown.texts],
        "places": shown.places,
        "clusters": _clusters(shown, points),
    }
    return json_line(fields).translate(_HTML_ESCAPES)


def _fit(points: NDArray[np.float64]) -> tuple[NDArray[np.float64], float, float]:
    """Move and scale the points into a box whose longer side is 1. Return them with the box's width and height."""
    low = points.min(axis=0)
    extent = points.max(axis=0) - low
    scale = float(extent.max()) or 1.0
    width, height = (extent / scale).round(_DECIMALS).tolist()
    return ((points - low) / scale).round(_DECIMALS), width, height


def _cut(text: str) -> str:
    return text if len(text) <= MAX_TEXT_CHARACTERS else text[:MAX_TEXT_CHARACTERS] + "…"


def _clusters(shown: MapPoints, points: NDArray[np.float64]) -> list[dict[str, Any]]:
    """Return what the page says of each cluster: its central text, and its typical words as a label at its middle."""
    import numpy as np

    members = [np.flatnonzero(shown.cluster == number) for number in range(len(shown.centres))]
    words = keywords(shown.texts, [rows.tolist() for rows in members], _LABEL_WORDS)
    found = []
    for centre, rows, typical in zip(shown.centres, members, words, strict=True):
        title = shown.texts[centre]
        x, y = np.median(points[rows], axis=0).round(_DECIMALS).tolist()
        label = shorten(", ".join(typical) if len(typical) > 1 else title, _LABEL_COLUMNS)
        found.append({"title": shorten(title, _TITLE_COLUMNS), "label": label, "size": len(rows), "x": x, "y": y})
    return found
