"""All metrics, in the order in which they are measured and reported."""

from __future__ import annotations

from medgen.evaluation.agreement.declaration import AGREEMENT
from medgen.evaluation.anomaly.declaration import ANOMALY
from medgen.evaluation.conditioning.declaration import CONDITIONING
from medgen.evaluation.fidelity.declaration import FIDELITY
from medgen.evaluation.interpolation.declaration import INTERPOLATION
from medgen.evaluation.masks.declaration import MASKS
from medgen.evaluation.memorization.declaration import MEMORIZATION
from medgen.evaluation.ratings.declaration import RATINGS
from medgen.evaluation.reconstruction.declaration import RECONSTRUCTION
from medgen.evaluation.utility.declaration import UTILITY

METRICS = {
    one.name: one
    for one in (
        RECONSTRUCTION, FIDELITY, MEMORIZATION, CONDITIONING, AGREEMENT, MASKS, UTILITY, INTERPOLATION, ANOMALY, RATINGS
    )
}  # fmt: skip
