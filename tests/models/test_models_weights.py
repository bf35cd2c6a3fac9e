"""Checkpoints that are wrong are refused with a sentence that says what, where and what to do."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from diptych.adapters.native import NativeOptions, build_native_engine
from diptych.domain.errors import SpecError
from diptych.kernels.reference import ReferenceKernels
from diptych.models.decoder import outer_tensors
from diptych.models.dummy import DummyWeights
from diptych.models.load import load_decoder
from diptych.models.registry import FAMILIES
from diptych.models.resolve import read_model_shape
from diptych.performance.model_shape import SUPPORTED_ARCHITECTURES, ModelShape
from support.engine_driver import EngineDriver
from support.tiny_models import TINY_EXPERTS, write_config

CPU = torch.device("cpu")
UP = "model.layers.1.mlp.up_proj.weight"


@pytest.fixture
def tensors(tmp_path: Path) -> dict[str, Tensor]:
    """All tensors of the tiny Llama whose config lies in ``tmp_path``."""
    return tensors_of(read_model_shape(write_config(tmp_path)))


def tensors_of(shape: ModelShape) -> dict[str, Tensor]:
    """All tensors of a model."""
    names = dict(outer_tensors(shape))
    for layer in range(shape.layers):
        names |= FAMILIES[shape.architecture].layer_tensors(shape, layer)
    return {name: torch.randn(size) for name, size in names.items()}


def load(model_dir: Path) -> tuple[str, ...]:
    """Load, and say which tensors were not used."""
    shape = read_model_shape(model_dir)
    return load_decoder(model_dir, shape, ReferenceKernels(), dtype=torch.float32, device=CPU)[1]


def save_sharded(model_dir: Path, tensors: dict[str, Tensor]) -> None:
    files = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    weight_map = {name: files[i % 2] for i, name in enumerate(sorted(tensors))}
    for file in files:
        save_file({n: t for n, t in tensors.items() if weight_map[n] == file}, model_dir / file)
    (model_dir / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))


def test_every_supported_architecture_has_a_family() -> None:
    assert set(FAMILIES) == set(SUPPORTED_ARCHITECTURES)


def test_unused_tensors_are_listed(tmp_path: Path, tensors: dict[str, Tensor]) -> None:
    extra = {"zeta": torch.zeros(1), "alpha": torch.zeros(1), "x.rotary_emb.inv_freq": torch.zeros(2)}
    save_file(tensors | extra, tmp_path / "model.safetensors")
    assert load(tmp_path) == ("alpha", "zeta")
    save_sharded(tmp_path, tensors)
    assert load(tmp_path) == ()


def test_a_missing_tensor(tmp_path: Path, tensors: dict[str, Tensor]) -> None:
    del tensors[UP]
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(SpecError, match=rf"{tmp_path} lacks tensor '{UP}' of shape \[96, 64\]; fetch"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("architecture", "name"),
    [
        ("MixtralForCausalLM", "model.layers.1.block_sparse_moe.experts.5.w2.weight"),
        ("Qwen3MoeForCausalLM", "model.layers.1.mlp.experts.5.down_proj.weight"),
    ],
)
def test_a_missing_expert(tmp_path: Path, architecture: str, name: str) -> None:
    shape = read_model_shape(write_config(tmp_path, architecture, **TINY_EXPERTS))
    tensors = tensors_of(shape)
    save_file(tensors, tmp_path / "model.safetensors")
    assert load(tmp_path) == ()
    del tensors[name]
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(SpecError, match=rf"lacks tensor '{name}' of shape .*; fetch"):
        load(tmp_path)


def test_a_tensor_of_another_shape(tmp_path: Path, tensors: dict[str, Tensor]) -> None:
    tensors[UP] = torch.zeros(96, 63)
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(
        SpecError, match=rf"model.safetensors: tensor '{UP}' has shape \[96, 63\], expected \[96, 64\]"
    ):
        load(tmp_path)


def test_a_truncated_file(tmp_path: Path, tensors: dict[str, Tensor]) -> None:
    path = tmp_path / "model.safetensors"
    save_file(tensors, path)
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(SpecError, match=r"model\.safetensors is damaged"):
        load(tmp_path)


def test_a_missing_shard_and_a_broken_index(tmp_path: Path, tensors: dict[str, Tensor]) -> None:
    save_sharded(tmp_path, tensors)
    (tmp_path / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(SpecError, match=r"model-00002-of-00002\.safetensors is missing"):
        load(tmp_path)
    index = tmp_path / "model.safetensors.index.json"
    index.write_text("{}")
    with pytest.raises(SpecError, match="has no readable 'weight_map'"):
        load(tmp_path)
    index.write_text(json.dumps({"weight_map": {UP: "../elsewhere.safetensors"}}))
    with pytest.raises(SpecError, match="to files beside it"):
        load(tmp_path)


def test_an_index_that_names_a_tensor_its_shard_lacks(tmp_path: Path, tensors: dict[str, Tensor]) -> None:
    save_sharded(tmp_path, tensors)
    index = tmp_path / "model.safetensors.index.json"
    weight_map = json.loads(index.read_text())["weight_map"]
    weight_map[UP] = next(file for file in sorted(set(weight_map.values())) if file != weight_map[UP])
    index.write_text(json.dumps({"weight_map": weight_map}))
    with pytest.raises(SpecError, match=f"damaged or lacks a tensor .*{UP}"):
        load(tmp_path)


def test_a_directory_without_weights(tmp_path: Path) -> None:
    write_config(tmp_path)
    with pytest.raises(SpecError, match=r"holds neither model\.safetensors nor"):
        load(tmp_path)


def test_norms_of_gemma_3_are_stored_less_one(tmp_path: Path) -> None:
    """In bfloat16, sum and scale are rounded once."""
    shape = read_model_shape(write_config(tmp_path, "Gemma3ForCausalLM"))
    weight = FAMILIES[shape.architecture].weight
    stored = torch.tensor([0.0117, -0.3, 2.5]).bfloat16()
    for name in ("model.norm.weight", "layers.0.pre_feedforward_layernorm.weight", "a.k_norm.weight"):
        assert torch.equal(weight(shape, name, stored), (1 + stored.float()).bfloat16())
    ratio = (shape.head_dim / 24) ** 0.5
    assert torch.equal(weight(shape, "a.q_norm.weight", stored), ((1 + stored.float()) * ratio).bfloat16())
    assert weight(shape, "model.layers.0.mlp.up_proj.weight", stored) is stored


@pytest.mark.parametrize("architecture", SUPPORTED_ARCHITECTURES)
def test_every_family_runs_on_dummy_weights(architecture: str, tmp_path: Path) -> None:
    options = NativeOptions(load_format="dummy")
    model_dir = write_config(tmp_path, architecture, **TINY_EXPERTS)
    driver = EngineDriver(build_native_engine(model_dir, options, total_blocks=16))
    driver.engine.warm_up()
    track = driver.track("r", range(50))
    driver.prefill(track, 20)
    assert len(track.output) == 1


def test_dummy_weights_are_seeded_and_scaled() -> None:
    first, again, other = (DummyWeights(seed, torch.float32, CPU).take("w", (64, 400)) for seed in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert float(first.var()) == pytest.approx(1 / 400, rel=0.05)
    assert DummyWeights(1, torch.float32, CPU).take("a.norm.weight", (3,)).tolist() == [1, 1, 1]
    assert DummyWeights(1, torch.float32, CPU).take("a.bias", (2,)).tolist() == [0, 0]
