"""Where the server listens: its settings, whether that is safe, and the socket itself.

Knows: flags of the HTTP server, loopback addresses, listening sockets. Does not know: the cluster, routes.
"""

from __future__ import annotations

import difflib
import ipaddress
import socket
from collections.abc import Mapping, Sequence
from typing import Any

import yaml
from pydantic import ValidationError

from diptych.cli.options import HttpFlags
from diptych.domain.errors import ClusterError, SpecError
from diptych.server.config import ServerConfig

BACKLOG = 2048


class CannotListen(ClusterError):
    """The address is taken or not ours."""

    code = "cannot_listen"


def server_config(flags: HttpFlags, environ: Mapping[str, str]) -> ServerConfig:
    """Settings of the HTTP server. Raises `SpecError` for a wrong one, or if they would be unsafe."""
    keys = flags.api_key or tuple(key for key in environ.get("DIPTYCH_API_KEY", "").split(",") if key.strip())
    data: dict[str, Any] = {"host": flags.host, "port": flags.port, "api_keys": [key.strip() for key in keys]}
    data |= _assignments(flags.http)
    try:
        config = ServerConfig.model_validate(data)
    except ValidationError as error:
        raise SpecError("\n".join(_explain(dict(detail)) for detail in error.errors())) from None
    if not config.api_keys and not flags.insecure and not is_loopback(config.host):
        raise SpecError(
            f"--host {config.host} can be reached by others: set DIPTYCH_API_KEY (or --api-key), "
            "or say --insecure if that is what you want"
        )
    return config


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach ``host``."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def listen(host: str, port: int) -> socket.socket:
    """A bound socket, made before the model is loaded: a taken port should cost nobody a minute.

    Raises `CannotListen`.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except OSError as error:
        raise CannotListen(f"--host {host}: {error.strerror}") from None
    listener = socket.socket(family, kind, protocol)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(address)
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        remedy = f"; is it running already? Try --port {port + 1}, or --port 0 for a free one"
        raise CannotListen(f"cannot listen on {host}:{port}: {error.strerror}{remedy}") from None
    return listener


def url_of(listener: socket.socket) -> str:
    """Base URL that a client on this machine can use."""
    host, port = listener.getsockname()[:2]
    if ipaddress.ip_address(host).is_unspecified:
        host = "::1" if ":" in host else "127.0.0.1"
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _assignments(items: Sequence[str]) -> dict[str, Any]:
    data: dict[str, Any] = {}
    for item in items:
        key, equals, value = item.partition("=")
        if not equals:
            raise SpecError(f"--http {item!r} needs the form KEY=VALUE, such as keep_alive_s=5")
        data[key.strip()] = yaml.safe_load(value)
    return data


def _explain(detail: dict[str, Any]) -> str:
    key = ".".join(str(part) for part in detail["loc"])
    if detail["type"] != "extra_forbidden":
        return f"{key}: {detail['msg']}"
    names = list(ServerConfig.model_fields)
    near = difflib.get_close_matches(key, names, n=1)
    return f"{key}: there is no such setting; " + (f"did you mean {near[0]}?" if near else ", ".join(names))
