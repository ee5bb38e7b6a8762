"""A plan says all there is to know before pixels are read, and stays as it is."""

from __future__ import annotations

from dataclasses import FrozenInstanceError
from pathlib import Path

import nibabel
import numpy as np
import pytest
from PIL import Image

from medgen.imaging.cases.left_out import LeftOut
from medgen.imaging.cases.options import PreprocessOptions
from medgen.imaging.cases.planning import SourceInputs, make_plan
from medgen.imaging.cases.workers import Workers
from medgen.reporting import Silent


def test_a_plan_holds_the_cases_of_one_size_with_their_slices_and_grid(tmp_path: Path) -> None:
    for number, side in enumerate((16, 16, 24)):
        pixels = np.random.default_rng(number).integers(0, 255, (side, 20), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
    left_out = LeftOut(Silent(), True)
    with Workers(1) as workers:
        plan = make_plan(SourceInputs((str(tmp_path),)), PreprocessOptions(), workers, left_out, Silent())
    assert [(case.keep, case.plane.shape) for case in plan.cases] == [((0,), (16, 20))] * 2
    (reason,) = left_out.reasons
    assert "its slices have 20 x 24 pixels" in reason
    with pytest.raises(FrozenInstanceError):
        plan.cases[0].keep = ()  # type: ignore[misc]


def test_modalities_are_known_in_any_case(tmp_path: Path) -> None:
    """A CT that was called ct kept no HU: each volume was scaled by percentiles of its own, without a word."""
    voxels = np.arange(48, dtype=np.int16).reshape(4, 4, 3) - 1000
    nibabel.save(nibabel.Nifti1Image(voxels, np.eye(4)), tmp_path / "v.nii")
    options = PreprocessOptions(modality="ct", series=("Ct",))
    with Workers(1) as workers:
        plan = make_plan(SourceInputs((str(tmp_path),)), options, workers, LeftOut(Silent(), False), Silent())
    assert plan.encoding.intensity.unit == "HU"
    assert plan.cases[0].stack.first.modality == "CT"


def test_a_case_of_which_no_slice_is_kept_is_no_case(tmp_path: Path) -> None:
    for number in range(2):
        pixels = np.random.default_rng(number).integers(0, 255, (16, 20), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
    rows = ["path,has_nodule,x,y,size,malignancy,texture", "0.png,0,0,0,0,0,0", "1.png,1,0.5,0.5,0.1,0,0", ""]
    (tmp_path / "labels.csv").write_text("\n".join(rows))
    inputs = SourceInputs((str(tmp_path),), tmp_path / "labels.csv")
    with Workers(1) as workers:
        options = PreprocessOptions(healthy_slices=0)
        plan = make_plan(inputs, options, workers, LeftOut(Silent(), False), Silent())
    assert [case.stack.name for case in plan.cases] == [str(tmp_path / "1.png")]
