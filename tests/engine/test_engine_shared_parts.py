"""Engines over shared weights compute the same bits from one copy, and refuse weights of something else."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest
import torch

from diptych.adapters.native import NativeOptions, build_native_engine
from diptych.domain.errors import Bug, SpecError
from diptych.engine.shared_parts import share_parts
from diptych.kernels.invariant import InvariantKernels
from diptych.models.decoder import decoder_parts
from diptych.models.dummy import DummyWeights
from diptych.models.family import Outer, Part, Unused
from diptych.models.packing import Packing
from diptych.models.registry import FAMILIES
from diptych.models.resolve import read_model_shape
from diptych.transfer.sealed import DamagedFile, create_unsealed, fill_once, is_sealed
from support.engine_driver import GREEDY, EngineDriver
from support.tiny_models import TINY_EXPERTS, save_random_model, write_config

OPTIONS = NativeOptions(load_format="dummy", block_tokens=8)
CPU = torch.device("cpu")

CHILD = """
import sys, time
from pathlib import Path
from diptych.adapters.native import NativeOptions, build_native_engine
from diptych.models.dummy import DummyWeights

take = DummyWeights.take

def slow_take(self, name, expected):
    if name.startswith("model.layers.1.mlp"):
        print("packing", flush=True)
        time.sleep(60)
    return take(self, name, expected)

if sys.argv[3] == "slow":
    DummyWeights.take = slow_take
