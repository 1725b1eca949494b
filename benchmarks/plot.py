"""Draw grouped bars as an SVG. The same input always gives the same file. No package is needed."""

from xml.sax.saxutils import escape

# In pixels: the width of the plot, the left and right ends of the bars, the top of the first panel, the height of the
# highest bar, and the space below the bars.
WIDTH, LEFT, RIGHT, TOP, BAR_HEIGHT, SPACE_BELOW = 980, 44, 964, 56, 190, 56
# The number of labels in a line of the legend, and the height of a line in pixels.
LABELS_PER_LINE, LINE_HEIGHT = 3, 18
# The first colour is embedder's. The colours also differ in lightness.
COLOURS = ("#0b5394", "#8c8c8c", "#e69138", "#f1c232", "#93c47d", "#b4a7d6", "#c27ba0", "#76a5af")


def plot(title, groups, panels):
    """Return the SVG of `panels`, {name: {label: [a ratio for each group]}}. Each panel has a legend.

    A program has the same colour in every panel. Its int8 label has the colour of its other label.
    """
    colours = {}
    parts, top = [text(LEFT, 26, title, "start", 'font-size="14" font-weight="bold"')], TOP
    for name, series in panels.items():
        shades = [colours.setdefault(program(label), COLOURS[len(colours) % len(COLOURS)]) for label in series]
        parts.append(text(LEFT, top, name, "start", 'font-weight="bold"'))
        parts += legend(top, list(zip(series, shades, strict=True)))
        floor = top + (len(series) - 1) // LABELS_PER_LINE * LINE_HEIGHT + 32 + BAR_HEIGHT
        parts += axis(floor, scale(series))
        parts += bars(floor, groups, series, shades)
        top = floor + SPACE_BELOW
    height = top - SPACE_BELOW // 2
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" '
        'font-family="Helvetica, Arial, sans-serif" font-size="12" fill="#222">'
    )
    return "\n".join([head, f'<rect width="{WIDTH}" height="{height}" fill="#fff"/>', *parts, "</svg>", ""])


def program(label):
    """Return the name of the program: its label without int8."""
    return label.rpartition(",")[0] if label.endswith("int8") else label


def legend(top, entries):
    """Yield the legend. It is to the right of the panel's name."""
    for place, (label, shade) in enumerate(entries):
        x, y = LEFT + 100 + place % LABELS_PER_LINE * 275, top + place // LABELS_PER_LINE * LINE_HEIGHT
        yield f'<rect x="{x}" y="{y - 9}" width="10" height="10" fill="{shade}"/>'
        yield text(x + 15, y, label, "start")


def scale(series):
    """Return the height of the ratio 1.0 in pixels. The highest bar then fits in the panel."""
    return BAR_HEIGHT / max(1.0, *(ratio for ratios in series.values() for ratio in ratios))


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
            # The line at 1.0 may cross the figure, so a white box is drawn behind it.
            yield f'<rect x="{x:.1f}" y="{floor - tall - 13:.1f}" width="{width - 2:.1f}" height="12" fill="#fff"/>'
            yield text(x + width / 2 - 1, floor - tall - 4, f"{ratios[index]:.2f}", "middle", 'font-size="9"')


def text(x, y, words, anchor, more=""):
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{" " if more else ""}{more}>{escape(words)}</text>'
