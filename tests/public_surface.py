"""The public surface of the library as text, a line for each thing that a user may rely on.

    python tests/public_surface.py

writes it to `tests/assets/public_surface.txt`, with which `tests/test_public_surface.py` compares it, and lists the
public classes and functions in the API reference, `docs/api`. The text is the same on every supported Python:
annotations are shown as the source has them, or by the names of their types.
"""

import dataclasses
import importlib
import inspect
import types
import typing
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

COMMITTED = Path(__file__).with_name("assets") / "public_surface.txt"
API_PAGES = Path(__file__).parents[1] / "docs" / "api"
GENERATED = "<!-- The rest of this page is written by tests/public_surface.py. -->\n"

PACKAGES = (
    "dgr_trainer",
    "dgr_trainer.data",
    "dgr_trainer.errors",
    "dgr_trainer.evaluation",
    "dgr_trainer.evaluation.retrieval_metric",
    "dgr_trainer.index",
    "dgr_trainer.integrations",
    "dgr_trainer.retrieval",
    "dgr_trainer.rounds",
    "dgr_trainer.runs",
    "dgr_trainer.teachers",
    "dgr_trainer.training.losses",
)
"""What `__all__` of these lists is public; of a module without `__all__`, the classes that it defines."""

MODULES: dict[str, tuple[str, ...]] = {
    "dgr_trainer.evaluation.agreement": ("agreement",),
}
"""Public names of modules whose other names are internal."""

PAGES = {
    "data": "data",
    "runs": "runs",
    "identifiers": "identifiers",
    "identifier_weights": "identifiers",
    "candidates": "identifiers",
    "semantic_ids": "identifiers",
    "query_generation": "identifiers",
    "index": "fm-index",
    "teachers": "teachers",
    "training": "training",
    "rounds": "training",
    "training.losses": "losses",
    "retrieval": "retrieval",
    "integrations": "retrieval",
    "evaluation": "evaluation",
    "reporting": "evaluation",
    "errors": "errors",
}
"""The page of the API reference by the package or module in which an object is defined."""

_SPECIAL_METHODS = ("__call__", "__contains__", "__enter__", "__exit__", "__getitem__", "__iter__", "__len__")


def public_names() -> Iterator[tuple[str, str]]:
    """Yield each public name as its module and its name, module by module, sorted."""
    for module_name in PACKAGES:
        module = importlib.import_module(module_name)
        names = getattr(module, "__all__", None)
        if names is None:
            names = [name for name, value in vars(module).items() if getattr(value, "__module__", None) == module_name]
        yield from ((module_name, name) for name in sorted(names) if not name.startswith("_"))
    for module_name, names in MODULES.items():
        yield from ((module_name, name) for name in names)


def public_surface() -> str:
    """Describe every public name, each in a line, and the members of a class in lines below it."""
    lines: list[str] = []
    first_path: dict[int, str] = {}
    for module_name, name in public_names():
        path = f"{module_name}.{name}"
        value = getattr(importlib.import_module(module_name), name)
        has_identity = inspect.isclass(value) or inspect.isroutine(value)
        if has_identity and first_path.setdefault(id(value), path) != path:
            lines.append(f"{path} is {first_path[id(value)]}")
        elif inspect.isclass(value):
            lines += _class_lines(path, value)
        elif inspect.isroutine(value):
            lines.append(f"{path}{_signature(value)}")
        else:
            lines.append(f"{path}: {_constant(value)}")
    return "\n".join(lines) + "\n"


def api_references() -> dict[str, str]:
    """Return the generated part of each page of the API reference, by the name of the page."""
    sections: dict[str, dict[str, list[str]]] = {page: {} for page in PAGES.values()}
    listed: set[str] = set()
    for module_name, name in public_names():
        value = getattr(importlib.import_module(module_name), name)
        home = f"{getattr(value, '__module__', None)}.{name}"
        if (inspect.isclass(value) or inspect.isroutine(value)) and home not in listed:
            listed.add(home)
            rooms = [room for room in PAGES if f"{home}.".startswith(f"dgr_trainer.{room}.")]
            if not rooms:
                raise ValueError(f"{home} is public. Name a page of the API reference for it in PAGES.")
            page = PAGES[max(rooms, key=len)]
            sections[page].setdefault(module_name, []).append(home)
    return {page: "".join(map(_section, modules, modules.values())) for page, modules in sections.items()}


def _section(module_name: str, homes: list[str]) -> str:
    return f"\n## From `{module_name}`\n" + "".join(f"\n::: {home}\n" for home in homes)


