"""The plot of hack/bench/lazy: bars of text, or a picture."""

from __future__ import annotations

import statistics
from html import escape

_Bars = dict[str, dict[str, list[float]]]
_TEXT_WIDTH = 40
_COLOURS = {"lazy": "#1f77b4", "bind": "#2ca02c", "copy": "#7f7f7f", "pyfuse3": "#9467bd"}
_BAR, _LEFT, _WIDTH = 18, 90, 420


def bars(groups: _Bars) -> str:
    """A bar of text for the median of each."""
    lines = []
    for group, ways in groups.items():
        medians = {way: statistics.median(values) for way, values in ways.items()}
        most = max(medians.values())
        lines += ["", group]
        lines += [
            f"  {way:10}{value:10.2f}  {'#' * max(1, round(_TEXT_WIDTH * value / most))}"
            for way, value in medians.items()
        ]
    return "\n".join(lines)


def svg(groups: _Bars) -> str:
    """The same as a picture; whiskers from the least to the greatest value."""
    parts, y = [], 0
    for group, ways in groups.items():
        most = max(value for values in ways.values() for value in values)
        y += 30
        parts.append(f'<text x="8" y="{y}" font-weight="bold">{escape(group)}</text>')
        for way, values in ways.items():
            y += _BAR + 4
            parts += _bar(way, values, y, _WIDTH / most)
    height, width = y + 20, _LEFT + _WIDTH + 90
    head = f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" font-family="sans-serif" font-size="12">'
    return "\n".join([head, '<rect width="100%" height="100%" fill="white"/>', *parts, "</svg>", ""])


def _bar(way: str, values: list[float], y: int, scale: float) -> list[str]:
    median, low, high = statistics.median(values), min(values) * scale, max(values) * scale
    middle = y - _BAR / 2 + 4
    colour = _COLOURS.get(way, "#17becf")
    return [
        f'<text x="{_LEFT - 8}" y="{y}" text-anchor="end">{escape(way)}</text>',
        f'<rect x="{_LEFT}" y="{y - _BAR + 6}" width="{median * scale:.1f}" height="{_BAR - 4}" fill="{colour}"/>',
        f'<line x1="{_LEFT + low:.1f}" x2="{_LEFT + high:.1f}" y1="{middle}" y2="{middle}" stroke="black"/>',
        f'<text x="{_LEFT + high + 6:.1f}" y="{y}">{median:.2f}</text>',
    ]
