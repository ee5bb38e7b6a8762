"""`medgen preprocess pairs.csv`: rows of path and text become cases; every row that cannot be used is named."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medgen.artifacts.schema import Case, SetHeader
from medgen.artifacts.sets import open_set
from medgen.cli.app import run

Run = Callable[..., subprocess.CompletedProcess[bytes]]


def picture(path: Path, seed: int = 0, shape: tuple[int, ...] = (6, 12)) -> Path:
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, shape).astype(np.uint8)).save(path)
    return path


def contents(path: Path) -> tuple[SetHeader, list[Case]]:
    with open_set(path) as reader:
        return reader.header, list(reader)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for index in range(4):
        picture(tmp_path / "pictures" / f"{index}.png", index)
    return tmp_path


BAD = {
    3: ("pictures/9.png,gone,XR", "no such file 'pictures/9.png'"),
    4: ("pictures/1.png,heart, large,XR", "4 cells, the header has 3; put quotes around text that holds commas"),
    5: ("pictures/1.png", "1 cells, the header has 3"),
    6: ('pictures/1.png," ",XR', "its text is empty"),
    7: ("pictures/broken.png,broken,XR", "broken.png: not a readable image"),
    8: ("./pictures/0.png,again,XR", "names the image of row 2 again"),
    9: ("pictures,a folder,XR", "'pictures' is a folder"),
    10: ("pictures/pipe,a pipe,XR", "'pictures/pipe' is not a file"),
    11: (",nothing,XR", "names no image"),
    12: ("pictures/1.png,zero \0 byte,XR", "zero byte"),
    13: ("pictures/1.png,caf\udce9,XR", "not UTF-8 (byte 0xe9 after 'es/1.png,caf'); save the table as UTF-8, or name"),
    14: (f"pictures/1.png,{'x' * (1 << 20)},XR", "longer than 1048576 letters"),
    15: ("pictures/notes.txt,words,XR", "neither DICOM, NIfTI, PNG"),
    16: ('pictures/1.png,a "quoted" word,XR', ""),
    17: ('pictures/2.png,"a "word" quoted badly",XR', 'a single " inside a quoted text'),
    18: ("pictures/two.tif,two pages,XR", ""),
    19: ("pictures/slices.zip,an archive,XR", "'pictures/slices.zip' is an archive; give it as SOURCE"),
    20: ('pictures/3.png,"a quote that is never closed,XR', "a quote opens in it that is never closed"),
}


def bad_table(folder: Path) -> Path:
    (folder / "pictures" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    (folder / "pictures" / "notes.txt").write_text("words")
    (folder / "pictures" / "slices.zip").write_bytes(b"PK")
    os.mkfifo(folder / "pictures" / "pipe")
    pages = [Image.fromarray(np.full((6, 12), value, np.uint8)) for value in (1, 2)]
    pages[0].save(folder / "pictures" / "two.tif", save_all=True, append_images=pages[1:])
    rows = ["path,text,modal", "pictures/0.png,sound,XR", *(row for row, _ in BAD.values())]
    file = folder / "pairs.csv"
    file.write_text("\n".join(rows) + "\n", encoding="utf-8", errors="surrogateescape")
    return file


def test_every_bad_row_is_named_with_its_number_and_the_others_go_on(folder: Path, medgen: Run) -> None:
    out, report = folder / "a.h5", folder / "r.json"
    result = medgen("preprocess", bad_table(folder), "-o", out, "--keep-going", "--report", report, "--workers", "1")
    assert result.returncode == 1, result.stderr
    told = result.stderr.decode().splitlines()
    for number, (_, reason) in BAD.items():
        lines = [line for line in told if f"row {number}: " in line]
        assert [reason in line for line in lines] == [True] * bool(reason), (number, lines)
    left_out = json.loads(report.read_text())["left_out"]
    assert sorted(place["row"] for place in left_out) == sorted(number for number, (_, reason) in BAD.items() if reason)
    assert [case.text for case in contents(out)[1]] == [("sound",), ('a "quoted" word',), ("two pages",) * 2]


def test_the_first_bad_row_ends_it_before_anything_is_written(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "pairs.csv").write_text("path,text\npictures/0.png,a\npictures/1.png,b, c\n")
    assert run(["preprocess", str(folder / "pairs.csv"), "-o", str(folder / "a.h5"), "--workers", "1"]) == 65
    assert "row 3: 3 cells, the header has 2; put quotes" in capsys.readouterr().err.splitlines()[-1]
    assert not (folder / "a.h5").exists()


@pytest.mark.parametrize(
    ("encoding", "separator", "end", "options"),
    [
        ("utf-8", ",", "\n", ()),
        ("utf-8-sig", ";", "\r\n", ()),
        ("utf-16", "\t", "\r\n", ()),  # "Unicode text" of Excel
        ("cp1252", ";", "\r\n", ("--encoding", "cp1252")),
        ("utf-16-le", ",", "\r", ("--encoding", "utf-16-le")),
    ],
)
def test_tables_as_programs_save_them(
    folder: Path, encoding: str, separator: str, end: str, options: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [("Modal", "extra", "TEXT", "path"), ("Röntgen", "", '"Größe, 5 mm; links\tunten"', "pictures/0.png")]
    rows += [("", "x", "zwei" + end + "Zeilen", "pictures\\1.png"), ("", "", "drei", str(folder / "pictures/2.png"))]
    rows[2] = (rows[2][0], rows[2][1], f'"{rows[2][2]}"', rows[2][3])
    file, out = folder / "pairs.csv", folder / "a.h5"
    file.write_bytes(end.join(separator.join(row) for row in rows).encode(encoding))
    assert run(["preprocess", str(file), "-o", str(out), "--workers", "1", *options]) == 0
    if separator == ";":  # Excel may say so first
        file.write_bytes(f"sep=;{end}".encode(encoding) + file.read_bytes().removeprefix(b"\xef\xbb\xbf"))
        assert run(["preprocess", str(file), "-o", str(out), "--workers", "1", "--force", *options]) == 0
    cases = contents(out)[1]
    assert [case.text for case in cases] == [("Größe, 5 mm; links\tunten",), (f"zwei{end}Zeilen",), ("drei",)]
    assert [case.modality for case in cases] == [("Röntgen",), (), ()]
    told = capsys.readouterr().err
    assert ("separated by" in told) == (separator != ",")
    assert ("in utf-16" in told or "in cp1252" in told) == (not encoding.startswith("utf-8"))


def test_quotes_after_a_space_empty_lines_before_the_header_and_accents_as_macos_writes_them(folder: Path) -> None:
    picture(folder / "pictures" / "caf\u00e9.png", 7)
    rows = ["", "", "path, text", '"pictures/0.png", "one, two"', 'pictures/cafe\u0301.png, "three"']
    (folder / "pairs.csv").write_text("\n".join(rows), encoding="utf-8")
    assert run(["preprocess", str(folder / "pairs.csv"), "-o", str(folder / "a.h5"), "--workers", "1"]) == 0
    assert [case.text for case in contents(folder / "a.h5")[1]] == [("one, two",), ("three",)]


@pytest.mark.parametrize(
    ("content", "options", "status", "told"),
    [
        ("path,text\npictures/0.png,café\n".encode("latin-1"), (), 65, "row 2: not UTF-8 (byte 0xe9"),
        ("path,text\npictures/0.png,café\n".encode(), ("--encoding", "latin-1"), 65, "all of it is UTF-8"),
        ("path,text\npictures/0.png,café\n".encode("utf-16-le"), (), 65, "--encoding utf-16-le"),
        ("path,text\npictures/0.png,café\n".encode("utf-16"), ("--encoding", "cp1252"), 65, "the mark of utf-16"),
        ("path,text\npictures/0.png,“a”\n".encode("cp1252"), ("--encoding", "latin-1"), 65, "U+0093, as cp1252"),
        ("path,text\npictures/0.png,café\n".encode("latin-1"), ("--encoding", "ascii"), 65, "not in ascii"),
        (b"path,text\npictures/0.png,a\n", ("--encoding", "utf8000"), 78, "not an encoding of text"),
        (b"path,text\npictures/0.png,a\n", ("--encoding", "base64"), 78, "not an encoding of text"),
        (b"path,text\n", (), 65, "holds no row that can be used"),
        (b"", (), 65, "holds no rows below its header"),
        (b"x" * (2 << 20), (), 65, "header: longer than 1048576 letters"),
        (b"path,text,Text\npictures/0.png,a,b\n", (), 65, "columns 'text' and 'Text' mean the same"),
        (b"path,text\npictures/0.png,a\n", ("--shard", "0/2", "--drop-duplicates"), 2, "must see all cases"),
    ],
)
def test_what_is_no_table_is_refused(
    folder: Path,
    content: bytes,
    options: tuple[str, ...],
    status: int,
    told: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (folder / "pairs.csv").write_bytes(content)
    arguments = ["preprocess", str(folder / "pairs.csv"), "-o", str(folder / "a.h5"), "--workers", "1", *options]
    assert run(arguments) == status
    assert told in capsys.readouterr().err.splitlines()[-1]
    assert not (folder / "a.h5").exists()


def test_a_quote_that_swallows_rows_is_found_by_the_image_it_hides(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = ["path,text,modal", 'pictures/0.png,"large,XR', 'pictures/1.png,lesion of 5",XR', "pictures/2.png,small,XR"]
    (folder / "pairs.csv").write_text("\n".join(rows))
    out = folder / "a.h5"
    assert run(["preprocess", str(folder / "pairs.csv"), "-o", str(out), "--keep-going", "--workers", "1"]) == 1
    assert "row 2: its text runs on over a row for 'pictures/1.png'" in capsys.readouterr().err
    assert [case.text for case in contents(out)[1]] == [("small",)]


def test_pairs_are_the_cases_that_the_folder_with_labels_gives(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picture(folder / "pictures" / "3.png", 3, (12, 6, 3))
    (folder / "pictures" / "2.png").write_bytes((folder / "pictures" / "1.png").read_bytes())
    rows = ["path,text,modality,label,patient,split", "pictures/0.png,a,XR,n,p0,", "pictures/1.png,b,XR,y,p1,val"]
    rows += ["pictures/2.png,c,XR,m,p0,", "pictures/3.png,d,XR,y,p1,"]
    (folder / "pairs.csv").write_text("\n".join(rows))
    common = ["--size", "8", "--workers", "1", "-o"]
    assert run(["preprocess", str(folder / "pairs.csv"), *common, str(folder / "a.h5")]) == 0
    told = capsys.readouterr().err
    assert "1 images are in colour and 3 grey" in told
    assert "equal pixels: row 4 (" in told
    assert (
        run(
            [
                "preprocess",
                str(folder / "pictures"),
                "--labels",
                str(folder / "pairs.csv"),
                *common,
                str(folder / "b.h5"),
            ]
        )
        == 0
    )
    (ours, mine), (theirs, other) = contents(folder / "a.h5"), contents(folder / "b.h5")
    assert [case.facts() for case in mine] == [case.facts() for case in other]
    for one, two in zip(mine, other, strict=True):
        assert np.array_equal(one["image"], two["image"])
        assert one["label"] == two["label"]
    assert (ours.label_names, ours.intensity) == (theirs.label_names, theirs.intensity)
    assert mine[0]["image"].shape == (1, 3, 8, 8)
    assert not mine[0]["image"][:, :, :2].any()  # 6 x 12 became 4 x 8, with the aspect ratio kept
    secrets = (b"pictures", b"p0", os.fsencode(folder))
    assert not any(secret in (folder / "a.h5").read_bytes() for secret in secrets)


def test_shards_of_pairs_merge_to_the_whole(folder: Path) -> None:
    (folder / "pairs.csv").write_text("path,text\n" + "".join(f"pictures/{i}.png,text {i}\n" for i in range(4)))
    for name, options in (("w", ["--workers", "2"]), ("0", ["--shard", "0/2"]), ("1", ["--shard", "1/2"])):
        arguments = ["preprocess", str(folder / "pairs.csv"), "-o", str(folder / f"{name}.h5"), *options]
        assert run([*arguments, *["--workers", "1"][: 2 * (name != "w")]]) == 0
    assert run(["merge", str(folder / "1.h5"), str(folder / "0.h5"), "-o", str(folder / "m.h5")]) == 0
    assert (folder / "m.h5").read_bytes() == (folder / "w.h5").read_bytes()


def test_a_template_makes_texts_of_columns(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "pairs.csv").write_text(
        "path,modality,organ,side,finding\npictures/0.png,OCT,eye,left,drusen\npictures/1.png,OCT,eye,,\n,,,,\n"
    )
    (folder / "mine.toml").write_text('[short]\nparts = ["{organ}[, {side}]"]\n[typo]\nparts = ["{organs}"]\n')
    for name, texts in (
        ("caption", [("OCT of the left eye with drusen",), ("OCT of the eye without findings",)]),
        (f"{folder}/mine.toml:short", [("eye, left",), ("eye",)]),
    ):
        out = folder / f"{name[-5:]}.h5"
        arguments = ["preprocess", str(folder / "pairs.csv"), "--template", name, "-o", str(out), "--workers", "1"]
        assert run(arguments) == 0
        header, cases = contents(out)
        assert [case.text for case in cases] == texts
        assert header.provenance.steps[-1].config["template"]["name"] == name.rpartition(":")[2]
    assert "has no column number, size of the template 'caption'" in capsys.readouterr().err
    rows = "path,modality,organ\npictures/0.png,OCT,eye\n"  # nobody said that there are no findings
    (folder / "pairs.csv").write_text(rows)
    arguments = ["preprocess", str(folder / "pairs.csv"), "--template", "caption", "-o", str(folder / "y.h5")]
    assert run([*arguments, "--workers", "1"]) == 0
    assert contents(folder / "y.h5")[1][0].text == ("OCT of the eye",)
    for name, status in ((f"{folder}/mine.toml:typo", 65), ("captoin", 78), (f"{folder}/no.toml:x", 66)):
        arguments = ["preprocess", str(folder / "pairs.csv"), "--template", name, "-o", str(folder / "x.h5")]
        assert run(arguments) == status
