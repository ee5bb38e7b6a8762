"""Flags that commands get from their options structs."""

from __future__ import annotations

from typing import Annotated, Literal

import pytest
import typer

from medgen.cli.flag import Flag, flags_of, flags_of_all
from medgen.cli.flags import Given, takes
from medgen.config import Options, option
from medgen.errors import ConfigError, UsageError


class Loop(Options, frozen=True):
    steps: Annotated[int, option("Updates.", ge=1)] = 100
    hidden: int = 3


class Cooking(Options, frozen=True):
    loop: Loop = Loop()
    heat: Annotated[float, option("Of the stove.", metavar="C", gt=0, le=300)] | None = None
    method: Annotated[Literal["boil", "fry"], option("How.")] = "boil"
    salt: Annotated[bool, option("Add salt.")] = True
    lid: Annotated[bool, option("Close the pot.")] = False
    spices: Annotated[tuple[str, ...], option("Which.", metavar="A,B,...")] = ("pepper",)
    range: Annotated[tuple[float, float], option("Of sizes.", flag="--size-range", metavar="LOW,HIGH")] = (1.0, 2.5)
    stirs: Annotated[
        Literal["often", "never"] | tuple[float, ...], option("When.", metavar="NAME|T,T", instead_of=("heat",))
    ] = "often"
    size: Annotated[Literal[8, 16], option("Of the pot.")] = 8
    crust: Annotated[bool | Literal["maybe"], option("Bake a crust.")] = False
    pan: Annotated[str, option("Its sides.", metavar="WxH", pattern=r"^\d+x\d+$")] = "20x30"


class Baking(Options, frozen=True):
    method: Annotated[Literal["boil", "fry"], option("How.")] = "fry"


class Serving(Options, frozen=True):
    on: Annotated[Literal["plate", "bowl"], option("In what.")]


def of(key: str) -> Flag:
    return flags_of(Cooking)[key]


def test_a_field_is_a_flag_only_if_it_says_so() -> None:
    assert set(flags_of(Cooking)) == {
        "loop.steps",
        "heat",
        "method",
        "salt",
        "lid",
        "spices",
        "range",
        "stirs",
        "size",
        "crust",
        "pan",
    }


@pytest.mark.parametrize(
    ("key", "switches", "metavar", "text"),
    [
        ("loop.steps", "--steps", "N", "Updates.  [default: 100; x>=1]"),
        ("heat", "--heat", "C", "Of the stove.  [default: none; 0<x<=300]"),
        ("method", "--method", "boil|fry", "How.  [default: boil]"),
        ("salt", "--salt/--no-salt", None, "Add salt.  [default: salt]"),
        ("lid", "--lid", None, "Close the pot."),
        ("spices", "--spices", "A,B,...", "Which.  [default: pepper]"),
        ("range", "--size-range", "LOW,HIGH", "Of sizes.  [default: 1,2.5]"),
        ("stirs", "--stirs", "NAME|T,T", "When.  [default: often]"),
        ("size", "--size", "8|16", "Of the pot.  [default: 8]"),
        ("crust", "--crust", None, "Bake a crust."),
    ],
)
def test_the_help_says_default_range_and_choices(key: str, switches: str, metavar: str | None, text: str) -> None:
    flag = of(key)
    assert (flag.switches, flag.metavar, flag.help([flag.default])) == (switches, metavar, text)


def test_structs_that_share_a_flag_show_each_default() -> None:
    assert of("method").help(["boil", "fry"]) == "How.  [default: boil or fry]"


@pytest.mark.parametrize(
    ("key", "typed", "value"),
    [
        ("spices", "salt, thyme", ["salt", "thyme"]),
        ("range", "3", [3.0, 3.0]),
        ("range", "1,2", [1.0, 2.0]),
        ("stirs", "never", "never"),
        ("stirs", "5,2.5", [5.0, 2.5]),
    ],
)
def test_lists_are_typed_with_commas(key: str, typed: str, value: object) -> None:
    assert of(key).value(typed) == value


@pytest.mark.parametrize(
    ("key", "typed", "kind", "message"),
    [
        ("range", "1,2,3", UsageError, "--size-range 1,2,3: expected LOW,HIGH"),
        ("range", "a,b", UsageError, "--size-range a,b: expected LOW,HIGH"),
        ("heat", 301.0, ConfigError, "--heat 301.0: expected float <= 300"),
        ("method", "fyr", ConfigError, "--method fyr; did you mean 'fry'?"),
        ("method", "x", ConfigError, "--method x; choose from boil, fry"),
        ("stirs", "nevr", ConfigError, "--stirs nevr; did you mean 'never'?"),
        ("stirs", "5,b", UsageError, r"--stirs 5,b: expected NAME\|T,T"),
        ("pan", "large", ConfigError, r"--pan large: expected WxH$"),
    ],
)
def test_a_wrong_value_is_named_with_its_flag(key: str, typed: object, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match="^" + message.replace("?", r"\?")):
        of(key).value(typed)


