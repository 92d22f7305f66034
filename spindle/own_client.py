"""How Spindle's own commands ask its gateway: without a proxy, and knowing its certificate by sight."""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from typing import Any
from urllib.request import HTTPSHandler, ProxyHandler, Request, build_opener

from spindle.settings import Settings


def open_gateway(settings: Settings, path: str, timeout: float, headers: Mapping[str, str] | None = None) -> Any:
    """The open answer to a GET. Raises urllib's errors."""
    # A proxy of the environment has no business with this computer.
    handlers: list[Any] = [ProxyHandler({})]
    if settings.access.tls_cert is not None:
        handlers.append(HTTPSHandler(context=_trusting(str(settings.access.tls_cert))))
    request = Request(f"{settings.gateway_url}{path}", headers=dict(headers or {}))
    return build_opener(*handlers).open(request, timeout=timeout)


def _trusting(certificate: str) -> ssl.SSLContext:
    """Trusts the gateway's own certificate, whoever signed it, under whatever name this computer reaches it."""
    context = ssl.create_default_context(cafile=certificate)
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    context.check_hostname = False
    return context