options = NativeOptions(load_format="dummy", block_tokens=8)
build_native_engine(Path(sys.argv[1]), options, total_blocks=4, weights_fd=int(sys.argv[2])).warm_up()
print("built", flush=True)
"""


@pytest.fixture
def fd() -> Iterator[int]:
    made = create_unsealed("diptych-weights")
    yield made
    os.close(made)


def parts_of(model_dir: Path) -> list[Part]:
    shape = read_model_shape(model_dir)
    source = DummyWeights(0, torch.float32, CPU)
    return list(
        decoder_parts(shape, FAMILIES[shape.architecture], Packing(InvariantKernels(CPU), "same"), source)
    )


def never() -> Iterator[Part]:
    raise AssertionError("read although the weights are there")
    yield


def tokens_of(model_dir: Path, options: NativeOptions, fd: int | None = None) -> list[int]:
    driver = EngineDriver(build_native_engine(model_dir, options, total_blocks=20, weights_fd=fd))
    track = driver.track("r", list(range(3, 40)), GREEDY)
    driver.prefill(track, 20)
    driver.decode([track], 6)
    return list(track.output)


@pytest.mark.parametrize("architecture", sorted(FAMILIES))
def test_every_family_comes_back_as_it_went_in(tmp_path: Path, fd: int, architecture: str) -> None:
    parts = parts_of(write_config(tmp_path, architecture, **TINY_EXPERTS))
    written = share_parts(fd, {"a": "1"}, iter(parts))
    found = share_parts(fd, {"a": "1"}, never())
    assert (written.packed_here, found.packed_here) == (True, False)
    assert len(found.parts) == len(parts) and found.size_bytes > 0
    for part, back in zip(parts, found.parts, strict=True):
        assert_same(part, back)


def assert_same(one: Any, other: Any) -> None:
    assert type(one) is type(other)
    if isinstance(one, torch.Tensor):
        assert one.dtype == other.dtype and torch.equal(one, other)
        assert other.data_ptr() % 64 == 0
    elif hasattr(one, "__dataclass_fields__"):
        for name in one.__dataclass_fields__:
            assert_same(getattr(one, name), getattr(other, name))
    elif isinstance(one, tuple):
        for each, back in zip(cast(tuple[Any, ...], one), other, strict=True):
            assert_same(each, back)
    else:
        assert one == other


def test_a_tensor_that_a_part_holds_twice_is_written_once(tmp_path: Path, fd: int) -> None:
    (outer, *_) = parts_of(write_config(tmp_path, tie_word_embeddings=True))
    assert isinstance(outer, Outer) and outer.head.weight is outer.embedding_VD
    shared = share_parts(fd, {}, iter([outer]))
    assert outer.embedding_VD.nbytes < shared.size_bytes < 2 * outer.embedding_VD.nbytes
    (back,) = shared.parts
    assert isinstance(back, Outer) and back.head.weight.data_ptr() == back.embedding_VD.data_ptr()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_shared_weights_give_the_tokens_of_private_ones(tmp_path: Path, fd: int, dtype: str) -> None:
    write_config(tmp_path, "Qwen3ForCausalLM")
    options = msgspec.structs.replace(OPTIONS, dtype=dtype)
    alone = tokens_of(tmp_path, options)
    assert tokens_of(tmp_path, options, fd) == alone
    assert tokens_of(tmp_path, options, fd) == alone


def test_an_order_that_only_a_library_knows_is_not_shared(
    tmp_path: Path, fd: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    from diptych.kernels import fast

    monkeypatch.setattr(fast, "_can_prepack", lambda: False)
    assert fast.FastKernels(CPU, torch.bfloat16).packing == "plain"
    monkeypatch.setattr(fast, "_can_prepack", lambda: True)
    monkeypatch.setattr(fast.FastKernels, "pack", InvariantKernels.pack)
    monkeypatch.setattr("diptych.kernels.choose.NativeKernels", _no_native)
    lines: list[str] = []
    options = msgspec.structs.replace(OPTIONS, dtype="bfloat16")
    build_native_engine(write_config(tmp_path), options, total_blocks=4, weights_fd=fd, report=lines.append)
    assert "weights apart in each worker: the order of oneDNN cannot be shared" in lines
    assert not is_sealed(fd)


def _no_native(*_: object) -> None:
    from diptych.kernels.native.load import NotNative

    raise NotNative("not here")


def test_a_changed_checkpoint_is_not_taken_for_the_old_one(tmp_path: Path, fd: int) -> None:
    save_random_model(tmp_path, "Llama")
    options = NativeOptions(block_tokens=8)
    before = tokens_of(tmp_path, options, fd)
    assert tokens_of(tmp_path, options, fd) == before
    checkpoint = tmp_path / "model.safetensors"
    checkpoint.write_bytes(checkpoint.read_bytes()[:-1] + b"\x40")
    with pytest.raises(SpecError, match=r"changed since .*: model\.safetensors; start the cluster again"):
        tokens_of(tmp_path, options, fd)


def test_other_weights_than_asked_for_are_not_taken(tmp_path: Path, fd: int) -> None:
    write_config(tmp_path)
    tokens_of(tmp_path, OPTIONS, fd)
    with pytest.raises(SpecError, match=r"changed since .*: seed;"):
        tokens_of(tmp_path, msgspec.structs.replace(OPTIONS, seed=1), fd)


def test_what_the_checkpoint_holds_in_vain_is_told_by_all(tmp_path: Path, fd: int) -> None:
    shared = share_parts(fd, {}, iter([Unused(("x", "y"))]))
    assert shared.parts == share_parts(fd, {}, never()).parts == (Unused(("x", "y")),)


def test_parts_that_cannot_be_shared_are_a_bug_of_ours(fd: int) -> None:
    with pytest.raises(Bug, match="a set in the parts"):
        share_parts(fd, {}, iter([Unused({"x"})]))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "index",
    [b"{", b'{"key": 1, "parts": []}', b'{"key": {}, "parts": [{"is": "Popen"}]}'],
    ids=["no JSON", "another form", "an unknown type"],
)
def test_an_index_that_makes_no_sense_is_told(fd: int, index: bytes) -> None:
    fill_once(fd, lambda _: index)
    with pytest.raises(DamagedFile, match=r"cannot be read|something unknown"):
        share_parts(fd, {}, never())


@pytest.mark.live
def test_when_the_packer_is_killed_the_next_one_packs(tmp_path: Path, fd: int) -> None:
    write_config(tmp_path)

    def start(how: str) -> subprocess.Popen[str]:
        arguments = [sys.executable, "-c", CHILD, str(tmp_path), str(fd), how]
        return subprocess.Popen(arguments, pass_fds=(fd,), stdout=subprocess.PIPE, text=True)

    packer = start("slow")
    assert packer.stdout is not None and packer.stdout.readline() == "packing\n"
    waiting = start("quick")
    packer.kill()
    packer.communicate()
    assert waiting.communicate(timeout=60)[0] == "built\n"
    assert is_sealed(fd)
    assert tokens_of(tmp_path, OPTIONS, fd) == tokens_of(tmp_path, OPTIONS)