def _class_lines(path: str, cls: type) -> Iterator[str]:
    ours = [base for base in cls.__mro__ if base.__module__.partition(".")[0] == "dgr_trainer"]
    bases = ", ".join(base.__name__ for base in cls.__bases__ if base is not object)
    yield f"class {path}({bases})" if bases else f"class {path}"
    if dataclasses.is_dataclass(cls):
        # Not Field.type, which the argument parser of transformers changes.
        own_fields = {name: type for base in reversed(ours) for name, type in inspect.get_annotations(base).items()}
        for field in dataclasses.fields(cls):
            if field.name in own_fields and field.init:
                yield f"    field {field.name}: {_annotation(own_fields[field.name])}{_field_default(field)}"
    elif issubclass(cls, tuple) and hasattr(cls, "_field_defaults"):
        for name, annotation in inspect.get_annotations(cls).items():
            default = f" = {_value(cls._field_defaults[name])}" if name in cls._field_defaults else ""
            yield f"    field {name}: {_annotation(annotation)}{default}"
    elif constructors := [method for base in ours if _is_written(method := vars(base).get("__init__"), base)]:
        yield f"    __init__{_signature(constructors[0], skip_first=True)}"
    members: dict[str, Any] = {}
    for base in reversed(ours):
        members |= vars(base)
    for name, member in sorted(members.items()):
        if not name.startswith("_") or name in _SPECIAL_METHODS:
            yield from _member_lines(name, member)


def _is_written(method: Any, cls: type) -> bool:
    """Tell whether a method is in the source of a class, not added by typing.Protocol."""
    return inspect.isfunction(method) and method.__module__ == cls.__module__


def _member_lines(name: str, member: Any) -> Iterator[str]:
    if isinstance(member, property):
        returns = inspect.signature(typing.cast(Callable[..., Any], member.fget)).return_annotation
        yield f"    property {name} -> {_annotation(returns)}"
    elif isinstance(member, classmethod):
        yield f"    classmethod {name}{_signature(member.__func__, skip_first=True)}"
    elif isinstance(member, staticmethod):
        yield f"    staticmethod {name}{_signature(member.__func__)}"
    elif inspect.isfunction(member):
        yield f"    {name}{_signature(member, skip_first=True)}"
    elif hasattr(member, "func") and hasattr(member, "__set_name__"):
        yield f"    property {name} -> {_annotation(inspect.signature(member.func).return_annotation)}"


def _signature(function: Callable[..., Any], *, skip_first: bool = False) -> str:
    signature = inspect.signature(inspect.unwrap(function), follow_wrapped=True)
    parameters = list(signature.parameters.values())[1 if skip_first else 0 :]
    texts: list[str] = []
    keyword_only = False
    for parameter in parameters:
        if parameter.kind is parameter.VAR_POSITIONAL:
            keyword_only = True
            text = f"*{parameter.name}"
        elif parameter.kind is parameter.VAR_KEYWORD:
            text = f"**{parameter.name}"
        else:
            if parameter.kind is parameter.KEYWORD_ONLY and not keyword_only:
                keyword_only = True
                texts.append("*")
            text = parameter.name
        if parameter.annotation is not parameter.empty:
            text += f": {_annotation(parameter.annotation)}"
        if parameter.default is not parameter.empty:
            text += f" = {_value(parameter.default)}"
        texts.append(text)
    returns = signature.return_annotation
    suffix = "" if returns is signature.empty else f" -> {_annotation(returns)}"
    return f"({', '.join(texts)}){suffix}"


def _annotation(annotation: Any) -> str:
    """Show an annotation without the modules of its types, which differ between versions of Python."""
    if isinstance(annotation, str):
        return annotation
    if annotation is None or annotation is types.NoneType:
        return "None"
    if annotation is Ellipsis:
        return "..."
    if isinstance(annotation, list):  # The arguments of a Callable.
        return f"[{', '.join(map(_annotation, annotation))}]"
    if isinstance(annotation, typing.ForwardRef):
        return annotation.__forward_arg__
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (typing.Union, types.UnionType):
        return " | ".join(map(_annotation, arguments))
    if origin is typing.Literal:
        return f"Literal[{', '.join(map(repr, arguments))}]"
    if origin is not None:
        return f"{_annotation(origin)}[{', '.join(map(_annotation, arguments))}]"
    return getattr(annotation, "__name__", None) or str(annotation)


def _field_default(field: dataclasses.Field[Any]) -> str:
    if field.default is not dataclasses.MISSING:
        return f" = {_value(field.default)}"
    if field.default_factory is not dataclasses.MISSING:
        return f" = {_value(field.default_factory())}"
    return ""


def _value(value: Any) -> str:
    if inspect.isroutine(value) or inspect.isclass(value):
        return str(value.__name__)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return (
            f"{type(value).__name__}({', '.join(_value(getattr(value, f.name)) for f in dataclasses.fields(value))})"
        )
    if isinstance(value, set | frozenset):
        return f"{{{', '.join(sorted(map(repr, value)))}}}"
    if isinstance(value, tuple | list | dict | str | int | float | bool | types.NoneType):
        return repr(value)
    return f"<{type(value).__name__}>"


def _constant(value: Any) -> str:
    if typing.get_origin(value) is not None:
        return _annotation(value)
    if isinstance(value, dict):
        return f"dict with the keys {list(value)}"
    if isinstance(value, tuple):
        return repr(value)
    return type(value).__name__


if __name__ == "__main__":
    COMMITTED.write_text(public_surface(), encoding="utf-8")
    for page, references in api_references().items():
        path = API_PAGES / f"{page}.md"
        introduction, _, _ = path.read_text(encoding="utf-8").partition(GENERATED)
        path.write_text(introduction + GENERATED + references, encoding="utf-8")
