"""Sources: what is found, what is passed over, and what is refused by name."""

from __future__ import annotations

import io
import struct
import warnings
import zipfile
from pathlib import Path

import pytest

from medgen.errors import DataError, InputMissingError
from medgen.imaging.reading import archive
from medgen.imaging.reading.archive import enumerate_sources


def bundle(path: Path, members: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as file:
        for name, content in members.items():
            file.writestr(name, content)
    return path


def refused(path: Path) -> dict[str, str]:
    return {name.removeprefix(f"{path}!"): reason for name, reason in enumerate_sources([str(path)]).refused}


def test_folders_are_walked_sorted_and_what_is_no_image_is_counted(tmp_path: Path) -> None:
    for name in ("b/2", "b/10", "a/x.dcm", "README", "notes.txt", "labels.csv", ".hidden", "a/DICOMDIR", ".git/x.dcm"):
        file = tmp_path / name
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(b"x")
    found = enumerate_sources([str(tmp_path)])
    top = tmp_path.name
    assert [entry.within for entry in found.entries] == [f"{top}/a/x.dcm", f"{top}/b/10", f"{top}/b/2"]
    assert found.skipped == 5
    assert not found.refused


def test_members_are_read_without_unpacking(tmp_path: Path) -> None:
    path = bundle(tmp_path / "z.zip", {"d/b.dcm": b"bb", "d/a.dcm": b"a" * 500, "__MACOSX/._a.dcm": b"", "r.txt": b"t"})
    found = enumerate_sources([str(path)])
    assert [(entry.member, entry.size) for entry in found.entries] == [("d/a.dcm", 500), ("d/b.dcm", 2)]
    assert found.entries[0].read() == b"a" * 500
    assert found.entries[0].head(3) == b"aaa"
    assert sorted(file.name for file in tmp_path.iterdir()) == ["z.zip"]


def test_path_tricks_links_nested_archives_and_doubles_are_refused_by_name(tmp_path: Path) -> None:
    link = zipfile.ZipInfo("link.dcm")
    link.external_attr = 0o120777 << 16
    path = tmp_path / "z.zip"
    with warnings.catch_warnings(), zipfile.ZipFile(path, "w") as file:
        warnings.simplefilter("ignore")  # of the name that occurs twice
        for name in (
            "../up.dcm",
            "/etc/abs.dcm",
            "a/../../b.dcm",
            "c:\\d.dcm",
            "in.zip",
            "in.tar.gz",
            "good.dcm",
            "good.dcm",
        ):
            file.writestr(name, b"x")
        file.writestr(link, b"/etc/passwd")
    reasons = refused(path)
    assert set(reasons) == {
        *("../up.dcm", "/etc/abs.dcm", "a/../../b.dcm", "c:\\d.dcm", "in.zip", "in.tar.gz", "good.dcm", "link.dcm")
    }
    assert "outside" in reasons["../up.dcm"]
    assert "archive inside" in reasons["in.zip"]
    assert "link" in reasons["link.dcm"]
    assert [entry.member for entry in enumerate_sources([str(path)]).entries] == ["good.dcm"]


def test_an_encrypted_member_is_named(tmp_path: Path) -> None:
    path = bundle(tmp_path / "z.zip", {"secret.dcm": b"x" * 20, "open.dcm": b"y"})
    content = bytearray(path.read_bytes())
    for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):  # the flags of the first member, in both headers
        at = content.index(signature)
        struct.pack_into("<H", content, at + offset, 1)
    path.write_bytes(bytes(content))
    assert "encrypted" in refused(path)["secret.dcm"]


def test_a_bomb_is_refused_as_a_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "RATIO_FREE_BYTES", 1 << 20)
    path = bundle(tmp_path / "bomb.zip", {f"{i}.dcm": bytes(1 << 20) for i in range(4)}, zipfile.ZIP_DEFLATED)
    found = enumerate_sources([str(path)])
    assert not found.entries
    assert "zip bomb" in found.refused[0][1]


def test_too_many_members_and_overlapping_ones_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = bundle(tmp_path / "many.zip", {f"{i}.dcm": b"x" for i in range(6)})
    content = bytearray(path.read_bytes())
    second = content.index(b"PK\x01\x02", content.index(b"PK\x01\x02") + 4)
    struct.pack_into("<I", content, second + 42, 0)  # both directory entries point at the first member
    overlapping = tmp_path / "overlap.zip"
    overlapping.write_bytes(bytes(content))
    assert "overlap" in refused(overlapping)[str(overlapping)]
    monkeypatch.setattr(archive, "MAX_MEMBERS", 5)
    assert "6 members" in refused(path)[str(path)]


def test_a_member_that_inflates_to_more_than_it_says_is_damaged(tmp_path: Path) -> None:
    path = bundle(tmp_path / "z.zip", {"a.dcm": bytes(100_000)}, zipfile.ZIP_DEFLATED)
    content = bytearray(path.read_bytes())
    struct.pack_into("<I", content, content.index(b"PK\x01\x02") + 24, 1000)
    path.write_bytes(bytes(content))
    (entry,) = enumerate_sources([str(path)]).entries
    with pytest.raises(DataError, match=r"a\.dcm: damaged"):
        entry.read()


def test_a_member_larger_than_any_image_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = bundle(tmp_path / "z.zip", {"a.dcm": bytes(3000), "b.dcm": bytes(10)})
    monkeypatch.setattr(archive, "MAX_FILE_BYTES", 2000)
    assert "inflate" in refused(path)["a.dcm"]


def test_a_cut_zip_and_other_archives_are_refused(tmp_path: Path) -> None:
    path = bundle(tmp_path / "z.zip", {"a.dcm": bytes(3000)})
    path.write_bytes(path.read_bytes()[:-30])
    (tmp_path / "t.tar").write_bytes(io.BytesIO(b"x" * 512).getvalue())
    reasons = dict(enumerate_sources([str(tmp_path)]).refused)
    assert "cut short" in reasons[str(path)]
    assert "unpack" in reasons[str(tmp_path / "t.tar")]


def test_missing_and_empty_sources(tmp_path: Path) -> None:
    with pytest.raises(InputMissingError, match="nothere"):
        enumerate_sources([str(tmp_path / "nothere")])
    with pytest.raises(DataError, match="holds no images"):
        enumerate_sources([str(tmp_path)])
