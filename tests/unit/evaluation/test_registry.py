"""What metrics declare is what the command shows, and what is measured."""

from __future__ import annotations

import importlib
import inspect
import subprocess
import sys
from pathlib import Path
from typing import get_type_hints

import msgspec
import pytest

import medgen.evaluation
from medgen.cli.flag import flags_of
from medgen.config import resolve
from medgen.errors import ConfigError
from medgen.evaluation.inputs import Inputs
from medgen.evaluation.options import EvaluateOptions
from medgen.evaluation.registry import METRICS
from medgen.evaluation.section import Section

ROOM = Path(medgen.evaluation.__file__).parent


def test_every_folder_that_measures_is_registered() -> None:
    assert {path.parent.name for path in ROOM.glob("*/metric.py")} == set(METRICS)


@pytest.mark.parametrize("name", METRICS)
def test_what_measures_takes_the_declared_options(name: str) -> None:
    measure = importlib.import_module(f"medgen.evaluation.{name}.metric").measure
    hints = get_type_hints(measure)
    assert hints.pop("return") is Section
    assert list(hints.values()) == [Inputs, *filter(None, [METRICS[name].options])]
    assert len(inspect.signature(measure).parameters) == len(hints)


def test_the_command_has_a_table_and_the_flags_of_each() -> None:
    tables = {field.name: field.type for field in msgspec.structs.fields(EvaluateOptions)}
    for name, metric in METRICS.items():
        assert tables.get(name) == metric.options
        assert metric.options is None or set(metric.files) <= set(metric.options.__struct_fields__)
    assert {"reconstruction.lpips", "fidelity.by", "anomaly.false_positive_rate"} <= set(flags_of(EvaluateOptions))
    with pytest.raises(ConfigError, match="key 'fidelity': unknown key 'neighbors'; did you mean 'neighbours'"):
        resolve(EvaluateOptions, "evaluate", tables=["evaluate"], sets=["fidelity.neighbors=3"])


def test_help_tells_of_each_and_loads_nothing_heavy() -> None:
    code = (
        "import sys; from medgen.cli.app import run; run(['evaluate', '--help']);"
        "print(*[name for name in ('torch', 'numpy', 'h5py', 'scipy') if name in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not done.stderr.strip()
    said = "".join(done.stdout.split()).replace("-", "")
    for metric in METRICS.values():
        assert "".join(metric.about.split()).replace("-", "") in said
