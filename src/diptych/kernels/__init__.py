"""The few hot operations of a decoder, behind one seam with several implementations.

Knows: tensors, paged KV planes, how to compute on them. Does not know: models, requests, sampling, workers.

`seam` states the operations; `reference` is the plain truth; `invariant` gives every row the same bits in any
batch; `fast` uses what the device is quickest at. `choose` picks one.
"""
