"""Sizes and durations as people read them, the same in errors, progress, tables and logs."""

from __future__ import annotations

_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")


def format_size(size: float) -> str:
    """Bytes for people, in binary units: `12.3 GiB`."""
    unit = 0
    while size >= 1024 and unit < len(_UNITS) - 1:
        size, unit = size / 1024, unit + 1
    return f"{size:.0f} {_UNITS[unit]}" if unit == 0 or size >= 100 else f"{size:.1f} {_UNITS[unit]}"


def format_amounts(done: float, total: float) -> str:
    """A part and a whole in the unit of the whole: `12.3/36.1 GiB`."""
    number, unit = format_size(total).split(" ")
    factor = 1024 ** _UNITS.index(unit)
    return f"{done / factor:.{1 if '.' in number else 0}f}/{number} {unit}"


def format_seconds(seconds: float) -> str:
    """A duration for people: `58 s`, `12 min 5 s`, `3 h 20 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
