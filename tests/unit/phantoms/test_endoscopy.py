"""Frames of colonoscopies: the truth agrees with the pixels, and lines of sight with geometry."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest
from scipy import ndimage

from medgen.errors import ConfigError
from medgen.phantoms.endoscopy.colon import Fold, Wall
from medgen.phantoms.endoscopy.endoscopy import FOLDERS, LEAST_AREA, draw, write_case
from medgen.phantoms.options import EndoscopyOptions
from medgen.phantoms.primitives import Floats

SMALL = EndoscopyOptions(size=96, healthy_fraction=0.0)


def bare_wall() -> Wall:
    wall = Wall(0, [], [])
    wall.radius[:] = 1.0
    return wall


def depth_seen(wall: Wall, slope: float) -> float:
    """The depth at which lines of sight at this slope end, in all directions alike."""
    angle = np.linspace(-3.0, 9.0, 24, dtype=np.float32)[None, :]
    _, column = wall.seen(angle, np.full_like(angle, slope))
    depth: Floats = np.exp(np.interp(column, np.arange(wall.log_depth.size), wall.log_depth[0]))
    assert np.ptp(depth) < 1e-4
    return float(depth.mean())


def test_a_straight_tube_is_seen_at_one_over_the_slope() -> None:
    for slope in (0.15, 0.5, 1.0, 3.0):
        assert depth_seen(bare_wall(), slope) == pytest.approx(1.0 / slope, rel=0.02)


def test_a_ring_hides_what_is_behind_it() -> None:
    wall = bare_wall()
    wall.radius[:, np.abs(wall.depth[0] - 1.0) < 0.05] = 0.5  # of half the radius at depth 1: hides depths 1 to 2
    assert depth_seen(wall, 1.5) == pytest.approx(1 / 1.5, rel=0.02)
    assert depth_seen(wall, 0.7) == pytest.approx(0.95, rel=0.05)
    assert depth_seen(wall, 0.4) == pytest.approx(2.5, rel=0.02)


def test_a_fold_narrows_the_tube_where_it_stands() -> None:
    plain = Wall(0, [], []).radius
    wall = Wall(0, [Fold(1.5, 0.3, 0.1, 0.0, 1.0, 0.0)], [])
    rise = plain - wall.radius
    assert rise.max() == pytest.approx(0.3, abs=0.01)
    angle, depth = np.unravel_index(rise.argmax(), rise.shape)
    assert wall.depth[0, depth] == pytest.approx(1.5, rel=0.03)
    assert rise[len(rise) // 2].max() == 0.0
    assert min(angle, len(rise) - angle) < 0.3 * len(rise)


def test_same_seed_same_bytes_whatever_else_is_made(tmp_path: Path) -> None:
    for place, indices in (("a", (5,)), ("b", (1, 5))):
        for name in FOLDERS:
            (tmp_path / place / name).mkdir(parents=True)
        rows = [write_case(SMALL, index, tmp_path / place) for index in indices][-1]
        assert rows["labels.csv"][0][:2] == ("images/patient-0001_00005.png", "patient-0001")
    for folder in FOLDERS:
        name = f"{folder}/patient-0001_00005.png"
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


@pytest.mark.parametrize("kind", ["sessile", "flat", "pedunculated"])
def test_a_polyp_changes_its_mask_and_nothing_far_away(kind: str) -> None:
    """The healthy frame of the same seed is the same colon, light and noise."""
    options = msgspec.structs.replace(SMALL, polyps=(kind,))
    seen = 0
    for index in range(0, 24, 4):
        ill = draw(options, index)
        well = draw(msgspec.structs.replace(options, healthy_fraction=1.0), index)
        assert (well.label, well.findings, int(well.labels.max())) == ("normal", (), 0)
        change = np.abs(ill.image - well.image).max(axis=2)
        mask = ill.labels == 1
        if not mask.any():
            assert (ill.label, float(change.max())) == ("normal", 0.0)
            continue
        seen += 1
        assert ill.label == "polyp"
        assert {finding.kind for finding in ill.findings} == {kind}
        assert ill.caption.number == len(ill.findings)
        assert all(finding.mask.mean() > 0.5 * LEAST_AREA for finding in ill.findings)
        assert (change[mask] > 0.02).mean() > 0.6
        far = ndimage.distance_transform_edt(~mask) > 4.0 * np.sqrt(mask.sum())
        assert change[far].max(initial=0.0) < 0.02
    assert seen >= 4


def test_some_frames_show_no_polyp_and_masks_stay_inside_the_frame() -> None:
    options = EndoscopyOptions(size=48, healthy_fraction=0.5, frames=1)
    frames = [draw(options, index) for index in range(20)]
    assert {frame.label for frame in frames} == {"normal", "polyp"}
    for frame in frames:
        assert (frame.label == "polyp") == bool(frame.labels.any()) == bool(frame.caption.finding)
        black = frame.image.max(axis=2) < 0.025
        assert black[:2, :2].all()
        assert black.mean() < 0.35
        assert not frame.labels[:2, :2].any()
    assert len({finding.kind for frame in frames for finding in frame.findings}) == 3


def test_one_frame_at_any_size() -> None:
    small, large = (draw(msgspec.structs.replace(SMALL, size=size), 2) for size in (64, 256))
    merged = large.image.reshape(64, 4, 64, 4, 3).mean(axis=(1, 3))
    assert np.abs(small.image - merged).mean() < 0.01
    assert np.abs(small.labels.mean() - large.labels.mean()) < 0.003


def test_no_kind_of_polyp_is_refused() -> None:
    with pytest.raises(ConfigError, match="at least one kind"):
        EndoscopyOptions(polyps=())
