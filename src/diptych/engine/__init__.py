"""Runs a `StepPlan` on a device.

Knows: KV tensors, packing a step, the forward pass, sampling. Does not know: roles, scheduling,
sockets, text.
"""
