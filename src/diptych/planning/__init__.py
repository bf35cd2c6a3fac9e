"""Virtual time: the production control plane against cost models instead of devices.

Knows: the simulator, the search over fleets, the verdict and its evidence, reports. Does not know: torch,
sockets,
real time; it holds no policy of its own.
"""
