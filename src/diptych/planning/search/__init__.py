"""From a model, hardware, a workload and targets to a verdict.

Knows: candidates, bounds, goodput, confidence, regret. Does not know: files, flags, how results are shown.
"""
