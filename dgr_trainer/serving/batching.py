"""Queries that wait are searched together: a bounded queue, and one thread that takes batches from it.

A query waits for others for a few milliseconds only if nothing is being searched; what arrives during a search waits
for its end anyway. Queries of one search have equal restrictions and equal candidates, so that no answer depends on
what others ask. Each gets its own result: a query that cannot be searched does not fail the others of its batch.
"""

from __future__ import annotations

import logging
import math
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Literal

import torch

from dgr_trainer.errors import DGRKeyError, DGRTypeError, DGRValueError, one_line
from dgr_trainer.retrieval.hits import Hit
from dgr_trainer.serving.metrics import ServerMetrics
from dgr_trainer.serving.settings import ServeSettings
from dgr_trainer.serving.systems import Restriction, System

logger = logging.getLogger(__name__)

State = Literal["loading", "ready", "failing", "stuck", "stopped"]

_LONGEST_RETRY = 60
_SMOOTHING = 0.2


class QueueFull(Exception):
    """More queries wait than may; `retry_after` is an estimate of when some will have been searched, in seconds."""

    def __init__(self, retry_after: int) -> None:
        super().__init__(f"Too many queries are waiting. Try again in {retry_after} seconds.")
        self.retry_after = retry_after


class NotReady(Exception):
    """The model is being loaded, or the server is stopping."""


class BadQuery(Exception):
    """A query or a restriction that cannot be searched with; the message says why."""


class OutOfMemory(Exception):
    """A single query needs more memory than there is."""


class SearchFailed(Exception):
    """A bug, or a system that does not answer; the log has it."""


@dataclass(eq=False)
class _Entry:
    query: str
    k: int
    restriction: Restriction
    future: Future[list[Hit] | None] = field(default_factory=Future)


