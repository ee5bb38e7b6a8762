"""Latents are scaled and shifted channel by channel, in arrays and tensors alike; one number for all is read too."""

from __future__ import annotations

import json

import msgspec
import numpy as np
import pytest
import torch

from medgen.artifacts.latent_space import LatentSpace
from medgen.artifacts.provenance import derive
from medgen.artifacts.schema import Case, ContentDigest, SetHeader
from medgen.artifacts.stream import parse_header
from medgen.errors import DataError

SPACE = LatentSpace((2.0, 0.5, 4.0), (1.0, -1.0, 0.25))


@pytest.mark.parametrize("sides", [(5, 4), (2, 5, 4)], ids=["images", "volumes"])
def test_each_channel_has_its_own_scale_and_shift(sides: tuple[int, ...]) -> None:
    latents = np.random.default_rng(0).normal(size=(6, 3, *sides)).astype(np.float32)
    seen = SPACE.seen(latents)
    assert seen.dtype == np.float32
    for channel, (scale, shift) in enumerate(zip(SPACE.scale, SPACE.shift, strict=True)):  # type: ignore[arg-type]
        np.testing.assert_allclose(seen[:, channel], (latents[:, channel] - shift) * scale, rtol=1e-6)
    tensors = SPACE.seen(torch.from_numpy(latents))
    assert tensors.dtype == torch.float32
    np.testing.assert_allclose(tensors.numpy(), seen, rtol=1e-6)
    np.testing.assert_allclose(SPACE.unscaled(seen), latents, atol=1e-6)
    np.testing.assert_allclose(SPACE.unscaled(tensors).numpy(), latents, atol=1e-6)


def test_one_number_holds_for_all_channels() -> None:
    latents = torch.arange(24.0).view(1, 3, 2, 4)
    one, three = LatentSpace(0.5, 1.0), LatentSpace((0.5,) * 3, (1.0,) * 3)
    assert torch.equal(one.seen(latents), (latents - 1.0) * 0.5)
    assert torch.equal(one.seen(latents), three.seen(latents))
    assert torch.equal(one.unscaled(latents), three.unscaled(latents))


@pytest.mark.parametrize("channels", [1, 2, 4])
def test_latents_of_other_channels_are_refused(channels: int) -> None:
    for latents in (np.zeros((1, channels, 2, 2)), torch.zeros(1, channels, 2, 2)):
        with pytest.raises(DataError, match=f"latents of {channels} channels do not fit a scale and shift of 3"):
            SPACE.seen(latents)


def test_headers_of_either_kind_are_read_and_one_number_stays_one_number() -> None:
    """So that the digest of a set that was written before stays what it was."""
    old = SetHeader("latent", derive("extract-latents", {}), latent_scale=0.5, latent_shift=0.25, vae_digest="v")
    plain = json.loads(msgspec.json.encode(old))
    assert (plain["latent_scale"], plain["latent_shift"]) == (0.5, 0.25)
    assert parse_header(plain, "old") == old
    plain |= {"latent_scale": [2, 0.5, 4.0], "latent_shift": [1, -1, 0.25]}
    new = parse_header(plain, "new")
    assert new.latent_space == SPACE
    digest = ContentDigest(new)
    latents = SPACE.unscaled(np.random.default_rng(1).normal(size=(40, 3, 8, 8)))
    digest.add(Case("a", {"latent": latents.astype(np.float32)}))
    tail = digest.tail({})
    np.testing.assert_allclose(tail.latent_mean, 0, atol=0.1)
    np.testing.assert_allclose(tail.latent_std, 1, atol=0.1)


@pytest.mark.parametrize("scale", [0, -1.0, [1.0, 0.0], "a", None])
def test_a_scale_that_is_none_is_refused(scale: object) -> None:
    plain = json.loads(msgspec.json.encode(SetHeader("latent", derive("x", {}))))
    with pytest.raises(DataError):
        parse_header(plain | {"latent_scale": scale}, "odd")
