"""Tokens ↔ text.

Knows: tokenisers, chat templates, stop strings. Does not know: HTTP, requests, the cluster.
"""
