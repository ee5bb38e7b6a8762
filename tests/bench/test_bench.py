"""The bench itself: it takes turns, compares what is equal, and runs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from .table import Contest, Row, rendered, take_turns
from .terms import has_bfloat16


def test_contestants_take_turns_and_the_warm_up_does_not_count(monkeypatch):
    turns: list[str] = []
    now = {"time": 0.0}
    monkeypatch.setattr("time.perf_counter", lambda: now["time"])

    def work(name: str, *spans: float):
        left = list(spans)

        def once() -> None:
            turns.append(name)
            now["time"] += left.pop(0)

        return once

    contest = Contest("work", "terms", {"medgen": work("medgen", 0.1, 4.0, 2.0), "other": work("other", 0.1, 5.0, 6.0)})
    row = take_turns(contest, rounds=2)
    assert turns == ["medgen", "other"] * 3
    assert row.seconds == pytest.approx({"medgen": 2.0, "other": 5.0})
    assert row.ratios() == pytest.approx({"other": 2.5})


def test_the_table_names_repeated_work_once():
    rows = [
        Row("decode", "float32", {"medgen": 2.0, "MONAI": 3.0}),
        Row("decode", "bfloat16", {"medgen": 0.5, "MONAI": 1.0}),
    ]
    assert rendered(rows).splitlines()[2:] == [
        "| decode | float32 | 2.00 s | MONAI 1.50 |",
        "|  | bfloat16 | 500 ms | MONAI 2.00 |",
    ]


@pytest.mark.parametrize("kind", ["unets", "vaes"])
def test_networks_have_equal_parameters_and_answer_in_equal_shapes(kind):
    pytest.importorskip("monai", reason="comes with the bench extra")
    from . import networks

    made = networks.unets((32, 64), flash=False) if kind == "unets" else networks.vaes((16, 32))
    sizes = [sum(p.numel() for p in entry.network.parameters()) for entry in made.values()]
    assert max(sizes) < 1.03 * min(sizes)
    with torch.inference_mode():
        if kind == "unets":
            x, t = torch.randn(2, 8, 8, 8), torch.tensor([3, 500])
            shapes = {entry.call(entry.network, x, t).shape for entry in made.values()}
        else:
            x = torch.randn(2, 1, 16, 16)
            shapes = {entry.decode(entry.network, entry.encode(entry.network, x)).shape for entry in made.values()}
    assert shapes == {x.shape}


def test_networks_under_masks_do_the_same_work():
    pytest.importorskip("monai", reason="comes with the bench extra")
    from medgen.nets.condition import Condition
    from medgen.nets.side.siamese import Siamese
    from medgen.nets.unet import UNet

    from .side_contests import controlled, masked_config, one_by_one

    def size(*networks):
        return sum(p.numel() for network in networks for p in network.parameters())

    config = masked_config((32, 64))
    ours, (unet, control) = UNet(config), controlled((32, 64))
    assert size(ours) - size(ours.side) == size(unet)
    bare = size(ours.side) - size(ours.side.hint)
    time = size(control.time_embedding)  # medgen's side network takes the trunk's
    assert bare == size(control) - size(control.controlnet_cond_embedding) - time
    network = Siamese(config, 3, "sum")
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    x, t, mask = torch.randn(2, 4, 8, 8), torch.tensor([3, 500]), Condition(mask=torch.ones(2, 1, 64, 64))
    image = torch.randn(2, 3, 64, 64)
    for at_once, apart in zip(network(x, t, mask, image, 1.0), one_by_one(network, x, t, mask, image), strict=True):
        torch.testing.assert_close(at_once, apart, rtol=1e-3, atol=1e-4)


def test_networks_under_texts_are_the_same():
    pytest.importorskip("monai", reason="comes with the bench extra")
    from medgen.nets.condition import Condition

    from .text_contests import LENGTH, context_width, reading

    widths = (32, 64)
    ours, theirs = reading(widths)
    assert sum(p.numel() for p in ours.parameters()) == sum(p.numel() for p in theirs.parameters())
    x, t, states = torch.randn(2, 4, 8, 8), torch.tensor([3, 500]), torch.randn(2, LENGTH, context_width(widths))
    with torch.inference_mode():
        torch.testing.assert_close(
            ours(x, t, Condition(tokens=states)), theirs(x, t, states).sample, rtol=1e-3, atol=1e-3
        )


def test_figures_of_evaluation_agree_with_those_they_are_timed_against():
    pytest.importorskip("torchmetrics")
    from .evaluation_contests import Figures, evaluation_contests

    torch.manual_seed(0)
    contests = list(evaluation_contests(Figures(images=2, side=192, features=8, few=6, many=40, subsets=40)))
    for contest in contests:
        if "PSNR" in contest.work:
            ours, theirs = (work() for work in contest.contestants.values())
            for name, values in zip(("psnr", "ssim", "ms_ssim"), theirs, strict=True):
                torch.testing.assert_close(torch.from_numpy(ours.values(name)).float(), values, rtol=1e-3, atol=1e-3)
        else:
            ours, theirs = (float(work()) for work in contest.contestants.values())
            tolerance = {"rel": 0.5, "abs": 0.5} if "kernel" in contest.work else {"rel": 1e-3}
            assert ours == pytest.approx(theirs, **tolerance), contest.work


@pytest.mark.parametrize("arguments", [["networks", "masks", "text"], ["commands", "--only", "uncompressed"]], ids=str)
def test_it_runs(arguments):
    pytest.importorskip("monai", reason="comes with the bench extra")
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-m", "tests.bench", "--quick", "--rounds", "1", *arguments],
        cwd=root,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    table = done.stdout.splitlines()
    assert "torch" in table[0]
    precisions = 2 + has_bfloat16(torch.device("cpu"))
    assert sum(line.startswith("|") for line in table) == 2 + (10 * precisions if arguments[0] == "networks" else 2)
