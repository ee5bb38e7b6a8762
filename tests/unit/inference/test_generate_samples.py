from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch

from medgen.artifacts.provenance import derive
from medgen.artifacts.schema import SPACING_NOTE
from medgen.diffusion.samplers import SAMPLERS
from medgen.errors import DataError, UsageError
from medgen.inference.conditions.requests import Requests
from medgen.inference.generate import Generator
from medgen.inference.generate_options import GenerateOptions
from medgen.models.trained import Denoiser, FrozenVAE
from medgen.nets.condition import Condition
from tests.conftest import write_denoiser, write_vae

CPU = torch.device("cpu")
ASKED = np.tile(np.array([1, 0.3, 0.6, 0.2, 0.5, 0.5], np.float32), (9, 1))
OPTIONS = GenerateOptions(steps=3, batch_size=4)


def generator(tiny: Path, precision: str = "float32", **changes: object) -> Generator:
    options = msgspec.structs.replace(OPTIONS, **changes)
    denoiser = Denoiser.load(tiny / "model.safetensors", CPU, precision)  # type: ignore[arg-type]
    return Generator(denoiser, FrozenVAE.load(tiny / "vae.safetensors", CPU, precision), options)  # type: ignore[arg-type]


def of(vectors: np.ndarray) -> Condition:
    return Condition(vector=torch.from_numpy(vectors[:1]))


def images(tiny: Path, indices: list[int], vectors: np.ndarray | None = ASKED, **changes: object) -> np.ndarray:
    requests = Requests(9, vectors)
    return np.concatenate([case["image"] for case in generator(tiny, **changes).cases(indices, requests)])


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("vectors", [ASKED, None], ids=["guided", "unconditional"])
def test_a_sample_has_the_same_bits_in_any_batch(tiny: Path, precision: str, vectors: np.ndarray | None) -> None:
    whole = images(tiny, list(range(9)), vectors, precision=precision)
    for batch_size, chosen in ((1, [7]), (3, [1, 4, 7]), (16, [8, 2])):
        np.testing.assert_array_equal(
            images(tiny, chosen, vectors, precision=precision, batch_size=batch_size), whole[chosen]
        )


def test_networks_give_the_same_bits_from_sixteen_rows_on(tmp_path: Path) -> None:
    """In one thread torch convolves 1 x 1 by another kernel then, as where a block changes its width."""
    vae = FrozenVAE.load(write_vae(tmp_path / "vae", widths=(16, 48, 64)), CPU, "float32")
    denoiser = Denoiser.load(write_denoiser(tmp_path / "model", None), CPU, "float32")
    random = torch.Generator().manual_seed(0)
    images = torch.randn(36, 1, 32, 32, generator=random)
    latents, times = images.reshape(36, 4, 16, 16), torch.linspace(9, 900, 36).double()
    vectors = torch.rand(36, 6, generator=random)
    for network in (
        lambda rows: vae.encode(images[rows]).mean,
        lambda rows: vae.decode(latents[rows]),
        lambda rows: denoiser(images[rows], times[rows], Condition(vector=vectors[rows])),
    ):
        whole = network(slice(0, 36))
        for size in (4, 12, 16, 18):
            parts = [network(slice(start, start + size)) for start in range(0, 36, size)]
            assert torch.equal(torch.cat(parts), whole)


def test_samples_differ_by_index_and_seed(tiny: Path) -> None:
    first = images(tiny, [0, 1])
    assert (first[0] != first[1]).any()
    assert (images(tiny, [0], seed=1) != first[:1]).any()


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_sampler_gives_values_of_the_window(tiny: Path, sampler: str) -> None:
    result = images(tiny, [0, 1], sampler=sampler)
    assert result.dtype == np.int16
    assert result.min() >= -1000
    assert result.max() <= 400


def test_the_condition_and_guidance_and_negative_condition_count(tiny: Path) -> None:
    other = ASKED.copy()
    other[:, 1] = 0.9
    plain = generator(tiny).images([0], of(ASKED))
    assert not torch.equal(plain, generator(tiny).images([0], of(other)))
    assert not torch.equal(plain, generator(tiny, guidance=4.0).images([0], of(ASKED)))
    assert not torch.equal(plain, generator(tiny).images([0], of(ASKED), of(other)))


def test_guidance_scale_one_is_the_conditional_model_alone(tiny: Path) -> None:
    with_negative = generator(tiny, guidance=1.0).images([0], of(ASKED), of(ASKED * 0))
    assert torch.equal(with_negative, generator(tiny, guidance=1.0).images([0], of(ASKED)))


def test_cases_hold_the_vector_asked_and_the_spacing(tiny: Path) -> None:
    case = next(generator(tiny).cases([3], Requests(9, ASKED)))
    assert case.id == "sample-000003"
    assert case.spacing == (2.0, 0.7, 0.7)
    np.testing.assert_array_equal(case["vector"], ASKED[3:4])
    assert "vector" not in next(generator(tiny).cases([3], Requests(9))).arrays


def test_the_header_names_fields_only_with_conditions(tiny: Path) -> None:
    made = generator(tiny)
    assert made.header(derive("generate", {}), Requests(9, ASKED)).vector_fields[0] == "has_nodule"
    header = made.header(derive("generate", {}), Requests(9))
    assert header.vector_fields == ()
    assert header.intensity == made.denoiser.facts.intensity
    assert SPACING_NOTE in header.notes


def test_latents_are_unscaled_before_they_are_decoded(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = generator(tiny)
    assert made.vae is not None
    seen: list[torch.Tensor] = []
    monkeypatch.setattr(made.vae.network, "decode", lambda z: seen.append(z) or torch.zeros(len(z), 1, 32, 32))
    monkeypatch.setattr("medgen.inference.generate.sample", lambda *a, **k: torch.full((4, 4, 8, 8), 0.5))
    made.images([0, 1, 2, 3])
    assert torch.allclose(seen[0], torch.tensor(0.5 / 0.5 + 0.25))


def test_image_space_models_need_no_vae(tiny: Path) -> None:
    denoiser = Denoiser.load(tiny / "pixels.safetensors", CPU, "float32")
    case = next(Generator(denoiser, None, OPTIONS).cases([0], Requests(1)))
    assert case["image"].shape == (1, 1, 32, 32)
    with pytest.raises(UsageError, match="leave out --vae"):
        Generator(denoiser, FrozenVAE.load(tiny / "vae.safetensors", CPU), OPTIONS)


def test_a_latent_model_needs_a_vae(tiny: Path) -> None:
    with pytest.raises(UsageError, match="--vae"):
        Generator(Denoiser.load(tiny / "model.safetensors", CPU), None, OPTIONS)


def test_a_diverged_model_is_named_with_the_sample(tiny: Path) -> None:
    made = generator(tiny)
    made.denoiser.network.outputs[0][2].bias.data.fill_(float("nan"))  # type: ignore[index, union-attr]
    with pytest.raises(DataError, match="sample 5 is not finite"):
        made.images([5])
