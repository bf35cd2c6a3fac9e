"""Every metric once, and the ways to work it out and to publish it.

Knows: names, units, formulas, labels; what a request's report or a cluster snapshot says about them; the
Prometheus text form. Does not know: who asks, HTTP, how anything is measured.
"""
