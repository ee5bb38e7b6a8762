"""The normalizer sees normal cases alone, learns both tasks, and is led by images through a VAE that stays as it is."""

from __future__ import annotations

import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch

from medgen.artifacts.model_file import Model, open_model, save_model
from medgen.artifacts.provenance import derive
from medgen.artifacts.schema import Case, Intensity, SetHeader
from medgen.artifacts.sets import create_set
from medgen.config import convert, plain
from medgen.diffusion.options import SamplingOptions, ScheduleConfig
from medgen.diffusion.sampling import sample
from medgen.diffusion.schedules import Schedule
from medgen.errors import ConfigError, DataError, Terminated, UsageError
from medgen.models.facts import NormalizerFacts, VAEFacts
from medgen.models.timing import Times
from medgen.nets.options import UNetConfig, VAEConfig
from medgen.nets.unet import UNet
from medgen.nets.vae import VAE
from medgen.training.data.step import Step
from medgen.training.learners.diffusion import train_diffusion
from medgen.training.learners.diffusion_options import NormalizerOptions
from medgen.training.learners.normalizer import NormalizerLearner
from medgen.training.learners.normalizer_options import IdentityOptions, NormalizerLosses
from medgen.training.loop.options import LoopOptions
from medgen.training.loop.run import Run

RunOf = Callable[..., Run]
VAE_CONFIG = VAEConfig(latent_channels=2, widths=(8, 16), blocks=1)
NETWORK = UNetConfig(
    in_channels=2, out_channels=2, widths=(16, 32), blocks=1, attention=("none", "linear"), mid_attention="none",
    head_width=16, time_width=32, groups=8,
)  # fmt: skip
LINEAR = ScheduleConfig(kind="linear", beta_start=1e-4)


def options_of(loop: dict[str, Any] | None = None, normalizer: dict[str, Any] | None = None, **changes: Any) -> Any:
    values: dict[str, Any] = {
        "steps": 4, "batch_size": 4, "learning_rate": 2e-3, "precision": "float32", "validation_samples": 8,
        "log_every": 1, "save_every": 0, "ema": 0.9,
    }  # fmt: skip
    made: dict[str, Any] = {
        "network": NETWORK,
        "schedule": LINEAR,
        "loop": LoopOptions(**(values | (loop or {}))),
        "normalizer": NormalizerLosses(**(normalizer or {})),
    }
    return NormalizerOptions(**(made | changes))


@pytest.fixture(scope="module")
def vae(tmp_path_factory: pytest.TempPathFactory) -> Model:
    torch.manual_seed(0)
    return save_model(
        tmp_path_factory.mktemp("vae") / "vae.safetensors",
        kind="vae",
        config=plain(VAE_CONFIG),
        weights=VAE(VAE_CONFIG).state_dict(),
        facts=msgspec.to_builtins(VAEFacts(Intensity(), latent_scale=0.5, latent_shift=1.0)),
        provenance=derive("train-vae", {}),
    )


def write_latents(
    path: Path,
    vae: Model,
    labels: Callable[[int], int] | None = lambda number: 0,
    names: tuple[str, ...] = ("normal", "ill"),
) -> Path:
    """Latents (2, 8, 8) that lie on a line: all +1 or all -1 with a little noise; every fourth case is held out."""
    rng = np.random.default_rng(0)
    header = SetHeader(
        "latent", derive("make", {"names": names}), Intensity(), label_names=names, latent_scale=0.5, latent_shift=1.0,
        vae_digest=vae.digest,
    )  # fmt: skip
    with create_set(path, header, force=True) as writer:
        for number in range(24):
            values = rng.choice((-1.0, 1.0), (2, 1, 1, 1)) + 0.1 * rng.normal(size=(2, 2, 8, 8))
            arrays: dict[str, Any] = {"latent": (values / 0.5 + 1.0).astype(np.float32)}
            if labels is not None:
                arrays["label"] = np.full(2, labels(number), np.int64)
            writer.write(Case(f"case-{number:02d}", arrays, "val" if number % 4 == 3 else "train"))
    return path


def learner_of(
    decode: Any = lambda x: x, normalizer: dict[str, Any] | None = None, **changes: Any
) -> NormalizerLearner:
    learner = NormalizerLearner(options_of(normalizer=normalizer, **changes), decode)
    torch.manual_seed(3)
    for weight in learner.model.parameters():  # a new network answers zero to everything
        if not weight.any():
            torch.nn.init.normal_(weight, std=0.05)
    return learner


