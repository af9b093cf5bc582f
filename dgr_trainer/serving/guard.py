"""What stands before the API: who may ask, how large a request may be, and what happens to an error.

It sees every request first and every answer last: it refuses, counts, logs and adds the headers that keep a browser
from loading anything of another site.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import json
import logging
import time
import traceback
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from dgr_trainer.serving.metrics import ServerMetrics
from dgr_trainer.serving.settings import ServeSettings, is_loopback

logger = logging.getLogger(__name__)

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]

OPEN_PATHS = frozenset({"/", "/docs", "/openapi.json", "/healthz"})
"""What is answered without a token, besides the files of the page."""
STATIC = "/static/"

_HEADERS = [
    (
        b"content-security-policy",
        b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        b"base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
    ),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
]


class _Refused(Exception):
    def __init__(self, status: int, sentence: str, headers: list[tuple[bytes, bytes]] | None = None) -> None:
        super().__init__(sentence)
        self.status, self.sentence, self.headers = status, sentence, headers or []


class Guard:
    """An ASGI application around another one.

    Args:
        app: The application.
        settings ([`ServeSettings`]): Token, names of the server, size of a request, time limit.
        metrics ([`ServerMetrics`]): Where requests are counted.
    """

    def __init__(self, app: App, settings: ServeSettings, metrics: ServerMetrics) -> None:
        self._app, self._settings, self._metrics = app, settings, metrics
        self._token = None if settings.token is None else settings.token.encode()
        self._hosts = {host.lower() for host in (settings.host, *settings.allowed_hosts)}

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            with contextlib.suppress(asyncio.CancelledError):  # The server ends at once.
                await self._app(scope, receive, _without_cancelled_shutdown(send))
            return
        began = time.monotonic()
        status = 0

        async def guarded_send(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                names = {name.lower() for name, _ in message.get("headers", ())}
                caching = [] if b"cache-control" in names else [(b"cache-control", b"no-store")]
                message["headers"] = [*message.get("headers", ()), *_HEADERS, *caching]
            await send(message)

        try:
            headers = {name.lower(): value for name, value in scope["headers"]}
            self._check_host(headers.get(b"host", b""))
            self._check_token(scope["path"], headers.get(b"authorization", b""))
            body = await self._body(headers.get(b"content-length", b""), receive)
            await self._app(scope, _replayed(body, receive), guarded_send)
        except _Refused as refused:
            await _answer(guarded_send, refused.status, refused.sentence, refused.headers)
        except asyncio.CancelledError:  # The server ends at once.
            if not status:
                await _answer(guarded_send, 503, "The server is stopping.")
        except Exception as error:
            # The message of the error may hold a query or a path.
            lines = "".join(traceback.format_tb(error.__traceback__))
            logger.error("an answer failed\n%s%s", lines, type(error).__name__)
            if not status:
                await _answer(guarded_send, 500, "The server failed; its log says where.")
        seconds = time.monotonic() - began
        route = getattr(scope.get("route"), "path", "other")
        self._metrics.requests.labels(_method(scope["method"]), route, str(status)).inc()
        self._metrics.request_seconds.labels(route).observe(seconds)
        logger.debug("%s %s %d, %.0f ms", _method(scope["method"]), route, status, 1000 * seconds)

    def _check_host(self, host: bytes) -> None:
        """Refuse a name that another site may have given to this machine, where nothing else protects the answers."""
        if not self._settings.is_local or self._token is not None:
            return
        name = host.decode("latin-1").lower()
        name = name.rsplit(":", 1)[0] if not name.endswith("]") else name
        if not (is_loopback(name) or name in self._hosts):
            raise _Refused(400, "The server is not known under this name. Start it with --allowed_hosts NAME.")

    def _check_token(self, path: str, authorization: bytes) -> None:
        if self._token is None or path in OPEN_PATHS or path.startswith(STATIC):
            return
        scheme, _, given = authorization.partition(b" ")
        if scheme.lower() != b"bearer" or not hmac.compare_digest(given.strip(), self._token):
            sentence = "This server needs its token. Send the header `Authorization: Bearer TOKEN`."
            raise _Refused(401, sentence, [(b"www-authenticate", b"Bearer")])

    async def _body(self, length: bytes, receive: Receive) -> bytes:
        limit = self._settings.max_body_bytes
        too_large = _Refused(
            413, f"The request is too large: at most {limit:,} bytes are read. Send fewer queries at once."
        )
        if length.isdigit() and int(length) > limit:
            raise too_large
        body = bytearray()
        try:
            async with asyncio.timeout(self._settings.timeout):
                while True:
                    message = await receive()
                    body += message.get("body", b"")
                    if len(body) > limit:
                        raise too_large
                    if message["type"] != "http.request" or not message.get("more_body", False):
                        return bytes(body)
        except TimeoutError:
            raise _Refused(408, "The request did not arrive in time. Send it again.") from None


def _replayed(body: bytes, receive: Receive) -> Receive:
    sent = False

    async def replay() -> Message:
        nonlocal sent
        if not sent:
            sent = True
            return {"type": "http.request", "body": body, "more_body": False}
        return await receive()

    return replay


def _without_cancelled_shutdown(send: Send) -> Send:
    """Starlette takes the end of a server that a second signal stops for a failure, and tells its traceback."""

    async def sent(message: Message) -> None:
        if message["type"] == "lifespan.shutdown.failed" and "CancelledError" in message.get("message", ""):
            message = {"type": "lifespan.shutdown.complete"}
        await send(message)

    return sent


async def _answer(send: Send, status: int, sentence: str, headers: list[tuple[bytes, bytes]] | None = None) -> None:
    body = json.dumps({"error": sentence}).encode()
    start = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode()), *(headers or [])]
    await send({"type": "http.response.start", "status": status, "headers": start})
    await send({"type": "http.response.body", "body": body})


def _method(method: str) -> str:
    """The method as metrics name it: a client cannot make new ones up."""
    return method if method in ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS") else "other"
