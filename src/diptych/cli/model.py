"""The front end's view of the model that a cluster runs, under the names that the spec gives it.

Knows: how a model gets its name. Does not know: weights.
"""

from __future__ import annotations

from pathlib import Path

from diptych.builtin import BUILTIN_MODEL_NAME
from diptych.domain.cluster import BUILTIN_MODEL, ClusterSpec, ModelSpec
from diptych.runtime.cluster import Cluster
from diptych.server.model import ServedModel, load_served_model


def served_model(spec: ClusterSpec, cluster: Cluster) -> ServedModel:
    """Tokeniser, template and limits of the model. Raises `SpecError` if its directory lacks something."""
    return load_served_model(
        cluster.model_dir,
        names=names_of(spec.model),
        block_tokens=spec.kv.block_tokens,
        max_model_tokens=cluster.max_model_tokens,
    )


def names_of(model: ModelSpec) -> tuple[str, ...]:
    """What the spec says; else the built-in model's name, a hub name as it is, or a directory's last part."""
    if model.served_names:
        return model.served_names
    if model.path == BUILTIN_MODEL:
        return (BUILTIN_MODEL_NAME,)
    folder = Path(model.path).expanduser()
    return (folder.resolve().name,) if folder.is_dir() else (model.path,)
