"""Where a figure comes from, and where it is kept.

Knows: the folder of results. Does not know: what was measured.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from diptych.bench.provenance import origin

RESULTS_DIR = Path(__file__).parent / "results"


def save(theme: str, result: dict[str, Any]) -> Path:
    """Write a result beside its provenance, named by theme, maker and cores of the processor, and month."""
    RESULTS_DIR.mkdir(exist_ok=True)
    found = origin(("diptych", "torch"))
    maker = re.match(r"[a-z]*", str(found["cpu"]).lower())
    path = RESULTS_DIR / f"{theme}-{maker[0] if maker else ''}cpu{found['cores']}-{found['date'][:7]}.json"
    path.write_text(json.dumps({"provenance": found, **result}, indent=2) + "\n")
    return path
