"""Failures as HTTP: the status, the headers and the one body shape of every error.

Knows: which code has which status and type. Does not know: how a failure came about.

Each body is ``{"error": {"message", "type", "param", "code"}}`` with all four keys. Codes are a small closed
set, so that nobody needs to read messages to decide about a retry.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import orjson
from starlette.responses import Response

from diptych.domain.errors import (
    ClientError,
    DeadlineExceeded,
    DiptychError,
    HandoffFailed,
    InvalidRequest,
    Saturated,
    UnknownModel,
    WorkerLost,
)
from diptych.domain.report import RequestReport

INVALID = "invalid_request_error"
OVERLOADED = "overloaded_error"
API = "api_error"
TIMEOUT = "timeout_error"

_STATUS_AND_TYPE: dict[str, tuple[int, str]] = {
    "invalid_request": (400, INVALID),
    "invalid_value": (400, INVALID),
    "unsupported_value": (400, INVALID),
    "context_length_exceeded": (400, INVALID),
    "invalid_json": (400, INVALID),
    "invalid_content_type": (400, INVALID),
    "invalid_api_key": (401, INVALID),
    UnknownModel.code: (404, INVALID),
    "not_found": (404, INVALID),
    "method_not_allowed": (405, INVALID),
    "request_too_large": (413, INVALID),
    "aborted": (503, API),
    Saturated.code: (503, OVERLOADED),
    "not_ready": (503, OVERLOADED),
    WorkerLost.code: (503, API),
    HandoffFailed.code: (503, API),
    DeadlineExceeded.code: (504, TIMEOUT),
    "internal_error": (500, API),
}
CODES = frozenset(_STATUS_AND_TYPE)
"""All that ``error.code`` can be."""

_RETRY_AFTER_S = (1.0, 30.0)
"""Bounds of Retry-After: a client that is told to wait for minutes gives up instead."""


class Unsupported(InvalidRequest):
    """The field is meaningful, but this version can not do it."""

    code = "unsupported_value"


class InvalidJson(InvalidRequest):
    """The body is not JSON."""

    code = "invalid_json"


class InvalidContentType(InvalidRequest):
    """The body does not say that it is JSON."""

    code = "invalid_content_type"


class RequestTooLarge(ClientError):
    """The body is longer than the server reads."""

    code = "request_too_large"


class InvalidApiKey(ClientError):
    """No key, or a wrong one."""

    code = "invalid_api_key"


class NotFound(ClientError):
    """There is nothing under this name."""

    code = "not_found"


@dataclass(frozen=True)
class Failure:
    """One failure, ready to be sent as an answer or as a frame of a stream."""

    code: str
    message: str
    param: str | None = None
    retry_after_s: float | None = None
    headers: dict[str, str] = field(default_factory=dict)

    @property
    def status(self) -> int:
        """HTTP status; 500 for a code that is not in the table."""
        return _STATUS_AND_TYPE.get(self.code, (500, API))[0]

    def body(self) -> dict[str, dict[str, str | None]]:
        """The JSON body."""
        known = self.code in CODES
        return {
            "error": {
                "message": self.message,
                "type": _STATUS_AND_TYPE[self.code][1] if known else API,
                "param": self.param,
                "code": self.code if known else "internal_error",
            }
        }

    def response(self, saturated_status: int = 503) -> Response:
        """The answer. ``saturated_status`` replaces 503 where load is the only reason."""
        status = saturated_status if self.code == Saturated.code else self.status
        headers = {**self.headers, **self._retry_headers(status)}
        return Response(
            orjson.dumps(self.body()), status_code=status, headers=headers, media_type="application/json"
        )

    def _retry_headers(self, status: int) -> dict[str, str]:
        if status not in (429, 503):
            return {}
        wait_s = min(max(self.retry_after_s or 0.0, _RETRY_AFTER_S[0]), _RETRY_AFTER_S[1])
        return {
            "retry-after": str(math.ceil(wait_s)),
            "retry-after-ms": str(math.ceil(wait_s * 1000)),
            "x-should-retry": "true",
        }


INTERNAL = Failure("internal_error", "The server failed to answer this request; its log says why.")
"""What a client hears of a bug: never a traceback."""


def failure_of_error(error: DiptychError) -> Failure:
    """What a client hears of an exception. Only errors that are meant for clients keep their words."""
    match error:
        case ClientError():
            return Failure(error.code, str(error), error.param)
        case Saturated():
            return Failure(error.code, str(error), retry_after_s=error.retry_after_s)
        case WorkerLost() | HandoffFailed() | DeadlineExceeded():
            return Failure(error.code, str(error))
        case _:
            return INTERNAL


def failure_of_report(report: RequestReport) -> Failure:
    """What a client hears of a request that did not finish."""
    code = report.error_code or "aborted"
    if code not in CODES or code == INTERNAL.code:
        return INTERNAL
    message = report.error_message or f"The request ended as {report.state.value}."
    return Failure(code, message, retry_after_s=report.retry_after_s)


class RequestFailed(Exception):
    """A request ended without an answer; carries what the client hears."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.message)
        self.failure = failure
