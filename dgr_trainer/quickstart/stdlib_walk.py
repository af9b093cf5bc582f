"""Collects the docstrings of the standard library of the interpreter that runs this script.

This file imports only the standard library, so that any Python from 3.11 on can run it as a script, in a separate
process (see [`~dgr_trainer.quickstart.python_docs.python_docs_corpus`]):

    python -I -S stdlib_walk.py

writes one line of JSON: `{"python": "3.13.0", "unavailable": [module, ...], "entries": [[name, text, summary], ...]}`.
It imports every public module of the standard library, which is why it runs in a separate process.
"""

import importlib
import inspect
import json
import pkgutil
import sys
import warnings
from collections.abc import Iterable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

# The script runs without the package on its path and then imports its sibling from its own folder.
if __package__:
    from dgr_trainer.quickstart.docstrings import clean_docstring, summary_line
else:
    sys.path.append(str(Path(__file__).parent))
    from docstrings import clean_docstring, summary_line  # type: ignore[no-redef]

    sys.path.pop()

_NOT_WALKED = frozenset(
    # Modules that do something when imported, demonstrations, tests and data.
    "antigravity this test idlelib turtledemo pydoc_data ensurepip lib2to3 "
    # Modules that draw windows and are missing from many builds.
    "tkinter turtle "
    # Implementations of `os` and `os.path`, which are the names that users write.
    "posix posixpath nt ntpath genericpath nturl2path "
    # Leftovers of private code.
    "sre_compile sre_constants sre_parse opcode xxsubtype xxlimited xxlimited_35 "
    # Removed between Python 3.12 and 3.14: left out everywhere, so that the versions have much the same corpus.
    "aifc asynchat asyncore audioop cgi cgitb chunk crypt distutils imghdr imp mailcap msilib nis nntplib ossaudiodev "
    "pipes smtpd sndhdr spwd sunau telnetlib uu xdrlib".split()
)
_WITHOUT_SUBMODULES = frozenset(["encodings", "ctypes.macholib"])
_PLATFORM_HOMES = frozenset(["posix", "posixpath", "nt", "ntpath", "genericpath"])
_TRIVIAL = (
    "initialize self.",
    "return repr(self)",
    "alias for field number",
    "the type of the none singleton",
    "see pep ",
    "see class docstring",
    "internal",
    "private",
    "deprecated",
)
_SHORTEST_TEXT = 3  # Words.


class Entry(NamedTuple):
    """One documented object: its dotted `name`, its cleaned docstring `text`, and the `summary` line."""

    name: str
    text: str
    summary: str


class _Candidate(NamedTuple):
    preference: tuple[int, int, int, int, str]
    entry: Entry


def walk() -> tuple[list[Entry], list[str]]:
    """Document the standard library of this interpreter.

    Every object gets one entry, under the name that a user would write: the alias with the fewest dots (`asyncio.run`,
    not `asyncio.runners.run`), then the one that equals the object's `__name__`, then the one in the object's
    `__module__`. Objects of `builtins` are named without a prefix (`len`, `str.split`). Entries with equal texts are
    merged.

    Returns:
        `tuple[list[Entry], list[str]]`: the entries sorted by name, and the sorted names of the public modules that
        this interpreter could not import (modules of other platforms, or missing from this build).
    """
    with warnings.catch_warnings(), redirect_stdout(StringIO()), redirect_stderr(StringIO()):
        warnings.simplefilter("ignore")
        modules, unavailable = _import_modules()
        class_names = _class_names(modules)
        best: dict[str, _Candidate] = {}
        for candidate in _candidates(modules, class_names):
            other = best.get(candidate.entry.text)
            if other is None or candidate.preference < other.preference:
                best[candidate.entry.text] = candidate
    by_name: dict[str, _Candidate] = {}
    for candidate in best.values():
        other = by_name.get(candidate.entry.name)
        if other is None or candidate.entry.text < other.entry.text:
            by_name[candidate.entry.name] = candidate
    return [by_name[name].entry for name in sorted(by_name)], unavailable


def _import_modules() -> tuple[dict[str, ModuleType], list[str]]:
    modules: dict[str, ModuleType] = {}
    unavailable: list[str] = []

    def visit(name: str) -> None:
        try:
            module = importlib.import_module(name)
        except (Exception, SystemExit):  # A module of this build may fail in any way.
            unavailable.append(name)
            return
        modules[name] = module
        if name in _WITHOUT_SUBMODULES:
            return
        for child in sorted(info.name for info in pkgutil.iter_modules(getattr(module, "__path__", ()))):
            if not child.startswith(("_", "test")):
                visit(f"{name}.{child}")

    for name in sorted(sys.stdlib_module_names):
        if not name.startswith("_") and name not in _NOT_WALKED:
            visit(name)
    visit("os.path")
    return modules, sorted(unavailable)


