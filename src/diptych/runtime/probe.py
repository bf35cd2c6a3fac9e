"""One tiny request through prefill and decode: the proof behind "ready".

Knows: how to ask the front end like any client. Does not know: workers, HTTP. Its cache salt is random, so it
neither finds nor leaves anything in the prompt cache that another request could hit.
"""

from __future__ import annotations

import secrets

from diptych.domain.ids import RequestId
from diptych.domain.kv import extend_hashes, hash_root
from diptych.domain.report import RequestReport
from diptych.domain.request import Request, SamplingParams
from diptych.runtime.streams import Frontend

PROBE_PREFIX = "probe-"
"""Request ids of probes start with this: whoever counts requests can leave them out."""

PROMPT_TOKENS = 3
OUTPUT_TOKENS = 2
"""The first comes from prefill, the second from decode."""


async def probe(frontend: Frontend, vocab_size: int, block_tokens: int) -> RequestReport:
    """Send the probe and wait for its end."""
    salt = secrets.token_hex(16)
    root = hash_root("probe", salt)
    prompt = tuple(index % vocab_size for index in range(PROMPT_TOKENS))
    request = Request(
        request_id=RequestId(PROBE_PREFIX + salt),
        prompt_token_ids=prompt,
        cache_root=root,
        block_hashes=extend_hashes(root, prompt, block_tokens),
        sampling=SamplingParams(max_tokens=OUTPUT_TOKENS, seed=0, temperature=0.0),
    )
    stream = frontend.submit(request, frontend.now_s())
    while True:
        for item in await stream.next_batch():
            if isinstance(item, RequestReport):
                return item
