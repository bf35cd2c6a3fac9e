"""The planner against published figures: `make acceptance`.

Knows: what is expected, with which tolerance, and the rules by which each figure was made. Does not know:
anything that the planner itself needs; nothing imports this package.
"""
