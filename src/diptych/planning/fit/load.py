"""A file of measured rows as the fit takes it.

Knows: which rows count. Does not know: the fit.
"""

from __future__ import annotations

from pathlib import Path

from diptych.planning.fit.least_squares import Data
from diptych.planning.fit.rows import aggregated, disaggregated
from diptych.planning.fit.vector import table


def data_of(path: Path) -> Data:
    """Rows of quality ok of one file, as arrays.

    Raises:
        SpecError: no such file, a column is missing, an unknown model or chip.
    """
    prefill, decode = disaggregated(path)
    return Data(table(aggregated(path)), table(prefill), table(decode))
