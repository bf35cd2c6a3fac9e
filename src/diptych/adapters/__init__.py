"""One engine seen from outside: the same protocol for every kind of engine.

Knows: how to build an engine and run a `StepPlan` on it. Does not know: policies, requests, sockets.
"""
