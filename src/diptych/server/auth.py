"""Who may call, and whose prompt cache is whose.

Knows: API keys as digests. Does not know: what a caller may do beyond calling.
"""

from __future__ import annotations

import hmac
from hashlib import blake2b
from typing import Annotated

from fastapi import Depends, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from diptych.server.errors import InvalidApiKey
from diptych.server.state import server_of

_bearer = HTTPBearer(auto_error=False, description="An API key, if the server asks for one.")


class Keys:
    """The keys that are accepted. Compares in time that tells nothing about them."""

    def __init__(self, keys: tuple[str, ...]) -> None:
        self._digests = tuple(_digest(key) for key in keys)

    def check(self, key: str | None) -> str:
        """The tenant's name: derived from its key, empty if nobody is asked for one.

        Raises `InvalidApiKey`.
        """
        if not self._digests:
            return ""
        if key is None:
            raise InvalidApiKey("This server asks for an API key: send 'Authorization: Bearer KEY'.")
        given = _digest(key)
        if not any([hmac.compare_digest(given, digest) for digest in self._digests]):  # noqa: C419 - no early end
            raise InvalidApiKey("The API key is not valid.")
        return given.hex()


def _digest(key: str) -> bytes:
    return blake2b(key.encode(), digest_size=16).digest()


async def tenant(
    request: Request, sent: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)] = None
) -> str:
    """The caller's tenant, as a dependency of routes. Raises `InvalidApiKey`.

    A coroutine without an await: a plain function would be run on a thread of a pool, for every request.
    """
    return server_of(request).keys.check(sent.credentials if sent else None)


async def metrics_reader(
    request: Request, sent: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)] = None
) -> None:
    """Asks for a key only if metrics are protected."""
    if server_of(request).config.protect_metrics:
        await tenant(request, sent)


def cache_salt(tenant_name: str, wanted: str | None) -> str:
    """Salt of block hashes: what the caller wants, else its own. Two kinds never meet."""
    if wanted is not None:
        return f"salt:{wanted}"
    return f"key:{tenant_name}" if tenant_name else ""
