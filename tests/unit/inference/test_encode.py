from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from medgen.artifacts.model_file import open_model, save_model
from medgen.artifacts.schema import Case, Intensity, SetHeader
from medgen.artifacts.sets import open_set
from medgen.errors import DataError
from medgen.inference.encode import SetEncoder, check_window, latent_header
from medgen.inference.encode_options import EncodeOptions
from medgen.models.trained import FrozenVAE

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def vae(tiny: Path) -> FrozenVAE:
    return FrozenVAE.load(tiny / "vae.safetensors", CPU, "float32")


@pytest.fixture(scope="module")
def cases(tiny: Path) -> list[Case]:
    with open_set(tiny / "images.h5") as reader:
        return list(reader)


def encode(vae: FrozenVAE, cases: list[Case], **options: object) -> list[Case]:
    return list(SetEncoder(vae, Intensity(), EncodeOptions(**options)).encode(cases))


def test_latents_are_the_means_of_the_network(vae: FrozenVAE, cases: list[Case]) -> None:
    images = torch.from_numpy(np.concatenate([Intensity().normalized(case["image"]) for case in cases]))
    with torch.no_grad():
        expected = vae.network.encode(images).mean
    latents = np.concatenate([case["latent"] for case in encode(vae, cases)])
    np.testing.assert_allclose(latents, expected.numpy(), atol=1e-4)


def test_everything_but_the_image_is_carried_over(vae: FrozenVAE, cases: list[Case]) -> None:
    for before, after in zip(cases, encode(vae, cases), strict=True):
        assert "image" not in after.arrays
        for name in ("mask", "vector", "label"):
            np.testing.assert_array_equal(before[name], after[name])
        assert before.facts() == after.facts()


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_slice_encodes_to_the_same_bits_in_any_company(tiny: Path, cases: list[Case], precision: str) -> None:
    vae = FrozenVAE.load(tiny / "vae.safetensors", CPU, precision)  # type: ignore[arg-type]
    together = np.concatenate([case["latent"] for case in encode(vae, cases, batch_size=8, sample=True)])
    for batch_size in (1, 3):
        alone = np.concatenate(
            [case["latent"] for one in cases for case in encode(vae, [one], batch_size=batch_size, sample=True)]
        )
        np.testing.assert_array_equal(together, alone)


def test_a_draw_depends_on_the_seed_and_spreads_as_the_posterior_says(vae: FrozenVAE, cases: list[Case]) -> None:
    mean = encode(vae, cases)[0]["latent"]
    images = torch.from_numpy(Intensity().normalized(cases[0]["image"]))
    std = torch.exp(0.5 * vae.encode(images).logvar).numpy()
    draws = np.stack([encode(vae, cases[:1], sample=True, seed=seed)[0]["latent"] for seed in range(40)])
    assert len(np.unique(draws[:, 0, 0, 0, 0])) == 40
    z = (draws - mean) / std
    assert abs(z.mean()) < 0.05
    assert abs(z.std() - 1) < 0.05


def test_nan_is_refused_with_case_and_slice(vae: FrozenVAE, cases: list[Case]) -> None:
    image = cases[2]["image"].astype(np.float32)
    image[1, 0, 3, 4] = np.nan
    bad = dataclasses.replace(cases[2], arrays={"image": image})
    with pytest.raises(DataError, match=r"case case-2, slice 1: .*NaN"):
        encode(vae, [bad])


def test_a_diverged_vae_is_refused_with_case_and_slice(tiny: Path, cases: list[Case]) -> None:
    broken = FrozenVAE.load(tiny / "vae.safetensors", CPU, "float32")
    broken.network.encoder.output.bias.data.fill_(float("inf"))
    with pytest.raises(DataError, match="case case-0, slice 0: the latent is not finite"):
        encode(broken, cases)


def test_refused_cases_are_named_and_the_rest_goes_on(vae: FrozenVAE, cases: list[Case]) -> None:
    odd = dataclasses.replace(cases[1], arrays={"image": np.zeros((1, 1, 30, 32), np.int16)})
    reasons: list[str] = []
    encoder = SetEncoder(vae, Intensity(), EncodeOptions(), lambda _, error: reasons.append(str(error)))
    kept = list(encoder.encode([cases[0], odd, cases[2]]))
    assert [case.id for case in kept] == ["case-0", "case-2"]
    assert len(reasons) == 1
    assert "case case-1" in reasons[0]
    assert "multiples of 4" in reasons[0]


def test_another_window_or_kind_is_refused(tiny: Path, vae: FrozenVAE) -> None:
    with open_set(tiny / "images.h5") as reader:
        header = reader.header
    assert check_window(header, vae.facts) == header.intensity
    soft = SetHeader("image", header.provenance, intensity=Intensity(window=(-160.0, 240.0)))
    with pytest.raises(DataError, match=r"window \[-160, 240\] HU and the model was trained on \[-1000, 400\] HU"):
        check_window(soft, vae.facts)
    latents = latent_header(header, vae.facts, "digest", header.provenance)
    assert (latents.latent_scale, latents.latent_shift, latents.vae_digest) == (0.5, 0.25, "digest")
    with pytest.raises(DataError, match="kind 'latent'"):
        check_window(latents, vae.facts)


def test_a_network_of_another_version_is_bad_data(tiny: Path, tmp_path: Path) -> None:
    vae = open_model(tiny / "vae.safetensors")
    path = tmp_path / "newer.safetensors"
    config = {**vae.config, "invented_later": 1}
    save_model(path, kind="vae", config=config, weights=vae.weights(), facts=vae.facts, provenance=vae.provenance)
    with pytest.raises(DataError, match=r"invented_later.*this version"):
        FrozenVAE.load(path, CPU)
