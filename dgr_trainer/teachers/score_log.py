"""Scores that survive an interruption: a file that grows with every query a slow teacher has finished."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

logger = logging.getLogger(__name__)

_START = b'{"settings": '


class ScoreLog:
    """A JSON Lines file of finished queries, opened to read what is there and to add to it.

    The first line says how the scores are made; each further one holds a query with its passages' scores. A line that
    was cut short by a crash is dropped. Use as a context manager.

    Args:
        path (`str` or `os.PathLike`): the file; made if it is not there.
        settings (`Mapping[str, object]`): how the scores are made, in JSON types.

    Raises:
        ValueError: if the file holds scores that were made otherwise, or is no such file.
    """

    def __init__(self, path: str | os.PathLike[str], settings: Mapping[str, object]):
        self.path = Path(path)
        self._finished: dict[tuple[str, str], dict[str, float]] = {}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        whole = self._read(dict(settings)) if self.path.exists() else 0
        self._file = open(self.path, "ab")
        self._file.truncate(whole)
        if whole == 0:
            self._add({"settings": dict(settings)})
        elif self._finished:
            logger.info("Going on from %d finished queries in %s.", len(self._finished), self.path)

    def scores(self, query_id: str, query: str) -> Mapping[str, float]:
        """Look up the scores that a query has already.

        Args:
            query_id (`str`): its id.
            query (`str`): its text; scores of another text under this id do not count.

        Returns:
            `Mapping[str, float]`: passage id -> score; empty if there are none.
        """
        return self._finished.get((query_id, query), {})

    def add(self, query_id: str, query: str, scores: Mapping[str, float]) -> None:
        """Write down the scores of a query; they are on the disk when this returns.

        Args:
            query_id (`str`): its id.
            query (`str`): its text.
            scores (`Mapping[str, float]`): passage id -> score.
        """
        self._add({"query_id": query_id, "query": query, "scores": dict(scores)})
        self._finished[(query_id, query)] = dict(scores)

    def _add(self, row: Mapping[str, object]) -> None:
        self._file.write(json.dumps(row, ensure_ascii=False).encode("utf-8", errors="surrogatepass") + b"\n")
        self._file.flush()
        os.fsync(self._file.fileno())

    def _read(self, settings: dict[str, object]) -> int:
        # Returns the length in bytes of what is whole.
        whole = 0
        with open(self.path, "rb") as file:
            for line in file:
                if not line.endswith(b"\n") and (whole > 0 or _START.startswith(line[: len(_START)])):
                    break  # cut short by a crash
                try:
                    row = json.loads(line.decode("utf-8", errors="surrogatepass"))
                    if whole == 0:
                        self._check(row["settings"], settings)
                    else:
                        self._finished[(row["query_id"], row["query"])] = row["scores"]
                except (UnicodeDecodeError, json.JSONDecodeError, KeyError, TypeError) as error:
                    raise ValueError(
                        f"{self.path} is not a file of a teacher's finished scores ({type(error).__name__}: {error}). "
                        "Give another path."
                    ) from error
                whole += len(line)
        return whole

    def _check(self, found: Mapping[str, object], settings: Mapping[str, object]) -> None:
        changed = [name for name in settings if found.get(name) != settings[name]]
        if changed:
            name = changed[0]
            raise ValueError(
                f"The scores in {self.path} were made with {name}={found.get(name)!r}, but now it is "
                f"{settings[name]!r}, so they do not belong together. Give another path, or delete the file."
            )

    def __enter__(self) -> ScoreLog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
