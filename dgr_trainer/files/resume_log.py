"""Long work that survives an interruption: a file that grows by one line with every chunk that is done."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from dgr_trainer.errors import DGRValueError


class ResumeLog:
    """A JSON Lines file of finished chunks, which are never held in memory together. Use as a context manager.

    The first line says how the chunks are made. A line that was cut short by a crash is dropped.

    Args:
        path (`str` or `os.PathLike`): The file; made if it is not there.
        settings (`Mapping[str, Any]`): How the chunks are made, in JSON types.

    Attributes:
        count (`int`): Number of finished chunks.

    Raises:
        ValueError: if the file holds chunks that were made otherwise, or is no such file.
    """

    def __init__(self, path: str | os.PathLike[str], settings: Mapping[str, Any]) -> None:
        self.path = Path(path)
        self.count = 0
        self.path.parent.mkdir(parents=True, exist_ok=True)
        whole = self._check(dict(settings)) if self.path.exists() else 0
        self._file = open(self.path, "ab")
        self._file.truncate(whole)
        if whole == 0:
            self._write({"settings": dict(settings)})

    def chunks(self) -> Iterator[Any]:
        """The finished chunks, in order, read from the file."""
        with open(self.path, "rb") as file:
            next(file)
            for line in file:
                yield json.loads(line)

    def add(self, chunk: Any) -> None:
        """Write down a chunk, in JSON types; it is on the disk when this returns."""
        self._write(chunk)
        self.count += 1

    def remove(self) -> None:
        """Delete the file, since its work is done."""
        self._file.close()
        self.path.unlink()

    def _write(self, value: Any) -> None:
        self._file.write(json.dumps(value, ensure_ascii=False).encode("utf-8") + b"\n")
        self._file.flush()
        os.fsync(self._file.fileno())

    def _check(self, settings: dict[str, Any]) -> int:
        """Count what is whole. Returns its length in bytes."""
        length = 0
        with open(self.path, "rb") as file:
            for number, line in enumerate(file):
                if not line.endswith(b"\n"):
                    break
                if number == 0:
                    try:
                        found = json.loads(line)["settings"]
                    except (ValueError, KeyError, TypeError):
                        raise DGRValueError(
                            f"{self.path} does not say how it was made, so it is no unfinished work. Give another "
                            "path."
                        ) from None
                    changed = [name for name in settings if found.get(name) != settings[name]]
                    if changed:
                        raise DGRValueError(
                            f"{self.path} was made with {changed[0]}={found.get(changed[0])!r}, but now it is "
                            f"{settings[changed[0]]!r}, so they do not belong together. Delete the file, or give "
                            "another path."
                        )
                length += len(line)
                self.count = number
        return length

    def __enter__(self) -> ResumeLog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
