"""Fits of the named efficiencies. Knows: measured rows, least squares. Does not know: the simulator."""
