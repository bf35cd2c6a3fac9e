"""The way in: OpenAI's dialect over HTTP, tokens ↔ text, streaming, probes and metrics.

Knows: HTTP, JSON, templates, tokenisers, what a client may ask for. Does not know: where a request runs or
why, workers (but for the figures that it shows), torch.
"""
