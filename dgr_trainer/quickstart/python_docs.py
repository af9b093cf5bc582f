"""The corpus of the quickstart: the documentation of the running interpreter's standard library."""

import json
import logging
import os
import subprocess
import sys
from functools import cache
from pathlib import Path

from dgr_trainer.data.corpus import Corpus
from dgr_trainer.data.passages import Passage
from dgr_trainer.errors import DGRRuntimeError
from dgr_trainer.quickstart.stdlib_walk import Entry

logger = logging.getLogger(__name__)

_SCRIPT = Path(__file__).with_name("stdlib_walk.py")
_TIMEOUT = 120  # Seconds; it takes about one.


def python_docs_corpus() -> Corpus:
    """Make a corpus of the documentation of the running interpreter's standard library.

    A passage is one documented public object: a module, class, function, method or property with its own docstring.
    The text is neither part of this package nor downloaded, so the corpus differs a little between versions and builds
    of Python: it has about 5,300 passages and 150,000 words.

    - `id` and `title` are the dotted name that a user would write: `collections.OrderedDict`, `os.path.join`,
      `pathlib.Path.glob`; objects of `builtins` have no prefix: `open`, `str.split`. Aliases share one passage.
    - `text` is the docstring without signature, doctests and markup, cut after 120 words.
    - `pseudo_queries` is the first sentence of the docstring.

    Left out are docstrings that are inherited, trivial or identical to another object's, double-underscore methods,
    `tkinter` and `turtle`, and the modules that were removed from the library between Python 3.12 and 3.14.

    The library is imported in a separate process, since some of its modules act on the process that imports them.

    Returns:
        [`~dgr_trainer.Corpus`]: the passages, sorted by id; the same at every call with one interpreter.

    Raises:
        RuntimeError: if the interpreter cannot be run (a frozen application has none).
    """
    return Corpus.from_passages(
        Passage(id=entry.name, title=entry.name, text=entry.text, pseudo_queries=(entry.summary,))
        for entry in documented_objects()
    )


@cache
def documented_objects() -> tuple[Entry, ...]:
    """Run `stdlib_walk.py` with the running interpreter and return the documented objects, sorted by name.

    Raises:
        RuntimeError: if that fails.
    """
    if not sys.executable:
        raise DGRRuntimeError(
            "The documentation of the standard library is read by a second Python process, but this program does not "
            "know its interpreter (sys.executable is empty, as in some frozen or embedded applications). Run the "
            "quickstart with an ordinary Python."
        )
    # Isolated and without site-packages, so that there is only the standard library to find. A dumb terminal, because
    # readline would otherwise write control characters to standard output.
    command = [sys.executable, "-I", "-S", "-W", "ignore", str(_SCRIPT)]
    environment = {**os.environ, "TERM": "dumb"}
    try:
        done = subprocess.run(
            command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, timeout=_TIMEOUT, check=True
        )
        walk = json.loads(done.stdout.splitlines()[-1])
    except (OSError, subprocess.SubprocessError, ValueError, IndexError) as error:
        detail = getattr(error, "stderr", None)
        output = f" Its output: {detail.decode(errors='replace').strip()[-500:]}" if detail else ""
        raise DGRRuntimeError(
            f"The documentation of the standard library could not be read: {' '.join(command)} failed ({error})."
            f"{output} Run this command by itself to see why; the quickstart needs an ordinary Python installation."
        ) from error
    entries = tuple(Entry(*entry) for entry in walk["entries"])
    if walk["unavailable"]:
        logger.info("modules that this Python cannot import: %s", ", ".join(walk["unavailable"]))
    logger.info("%d documented objects in the standard library of Python %s", len(entries), walk["python"])
    return entries
