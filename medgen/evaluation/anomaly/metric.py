"""Whether anomaly maps and scores find lesions, compared with baselines that need no normalizer."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from medgen.artifacts.schema import MAP_CHANNELS
from medgen.evaluation.anomaly.declaration import AnomalyEvaluationOptions
from medgen.evaluation.anomaly.detection import RESOLUTION
from medgen.evaluation.anomaly.sources import MapChannel, chunks, read_images, sources_of
from medgen.evaluation.anomaly.tables import tables_of
from medgen.evaluation.anomaly.tally import Tally
from medgen.evaluation.anomaly.truth import Roles, roles_of
from medgen.evaluation.inputs import Inputs, slice_names
from medgen.evaluation.pictures import picture
from medgen.evaluation.section import Distribution, Gallery, Panel, Score, Section

MAIN = "normalizer"
PICTURED = 4


def measure(inputs: Inputs, options: AnomalyEvaluationOptions) -> Section:
    """Fit thresholds on held-out normal slices, and test all detectors on the others."""
    stored, reference = inputs.stored, inputs.reference
    held_out = reference if reference is not None and reference.header.kind == "map" else None
    roles = roles_of(stored, stored if inputs.whole is None else inputs.whole, held_out, options)
    tallies: dict[str, Tally] = {}
    detectors: list[MapChannel] = []
    with inputs.progress(None, "slices") as advance:
        for source in sources_of(inputs, roles, advance):
            own = [Tally(options.false_positive_rate, options.lesion_overlap, options.normal) for _ in source.detectors]
            for rows in chunks(roles.fit_rows):
                maps, _ = source.produce(roles.fit, rows)
                for detector, tally in zip(source.detectors, own, strict=True):
                    tally.fit(maps[:, detector.channel])
                advance(len(rows))
            for rows in chunks(roles.test_rows):
                maps, scores = source.produce(roles.test, rows)
                _test(roles, rows, maps, scores, list(zip(source.detectors, own, strict=True)))
                advance(len(rows))
            detectors += source.detectors
            tallies.update({detector.name: tally for detector, tally in zip(source.detectors, own, strict=True)})
    kinds = sorted(set(roles.test.kinds[roles.test_rows].tolist()) - {options.normal})
    results = {detector.name: _result(tallies[detector.name], kinds, detector, inputs.seed) for detector in detectors}
    result = {**_setting(options, roles, kinds), "detectors": results}
    return Section(
        "anomaly",
        "Anomaly maps",
        result,
        tables_of(result, {detector.name: detector.title for detector in detectors}),
        _warnings(inputs, options, roles, result),
        [_distribution(tallies[MAIN])],
        _galleries(roles, tallies[MAIN]),
        _scores(roles, tallies[MAIN]),
    )


def _test(
    roles: Roles, rows: np.ndarray, maps: np.ndarray, scores: np.ndarray, told: list[tuple[MapChannel, Tally]]
) -> None:
    truth = roles.test
    masks: npt.NDArray[np.bool_] | None = None
    if truth.stored.has("mask"):
        masks = np.asarray(truth.stored.read("mask", rows).any(axis=1))
    for detector, tally in told:
        own = detector.score(maps, scores)
        for place, row in enumerate(rows):
            mask = masks[place] if masks is not None and truth.outlined[row] else None
            tally.test(
                int(truth.cases[row]), str(truth.kinds[row]), float(own[place]), maps[place, detector.channel], mask
            )


def _result(tally: Tally, kinds: list[str], detector: MapChannel, seed: int) -> dict[str, Any]:
    result = {"threshold": tally.threshold_value, **tally.result(kinds, seed=seed)}
    if MAP_CHANNELS[detector.channel] == "total" and len(kinds) > 1:
        result["kinds"] = {kind: tally.result([kind], seed=seed) for kind in kinds}
    return result


def _setting(options: AnomalyEvaluationOptions, roles: Roles, kinds: list[str]) -> dict[str, Any]:
    """What was compared, and what guessing would achieve."""
    truth, rows = roles.test, roles.test_rows
    ill = truth.ill[rows]
    outlined = truth.outlined[rows] if truth.stored.has("mask") else np.zeros(len(rows), bool)
    marked = sum(
        int(truth.stored.read("mask", part).any(axis=1).sum()) for part in chunks(rows[outlined]) if outlined.any()
    )
    pixels = int(outlined.sum()) * int(np.prod(truth.stored.read("map", rows[:1]).shape[-2:]))
    return {
        "slices": len(rows),
        "ill": int(ill.sum()),
        "without_outline": int((ill & ~truth.outlined[rows]).sum()) if truth.stored.has("mask") else int(ill.sum()),
        "kinds": kinds,
        "held_out_normal": len(roles.fit_rows),
        "false_positive_rate": options.false_positive_rate,
        "lesion_overlap": options.lesion_overlap,
        "pixel_resolution": RESOLUTION,
        "ill_share_of_slices": float(ill.mean()),
        "ill_share_of_pixels": marked / pixels if pixels else None,
    }


def _warnings(inputs: Inputs, options: AnomalyEvaluationOptions, roles: Roles, result: dict[str, Any]) -> list[str]:
    told = []
    if not len(roles.fit_rows):
        told.append(
            f"no normal slice in the split '{options.fit_split}', so no threshold could be fitted: "
            "Dice and lesions found need maps of held-out normal images (or give them as --reference)"
        )
    if not 0 < result["ill"] < result["slices"]:
        told.append("the tested slices are all normal or all ill, so nothing shows how well the two are separated")
    if result["without_outline"] and result["ill_share_of_pixels"] is not None:
        told.append(f"{result['without_outline']} ill slices have no mask; they count only for the image scores")
    if inputs.vae is None or inputs.training is None:
        lacking = [flag for flag, given in (("--vae", inputs.vae), ("--training", inputs.training)) if given is None]
        told.append(
            f"without {' and '.join(lacking)} there is no baseline of {'its' if len(lacking) == 1 else 'their'} kind"
        )
    return told


def _distribution(tally: Tally) -> Distribution:
    series: dict[str, list[float]] = {}
    for one in tally.slices:
        series.setdefault(one.kind, []).append(one.score)
    return Distribution(
        "Scores of slices", "score", {kind: np.array(values) for kind, values in sorted(series.items())}
    )


def _galleries(roles: Roles, tally: Tally) -> list[Gallery]:
    """Missed lesions and false alarms, by the slice's score."""
    scores = np.array([one.score for one in tally.slices])
    ill = [one.kind != tally.normal for one in tally.slices]
    order = np.argsort(scores, kind="stable")
    missed = [place for place in order if ill[place]][:PICTURED]
    alarms = [place for place in order[::-1] if not ill[place]][:PICTURED]
    galleries = []
    titles = ("Ill slices with the lowest scores", "Normal slices with the highest scores")
    for title, chosen in zip(titles, (missed, alarms), strict=True):
        if chosen:
            rows = [_pictures(roles, int(place), tally) for place in chosen]
            note = "Image, its normal version, the map (white at twice the threshold and above) and the truth."
            galleries.append(Gallery(title, rows, note))
    return galleries


