from __future__ import annotations

import re
from xml.etree import ElementTree

from medgen.artifacts.provenance import Provenance, derive
from medgen.report.provenance_graph import BOX_WIDTH, drawn, merged


class Made:
    """An artifact, as far as its provenance goes."""

    def __init__(self, provenance: Provenance) -> None:
        self.provenance = provenance

    def digests(self) -> dict[str, str]:
        return {}


def pipeline(guidances: tuple[float, ...] = (1.0, 2.0)) -> Provenance:
    images = Made(derive("preprocess", {}, sources="source-1234"))
    vae = Made(derive("train-vae", {}, inputs=[images]))
    latents = Made(derive("extract-latents", {}, inputs=[images, vae]))
    model = Made(derive("train-diffusion", {}, inputs=[latents]))
    samples = [Made(derive("generate", {"guidance": g}, inputs=[model, vae])) for g in guidances]
    return derive("evaluate", {}, inputs=[*samples, images])


def test_every_step_comes_once_and_after_its_inputs() -> None:
    whole = pipeline()
    steps = merged([whole, whole])
    assert sorted(step.id for step in steps) == sorted({step.id for step in whole.steps})
    seen: set[str] = {"source-1234"}
    for step in steps:
        assert set(step.inputs) <= seen
        seen.add(step.id)


def test_boxes_hold_commands_and_names_and_do_not_touch() -> None:
    steps = merged([pipeline()])
    generated = next(step.id for step in steps if step.command == "generate")
    svg = ElementTree.fromstring(drawn(steps, {generated: "few <steps>"}))
    texts = [node.text for node in svg.iter("text")]
    assert texts.count("generate") == 2
    assert "few <steps>" in texts
    assert "1234" in texts
    places = [(float(box.attrib["x"]), float(box.attrib["y"])) for box in svg.iter("rect")]
    assert len(places) == len(steps) + 1
    for place, (x, y) in enumerate(places):
        assert all(abs(x - u) > BOX_WIDTH or abs(y - v) > 40 for u, v in places[place + 1 :])


def test_an_edge_ends_at_each_input_of_each_step() -> None:
    steps = merged([pipeline()])
    svg = drawn(steps, {})
    heads = re.findall(r'class="edge" d="[^"]*m-4 -6l4 6l4 -6"', svg)
    assert len(heads) == sum(len(step.inputs) for step in steps)


def test_a_graph_too_wide_to_read_is_left_to_the_list() -> None:
    assert drawn(merged([pipeline(tuple(map(float, range(9))))]), {}) == ""
