"""Plots as SVG, by hand: stacked bars, marks on a logarithmic scale, curves, and courses. No dependency."""

import math
from collections.abc import Mapping, Sequence
from html import escape

WIDTH, LEFT, RIGHT, TOP, ROW = 860, 150, 70, 64, 26
PLOT = WIDTH - LEFT - RIGHT
CURVE_HEIGHT = 320
COLOURS = ("#0b6e99", "#d9730d", "#448361", "#9065b0", "#c14c8a", "#787774", "#cb912f", "#d44c47", "#337ea9")
Point = tuple[float, float]


class Scale:
    """From values to places along the horizontal axis."""

    def __init__(self, least: float, greatest: float, *, logarithmic: bool) -> None:
        self._log = logarithmic
        self._from, self._to = self._place(least), self._place(greatest)

    def __call__(self, value: float) -> float:
        share = (self._place(value) - self._from) / ((self._to - self._from) or 1.0)
        return LEFT + PLOT * min(1.0, max(0.0, share))

    def ticks(self) -> list[float]:
        if self._log:
            return [10.0**power for power in range(math.ceil(self._from), math.floor(self._to) + 1)]
        step = 10 ** math.floor(math.log10(self._to or 1.0))
        step = step if self._to / step >= 4 else step / 2 if self._to / step >= 2 else step / 5
        return [step * number for number in range(math.floor(self._to / step) + 1)]

    def _place(self, value: float) -> float:
        return math.log10(max(value, 1e-9)) if self._log else value


def stacked(title: str, unit: str, rows: Mapping[str, Mapping[str, float]]) -> str:
    """A bar for each row, a part of it for each of its values; the sum stands behind it."""
    parts = _in_order(rows)
    sums = {name: sum(values.values()) for name, values in rows.items()}
    scale = Scale(0.0, max(sums.values()), logarithmic=False)
    height = TOP + ROW * len(rows) + 40
    drawn = [*_frame(title, unit, height), *_axis(scale, TOP + ROW * len(rows)), *_legend(parts)]
    for number, (name, values) in enumerate(rows.items()):
        y, at = TOP + ROW * number, 0.0
        drawn.append(_label(name, y))
        for part, value in values.items():
            left, right = scale(at), scale(at + value)
            drawn.append(
                f'<rect x="{left:.1f}" y="{y + 4}" width="{right - left:.1f}" height="{ROW - 8}" '
                f'fill="{_colour(parts.index(part))}"><title>{escape(f"{name}, {part}: {value:.0f}")}</title></rect>'
            )
            at += value
        drawn.append(_text(scale(at) + 6, y + ROW / 2 + 4, f"{sums[name]:,.0f}"))
    return _svg(height, drawn)


def marks(title: str, unit: str, rows: Mapping[str, Mapping[str, float]]) -> str:
    """A line for each row, a mark on it for each of its values, on a logarithmic scale."""
    parts = _in_order(rows)
    values = [max(value, 1.0) for row in rows.values() for value in row.values()]
    scale = Scale(10.0 ** math.floor(math.log10(min(values))), _next_power(max(values)), logarithmic=True)
    height = TOP + ROW * len(rows) + 40
    drawn = [*_frame(title, unit, height), *_axis(scale, TOP + ROW * len(rows)), *_legend(parts)]
    for number, (name, row) in enumerate(rows.items()):
        y = TOP + ROW * number + ROW / 2
        drawn.append(_label(name, y - ROW / 2))
        places = [scale(max(value, 1.0)) for value in row.values()]
        drawn.append(f'<line x1="{min(places):.1f}" y1="{y}" x2="{max(places):.1f}" y2="{y}" stroke="#bbb"/>')
        for (part, value), x in zip(row.items(), places, strict=True):
            colour, told = _colour(parts.index(part)), escape(f"{name}, {part}: {value:.0f}")
            drawn.append(f'<circle cx="{x:.1f}" cy="{y}" r="5" fill="{colour}"><title>{told}</title></circle>')
    return _svg(height, drawn)


