"""From images to figures: open what is measured and what it is compared with, then choose and run the metrics."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from medgen.artifacts.provenance import Provenance
from medgen.artifacts.schema import SetHeader
from medgen.artifacts.sharding import part_told
from medgen.config import did_you_mean
from medgen.errors import UsageError
from medgen.evaluation.comparability import check_comparable
from medgen.evaluation.comparison import Pair, compare
from medgen.evaluation.comparison import as_json as comparison_json
from medgen.evaluation.declaration import Metric
from medgen.evaluation.features.extractors import open_extractor
from medgen.evaluation.features.features import FeatureBank
from medgen.evaluation.inputs import Inputs, MapMaker, Reconstructor
from medgen.evaluation.opening import TRAINING, ImagesToOpen, Opened, check_real, open_all, wanted
from medgen.evaluation.options import SharedOptions
from medgen.evaluation.pairing import MEASURED, REFERENCE, THICK, Side, pairing_of
from medgen.evaluation.registry import METRICS
from medgen.evaluation.results import Evaluated, Material, as_json, provenance_of
from medgen.imaging.labels.ratings import read_ratings
from medgen.models.trained import FrozenVAE
from medgen.reporting import Reporter


@dataclass(frozen=True)
class Task:
    """What is measured, and what it is compared with: sets, or files and folders of images; `-` is standard input."""

    sources: Sequence[str]
    """What is measured."""
    names: Sequence[str] | None = None
    """Names of these in reports."""
    split: str | None = None
    reference: Path | None = None
    reference_split: str | None = None
    synthetic_reference: bool = False
    """Whether the reference may hold generated cases."""
    thick: Path | None = None
    training: Path | None = None
    training_split: str | None = None
    vae: Path | None = None
    """A VAE whose reconstructions are measured."""
    ratings: Path | None = None
    """A CSV of experts' ratings of what is measured."""

    def images(self) -> list[ImagesToOpen]:
        """All images, those measured first."""
        return [
            *(ImagesToOpen(MEASURED, source, self.split) for source in self.sources),
            *wanted(THICK, self.thick, None),
            *wanted(TRAINING, self.training, self.training_split),
            *wanted(REFERENCE, self.reference, self.reference_split),
        ]


@dataclass(frozen=True)
class Evaluation:
    """All that was found, and from what."""

    results: list[Evaluated]
    """One for each measured set."""
    pairs: list[Pair]
    """The measured sets compared with each other."""
    materials: list[Material]
    provenance: Provenance
    numbers: Mapping[str, Any]
    """All of it as JSON values."""


@contextlib.contextmanager
def evaluation(
    task: Task,
    options: SharedOptions,
    reporter: Reporter,
    device: torch.device,
    maps_like: Callable[[SetHeader], MapMaker | None],
) -> Iterator[Evaluation]:
    """Evaluate; the sets stay open inside the block, for pages and pictures of what was found.

    `maps_like` gives the maker of anomaly maps like those of a set; None for a set without any.
    UsageError where the task or the options ask for something that the sets cannot give; DataError for sets that cannot
    be compared.
    """
    ratings = None if task.ratings is None else read_ratings(task.ratings)
    vae = None
    if task.vae is not None:
        vae = FrozenVAE.load(task.vae, device, "float32")  # figures must not depend on the processor
    with contextlib.ExitStack() as stack:
        intensity = vae.facts.intensity if vae else None
        opened = open_all(stack, task.images(), reporter, options.reading, intensity, task.names)
        measured = [one for one in opened if one.part == MEASURED]
        others = {one.part: one for one in opened if one.part != MEASURED}
        if len(measured) > 1:
            pairs_of = zip(measured, task.sources, strict=True)
            reporter.say("; ".join(f"{one.name} is {source}" for one, source in pairs_of))
        if REFERENCE in others and not task.synthetic_reference:
            check_real(others[REFERENCE])
        for one in opened:
            if part := part_told(one.stored.header):
                reporter.warn(f"{one.name} {part}")
        _check_comparable(measured, others, reporter)
        materials = [Material(one.part, one.name, one.stored) for one in opened]
        if vae is not None:
            materials.append(Material("VAE", "VAE", vae.model))
        bank = FeatureBank(open_extractor(options.features, options.torchscript, device))
        sides = [Side(one.part, one.images.stored.cases, one.images.files) for one in opened if one.part != TRAINING]
        pairing = pairing_of(options.pair_by, sides)
        against = {part: one.stored for part, one in others.items()}
        tasks: list[tuple[str, Inputs, list[str]]] = []
        for one in measured:
            inputs = Inputs(
                one.stored,
                bank,
                reporter.progress,
                reference=against.get(REFERENCE),
                training=against.get(TRAINING),
                thick=against.get(THICK),
                vae=None if vae is None else Reconstructor(vae.reconstruct, vae.model.digest),
                maps=maps_like(one.stored.header),
                ratings=ratings,
                whole=one.images.stored,
                pairing=pairing,
                seed=options.seed,
                device=device,
            )
            tasks.append((one.name, inputs, choose(options.metrics, inputs)))
        for warning in overlooked([metrics for _, _, metrics in tasks], tasks[0][1], options):
            reporter.warn(warning)
        results = [measure(*task, options) for task in tasks]
        pairs = compare(results, options.seed)
        provenance = provenance_of(options, materials)
        numbers = as_json(results, options, provenance, comparison_json(pairs) if pairs else None)
        yield Evaluation(results, pairs, materials, provenance, numbers)


