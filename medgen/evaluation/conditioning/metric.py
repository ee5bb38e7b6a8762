"""Do samples show what they were asked to show: a nodule at (x, y), of that size, or none.

The measuring rule (see `nodules`, `spot_width`) makes errors too. So every result is reported with two others:
`ceiling`, the same measurement on reference images with known nodules, and `chance`, the measurement against shuffled
conditions.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from medgen.artifacts.schema import GENERATED, SPACING_NOTE
from medgen.artifacts.stored import StoredSet
from medgen.errors import DataError
from medgen.evaluation.conditioning.declaration import FIELDS
from medgen.evaluation.conditioning.likeness import FAR, compare_patches, times_as_far
from medgen.evaluation.conditioning.likeness import table_of as patches_table
from medgen.evaluation.conditioning.nodules import find_spots
from medgen.evaluation.conditioning.patches import NodulePatches, rate
from medgen.evaluation.conditioning.probe import LEAST_CASES, evaluate_ratings
from medgen.evaluation.conditioning.rule import Measured
from medgen.evaluation.conditioning.scores import LIKE, RATES, evaluate
from medgen.evaluation.inputs import Inputs, owners, slice_names
from medgen.evaluation.section import Score, Section, Table, interval, number, percent
from medgen.reporting import Advance, unseen


def measure(inputs: Inputs) -> Section:
    """Measure the samples, the reference's known nodules, and shuffled conditions; patches and ratings by features."""
    stored, real, seed = inputs.stored, inputs.reference, inputs.seed
    known = real if real is not None and set(FIELDS) <= set(real.header.vector_fields) else None
    total = stored.slices + (known.slices if known is not None else 0)
    with inputs.progress(total, "slices") as advance:
        samples = observe(stored, advance)
        result, rule = evaluate(samples, observe(known, advance) if known is not None else None, seed=seed)
    tables = [_table(result)]
    result["patches"], result["ratings"] = None, {}
    if known is not None:
        names = [name for name in stored.header.vector_fields if name not in FIELDS]
        names = [name for name in names if name in known.header.vector_fields]
        with inputs.progress(total, "slices") as advance:
            ours, theirs = (rate(one, FIELDS, names, advance) for one in (stored, known))
        result |= _by_features(ours, theirs, names, seed)
        tables += [patches_table(result["patches"])] if result["patches"] else []
        tables += [_ratings_table(result["ratings"])] if result["ratings"] else []
    positive = np.flatnonzero(samples.asked[:, 0] > 0)
    found, every = rule.found(samples[positive]), slice_names(stored)
    hit = {every[row]: float(spot is not None) for row, spot in zip(positive, found, strict=True)}
    scores = {"hit_rate": Score("nodule found where asked", "higher", hit)}
    return Section("conditioning", "Conditioning", result, tables, _warnings(result), scores=scores)


def _by_features(ours: NodulePatches, theirs: NodulePatches, names: list[str], seed: int) -> dict[str, Any]:
    """Whether patches look like those of known nodules, and agreement with what was asked beyond place and size."""
    ratings = evaluate_ratings(ours, theirs, names, seed)
    return {"patches": compare_patches(ours, theirs, seed), "ratings": ratings}


def _warnings(result: dict[str, Any]) -> list[str]:
    told = []
    like, patches = result["ceiling_of_like_size"], result["patches"]
    if result["ceiling"] is None:
        told.append("the measuring rule was not tested on known nodules; give a --reference with vectors")
    elif like is None:
        told.append(
            f"no known nodule has a requested size, within a factor {LIKE:g}, so no rate of known nodules is comparable"
        )
    elif like["asked_without_like"]:
        told.append(
            f"{like['asked_without_like']} of {result['samples']['with_nodule']} nodules have requested sizes that no "
            f"known nodule has, within a factor {LIKE:g}; rates of known nodules are for the other sizes"
        )
    if patches and (far := times_as_far(patches)) is not None and far > FAR:
        told.append(
            f"patches at the requested places lie {far:.1f} times as far from known nodules as these do from each "
            "other: what was found there does not look like them"
        )
    return told + [f"{name}: {fault}" for name, rating in result["ratings"].items() if (fault := _fault(rating))]


def _fault(rating: dict[str, Any] | None) -> str:
    """Why a rating could not be measured; "" if it was."""
    if rating is None:
        return f"fewer than {LEAST_CASES} rated real cases, or all with the same rating, so no probe was fitted"
    if not rating["probe_works"]:
        return "the probe does not agree with the ratings of held-out real nodules, so it cannot judge the samples"
    return ""


