from __future__ import annotations

from medgen.artifacts.provenance import Provenance, derive
from medgen.report.evaluation_page import in_order


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
    steps = in_order([*reversed(whole.steps), *whole.steps])
    assert sorted(step.id for step in steps) == sorted({step.id for step in whole.steps})
    seen: set[str] = {"source-1234"}
    for step in steps:
        assert set(step.inputs) <= seen
        seen.add(step.id)
