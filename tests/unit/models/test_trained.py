"""One loader opens every kind; the frozen VAE sees and gives what networks see, and knows which latents are its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch

import medgen.models.selector  # noqa: F401 - its loader is private to it
from medgen.artifacts.model_file import open_model, save_model
from medgen.artifacts.provenance import derive
from medgen.artifacts.schema import SetHeader
from medgen.errors import DataError, UsageError
from medgen.models.facts import VAEFacts
from medgen.models.kinds import KINDS
from medgen.models.trained import Denoiser, FrozenVAE, Interpolator, NormalizerNetwork, Trained, check_pair

CPU = torch.device("cpu")
FILES = {
    FrozenVAE: "vae.safetensors",
    Denoiser: "model.safetensors",
    Interpolator: "interpolators/random",
    NormalizerNetwork: "normalizer.safetensors",
}


@pytest.mark.parametrize("kind", FILES, ids=lambda kind: kind.kind)
def test_one_loader_opens_each_kind_and_no_other(tiny: Path, kind: type[Any]) -> None:
    trained = kind.load(tiny / FILES[kind], CPU, "float32")
    assert isinstance(trained.facts, KINDS[kind.kind].facts)
    assert isinstance(trained.network.config, KINDS[kind.kind].configuration)
    assert not any(weight.requires_grad for weight in trained.network.parameters())
    assert not trained.network.training
    for other, file in FILES.items():
        if other is not kind:
            with pytest.raises(DataError, match=f"model of kind '{other.kind}'; expected '{kind.kind}'"):
                kind.load(tiny / file, CPU)


def test_every_kind_has_a_class_that_loads_it() -> None:
    def loaded(kind: type[Any]) -> set[str]:
        return {vars(kind).get("kind", "")}.union(*map(loaded, kind.__subclasses__())) - {""}

    assert {kind.kind for kind in FILES} < loaded(Trained) == set(KINDS)


def vae_with(tiny: Path, path: Path, **facts: Any) -> FrozenVAE:
    """The tiny VAE, whose file says something else about its latents."""
    model = open_model(tiny / "vae.safetensors")
    changed = msgspec.to_builtins(msgspec.structs.replace(VAEFacts.read(model.facts, "vae"), **facts))
    save_model(
        path, kind="vae", config=model.config, weights=model.weights(), facts=changed, provenance=derive("x", {})
    )
    return FrozenVAE.load(path, CPU, "float32")


def test_a_network_sees_each_channel_on_a_scale_of_its_own(tiny: Path, tmp_path: Path) -> None:
    scale, shift = (0.5, 2.0, 1.0, 4.0), (0.0, 1.0, -1.0, 0.5)
    vae = vae_with(tiny, tmp_path / "v.safetensors", latent_scale=scale, latent_shift=shift)
    images = torch.rand(3, 1, 32, 32) * 2 - 1
    mean = vae.encode(images).mean
    seen = vae.latents(images)
    for channel in range(4):
        torch.testing.assert_close(seen[:, channel], (mean[:, channel] - shift[channel]) * scale[channel])
    torch.testing.assert_close(vae.images(seen), vae.reconstruct(images), rtol=0, atol=1e-5)


def test_a_scale_for_other_channels_is_an_error(tiny: Path, tmp_path: Path) -> None:
    vae = vae_with(tiny, tmp_path / "v.safetensors", latent_scale=(1.0, 2.0), latent_shift=(0.0, 0.0))
    with pytest.raises(DataError, match="latents of 4 channels do not fit"):
        vae.latents(torch.zeros(1, 1, 32, 32))


def test_gradients_pass_through_the_vae_to_its_input_and_are_those_of_the_formula(tiny: Path) -> None:
    vae = FrozenVAE.load(tiny / "vae.safetensors", CPU, "float32")
    seen = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0), requires_grad=True)
    (ours,) = torch.autograd.grad(vae.images(seen).square().sum(), seen)
    (theirs,) = torch.autograd.grad(vae.network.decode(seen / 0.5 + 0.25).square().sum(), seen)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_a_training_in_bfloat16_sees_the_latents_that_inference_sees(tiny: Path) -> None:
    vae = FrozenVAE.load(tiny / "vae.safetensors", CPU, "bfloat16")
    images = torch.rand(4, 1, 32, 32) * 2 - 1
    alone = vae.latents(images)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(vae.latents(images), alone)


def test_only_the_vae_that_made_the_latents_with_their_scale_is_taken(tiny: Path, tmp_path: Path) -> None:
    vae = FrozenVAE.load(tiny / "vae.safetensors", CPU)
    model = Denoiser.load(tiny / "model.safetensors", CPU)
    check_pair(model, vae)
    with pytest.raises(UsageError, match="--vae"):
        check_pair(model, None)
    other = vae_with(tiny, tmp_path / "v.safetensors", latent_scale=3.0)
    with pytest.raises(DataError, match=r"model.safetensors: has latents of the VAE .*give the VAE that made its"):
        check_pair(model, other)
    header = SetHeader("latent", derive("x", {}), vae_digest=vae.model.digest, latent_scale=0.5, latent_shift=0.25)
    vae.check_made(header, "z.h5")
    with pytest.raises(DataError, match=r"z.h5: scales its latents differently"):
        vae.check_made(msgspec.structs.replace(header, latent_scale=(0.5, 0.5, 0.5, 1.0)), "z.h5")
