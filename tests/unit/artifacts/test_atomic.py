"""Outputs appear whole or not at all."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from medgen.artifacts.atomic import atomic_file, atomic_folder
from medgen.errors import OutputError, StorageError


def test_failure_leaves_nothing_and_keeps_the_old(tmp_path: Path) -> None:
    target = tmp_path / "out"
    target.write_text("old")
    with pytest.raises(ValueError, match="boom"), atomic_file(target, force=True) as temporary:
        temporary.write_text("new")
        raise ValueError("boom")
    assert target.read_text() == "old"
    assert os.listdir(tmp_path) == ["out"]


def test_mode_follows_the_umask_and_links_survive(tmp_path: Path) -> None:
    (tmp_path / "real").write_text("old")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    before = os.umask(0o027)
    try:
        with atomic_file(tmp_path / "link", force=True) as temporary:
            temporary.write_text("new")
    finally:
        os.umask(before)
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_text() == "new"
    assert (tmp_path / "real").stat().st_mode & 0o777 == 0o640


def test_a_full_disk_is_one_sentence(tmp_path: Path) -> None:
    with (
        pytest.raises(StorageError, match=r"out: writing failed: No space left"),
        atomic_file(tmp_path / "out") as path,
    ):
        path.write_text("half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert list(tmp_path.iterdir()) == []


def test_refusals_come_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("old")
    with pytest.raises(OutputError, match="--force"), atomic_file(tmp_path / "out"):
        pytest.fail("must not start")
    with pytest.raises(OutputError, match="does not exist"), atomic_file(tmp_path / "no" / "out"):
        pytest.fail("must not start")


def test_a_folder_is_replaced_as_a_whole(tmp_path: Path) -> None:
    with atomic_folder(tmp_path / "out") as folder:
        (folder / "a").write_text("1")
    with atomic_folder(tmp_path / "out", force=True) as folder:
        (folder / "b").write_text("2")
    assert os.listdir(tmp_path / "out") == ["b"]
    with pytest.raises(KeyError), atomic_folder(tmp_path / "out", force=True) as folder:
        raise KeyError
    assert os.listdir(tmp_path / "out") == ["b"]
    assert os.listdir(tmp_path) == ["out"]


def test_devices_pipes_and_the_wrong_kind_are_never_replaced(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for special in (tmp_path / "pipe", Path(os.devnull)):
        with pytest.raises(OutputError, match="device or pipe"), atomic_file(special, force=True):
            pytest.fail("must not start")
    with pytest.raises(OutputError, match="is a folder"), atomic_file(tmp_path, force=True):
        pytest.fail("must not start")
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="is a file"), atomic_folder(tmp_path / "file", force=True):
        pytest.fail("must not start")
    assert (tmp_path / "pipe").is_fifo()
