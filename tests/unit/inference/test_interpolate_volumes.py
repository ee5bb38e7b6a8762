"""Thick to thin: geometry, consistency with what was measured, windows that join, and what is refused."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import pytest
import torch

from medgen.artifacts.schema import Case, Intensity
from medgen.diffusion.samplers import SAMPLERS
from medgen.diffusion.slice_profile import profile_matrix, resample
from medgen.diffusion.thin_grid import spline_matrix
from medgen.errors import DataError, UsageError
from medgen.inference.interpolate import GuessedSlices, Interpolation
from medgen.inference.interpolate_options import InterpolateOptions
from medgen.inference.thin_volume import combine, volume_of
from medgen.models.facts import VAEFacts
from medgen.models.precision import choose
from medgen.models.trained import FrozenVAE, Interpolator
from medgen.nets.options import VAEConfig
from medgen.nets.vae import Posterior

CPU = torch.device("cpu")
HU = Intensity()  # [-1000, 400], as the VAE of these tests
SIDE = 32


@pytest.fixture(scope="module")
def models(tiny: Path) -> Path:
    """A folder with the interpolators `random` and `zero`, which answers zero to everything."""
    return tiny / "interpolators"


def interpolation(tiny: Path, model: Path, intensity: Intensity = HU, **options: Any) -> Interpolation:
    settings = InterpolateOptions(**({"spacing": 1.0, "steps": 2, "precision": "float32"} | options))
    vae = FrozenVAE.load(tiny / "vae.safetensors", CPU, "float32")
    return Interpolation(Interpolator.load(model, CPU, "float32"), vae, settings, intensity)


def thick_case(count: int = 6, spacing: float = 4.0, seed: int = 0, **changes: Any) -> Case:
    """Smooth random images with values inside the window and far beyond it, both ways."""
    rng = np.random.default_rng(seed)
    coarse = torch.from_numpy(rng.normal(-300, 700, (1, 1, count, 5, 5))).float()
    image = torch.nn.functional.interpolate(coarse, (count, SIDE, SIDE), mode="trilinear")[0, 0, :, None]
    values = {"spacing": (spacing, 0.7, 0.8), "thickness": spacing} | changes
    return Case("thick", {"image": image.round().numpy().astype(np.int16)}, **values)


def measured_again(thin: Case, thick: Case, thickness: float, shape: str = "box") -> np.ndarray:
    matrix = profile_matrix(
        torch.from_numpy(thick.positions), torch.from_numpy(thin.positions), thickness, shape, thin.spacing[0]
    )  # type: ignore[arg-type]
    return resample(torch.from_numpy(thin["image"].astype(np.float64)), matrix, 0).numpy()


@pytest.mark.parametrize(
    ("thickness", "spacing", "profile"),
    [(4.0, 1.0, "box"), (4.0, 1.3, "box"), (2.0, 1.0, "box"), (4.0, 0.9, "gaussian"), (6.0, 1.0, "box")],
)
def test_averaging_the_thin_slices_gives_the_thick_ones_back(
    tiny: Path, models: Path, thickness: float, spacing: float, profile: str
) -> None:
    """In HU, inside the window and beyond it, to the rounding of integers."""
    thick = thick_case(thickness=thickness)
    thin = interpolation(tiny, models / "random", spacing=spacing, profile=profile).case(thick)
    residual = np.abs(measured_again(thin, thick, thickness, profile) - thick["image"])
    assert thin["image"].dtype == np.int16
    assert residual.max() < 1.0
    assert residual.mean() < 0.3
    assert thick["image"].min() < -1500
    assert thick["image"].max() > 800
    free = interpolation(tiny, models / "random", spacing=spacing, profile=profile, consistency="none").case(thick)
    assert np.abs(measured_again(free, thick, thickness, profile) - thick["image"]).mean() > 5


def test_a_network_that_answers_zero_is_the_consistent_spline(tiny: Path, models: Path) -> None:
    thick = thick_case()
    thin = interpolation(tiny, models / "zero", consistency="none").case(thick)
    matrix = spline_matrix(torch.from_numpy(thin.positions), torch.from_numpy(thick.positions), 4.0, 1.0)
    expected = resample(torch.from_numpy(thick["image"].astype(np.float64)), matrix, 0)
    assert np.abs(thin["image"] - expected.numpy()).max() <= 0.51


def test_the_thin_volume_lies_where_the_thick_one_does(tiny: Path, models: Path) -> None:
    direction = (0.0, 0.6, 0.8, 0.0, 0.8, -0.6, 1.0, 0.0, 0.0)
    thick = thick_case(5, 5.0, origin=(10.0, -20.0, 30.0), direction=direction, frame="f", modality=("CT",) * 5)
    thin = interpolation(tiny, models / "zero").case(thick)
    assert len(thin) == 25
    assert thin.spacing == (1.0, 0.7, 0.8)
    assert thin.thickness == 1.0
    assert (thin.id, thin.frame, thin.direction, thin.modality) == ("thick", "f", direction, ("CT",) * 25)
    np.testing.assert_allclose(thin.origin, np.array([10.0, -20.0, 30.0]) - 2.0 * np.array(direction[:3]))
    np.testing.assert_allclose(thin.positions[2::5], thick.positions)


def test_windows_join_without_a_seam(tiny: Path, models: Path) -> None:
    """Noise belongs to slices, so that neighbouring windows sample the same thing where they overlap."""
    thick = thick_case(12, 4.0)
    options = {"consistency": "none", "overlap": 0.5, "steps": 4}
    joined = interpolation(tiny, models / "random", depth=12, **options).case(thick)["image"].astype(float)
    whole = interpolation(tiny, models / "random", depth=48, **options).case(thick)["image"].astype(float)
    plain_cubic = interpolation(tiny, models / "zero", consistency="none").case(thick)["image"].astype(float)
    said = np.abs(whole - plain_cubic).mean()  # how much the network says at all
    assert said > 20
    assert np.abs(joined - whole).mean() < said  # the network of this test looks at a window as a whole
    steps = np.abs(np.diff(joined, axis=0)).mean(axis=(1, 2, 3))
    expected = np.abs(np.diff(whole, axis=0)).mean(axis=(1, 2, 3))
    assert (steps / expected).max() < 1.5


def test_batches_do_not_change_the_result_and_a_case_has_noise_of_its_own(tiny: Path, models: Path) -> None:
    thick = thick_case(12, 4.0)
    one = interpolation(tiny, models / "random", batch_size=1).case(thick)["image"].astype(int)
    many = interpolation(tiny, models / "random", batch_size=8).case(thick)["image"].astype(int)
    assert np.abs(one - many).max() <= 1
    other = interpolation(tiny, models / "random").case(replace(thick, id="another"))["image"].astype(int)
    assert np.abs(one - other).max() > 5
    seeded = interpolation(tiny, models / "random", seed=1).case(thick)["image"].astype(int)
    assert np.abs(one - seeded).max() > 5


def test_several_samples_give_their_mean_and_spread(tiny: Path, models: Path) -> None:
    thick = thick_case()
    thin = interpolation(tiny, models / "random", samples=3).case(thick)
    assert thin["spread"].dtype == np.float16
    assert thin["spread"].shape == thin["image"].shape
    assert float(thin["spread"].mean()) > 1
    assert np.abs(measured_again(thin, thick, 4.0) - thick["image"]).max() < 1.0
    first = interpolation(tiny, models / "random").case(thick)
    assert "spread" not in first.arrays
    certain = interpolation(tiny, models / "zero", samples=2).case(thick)
    assert float(certain["spread"].max()) == 0
    for factor in (1e4, 1e-9):  # beyond what float16 holds
        unit = Intensity(factor, window=(-1000.0 * factor, 400.0 * factor))
        other = interpolation(tiny, models / "random", unit, samples=3).case(thick)
        np.testing.assert_allclose(other["spread"] / factor, thin["spread"].astype(np.float32), rtol=2e-3, atol=0.1)


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("consistency", ["end", "steps"])
def test_every_sampler_ends_in_what_was_measured(tiny: Path, models: Path, sampler: str, consistency: str) -> None:
    thick = thick_case(5)
    thin = interpolation(tiny, models / "random", sampler=sampler, consistency=consistency, steps=3).case(thick)
    assert np.abs(measured_again(thin, thick, 4.0) - thick["image"]).max() < 1.0


@pytest.mark.parametrize("consistency", ["end", "steps"])
def test_the_guess_is_encoded_and_decoded_once(tiny: Path, models: Path, consistency: str) -> None:
    """However many samples, steps and windows ask for it: what else is decoded is what these say."""
    at = interpolation(tiny, models / "random", samples=3, steps=2, depth=12, consistency=consistency, overlap=0.5)
    decoded: list[torch.Tensor] = []

    class Seen(FrozenVAE):
        """Keeps the latents that it decodes."""

        def decode(self, latents: torch.Tensor) -> torch.Tensor:
            decoded.extend(latents)
            return super().decode(latents)

    seen = replace(at, vae=Seen(**{field.name: getattr(at.vae, field.name) for field in fields(at.vae)}))
    thick = thick_case(8, 4.0)
    volume = volume_of(thick, HU, 1.0, None, "box")
    guess = at.vae.facts.latent_space.unscaled(at._encode(volume.guess(0, 32)))
    made = seen.case(thick)

    def found_in(latents: torch.Tensor) -> list[int]:
        """How many of these are each slice of the guess, some of which are alike."""
        return ((latents[:, None] - guess).abs().amax(dim=(2, 3, 4)) < 1e-4).sum(dim=0).tolist()

    assert found_in(torch.stack(decoded)) == found_in(guess)
    if consistency == "end":
        assert len(decoded) == (3 + 1) * 32
    assert np.abs(made["image"].astype(int) - at.case(thick)["image"]).max() <= 1


class Rearranged(FrozenVAE):
    """A VAE that loses nothing: it lays 4 x 4 pixels into 16 channels."""

    def __init__(self) -> None:
        network = SimpleNamespace(config=SimpleNamespace(factor=4, in_channels=1))
        facts = VAEFacts(HU, latent_scale=0.5, latent_shift=0.25)
        super().__init__(
            network,
            facts,
            SimpleNamespace(digest="rearranged", path="rearranged"),
            CPU,
            choose("float32", VAEConfig(), CPU),
        )  # type: ignore[arg-type]

    def encode(self, images: torch.Tensor) -> Posterior:
        latents = (torch.nn.functional.pixel_unshuffle(images, 4)) / 0.5 + 0.25
        return Posterior(latents, torch.zeros_like(latents))

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.pixel_shuffle((latents - 0.25) * 0.5, 4)


def test_correcting_each_step_pulls_the_sample_towards_what_was_measured(models: Path) -> None:
    """Seen before the last correction, on the windows' own latents, inside the model's window."""
    thick = thick_case(6)
    thick = replace(thick, arrays={"image": np.clip(thick["image"], -700, 100)})

    def residual(consistency: Any) -> float:
        options = InterpolateOptions(spacing=1.0, steps=4, consistency=consistency, depth=24)
        at = Interpolation(Interpolator.load(models / "rearranged", CPU, "float32"), Rearranged(), options, HU)
        volume = volume_of(thick, HU, 1.0, None, "box")
        image = torch.cat([slab[0] for slab in at._images(volume)])
        return float((resample(image, volume.measuring, 0) - volume.measured(0, 6)).abs().mean())

    assert residual("steps") < 0.3 * residual("end")


def test_values_beyond_the_window_are_interpolated_and_values_inside_are_the_models() -> None:
    guess = torch.tensor([-3.0, -3.0, 0.2, 4.0, -3.0])
    decoded = torch.tensor([-1.3, 0.5, -0.4, 1.0, -0.9])
    result = combine(decoded, guess)
    torch.testing.assert_close(result[:4], torch.tensor([-3.0, 0.5, -0.4, 4.0]))
    assert -3.0 < float(result[4]) < -0.9  # near the end: between the two
    steps = combine(torch.linspace(-1.2, 1.2, 500), torch.full((500,), -3.0)).diff()
    assert (steps >= -1e-6).all()
    assert float(steps.max()) < 0.1


def test_slabs_are_made_as_late_as_the_correction_needs_them() -> None:
    """What is kept of the decoded volume is bounded by the reach of the profile, not by the number of slices."""
    volume = volume_of(thick_case(100, 4.0), HU, 1.0, None, "box")
    made = done = ahead = 0

    def estimate() -> Iterator[torch.Tensor]:
        nonlocal made
        for count in [10] * 40:
            made += count
            yield torch.zeros(1, count, 1, SIDE, SIDE)

    for slab in volume.consistent(estimate()):
        done += slab.shape[1]
        ahead = max(ahead, made - done)
    assert done == 400
    assert ahead <= 64


def test_a_slice_is_made_of_the_thick_ones_about_it_alone() -> None:
    """Far ones round away in the spline, so that they are not even read."""
    volume = volume_of(thick_case(100, 4.0), HU, 1.0, None, "box")
    exact = spline_matrix(volume.thin, volume.thick, 4.0, 1.0)
    assert (volume.spline != 0).sum(dim=1).max() <= 31
    assert (exact != 0).sum(dim=1).min() == 100
    assert (volume.spline - exact).abs().sum(dim=1).max() < 1e-7


def test_windows_are_sampled_as_late_as_slices_are_asked_for(tiny: Path, models: Path) -> None:
    """Neither guesses, nor windows, nor samples pile up: thick slices are read as their thin ones are written."""
    at = interpolation(tiny, models / "random", batch_size=2, samples=2, steps=1)
    thick = thick_case(40, 4.0)
    read = Reading(thick["image"])
    images = at._images(volume_of(replace(thick, arrays={"image": read}), HU, 1.0, None, "box"))
    assert next(images).shape == (2, 16, 1, SIDE, SIDE)
    assert read.last < 28  # two windows of 12, a slab of 16, and the reach of the spline
    assert sum(slab.shape[1] for slab in images) == 144
    assert read.last == 40
    assert read.longest < 36


class Reading:
    """A stack that keeps the last slice that was read, and how many were read at once."""

    def __init__(self, array: np.ndarray) -> None:
        self.array, self.shape, self.dtype, self.ndim = array, array.shape, array.dtype, array.ndim
        self.last = self.longest = 0

    def __len__(self) -> int:
        return len(self.array)

    def __getitem__(self, rows: slice) -> np.ndarray:
        self.last, self.longest = max(self.last, rows.stop), max(self.longest, rows.stop - rows.start)
        return self.array[rows]


@pytest.mark.parametrize(
    ("changes", "options", "sentence"),
    [
        ({"count": 1}, {}, "case thick: has one slice; interpolation needs two or more"),
        ({"flaws": "uneven gaps"}, {}, "case thick: uneven gaps: its slices cannot be interpolated"),
        ({"flaws": "gantry tilt"}, {}, "case thick: gantry tilt: its slices cannot be interpolated"),
        ({}, {"spacing": 4.0}, "case thick: its slices are 4 mm apart, and 4 mm would not refine them"),
        ({}, {"spacing": 6.0}, "give a smaller --spacing"),
        ({"spacing": 0.0}, {}, "case thick: does not state its slice distance"),
        ({"spacing": float("nan")}, {}, "case thick: does not state its slice distance"),
    ],
)
def test_what_cannot_be_interpolated_is_said_in_one_sentence(
    tiny: Path, models: Path, changes: dict[str, Any], options: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(DataError, match=sentence):
        interpolation(tiny, models / "zero", **options).case(thick_case(**changes))


def test_images_that_do_not_fit_the_model_are_refused(tiny: Path, models: Path) -> None:
    ready = interpolation(tiny, models / "zero")
    thick = thick_case()
    odd = replace(thick, arrays={"image": thick["image"][..., :30]})
    with pytest.raises(DataError, match="32 x 30 pixels do not fit the model: sides must be multiples of 8"):
        ready.case(odd)
    holed = thick["image"].astype(np.float32)
    holed[2, 0, 3, 3] = np.nan
    with pytest.raises(DataError, match="case thick: the image holds NaN or infinity"):
        ready.case(replace(thick, arrays={"image": holed}))
    with pytest.raises(UsageError, match="--spacing"):
        interpolation(tiny, models / "zero", spacing=None).case(thick)


class Elsewhere:
    """A tensor on another device than the guess, of which only what is fetched can be joined with it."""

    def __init__(self, values: torch.Tensor) -> None:
        self.values = values

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, rows: slice) -> Elsewhere:
        return Elsewhere(self.values[rows])

    def cpu(self) -> torch.Tensor:
        return self.values


def test_each_step_is_corrected_wherever_the_model_runs(tiny: Path, models: Path) -> None:
    ours = interpolation(tiny, models / "random", consistency="steps")
    slices = torch.zeros(4, 1, SIDE, SIDE)
    latents = ours._encode(slices)
    seen: list[torch.Tensor] = []
    volume: Any = SimpleNamespace(corrected=lambda image, start: seen.append(image) or image)
    guess: Any = SimpleNamespace(
        read=lambda *ends: GuessedSlices(*(x[slice(*ends)] for x in (slices, latents, slices)))
    )
    residual: Any = Elsewhere(torch.ones_like(latents))
    assert ours._corrected(volume, guess, 0, residual) is residual
    assert seen[0].shape == slices.shape


def test_what_the_vae_makes_of_a_sample_must_be_finite(tiny: Path, models: Path) -> None:
    """As stored values, NaN would be numbers like any others."""
    broken = interpolation(tiny, models / "random")
    broken.vae.network.decoder.output.bias.data.fill_(float("inf"))
    with pytest.raises(DataError, match="case thick: a thin slice is not finite"):
        broken.case(thick_case())


def test_the_vae_must_be_the_one_it_was_trained_with(tiny: Path, models: Path) -> None:
    ready = interpolation(tiny, models / "zero")
    foreign = replace(ready.denoiser, facts=msgspec.structs.replace(ready.denoiser.facts, vae_digest="f" * 64))
    with pytest.raises(DataError, match=r"latents of the VAE ffffffffffff, but .* give the VAE that made its latents"):
        Interpolation(foreign, ready.vae, ready.options, HU)
