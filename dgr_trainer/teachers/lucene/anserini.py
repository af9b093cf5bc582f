"""Runs Anserini, the Lucene toolkit inside Pyserini, as a separate program.

A Java machine inside the Python process would make forks hang and Ctrl-C kill Python.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import re
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from dgr_trainer.errors import DGRRuntimeError, MissingPackageError

logger = logging.getLogger(__name__)

_STACK_TRACE = re.compile(r"^\s+at [\w.$/@]+\(", re.MULTILINE)
_TAIL = 4000  # number of characters of the output of a program that an error shows


def find_jar() -> Path:
    """Find the Anserini jar of the installed Pyserini, without importing Pyserini.

    Returns:
        `pathlib.Path`: The newest `anserini-*-fatjar.jar` in the package.

    Raises:
        ImportError: if Pyserini is not installed.
        FileNotFoundError: if it is installed but contains no such jar.
    """
    spec = importlib.util.find_spec("pyserini")
    if spec is None or not spec.submodule_search_locations:
        raise MissingPackageError('PyseriniTeacher needs Pyserini: pip install "dgr-trainer[pyserini]".')
    folders = [Path(location) / "resources" / "jars" for location in spec.submodule_search_locations]
    jars = [jar for folder in folders for jar in folder.glob("anserini-*-fatjar.jar")]
    if not jars:
        raise FileNotFoundError(
            f"The installed Pyserini has no anserini-*-fatjar.jar in {folders[0]}, so Lucene cannot run. "
            'Reinstall it: pip install --force-reinstall "dgr-trainer[pyserini]".'
        )
    return max(jars, key=lambda jar: [int(number) for number in re.findall(r"\d+", jar.name)])


def run_anserini(java: Path, jar: Path, program: str, arguments: Sequence[str], memory: str) -> str:
    """Run a program of the jar to its end. An interruption of the wait, such as Ctrl-C, ends the program too.

    Args:
        java (`pathlib.Path`): The `java` program.
        jar (`pathlib.Path`): The Anserini jar.
        program (`str`): The class to run, such as `"io.anserini.search.SearchCollection"`.
        arguments (`Sequence[str]`): Its arguments.
        memory (`str`): Maximum heap, such as `"2g"`.

    Returns:
        `str`: Its output.

    Raises:
        RuntimeError: if it failed, or reported an exception and continued; shows the end of its output.
    """
    command = [str(java), f"-Xmx{memory}", "-cp", str(jar), program, *arguments]
    logger.debug("Running %s", command)
    with tempfile.TemporaryFile() as output:
        # In a new session, Ctrl-C reaches Python only, which then ends the program.
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            status = process.wait()
        except BaseException:
            process.kill()
            process.wait()
            raise
        output.seek(0)
        text = output.read().decode(errors="replace")
    # Anserini drops a query that raises, and still exits with 0: a stack trace is a failure too.
    if status != 0 or _STACK_TRACE.search(text):
        raise DGRRuntimeError(f"{program} failed (exit status {status}).{_advice(text, memory)} {_report(text)}")
    return text


def _report(text: str) -> str:
    trace = _STACK_TRACE.search(text)
    start = max(0, trace.start() - _TAIL // 2) if trace else max(0, len(text) - _TAIL)
    return f"Its output:{os.linesep}{text[start : start + _TAIL].strip()}"


def _advice(text: str, memory: str) -> str:
    if "OutOfMemoryError" in text:
        return f" It ran out of memory. Give more than memory={memory!r}."
    if "prebuilt index metadata" in text:
        return (
            " Anserini 2 downloads a list of indexes from GitHub before it opens any. Go online, "
            'or install "pyserini>=1.6,<2", which works offline.'
        )
    return ""