def _check_comparable(measured: Sequence[Opened], others: Mapping[str, Opened], reporter: Reporter) -> None:
    for other in (others[part] for part in (REFERENCE, TRAINING) if part in others):
        for one in measured:
            for warning in check_comparable(one.name, one.stored, other.name, other.stored):
                reporter.warn(warning)


def choose(names: Sequence[str] | None, inputs: Inputs) -> list[str]:
    """The metrics to run: those named, or all whose needs are met; UsageError with the remedy if there are none."""
    lacking = {name: metric.lacking(inputs) for name, metric in METRICS.items()}
    if names is None:
        unasked = [one for one in METRICS.values() if one.unasked(inputs)]
        chosen = [one for one in unasked if not lacking[one.name]]
        if not chosen:
            raise UsageError(f"nothing to measure: {'; '.join(f'{one.name} {lacking[one.name]}' for one in unasked)}")
        alone = [one for one in chosen if one.alone]
        return [one.name for one in alone[:1] or chosen]
    for name in names:
        if name not in METRICS:
            hint = did_you_mean(name, METRICS, f"metrics: {', '.join(METRICS)}")
            raise UsageError(f"--metrics: no metric '{name}'{hint}")
        if lacking[name]:
            raise UsageError(f"{name} {lacking[name]}")
    return list(names)


def overlooked(chosen: Sequence[Sequence[str]], inputs: Inputs, options: SharedOptions) -> Iterator[str]:
    """Warnings of what was given although none of the metrics `chosen` for each set reads it, and why.

    `inputs` are those of the first set.
    """
    taken = {name: METRICS[name] for names in chosen for name in names}

    def why(metric: Metric) -> str:
        lacking = metric.lacking(inputs) if options.metrics is None else ""
        return f"{metric.name} {lacking or 'is not measured'}"

    used = {name for metric in taken.values() for name in metric.used(inputs)}
    for name in ("reference", "training", "thick", "vae", "ratings"):
        if getattr(inputs, name) is not None and name not in used:
            other = next((metric for metric in taken.values() if name in metric.reads), None)
            first = next(metric for metric in METRICS.values() if name in metric.reads)
            cause = f"{other.name} uses --{other.used(inputs)[0]}" if other else why(first)
            yield f"--{name} is not used: {cause}"
    for metric in METRICS.values():
        table, default = options.of(metric), metric.options() if metric.options else None
        for name in table.__struct_fields__ if table and metric.name not in taken else ():
            if getattr(table, name) != getattr(default, name):
                yield f"the option {metric.name}.{name} has no effect: {why(metric)}"


def measure(name: str, inputs: Inputs, metrics: Sequence[str], options: SharedOptions) -> Evaluated:
    """Run metrics on one set."""
    chosen = [METRICS[metric] for metric in metrics]
    return Evaluated(name, inputs, [metric.measure(inputs, options.of(metric)) for metric in chosen])
