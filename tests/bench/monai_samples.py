"""A plain script on MONAI: a diffusion model and its VAE -> images in HU, as `medgen generate` does."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from monai.networks.schedulers import DDIMScheduler

from .monai_networks import LATENT_CHANNELS, unet, vae


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("denoiser", type=Path)
    parser.add_argument("vae", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--unet-widths", type=int, nargs="+", required=True)
    parser.add_argument("--vae-widths", type=int, nargs="+", required=True)
    parser.add_argument("--side", type=int, required=True, help="of a latent")
    parser.add_argument("--count", type=int, required=True)
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--bfloat16", action="store_true")
    arguments = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")

    denoiser, decoder = unet(tuple(arguments.unet_widths)), vae(tuple(arguments.vae_widths))
    for network, weights in ((denoiser, arguments.denoiser), (decoder, arguments.vae)):
        network.load_state_dict(torch.load(weights, weights_only=True))
        network.to(device).eval()
    scheduler = DDIMScheduler(1000, "scaled_linear_beta", beta_start=0.002, beta_end=0.02, clip_sample=False)
    scheduler.set_timesteps(arguments.steps)
    torch.manual_seed(0)
    images = []
    with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16, enabled=arguments.bfloat16):
        for start in range(0, arguments.count, 16):
            batch = min(16, arguments.count - start)
            x = torch.randn(batch, LATENT_CHANNELS, arguments.side, arguments.side, device=device)
            for t in scheduler.timesteps:
                output = denoiser(x, t.to(device).expand(batch)).float()
                x, _ = scheduler.step(output, int(t), x)
            decoded = decoder.decode(x).float()
            images.append((decoded * 700 - 300).clamp(-1024, 3071).round().to(torch.int16).cpu().numpy())
    np.savez(arguments.output, np.concatenate(images))


if __name__ == "__main__":
    main()
