"""Architecture name → family. A new family is one file, one line here and its name in `model_shape`."""

from __future__ import annotations

from diptych.models.family import Family
from diptych.models.gemma3 import GEMMA3
from diptych.models.llama import LLAMA
from diptych.models.mistral import MISTRAL
from diptych.models.mixtral import MIXTRAL
from diptych.models.qwen2 import QWEN2
from diptych.models.qwen3 import QWEN3
from diptych.models.qwen3_moe import QWEN3_MOE

FAMILIES: dict[str, Family] = {
    family.architecture: family for family in (GEMMA3, LLAMA, MISTRAL, MIXTRAL, QWEN2, QWEN3, QWEN3_MOE)
}