def gradient(learner: NormalizerLearner, progress: float = 1.0) -> torch.Tensor:
    """The gradient of the loss on one fixed batch, all weights in a row."""
    batch = {"x": torch.randn(4, 2, 8, 8, generator=torch.Generator().manual_seed(0))}
    loss, _ = learner.loss(batch, Step(0, 3, 0, 4, 4, "train", progress))
    return torch.cat([part.flatten() for part in torch.autograd.grad(loss, list(learner.model.parameters()))])


def frozen_vae() -> VAE:
    torch.manual_seed(1)
    return VAE(VAE_CONFIG).eval().requires_grad_(False)


def test_the_identity_term_leads_the_network_through_the_frozen_vae() -> None:
    vae = frozen_vae()
    before = {name: weight.clone() for name, weight in vae.state_dict().items()}
    gradients = {}
    for weight in (0.0, 0.1, 0.2):
        gradients[weight] = gradient(learner_of(vae.decode, {"identity": IdentityOptions(weight=weight)}))
    change, twice = gradients[0.1] - gradients[0.0], gradients[0.2] - gradients[0.0]
    assert change.norm() > 1e-3 * gradients[0.0].norm()
    torch.testing.assert_close(twice, 2 * change, rtol=1e-3, atol=1e-5)
    # With another decoder the same latents give another gradient: it comes through the decoder.
    torch.manual_seed(2)
    other = gradient(
        learner_of(VAE(VAE_CONFIG).requires_grad_(False).decode, {"identity": IdentityOptions(weight=0.1)})
    )
    assert (other - gradients[0.1]).norm() > 0.1 * change.norm()
    for name, weight in vae.state_dict().items():
        assert torch.equal(weight, before[name])
        assert vae.get_parameter(name).grad is None


def test_checkpointing_changes_memory_and_not_the_gradient() -> None:
    vae = frozen_vae()
    plain_one, saving = (
        gradient(learner_of(vae.decode, {"identity": IdentityOptions(checkpoint=checkpoint)}))
        for checkpoint in (False, True)
    )
    torch.testing.assert_close(saving, plain_one)


def test_only_the_sub_batch_is_decoded() -> None:
    decoded: list[int] = []

    def decode(x: torch.Tensor) -> torch.Tensor:
        decoded.append(len(x))
        return x

    learner = learner_of(decode, {"identity": IdentityOptions(samples=3)})
    gradient(learner)
    assert decoded == [3, 3, 3]  # the sample itself, and the estimate of each head
    decoded.clear()
    gradient(learner, progress=0.2)
    assert decoded == []


def test_the_ramp_rises_without_a_jump() -> None:
    learner = learner_of(normalizer={"identity": IdentityOptions(weight=0.1, ramp=(0.3, 0.4))})
    weights = [learner.identity_weight(Step(0, index, 0, 1, 1, "train", index / 1000)) for index in range(1000)]
    assert max(weights[:301]) == 0
    assert weights[350] == pytest.approx(0.05)
    assert set(weights[400:]) == {0.1}
    assert max(np.diff(weights)) == pytest.approx(0.1 / 100, rel=1e-6)
    assert learner.identity_weight(Step(0, 0, 0, 1, 1, "validation")) == 0.1
    with pytest.raises(ConfigError, match="swap them"):
        IdentityOptions(ramp=(0.5, 0.4))


