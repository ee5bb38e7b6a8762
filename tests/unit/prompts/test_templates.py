"""Templates: what is empty is left out with all that depends on it, and a file that is not well formed is refused."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import pytest

from medgen.errors import ConfigError, InputMissingError
from medgen.phantoms.captions import Caption
from medgen.prompts.templates import load_template, parse_template


@pytest.mark.parametrize(("side", "finding", "size"), [*product(("", "left"), ("", "polyp"), ("", "small"))])
def test_the_caption_says_what_phantoms_say_of_themselves(side: str, finding: str, size: str) -> None:
    caption = Caption("fundus", "eye", side, finding, size if finding else "", 1 if finding else 0)
    cells = {"modality": "fundus", "organ": "eye", "side": side, "finding": finding, "size": size}
    cells["number"] = "one" if finding else ""
    assert load_template("caption").filled(cells) == caption.text


def test_a_report_has_the_parts_that_are_given_in_its_order() -> None:
    report = load_template("report")
    told = report.filled({"impression": "Heart failure.", "findings": " Large\n heart ", "other": "x"})
    assert told == "Findings: Large heart. Impression: Heart failure."
    assert report.filled({"findings": "Ill?", "modality": "CT"}) == "CT. Findings: Ill?"
    assert report.filled({"findings": "5.. mm?! ...", "impression": "x."}) == "Findings: 5.. mm?! ... Impression: x."
    assert report.filled({"other": "x"}) == ""


def test_a_staged_prompt_goes_from_the_place_to_the_look() -> None:
    cells = {"modality": "OCT", "organ": "eye", "finding": "drusen", "appearance": "bright"}
    assert load_template("staged").filled(cells) == "OCT of the eye; drusen; bright"


def test_groups_lie_in_each_other_and_have_alternatives() -> None:
    template = parse_template("a", ["{x}[ (y {y}[, z {z}])|, no y]", "[{z}]"], " / ")
    assert template.fields == ("x", "y", "z")
    assert template.filled({"x": "1", "y": "2", "z": "3"}) == "1 (y 2, z 3) / 3"
    assert template.filled({"x": "1", "y": "2"}) == "1 (y 2)"
    assert template.filled({"x": "1", "y": "", "z": "3"}) == "1, no y / 3"
    assert template.filled({"x": "1", "z": "3"}) == "1 / 3"  # of y nothing is known
    assert template.filled({"y": "2"}) == ""  # a part without its own field


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[{x}", "a [ is not closed"),
        ("{x}]", "one ] too many"),
        ("{x}|y", "a | outside"),
        ("{}", "'{}' in '{}' is not a field"),
        ("{x", "is not a field"),
        ("words", "has no field"),
    ],
)
def test_brackets_that_do_not_fit_are_refused(text: str, told: str) -> None:
    with pytest.raises(ConfigError, match=r".") as caught:
        parse_template("a", [text])
    assert told in str(caught.value)


def test_files_of_templates(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text('[one]\nparts = ["{Organ}!"]\n', encoding="utf-8-sig")
    assert load_template(str(file)).filled({"organ": "eye"}) == "eye!"
    file.write_text('[one]\nparts = ["{x}"]\n[two]\nparts = "{x}"\n[three]\nparts = ["{x}"]\njoint = ""\n')
    for name, told in (
        (f"{file}", "several templates; name one"),
        (f"{file}:ones", "no template 'ones'; did you mean 'one'"),
        (f"{file}:two", "template 'two'"),
        (f"{file}:three", "joint"),
        ("captions", "did you mean 'caption'"),
    ):
        with pytest.raises(ConfigError) as caught:
            load_template(name)
        assert told in str(caught.value)
    file.write_bytes(b"\xff")
    with pytest.raises(ConfigError, match="not valid TOML"):
        load_template(f"{file}:one")
    with pytest.raises(InputMissingError, match="no such file of templates"):
        load_template(f"{tmp_path}/none.toml:one")
