"""The siamese learner: what each term teaches, what it writes, and that samples come to follow their masks."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from msgspec.structs import replace

from medgen.artifacts.model_file import open_model, save_model
from medgen.artifacts.provenance import derive
from medgen.artifacts.schema import Case, Intensity, SetHeader
from medgen.artifacts.sets import create_set, open_set
from medgen.config import plain
from medgen.diffusion.options import SamplingOptions, ScheduleConfig
from medgen.diffusion.sampling import sample
from medgen.diffusion.siamese import emphasis
from medgen.errors import ConfigError, DataError, Terminated
from medgen.models.facts import DenoiserFacts, VAEFacts
from medgen.models.trained import Denoiser
from medgen.nets.condition import Condition
from medgen.nets.options import SideConfig, UNetConfig, VAEConfig
from medgen.nets.unet import UNet
from medgen.nets.vae import VAE
from medgen.training.data.slices import Slices
from medgen.training.data.step import Step
from medgen.training.learners.diffusion import train_diffusion
from medgen.training.learners.diffusion_options import DenoiserOptions, SiameseOptions
from medgen.training.learners.siamese import SiameseLearner
from medgen.training.learners.siamese_options import SiameseLosses
from medgen.training.loop.options import LoopOptions
from medgen.training.loop.run import Run
from tests.unit.training.test_training_loop import interrupting

RunOf = Callable[..., Run]
NETWORK = UNetConfig(
    in_channels=1, out_channels=1, widths=(8, 16), blocks=1, attention=("none", "none"), mid_attention="none",
    head_width=8, time_width=32, groups=4,
)  # fmt: skip
SCHEDULE = ScheduleConfig(kind="scaled_linear", beta_start=0.00085, beta_end=0.012)
MASK_ALONE = SiameseLosses(image=0.0, consistency=0.0, augmentation=0.0)
LATE = Step(0, 3, 0, 4, 4, "train", 0.9)


def at(total: int, progress: float = 0.0) -> Step:
    return Step(0, 3, 0, total, total, "train", progress)


def options_of(loop: dict[str, Any] | None = None, **changes: Any) -> SiameseOptions:
    values: dict[str, Any] = {
        "steps": 4, "batch_size": 4, "learning_rate": 2e-3, "precision": "float32", "validation_samples": 8,
        "log_every": 1, "save_every": 0, "ema": 0.9,
    }  # fmt: skip
    made = {
        "network": NETWORK, "schedule": SCHEDULE, "objective": "v", "hint_width": 4,
        "loop": LoopOptions(**(values | (loop or {}))),
    }  # fmt: skip
    return SiameseOptions(**(made | changes))


def fresh_learner(**changes: Any) -> SiameseLearner:
    """A learner whose network is already fitted to masks of one class."""
    return SiameseLearner(options_of(network=replace(NETWORK, side=SideConfig(hint_width=4)), **changes), 1)


def pairs(count: int, side: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Dark images with a bright disc where the mask is, [-1, 1]; every fifth one has none."""
    random = np.random.default_rng(seed)
    rows, columns = np.mgrid[0:side, 0:side]
    masks = np.zeros((count, 1, side, side), np.uint8)
    for number in range(count):
        if number % 5:
            y, x = random.uniform(3, side - 3, 2)
            masks[number, 0] = (rows - y) ** 2 + (columns - x) ** 2 < random.uniform(2, 4) ** 2
    return -0.6 + 1.2 * masks + 0.1 * random.normal(size=masks.shape), masks


def write_pairs(
    path: Path, *, masks: bool = True, fields: tuple[str, ...] = (), side: int = 16, shown: str = "disc"
) -> Path:
    """Pairs of images and masks; every fourth case is held out."""
    header = SetHeader(
        "image", derive("make", {"masks": masks}), Intensity(scale=0.01, offset=0, unit="", window=(-1.0, 1.0)), fields,
        mask_names=("background", shown) if masks else (),
    )  # fmt: skip
    images, labels = pairs(120, side, 0)
    with create_set(path, header) as writer:
        for number in range(len(images)):
            arrays: dict[str, Any] = {"image": (100 * images[number : number + 1]).astype(np.int16)}
            if masks:
                arrays["mask"] = labels[number : number + 1]
            if fields:
                arrays["vector"] = np.zeros((1, len(fields)), np.float32)
            writer.write(Case(f"case-{number:03d}", arrays, "val" if number % 4 == 3 else "train"))
    return path


