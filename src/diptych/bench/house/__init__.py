"""The built-in engine on this machine, measured: profiles for the simulator and for placement, and a check
of both.

Knows: a running cluster's front end and journal. Does not know: HTTP, the engine's inside.
"""
