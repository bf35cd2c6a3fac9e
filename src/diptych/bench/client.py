"""One request over HTTP, with the moments of its answer.

Knows: aiohttp. Does not know: when requests are due, what is in a body.
"""

from __future__ import annotations

from types import TracebackType
from typing import Protocol

import aiohttp
import orjson

from diptych.bench.answer import BrokenAnswer, StreamedAnswer, error_of
from diptych.bench.sample import Outcome, Sample
from diptych.bench.sse import EventParser
from diptych.domain.clock import Clock

IDLE_CONNECTION_S = 2.0
"""An idle connection is not used again after this long: uvicorn closes them after 5 s (its default,
timeout_keep_alive, version 0.40), and a request that meets the close is lost."""

_SHED = (429, 503, 529)
"""Statuses that refuse for load: OpenAI's, vLLM's and SGLang's, Anthropic's and Dynamo's."""
_MISTAKEN = ("worker_lost", "aborted", "handoff_failed")
"""Codes that come with 503 and are no refusal."""


class Sender(Protocol):
    """Sends one prepared request and fills in its sample."""

    async def send(self, path: str, body: bytes, sample: Sample) -> None:
        """Never raises for what the server does; a cancelled one leaves the sample unfinished."""
        ...


class HttpSender:
    """A `Sender` over one pool of connections without a limit. An async context manager."""

    def __init__(self, url: str, clock: Clock, *, api_key: str | None, timeout_s: float) -> None:
        self._url = url.rstrip("/")
        self._now_s = clock.now_s
        self._headers = {"content-type": "application/json", "accept-encoding": "identity"}
        if api_key:
            self._headers["authorization"] = f"Bearer {api_key}"
        self._timeout_s = timeout_s
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> HttpSender:
        """Open the pool."""
        connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=IDLE_CONNECTION_S)
        timeout = aiohttp.ClientTimeout(total=self._timeout_s)
        self._session = aiohttp.ClientSession(connector=connector, timeout=timeout, headers=self._headers)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close it."""
        assert self._session is not None
        await self._session.close()

    async def send(self, path: str, body: bytes, sample: Sample) -> None:
        """POST and read the stream to its end."""
        sample.sent_s = self._now_s()
        try:
            await self._exchange(path, body, sample)
        except BrokenAnswer as error:
            _fail(sample, error.code, str(error))
        except TimeoutError:
            _fail(sample, "client_timeout", f"no end within {self._timeout_s:g} s")
        except aiohttp.ClientPayloadError as error:
            _fail(sample, "truncated_stream", str(error))
        except aiohttp.ClientConnectorError as error:
            _fail(sample, "connection_refused", str(error))
        except (aiohttp.ClientError, OSError) as error:
            _fail(sample, "connection_lost", str(error) or type(error).__name__)
        finally:
            sample.end_s = self._now_s()

    async def get_json(self, path: str) -> object | None:
        """What a GET answers; None if the route is not there or answers something else.

        Raises:
            aiohttp.ClientError: nobody answers at all.
        """
        assert self._session is not None
        async with self._session.get(self._url + path) as response:
            if response.status != 200:
                return None
            try:
                return orjson.loads(await response.read())
            except orjson.JSONDecodeError:
                return None

    async def _exchange(self, path: str, body: bytes, sample: Sample) -> None:
        assert self._session is not None
        async with self._session.post(self._url + path, data=body) as response:
            sample.headers_s, sample.status = self._now_s(), response.status
            if response.status != 200:
                await _refused(response, sample)
                return
            if response.content_type != "text/event-stream":
                raise BrokenAnswer("not_a_stream", f"the answer is {response.content_type}, no event stream")
            await self._read(response, StreamedAnswer(sample))

    async def _read(self, response: aiohttp.ClientResponse, answer: StreamedAnswer) -> None:
        parser = EventParser()
        async for chunk in response.content.iter_any():
            at_s = self._now_s()
            for data in parser.feed(chunk):
                answer.take(data, at_s)
        answer.finish()


async def _refused(response: aiohttp.ClientResponse, sample: Sample) -> None:
    """An error before the first byte of a stream."""
    try:
        body = orjson.loads(await response.read())
    except orjson.JSONDecodeError:
        body = {}
    error = error_of(body if isinstance(body, dict) else {}, f"http_{response.status}")
    sample.retry_after_s = _seconds(response.headers.get("retry-after"))
    _fail(sample, error.code, str(error))
    if response.status in _SHED and error.code not in _MISTAKEN:
        sample.outcome = Outcome.REJECTED


def _fail(sample: Sample, code: str, message: str) -> None:
    sample.outcome, sample.error_code, sample.error_message = Outcome.FAILED, code, message


def _seconds(text: str | None) -> float | None:
    try:
        return None if text is None else float(text)
    except ValueError:
        return None  # a date: nobody here acts on it
