"""Draw grouped bars as an SVG. It needs no package, and gives the same file every time."""

from xml.sax.saxutils import escape

WIDTH, LEFT, RIGHT, TOP, BARS, BELOW = 980, 44, 964, 56, 190, 56
# The legend: labels in a line, and the height of a line in pixels.
ACROSS, LINE = 3, 18
# The first colour is embedder's. The colours also differ in lightness.
COLOURS = ("#0b5394", "#8c8c8c", "#e69138", "#f1c232", "#93c47d", "#b4a7d6", "#c27ba0", "#76a5af")


def plot(title, groups, panels):
    """Return the SVG of `panels`, {name: {label: [a ratio for each group]}}, one below the other with its legend.

    A program has the same colour in every panel. Its label without int8 decides.
    """
    colours = {}
    parts, top = [text(LEFT, 26, title, "start", 'font-size="14" font-weight="bold"')], TOP
    for name, series in panels.items():
        shades = [colours.setdefault(kind(label), COLOURS[len(colours) % len(COLOURS)]) for label in series]
        parts.append(text(LEFT, top, name, "start", 'font-weight="bold"'))
        parts += legend(top, list(zip(series, shades, strict=True)))
        floor = top + (len(series) - 1) // ACROSS * LINE + 32 + BARS
        parts += axis(floor, scale(series))
        parts += bars(floor, groups, series, shades)
        top = floor + BELOW
    height = top - BELOW // 2
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" '
        'font-family="Helvetica, Arial, sans-serif" font-size="12" fill="#222">'
    )
    return "\n".join([head, f'<rect width="{WIDTH}" height="{height}" fill="#fff"/>', *parts, "</svg>", ""])


def kind(label):
    return label.rpartition(",")[0] if label.endswith("int8") else label


def legend(top, entries):
    """Yield the legend, to the right of the panel's name."""
    for place, (label, shade) in enumerate(entries):
        x, y = LEFT + 100 + place % ACROSS * 275, top + place // ACROSS * LINE
        yield f'<rect x="{x}" y="{y - 9}" width="10" height="10" fill="{shade}"/>'
        yield text(x + 15, y, label, "start")


def scale(series):
    """Return how many pixels 1.0 has, so that the highest bar fits."""
    return BARS / max(1.0, *(ratio for ratios in series.values() for ratio in ratios))


def axis(floor, unit):
    for mark, colour in ((0.5, "#ddd"), (1, "#444"), (0, "#444")):
        y = floor - mark * unit
        dashes = ' stroke-dasharray="4 3"' if mark == 1 else ""
        yield f'<path d="M{LEFT} {y:.1f}H{RIGHT}" stroke="{colour}"{dashes}/>'
        yield text(LEFT - 6, y + 4, f"{mark:.1f}", "end")


def bars(floor, groups, series, shades):
    unit, step = scale(series), (RIGHT - LEFT) / len(groups)
    width = min(26, step * 0.84 / len(series))
    for index, group in enumerate(groups):
        middle = LEFT + (index + 0.5) * step
        yield text(middle, floor + 18, group, "middle")
        for place, (label, ratios) in enumerate(series.items()):
            x, tall = middle + (place - len(series) / 2) * width, ratios[index] * unit
            yield (
                f'<rect x="{x:.1f}" y="{floor - tall:.1f}" width="{width - 2:.1f}" height="{tall:.1f}" '
                f'fill="{shades[place]}"><title>{escape(f"{group}, {label}: {ratios[index]:.2f}")}</title></rect>'
            )
            # A white box behind the figure, because the line at 1.0 may cross it.
            yield f'<rect x="{x:.1f}" y="{floor - tall - 13:.1f}" width="{width - 2:.1f}" height="12" fill="#fff"/>'
            yield text(x + width / 2 - 1, floor - tall - 4, f"{ratios[index]:.2f}", "middle", 'font-size="9"')


def text(x, y, words, anchor, more=""):
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{" " if more else ""}{more}>{escape(words)}</text>'
