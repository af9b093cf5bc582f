"""Runs the server until it is told to stop."""

from __future__ import annotations

import logging
import signal
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import uvicorn

from dgr_trainer.errors import DGRRuntimeError
from dgr_trainer.serving.api import create_app
from dgr_trainer.serving.batching import SearchQueue
from dgr_trainer.serving.metrics import ServerMetrics
from dgr_trainer.serving.settings import ServeSettings
from dgr_trainer.serving.systems import System

logger = logging.getLogger(__name__)

_BACKLOG = 256


def serve(systems: Mapping[str, Callable[[], System]], settings: ServeSettings) -> bool:
    """Serve until SIGTERM or Ctrl-C; what runs then is finished, and a second signal ends it at once.

    The server listens before its models are loaded, and is ready when they answer.

    Args:
        systems (`Mapping[str, Callable[[], System]]`): What searches: name -> what makes it.
        settings ([`ServeSettings`]): Where to listen, and limits.

    Returns:
        `bool`: Whether a thread still loads or searches: a signal ended the server before it was ready, or a second
            one during a search.

    Raises:
        OSError: if the address cannot be listened on.
        Exception: what the making of a system raised.
    """
    failures: list[Exception] = []

    def stop(error: Exception) -> None:
        failures.append(error)
        server.should_exit = True

    metrics = ServerMetrics()
    queues = [SearchQueue(name, load, settings, metrics, stop) for name, load in systems.items()]
    server = make_server(queues, settings, metrics)
    with _listening(settings) as listener:
        if not settings.is_local and settings.token is None:
            logger.warning(
                "everyone who reaches %s can search: set a token in DGR_SERVE_TOKEN or with --token_file",
                settings.host,
            )
        logger.info("serving %s at %s", " and ".join(systems), _address(listener))
        with _signals_end_quietly():
            server.run(sockets=[listener])
    if failures:
        for queue in queues:
            queue.is_busy(settings.timeout)
        raise failures[0]
    logger.info("stopped")
    return any(queue.is_busy() for queue in queues)


def make_server(queues: Sequence[SearchQueue], settings: ServeSettings, metrics: ServerMetrics) -> uvicorn.Server:
    """Make the HTTP server of what searches; see [`create_app`]."""
    config = uvicorn.Config(
        create_app(queues, settings, metrics),
        log_config=None,
        access_log=False,
        server_header=False,
        lifespan="on",
        ws="none",
        timeout_keep_alive=30,
        timeout_graceful_shutdown=int(settings.timeout) + 1,
    )
    return uvicorn.Server(config)


@contextmanager
def _listening(settings: ServeSettings) -> Iterator[socket.socket]:
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    host = settings.host.strip("[]")
    try:
        listener = socket.create_server((host, settings.port), family=family, backlog=_BACKLOG)
    except (OSError, OverflowError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise DGRRuntimeError(
            f"Nothing can listen on {host}, port {settings.port}: {reason}. Give another --port, or a --host of this "
            "machine."
        ) from error
    with listener:
        yield listener


def _address(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"


@contextmanager
def _signals_end_quietly() -> Iterator[None]:
    """Uvicorn raises the signal that stopped it once more when it is done; the server has ended as it was asked to."""
    kept = {number: signal.signal(number, lambda *_: None) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler)