def _run(*arguments: str) -> list[Given]:
    caught: list[Given] = []

    @takes(Cooking, Baking)
    def command(context: typer.Context, given: Given, place: str = "kitchen") -> None:
        """Cook."""
        caught.append(given)

    app = typer.Typer(add_completion=False)
    app.command("phantom")(command)
    app(list(arguments), standalone_mode=False)
    return caught


def test_a_command_gets_what_was_typed_and_resolves_it() -> None:
    (given,) = _run("--steps", "7", "--no-salt", "--set", "loop.hidden=5", "--spices", "dill")
    options = given.resolve(Cooking)
    assert options == Cooking(loop=Loop(steps=7, hidden=5), salt=False, spices=("dill",))


def test_a_flag_of_another_struct_is_refused() -> None:
    (given,) = _run("--steps", "7")
    with pytest.raises(ConfigError, match="--steps does not apply here"):
        given.resolve(Baking)


def test_what_the_command_found_itself_beats_flags() -> None:
    (given,) = _run("--steps", "7", "--crust", "--size", "16")
    options = given.resolve(Cooking, {"loop.steps": 8, "heat": None})
    assert options == Cooking(loop=Loop(steps=8), size=16, crust=True)


def test_a_list_of_numbers_takes_the_place_of_another_flag() -> None:
    (given,) = _run("--stirs", "5,2", "--heat", "20")
    with pytest.raises(UsageError, match=r"^--stirs 5,2 takes the place of --heat; leave out --heat"):
        given.resolve(Cooking)
    (given,) = _run("--stirs", "never", "--heat", "20")
    assert given.resolve(Cooking).heat == 20


def test_a_flag_without_default_is_asked_for_unless_a_layer_may_say_it() -> None:
    flag = flags_of(Serving)["on"]
    assert flag.help([flag.default]) == "In what.  [required]"
    given = Given("phantom", {"on": (flag, None)}, None, None, (), False)
    with pytest.raises(UsageError, match=r"^--on is missing; give --on plate\|bowl"):
        given.resolve(Serving)
    assert Given("phantom", {"on": (flag, None)}, None, None, ("on=bowl",), False).resolve(Serving).on == "bowl"


class Meal(Options, frozen=True, tag_field="meal"):
    seats: Annotated[int, option("How many eat.", ge=1)] = 2


class Supper(Meal, frozen=True, tag="supper"):
    """Soup and bread. Late."""

    candles: Annotated[int, option("On the table.", ge=0)] = 1


class Lunch(Meal, frozen=True, tag="lunch"):
    """A quick bite."""


def test_tagged_structs_are_chosen_between_by_a_flag_of_their_own() -> None:
    flags = flags_of_all([Supper, Lunch])
    (meal,) = flags["meal"]
    assert list(flags) == ["meal", "seats", "candles"]
    assert (meal.switches, meal.metavar) == ("--meal", "supper|lunch")
    assert meal.help([meal.default]) == "supper: soup and bread. Late; lunch: a quick bite.  [default: supper]"

    def given(**typed: object) -> Given:
        return Given("phantom", {key: (one[0], typed.get(key)) for key, one in flags.items()}, None, None, (), False)

    assert given(seats=3).resolve([Supper, Lunch]) == Supper(seats=3)
    assert given(meal="lunch", seats=3).resolve([Supper, Lunch]) == Lunch(seats=3)
    with pytest.raises(ConfigError, match="'candles' is an option of meal supper, and this is meal lunch"):
        given(meal="lunch", candles=3).resolve([Supper, Lunch])
    with pytest.raises(ConfigError, match="--meal lunsh; did you mean 'lunch'"):
        given(meal="lunsh").resolve([Supper, Lunch])


def test_flags_that_one_struct_alone_has_stand_under_its_name() -> None:
    @takes(Supper, Lunch, names=("supper", "lunch"))
    def command(context: typer.Context, given: Given) -> None:
        """Eat."""

    app = typer.Typer(add_completion=False)
    app.command("eat")(command)
    panels = {one.name: one.rich_help_panel for one in typer.main.get_command(app).params}
    assert panels["option_candles"] == "supper"
    assert panels["option_seats"] is None


def test_what_was_typed_without_effect_is_warned_of(capsys: pytest.CaptureFixture[str]) -> None:
    (given,) = _run("--no-salt", "--set", "loop.hidden=5")
    capsys.readouterr()
    given.warn_unused(("heat", "loop.steps", "loo"), "here")
    assert capsys.readouterr().err == ""
    given.warn_unused(("lid", "salt"), "without a pot")
    given.warn_unused(("loop",), "at all")
    told = [line.partition("warning: ")[2] for line in capsys.readouterr().err.splitlines()]
    assert told == ["--no-salt has no effect without a pot", "--set loop.hidden=5 has no effect at all"]