def _public_objects(module_name: str, module: ModuleType) -> Iterator[tuple[str, Any]]:
    """Yield `(attribute name, object)` for the public objects of a module.

    These are the names in its `__all__` and what a package imports from its public submodules; without `__all__`, the
    objects that the module defines.
    """
    listed: Iterable[str] | None = getattr(module, "__all__", None)
    names = {*vars(module), *(listed or ())}
    for name in sorted(name for name in names if not name.startswith("_")):
        try:
            value = getattr(module, name)
        except AttributeError:
            continue
        if isinstance(value, ModuleType):
            continue
        if listed is None:
            offered = _belongs(value, module_name)
        else:
            home = _home(value) or ""
            offered = name in listed or (home.startswith(f"{module_name}.") and "._" not in home)
        if offered:
            yield name, value


def _belongs(value: Any, module_name: str) -> bool:
    if module_name == "builtins":
        return True
    home = _home(value)
    if home is None:
        return False
    return home == module_name or home.startswith((f"{module_name}.", "_")) or home in _PLATFORM_HOMES


def _home(value: Any) -> str | None:
    home = getattr(value, "__module__", None)
    if home is None and inspect.isbuiltin(value):
        home = getattr(type(getattr(value, "__self__", None)), "__module__", None)
    return home if isinstance(home, str) else None


def _preference(name: str, module_name: str, value: Any) -> tuple[int, int, int, int, str]:
    own_name = getattr(value, "__name__", None)
    home = (_home(value) or "").lstrip("_")
    return (
        name.count("."),
        int(own_name != name.rpartition(".")[2]),
        int(home.partition(".")[0] != module_name.partition(".")[0]),
        len(name),
        name,
    )


def _qualified(module_name: str, name: str) -> str:
    return name if module_name == "builtins" else f"{module_name}.{name}"


def _class_names(modules: dict[str, ModuleType]) -> dict[type, str]:
    """Give every public class the one name under which it is documented."""
    names: dict[type, tuple[tuple[int, int, int, int, str], str]] = {}
    for module_name, module in modules.items():
        for name, value in _public_objects(module_name, module):
            if inspect.isclass(value):
                qualified = _qualified(module_name, name)
                ranked = (_preference(qualified, module_name, value), qualified)
                names[value] = min(names.get(value, ranked), ranked)
    by_name = {name: cls for cls, (_, name) in names.items()}
    # `socket.SocketType` is a base of `socket.socket`: its members are documented as members of the latter.
    made_of = {
        cls
        for cls, (_, name) in names.items()
        if cls in by_name.get(f"{name.rpartition('.')[0]}.{cls.__name__}", cls).__mro__[1:]
    }
    return {cls: name for cls, (_, name) in names.items() if cls not in made_of}


def _candidates(modules: dict[str, ModuleType], class_names: dict[type, str]) -> Iterator[_Candidate]:
    for module_name, module in modules.items():
        yield from _candidate(module_name, module_name, module, module.__doc__)
        for name, value in _public_objects(module_name, module):
            if not inspect.isclass(value):
                yield from _candidate(_qualified(module_name, name), module_name, value, _own_docstring(value))
    for cls, name in class_names.items():
        docstring = cls.__doc__ if vars(cls).get("__doc__") else getattr(vars(cls).get("__init__"), "__doc__", None)
        yield from _candidate(name, name.rpartition(".")[0], cls, docstring)
        for attribute, value, docstring in _members(cls, class_names):
            yield from _candidate(f"{name}.{attribute}", name.partition(".")[0], value, docstring)


def _own_docstring(value: Any) -> Any:
    """Return the docstring of a function, or of another callable whose docstring is not that of its class."""
    if not callable(value):
        return None
    docstring = getattr(value, "__doc__", None)
    return docstring if inspect.isroutine(value) or docstring != type(value).__doc__ else None


def _members(cls: type, class_names: dict[type, str]) -> Iterator[tuple[str, Any, Any]]:
    """Yield `(name, object, docstring)` for the public members that a class or one of its private bases defines."""
    documented_elsewhere = {base for parent in cls.__mro__[1:] if parent in class_names for base in parent.__mro__}
    seen: set[str] = set()
    for base in cls.__mro__:
        if base is not cls and base in documented_elsewhere:
            continue
        for attribute, raw in sorted(vars(base).items(), key=lambda item: item[0]):
            if attribute.startswith("_") or attribute in seen:
                continue
            seen.add(attribute)
            value = raw.__func__ if isinstance(raw, staticmethod | classmethod) else raw
            if inspect.isclass(value):
                continue
            described = inspect.isroutine(value) or inspect.isdatadescriptor(value) or hasattr(value, "__get__")
            docstring = getattr(value, "__doc__", None) if described else None
            yield attribute, value, docstring


def _candidate(name: str, module_name: str, value: Any, docstring: Any) -> Iterator[_Candidate]:
    if not isinstance(docstring, str):
        return
    text = clean_docstring(docstring, name.rpartition(".")[2])
    if len(text.split()) < _SHORTEST_TEXT or text.lower().startswith(_TRIVIAL):
        return
    entry = Entry(name, text, summary_line(docstring, name.rpartition(".")[2]))
    yield _Candidate(_preference(name, module_name, value), entry)


def main() -> None:
    """Write the result of [`walk`] to standard output, as one line of JSON."""
    entries, unavailable = walk()
    version = ".".join(map(str, sys.version_info[:3]))
    json.dump({"python": version, "unavailable": unavailable, "entries": entries}, sys.stdout)
    sys.stdout.write("\n")


if __name__ == "__main__":
    main()