def _pictures(roles: Roles, place: int, tally: Tally) -> list[Panel]:
    truth, row, seen = roles.test, roles.test_rows[place : place + 1], tally.slices[place]
    stored = truth.stored
    intensity = stored.header.intensity
    image = read_images(stored)(row)[0]
    total = stored.read("map", row)[0, MAP_CHANNELS.index("total")].astype(np.float32)
    white = 2 * tally.threshold_value if tally.threshold_value else float(total.max())
    shown = [picture(image, f"{seen.kind}, score {seen.score:.3g}", black=-1, white=1)]
    if stored.has("normalized") and intensity is not None:
        version = intensity.normalized(stored.read("normalized", row))[0]
        shown.append(picture(version, "normal version", black=-1, white=1))
    shown.append(picture(total[None], "map", black=0, white=max(white, 1e-12)))
    if stored.has("mask"):
        shown.append(picture(stored.read("mask", row)[0].any(axis=0)[None], "truth", black=0, white=1))
    return shown


def _scores(roles: Roles, tally: Tally) -> dict[str, Score]:
    """Dice of each outlined lesion slice, for comparisons of one set with another."""
    names = slice_names(roles.test.stored)
    values = {
        names[row]: seen.dice
        for row, seen in zip(roles.test_rows, tally.slices, strict=True)
        if seen.area and tally.threshold is not None
    }
    return {"dice_per_image": Score("Dice", "higher", values)} if values else {}
