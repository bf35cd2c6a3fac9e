"""Real time: the driver that performs the orchestrator's commands with processes and sockets.

Knows: asyncio, the clock, processes, the wire, the shared segment. Does not know: policies (it decides
nothing), text, HTTP.
"""
