"""The CUDA devices that torch sees here.

Knows: names, memory, what to say when there are none. Does not know: kernels.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from diptych.domain.errors import SpecError


@dataclass(frozen=True)
class CudaDevice:
    """One device."""

    index: int
    name: str
    memory_bytes: int
    capability: tuple[int, int]
    """Its generation: major, minor."""

    def describe(self) -> str:
        """One line for people."""
        major, minor = self.capability
        return (
            f"cuda:{self.index} {self.name}, {self.memory_bytes / 2**30:.0f} GiB, capability {major}.{minor}"
        )


def cuda_devices() -> tuple[CudaDevice, ...]:
    """All that are visible; none if torch was built without CUDA."""
    if why_no_cuda():
        return ()
    found = [(index, torch.cuda.get_device_properties(index)) for index in range(torch.cuda.device_count())]
    return tuple(
        CudaDevice(index, device.name, device.total_memory, (device.major, device.minor))
        for index, device in found
    )


def why_no_cuda() -> str:
    """Why there is no device; empty if there is one."""
    if torch.version.cuda is None:
        return f"this torch ({torch.__version__}) was built without CUDA"
    if not torch.cuda.is_available():
        return f"this torch ({torch.__version__}) sees no CUDA device"
    return ""


def open_device(device: torch.device) -> None:
    """Make ``device`` the one on which this process computes; nothing to do for the CPU.

    Raises:
        SpecError: it is not there.
    """
    if device.type == "cpu":
        return
    if device.type != "cuda":
        raise SpecError(f"torch_device '{device}': the built-in engine runs on 'cpu' and 'cuda'")
    if why := why_no_cuda():
        remedy = (
            "install a torch built for CUDA"
            if torch.version.cuda is None
            else "check the driver (nvidia-smi) and CUDA_VISIBLE_DEVICES"
        )
        raise SpecError(f"torch_device '{device}': {why}; {remedy}, or set torch_device to 'cpu'")
    count = torch.cuda.device_count()
    if (device.index or 0) >= count:
        raise SpecError(f"torch_device '{device}': only {count} devices are visible, counted from 0")
    torch.cuda.set_device(device.index or 0)
