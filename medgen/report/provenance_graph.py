"""Where everything compared came from, as one graph from the raw sources down to the evaluation, drawn as SVG."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape

from medgen.artifacts.provenance import Provenance, Step

BOX_WIDTH, BOX_HEIGHT = 152, 42
GAP_X, GAP_Y = 22, 34
BEND_WIDTH = 16  # room for an edge that passes a layer
WIDEST = 7
"""More boxes than this beside each other cannot be read; then the list of steps must do."""
SWEEPS = 6


@dataclass
class Node:
    """A step, a raw source (step None), or the bend of an edge on its way through a layer (no name either)."""

    id: str
    layer: int
    step: Step | None = None
    bend: bool = False
    x: float = 0.0

    @property
    def width(self) -> float:
        """What it takes up in its layer."""
        return BEND_WIDTH if self.bend else BOX_WIDTH


def merged(graphs: Iterable[Provenance]) -> list[Step]:
    """All steps of several graphs, each once, every step after its inputs."""
    steps: dict[str, Step] = {}
    for graph in graphs:
        steps.update({step.id: step for step in graph.steps})
    order: dict[str, Step] = {}

    def put(step: Step) -> None:
        for parent in step.inputs:
            if parent in steps and parent not in order:
                put(steps[parent])
        order.setdefault(step.id, step)

    for step in steps.values():
        put(step)
    return list(order.values())


def drawn(steps: Sequence[Step], names: Mapping[str, str]) -> str:
    """The graph as SVG, raw sources on top; `names` says what a step's result is called here. "" if it is too wide."""
    layers, edges = _layered(steps)
    if max(sum(not node.bend for node in layer) for layer in layers) > WIDEST:
        return ""
    _order(layers, edges)
    width = _place(layers)
    height = len(layers) * (BOX_HEIGHT + GAP_Y) - GAP_Y + 4
    nodes = {node.id: node for layer in layers for node in layer}
    parts = [_edge(nodes[parent], nodes[child]) for parent, child in edges]
    parts += [_box(node, names.get(node.id, "")) for layer in layers for node in layer if not node.bend]
    size = f'viewBox="0 0 {width:.0f} {height:.0f}" style="max-width:{width:.0f}px"'
    return f'<svg class="graph" role="img" aria-label="Graph of provenance" {size}>{"".join(parts)}</svg>'


def _layered(steps: Sequence[Step]) -> tuple[list[list[Node]], list[tuple[str, str]]]:
    """Nodes by layer, each below all its inputs; edges that pass layers get a bend in each of them."""
    nodes: dict[str, Node] = {}
    for step in steps:
        for parent in step.inputs:
            nodes.setdefault(parent, Node(parent, 0))
        below = max((nodes[parent].layer + 1 for parent in step.inputs), default=0)
        nodes[step.id] = Node(step.id, below, step)
    for node in nodes.values():
        if node.step is None:  # just above the first that reads it
            node.layer = min(nodes[step.id].layer for step in steps if node.id in step.inputs) - 1
    layers: list[list[Node]] = [[] for _ in range(max(node.layer for node in nodes.values()) + 1)]
    for node in nodes.values():
        layers[node.layer].append(node)
    edges: list[tuple[str, str]] = []
    for step in steps:
        for parent in dict.fromkeys(step.inputs):
            last = parent
            for layer in range(nodes[parent].layer + 1, nodes[step.id].layer):
                bend = Node(f"{parent}>{step.id}@{layer}", layer, bend=True)
                layers[layer].append(bend)
                edges.append((last, bend.id))
                last = bend.id
            edges.append((last, step.id))
    return layers, edges


def _order(layers: list[list[Node]], edges: Sequence[tuple[str, str]]) -> None:
    """Sort each layer by the middle of its neighbours, down and up again (Sugiyama et al. 1981)."""
    above: dict[str, list[str]] = {}
    below: dict[str, list[str]] = {}
    for parent, child in edges:
        above.setdefault(child, []).append(parent)
        below.setdefault(parent, []).append(child)
    for sweep in range(SWEEPS):
        near = above if sweep % 2 == 0 else below
        rank = {node.id: (place + 0.5) / len(layer) for layer in layers for place, node in enumerate(layer)}
        for layer in layers if sweep % 2 == 0 else reversed(layers):
            layer.sort(key=lambda node: _mean([rank[other] for other in near.get(node.id, [])], rank[node.id]))
            rank.update({node.id: (place + 0.5) / len(layer) for place, node in enumerate(layer)})


def _mean(values: Sequence[float], otherwise: float) -> float:
    return sum(values) / len(values) if values else otherwise


def _place(layers: list[list[Node]]) -> float:
    """Give every node its x, layers centred; returns the width of the whole."""
    widths = [sum(node.width for node in layer) + GAP_X * (len(layer) - 1) for layer in layers]
    width = max(widths) + 4
    for layer, own in zip(layers, widths, strict=True):
        x = (width - own) / 2
        for node in layer:
            node.x = x + node.width / 2
            x += node.width + GAP_X
    return width


def _y(node: Node) -> float:
    return 2 + node.layer * (BOX_HEIGHT + GAP_Y)


def _edge(parent: Node, child: Node) -> str:
    start, stop = _y(parent) + BOX_HEIGHT, _y(child)
    middle = (start + stop) / 2
    path = (
        f"M{parent.x:.1f} {start:.1f}C{parent.x:.1f} {middle:.1f} {child.x:.1f} {middle:.1f} {child.x:.1f} {stop:.1f}"
    )
    if child.bend:
        path += f"V{stop + BOX_HEIGHT:.1f}"
    else:
        path += "m-4 -6l4 6l4 -6"
    return f'<path class="edge" d="{path}"/>'


def _box(node: Node, name: str) -> str:
    """A rectangle with the command and what its result is called, or else its id."""
    title = node.step.command if node.step else "raw files"
    kind = "box" if node.step else "box source"
    below = name or node.id.removeprefix("source-")[:12]
    y = _y(node)
    return (
        f'<g><rect class="{kind}{" named" * bool(name)}" x="{node.x - BOX_WIDTH / 2:.1f}" y="{y:.1f}" '
        f'width="{BOX_WIDTH}" height="{BOX_HEIGHT}" rx="4"/>'
        f'<text class="command" x="{node.x:.1f}" y="{y + 18:.1f}" text-anchor="middle">{escape(title)}</text>'
        f'<text class="id" x="{node.x:.1f}" y="{y + 33:.1f}" text-anchor="middle">{escape(_short(below))}</text></g>'
    )


def _short(name: str, longest: int = 22) -> str:
    return name if len(name) <= longest else name[: longest - 1] + "…"
