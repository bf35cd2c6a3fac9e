"""OpenAI's dialect: `/v1/chat/completions`, `/v1/completions`, `/v1/models`.

Knows: bodies, answers, chunks, and which field means what. Does not know: where requests run.
"""
