"""Training pairs of thin and thick slices: physical averages at physical positions."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from medgen.artifacts.provenance import derive
from medgen.artifacts.schema import Case, Intensity, SetHeader
from medgen.artifacts.sets import create_set, open_set
from medgen.diffusion.slice_profile import profile_matrix
from medgen.diffusion.thin_grid import spline_matrix
from medgen.errors import ConfigError, DataError
from medgen.training.data.options import VolumeOptions
from medgen.training.data.volumes import Volumes

SIDE = 8
Write = Callable[..., Any]


@pytest.fixture
def volumes_of(tmp_path: Path) -> Callable[..., Any]:
    """Open a set of the given cases as Volumes: `with volumes_of(cases, depth=8, ...) as volumes`."""

    @contextmanager
    def opened(cases: list[Case], split: str = "train", factor: int = 1, **options: Any) -> Iterator[Volumes]:
        path = tmp_path / f"set-{len(list(tmp_path.iterdir()))}.h5"
        header = SetHeader("image", derive("make", {}), Intensity(window=(-100.0, 100.0)))
        with create_set(path, header) as writer:
            for case in cases:
                writer.write(case)
        with open_set(path, random_access=True) as stored:
            yield Volumes(stored, split, 0, VolumeOptions(**({"depth": 8} | options)), factor)

    return opened


def slices(profile: Callable[[np.ndarray], np.ndarray], count: int, spacing: float) -> np.ndarray:
    """(count, 1, SIDE, SIDE) whose values depend on z alone; z in mm from the near edge of the first slice."""
    z = (np.arange(count) + 0.5) * spacing
    return np.broadcast_to(profile(z)[:, None, None, None], (count, 1, SIDE, SIDE)).astype(np.float32).copy()


def thin_case(image: np.ndarray, spacing: float = 1.0, **changes: Any) -> Case:
    values: Mapping[str, Any] = {"id": "thin", "spacing": (spacing, 1.0, 1.0)} | changes
    return Case(arrays={"image": image}, **values)


def test_a_ramp_is_guessed_exactly_away_from_the_ends(volumes_of: Write) -> None:
    image = slices(lambda z: 0.4 * (z - 120), 240, 1.0)
    with volumes_of([thin_case(image)], thick_spacing=(3.0, 7.7), thickness=(0.5, 1.5), gaussian=0.5) as volumes:
        seen = 0
        for position in range(40):
            sample = volumes.at([position])
            thin, guess = (sample[name][0, :, 0, 0, 0] * 100 / 0.4 + 120 for name in ("thin", "guess"))
            inside = (thin - 120).abs() < 80  # beyond the ends the last thick slice is held
            torch.testing.assert_close(guess[inside], thin[inside], atol=0.3, rtol=0)  # slices are steps
            torch.testing.assert_close(thin.diff(), torch.ones(7), atol=1e-4, rtol=0)
            seen += int(inside.sum())
    assert seen > 150


def test_the_guess_is_the_spline_of_averages_taken_before_the_window(volumes_of: Write) -> None:
    image = slices(lambda z: np.where(np.floor(z) % 2 == 0, -900.0, 1000.0), 64, 1.0)  # mean 50 HU
    options = {"thick_spacing": (6.0, 6.0), "thickness": (1.0, 1.0), "gaussian": 0.0}
    with volumes_of([thin_case(image)], **options) as volumes:
        for position in range(10):
            sample = volumes.at([position])
            assert set(sample["thin"].unique().tolist()) == {-1.0, 1.0}
            known = sample["places"][0, 1] > 0.99
            averages = sample["guess"][0, known, 0, 0, 0] * 100
            # Six slices average to 50 HU at any phase; a window before it would have given 0.
            assert float((averages - 50).abs().max()) < 40
            assert float((averages - 50).abs().mean()) < 25


def test_pairs_of_random_anatomy_match_the_profile_written_out(volumes_of: Write) -> None:
    image = np.random.default_rng(0).normal(0, 30, (40, 1, SIDE, SIDE)).astype(np.float32)
    options = {"thick_spacing": (4.0, 4.0), "thickness": (1.0, 1.0), "gaussian": 0.0, "depth": 8}
    positions = np.arange(40.0) + 0.5
    with volumes_of([thin_case(image)], **options) as volumes:
        for position in range(8):
            sample = volumes.at([position])
            start = next(
                at for at in range(33)
                if np.allclose(sample["thin"][0, :, 0].numpy(), np.clip(image[at : at + 8, 0] / 100, -1, 1), atol=1e-5)
            )  # fmt: skip
            errors = []
            for phase in np.linspace(0, 4, 400, endpoint=False):
                centres = phase + 4 * np.arange(11)
                centres = centres[(centres >= 2) & (centres <= 38)]
                spline = spline_matrix(positions.tolist(), centres.tolist(), 4.0, 1.0)[start : start + 8]
                matrix = spline @ profile_matrix(centres.tolist(), positions.tolist(), 4.0)
                guess = np.einsum("nk,kchw->nchw", matrix.numpy(), image) / 100
                errors.append(np.abs(np.clip(guess, -1, 1) - sample["guess"][0].numpy()).max())
            assert min(errors) < 0.02


def test_a_sample_depends_on_the_seed_and_its_place_alone(volumes_of: Write) -> None:
    cases = [
        thin_case(np.random.default_rng(n).normal(0, 30, (24 + n, 1, SIDE, SIDE)).astype(np.float32), id=f"c{n}")
        for n in range(5)
    ]
    with volumes_of(cases, crop=4) as volumes:
        read = []
        honest = volumes._stored.read
        volumes._stored.read = lambda *arguments: (read.append(honest(*arguments)), read[-1])[1]
        together = volumes.at(range(7, 13))
        assert {values.shape[1:] for values in read} == {(1, 4, 4)}  # no more than the crop
        for row, place in enumerate(range(7, 13)):
            for name, values in volumes.at([place]).items():
                torch.testing.assert_close(values[0], together[name][row], rtol=0, atol=0)
        assert together["thin"].shape == (6, 8, 1, 4, 4)
        assert len({float(values.sum()) for values in volumes.at(range(20))["guess"]}) == 20


def test_a_thick_partner_in_the_same_frame_is_taken_at_its_place(volumes_of: Write) -> None:
    rng = np.random.default_rng(0)
    image = rng.normal(0, 30, (40, 1, SIDE, SIDE)).astype(np.float32)
    shape = (8, 1, SIDE, SIDE)
    marked = np.broadcast_to(np.linspace(-80, 80, 8)[:, None, None, None], shape).astype(np.float32).copy()
    # Its first centre is 2 mm after the first thin one, seen along an oblique normal.
    direction = (0.0, 0.6, 0.8, 0.0, 0.8, -0.6, 1.0, 0.0, 0.0)
    origin = (3.0, 2.0 * 0.6, 2.0 * 0.8)
    thin = thin_case(image, frame="f", direction=direction, origin=(3.0, 0.0, 0.0))
    thick = Case("thick", {"image": marked}, "train", (5.0, 1.0, 1.0), origin, direction, thickness=5.0, frame="f")
    elsewhere = Case("other", {"image": marked + 5}, "train", (5.0, 1.0, 1.0), origin, direction, frame="g")
    shifted = Case("moved", {"image": marked + 9}, "train", (5.0, 1.0, 1.0), (4.0, 0.0, 0.0), direction, frame="f")
    with volumes_of([thin, thick, elsewhere, shifted], paired=1.0) as volumes:
        assert volumes.paired == 1
        for position in range(6):
            sample = volumes.at([position])
            start = next(
                at for at in range(33)
                if np.allclose(sample["thin"][0, :, 0].numpy(), np.clip(image[at : at + 8, 0] / 100, -1, 1), atol=1e-5)
            )  # fmt: skip
            z = np.arange(start, start + 8.0).clip(2.0, 37.0)
            expected = torch.from_numpy(-0.8 + 1.6 / 35 * (z - 2.0)).float()
            torch.testing.assert_close(sample["guess"][0, :, 0, 0, 0], expected, atol=1e-3, rtol=0)
    with volumes_of([thin, thick], paired=0.0, thick_spacing=(3.0, 3.0)) as volumes:
        assert float(volumes.at([0])["scales"][0, 1]) == pytest.approx(3 / 7)
    marked[6, 0, 1, 1] = np.nan
    with volumes_of([thin, thick], paired=1.0) as volumes:
        assert volumes.faulty([0]) == "slice 6 of case thick holds image values that are not finite"


def test_coarser_targets_are_averages_of_the_cases_slices(volumes_of: Write) -> None:
    image = slices(lambda z: z - 40, 80, 1.0)
    with volumes_of([thin_case(image)], coarser=(1.3, 2.0)) as volumes:
        for position in range(10):
            sample = volumes.at([position])
            steps = sample["thin"][0, :, 0, 0, 0].diff() * 100
            spacing = float(4 * sample["scales"][0, 0] / (1 - sample["scales"][0, 0]))
            assert 1.3 <= spacing <= 2.0
            torch.testing.assert_close(steps, torch.full((7,), spacing), atol=0.2, rtol=0)  # slices are steps


def test_training_never_sees_a_validation_patient(volumes_of: Write) -> None:
    def constant(value: float, split: str) -> Case:
        return thin_case(np.full((24, 1, SIDE, SIDE), value, np.float32), id=f"{split}{value}", split=split)

    cases = [constant(10, "train"), constant(20, "train"), constant(-50, "val"), constant(-60, "val")]
    with volumes_of(cases) as volumes:
        assert set(np.unique(volumes.at(range(30))["thin"].numpy().round(3))) == {np.float32(0.1), np.float32(0.2)}
    with volumes_of(cases, split="val") as volumes:
        assert set(np.unique(volumes.at(range(30))["guess"].numpy().round(3))) == {np.float32(-0.5), np.float32(-0.6)}


def test_what_cannot_be_a_target_is_named(volumes_of: Write) -> None:
    blank = np.zeros((24, 1, SIDE, SIDE), np.float32)
    good = thin_case(blank, id="good")
    bad = [
        thin_case(blank, id="thick", spacing=5.0),
        thin_case(blank[:6], id="short"),
        thin_case(blank, id="tilted", flaws="gantry tilt"),
    ]
    with volumes_of([good, *bad]) as volumes:
        assert len(volumes) == 1
    with pytest.raises(DataError, match=r"no case has 8 even slices at most 3 mm apart"), volumes_of(bad):
        pass
    with (
        pytest.raises(ConfigError, match=r"volumes.crop = 6 does not fit: a multiple of 4"),
        volumes_of([good], factor=4, crop=6),
    ):
        pass
    with pytest.raises(ConfigError, match="is not a range"):
        VolumeOptions(thick_spacing=(5.0, 3.0))
    broken = blank.copy()
    broken[5, 0, 2, 2] = np.nan
    with volumes_of([thin_case(broken, id="broken")]) as volumes:
        assert volumes.faulty([0]) == "slice 5 of case broken holds image values that are not finite"
