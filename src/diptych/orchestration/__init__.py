"""The cluster: which request runs where, and what happens when something breaks.

Knows: workers, requests, placements, leases, deadlines. Does not know: sockets, processes, tensors, text, and
never reads a clock: `core.Orchestrator.handle(event, now_s)` returns commands.
"""
