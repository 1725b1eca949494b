"""Draw lines over logarithmic axes as an SVG. The same input always gives the same file. No package is needed."""

from __future__ import annotations

import math
from dataclasses import dataclass
from xml.sax.saxutils import escape

from benchmarks.plot import COLOURS, LABELS_PER_LINE, LEFT, LINE_HEIGHT, RIGHT, TOP, WIDTH, legend, text

# In pixels: the height of a panel, the space below it, and the space that the marks of the vertical axis need.
PANEL_HEIGHT, SPACE_BELOW, AXIS_SPACE = 240, 62, 40


@dataclass(frozen=True)
class Line:
    """A line of a panel.

    Attributes:
        label: its name in the legend. Lines with the same label have the same colour in all panels.
        points: pairs of x and y, both above 0.
        band: the lowest and the highest y of each point. None draws no band.
    """

    label: str
    points: tuple[tuple[float, float], ...]
    band: tuple[tuple[float, float], ...] | None = None


@dataclass(frozen=True)
class Axis:
    """A logarithmic axis.

    Attributes:
        title: what it shows, with its unit.
        marks: pairs of a value and its text. The first and the last one are the ends of the axis.
    """

    title: str
    marks: tuple[tuple[float, str], ...]

    def place(self, value: float, first: float, last: float) -> float:
        """Return the pixel of a value. The ends of the axis have the pixels `first` and `last`."""
        low, high = math.log(self.marks[0][0]), math.log(self.marks[-1][0])
        return first + (math.log(value) - low) / (high - low) * (last - first)


@dataclass(frozen=True)
class Panel:
    """A part of a plot: its name, its axes and its lines."""

    name: str
    x: Axis
    y: Axis
    lines: tuple[Line, ...]


def line_plot(title: str, panels: list[Panel]) -> str:
    """Return the SVG of `panels`, one below the other. Each panel has a legend."""
    colours: dict[str, str] = {}
    parts, top = [text(LEFT, 26, title, "start", 'font-size="14" font-weight="bold"')], TOP
    for panel in panels:
        shades = [colours.setdefault(line.label, COLOURS[len(colours) % len(COLOURS)]) for line in panel.lines]
        parts.append(text(LEFT, top, panel.name, "start", 'font-weight="bold"'))
        entries = [(line.label, shade) for line, shade in zip(panel.lines, shades, strict=True)]
        parts += legend(top, entries)
        ceiling = top + (len(entries) - 1) // LABELS_PER_LINE * LINE_HEIGHT + 20
        floor = ceiling + PANEL_HEIGHT
        parts += _axes(panel, ceiling, floor)
        for line, shade in zip(panel.lines, shades, strict=True):
            parts += _line(panel, line, shade, ceiling, floor)
        top = floor + SPACE_BELOW
    height = top - SPACE_BELOW // 3
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" '
        'font-family="Helvetica, Arial, sans-serif" font-size="12" fill="#222">'
    )
    return "\n".join([head, f'<rect width="{WIDTH}" height="{height}" fill="#fff"/>', *parts, "</svg>", ""])


def _x(panel: Panel, value: float) -> float:
    return panel.x.place(value, LEFT + AXIS_SPACE, RIGHT - 30)


def _axes(panel: Panel, ceiling: float, floor: float) -> list[str]:
    """Return the marks of both axes, with a thin line for each."""
    left, right = _x(panel, panel.x.marks[0][0]), _x(panel, panel.x.marks[-1][0])
    parts = []
    for value, label in panel.y.marks:
        y = panel.y.place(value, floor, ceiling)
        parts.append(f'<path d="M{left:.1f} {y:.1f}H{right:.1f}" stroke="#ddd"/>')
        parts.append(text(left - 6, y + 4, label, "end"))
    for value, label in panel.x.marks:
        x = _x(panel, value)
        parts.append(f'<path d="M{x:.1f} {ceiling:.1f}V{floor:.1f}" stroke="#ddd"/>')
        parts.append(text(x, floor + 16, label, "middle"))
    parts.append(text((left + right) / 2, floor + 33, panel.x.title, "middle", 'fill="#666"'))
    parts.append(text(left, ceiling - 6, panel.y.title, "start", 'fill="#666" font-size="11"'))
    return parts


def _line(panel: Panel, line: Line, shade: str, ceiling: float, floor: float) -> list[str]:
    """Return a line with its points, and its band below it. Each point shows its values under the mouse."""
    places = [(_x(panel, x), panel.y.place(y, floor, ceiling)) for x, y in line.points]
    parts = []
    if line.band:
        ends = [
            [(x, panel.y.place(bounds[end], floor, ceiling)) for (x, _), bounds in zip(places, line.band, strict=True)]
            for end in (0, 1)
        ]
        parts.append(f'<path d="{_path(ends[0] + ends[1][::-1])}Z" fill="{shade}" fill-opacity="0.2"/>')
    parts.append(f'<path d="{_path(places)}" fill="none" stroke="{shade}" stroke-width="2"/>')
    for (x, y), (across, up) in zip(places, line.points, strict=True):
        shown = escape(f"{line.label}: {across:,.4g}, {up:,.3g}")
        parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" fill="{shade}"><title>{shown}</title></circle>')
    return parts


def _path(places: list[tuple[float, float]]) -> str:
    return "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in places)