def curves(title: str, unit: str, lines: Mapping[str, Sequence[Point]], greatest: float) -> str:
    """Lines that rise from 0 to `greatest`, over a logarithmic horizontal axis."""
    values = [max(x, 1.0) for line in lines.values() for x, _ in line]
    scale = Scale(10.0 ** math.floor(math.log10(min(values))), _next_power(max(values)), logarithmic=True)
    bottom = TOP + CURVE_HEIGHT
    drawn = [*_frame(title, unit, bottom + 40), *_axis(scale, bottom)]
    for share in (0.25, 0.5, 0.75, 1.0):
        y = bottom - CURVE_HEIGHT * share
        drawn.append(f'<line x1="{LEFT}" y1="{y}" x2="{LEFT + PLOT}" y2="{y}" stroke="#eee"/>')
        drawn.append(_text(LEFT - 8, y + 4, f"{greatest * share:,.0f}", anchor="end"))
    for number, line in enumerate(lines.values()):
        places = " ".join(f"{scale(max(x, 1.0)):.1f},{bottom - CURVE_HEIGHT * y / greatest:.1f}" for x, y in line)
        colour, width = _colour(number), 3 if number == 0 else 1.8
        drawn.append(f'<polyline points="{places}" fill="none" stroke="{colour}" stroke-width="{width}"/>')
    return _svg(bottom + 40, [*drawn, *_legend(list(lines))])


def courses(title: str, unit: str, lines: Mapping[str, Sequence[Point]], shaded_to: float = 0.0) -> str:
    """Lines from 0 on both axes, over time; what is left of `shaded_to` is shaded."""
    points = [point for line in lines.values() for point in line]
    scale, bottom = Scale(0.0, max(x for x, _ in points), logarithmic=False), TOP + CURVE_HEIGHT
    steps = Scale(0.0, max(y for _, y in points) or 1.0, logarithmic=False)
    drawn = _frame(title, unit, bottom + 40)
    drawn.append(
        f'<rect x="{LEFT}" y="{TOP}" width="{scale(shaded_to) - LEFT:.1f}" height="{bottom - TOP}" fill="#eee"/>'
    )
    drawn += _axis(scale, bottom)
    for tick in steps.ticks():
        y = _height(steps, tick)
        drawn.append(f'<line x1="{LEFT}" y1="{y:.1f}" x2="{LEFT + PLOT}" y2="{y:.1f}" stroke="#eee"/>')
        drawn.append(_text(LEFT - 8, y + 4, f"{tick:,g}", anchor="end"))
    for number, line in enumerate(lines.values()):
        places = " ".join(f"{scale(x):.1f},{_height(steps, y):.1f}" for x, y in line)
        drawn.append(f'<polyline points="{places}" fill="none" stroke="{_colour(number)}" stroke-width="1.8"/>')
    return _svg(bottom + 40, [*drawn, *_legend(list(lines))])


def _height(scale: Scale, value: float) -> float:
    """A value's place along the vertical axis."""
    return TOP + CURVE_HEIGHT * (1 - (scale(value) - LEFT) / PLOT)


def _in_order(rows: Mapping[str, Mapping[str, float]]) -> list[str]:
    return list(dict.fromkeys(part for values in rows.values() for part in values))


def _next_power(value: float) -> float:
    return float(10.0 ** math.ceil(math.log10(value * 1.05)))


def _colour(number: int) -> str:
    return COLOURS[number % len(COLOURS)]


def _frame(title: str, unit: str, height: float) -> list[str]:
    heading = _text(LEFT, 20, title, weight="bold")
    return [
        f'<rect width="{WIDTH}" height="{height}" fill="white"/>',
        heading,
        _text(WIDTH - RIGHT, height - 6, unit, anchor="end"),
    ]


def _axis(scale: Scale, bottom: float) -> list[str]:
    drawn = []
    for tick in scale.ticks():
        x = scale(tick)
        drawn.append(f'<line x1="{x:.1f}" y1="{TOP}" x2="{x:.1f}" y2="{bottom}" stroke="#eee"/>')
        drawn.append(_text(x, bottom + 16, f"{tick:,.0f}", anchor="middle"))
    return drawn


def _legend(names: Sequence[str]) -> list[str]:
    drawn, x = [], 20.0
    for number, name in enumerate(names):
        drawn.append(f'<rect x="{x:.1f}" y="36" width="10" height="10" fill="{_colour(number)}"/>')
        drawn.append(_text(x + 14, 45, name))
        x += 24 + 6.6 * len(name)
    return drawn


def _label(name: str, y: float) -> str:
    return _text(LEFT - 8, y + ROW / 2 + 4, name, anchor="end")


def _text(x: float, y: float, words: str, *, anchor: str = "start", weight: str = "normal") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-weight="{weight}">{escape(words)}</text>'


def _svg(height: float, drawn: Sequence[str]) -> str:
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" '
        'font-family="sans-serif" font-size="12" fill="#333">'
    )
    return "\n".join([head, *drawn, "</svg>", ""])
