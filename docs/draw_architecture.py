"""Draws docs/images/architecture.svg, the folders of the package and which imports which, from the code.

    python docs/draw_architecture.py

A folder is drawn above all that it imports, and an arrow that follows from two others is left out.
"""

import ast
import html
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "src" / "stable_longform"
PICTURE = ROOT / "docs" / "images" / "architecture.svg"
SCRIPTS = "training/"
WIDTH, BOX_WIDTH, BOX_HEIGHT, ROW_HEIGHT, MARGIN = 960, 144, 44, 96, 24

Graph = dict[str, set[str]]

STYLE = """\
  <style>
    text { font: 13px sans-serif; text-anchor: middle; fill: #1f2937 }
    rect { fill: #fff7ed; stroke: #f97316; rx: 6px }
    .scripts rect { fill: #f3f4f6; stroke: #6b7280 }
    path { fill: none; stroke: #9ca3af; marker-end: url(#tip) }
    marker path { fill: #9ca3af; stroke: none }
  </style>
  <marker id="tip" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="7" markerHeight="7" orient="auto">
    <path d="M0,0 L8,4 L0,8 z"/>
  </marker>
"""


def read_graph() -> Graph:
    """For each folder, or file at the top, of the package: which others it imports; and the same of the scripts."""
    graph: Graph = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        name = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        if not name.startswith("__"):
            graph.setdefault(name, set()).update(imported(path))
    graph[SCRIPTS] = {name for path in (ROOT / "training").glob("*.py") for name in imported(path)}
    return {name: targets & set(graph) - {name} for name, targets in graph.items()}


def imported(path: Path) -> set[str]:
    """First parts of the package's modules that a file imports."""
    names = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ImportFrom) and node.module:
            modules = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
            names |= {module.split(".")[1] for module in modules if module.startswith(f"{PACKAGE.name}.")}
    return names


def find_rows(graph: Graph) -> list[list[str]]:
    """The names from the bottom up: each in the lowest row above all that it imports."""
    height: dict[str, int] = {}
    while len(height) < len(graph):
        ready = [name for name in graph if name not in height and graph[name] <= set(height)]
        if not ready:
            raise ValueError(f"These import each other: {', '.join(sorted(set(graph) - set(height)))}.")
        height |= {name: 1 + max((height[target] for target in graph[name]), default=-1) for name in ready}
    return [sorted(name for name in graph if height[name] == row) for row in range(max(height.values()) + 1)]


def reduce(graph: Graph) -> Graph:
    """The graph without the arrows that follow from others."""
    below: Graph = {}
    for row in find_rows(graph):
        below |= {name: graph[name].union(*(below[target] for target in graph[name])) for name in row}
    return {name: targets - set().union(*(below[target] for target in targets)) for name, targets in graph.items()}


def draw(graph: Graph) -> str:
    """The picture as SVG."""
    rows = find_rows(graph)
    height = len(rows) * ROW_HEIGHT
    places = {}
    for number, row in enumerate(rows):
        step = WIDTH / len(row)
        for column, name in enumerate(row):
            places[name] = (round(step * (column + 0.5)), height - (number + 1) * ROW_HEIGHT + MARGIN)
    lines = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img">', STYLE.rstrip()]
    lines.append('  <rect width="100%" height="100%" style="fill: #ffffff; stroke: none"/>')
    for name, targets in sorted(reduce(graph).items()):
        for target in sorted(targets):
            (x, y), (to_x, to_y) = places[name], places[target]
            start, bend = y + BOX_HEIGHT, (to_y - y - BOX_HEIGHT) // 2
            lines.append(f'  <path d="M{x},{start} C{x},{start + bend} {to_x},{to_y - bend} {to_x},{to_y}"/>')
    for name, (x, y) in sorted(places.items()):
        kind = ' class="scripts"' if name == SCRIPTS else ""
        box = f'<rect x="{x - BOX_WIDTH // 2}" y="{y}" width="{BOX_WIDTH}" height="{BOX_HEIGHT}"/>'
        lines.append(f'  <g{kind}>{box}<text x="{x}" y="{y + 27}">{html.escape(name)}</text></g>')
    return "\n".join([*lines, "</svg>"]) + "\n"


if __name__ == "__main__":
    PICTURE.write_text(draw(read_graph()), encoding="utf-8")
    print(PICTURE.relative_to(ROOT))