@pytest.fixture(scope="module")
def masked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pairs(tmp_path_factory.mktemp("pairs") / "pairs.h5")


def batch_of(count: int = 4) -> dict[str, torch.Tensor]:
    images, masks = pairs(count, 16, 1)
    return {"x": torch.from_numpy(images).float(), "mask": torch.from_numpy(masks).float()}


def learner_of(**changes: Any) -> SiameseLearner:
    learner = fresh_learner(**changes)
    torch.manual_seed(3)
    for weight in learner.model.parameters():  # a new network answers zero to everything
        if not weight.any():
            torch.nn.init.normal_(weight, std=0.1)
    return learner


def gradients(learner: SiameseLearner, step: Step = LATE) -> dict[str, torch.Tensor]:
    """The gradient of the loss on one fixed batch, by the names of the weights; zeros where there is none."""
    learner.model.zero_grad()
    learner.loss(batch_of(), step)[0].backward()
    return {
        name: torch.zeros_like(weight) if weight.grad is None else weight.grad.clone()
        for name, weight in learner.model.named_parameters()
    }


def test_the_loss_is_the_weighted_sum_of_its_named_parts() -> None:
    weights = {"mask": 1.0, "image": 0.5, "consistency": 2.0, "augmentation": 3.0}
    learner = learner_of(losses=SiameseLosses(**weights, augmentation_time=1.0))
    total, parts = learner.loss(batch_of(), LATE)
    total = total.detach()
    assert list(parts) == list(weights)
    assert all(float(part) > 0 for part in parts.values())
    assert float(total) == pytest.approx(sum(weights[name] * float(part) for name, part in parts.items()), rel=1e-5)
    total, parts = learner_of(losses=MASK_ALONE).loss(batch_of(), LATE)
    assert list(parts) == ["mask"]
    assert float(total.detach()) == pytest.approx(float(parts["mask"]))


def test_the_parts_equal_those_of_separate_passes() -> None:
    learner, batch = learner_of(losses=SiameseLosses(augmentation_time=1.0), condition_dropout=0.0), batch_of()
    _, parts = learner.loss(batch, LATE)
    x0, noise = batch["x"], LATE.noise(batch["x"])
    t = learner.schedule.sample_times(4, LATE.generator("time"))
    x_t, condition = learner.schedule.add_noise(x0, noise, t), Condition(mask=batch["mask"])
    unet, side = learner.model.unet, learner.model.side
    alpha, sigma = learner.schedule.alpha_sigma_for(x0, t)
    target = alpha * noise - sigma * x0
    seen = unet.see(x_t, t, condition)
    of_mask = side(x_t, seen.embedding, None, batch["mask"])
    hint = side.hint.features(learner.model.image_entry(x0))
    mixed = [m + 0.9 * i for m, i in zip(of_mask, side.residuals(x_t, seen.embedding, None, hint), strict=True)]
    by_mask, by_image = unet(x_t, t, condition), unet(x_t, t, condition, residuals=mixed)
    estimate = alpha * x_t - sigma * by_image
    again = unet(alpha * estimate + sigma * noise, t, condition)
    expected = {
        "mask": (by_mask - target).square().mean(),
        "image": (by_image - target).square().mean(),
        "consistency": (by_mask - by_image).square().mean(),
        "augmentation": (again - (alpha * noise - sigma * estimate)).square().mean(),
    }
    for name, value in expected.items():
        torch.testing.assert_close(parts[name], value.detach(), rtol=1e-3, atol=1e-5)


