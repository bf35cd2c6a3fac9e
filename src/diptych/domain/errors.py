"""Errors, branched by who must act.

    DiptychError
    ├── ClientError            the caller must change the request
    │   ├── InvalidRequest         a field is wrong
    │   ├── ContextTooLong         the prompt (plus its output) can never fit
    │   └── UnknownModel           no such model is served
    ├── Saturated              the caller may come again later; says when
    ├── ClusterError           the orchestrator or its operator must act
    │   ├── WorkerLost             a worker died and the request could not be resumed
    │   ├── HandoffFailed          KV could not be handed over in time
    │   └── DeadlineExceeded       the request waited longer than it may
    ├── SpecError              whoever wrote the configuration or the model directory must act
    └── Bug                    we must act: an invariant is broken

Knows: who is to blame and a stable code. Does not know: HTTP (the server maps these to statuses).
"""

from __future__ import annotations


class DiptychError(Exception):
    """Root of everything diptych raises on purpose."""

    code = "internal_error"


class ClientError(DiptychError):
    """The caller must change the request. ``param`` names the offending field, if there is one."""

    code = "invalid_request"

    def __init__(self, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.param = param


class InvalidRequest(ClientError):
    """A field of the request is wrong."""

    code = "invalid_value"


class ContextTooLong(ClientError):
    """Prompt and output can never fit into the model's context or a worker's KV memory."""

    code = "context_length_exceeded"


class UnknownModel(ClientError):
    """No such model is served here."""

    code = "model_not_found"


class Saturated(DiptychError):
    """Nothing is wrong but the load: come again after ``retry_after_s``."""

    code = "server_overloaded"

    def __init__(self, message: str, retry_after_s: float) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class ClusterError(DiptychError):
    """The cluster failed this request; the caller did nothing wrong."""


class WorkerLost(ClusterError):
    """Workers died and the request could not be resumed."""

    code = "worker_lost"


class HandoffFailed(ClusterError):
    """The KV cache could not be handed over in time."""

    code = "handoff_failed"


class DeadlineExceeded(ClusterError):
    """The request waited longer than it may."""

    code = "deadline_exceeded"


class SpecError(DiptychError):
    """A cluster spec, a flag or a model directory is wrong; the message names the key and the remedy."""

    code = "invalid_spec"


class Bug(DiptychError):
    """An invariant of diptych itself is broken."""
