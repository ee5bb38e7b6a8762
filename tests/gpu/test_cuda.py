"""What only a CUDA device can show: the same answers as on the CPU, in every layout and precision."""

from __future__ import annotations

import pytest
import torch

from medgen.diffusion.options import SamplingOptions, ScheduleConfig
from medgen.diffusion.sampling import sample
from medgen.diffusion.schedules import Schedule
from medgen.nets.condition import Condition
from medgen.nets.options import SideConfig, UNetConfig, VAEConfig
from medgen.nets.perception.features import FixedFeatures
from medgen.nets.unet import UNet
from medgen.nets.vae import VAE

cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


def unet(dims: int = 2) -> UNet:
    torch.manual_seed(0)
    attention = ("none", "full")
    network = UNet(
        UNetConfig(dims=dims, in_channels=4, out_channels=4, widths=(32, 64), attention=attention, groups=8, blocks=1)
    )
    with torch.no_grad():  # some layers begin at zero
        for parameter in network.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    return network.eval()


@cuda
@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-3), (torch.bfloat16, 0.1)])
def test_the_unet_answers_as_on_the_cpu(dims: int, dtype: torch.dtype, tolerance: float) -> None:
    network = unet(dims)
    x, t = torch.randn(2, 4, *((8,) * dims)), torch.tensor([3.0, 700.0])
    with torch.inference_mode():
        expected = network(x, t)
        answer = network.to("cuda", dtype)(x.to("cuda", dtype), t.cuda()).float().cpu()
    assert (answer - expected).abs().max() < tolerance * expected.abs().max()


@cuda
def test_the_vae_answers_as_on_the_cpu() -> None:
    torch.manual_seed(0)
    network = VAE(VAEConfig(latent_channels=4, widths=(16, 32), blocks=1, groups=8)).eval()
    images = torch.randn(2, 1, 32, 32)
    with torch.inference_mode():
        expected = network.decode(network.encode(images).mean)
        network.cuda()
        answer = network.decode(network.encode(images.cuda()).mean).cpu()
    assert (answer - expected).abs().max() < 1e-3 * expected.abs().max()


@cuda
def test_sampling_ends_where_it_ends_on_the_cpu() -> None:
    network, schedule = unet(), Schedule(ScheduleConfig())
    start, options = torch.randn(2, 4, 8, 8), SamplingOptions(sampler="ddim", times="trailing", steps=5)
    with torch.inference_mode():
        expected = sample(network, start, schedule, "eps", options)
        answer = sample(network.cuda(), start.cuda(), schedule, "eps", options).cpu()
    assert (answer - expected).abs().max() < 0.01 * expected.abs().max()


@cuda
def test_built_in_features_never_run_in_tf32() -> None:
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    try:
        images = torch.rand(4, 3, 64, 64) * 2 - 1
        expected = FixedFeatures().eval()(images)
        answer = FixedFeatures().eval().cuda()(images.cuda()).cpu()
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before
    torch.testing.assert_close(answer, expected, rtol=1e-4, atol=1e-4)


def under_masks(device: str) -> torch.Tensor:
    """Answers to a batch that asks for masks and to one that asks for nothing, as guidance wants them."""
    torch.manual_seed(0)
    config = UNetConfig(
        in_channels=4, out_channels=4, widths=(32, 64), attention=("none", "none"), mid_attention="none", groups=8,
        blocks=1, side=SideConfig(classes=2, factor=2, hint_width=8),
    )  # fmt: skip
    network = UNet(config).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    x, t, mask = torch.randn(3, 4, 8, 8), torch.tensor([3.0, 300.0, 700.0]), torch.rand(3, 2, 16, 16).round()
    network.to(device)
    with torch.inference_mode():
        asked = network.prepared(Condition(mask=mask).to(torch.device(device)))
        both = asked.joined(asked.null())
        return network(x.repeat(2, 1, 1, 1).to(device), t.repeat(2).to(device), both).cpu()


@cuda
def test_masks_are_followed_as_on_the_cpu() -> None:
    expected, answer = under_masks("cpu"), under_masks("cuda")
    assert (answer - expected).abs().max() < 1e-3 * expected.abs().max()
