"""What keeps an aligned model close to real images: it goes on learning from them, and the average of its weights."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
from test_align import NETWORK, Reporter, asked, bright, folder, options_of

from medgen.artifacts.sets import open_set
from medgen.errors import ConfigError
from medgen.feedback.alignment.align_options import NFTOptions
from medgen.feedback.alignment.bound import Bound, Standing
from medgen.feedback.alignment.held_out import HeldOut
from medgen.feedback.alignment.learner import AlignLearner, Verdict
from medgen.feedback.alignment.rehearsal import Rehearsed
from medgen.feedback.alignment.sources import Asked, AskedGroups
from medgen.feedback.alignment.train import space_of, trainable
from medgen.models.policy import Policy
from medgen.models.trained import Denoiser
from medgen.nets.compute import autocast
from medgen.nets.condition import Condition
from medgen.nets.unet import UNet
from medgen.training.data.step import Step, seeded

__all__ = ["folder"]  # a fixture


def of(numbers: Sequence[int]) -> Condition:
    return Condition(vector=torch.tensor([[number / 24] for number in numbers]))


def test_each_sample_comes_with_a_real_image_of_the_training_split(folder: Path) -> None:
    source = AskedGroups(asked(), 4, 0)
    with open_set(folder / "real.h5", random_access=True) as stored:
        rehearsed = Rehearsed(source, stored, of, 0)
        batch = rehearsed.at(range(12))
        numbers = [round(24 * float(value)) for value in batch["real_vector"]]
        assert sorted(numbers) == list(range(0, 24, 2))  # each training image once; the others are held out
        assert stored.header.intensity is not None
        images = stored.header.intensity.normalized(stored.read("image", numbers))
        assert np.array_equal(batch["real_image"].numpy(), images)
        later = rehearsed.at(range(8, 12))
        assert all(torch.equal(later[name], batch[name][8:]) for name in later)
    assert torch.equal(batch["asked"], source.at(range(12))["asked"])


def learner_of(
    folder: Path,
    options: NFTOptions,
    real: Asked | None = None,
    others: Asked | None = None,
    verdict: Verdict | None = None,
) -> AlignLearner:
    denoiser = Denoiser.load(folder / "model.safetensors", torch.device("cpu"), "float32", tuned=False)
    space = space_of(denoiser.facts, None)
    with open_set(folder / "real.h5", random_access=True) as stored:
        held_out = HeldOut(stored, space.facts, space.shape, torch.device("cpu"), print)
    unet = trainable(denoiser.network, options)
    return AlignLearner(options, unet, space, bright, real or asked(), others, held_out, Reporter(), verdict)


def test_images_are_learned_from_at_the_noise_levels_asked_for(folder: Path) -> None:
    learner = learner_of(folder, options_of(NFTOptions, noise_range=(0.25, 0.5)))
    seen: list[float] = []

    def note(unet: UNet, given: tuple[torch.Tensor, ...]) -> None:
        if torch.is_grad_enabled():
            seen.extend(given[1].tolist())

    learner.model.unet.register_forward_pre_hook(note)
    learner.loss(AskedGroups(asked(), 8, 0).at(range(16)), Step(0, 0, 0, 16, 16))
    assert len(seen) == 32
    assert 0.25 * 999 <= min(seen) < 0.33 * 999
    assert 0.42 * 999 < max(seen) <= 0.5 * 999
    with pytest.raises(ConfigError, match="noise_range"):
        options_of(NFTOptions, noise_range=(0.5, 0.5))


def test_several_processes_expect_the_weights_that_no_loss_uses(folder: Path) -> None:
    learner = learner_of(folder, options_of(NFTOptions))
    loss, _ = learner.loss(AskedGroups(asked(), 8, 0).at(range(16)), Step(0, 0, 0, 16, 16))
    torch.autograd.backward(loss)
    idle = [name for name, weight in learner.model.named_parameters() if weight.requires_grad and weight.grad is None]
    assert idle  # the null condition's
    assert learner.idle_weights


def test_mixed_precision_sees_each_policy_as_it_is_and_moves_all_weights(folder: Path) -> None:
    """It keeps the weights that it has converted, which must be those of the policy at hand."""
    distances, moved = [], []
    for dtype in (torch.float32, torch.bfloat16):
        learner = learner_of(folder, options_of(NFTOptions))
        with torch.no_grad(), seeded(0, "moved"):
            for weight in learner.model.parameters():
                weight.add_(0.1 * torch.randn_like(weight))
        with autocast(torch.device("cpu"), dtype):
            loss, parts = learner.loss(AskedGroups(asked(), 8, 0).at(range(16)), Step(0, 0, 0, 16, 16))
        torch.autograd.backward(loss)
        distances.append(float(parts["distance"]))
        moved.append({name for name, weight in learner.model.named_parameters() if weight.grad is not None})
    assert moved[1] == moved[0]
    assert distances[1] == pytest.approx(distances[0], rel=0.1)


@pytest.mark.parametrize("weight", [0.0, 20.0])
def test_a_model_that_rehearses_draws_real_images_better_and_another_does_not(folder: Path, weight: float) -> None:
    learner = learner_of(folder, options_of(NFTOptions, rehearsal=weight))
    with open_set(folder / "real.h5", random_access=True) as stored:
        source = Rehearsed(AskedGroups(asked(), 8, 0), stored, of, 0)
        optimizer = torch.optim.Adam((one for one in learner.model.parameters() if one.requires_grad), lr=3e-3)
        told = []
        for _ in range(5):
            step = Step(0, 0, 0, 16, 16)  # the same images, times and noise each time
            loss, parts = learner.loss(source.at(step.positions), step)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            learner.model.old.follow(0)
            told.append(float(parts["rehearsal"]))
    assert (told[-1] < 0.97 * told[0]) == bool(weight)


def test_the_average_of_the_weights_is_what_is_checked_and_kept() -> None:
    policy = Policy(UNet(NETWORK))
    weight = next(policy.unet.parameters())
    with torch.no_grad():
        weight.fill_(0.0)
        policy.average.follow(0)
        policy.kept.follow(0)
        weight.fill_(1.0)
    policy.average.follow(0.75)
    measured: list[float] = []

    def measure() -> Standing:
        measured.append(weight.mean().item())
        return Standing(1.0 if measured[-1] < 0.3 else 9.0, None)

    bound = Bound(policy, measure, 0.1, 1, Reporter())
    bound.check(1)
    assert measured[-1] == pytest.approx(0.25)
    assert weight.mean().item() == 1.0  # the training goes on from where it was
    policy.average.follow(0.5)
    bound.check(2)
    assert not bool(policy.broken)
    assert measured[-1] == pytest.approx(0.625)
    bound.check(3)
    assert bool(policy.broken)
    bound.settle(3)
    assert weight.mean().item() == pytest.approx(0.25)


def test_a_policy_is_not_checked_in_its_warm_up() -> None:
    bound = Bound(Policy(UNet(NETWORK)), lambda: Standing(1.0, None), 0.1, 4, Reporter(), 8)
    assert [done for done in range(1, 17) if bound.due(done)] == [12, 16]


def test_distances_are_of_images_of_what_the_real_ones_show_and_scores_of_those_asked_for(folder: Path) -> None:
    options = options_of(NFTOptions, check_images=4)
    real = Asked(range(1, 24, 2), of)

    def standing(real: Asked, others: Asked | None) -> Standing:
        return learner_of(folder, options, real, others).bound.begun

    both, theirs, others = standing(real, asked()), standing(real, None), standing(asked(), None)
    assert (both.frechet, both.frechet_asked, both.score) == (theirs.frechet, others.frechet, others.score)
    assert theirs.frechet != others.frechet
    assert both.figures("before").keys() == {"frechet_before", "frechet_asked_before", "score_before"}


def test_damage_to_what_was_asked_for_is_told_though_it_does_not_stop() -> None:
    told = [Standing(1.0, 2.0, 5.0), Standing(1.0, 3.0, 9.0)]
    reporter = Reporter()
    bound = Bound(Policy(UNet(NETWORK)), lambda: told.pop(0), 0.1, 4, reporter)
    assert bound.settle(4)["updates"] == 4
    assert len(reporter.warnings) == 1
    assert "from 5 to 9" in reporter.warnings[0]


def test_one_check_beyond_the_bound_is_let_pass_and_the_second_in_a_row_ends_it() -> None:
    told = [Standing(distance, None) for distance in (1.0, 2.0, 1.0, 2.0, 2.0, 1.05)]
    reporter = Reporter()
    policy = Policy(UNet(NETWORK))
    bound = Bound(policy, lambda: told.pop(0), 0.1, 4, reporter, 8)
    ended = []
    for done in (12, 16, 20, 24):
        bound.check(done)
        ended.append(bool(policy.broken))
    assert ended == [False, False, False, True]
    assert bound.settle(24)["updates"] == 16
    assert len(reporter.warnings) == 1
    assert "after 24 updates" in reporter.warnings[0]
    assert "the weights after 16 updates" in reporter.warnings[0]
