"""Requests over time.

Knows: traces and their formats, arrival processes, lengths, sessions with shared prefixes. Does not know:
hardware, servers, how a request is served, files (it parses lines that it is given).
"""
