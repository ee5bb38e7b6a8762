"""How far samples of a few steps lie from the converged ones, by sampler, spacing and number of steps.

python -m tests.bench.distances latents.h5: a denoiser that is known exactly, on the paths of the presets
python -m tests.bench.distances model.safetensors vae.safetensors conditions.csv: a trained one, guided
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from medgen.artifacts.sets import open_set
from medgen.diffusion.noise import sample_noise
from medgen.diffusion.objectives import target
from medgen.diffusion.options import Objective, SamplerName, SamplingOptions, ScheduleConfig, Spacing
from medgen.diffusion.sampling import sample
from medgen.diffusion.schedules import Schedule
from medgen.inference.conditions.vectors import read_csv
from medgen.inference.generate import Generator
from medgen.inference.generate_options import GenerateOptions
from medgen.models.trained import Denoiser, FrozenVAE
from medgen.nets.condition import Condition

Run = Callable[[SamplerName, Spacing, int], Tensor]
STEPS = (4, 6, 8, 10, 12, 16, 20, 30, 50)
WAYS: tuple[tuple[SamplerName, Spacing], ...] = (
    ("ddim", "trailing"), ("dpm-solver++", "trailing"), ("unipc", "trailing"), ("ddim", "log-snr"),
    ("dpm-solver++", "log-snr"), ("unipc", "log-snr"), ("dpm-solver++", "karras"), ("unipc", "karras"),
    ("dpm-solver++", "angle"), ("unipc", "angle"),
)  # fmt: skip
PATHS: dict[str, tuple[ScheduleConfig, Objective, float | None]] = {
    "lidc-nodule": (ScheduleConfig(), "eps", None),
    "lidc-nodule-tiny": (ScheduleConfig(beta_start=0.00085, beta_end=0.012), "v", None),
    "ct-interpolation": (ScheduleConfig(kind="cosine"), "v", None),
    "ct-interpolation-tiny": (ScheduleConfig(kind="cosine", shift=4.0), "x0", None),
    "zero terminal SNR": (ScheduleConfig(zero_terminal_snr=True), "v", None),
    "flow": (ScheduleConfig(kind="flow"), "flow", None),
    "dental-normalizer, diffusion from 0.4": (ScheduleConfig(kind="linear", beta_start=1e-4), "eps", 0.4),
    "dental-normalizer, flow from 0.4": (ScheduleConfig(kind="flow"), "flow", 0.4),
}
"""Schedule, objective and, where data are led back, the noise level."""


class Mixture:
    """24 Gaussians in the 64 leading directions of given latents, as wide as they are there."""

    def __init__(self, latents: Tensor) -> None:
        centred = latents - latents.mean(0)
        _, stretch, directions = torch.linalg.svd(centred, full_matrices=False)
        self.points = centred @ directions[:64].T  # (N, 64)
        self.means = 0.8 * self.points[torch.linspace(0, len(latents) - 1, 24).long()]
        self.variance = 0.36 * stretch[:64] ** 2 / len(latents)

    def run(self, config: ScheduleConfig, objective: Objective, level: float | None) -> Run:
        """Samples (24, 64) of the network that training on the mixture would end in."""
        schedule = Schedule(config)
        noise = sample_noise(0, range(24), (64,)).double()
        start, x = None, noise
        if level is not None:
            start = schedule.time_of(level)
            data = self.points[torch.linspace(3, len(self.points) - 4, 24).long()]
            x = schedule.add_noise(data, noise, torch.full((24,), start, dtype=torch.float64))

        def denoise(x: Tensor, t: Tensor) -> Tensor:
            alpha, sigma = schedule.alpha_sigma_for(x, t)
            spread = alpha**2 * self.variance + sigma**2  # (B, 64)
            away = x[:, None] - alpha[:, None] * self.means  # (B, 24, 64)
            weight = torch.softmax(-(away**2 / spread[:, None]).sum(2) / 2, 1)
            x0 = (weight[..., None] * (self.means + (alpha * self.variance / spread)[:, None] * away)).sum(1)
            return x0 if objective == "x0" else target(objective, schedule, x0, (x - alpha * x0) / sigma, t)

        def run(name: SamplerName, times: Spacing, steps: int) -> Tensor:
            options = SamplingOptions(sampler=name, times=times, steps=steps)
            return sample(denoise, x, schedule, objective, options, start=start)

        return run


def trained(model: Path, vae: Path, conditions: Path, count: int = 12) -> Run:
    """Images (12, C, H, W) in [-1, 1] of a trained denoiser under every so many of the conditions, in float32."""
    cpu = torch.device("cpu")
    denoiser, decoder = Denoiser.load(model, cpu, "float32"), FrozenVAE.load(vae, cpu, "float32")
    vectors = read_csv(conditions, denoiser.facts.vector_fields)
    chosen = range(0, len(vectors), max(1, len(vectors) // count))[:count]

    def run(name: SamplerName, times: Spacing, steps: int) -> Tensor:
        options = GenerateOptions(sampler=name, times=times, steps=steps)
        condition = Condition(vector=torch.from_numpy(vectors[list(chosen)]))
        return Generator(denoiser, decoder, options).images(chosen, condition).clamp(-1, 1)

    return run


def table(name: str, run: Run, converged: int) -> str:
    """Root mean square distance from the samples of `converged` steps, over their standard deviation."""
    goal = run("unipc", "log-snr", converged)
    lines = [f"| {name} | {' | '.join(map(str, STEPS))} |", "|---" * (len(STEPS) + 1) + "|"]
    for sampler, times in WAYS:
        gaps = [((run(sampler, times, steps) - goal).square().mean().sqrt() / goal.std()).item() for steps in STEPS]
        lines.append(f"| {sampler}, {times} | {' | '.join(f'{gap:.4f}' for gap in gaps)} |")
    return "\n".join(lines)


def main(paths: list[str]) -> None:
    torch.set_num_threads(1)
    if len(paths) == 3:
        sys.stdout.write(table(Path(paths[0]).stem, trained(*map(Path, paths)), 160) + "\n")
        return
    with open_set(paths[0], random_access=True) as stored:
        rows = range(0, stored.slices, max(1, stored.slices // 400))
        latents = stored.header.latent_space.seen(torch.from_numpy(stored.read("latent", list(rows))))
        mixture = Mixture(latents.double().flatten(1))
    for name, path in PATHS.items():
        sys.stdout.write(table(name, mixture.run(*path), 1000) + "\n\n")


if __name__ == "__main__":
    main(sys.argv[1:])
