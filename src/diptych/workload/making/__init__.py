"""Workloads that are made and not read: when requests arrive, how long they are, what they share."""
