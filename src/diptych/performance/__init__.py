"""What work costs. Knows: seconds per token, step and handoff. Does not know: policies."""
