"""Prompts that a template makes from fields: the parts of a report, or any other fields of the template."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from medgen.config import did_you_mean
from medgen.errors import DataError, UsageError
from medgen.prompts.templates import Template, load_template

REPORT = ("history", "technique", "findings", "impression")
"""Fields that have an option of their own, in the order of a report."""


@dataclass(frozen=True)
class AskedFields:
    """The template, and the fields given by options, by their names in lower case."""

    template: Template
    values: Mapping[str, str]

    def prompt(self, modality: str | None) -> str:
        """The prompt. UsageError for a field that the template does not have, or if none of its fields was given."""
        for name in self.values:
            if name not in self.template.fields:
                told = f"the template '{self.template.name}' has no field '{name}'"
                hint = did_you_mean(name, self.template.fields, f"it has {', '.join(self.template.fields)}")
                raise UsageError(f"{told}{hint}")
        prompt = self.template.filled({**({"modality": modality} if modality else {}), **self.values})
        if not prompt:
            raise UsageError(f"the template '{self.template.name}' makes no prompt from these fields alone")
        return prompt

    def of_row(self, file: Path, number: int, row: Mapping[str, str]) -> str:
        """The prompt of a row of a table, whose cells take precedence over the options; DataError if it is empty."""
        prompt = self.template.filled({**row, **self.values, **{name: cell for name, cell in row.items() if cell}})
        if not prompt:
            raise DataError(f"{file}, row {number}: has nothing for the template '{self.template.name}'")
        return prompt


def asked_fields(template: str | None, fields: Sequence[str], **report: str | None) -> AskedFields | None:
    """The fields given by options; None if there are none. `fields` are NAME=TEXT, `report` parts with an own option.

    Without a name, the template is that of reports if one of their parts is given, else that of captions. UsageError
    for a field that is malformed or given twice.
    """
    values: dict[str, str] = {}
    for item in fields:
        name, separator, text = item.partition("=")
        if not separator or not name.strip():
            raise UsageError(f"--field {item}: expected NAME=TEXT")
        if name.strip().lower() in values:
            raise UsageError(f"--field {item}: '{name.strip()}' is given twice")
        values[name.strip().lower()] = text.strip()
    for name, part in report.items():
        if part is not None:
            if name in values:
                raise UsageError(f"--{name} and --field {name}=... are the same; give one")
            values[name] = part
    if template is None and not values:
        return None
    return AskedFields(load_template(template or ("report" if set(values) & set(REPORT) else "caption")), values)