def test_without_consistency_the_branches_are_independent() -> None:
    """No term of one branch reaches what belongs to the other alone."""
    both = SiameseLosses(consistency=0.0, augmentation=0.0)
    alone = gradients(learner_of(losses=MASK_ALONE))
    together = gradients(learner_of(losses=both))
    entry = "unet.side.hint.entry.weight"  # of the mask
    torch.testing.assert_close(together[entry], alone[entry], rtol=1e-3, atol=1e-6)
    assert not alone["image_entry.weight"].any()
    assert together["image_entry.weight"].any()
    led = gradients(learner_of(losses=SiameseLosses(augmentation=0.0)))
    assert (led[entry] - alone[entry]).abs().max() > 1e-3 * alone[entry].abs().max()
    torch.testing.assert_close(led["image_entry.weight"], together["image_entry.weight"], rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("weights", [{"consistency": 1.0}, {"augmentation": 1.0, "augmentation_time": 1.0}])
def test_the_image_branch_learns_from_its_own_term_alone(weights: dict[str, float]) -> None:
    learner = learner_of(losses=replace(MASK_ALONE, **weights))
    found = gradients(learner)
    assert not found["image_entry.weight"].any()
    assert not learner.idle_weights  # in the graph all the same, since both branches are one batch
    assert learner_of(losses=MASK_ALONE).idle_weights
    entry = "unet.side.hint.entry.weight"
    assert (found[entry] - gradients(learner_of(losses=MASK_ALONE))[entry]).any()


def test_online_augmentation_begins_after_a_third_and_near_the_data() -> None:
    learner = learner_of()
    t = learner.schedule.sample_times(64, at(64).generator("time"))
    early, late = at(64, 0.33), at(64, 0.34)
    assert "augmentation" not in learner.loss(batch_of(64), early)[1]
    called: list[torch.Tensor] = []
    learner.model.unet.register_forward_pre_hook(lambda module, arguments: called.append(arguments[1]))
    assert "augmentation" in learner.loss(batch_of(64), late)[1]
    assert sorted(called[0].tolist()) == sorted(t[t <= 200].tolist())
    far = learner_of(losses=SiameseLosses(augmentation_time=0.0))
    assert float(far.loss(batch_of(4), LATE)[1]["augmentation"]) == 0
    assert "augmentation" in learner.loss(batch_of(4), Step(0, 0, 0, 4, 4, "validation"))[1]


def test_parts_of_a_batch_give_the_gradient_of_the_whole() -> None:
    """A step may be shared by processes, or accumulated."""
    learner, batch = learner_of(), batch_of(8)
    whole, _ = learner.loss(batch, Step(0, 3, 0, 8, 8, "train", 0.9))
    halves = []
    for first in (0, 4):
        half = {name: part[first : first + 4] for name, part in batch.items()}
        halves.append(learner.loss(half, Step(0, 3, first, 4, 8, "train", 0.9))[0])
    torch.testing.assert_close(whole, sum(halves) / 2, rtol=1e-4, atol=1e-5)


def test_lesions_count_as_often_as_asked() -> None:
    batch = batch_of()
    learner = fresh_learner(losses=MASK_ALONE, lesion_weight=9.0)  # answers zero
    _, parts = learner.loss(batch, LATE)
    noise, t = LATE.noise(batch["x"]), learner.schedule.sample_times(4, LATE.generator("time"))
    alpha, sigma = learner.schedule.alpha_sigma_for(noise, t)
    squares = (alpha * noise - sigma * batch["x"]).square()
    weights = 1 + 8 * batch["mask"]
    expected = ((squares * weights).sum((1, 2, 3)) / weights.sum((1, 2, 3))).mean()
    torch.testing.assert_close(parts["mask"], expected, rtol=1e-4, atol=1e-5)
    assert abs(float(expected - squares.mean())) > 1e-3
    assert emphasis(batch["mask"], torch.Size((8, 8)), 9.0) is not None  # in latents too


def test_image_and_mask_are_mirrored_together() -> None:
    learner = learner_of(flip=True, losses=MASK_ALONE)
    seen: list[torch.Tensor] = []
    learner.latents = lambda images: seen.append(images) or images  # type: ignore[func-returns-value]
    hooked: list[torch.Tensor] = []
    learner.model.side.register_forward_pre_hook(lambda module, arguments: hooked.append(arguments[3]))
    batch = batch_of(16)
    learner.loss(batch, at(16))
    mirrored = (seen[0] != batch["x"]).flatten(1).any(1)
    assert 0 < int(mirrored.sum()) < 16
    for number in range(16):
        expected = batch["mask"][number].flip(-1) if mirrored[number] else batch["mask"][number]
        assert torch.equal(hooked[0][number], expected)
    learner.loss(batch, Step(0, 0, 0, 16, 16, "validation"))
    assert torch.equal(seen[1], batch["x"])


def test_samples_come_to_follow_their_masks() -> None:
    learner = fresh_learner()
    optimizer = torch.optim.Adam(learner.model.parameters(), lr=5e-3)
    steps = 130
    for index in range(steps):
        images, masks = pairs(8, 16, index)
        batch = {"x": torch.from_numpy(images).float(), "mask": torch.from_numpy(masks).float()}
        loss, _ = learner.loss(batch, Step(0, index, 0, 8, 8, "train", index / steps))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(learner.model.parameters(), 1.0)
        optimizer.step()
    _, drawn = pairs(20, 16, 999)
    masks = torch.from_numpy(drawn).float()
    unet = learner.model.unet.eval()
    noise = torch.randn(20, 1, 16, 16, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        images = sample(
            lambda x, t: unet(x, t, Condition(mask=masks)), noise, learner.schedule, "v", SamplingOptions(steps=8)
        )
    bright = (images > 0).float()
    ill = masks.sum((1, 2, 3)) > 0

    def dice(others: torch.Tensor) -> float:
        return float((2 * (bright * others).sum((1, 2, 3)) / (bright + others).sum((1, 2, 3)).clamp(min=1))[ill].mean())

    assert dice(masks) > 0.7
    assert dice(masks.roll(1, 0)) < 0.4
    assert bright[~ill].mean() < 0.05  # without a lesion there is none


def test_a_training_writes_a_denoiser_that_takes_masks(masked: Path, run_of: RunOf) -> None:
    run = run_of("train-diffusion", masked)
    train_diffusion(run, options_of())
    model = open_model(run.output, kind="denoiser")
    facts = DenoiserFacts.read(model.facts, "model")
    assert (facts.space, facts.shape, facts.mask_names) == ("image", (1, 16, 16), ("background", "disc"))
    assert {f"validation_{name}" for name in ("mask", "image", "consistency", "augmentation")} <= set(model.facts)
    denoiser = Denoiser.load(run.output, torch.device("cpu"))
    assert denoiser.network.config.side == SideConfig(classes=1, factor=1, hint_width=4)
    assert not any("image_entry" in name for name in model.header.tensors)  # the image branch's own is left behind
    assert set(model.weights()) == set(UNet(denoiser.network.config).state_dict()) == set(model.weights(ema=False))
    x, t = torch.randn(2, 1, 16, 16), torch.tensor([3, 700])
    masks = torch.from_numpy(pairs(2, 16, 0)[1]).float()
    assert denoiser(x, t, Condition(mask=masks)).shape == x.shape


def test_stopped_and_gone_on_with_ends_in_the_same_bytes(
    masked: Path, run_of: RunOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = options_of({"accumulate": 2}, flip=True, losses=SiameseLosses(augmentation_from=0.0))
    whole, parts = run_of("train-diffusion", masked, "whole"), run_of("train-diffusion", masked, "parts")
    train_diffusion(whole, options)
    with monkeypatch.context() as patch:
        interrupting(SiameseLearner, 2, signal.SIGTERM, patch)
        with pytest.raises(Terminated):
            train_diffusion(parts, options)
    train_diffusion(parts, options)
    assert parts.output.read_bytes() == whole.output.read_bytes()


def trunk_of(masked: Path, run_of: RunOf, **changes: Any) -> Path:
    """A denoiser of the same images, trained without masks."""
    run = run_of("train-diffusion", masked, "trunk.safetensors")
    options = {name: getattr(options_of(), name) for name in ("schedule", "objective", "loop")}
    train_diffusion(run, DenoiserOptions(**(options | {"network": NETWORK} | changes)))
    return run.output


@pytest.mark.parametrize("trunk", ["frozen", "decoder", "all"])
def test_of_a_trained_trunk_only_what_is_unlocked_changes(trunk: Any, masked: Path, run_of: RunOf) -> None:
    begin = trunk_of(masked, run_of)
    run = run_of("train-diffusion", masked, "model.safetensors")
    train_diffusion(run, options_of({"ema": 0.0}, init=str(begin), trunk=trunk))
    before, after = open_model(begin).weights(), open_model(run.output).weights()
    kept = {name for name, weight in before.items() if torch.equal(weight, after[name])}
    changed = {name.partition(".")[0] for name in after if name not in kept}
    assert (
        changed
        == {
            "frozen": {"side"},
            "decoder": {"side", "up", "outputs"},
            "all": {"side", "up", "outputs", "down", "middle", "time"},
        }[trunk]
    )
    assert open_model(begin).provenance.id in open_model(run.output).digests()


def test_before_the_first_step_it_answers_as_the_trunk_does_to_the_bit(masked: Path, run_of: RunOf) -> None:
    begin = open_model(trunk_of(masked, run_of))
    learner = fresh_learner()
    learner.begin_from(begin)
    alone = UNet(NETWORK)
    alone.load_state_dict(begin.weights())
    batch, t = batch_of(), torch.tensor([0, 100, 500, 999])
    with torch.no_grad():
        answer = learner.model.unet(batch["x"], t, Condition(mask=batch["mask"]))
        assert answer.any()
        assert torch.equal(answer, alone(batch["x"], t))
        of_mask, of_image = learner.model(batch["x"], t, Condition(mask=batch["mask"]), batch["x"], 1.0)
        torch.testing.assert_close(of_mask, answer, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(of_image, answer, rtol=1e-4, atol=1e-5)


def test_a_training_goes_on_from_a_model_with_masks(masked: Path, run_of: RunOf) -> None:
    first, second = run_of("train-diffusion", masked, "a"), run_of("train-diffusion", masked, "b")
    train_diffusion(first, options_of())
    train_diffusion(second, options_of({"steps": 1, "learning_rate": 1e-12, "ema": 0.0}, init=str(first.output)))
    before, after = open_model(first.output).weights(), open_model(second.output).weights()
    for name, weight in after.items():
        torch.testing.assert_close(weight, before[name], rtol=1e-4, atol=1e-6)


def test_a_trunk_of_another_shape_is_refused_with_what_differs(masked: Path, run_of: RunOf) -> None:
    wide = replace(NETWORK, widths=(16, 32))
    begin = trunk_of(masked, run_of, network=wide, objective="eps")
    with pytest.raises(DataError) as refused:
        train_diffusion(run_of("train-diffusion", masked, "b"), options_of(init=str(begin)))
    assert "network.widths ((16, 32) there, (8, 16) here)" in str(refused.value)
    assert "objective (eps there, v here)" in str(refused.value)
    assert "network.blocks" not in str(refused.value)


def test_what_cannot_be_trained_is_refused_with_the_remedy(
    masked: Path, run_of: RunOf, tmp_path: Path, latents: Path
) -> None:
    def refused(error: type[Exception], message: str, source: Path, **changes: Any) -> None:
        with pytest.raises(error, match=message):
            train_diffusion(run_of("train-diffusion", source, "x"), options_of(**changes))

    bare, placed, odd = tmp_path / "bare.h5", tmp_path / "placed.h5", tmp_path / "odd.h5"
    refused(DataError, "no masks to learn from; preprocess it with --masks", write_pairs(bare, masks=False))
    refused(DataError, "give the set of images, and the VAE with --vae", latents)
    refused(ConfigError, "trunk = frozen keeps a trained trunk unchanged; name it with --init", masked, trunk="frozen")
    sided = replace(NETWORK, side=SideConfig(classes=3))
    refused(ConfigError, "network.side: the siamese learner fits it to the masks", masked, network=sided)
    refused(ConfigError, "set flip = false", write_pairs(placed, fields=("x",)), flip=True)
    left = write_pairs(tmp_path / "left.h5", shown="left lung")
    refused(ConfigError, r"sides in the names of their classes \(left lung\); set flip = false", left, flip=True)
    refused(DataError, "sides must be multiples of 2; resize in preprocess", write_pairs(odd, side=15))
    with pytest.raises(ConfigError, match=r"losses\.mask is 0"):
        SiameseLosses(mask=0.0)


def test_latents_are_made_as_it_goes(masked: Path, run_of: RunOf, tmp_path: Path) -> None:
    config = VAEConfig(in_channels=1, out_channels=1, latent_channels=2, widths=(8, 16), blocks=1)
    with open_set(masked, random_access=True) as stored:
        intensity = stored.header.intensity
    torch.manual_seed(0)
    vae = save_model(
        tmp_path / "vae.safetensors", kind="vae", config=plain(config), weights=VAE(config).state_dict(),
        facts=msgspec.to_builtins(VAEFacts(intensity, latent_scale=0.5, latent_shift=0.25)),
        provenance=derive("train-vae", {}),
    )  # fmt: skip
    run = run_of("train-diffusion", masked)
    train_diffusion(run, options_of(vae=str(vae.path), lesion_weight=4.0))
    model = open_model(run.output)
    facts = DenoiserFacts.read(model.facts, "model")
    assert (facts.space, facts.shape, facts.vae_digest) == ("latent", (2, 8, 8), vae.digest)
    assert (facts.latent_scale, facts.latent_shift) == (0.5, 0.25)
    assert model.config["side"] == {"classes": 1, "factor": 2, "hint_width": 4}
    assert vae.provenance.id in model.digests()


def test_images_without_a_lesion_are_trained_on(masked: Path) -> None:
    with open_set(masked, random_access=True) as stored:
        masks = Slices(stored, "train", 0, masks=True).at(range(90))["mask"]
    assert int((masks.sum((1, 2, 3)) == 0).sum()) == 18
