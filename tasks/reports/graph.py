"""Where each stage stands in the drawing of the lineage. Lines pass beside boxes, never through them."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from graphlib import TopologicalSorter
from itertools import pairwise

from tasks.reports.data import ReleaseData, StageRecord

BOX_WIDTH, BOX_HEIGHT, GAP, ROW_HEIGHT, LANE_WIDTH = 212, 74, 26, 116, 14


@dataclass(frozen=True)
class Box:
    """One stage and its upper left corner, in pixels."""

    stage: StageRecord
    x: float
    y: float


@dataclass(frozen=True)
class Line:
    """One input: the path of its arrow, and who gives what to whom."""

    source: str
    target: str
    names: list[str]
    path: str


@dataclass(frozen=True)
class Graph:
    """The drawing of a release's lineage, in pixels."""

    width: float
    height: float
    boxes: list[Box]
    lines: list[Line]


@dataclass(eq=False)
class _Spot:
    """A box, or a place in a row where a longer line passes."""

    stage: str | None
    row: int
    above: list[_Spot] = field(default_factory=list)
    below: list[_Spot] = field(default_factory=list)
    x: float = 0

    @property
    def width(self) -> float:
        return BOX_WIDTH if self.stage else LANE_WIDTH

    @property
    def middle(self) -> float:
        return self.x + self.width / 2


def draw_graph(release: ReleaseData) -> Graph:
    """Lay the stages out, each below everything that it was made from."""
    named: dict[tuple[str, str], list[str]] = defaultdict(list)
    for source, target, name in release.edges:
        named[source, target].append(name)
    rows = _rows([stage.stage for stage in release.stages], list(named))
    spots = {name: _Spot(name, row) for name, row in rows.items()}
    chains = {pair: _chain(spots[pair[0]], spots[pair[1]]) for pair in named}
    layers = _layers(list(spots.values()), list(chains.values()))
    width = max((_width(layer) for layer in layers), default=0)
    for layer in layers:
        x = (width - _width(layer)) / 2
        for spot in layer:
            spot.x = x
            x += spot.width + GAP
    return Graph(
        width=width,
        height=max(0, len(layers) * ROW_HEIGHT - (ROW_HEIGHT - BOX_HEIGHT)),
        boxes=[Box(stage, spots[stage.stage].x, spots[stage.stage].row * ROW_HEIGHT) for stage in release.stages],
        lines=[Line(*pair, names, _path(chains[pair])) for pair, names in named.items()],
    )


def _rows(names: list[str], pairs: list[tuple[str, str]]) -> dict[str, int]:
    """The length of the longest way from a start to each stage."""
    before: dict[str, set[str]] = {name: set() for name in names}
    for source, target in pairs:
        before[target].add(source)
    rows: dict[str, int] = {}
    for name in TopologicalSorter(before).static_order():
        rows[name] = max((rows[one] + 1 for one in before[name]), default=0)
    return {name: rows[name] for name in names}


def _chain(source: _Spot, target: _Spot) -> list[_Spot]:
    """The spots from one box to another, one for each row between."""
    chain = [source, *(_Spot(None, row) for row in range(source.row + 1, target.row)), target]
    for upper, lower in pairwise(chain):
        upper.below.append(lower)
        lower.above.append(upper)
    return chain


def _layers(boxes: list[_Spot], chains: list[list[_Spot]]) -> list[list[_Spot]]:
    """Rows of spots, each row ordered by the middle of its neighbours so that few lines cross."""
    layers: list[list[_Spot]] = [[] for _ in range(1 + max((spot.row for spot in boxes), default=-1))]
    for spot in [*boxes, *(one for chain in chains for one in chain[1:-1])]:
        layers[spot.row].append(spot)
    for _ in range(4):
        _sort(layers[1:], "above", layers)
        _sort(layers[-2::-1], "below", layers)
    _sort(layers[1:], "above", layers)
    return layers


def _sort(order: list[list[_Spot]], side: str, layers: list[list[_Spot]]) -> None:
    for layer in order:
        places = {id(spot): place / max(1, len(row) - 1) for row in layers for place, spot in enumerate(row)}
        own = {id(spot): _mean([places[id(one)] for one in getattr(spot, side)], places[id(spot)]) for spot in layer}
        layer.sort(key=lambda spot: own[id(spot)])


def _mean(values: list[float], otherwise: float) -> float:
    return sum(values) / len(values) if values else otherwise


def _width(layer: list[_Spot]) -> float:
    return sum(spot.width for spot in layer) + GAP * (len(layer) - 1)


def _path(chain: list[_Spot]) -> str:
    """Straight down beside the rows that a line passes, a soft curve between rows."""
    x, y = chain[0].middle, chain[0].row * ROW_HEIGHT + BOX_HEIGHT
    parts = [f"M{x:.1f} {y:.1f}"]
    for spot in chain[1:]:
        top = spot.row * ROW_HEIGHT
        bend = (top - y) / 2
        parts.append(f"C{x:.1f} {y + bend:.1f} {spot.middle:.1f} {top - bend:.1f} {spot.middle:.1f} {top:.1f}")
        x, y = spot.middle, top
        if spot.stage is None:
            y = top + BOX_HEIGHT
            parts.append(f"V{y:.1f}")
    return " ".join(parts)
