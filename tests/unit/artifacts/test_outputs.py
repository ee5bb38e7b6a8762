"""Outputs appear whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from medgen.artifacts.outputs.manifest import MANIFEST
from medgen.artifacts.outputs.whole import atomic_file, atomic_folder
from medgen.errors import OutputError, StorageError


def test_failure_leaves_nothing_and_keeps_the_old(tmp_path: Path) -> None:
    target = tmp_path / "out"
    target.write_text("old")
    with pytest.raises(ValueError, match="boom"), atomic_file(target, force=True) as temporary:
        temporary.write_text("new")
        raise ValueError("boom")
    assert target.read_text() == "old"
    assert os.listdir(tmp_path) == ["out"]


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


def test_modes_follow_the_umask_then_stay_and_links_survive(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "real")
    before = os.umask(0o027)
    try:
        with atomic_file(tmp_path / "link") as temporary:
            temporary.write_text("old")
            assert mode(temporary) == 0o600
        with atomic_folder(tmp_path / "folder") as folder:
            assert mode(folder) == 0o700
        assert (mode(tmp_path / "real"), mode(tmp_path / "folder")) == (0o640, 0o750)
        assert mode(tmp_path / "folder" / MANIFEST) == 0o640
        (tmp_path / "real").chmod(0o604)
        (tmp_path / "folder").chmod(0o705)
        with atomic_file(tmp_path / "link", force=True) as temporary:
            temporary.write_text("new")
        with atomic_folder(tmp_path / "folder", force=True):
            pass
    finally:
        os.umask(before)
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_text() == "new"
    assert (tmp_path / "real").stat().st_nlink == 1
    assert (mode(tmp_path / "real"), mode(tmp_path / "folder")) == (0o604, 0o705)


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
        (folder / "deep" / "empty").mkdir(parents=True)
        (folder / "deep" / "a").write_text("1")
    with atomic_folder(tmp_path / "out", force=True) as folder:
        (folder / "b").write_text("2")
    assert sorted(os.listdir(tmp_path / "out")) == [MANIFEST, "b"]
    with pytest.raises(KeyError), atomic_folder(tmp_path / "out", force=True) as folder:
        raise KeyError
    assert sorted(os.listdir(tmp_path / "out")) == [MANIFEST, "b"]
    assert os.listdir(tmp_path) == ["out"]


def test_what_file_browsers_leave_keeps_no_folder(tmp_path: Path) -> None:
    for name in (".DS_Store", "Thumbs.db", "desktop.ini"):
        with atomic_folder(tmp_path / "out", force=True) as folder:
            (folder / "deep").mkdir()
        (tmp_path / "out" / "deep" / name).write_text("icons")
    with atomic_folder(tmp_path / "out", force=True) as folder:
        (folder / "b").write_text("2")
    assert sorted(os.listdir(tmp_path / "out")) == [MANIFEST, "b"]


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


@pytest.mark.parametrize("links", [True, False])
def test_of_two_files_at_once_the_first_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(errno.EPERM, "a file system without links")

    if not links:
        monkeypatch.setattr(os, "link", refuse)
    with pytest.raises(OutputError, match="exists already"), atomic_file(tmp_path / "out") as slower:
        slower.write_text("slower")
        with atomic_file(tmp_path / "out") as faster:
            faster.write_text("faster")
    assert (tmp_path / "out").read_text() == "faster"
    assert os.listdir(tmp_path) == ["out"]


@pytest.mark.parametrize("force", [False, True])
def test_of_two_folders_at_once_nothing_is_lost(tmp_path: Path, force: bool) -> None:
    expected = contextlib.nullcontext() if force else pytest.raises(OutputError, match="exists already")
    with expected, atomic_folder(tmp_path / "out", force=force) as slower:
        (slower / "slower").touch()
        with atomic_folder(tmp_path / "out", force=force) as faster:
            (faster / "faster").touch()
    assert sorted(os.listdir(tmp_path / "out")) == [MANIFEST, "slower" if force else "faster"]
    assert os.listdir(tmp_path) == ["out"]


def make(folder: Path) -> Path:
    with atomic_folder(folder) as temporary:
        (temporary / "sub").mkdir()
        (temporary / "sub" / "table.csv").write_text("a,b\n")
    return folder


def add_file(folder: Path) -> None:
    (folder / "sub" / "notes.txt").write_text("mine")


def change_file(folder: Path) -> None:
    (folder / "sub" / "table.csv").write_text("a,b\nmine\n")


def change_file_in_place(folder: Path) -> None:
    (folder / "sub" / "table.csv").write_text("A,B\n")
    later = time.time() + 1
    os.utime(folder / "sub" / "table.csv", (later, later))


def add_link(folder: Path) -> None:
    (folder / "sub" / "link").symlink_to(folder.parent)


def drop_manifest(folder: Path) -> None:
    (folder / MANIFEST).unlink()


@pytest.mark.parametrize("change", [add_file, change_file, change_file_in_place, add_link, drop_manifest])
@pytest.mark.parametrize("when", ["before", "meanwhile"])
def test_what_others_put_into_a_folder_is_never_removed(
    tmp_path: Path, change: Callable[[Path], None], when: str
) -> None:
    out = make(tmp_path / "out")
    if when == "before":
        change(out)
    began = False
    with (
        pytest.raises(OutputError, match=r"out: holds sub/\w+(.\w+)?, which medgen did not write"),
        atomic_folder(out, force=True) as temporary,
    ):
        began = True
        (temporary / "new").touch()
        change(out)
    assert began == (when == "meanwhile")
    assert "new" not in os.listdir(out)
    assert {"table.csv"} <= set(os.listdir(out / "sub"))
    assert os.listdir(tmp_path) == ["out"]
    with pytest.raises(OutputError, match="which medgen did not write"), atomic_folder(out):
        pytest.fail("must not start")


def test_the_folder_one_is_in_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path / "out")
    monkeypatch.chdir(tmp_path / "out" / "sub")
    for name in (".", "..", str(tmp_path / "out")):
        for force in (False, True):
            with pytest.raises(OutputError, match="the folder you are in"), atomic_folder(Path(name), force=force):
                pytest.fail("must not start")
    assert (tmp_path / "out" / "sub" / "table.csv").exists()


def test_what_killed_processes_left_goes_and_what_is_being_written_stays(tmp_path: Path) -> None:
    (tmp_path / ".out.0123abcd.partial").touch()
    (tmp_path / ".dir.0123abcd.partial" / "sub").mkdir(parents=True)
    (tmp_path / ".dir.0123abcd.partial" / MANIFEST).touch()
    (tmp_path / ".dir.4567abcd.partial").mkdir()
    others = {".out.scan.partial", ".other.0123abcd.partial", ".dir.89abcdef.partial"}
    for name in others:
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").touch()
    with atomic_file(tmp_path / "out") as file, atomic_folder(tmp_path / "dir") as folder:
        with pytest.raises(OutputError), atomic_file(tmp_path / "out") as another:
            (tmp_path / "out").touch()
        assert file.exists()
        assert not another.exists()
        (tmp_path / "out").unlink()
        with atomic_folder(tmp_path / "dir", force=True):
            assert folder.exists()
        make(tmp_path / "dir2")
        (tmp_path / "dir" / MANIFEST).unlink()
        (tmp_path / "dir").rmdir()
    assert set(os.listdir(tmp_path)) == {"out", "dir", "dir2", *others}


@pytest.mark.parametrize("begun", [False, True])
def test_a_replacement_that_was_killed_in_the_middle_is_settled(tmp_path: Path, begun: bool) -> None:
    make(tmp_path / "out").rename(tmp_path / ".out.0123abcd.old")
    if begun:
        make(tmp_path / "new").rename(tmp_path / "out")
    with pytest.raises(OutputError, match="exists already"), atomic_folder(tmp_path / "out"):
        pytest.fail("the old folder must be back")
    assert (tmp_path / "out" / "sub" / "table.csv").exists()
    assert os.listdir(tmp_path) == ["out"]


def test_links_that_lead_in_a_circle_or_nowhere_are_named(tmp_path: Path) -> None:
    (tmp_path / "circle").symlink_to(tmp_path / "circle")
    (tmp_path / "nowhere").symlink_to(tmp_path / "no" / "out")
    for name in ("circle", "nowhere"):
        for whole in (atomic_file, atomic_folder):
            with pytest.raises(OutputError), whole(tmp_path / name):
                pytest.fail("must not start")
