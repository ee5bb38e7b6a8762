"""info, check and merge, run for real."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest

from medgen.artifacts.schema import SetHeader
from medgen.artifacts.sets import create_set, open_set
from medgen.artifacts.sharding import mark_shard, take_shard

Run = Callable[..., subprocess.CompletedProcess[bytes]]


def write_shards(path: Path, whole: int) -> list[Path]:
    """Deal the cases of a set out to files, as a sharded command would."""
    paths = []
    for part in range(whole):
        with open_set(path) as reader:
            header: SetHeader = mark_shard(reader.header, part, whole)
            paths.append(path.with_name(f"shard{part}.h5"))
            with create_set(paths[-1], header) as writer:
                for case in take_shard(reader, part, whole):
                    writer.write(case)
    return paths


def test_info_of_a_set_and_of_its_stream_agree(medgen: Run, make_set: Callable[..., Path]) -> None:
    path = make_set(count=4, depth=3)
    told = medgen("info", path, "--json")
    facts = json.loads(told.stdout)
    assert (facts["cases"], facts["slices"], facts["splits"]) == (4, 12, {"train": 3, "val": 1})
    assert facts["arrays"]["image"] == "1 x 16 x 16 int16 a slice"
    assert facts["vector_fields"] == ["field0", "field1"]
    stream = medgen("merge", *write_shards(path, 2), "-q").stdout
    assert json.loads(medgen("info", "--json", input=stream).stdout) == facts
    text = medgen("info", path).stdout.decode()
    assert "slices: 12" in text
    assert "preprocess" in text


def test_info_counts_labels_modalities_and_texts(medgen: Run, make_set: Callable[..., Path], tmp_path: Path) -> None:
    path, stream = tmp_path / "told.h5", tmp_path / "told.stream"
    texts = [("a lung", "two\x1b[2J"), (), ("a lung", "a lung")]
    modalities = [("CT", "CT"), (), ("MR", "CT")]
    with open_set(make_set(count=3)) as reader:
        header = msgspec.structs.replace(reader.header, label_names=("normal", "tumour"))
        with create_set(path, header) as writer:
            for index, case in enumerate(reader):
                arrays = {**case.arrays, "label": np.array([0, index % 2])}
                writer.write(replace(case, arrays=arrays, text=texts[index], modality=modalities[index]))
    stream.write_bytes(medgen("merge", path, "-q").stdout)
    facts = json.loads(medgen("info", path, "--json").stdout)
    assert facts["labels"] == {"normal": 5, "tumour": 1}
    assert facts["modality"] == {"(none)": 2, "CT": 3, "MR": 1}
    assert list(facts["text"].items()) == [("a lung", 3), ("(none)", 2), ("two\x1b[2J", 1)]
    told = json.loads(medgen("info", stream, "--json").stdout)
    for name in ("labels", "modality", "text"):
        assert told[name] == facts[name]
    text = medgen("info", path).stdout.decode()
    assert "  a lung: 3" in text
    assert "\x1b" not in text


@pytest.mark.parametrize("names", [(), ("background", "vessel", "disc")])
def test_info_counts_the_classes_of_masks(
    medgen: Run, make_set: Callable[..., Path], tmp_path: Path, names: tuple[str, ...]
) -> None:
    path = tmp_path / "masked.h5"
    with open_set(make_set(count=2)) as reader:
        header = msgspec.structs.replace(reader.header, mask_names=names)
        with create_set(path, header) as writer:
            for case in reader:
                mask = np.zeros((len(case), 1, 16, 16), np.uint8)
                mask[0, 0, :4] = 1
                writer.write(replace(case, arrays={**case.arrays, "mask": mask}))
    told = medgen("info", path, "--json")
    expected = {"background": {"slices": 4, "pixels": 0.875}, "foreground": {"slices": 2, "pixels": 0.125}}
    if names:
        expected = {"background": expected["background"], "vessel": expected["foreground"]}
        expected["disc"] = {"slices": 0, "pixels": 0.0}
    assert json.loads(told.stdout)["mask_classes"] == expected
    stream = medgen("merge", path, "-q").stdout
    assert json.loads(medgen("info", "--json", input=stream).stdout)["mask_classes"] == expected
    assert f"  {names[1] if names else 'foreground'}: slices: 2; pixels: 0.125" in medgen("info", path).stdout.decode()


@pytest.mark.parametrize("whole", [1, 2, 3, 7])
def test_joined_shards_equal_the_whole_byte_for_byte(
    medgen: Run, make_set: Callable[..., Path], tmp_path: Path, whole: int
) -> None:
    path = make_set(count=5)
    shards = write_shards(path, whole)
    result = medgen("merge", *reversed(shards), "-o", tmp_path / "joined.h5")
    if whole == 1:
        assert result.returncode == 0
    else:
        assert result.returncode == 0, result.stderr
        assert (tmp_path / "joined.h5").read_bytes() == path.read_bytes()


def test_merge_refuses_what_does_not_belong_together(
    medgen: Run, make_set: Callable[..., Path], tmp_path: Path
) -> None:
    path = make_set("a.h5", count=5)
    shards = write_shards(path, 3)
    out = tmp_path / "out.h5"
    for arguments, message in [
        (shards[:2], b"2 is missing"),
        ([shards[0], shards[0], shards[1]], b"given twice"),
        ([*shards, path], b"is not a shard"),
        ([path, path], b"more than one"),
        ([path, make_set("b.h5", fields=3)], b"vector_fields"),
    ]:
        result = medgen("merge", *arguments, "-o", out)
        assert result.returncode == 65
        assert message in result.stderr
        assert not out.exists()


def test_merge_of_different_sets_keeps_both_origins(medgen: Run, make_set: Callable[..., Path], tmp_path: Path) -> None:
    first, second = make_set("a.h5", count=2), make_set("b.h5", count=2)
    renamed = tmp_path / "c.h5"
    with open_set(second) as reader, create_set(renamed, reader.header) as writer:
        for case in reader:
            writer.write(type(case)(**{**case.__dict__, "id": f"other-{case.id}"}))
    assert medgen("merge", first, renamed, "-o", tmp_path / "out.h5").returncode == 0
    with open_set(tmp_path / "out.h5") as reader:
        assert [case.id for case in reader] == ["case0", "case1", "other-case0", "other-case1"]
        assert [step.command for step in reader.provenance.steps] == ["preprocess", "preprocess", "merge"]


def test_check_names_each_bad_file(medgen: Run, make_set: Callable[..., Path], tmp_path: Path) -> None:
    good, bad = make_set("good.h5"), make_set("bad.h5")
    bad.write_bytes(bad.read_bytes()[:-50])
    result = medgen("check", good, bad, tmp_path / "none.h5")
    assert result.returncode == 65
    assert b"good.h5: image set of 3 cases, 6 slices, whole" in result.stderr
    assert b"bad.h5" in result.stderr
    assert b"none.h5: no such file" in result.stderr
    assert b"2 of 3 files failed" in result.stderr.splitlines()[-1]


def test_check_sees_content_that_does_not_match_its_digest(medgen: Run, make_set: Callable[..., Path]) -> None:
    import h5py

    path = make_set()
    with h5py.File(path, "a") as file:
        file["vector"][0, 0] = 0.5
    result = medgen("check", path)
    assert result.returncode == 65
    assert b"does not match its digest" in result.stderr
