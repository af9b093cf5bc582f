"""Options derived from the library: from the fields of a settings dataclass, or from the parameters of a function.

Names, types, defaults and choices have one home, the library. An option that is not given is `None` here, so that the
library's default (or what was saved with a retriever) applies; its help states that default.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, NamedTuple, TypeVar, get_args, get_origin, get_type_hints

T = TypeVar("T", bound="LibraryOptions")


class Setting(NamedTuple):
    """One setting of the library, as an option.

    Args:
        name (`str`): Name of the option, without `--`.
        argument (`str`): Name of the library's argument.
        type (`type`): Type of the value, of one value if `many`.
        default (`Any`): The library's default.
        help (`str`): What the option sets, without its default.
        choices (`Sequence[str]`, *optional*): The values that it may have.
        many (`bool`): Whether it takes one or more values.
        metavar (`str`, *optional*): Name of its value in the help.
    """

    name: str
    argument: str
    type: type
    default: Any
    help: str
    choices: Sequence[str] | None = None
    many: bool = False
    metavar: str | None = None


class LibraryOptions:
    """Options of which some are settings of the library; [`derived`] adds these to a subclass."""

    arguments: ClassVar[Mapping[str, str]] = {}
    """The library's argument of each derived option."""
    flags: ClassVar[frozenset[str]] = frozenset()
    """Derived options that take no value and are off by default."""

    def given(self) -> dict[str, Any]:
        """The library's arguments for the derived options that were given."""
        return {self.arguments[name]: getattr(self, name) for name in self.given_names()}

    def given_names(self) -> list[str]:
        """Names of the derived options that were given, without `--`."""
        values = {name: getattr(self, name) for name in self.arguments}
        return [
            name for name, value in values.items() if value is not None and not (name in self.flags and value is False)
        ]


def derived(settings: Iterable[Setting], *, stated: str = "{}") -> Callable[[type[T]], type[T]]:
    """Make a dataclass of a subclass of [`LibraryOptions`], with options for settings after its own fields.

    Args:
        settings (`Iterable[Setting]`): The settings.
        stated (`str`, *optional*, defaults to `"{}"`): How the help states a default, `{}`.
    """
    settings = list(settings)
    # What is saved with a retriever may be on there, and is then turned off by a value.
    flags = frozenset(
        one.name for one in settings if one.type is bool and one.default is False and not one.many and stated == "{}"
    )

    def decorate(cls: type[T]) -> type[T]:
        annotations = inspect.get_annotations(cls)
        for setting in settings:
            annotations[setting.name] = (list[setting.type] if setting.many else setting.type) | None  # type: ignore[name-defined]
            metadata: dict[str, Any] = {"help": setting.help}
            if setting.name in flags:
                annotations[setting.name] = bool
                setattr(cls, setting.name, field(default=False, metadata=metadata))
                continue
            if setting.default is not None:
                metadata["help"] += f" (default: {stated.format(default_text(setting.default))})"
            if setting.choices is not None:
                metadata["choices"] = list(setting.choices)
            if setting.metavar is not None:
                metadata["metavar"] = setting.metavar
            setattr(cls, setting.name, field(default=None, metadata=metadata))
        cls.__annotations__ = annotations
        cls.arguments = {setting.name: setting.argument for setting in settings}
        cls.flags = flags
        return dataclass(cls)

    return decorate


def settings_of(settings: type, *, prefix: str = "", leave_out: Sequence[str] = ()) -> list[Setting]:
    """The fields of a settings dataclass of the library, whose metadata has their help (and choices)."""
    types = get_type_hints(settings)
    return [
        _setting(prefix + one.name, one.name, types[one.name], one.default, **one.metadata)
        for one in fields(settings)
        if one.name not in leave_out
    ]


def parameters_of(
    function: Callable[..., Any],
    helps: Mapping[str, str],
    *,
    choices: Mapping[str, Sequence[str]] | None = None,
    prefix: str = "",
    renamed: Mapping[str, str] | None = None,
) -> list[Setting]:
    """Parameters of a function of the library.

    Args:
        function (`Callable`): The function, or a class for its constructor.
        helps (`Mapping[str, str]`): Help of each parameter that becomes an option.
        choices (`Mapping[str, Sequence[str]]`, *optional*): The values that a parameter may have.
        prefix (`str`, *optional*): What the names of the options begin with.
        renamed (`Mapping[str, str]`, *optional*): Names of options that differ from those of the parameters.
    """
    types = get_type_hints(function.__init__ if inspect.isclass(function) else function)
    return [
        _setting(
            (renamed or {}).get(name, prefix + name),
            name,
            types[name],
            default_of(function, name),
            help=help,
            choices=(choices or {}).get(name),
        )
        for name, help in helps.items()
    ]


def default_of(function: Callable[..., Any], parameter: str) -> Any:
    """The default of a function's parameter."""
    return inspect.signature(function).parameters[parameter].default


def default_text(value: Any) -> str:
    """A default as one would type it on the command line."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (list, tuple)):
        return " ".join(map(default_text, value))
    text = str(value)
    return repr(text) if not text or " " in text else text


def _setting(name: str, argument: str, hint: Any, default: Any, *, help: str, **others: Any) -> Setting:
    """A setting of the type that a hint such as `tuple[str, ...]` or `int | None` says."""
    alternatives = [one for one in get_args(hint) if one is not type(None)]
    if type(None) in get_args(hint) and len(alternatives) == 1:
        hint = alternatives[0]
    many = get_origin(hint) is not None
    return Setting(name, argument, get_args(hint)[0] if many else hint, default, help, many=many, **others)
