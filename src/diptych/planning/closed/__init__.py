"""What can be said without simulating: closed forms of queueing, matching, budgets and stranding.

Knows: equations, each with its source. Does not know: specs, hardware catalogues, traces, policies.
"""
