"""What planning shows: data for other tools, tables, plots.

Knows: forms. Does not know: how results come about.
"""
