from __future__ import annotations

import torch

from medgen.training.data.step import Step, mix, seeded


def test_noise_belongs_to_the_sample_not_to_the_batch() -> None:
    like = torch.empty(8, 3, 2, 2)
    whole = Step(5, 7, 0, 8, 8).noise(like)
    parts = [Step(5, 7, offset, 2, 8).noise(like[:2]) for offset in (0, 2, 4, 6)]
    assert torch.equal(whole, torch.cat(parts))
    assert abs(float(whole.mean())) < 0.35
    assert not torch.equal(whole, Step(5, 8, 0, 8, 8).noise(like))
    assert not torch.equal(whole, Step(6, 7, 0, 8, 8).noise(like))
    assert not torch.equal(whole, Step(5, 7, 0, 8, 8, "validation").noise(like))
    assert not torch.equal(whole, Step(5, 7, 0, 8, 8).noise(like, "other"))


def test_draws_over_a_step_are_shared_out() -> None:
    def draw(step: Step) -> torch.Tensor:
        return step.own(torch.rand(step.total, generator=step.generator("time")))

    whole = draw(Step(5, 7, 0, 6, 6))
    assert torch.equal(whole, torch.cat([draw(Step(5, 7, 0, 3, 6)), draw(Step(5, 7, 3, 3, 6))]))
    assert list(Step(5, 7, 3, 3, 6).positions) == [45, 46, 47]


def test_seeds_do_not_collide_and_the_global_generator_is_left_alone() -> None:
    assert len({mix(seed, name, number) for seed in range(9) for name in "ab" for number in range(9)}) == 162
    before = torch.get_rng_state()
    with seeded(1, "weights"):
        first = torch.rand(3)
    with seeded(1, "weights"):
        assert torch.equal(first, torch.rand(3))
    assert torch.equal(before, torch.get_rng_state())
