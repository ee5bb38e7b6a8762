"""Normal versions: what the paths say, the same in any batch, from the averaged weights, in the stored values given."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from medgen.artifacts.model_file import open_model
from medgen.artifacts.schema import Case, Intensity
from medgen.artifacts.sets import open_set
from medgen.diffusion.options import ScheduleConfig
from medgen.diffusion.samplers import SAMPLERS
from medgen.diffusion.schedules import Schedule
from medgen.errors import ConfigError, DataError, UsageError
from medgen.inference.normalize import Normalizer, VAEReconstruction, normalize
from medgen.inference.normalize_options import NormalizeOptions
from medgen.inference.slices import slice_noise
from medgen.models.trained import FrozenVAE, NormalizerNetwork

CPU = torch.device("cpu")
LINEAR = Schedule(ScheduleConfig(kind="linear", beta_start=1e-4))
"""The path of the head "diffusion" in these tests."""


@pytest.fixture(scope="module")
def vae(tiny: Path) -> FrozenVAE:
    return FrozenVAE.load(tiny / "vae.safetensors", CPU, "float32")


@pytest.fixture(scope="module")
def network(tiny: Path) -> NormalizerNetwork:
    return NormalizerNetwork.load(tiny / "normalizer.safetensors", CPU, "float32")


@pytest.fixture(scope="module")
def pixels(tiny: Path) -> NormalizerNetwork:
    return NormalizerNetwork.load(tiny / "pixel-normalizer.safetensors", CPU, "float32")


@pytest.fixture(scope="module")
def cases(tiny: Path) -> list[Case]:
    with open_set(tiny / "images.h5") as reader:
        return list(reader)


def options_of(**changes: Any) -> NormalizeOptions:
    return NormalizeOptions(**({"steps": 3, "flow_steps": 2} | changes))


def images_of(made: Iterable[Case]) -> np.ndarray:
    return np.concatenate([case["image"] for case in made])


class Known:
    """A network in image space that knows the one normal image and so answers truthfully at any noise."""

    def __init__(self, like: NormalizerNetwork, normal: torch.Tensor) -> None:
        self.facts, self.model, self.device, self.precision = like.facts, like.model, like.device, like.precision
        self.normal = normal
        self.asked: list[tuple[str, float]] = []

    def __call__(self, x: torch.Tensor, t: torch.Tensor, head: str) -> torch.Tensor:
        self.asked.append((head, float(t[0])))
        if head == "flow":
            share = (t.double() + 1).view(-1, 1, 1, 1) / 1000
            return (self.normal - (x - (1 - share) * self.normal) / share).float()
        alpha, sigma = (share.view(-1, 1, 1, 1) for share in LINEAR.alpha_sigma(t))
        return ((x - alpha * self.normal) / sigma).float()


@pytest.mark.parametrize("method", ["diffusion", "flow", "both"])
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_network_that_knows_the_normal_image_leads_to_it(
    pixels: NormalizerNetwork, method: str, sampler: str
) -> None:
    normal = 0.8 * torch.rand(1, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    known = Known(pixels, normal)
    version = Normalizer(known, None, options_of(method=method, sampler=sampler, steps=7, flow_steps=3))  # type: ignore[arg-type]
    x = torch.rand(2, 1, 32, 32, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(version(x, ["a/0", "b/0"]), normal.expand(2, -1, -1, -1), rtol=0, atol=1e-4)
    # Each takes as many steps as asked, of which heun asks the network twice but for the last.
    heads = [head for head, _ in known.asked]
    assert heads.count("diffusion") == (0 if method == "flow" else 13 if sampler == "heun" else 7)
    assert heads.count("flow") == (0 if method == "diffusion" else 5 if sampler == "heun" else 3)


@pytest.mark.parametrize("level", [0.2, 0.4, 0.7])
def test_both_heads_begin_at_the_same_signal_to_noise_ratio(pixels: NormalizerNetwork, level: float) -> None:
    known = Known(pixels, torch.zeros(1, 1, 32, 32))
    Normalizer(known, None, options_of(noise_level=level))(torch.zeros(1, 1, 32, 32), ["a/0"])  # type: ignore[arg-type]
    first = {head: max(time for asked, time in known.asked if asked == head) for head in ("diffusion", "flow")}
    alpha, sigma = LINEAR.alpha_sigma(torch.tensor(first["diffusion"], dtype=torch.float64))
    share = (first["flow"] + 1) / 1000
    assert float(sigma / alpha) == pytest.approx(share / (1 - share)) == pytest.approx(level / (1 - level))


@pytest.mark.parametrize("level", [0.001, 0.999])
def test_a_noise_level_that_one_head_never_saw_is_refused_before_any_work(
    pixels: NormalizerNetwork, level: float
) -> None:
    with pytest.raises(ConfigError, match="lies outside the model's training"):
        Normalizer(pixels, None, options_of(noise_level=level))


def test_the_noise_level_and_the_draws_are_as_asked(pixels: NormalizerNetwork) -> None:
    seen: list[torch.Tensor] = []

    class Still(Known):
        """Says that there is no velocity, so that one step of flow gives back what it began from."""

        def __call__(self, x: torch.Tensor, t: torch.Tensor, head: str) -> torch.Tensor:
            seen.append(x.clone())
            return super().__call__(x, t, head)

    x = torch.rand(1, 1, 32, 32, generator=torch.Generator().manual_seed(1))
    network = Still(pixels, torch.zeros(1, 1, 32, 32))
    options = options_of(method="flow", flow_steps=1, noise_level=0.25, draws=3, seed=4)
    Normalizer(network, None, options)(x, ["case/0"])  # type: ignore[arg-type]
    assert len(seen) == 3
    for draw, noisy in enumerate(seen):
        noise = slice_noise(4, ["case/0"], (1, 32, 32), stream=draw)
        torch.testing.assert_close(noisy, 0.75 * x + 0.25 * noise)


def test_both_is_the_mean_of_both_latents_and_is_decoded_once(
    network: NormalizerNetwork, vae: FrozenVAE, cases: list[Case]
) -> None:
    decoded: list[torch.Tensor] = []

    class Seen(FrozenVAE):
        """Keeps the latents that it decodes."""

        def decode(self, latents: torch.Tensor) -> torch.Tensor:
            decoded.append(latents.clone())
            return super().decode(latents)

    x = torch.from_numpy(Intensity().normalized(cases[0]["image"]))
    keys = [f"case-0/{index}" for index in range(len(x))]
    seen = Seen(**{field.name: getattr(vae, field.name) for field in dataclasses.fields(vae)})

    def made(**options: Any) -> torch.Tensor:
        return Normalizer(network, seen, options_of(**options))(x, keys)

    by_diffusion, by_flow, by_both = made(method="diffusion"), made(method="flow"), made(method="both", draws=1)
    assert float((by_diffusion - by_flow).abs().max()) > 1e-3
    of_diffusion, of_flow, of_both = decoded
    torch.testing.assert_close(of_both, (of_diffusion + of_flow) / 2)
    torch.testing.assert_close(by_both, vae.decode(of_both))
    decoded.clear()
    one, four = made(method="flow"), made(method="flow", draws=4)
    assert len(decoded) == 2
    assert float((one - made(method="flow", seed=1)).abs().max()) > 1e-3
    assert float((one - four).abs().max()) > 1e-3
    torch.testing.assert_close(made(method="flow"), one)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_slice_comes_out_the_same_in_any_company(tiny: Path, cases: list[Case], precision: Any) -> None:
    vae = FrozenVAE.load(tiny / "vae.safetensors", CPU, precision)
    version = Normalizer(
        NormalizerNetwork.load(tiny / "normalizer.safetensors", CPU, precision), vae, options_of(draws=2)
    )
    together = images_of(normalize(cases, version, Intensity(), 8))
    for batch_size in (1, 3):
        alone = [images_of(normalize([case], version, Intensity(), batch_size)) for case in cases]
        np.testing.assert_array_equal(together, np.concatenate(alone))


def test_the_averaged_weights_are_used_unless_told_otherwise(tiny: Path, vae: FrozenVAE, cases: list[Case]) -> None:
    path = tiny / "normalizer.safetensors"
    assert NormalizeOptions().ema
    network = NormalizerNetwork.load(path, CPU, "float32")
    for name, weight in open_model(path).weights(ema=True).items():
        torch.testing.assert_close(network.network.state_dict()[name], weight)
    last = NormalizerNetwork.load(path, CPU, "float32", ema=False)
    by_average, by_last = (
        images_of(normalize(cases, Normalizer(one, vae, options_of()), Intensity(), 8)) for one in (network, last)
    )
    assert (by_average != by_last).mean() > 0.5


def test_all_but_the_image_stays_and_values_are_stored_as_they_were(
    network: NormalizerNetwork, vae: FrozenVAE, cases: list[Case]
) -> None:
    floats = [replace(case, arrays={**case.arrays, "image": case["image"].astype(np.float32)}) for case in cases]
    for given, dtype in ((cases, np.int16), (floats, np.float32)):
        for before, after in zip(
            given, normalize(given, Normalizer(network, vae, options_of()), Intensity(), 8), strict=True
        ):
            assert before.facts() | {"synthetic": "altered"} == after.facts()
            for name in ("mask", "vector", "label"):
                np.testing.assert_array_equal(before[name], after[name])
            assert after["image"].dtype == dtype
            assert after["image"].shape == before["image"].shape
            assert -1000 <= after["image"].min() < after["image"].max() <= 400


def test_the_baseline_is_what_the_vae_leaves(vae: FrozenVAE, cases: list[Case]) -> None:
    made = images_of(normalize(cases, VAEReconstruction(vae), Intensity(), 8))
    x = torch.from_numpy(Intensity().normalized(images_of(cases)))
    expected = Intensity().stored(vae.reconstruct(x).numpy(), np.int16)
    assert np.abs(made.astype(int) - expected).max() <= 1


def test_what_does_not_fit_is_refused_by_name(
    tiny: Path, network: NormalizerNetwork, pixels: NormalizerNetwork, vae: FrozenVAE, cases: list[Case]
) -> None:
    version = Normalizer(network, vae, options_of())
    large = replace(cases[1], arrays={"image": np.zeros((1, 1, 64, 64), np.int16)})
    with pytest.raises(DataError, match="case case-1: images of 1 x 64 x 64, but the model was trained on 1 x 32 x 32"):
        list(normalize([large], version, Intensity(), 8))
    with pytest.raises(DataError, match="case case-1: images of 1 x 64 x 64"):
        list(normalize([large], Normalizer(pixels, None, options_of()), Intensity(), 8))
    hole = cases[2]["image"].astype(np.float32)
    hole[1, 0, 2, 3] = np.nan
    bad = replace(cases[2], arrays={"image": hole})
    left_out: list[tuple[str, str]] = []

    def refused(case: Case, error: DataError) -> None:
        left_out.append((case.id, str(error)))

    for one in (version, Normalizer(pixels, None, options_of())):
        kept = list(normalize([cases[0], bad, cases[3]], one, Intensity(), 8, refused))
        assert [case.id for case in kept] == ["case-0", "case-3"]
        ((name, reason),) = left_out
        assert name == "case-2"
        assert "case case-2, slice 1: the image holds NaN" in reason
        left_out.clear()
    with pytest.raises(UsageError, match="--vae"):
        Normalizer(network, None, options_of())
    with pytest.raises(UsageError, match="leave out --vae"):
        Normalizer(pixels, vae, options_of())
    other = replace(network, facts=type(network.facts)(**{**_fields(network.facts), "vae_digest": "0" * 64}))
    with pytest.raises(DataError, match="give the VAE that made its latents"):
        Normalizer(other, vae, options_of())


def _fields(facts: Any) -> dict[str, Any]:
    return {name: getattr(facts, name) for name in facts.__struct_fields__}
