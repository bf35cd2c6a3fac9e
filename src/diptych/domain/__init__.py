"""The words of diptych.

Knows: requests, phases, roles, KV blocks and their hashes, the request lifecycle, the events and
commands that flow between the orchestrator and its workers, the cluster spec, errors, the clock protocol.
Does not know: anything else. No I/O, no torch, no asyncio, no clock is read here.
"""
