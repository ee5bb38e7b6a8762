"""Options: layers, ranges, nearest names, and a printed configuration that reads back."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import msgspec
import pytest

from medgen.config import Options, preset_names, preset_text, resolve, to_toml
from medgen.errors import ConfigError, InputMissingError


class Inner(Options, frozen=True):
    rate: Annotated[float, msgspec.Meta(gt=0)] = 1.0
    widths: tuple[int, ...] = (1, 2)


class Outer(Options, frozen=True):
    steps: Annotated[int, msgspec.Meta(ge=1)] = 10
    name: str = "a"
    limit: float | None = None
    inner: Inner = Inner()
    maybe: Inner | None = None


def settle(**options: object) -> Outer:
    return resolve(Outer, "train-vae", tables=["train-vae", "generate"], **options)  # type: ignore[arg-type]


def test_later_layers_win_key_by_key(tmp_path: Path) -> None:
    file = tmp_path / "c.toml"
    file.write_text("[train-vae]\nsteps = 20\nname = 'file'\n[train-vae.inner]\nrate = 2\n[generate]\nother = 1\n")
    found = settle(file=file, sets=["inner.widths=[3, 4]", "name=set"], flags={"name": "flag", "steps": None})
    assert found == Outer(steps=20, name="flag", inner=Inner(rate=2.0, widths=(3, 4)))
    assert settle(sets=["maybe.rate=3"]).maybe == Inner(rate=3.0)


@pytest.mark.parametrize(
    ("item", "message"),
    [
        ("stepz=1", "did you mean 'steps'"),
        ("inner.rat=1", "did you mean 'rate'"),
        ("steps=0", "steps"),
        ("steps=abc", "steps"),
        ("inner.rate=-1", "rate"),
        ("steps", "key=value"),
    ],
)
def test_errors_name_key_and_remedy(item: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        settle(sets=[item])


def test_bad_files(tmp_path: Path) -> None:
    file = tmp_path / "c.toml"
    file.write_text("[train-vea]\n")
    with pytest.raises(ConfigError, match="did you mean 'train-vae'"):
        settle(file=file)
    file.write_text("not toml")
    with pytest.raises(ConfigError, match="not valid TOML"):
        settle(file=file)
    with pytest.raises(InputMissingError):
        settle(file=tmp_path / "none.toml")


def test_printed_options_read_back(tmp_path: Path) -> None:
    options = settle(sets=["inner.rate=0.125", "limit=3.5"])
    file = tmp_path / "c.toml"
    file.write_text(to_toml("train-vae", options))
    assert settle(file=file) == options


def test_unknown_preset_names_the_nearest() -> None:
    assert "lidc-nodule" in preset_names()
    with pytest.raises(ConfigError, match="did you mean 'lidc-nodule"):
        preset_text("lidc-nodul")


class Fish(Options, frozen=True, tag_field="animal"):
    length: float = 1.0


class Pike(Fish, frozen=True, tag="pike"):
    teeth: int = 700


class Eel(Fish, frozen=True, tag="eel"):
    volts: float = 0.0


def caught(**options: object) -> Fish:
    return resolve([Pike, Eel], "train-vae", tables=["train-vae"], **options)  # type: ignore[arg-type]


def test_the_last_layer_that_names_a_kind_decides(tmp_path: Path) -> None:
    file = tmp_path / "c.toml"
    file.write_text("[train-vae]\nanimal = 'eel'\nlength = 0.5\n")
    assert caught() == Pike()
    assert caught(file=file, sets=["volts=600"]) == Eel(length=0.5, volts=600.0)
    assert caught(file=file, sets=["teeth=3"], flags={"animal": "pike"}) == Pike(length=0.5, teeth=3)
    file.write_text(to_toml("train-vae", Eel(volts=1.0)))
    assert caught(file=file) == Eel(volts=1.0)


@pytest.mark.parametrize(
    ("sets", "message"),
    [
        (["volts=1"], "--set volts=1: 'volts' is an option of animal eel, and this is animal pike"),
        (["volts=1", "animal=pike"], "'volts' is an option of animal eel"),
        (["teeht=1"], "unknown key 'teeht'; did you mean 'teeth'"),
        (["animal=eal"], "animal = 'eal'; did you mean 'eel'"),
        (["animal=42"], "animal = '42'; choose from pike, eel"),
    ],
)
def test_options_of_another_kind_are_refused(sets: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        caught(sets=sets)


def test_a_file_that_a_windows_editor_saved_is_read(tmp_path: Path) -> None:
    file = tmp_path / "c.toml"
    file.write_bytes(b"\xef\xbb\xbf[train-vae]\r\nsteps = 7\r\n")
    assert settle(file=file).steps == 7


@pytest.mark.parametrize("content", ["train-vae = 5", "train-vae = 'steps'", "[[train-vae]]\nsteps = 5"])
def test_a_command_that_is_no_table_is_refused(tmp_path: Path, content: str) -> None:
    file = tmp_path / "c.toml"
    file.write_text(content)
    with pytest.raises(ConfigError, match=r"'train-vae' is a command, and its options stand in a table"):
        settle(file=file)


class Ranges(Options, frozen=True):
    times: tuple[float, ...] = ()


@pytest.mark.parametrize("odd", ["inf", "-inf", "nan"])
def test_lists_hold_finite_numbers(odd: str) -> None:
    for layer in ({"sets": [f"times=[1.0, {odd}]"]}, {"flags": {"times": [1.0, float(odd)]}}):
        with pytest.raises(ConfigError, match=f"'times' is {odd}; give a finite number"):
            resolve(Ranges, "generate", tables=["generate"], **layer)  # type: ignore[arg-type]


def test_a_source_that_says_nothing_of_the_command_is_named(tmp_path: Path) -> None:
    file, said = tmp_path / "c.toml", list[str]()
    file.write_text("[generate]\nsteps = 2\n")
    settle(file=file, say=said.append)
    assert said == ["c.toml has no options for train-vae"]
    file.write_text("[train-vae]\n")
    settle(file=file, say=said.append)
    assert len(said) == 1


class Named(Options, frozen=True):
    name: str = ""
    channels: Literal["auto", "1", "3"] = "auto"
    count: int = 0
    either: bool | Literal["maybe"] = False
    inner: Outer = Outer()


@pytest.mark.parametrize(
    ("item", "value"),
    [
        ("name=0", "0"),
        ("name=1.50", "1.50"),
        ("name=true", "true"),
        ('name="0"', "0"),
        ("channels=3", "3"),
        ("count=3", 3),
        ("either=true", True),
        ("inner.name=2026-01-31", "2026-01-31"),
    ],
)
def test_an_option_of_text_takes_what_looks_like_a_number(item: str, value: object) -> None:
    found: object = resolve(Named, "generate", tables=["generate"], sets=[item])
    for name in item.partition("=")[0].split("."):
        found = getattr(found, name)
    assert found == value
    assert type(found) is type(value)


def test_a_number_in_a_file_for_an_option_of_text_is_told_to_be_quoted(tmp_path: Path) -> None:
    file = tmp_path / "c.toml"
    file.write_text("[train-vae]\nname = 5\n")
    with pytest.raises(ConfigError, match="Expected str, got int - at name; put it in quotes"):
        settle(file=file)