def _ratings_table(ratings: dict[str, Any]) -> Table:
    rows = []
    for name, rating in ratings.items():
        if rating is not None:
            cells = [
                interval(rating[part][kind], 2) if part == "held_out_real" or rating["probe_works"] else "unknown"
                for kind in ("pearson", "spearman")
                for part in ("samples", "held_out_real")
            ]
            rows.append([name, *cells])
    return Table(
        "ratings by a probe learned from the reference: correlation with what was asked",
        ("", "samples, Pearson", "real, held out, Pearson", "samples, Spearman", "real, held out, Spearman"),
        rows,
        "The probe's correlation on held-out real nodules is the most that samples can be expected to reach.",
    )


def _table(result: dict[str, Any]) -> Table:
    columns = {
        "samples": "samples",
        "ceiling_of_like_size": "known nodules of the sizes asked",
        "ceiling": "all known nodules",
        "chance": "shuffled",
    }
    shown = {name: title for name, title in columns.items() if result[name]}
    full = [name for name in shown if name != "ceiling_of_like_size"]

    def row(title: str, cell: Callable[[dict[str, Any]], str]) -> list[str]:
        return [title, *(cell(result[name]) if name in full else "-" for name in shown)]

    titles = ("nodule found where asked", "... and within a factor 2 of its size")
    rows = [
        [title, *(percent(result[name][rate]) for name in shown)] for title, rate in zip(titles, RATES, strict=True)
    ]
    rows += [
        row("median position error (% of width)", lambda one: number(one["position_error_percent"], 3)),
        row("median position error (mm)", lambda one: number(one["position_error_mm"], 3)),
        row("median size error (% of width)", lambda one: number(one["size_error_percent"], 3)),
        row("correlation of x", lambda one: _pearson(one, "x")),
        row("correlation of y", lambda one: _pearson(one, "y")),
        row("correlation of size", lambda one: _pearson(one, "size")),
        row("nodule seen where one was asked", lambda one: _share(one, "true_positive", "false_negative")),
        row("nodule seen where none was asked", lambda one: _share(one, "false_positive", "true_negative")),
    ]
    note = "Compare rates of samples only with those of known nodules of the requested sizes. Intervals are by case."
    return Table("conditioning", ("", *shown.values()), rows, note if "ceiling_of_like_size" in shown else "")


def _pearson(result: dict[str, Any], field: str) -> str:
    value = result["correlation"][field]
    return number(value and value["pearson"], 2)


def _share(result: dict[str, Any], right: str, wrong: str) -> str:
    counts = result["confusion"]
    return f"{counts[right]:.0f} of {counts[right] + counts[wrong]:.0f}"


def observe(stored: StoredSet, advance: Advance = unseen) -> Measured:
    """Find the spots of every slice of an image set in HU whose vectors name has_nodule, x, y and size."""
    intensity, fields = stored.header.intensity, stored.header.vector_fields
    if stored.header.kind != "image" or intensity is None or intensity.unit != "HU":
        raise DataError("conditioning measures nodules in CT images in HU; the set holds none")
    missing = [name for name in FIELDS if name not in fields]
    if missing:
        raise DataError(f"conditioning needs the vector fields {', '.join(FIELDS)}; the set lacks {', '.join(missing)}")
    asked = stored.column("vector").astype(np.float64)[:, [fields.index(name) for name in FIELDS]]
    spots, cases, widths = [], [], []
    for case, row in zip(owners(stored), stored.cases, strict=True):
        # Samples from training cases of differing pixel size have none of their own, which 1 mm denotes.
        known = row.synthetic != GENERATED or row.spacing != (1.0, 1.0, 1.0) or SPACING_NOTE in stored.header.notes
        for index in range(row.start, row.start + row.count):
            image = intensity.physical(stored.read("image", [index])[0, 0])
            if not np.isfinite(image).any():  # it would pass as one without a nodule
                raise DataError(f"case {row.id}: an image holds NaN or infinity alone; leave the case out of the set")
            spots.append(find_spots(np.nan_to_num(image, nan=-1000.0, posinf=-1000.0, neginf=-1000.0)))
            cases.append(case)
            widths.append(row.spacing[2] * image.shape[1] if known else np.nan)
            advance(1)
    return Measured(spots, asked, np.array(cases, np.int64), np.array(widths, np.float64))
