"""The command line: parse, call, print.

Knows: flags, environment variables, spec files, how results look in a terminal.
Does not know: policies, sockets' contents, tensors. Every command loads what it needs when it runs, so
``--help`` answers at once.
"""
