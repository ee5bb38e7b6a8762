"""A plain script on MONAI: folder of DICOM series -> latents, as `medgen preprocess | medgen extract-latents` does."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from monai.data import DataLoader, Dataset
from monai.transforms import Compose, EnsureChannelFirstd, LoadImaged, Resized, ScaleIntensityRanged

from .monai_networks import vae


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path, help="one folder a series below it")
    parser.add_argument("weights", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--widths", type=int, nargs="+", required=True)
    parser.add_argument("--size", type=int, required=True)
    parser.add_argument("--bfloat16", action="store_true")
    arguments = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")

    network = vae(tuple(arguments.widths))
    network.load_state_dict(torch.load(arguments.weights, weights_only=True))
    network.to(device).eval()
    transform = Compose(
        [
            LoadImaged("image", reader="PydicomReader"),
            EnsureChannelFirstd("image"),
            ScaleIntensityRanged("image", -1000, 400, -1, 1, clip=True),
            Resized("image", (arguments.size, arguments.size, -1), mode="area"),
        ]
    )
    series = [{"image": str(path)} for path in sorted(arguments.folder.iterdir())]
    loader = DataLoader(Dataset(series, transform), batch_size=1, num_workers=1)
    latents = []
    with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16, enabled=arguments.bfloat16):
        for batch in loader:
            slices = batch["image"].as_tensor()[0].movedim(-1, 0)  # (D, 1, H, W)
            parts = [network.encode(part.to(device))[0].float().cpu() for part in slices.split(8)]
            latents.append(torch.cat(parts).numpy())
    np.savez(arguments.output, *latents)


if __name__ == "__main__":
    main()