def test_the_loss_is_the_weighted_sum_and_the_tasks_are_those_described() -> None:
    learner = learner_of(normalizer={"identity": IdentityOptions(weight=0.0)})
    step = Step(0, 0, 0, 4, 4)
    x0 = torch.randn(4, 2, 8, 8, generator=torch.Generator().manual_seed(0))
    total, parts = learner.loss({"x": x0}, step)
    total = total.detach()
    assert float(total) == pytest.approx(float(parts["diffusion"] + 0.5 * parts["flow"]), rel=1e-6)

    seen: dict[str, Any] = {}

    class Spy(torch.nn.Module):
        def forward(self, x: torch.Tensor, t: torch.Tensor, *, head: str) -> torch.Tensor:
            seen[head] = x, t
            return torch.zeros_like(x)

    learner.model = Spy()  # type: ignore[assignment]
    flow, diffusion = learner.task_loss("flow", x0, step), learner.task_loss("diffusion", x0, step)
    noise = step.noise(x0, "noise/flow")
    x, t = seen["flow"]
    share = ((t + 1) / 1000).view(-1, 1, 1, 1)  # of noise
    torch.testing.assert_close(x, (1 - share) * x0 + share * noise, rtol=1e-5, atol=1e-5)
    assert float(flow) == pytest.approx(float((x0 - noise).square().mean()), rel=1e-5)  # its target is z - noise
    noise = step.noise(x0, "noise/diffusion")
    x, t = seen["diffusion"]
    alpha_bar = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64), 0)[t].float().view(-1, 1, 1, 1)
    torch.testing.assert_close(x, alpha_bar.sqrt() * x0 + (1 - alpha_bar).sqrt() * noise, rtol=1e-4, atol=1e-4)
    assert float(diffusion) == pytest.approx(float(noise.square().mean()), rel=1e-5)


def test_one_step_from_the_truth_gives_the_sample_back() -> None:
    learner = learner_of()
    x0 = torch.randn(3, 2, 8, 8, generator=torch.Generator().manual_seed(0))
    noise = torch.randn(3, 2, 8, 8, generator=torch.Generator().manual_seed(1))
    answers = {"diffusion": noise, "flow": x0 - noise}
    learner.model = lambda x, t, head: answers[head]  # type: ignore[assignment]
    for head in answers:
        torch.testing.assert_close(learner.estimate(head, x0, noise), x0, rtol=1e-4, atol=1e-4)


def test_a_normalizer_learns_both_tasks(vae: Model, run_of: RunOf, tmp_path: Path) -> None:
    latents = write_latents(tmp_path / "z.h5", vae)
    run = run_of("train-diffusion", latents)
    loop = {"steps": 100, "batch_size": 16, "learning_rate": 4e-3, "log_every": 50}
    train_diffusion(run, options_of(loop, {"identity": IdentityOptions(weight=0.1, samples=2)}, vae=str(vae.path)))
    model = open_model(run.output, kind="normalizer")
    facts = NormalizerFacts.read(model.facts, "normalizer")
    assert (facts.space, facts.shape, facts.vae_digest) == ("latent", (2, 8, 8), vae.digest)
    assert {"validation_diffusion", "validation_flow", "validation_identity"} <= set(model.facts)
    assert vae.provenance.id in model.digests()
    network = UNet(convert(UNetConfig, model.config, "normalizer"))
    network.load_state_dict(model.weights())
    # Half of the samples at +1, half at -1, each with a spot that no normal sample has.
    sign = torch.where(torch.arange(16) < 8, 1.0, -1.0).view(-1, 1, 1, 1)
    x0 = sign.expand(16, 2, 8, 8).clone()
    x0[..., 3:5, 3:5] *= -1
    noise = torch.randn(16, 2, 8, 8, generator=torch.Generator().manual_seed(0))
    tasks = {"diffusion": (facts.schedule, "eps"), "flow": (facts.flow_schedule, "flow")}
    for head, (config, objective) in tasks.items():
        schedule = Schedule(convert(ScheduleConfig, config, head))
        start = schedule.time_of(0.4)
        noisy = schedule.add_noise(x0, noise, torch.full((16,), start))
        denoise = partial(network, head=head)
        with torch.inference_mode():
            led_back = sample(denoise, noisy, schedule, objective, SamplingOptions(steps=8), start=start)
        assert float((led_back - sign).abs().mean()) < 0.3, head
        assert float((led_back - sign)[..., 3:5, 3:5].abs().mean()) < 1.0, head  # was 2


def test_an_abnormal_case_in_the_training_split_is_an_error_that_names_it(
    vae: Model, run_of: RunOf, tmp_path: Path
) -> None:
    options = options_of(vae=str(vae.path))
    ill = write_latents(tmp_path / "ill.h5", vae, lambda number: int(number == 5))
    with pytest.raises(DataError, match=r"case case-05 .*not labelled 'normal'.*--train-only normal"):
        train_diffusion(run_of("train-diffusion", ill, "a"), options)
    unknown = write_latents(tmp_path / "unknown.h5", vae, names=("well", "ill"))
    with pytest.raises(DataError, match=r"its classes are well, ill; give normal ones the label 'normal'"):
        train_diffusion(run_of("train-diffusion", unknown, "b"), options)


