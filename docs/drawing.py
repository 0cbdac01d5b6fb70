"""Draw the graph of ``dvc.yaml`` as SVG: a column per step, with the last step on the right.

GitHub draws the graph from the Mermaid of the README. Mermaid is a program of megabytes that a page
would load from elsewhere, so the site has this drawing instead.
"""

from html import escape

WIDTH, HEIGHT = 104, 30  # of the box of a stage
ACROSS, DOWN = 150, 46  # from box to box

Graph = dict[str, set[str]]


def svg(graph: Graph) -> str:
    """The drawing of a graph without circles.

    graph: the stages, with the stages that each needs.
    """
    through = _with_bends(graph)
    columns = _columns(through)
    places = {
        name: (
            column * ACROSS + WIDTH / 2,
            (row - (len(names) - 1) / 2) * DOWN,
        )
        for column, names in enumerate(columns)
        for row, name in enumerate(names)
    }
    tallest = max(map(len, columns))
    lines = [
        _line(places[need], places[name])
        for name, needed in through.items()
        for need in sorted(needed)
    ]
    bends = [places[name] for name in through if name not in graph]
    lines += [f'<path d="M{x - WIDTH / 2:g} {y:g}h{WIDTH}"/>' for x, y in bends]
    boxes = [_box(name, *places[name]) for name in graph]
    width, height = (len(columns) - 1) * ACROSS + WIDTH + 4, tallest * DOWN
    head = (
        f'<svg class="graph" viewBox="-2 {-height / 2:g} {width} {height}" role="img" '
        f'aria-label="The graph of the pipeline" style="min-width: {width * 0.8:g}px">'
    )
    return "".join([head, *lines, *boxes, "</svg>"])


def _steps_to_end(graph: Graph) -> dict[str, int]:
    """The length of the longest path from each stage to a last stage."""
    steps: dict[str, int] = {}

    def of(name: str) -> int:
        if name not in steps:
            after = [of(other) for other, needed in graph.items() if name in needed]
            steps[name] = 1 + max(after) if after else 0
        return steps[name]

    return {name: of(name) for name in graph}


def _with_bends(graph: Graph) -> Graph:
    """The graph with a bend in each column that an arrow passes, so that it meets no box.

    Arrows to the same stage share their bends.
    """
    steps = _steps_to_end(graph)
    through: Graph = {}
    for name, needed in graph.items():
        through.setdefault(name, set())
        for need in needed:
            before = need
            for step in range(steps[need] - 1, steps[name], -1):
                bend = f"{name} {step}"
                through.setdefault(bend, set()).add(before)
                before = bend
            through[name].add(before)
    return through


def _columns(graph: Graph) -> list[list[str]]:
    """The stages of each column from top to bottom, near the stages that they need."""
    steps = _steps_to_end(graph)
    columns: list[list[str]] = [[] for _ in range(1 + max(steps.values()))]
    for name in graph:
        columns[-1 - steps[name]].append(name)
    heights: dict[str, float] = {}
    for names in columns:
        names.sort(key=lambda name: _mean([heights[need] for need in graph[name]]))
        heights |= {name: row - (len(names) - 1) / 2 for row, name in enumerate(names)}
    return columns


def _mean(values: list[float]) -> float:
    return sum(values) / len(values) if values else 0.0


def _line(start: tuple[float, float], end: tuple[float, float]) -> str:
    (x, y), (to_x, to_y) = start, end
    x, to_x = x + WIDTH / 2, to_x - WIDTH / 2
    middle = (x + to_x) / 2
    return f'<path d="M{x:g} {y:g}C{middle:g} {y:g} {middle:g} {to_y:g} {to_x:g} {to_y:g}"/>'


def _box(name: str, x: float, y: float) -> str:
    corner = f'x="{x - WIDTH / 2:g}" y="{y - HEIGHT / 2:g}"'
    return (
        f'<rect {corner} width="{WIDTH}" height="{HEIGHT}" rx="6"/>'
        f'<text x="{x:g}" y="{y + 5:g}">{escape(name)}</text>'
    )
