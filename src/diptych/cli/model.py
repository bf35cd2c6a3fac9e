"""The front end's view of the model that a cluster runs, under the names that the spec gives it.

Knows: how a model gets its name. Does not know: weights.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

from diptych.builtin import BUILTIN_MODEL_NAME, builtin_model_dir
from diptych.domain.cluster import BUILTIN_MODEL, ClusterSpec, ModelSpec
from diptych.domain.errors import SpecError
from diptych.runtime.cluster import Cluster
from diptych.server.model import ServedModel, load_served_model
from diptych.server.text.tokenizer import TOKENIZER_FILE

log = logging.getLogger("diptych.cli")


def served_model(spec: ClusterSpec, cluster: Cluster) -> ServedModel:
    """Tokeniser, template and limits of the model. Raises `SpecError` if its directory lacks something.

    Random weights need no tokeniser of their own: without one, the built-in model's serves.
    """
    if cluster.choice.name == "modelled":
        return _stand_in(spec, cluster)
    lent = spec.model.load_format == "dummy" and not (cluster.model_dir / TOKENIZER_FILE).is_file()
    model = load_served_model(
        cluster.model_dir,
        names=names_of(spec.model),
        block_tokens=spec.kv.block_tokens,
        max_model_tokens=cluster.max_model_tokens,
        text_folder=builtin_model_dir() if lent else None,
    )
    if lent:
        _warn(model)
    return model


def _stand_in(spec: ClusterSpec, cluster: Cluster) -> ServedModel:
    """A cost model under the modelled network's name: the built-in model lends its tokens, not its limits."""
    names = spec.model.served_names or (spec.model.path.rstrip("/").rsplit("/", 1)[-1],)
    lender = load_served_model(cluster.model_dir, names=names, block_tokens=spec.kv.block_tokens)
    return replace(lender, max_model_tokens=cluster.max_model_tokens)


def _warn(model: ServedModel) -> None:
    """Say what a lent tokeniser means. Raises `SpecError` if the network is too small for it."""
    known = model.tokenizer.vocab_size
    if known > model.vocab_size:
        raise SpecError(
            f"config.json has a vocab_size of {model.vocab_size}, too small for the built-in model's "
            f"tokenizer ({known} tokens), and the directory has no {TOKENIZER_FILE}; raise vocab_size"
        )
    log.warning(
        "the model directory has no %s: the built-in model's serves instead; of %d token ids "
        "those from %d on have no text",
        TOKENIZER_FILE,
        model.vocab_size,
        known,
    )


def names_of(model: ModelSpec) -> tuple[str, ...]:
    """What the spec says; else the built-in model's name, a hub name as it is, or a directory's last part."""
    if model.served_names:
        return model.served_names
    if model.path == BUILTIN_MODEL:
        return (BUILTIN_MODEL_NAME,)
    folder = Path(model.path).expanduser()
    return (folder.resolve().name,) if folder.is_dir() else (model.path,)
