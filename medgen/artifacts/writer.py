"""What the writers of both encodings of a set have in common."""

from __future__ import annotations

import abc

from medgen.artifacts.label_maps import check_mask
from medgen.artifacts.schema import Case, ContentDigest, SetHeader, Tail
from medgen.artifacts.synthetic import renewed
from medgen.errors import DataError


class SetWriter(abc.ABC):
    """Takes cases one by one, rejects those that do not match the first, and computes the content's digest."""

    def __init__(self, header: SetHeader) -> None:
        self.header = renewed(header)
        self.digest = ContentDigest(self.header)
        self._layout: dict[str, tuple[str, tuple[int, ...]]] | None = None

    def write(self, case: Case) -> None:
        """Append one case. DataError names the case whose arrays differ in kind, type or shape from the first's."""
        case.check()
        layout = {name: (array.dtype.str, array.shape[1:]) for name, array in sorted(case.arrays.items())}
        if self._layout is None:
            self._layout = layout
        elif layout != self._layout:
            raise DataError(
                f"case {case.id}: holds {_describe(layout)}, the cases before it {_describe(self._layout)}; "
                "a set needs one shape (for images: preprocess with --size)"
            )
        if "vector" in case.arrays and case["vector"].shape[1] != len(self.header.vector_fields):
            raise DataError(
                f"case {case.id}: vectors of {case['vector'].shape[1]} numbers, "
                f"but the set names {len(self.header.vector_fields)} fields"
            )
        if "mask" in case.arrays and self.header.mask_names:
            check_mask(case, self.header.mask_names)
        self._put(case)
        self.digest.add(case)

    @abc.abstractmethod
    def _put(self, case: Case) -> None:
        """Store one checked case."""

    @abc.abstractmethod
    def finish(self, tail: Tail) -> None:
        """Mark the set as complete."""


def _describe(layout: dict[str, tuple[str, tuple[int, ...]]]) -> str:
    return ", ".join(
        f"{name} {'x'.join(map(str, shape)) or 'scalar'} {dtype[1:]}" for name, (dtype, shape) in layout.items()
    )
