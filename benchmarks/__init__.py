"""Benchmarks, run by command: ``make bench`` or ``python -m benchmarks [NAME …]``.

Knows: how to put a load on a real cluster and write what was seen, with hardware, versions, date and command.
Does not know: tests. No test depends on a time measured here.
"""
