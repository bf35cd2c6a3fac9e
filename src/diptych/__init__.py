"""diptych: disaggregated LLM inference that anyone can run."""

from diptych import compiled

__version__ = "0.1.0"

compiled.install()
