"""Formats of traces, one a file: each reads lines that it is given and hands out arrivals as it goes."""
