"""Bytes that several processes can address: KV that all write, files that one writes and all read.

Knows: shared segments, copies of blocks inside one, sealed files. Does not know: models, requests, who may
write where.

A *memory domain* is the set of workers that address the same bytes. Inside a domain a block is never moved to
change hands: its id is passed on. The one copy that remains is that of a partly filled last block, because
only the owner of a block writes into it.
"""
