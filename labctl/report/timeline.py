"""The timeline of a probe: requests stacked by the member that answered, failures in red, faults and outages marked."""

from __future__ import annotations

from dataclasses import dataclass

from labctl.report.figures import Gap, ProbeSeries, Scenario
from labctl.report.svg import Svg

__all__ = ["timeline"]

WIDTH = 960.0
LEFT, RIGHT = 48.0, 12.0
ROW = 18.0  # of a fault's or an outage's bar, with its words
PLOT = 150.0
FOOT = 40.0
TICKS = 8


@dataclass(frozen=True, slots=True)
class _Scale:
    """Seconds to the drawing's x."""

    length_s: float

    def x(self, at_s: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * min(max(at_s, 0.0), self.length_s) / self.length_s


def timeline(scenario: Scenario, series: ProbeSeries) -> str:
    """The timeline as SVG."""
    scale = _Scale(max(scenario.shown_s, 0.001))
    rows = len(scenario.faults) + len(series.gaps)
    top = ROW * rows + 8
    height = top + PLOT + FOOT
    drawing = Svg(WIDTH, height, f"{scenario.name}: {series.probe}, {series.requests} requests, {series.failed} failed")
    _faults(drawing, scenario, scale, top)
    _outages(drawing, series.gaps, scale, ROW * len(scenario.faults))
    _bars(drawing, scenario, series, scale, top)
    _changes(drawing, scenario, scale, top)
    _axes(drawing, scale, top, _most(series))
    return str(drawing)


def _most(series: ProbeSeries) -> int:
    return max((sum(b.members.values()) + b.failed for b in series.bins), default=1)


def _faults(drawing: Svg, scenario: Scenario, scale: _Scale, top: float) -> None:
    for row, fault in enumerate(scenario.faults):
        from_x, until_x = scale.x(fault.from_s), scale.x(scale.length_s if fault.until_s is None else fault.until_s)
        y, width = row * ROW, max(2.0, until_x - from_x)
        said = f"{fault.fault} of {fault.target}" + ("" if fault.confirmed else " (not confirmed)")
        hint = f"{said}: from {fault.from_s:.1f} s until " + (f"{fault.until_s:.1f} s" if fault.until_s else "the end")
        drawing.add("rect", class_="span", x=from_x, y=top, width=width, height=PLOT, hint=hint)
        drawing.add("rect", class_="fault", x=from_x, y=y + 2, width=width, height=ROW - 4, hint=hint)
        _label(drawing, said, from_x, until_x, y)


def _label(drawing: Svg, text: str, from_x: float, until_x: float, y: float) -> None:
    """Words beside a bar, on the right where there is room; on it when there is none at all."""
    needed = 7.5 * len(text)
    if WIDTH - until_x > needed:
        drawing.add("text", text, x=until_x + 5, y=y + ROW - 5, text_anchor="start")
    elif from_x > needed:
        drawing.add("text", text, x=from_x - 5, y=y + ROW - 5, text_anchor="end")
    else:
        drawing.add("text", text, class_="on", x=from_x + 5, y=y + ROW - 5, text_anchor="start")


def _outages(drawing: Svg, gaps: tuple[Gap, ...], scale: _Scale, top: float) -> None:
    for row, gap in enumerate(gaps):
        y = top + row * ROW
        last = "not seen to end" if gap.longest_s is None else f"{gap.longest_s:.2f} s"
        said = f"outage {gap.shortest_s:.2f} s to {last}"
        slack_s = 0.0 if gap.longest_s is None else max(0.0, gap.longest_s - gap.shortest_s) / 2
        end_s = scale.length_s if gap.longest_s is None else gap.from_s + gap.shortest_s + slack_s
        from_x, until_x = scale.x(gap.from_s - slack_s), scale.x(end_s)
        drawing.add(
            "rect", class_="maybe", x=from_x, y=y + 5, width=max(2.0, until_x - from_x), height=ROW - 10, hint=said
        )
        sure = max(2.0, scale.x(gap.from_s + gap.shortest_s) - scale.x(gap.from_s))
        drawing.add("rect", class_="sure", x=scale.x(gap.from_s), y=y + 5, width=sure, height=ROW - 10, hint=said)
        _label(drawing, said, from_x, until_x, y)


def _bars(drawing: Svg, scenario: Scenario, series: ProbeSeries, scale: _Scale, top: float) -> None:
    most = max(1, _most(series))
    for piece in series.bins:
        x, width = scale.x(piece.from_s), max(1.0, scale.x(piece.from_s + series.bin_s) - scale.x(piece.from_s) - 0.5)
        y = top + PLOT
        stack = [(_colour(scenario, m), m or "no name", n) for m, n in sorted(piece.members.items())]
        for colour, what, count in [*stack, ("failed", "failed", piece.failed)]:
            if count:
                height = PLOT * count / most
                y -= height
                hint = f"{piece.from_s:.1f} s: {count} {what}"
                drawing.add("rect", class_=colour, x=x, y=y, width=width, height=height, hint=hint)


def _colour(scenario: Scenario, member: str) -> str:
    return f"m{scenario.members.index(member) % 6}" if member else "nobody"


def _changes(drawing: Svg, scenario: Scenario, scale: _Scale, top: float) -> None:
    for moment in scenario.membership:
        x = scale.x(moment.at_s)
        points = f"{x - 4:.1f},{top - 7:.1f} {x + 4:.1f},{top - 7:.1f} {x:.1f},{top:.1f}"
        drawing.add("line", class_="change", x1=x, x2=x, y1=top, y2=top + PLOT)
        drawing.add("polygon", class_="change", points=points, hint=f"{moment.at_s:.1f} s: {moment.text}")


def _axes(drawing: Svg, scale: _Scale, top: float, most: int) -> None:
    bottom = top + PLOT
    drawing.add("line", class_="axis", x1=LEFT, x2=WIDTH - RIGHT, y1=bottom, y2=bottom)
    drawing.add("text", str(most), x=LEFT - 6, y=top + 10, text_anchor="end")
    drawing.add("text", "0", x=LEFT - 6, y=bottom, text_anchor="end")
    step_s = _step_s(scale.length_s)
    at_s = 0.0
    while at_s <= scale.length_s:
        drawing.add("line", class_="axis", x1=scale.x(at_s), x2=scale.x(at_s), y1=bottom, y2=bottom + 4)
        drawing.add("text", f"{at_s:g} s", x=scale.x(at_s), y=bottom + 18, text_anchor="middle")
        at_s += step_s


def _step_s(length_s: float) -> float:
    """A round number of seconds between two marks on the axis."""
    steps = (0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 1800, 3600)
    return next((s for s in steps if length_s / s <= TICKS), steps[-1])
