"""Load for a server, on schedule whatever its answers do, and what the client saw.

Knows: HTTP, clocks, the definitions of the client's metrics. Does not know: how the server works inside.
"""
