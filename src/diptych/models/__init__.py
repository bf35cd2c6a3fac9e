"""Network definitions, one file a family, and how their weights come from disk.

Knows: model directories, tensor names, the forward pass. Does not know: requests, sampling, workers.
Importing the package, `resolve` or `read_shape` loads no torch.
"""
