"""`make bench`: medgen's networks against MONAI's and diffusers', as ratios measured in one run.

Same shapes, widths and machine; the contestants take turns, and each figure is the least of its rounds. "at its
defaults" lets medgen choose its precision (bfloat16 where the processor has it) and leaves the others at float32.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import platform
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from medgen.nets.compute import autocast, resolve_precision
from medgen.nets.unet import UNet, UNetConfig
from medgen.nets.vae import VAE, VAEConfig

Work = Callable[[], object]
FLOAT32 = torch.float32


def unets(widths: tuple[int, ...]) -> dict[str, tuple[nn.Module, Callable[[nn.Module, Tensor, Tensor], Tensor]]]:
    """UNets of 8 latent channels, two blocks a level, attention below the first, each with how it is called."""
    from diffusers import UNet2DModel
    from monai.networks.nets import DiffusionModelUNet

    below = len(widths) - 1
    ours = UNet(
        UNetConfig(widths=widths, attention=("none", *["full"] * below), head_width=32, time_width=4 * widths[0])
    )
    monai = DiffusionModelUNet(
        spatial_dims=2, in_channels=8, out_channels=8, channels=widths, num_res_blocks=2, norm_num_groups=32,
        attention_levels=(False, *[True] * below), num_head_channels=(0, *[32] * below),
    )  # fmt: skip
    diffusers = UNet2DModel(
        sample_size=32, in_channels=8, out_channels=8, block_out_channels=widths, layers_per_block=2,
        attention_head_dim=32, norm_num_groups=32,
        down_block_types=("DownBlock2D", *["AttnDownBlock2D"] * below),
        up_block_types=(*["AttnUpBlock2D"] * below, "UpBlock2D"),
    )  # fmt: skip
    return {
        "medgen": (ours, lambda net, x, t: net(x, t)),
        "monai": (monai, lambda net, x, t: net(x, t)),
        "diffusers": (diffusers, lambda net, x, t: net(x, t).sample),
    }


def vaes(widths: tuple[int, ...]) -> dict[str, tuple[nn.Module, dict[str, Callable[[Any, Tensor], Tensor]]]]:
    """Autoencoders of 8 latent channels, each with how it encodes and decodes."""
    from diffusers import AutoencoderKL as DiffusersVAE
    from monai.networks.nets import AutoencoderKL as MonaiVAE

    levels = len(widths)
    ours = VAE(VAEConfig(widths=widths))
    monai = MonaiVAE(
        spatial_dims=2, in_channels=1, out_channels=1, channels=widths, num_res_blocks=2, latent_channels=8,
        norm_num_groups=8, attention_levels=[False] * levels, with_encoder_nonlocal_attn=False,
        with_decoder_nonlocal_attn=False,
    )  # fmt: skip
    diffusers = DiffusersVAE(
        in_channels=1, out_channels=1, block_out_channels=widths, layers_per_block=2, latent_channels=8,
        norm_num_groups=8, mid_block_add_attention=False,
        down_block_types=["DownEncoderBlock2D"] * levels, up_block_types=["UpDecoderBlock2D"] * levels,
    )  # fmt: skip
    return {
        "medgen": (ours, {"encode": lambda net, x: net.encode(x).mean, "decode": lambda net, z: net.decode(z)}),
        "monai": (monai, {"encode": lambda net, x: net.encode(x)[0], "decode": lambda net, z: net.decode(z)}),
        "diffusers": (
            diffusers,
            {"encode": lambda net, x: net.encode(x).latent_dist.mean, "decode": lambda net, z: net.decode(z).sample},
        ),
    }


def measure(contestants: dict[str, Work], rounds: int, device: torch.device) -> dict[str, float]:
    """Least seconds of each contestant over rounds in which they take turns, after one warm-up."""
    best = dict.fromkeys(contestants, float("inf"))
    for turn in range(rounds + 1):
        for name, work in contestants.items():
            before = time.perf_counter()
            work()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            if turn:
                best[name] = min(best[name], time.perf_counter() - before)
    return best


def training_step(net: nn.Module, call: Callable[..., Tensor], x: Tensor, t: Tensor, dtype: torch.dtype) -> Work:
    """Forward, backward and update by fused AdamW."""
    optimizer = torch.optim.AdamW(net.parameters(), fused=True)

    def step() -> None:
        with autocast(x.device, dtype):
            loss = call(net, x, t).square().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def inference(function: Callable[[], Tensor], device: torch.device, dtype: torch.dtype) -> Work:
    """One pass without gradients."""

    def once() -> Tensor:
        with torch.inference_mode(), autocast(device, dtype):
            return function()

    return once


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--quick", action="store_true", help="small networks, to try the bench itself")
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    best = resolve_precision("auto", device)
    precisions = {"float32": (FLOAT32, FLOAT32), str(best).removeprefix("torch."): (best, best)}
    precisions["at its defaults"] = (best, FLOAT32)
    unet_widths, vae_widths, side = (
        ((32, 64), (16, 32), 64) if arguments.quick else ((128, 256, 512), (64, 128, 256, 256), 256)
    )

    lines = []
    nets = {name: (net.to(device), call) for name, (net, call) in unets(unet_widths).items()}
    x, t = torch.randn(8, 8, 32, 32, device=device), torch.randint(0, 1000, (8,), device=device)
    for label, (ours, theirs) in precisions.items():
        kinds = {name: ours if name == "medgen" else theirs for name in nets}
        forward = {
            name: inference(lambda net=net, call=call: call(net, x, t), device, kinds[name])
            for name, (net, call) in nets.items()
        }
        lines.append(("UNet forward (8, 8, 32, 32)", label, measure(forward, arguments.rounds, device)))
        step = {name: training_step(net, call, x, t, kinds[name]) for name, (net, call) in nets.items()}
        lines.append(("UNet training step", label, measure(step, arguments.rounds, device)))
    sizes = {f"UNet {name}": net for name, (net, _) in nets.items()}
    del nets
    coders = {name: (net.to(device), calls) for name, (net, calls) in vaes(vae_widths).items()}
    sizes |= {f"VAE {name}": net for name, (net, _) in coders.items()}
    image = torch.randn(2, 1, side, side, device=device)
    latent = torch.randn(2, 8, side // 2 ** (len(vae_widths) - 1), side // 2 ** (len(vae_widths) - 1), device=device)
    for label, (ours, theirs) in precisions.items():
        for task, data in (("encode", image), ("decode", latent)):
            work = {
                name: inference(
                    lambda net=net, calls=calls, task=task, data=data: calls[task](net, data),
                    device,
                    ours if name == "medgen" else theirs,
                )
                for name, (net, calls) in coders.items()
            }
            lines.append((f"VAE {task} (2, 1, {side}, {side})", label, measure(work, arguments.rounds, device)))

    out = sys.stdout.write
    cpu = next(
        (line.split(":")[1].strip() for line in _cpu_lines() if line.startswith("model name")), platform.machine()
    )
    hardware = (
        torch.cuda.get_device_name(device) if device.type == "cuda" else f"{cpu}, {torch.get_num_threads()} threads"
    )
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("torch", "monai", "diffusers"))
    out(f"{hardware}; {versions}\n")
    out(
        ", ".join(f"{name} {sum(p.numel() for p in net.parameters()) / 1e6:.1f} M" for name, net in sizes.items())
        + "\n\n"
    )
    out("| work | precision | medgen, ms | monai / medgen | diffusers / medgen |\n|---|---|---|---|---|\n")
    for task, label, seconds in lines:
        ours_seconds = seconds["medgen"]
        ratios = " | ".join(f"{seconds[name] / ours_seconds:.2f}" for name in ("monai", "diffusers"))
        out(f"| {task} | {label} | {1000 * ours_seconds:.0f} | {ratios} |\n")


def _cpu_lines() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text(encoding="utf-8").splitlines() if path.exists() else []


if __name__ == "__main__":
    main()