class SearchQueue:
    """Loads a system in a thread of its own, and searches with it for batches of the queries that wait.

    Args:
        name (`str`): What answers and metrics call the system.
        load (`Callable[[], System]`): Makes the system.
        settings ([`ServeSettings`]): Window, batch, bound of the queue and time limit.
        metrics ([`ServerMetrics`]): Where batches are counted.
        on_failure (`Callable[[Exception], None]`, *optional*): Called if the system cannot be made, or fails.

    Attributes:
        system ([`System`], *optional*): The system, once it is loaded.
    """

    def __init__(
        self,
        name: str,
        load: Callable[[], System],
        settings: ServeSettings,
        metrics: ServerMetrics,
        on_failure: Callable[[Exception], None] | None = None,
    ) -> None:
        self.name = name
        self.system: System | None = None
        self._load, self._settings, self._metrics, self._on_failure = load, settings, metrics, on_failure
        self._changed = threading.Condition()
        self._waiting: deque[_Entry] = deque()
        self._metrics.ready.labels(name).set_function(lambda: self.state == "ready")
        self._state: State = "loading"
        self._closed = False
        self._searching_since: float | None = None
        self._seconds_per_query = 0.0
        # A daemon: a second Ctrl-C ends the process during a search.
        self._thread = threading.Thread(target=self._run, name=f"search {name}", daemon=True)

    def start(self) -> None:
        """Begin to load the system, and then to search."""
        self._thread.start()

    @property
    def state(self) -> State:
        """Whether the system answers; `"ready"` if so."""
        since = self._searching_since
        if self._state == "ready" and since is not None and time.monotonic() - since > self._settings.timeout:
            return "stuck"
        return self._state

    def is_busy(self, seconds: float = 0) -> bool:
        """Whether the system is being loaded or searches, still after some seconds."""
        if self._thread.ident is not None:
            self._thread.join(seconds)
        return self._thread.is_alive()

    def check(self) -> State:
        """The state; if searches have failed, a search is tried, so that the state after it is a new one."""
        with self._changed:
            is_idle = not self._waiting and self._searching_since is None
            if self._state == "failing" and self.system is not None and is_idle:
                self._waiting.append(_Entry("ready", 1, Restriction()))
                self._changed.notify_all()
        return self.state

    def submit(self, queries: Sequence[str], k: int, restriction: Restriction) -> list[Future[list[Hit] | None]]:
        """Put queries at the end of the queue.

        Args:
            queries (`Sequence[str]`): The queries of a request.
            k (`int`): Passages per query.
            restriction ([`Restriction`]): The passages that may be found.

        Returns:
            `list[Future]`: the hits of each query, when they have been found; `None` if the system knows nothing
            about the query. Cancelling one takes the query out of the queue.

        Raises:
            QueueFull: if too many queries are waiting.
            NotReady: if the system is not loaded or the queue is closed.
        """
        entries = [_Entry(query, k, restriction) for query in queries]
        with self._changed:
            if self._closed or self.system is None:
                raise NotReady("The server is stopping." if self._closed else "The model is being loaded.")
            waiting = [entry for entry in self._waiting if not entry.future.cancelled()]
            if len(waiting) + len(entries) > self._settings.queue_size:
                self._metrics.refused.labels(self.name).inc(len(entries))
                raise QueueFull(self._retry_after(len(waiting)))
            self._waiting = deque([*waiting, *entries])
            self._metrics.waiting.labels(self.name).set(len(self._waiting))
            self._changed.notify_all()
        return [entry.future for entry in entries]

    def close(self) -> None:
        """Search for what waits, accept nothing more, and wait for the end within the time limit."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        if self._thread.is_alive() and self.system is not None:
            self._thread.join(self._settings.timeout)
        self._state = "stopped"

    def _retry_after(self, waiting: int) -> int:
        return min(_LONGEST_RETRY, max(1, math.ceil(waiting * self._seconds_per_query)))

    # In the thread

    def _run(self) -> None:
        try:
            system = self._load()
            system.probe()
        except Exception as error:
            self._set_state("failing")
            if self._on_failure is not None:
                self._on_failure(error)
            return
        self.system = system
        self._set_state("ready")
        logger.info("%s is ready", self.name)
        while batch := self._next_batch(system):
            self._search_batch(system, batch)

    def _next_batch(self, system: System) -> list[_Entry]:
        """The next queries to search together; none when the queue is closed and empty."""
        size = self._settings.max_batch or system.batch_size
        with self._changed:
            while not self._waiting:
                if self._closed:
                    return []
                self._changed.wait()
            end = time.monotonic() + self._settings.batch_window / 1000
            while len(self._waiting) < size and not self._closed and (left := end - time.monotonic()) > 0:
                self._changed.wait(left)
            batch: list[_Entry] = []
            others: list[_Entry] = []
            for entry in self._waiting:
                equal = not batch or (
                    entry.restriction == batch[0].restriction
                    and system.num_candidates(entry.k) == system.num_candidates(batch[0].k)
                )
                (batch if equal and len(batch) < size else others).append(entry)
            self._waiting = deque(others)
            self._metrics.waiting.labels(self.name).set(len(self._waiting))
            self._searching_since = time.monotonic()
        return batch

    def _search_batch(self, system: System, batch: list[_Entry]) -> None:
        entries = [entry for entry in batch if entry.future.set_running_or_notify_cancel()]
        began = time.monotonic()
        if entries:
            self._search(system, entries)
        seconds = time.monotonic() - began
        self._searching_since = None
        if entries:
            self._metrics.batch_sizes.labels(self.name).observe(len(entries))
            self._metrics.search_seconds.labels(self.name).observe(seconds)
            step = seconds / len(entries) - self._seconds_per_query
            self._seconds_per_query += step * (_SMOOTHING if self._seconds_per_query else 1)

    def _search(self, system: System, entries: list[_Entry]) -> None:
        try:
            results = system.search(
                [entry.query for entry in entries], max(entry.k for entry in entries), entries[0].restriction
            )
        except Exception as error:
            if len(entries) > 1:
                # One of them may be the cause, or all together need too much memory.
                for entry in entries:
                    self._search(system, [entry])
            else:
                entries[0].future.set_exception(self._as_told(system, entries[0].restriction, error))
            return
        self._set_state("ready")
        for entry, hits in zip(entries, results, strict=True):
            entry.future.set_result(None if hits is None else hits[: entry.k])

    def _as_told(self, system: System, restriction: Restriction, error: Exception) -> Exception:
        """What the client is told: its own mistake, too little memory, or nothing."""
        if isinstance(error, (DGRValueError, DGRKeyError, DGRTypeError)):
            # A teacher may have been made with wrong settings, which every search would show.
            if system.kind == "retriever" or restriction != Restriction():
                return BadQuery(one_line(error))
        if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
            logger.warning("%s has too little memory for a query", self.name)
            return OutOfMemory("There is too little memory for this search.")
        self._set_state("failing")
        # The message of the error may hold the query.
        lines = "".join(traceback.format_tb(error.__traceback__))
        message = f": {one_line(error)}" if self._settings.log_queries else ""
        logger.error("%s: a search failed\n%s%s%s", self.name, lines, type(error).__name__, message)
        return SearchFailed()

    def _set_state(self, state: State) -> None:
        if state != self._state:
            self._state = state
