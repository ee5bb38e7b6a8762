"""The tables of anomaly maps: each detector beside the baselines and beside guessing, and each kind of lesion."""

from __future__ import annotations

from typing import Any

from medgen.metrics.section import Table, interval, number, percent

COLUMNS = ("image AUROC", "image AP", "pixel AUROC", "pixel AP", "Dice", "best Dice (optimistic)", "lesions found")
DIGITS = 3


def tables_of(result: dict[str, Any], titles: dict[str, str]) -> list[Table]:
    """All detectors, and those of the whole maps again by kind."""
    detectors = result["detectors"]
    rows = [[titles[name], *_cells(found)] for name, found in detectors.items()]
    rows.append(["guessing", *_guessing(result)])
    tables = [Table(_title(result), ("", *COLUMNS), rows, _note(result))]
    kinds = [
        [kind, str(found["kinds"][kind]["slices"]), titles[name], *_cells(found["kinds"][kind])]
        for kind in result["kinds"]
        for name, found in detectors.items()
        if "kinds" in found
    ]
    if kinds:
        tables.append(Table("each kind against the normal slices", ("", "slices", "", *COLUMNS), kinds))
    return tables


def _title(result: dict[str, Any]) -> str:
    return f"anomalies: {result['ill']} of {result['slices']} slices are ill"


def _note(result: dict[str, Any]) -> str:
    rate = f"{100 * result['false_positive_rate']:g} %"
    main = next(iter(result["detectors"].values()))
    told = f"; of the tested normal slices it marks {percent(main['false_positive_rate'])}" if main["dice"] else ""
    return (
        f"Dice and lesions found take the threshold that marks {rate} of the pixels of {result['held_out_normal']} "
        f"held-out normal slices{told}. Best Dice takes the threshold that suits the tested slices best, which nobody "
        f"knows beforehand. A lesion is found when {100 * result['lesion_overlap']:g} % of it is marked. Intervals of "
        "95 % by the bootstrap over cases; pixels are counted by score, in steps of "
        f"{100 * result['pixel_resolution']:.1g} %."
    )


def _cells(found: dict[str, Any]) -> list[str]:
    values = [
        interval(found[name], DIGITS)
        for name in (
            *("image_auroc", "image_average_precision", "pixel_auroc", "pixel_average_precision"),
            *("dice", "best_dice"),
        )
    ]
    return [*values, percent(found["lesion_recall"])]


def _guessing(result: dict[str, Any]) -> list[str]:
    """What random scores reach in the mean."""
    share, rate = result["ill_share_of_pixels"], result["false_positive_rate"]
    of_slices = ["0.5", number(result["ill_share_of_slices"], DIGITS)]
    if share is None:
        return [*of_slices, *("-" for _ in COLUMNS[2:])]
    dice = number(2 * share * rate / (share + rate), DIGITS) if result["held_out_normal"] else "-"
    return [*of_slices, "0.5", number(share, DIGITS), dice, number(2 * share / (1 + share), DIGITS), "-"]
