"""Settings of the server: where it listens, what it accepts, how it batches."""

from __future__ import annotations

import ipaddress
import math
from dataclasses import dataclass, field

from dgr_trainer.errors import DGRValueError

_AT_LEAST_ONE = ("max_k", "max_queries", "max_query_length", "max_ids", "max_body_bytes", "queue_size")


@dataclass(frozen=True)
class ServeSettings:
    """Settings of the server.

    Args:
        host (`str`, defaults to `"127.0.0.1"`): Address to listen on; the default is reached from this machine only.
        port (`int`, defaults to 8000): Port; 0 for any free one.
        allowed_hosts (`tuple[str, ...]`, defaults to `()`):
            Names under which the server is reached, besides its address, such as `search.example.org` behind a proxy.
            Requests with other names are refused if the server listens on this machine only and has no token, so that
            no page of another site can read from it.
        max_queries (`int`, defaults to 64): Queries of a request.
        max_query_length (`int`, defaults to 2000): Characters of a query.
        max_k (`int`, defaults to 1000): Passages per query.
        max_ids (`int`, defaults to 10000): Ids in `among` or `exclude` of a request.
        max_body_bytes (`int`, defaults to 1048576): Size of a request.
        batch_window (`float`, defaults to 5): Milliseconds that a query waits for others to be searched with it.
        max_batch (`int`, *optional*): Queries that are searched together; by default the batch size of the retriever.
        queue_size (`int`, defaults to 256): Queries that may wait; more are refused with status 503.
        timeout (`float`, defaults to 60): Seconds after which a request is given up, and a search makes the server not
            ready.
        token (`str`, *optional*): What requests have to send as `Authorization: Bearer TOKEN`.
        log_queries (`bool`, defaults to `False`): Whether the log has the queries.

    Raises:
        ValueError: if a value cannot be used.
    """

    host: str = field(
        default="127.0.0.1",
        metadata={"help": "Address to listen on; the default is reached from this machine only."},
    )
    port: int = field(default=8000, metadata={"help": "Port; 0 for any free one."})
    allowed_hosts: tuple[str, ...] = field(
        default=(), metadata={"help": "Names under which the server is reached, such as those of a proxy."}
    )
    max_queries: int = field(default=64, metadata={"help": "Most queries of a request."})
    max_query_length: int = field(default=2000, metadata={"help": "Most characters of a query."})
    max_k: int = field(default=1000, metadata={"help": "Most passages per query."})
    max_ids: int = field(default=10_000, metadata={"help": "Most ids in `among` or `exclude` of a request."})
    max_body_bytes: int = field(default=1 << 20, metadata={"help": "Largest request, in bytes."})
    batch_window: float = field(
        default=5.0, metadata={"help": "Milliseconds that a query waits for others to be searched with it."}
    )
    max_batch: int | None = field(
        default=None, metadata={"help": "Most queries searched together; by default the retriever's batch size."}
    )
    queue_size: int = field(default=256, metadata={"help": "Queries that may wait; more are refused (status 503)."})
    timeout: float = field(default=60.0, metadata={"help": "Seconds after which a request is given up."})
    token: str | None = field(default=None, repr=False)
    log_queries: bool = field(default=False, metadata={"help": "Write queries to the log."})

    def __post_init__(self) -> None:
        for name in _AT_LEAST_ONE + (() if self.max_batch is None else ("max_batch",)):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise DGRValueError(f"{name}={value!r} must be a whole number of at least 1.")
        if not isinstance(self.port, int) or not 0 <= self.port <= 65535:
            raise DGRValueError(f"port={self.port!r} is no port. Give a number from 0 to 65535.")
        if not 0 <= self.batch_window <= 1000:
            raise DGRValueError(f"batch_window={self.batch_window} must be 0 to 1000 milliseconds.")
        if not (math.isfinite(self.timeout) and self.timeout > 0):
            raise DGRValueError(f"timeout={self.timeout} must be a number of seconds above 0.")
        if self.max_queries > self.queue_size:
            raise DGRValueError(
                f"queue_size={self.queue_size} is below max_queries={self.max_queries}: the largest request would "
                "never fit. Raise the first or lower the second."
            )
        if self.token is not None and not (self.token.isascii() and self.token.isprintable() and self.token.strip()):
            raise DGRValueError("The token has to be visible ASCII characters. Make one of letters and digits.")
        if self.token is not None and " " in self.token:
            raise DGRValueError("The token holds a space. Make one of letters and digits.")

    @property
    def is_local(self) -> bool:
        """Whether the server is reached from this machine only."""
        return is_loopback(self.host)


def is_loopback(host: str) -> bool:
    """Whether a name or an address is that of this machine for itself."""
    if host.lower().rstrip(".") == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
