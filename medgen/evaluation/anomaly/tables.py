"""The tables of anomaly maps: each detector next to the baselines and to guessing, overall and by kind of lesion."""

from __future__ import annotations

from typing import Any

from medgen.evaluation.section import Table, interval, number, percent

RANKING = {
    "image_auroc": "image AUROC",
    "image_average_precision": "image AP",
    "pixel_auroc": "pixel AUROC",
    "pixel_average_precision": "pixel AP",
}
DIGITS = 3


def tables_of(result: dict[str, Any], titles: dict[str, str]) -> list[Table]:
    """How well all detectors rank, what they mark at their thresholds, and both by kind."""
    tables = [_ranking(result, titles)]
    if any(found["best_dice"] for found in result["detectors"].values()):
        tables.append(_marking(result, titles))
    if any("kinds" in found for found in result["detectors"].values()):
        tables.append(_by_kind(result, titles))
    return tables


def _ranking(result: dict[str, Any], titles: dict[str, str]) -> Table:
    rows = [
        [titles[name], *(interval(found[column], DIGITS) for column in RANKING)]
        for name, found in result["detectors"].items()
    ]
    share = result["ill_share_of_pixels"]
    pixels = ["-", "-"] if share is None else ["0.5", number(share, DIGITS)]
    rows.append(["guessing", "0.5", number(result["ill_share_of_slices"], DIGITS), *pixels])
    note = (
        "AUROC and average precision (AP), with intervals of 95 % by the bootstrap over cases. Pixels are counted by "
        f"score in steps of {100 * result['pixel_resolution']:.1g} %."
    )
    return Table(
        f"anomalies: {result['ill']} of {result['slices']} slices are ill", ("", *RANKING.values()), rows, note
    )


def _marking(result: dict[str, Any], titles: dict[str, str]) -> Table:
    rows = [
        [
            titles[name],
            *(
                percent_of(found["false_positive_rate"]),
                interval(found["dice"], DIGITS),
                percent(found["lesion_recall"]),
            ),
            interval(found["best_dice"], DIGITS),
        ]
        for name, found in result["detectors"].items()
    ]
    rate, share = result["false_positive_rate"], result["ill_share_of_pixels"]
    dice = number(2 * share * rate / (share + rate), DIGITS) if result["held_out_normal"] else "-"
    rows.append(["guessing", f"{100 * rate:g} %", dice, "-", number(2 * share / (1 + share), DIGITS)])
    note = (
        f"The threshold marks {100 * rate:g} % of the pixels of {result['held_out_normal']} held-out normal slices. "
        "Best Dice uses the best threshold for the tested slices, which is not known in advance. A lesion is found "
        f"when {100 * result['lesion_overlap']:g} % of it is marked."
    )
    columns = ("", "of normal pixels", "Dice", "lesions found", "best Dice (optimistic)")
    return Table(f"marked at {100 * rate:g} % false positives, fitted on held-out normal slices", columns, rows, note)


def _by_kind(result: dict[str, Any], titles: dict[str, str]) -> Table:
    columns = {"image_auroc": "image AUROC", "pixel_average_precision": "pixel AP", "dice": "Dice"}
    rows = [
        [
            *(f"{kind} ({found['kinds'][kind]['slices']})", titles[name]),
            *(interval(found["kinds"][kind][column], DIGITS) for column in columns),
            percent(found["kinds"][kind]["lesion_recall"]),
        ]
        for kind in result["kinds"]
        for name, found in result["detectors"].items()
        if "kinds" in found
    ]
    note = "Pixel AP and Dice fall with the area of a lesion: compare detectors, not kinds."
    return Table(
        "each kind (slices) against the normal slices", ("", "by", *columns.values(), "lesions found"), rows, note
    )


def percent_of(rate: dict[str, float] | None) -> str:
    """A small share with its interval, as percentages."""
    if rate is None:
        return "-"
    value, low, high = (f"{100 * rate[name]:.2g}" for name in ("value", "low", "high"))
    return f"{value} % ({low} to {high})"
