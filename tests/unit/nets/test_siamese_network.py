"""Both branches in one pass equal two passes, and gradients stop where they should."""

from __future__ import annotations

import pytest
import torch

from medgen.nets.condition import Condition
from medgen.nets.options import Hint
from medgen.nets.side.siamese import Siamese
from tests.unit.nets.test_side import MASK, SIDED, TIME, X, awake, randn

IMAGE = randn(2, 3, 16, 16, seed=4)
GIVEN = Condition(mask=MASK)


def build(hint: Hint = "sum") -> Siamese:
    network = awake(Siamese(SIDED, 3, hint))
    assert isinstance(network, Siamese)
    return network


def apart(network: Siamese, condition: Condition, weight: float) -> tuple[torch.Tensor, torch.Tensor]:
    """The answers of the branches by whole passes of their own."""
    unet, side = network.unet, network.side
    seen = unet.see(X, TIME, condition)
    of_mask = side(X, seen.embedding, seen.tokens, MASK)
    shown = network.image_entry(IMAGE) + (side.hint.entry(MASK) if network.hint == "concat" else 0)
    of_image = side.residuals(X, seen.embedding, seen.tokens, side.hint.features(shown))
    mixed = [mask + weight * image for mask, image in zip(of_mask, of_image, strict=True)]
    return unet(X, TIME, condition), unet(X, TIME, condition, residuals=mixed)


@pytest.mark.parametrize("hint", ["sum", "concat"])
@pytest.mark.parametrize("present", [None, torch.tensor([True, False])])
def test_one_pass_of_two_branches_equals_two_passes(hint: Hint, present: torch.Tensor | None) -> None:
    network, condition = build(hint), Condition(mask=MASK, present=present)
    for ours, theirs in zip(network(X, TIME, condition, IMAGE, 0.5), apart(network, condition, 0.5), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)
    of_mask, of_image = network(X, TIME, condition, IMAGE, 0.0)
    torch.testing.assert_close(of_mask, of_image, atol=1e-5, rtol=1e-4)
    assert (of_mask - network(X, TIME, condition, IMAGE, 1.0)[1]).abs().max() > 1e-3


@pytest.mark.parametrize("hint", ["sum", "concat"])
def test_the_variants_differ_in_whether_the_image_branch_sees_the_mask_in_its_hint(hint: Hint) -> None:
    network = build(hint)
    side, mask = network.side, MASK.clone().requires_grad_()
    for output in side.outputs:
        torch.nn.init.zeros_(output.bias)
    network(X, TIME, Condition(mask=mask), IMAGE, 1.0)[1].square().sum().backward()
    # Of the mask branch's residuals nothing flows back; what arrives at the mask came through the image's hint.
    assert (mask.grad is not None and bool(mask.grad.any())) == (hint == "concat")


def test_the_image_branch_teaches_shared_weights_but_not_through_the_masks_residuals() -> None:
    network = build()
    network(X, TIME, GIVEN, IMAGE, 0.0)[1].square().sum().backward()
    side = [weight.grad for weight in network.side.parameters()]
    assert all(grad is None or not grad.any() for grad in side)  # at weight 0 only the mask's residuals are there
    assert network.unet.up.levels[0][0].residual.conv1.weight.grad.any()
    network.zero_grad()
    network(X, TIME, GIVEN, IMAGE, 1.0)[1].square().sum().backward()
    assert network.side.down.input.weight.grad.any()
    assert network.image_entry.weight.grad.any()
    assert not network.side.hint.entry.weight.grad.any()  # the mask's own entry hears nothing of the image branch


def test_the_mask_branch_is_what_sampling_runs() -> None:
    network = build()
    torch.testing.assert_close(
        network(X, TIME, GIVEN, IMAGE, 0.7)[0], network.unet(X, TIME, GIVEN), atol=1e-5, rtol=1e-4
    )
    assert {name.partition(".")[0] for name in network.state_dict()} == {"unet", "image_entry"}