def test_held_out_abnormal_cases_take_no_part_in_the_validation(vae: Model, run_of: RunOf, tmp_path: Path) -> None:
    figures = []
    for name, label in (("some", lambda number: int(number == 7)), ("none", lambda number: 0)):
        latents = write_latents(tmp_path / f"{name}.h5", vae, label)
        run = run_of("train-diffusion", latents, name)
        train_diffusion(run, options_of({"learning_rate": 1e-12}, vae=str(vae.path)))
        figures.append(run.reporter.report["validation_loss"])
    assert figures[0] != figures[1]
    all_ill = write_latents(tmp_path / "ill.h5", vae, lambda number: int(number % 4 == 3))
    run = run_of("train-diffusion", all_ill, "ill")
    train_diffusion(run, options_of({"steps": 1}, vae=str(vae.path)))
    assert "no normal case in a 'val' split" in run.reporter.warnings[0]


def test_the_vae_has_a_precision_of_its_own_that_is_kept(
    vae: Model, run_of: RunOf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def measured(network: object, training: bool) -> Times:
        """The VAE is not trained, and faster in bfloat16."""
        assert training == isinstance(network, UNetConfig)
        return Times(1.0, 1.0) if training else Times(2.0, 1.0)

    monkeypatch.setattr("medgen.models.precision.measured", measured)
    monkeypatch.setattr("medgen.models.precision.is_small", lambda network: False)
    latents = write_latents(tmp_path / "z.h5", vae)
    options = options_of({"steps": 2, "precision": "auto"}, vae=str(vae.path))
    run = run_of("train-diffusion", latents, "whole")
    train_diffusion(run, options)
    config = open_model(run.output).provenance.steps[-1].config["loop"]
    assert (config["precision"], config["vae_precision"]) == ("float32", "bfloat16")

    stopped = run_of("train-diffusion", latents, "parts")
    with monkeypatch.context() as patch:
        honest = NormalizerLearner.loss
        patch.setattr(NormalizerLearner, "loss", lambda *args: signal.raise_signal(signal.SIGTERM) or honest(*args))
        with pytest.raises(Terminated):
            train_diffusion(stopped, options)
    monkeypatch.setattr("medgen.models.precision.measured", lambda network, training: Times(0.5, 1.0))
    train_diffusion(stopped, options)
    assert stopped.output.read_bytes() == run.output.read_bytes()


def test_a_set_without_labels_counts_as_normal_and_says_so(vae: Model, run_of: RunOf, tmp_path: Path) -> None:
    run = run_of("train-diffusion", write_latents(tmp_path / "z.h5", vae, None, ()))
    train_diffusion(run, options_of({"steps": 1}, vae=str(vae.path)))
    assert run.reporter.warnings == ["the set has no labels, so every case is taken for a normal one"]


def test_the_vae_must_be_there_and_the_right_one(vae: Model, run_of: RunOf, tmp_path: Path) -> None:
    latents = write_latents(tmp_path / "z.h5", vae)
    with pytest.raises(UsageError, match="--vae"):
        train_diffusion(run_of("train-diffusion", latents), options_of())
    torch.manual_seed(5)
    other = save_model(
        tmp_path / "other.safetensors", kind="vae", config=plain(VAE_CONFIG), weights=VAE(VAE_CONFIG).state_dict(),
        facts=vae.facts, provenance=derive("train-vae", {"seed": 5}),
    )  # fmt: skip
    with pytest.raises(DataError, match=f"latents of the VAE {vae.digest[:12]}.* is the VAE {other.digest[:12]}"):
        train_diffusion(run_of("train-diffusion", latents), options_of(vae=str(other.path)))


def test_images_can_be_normalized_without_a_vae(images: Path, run_of: RunOf) -> None:
    run = run_of("train-diffusion", images)
    train_diffusion(run, options_of({"steps": 2}))
    facts = NormalizerFacts.read(open_model(run.output).facts, "normalizer")
    assert (facts.space, facts.shape, facts.stored_dtype) == ("image", (1, 32, 32), "int16")
    with pytest.raises(UsageError, match="leave out --vae"):
        train_diffusion(run_of("train-diffusion", images, "b"), options_of(vae="v.safetensors"))
