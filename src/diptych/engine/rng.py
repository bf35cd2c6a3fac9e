"""Random numbers that are a function of (seed, output index): no state, no order, no torch.

Knows: one bit mixer. Does not know: distributions.

The mixer is SplitMix64's finaliser (Steele, Lea, Flood: Fast Splittable Pseudorandom Number
Generators, 2014).
"""

from __future__ import annotations

_MASK = (1 << 64) - 1
_GOLDEN = 0x9E3779B97F4A7C15


def uniform(seed: int, index: int) -> float:
    """The number in [0, 1) of output position ``index`` of a request with ``seed``; 53 random bits."""
    stream = _mix((seed & _MASK) + _GOLDEN)
    return (_mix(stream + (index + 1) * _GOLDEN) >> 11) * 2.0**-53


def _mix(value: int) -> int:
    value &= _MASK
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _MASK
    return value ^ (value >> 31)
