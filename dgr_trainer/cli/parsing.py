"""Command lines of subcommands: options from dataclasses, positional arguments, options from a YAML file."""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import json
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any, NoReturn

import yaml
from transformers import HfArgumentParser
from transformers.hf_argparser import string_to_bool

from dgr_trainer.cli.derive import default_text
from dgr_trainer.errors import DGRValueError, input_errors
from dgr_trainer.files.atomic import atomic_write
from dgr_trainer.files.lines import existing_file

_YES_OR_NO = ("yes", "true", "t", "y", "1", "no", "false", "f", "n", "0")
_SECRETS = ("hub_token",)
_LONGEST_CHOICES = 60
_UNUSABLE = (ValueError, TypeError, KeyError, RuntimeError, ImportError)


class UsageError(DGRValueError):
    """A command line or a configuration file that cannot be used."""


class _HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """Adds the default to the help of an option that has one, and choices that are too long for its heading."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        text = action.help or ""
        if action.choices is not None and len(_braced(action.choices)) > _LONGEST_CHOICES:
            text += f" One of {', '.join(map(str, action.choices))}."
        no_default = action.default is None or action.default is False or action.default in ("", [], argparse.SUPPRESS)
        if no_default or action.const is False:  # const: of --no_x, whose default is that of --x
            return text
        return f"{text} (default: {default_text(action.default).replace('%', '%%')})"

    def _format_action_invocation(self, action: argparse.Action) -> str:
        if not action.option_strings:
            return super()._format_action_invocation(action)
        # Options may also be spelled with hyphens, which the help does not repeat for each.
        names = [name for name in action.option_strings if "-" not in name.removeprefix("--").removeprefix("-")]
        return ", ".join(names or action.option_strings) + _values_of(action)


class CommandParser(HfArgumentParser):
    """Parses the command line of a subcommand.

    Args:
        dataclass_types (`Sequence[type]`): Dataclasses whose fields are the options, with `metadata={"help": ...}`.
        command (`str`): Name of the subcommand.
        usage (`str`, *optional*): Its arguments in short.
        description (`str`): What it does.
        example (`str`, *optional*): Command lines to show under the help.
        required (`Sequence[str]`, *optional*): Options that are required although their field has a default.
    """

    def __init__(
        self,
        dataclass_types: Sequence[Any],
        *,
        command: str,
        usage: str = "",
        description: str = "",
        example: str = "",
        required: Sequence[str] = (),
    ) -> None:
        super().__init__(
            dataclass_types,
            prog=f"dgr {command}",
            usage=f"dgr {command} {usage}".rstrip(),
            description=textwrap.fill(description, 79),
            epilog=f"example:\n{example}" if example else None,
            formatter_class=_HelpFormatter,
            allow_abbrev=False,
        )
        self.command = command
        options = {action.dest: action for action in self._actions}
        for name in required:
            options[name].required = True
        for action in self._actions:
            if action.const is False:
                action.help = f"The opposite of --{action.dest}."
        self.add_argument(
            "--config", metavar="FILE", help="YAML file of options; those on the command line take precedence."
        )
        if "debug" not in options:
            self.add_argument("--debug", action="store_true", help="Show the traceback of an error.")

    def error(self, message: str) -> NoReturn:
        """Raise a `UsageError` with the message, instead of exiting."""
        raise UsageError(f"{message}. `dgr {self.command} --help` lists the options.")

    def parse(self, arguments: Sequence[str]) -> tuple[Any, ...]:
        """Parse arguments, and the configuration file that they name.

        Returns:
            `tuple`: One instance of each dataclass, then a namespace of the positional arguments, whose `given` has
            the options that differ from their defaults, by name.

        Raises:
            UsageError: if an argument is unknown, missing or of the wrong type.
        """
        finder = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
        finder.add_argument("--config", nargs="?")
        config = finder.parse_known_args(list(arguments))[0].config
        if config is not None:
            values = self._read_config(Path(config))
            for action in self._actions:
                if action.dest in values:
                    action.required = False
            self.set_defaults(**values)
        tokens = self._flags(arguments)
        self._refuse_unknown(tokens)
        options = vars(self.parse_known_args(tokens)[0])
        # transformers checks its training arguments where they are made, and raises errors of many types.
        with input_errors(f"`dgr {self.command}` cannot use these options", *_UNUSABLE):
            *parsed, rest = self.parse_args_into_dataclasses(
                tokens, return_remaining_strings=True, look_for_args_file=False
            )
        last = next((action for action in reversed(self._actions) if not action.option_strings), None)
        if (
            rest
            and last is not None
            and last.nargs in ("*", "+")
            and not any(argument.startswith("-") for argument in rest)
        ):
            # Positional arguments on both sides of options: argparse takes only those before the options.
            setattr(parsed[-1], last.dest, [*(getattr(parsed[-1], last.dest) or []), *rest])
        elif rest:
            self.error(f"unknown argument{'s' * (len(rest) > 1)} {' '.join(rest)}")
        parsed[-1].given = {
            field.name: options[field.name]
            for options_class in self.dataclass_types
            for field in dataclasses.fields(options_class)
            if field.name in options and field.name not in _SECRETS and options[field.name] != _default(field)
        }
        return tuple(parsed)

    def _read_config(self, path: Path) -> dict[str, Any]:
        """The options of a YAML file, each converted as it would be from the command line."""
        try:
            content = yaml.safe_load(existing_file(path).read_text(encoding="utf-8"))
        except (yaml.YAMLError, ValueError) as error:  # A ValueError: not UTF-8, or a date such as 2024-13-45.
            raise UsageError(f"{path} is not YAML: {error}") from None
        if content is None:
            return {}
        if not isinstance(content, dict):
            raise UsageError(f"{path} holds a {type(content).__name__}. It needs lines of `option: value`.")
        names = {field.name for cls in self.dataclass_types for field in dataclasses.fields(cls) if field.init}
        given = {str(key).replace("-", "_"): value for key, value in content.items()}
        unknown = [key for key in given if key not in names]
        if unknown:
            near = [name for key in unknown for name in self._near(key, names)]
            raise UsageError(
                f"{path}: `dgr {self.command}` has no option {', '.join(unknown)}{_did_you_mean(near)}. Its options "
                "are the keys; positional arguments stay on the command line."
            )
        given = {key: value for key, value in given.items() if value is not None}
        options = _Config(list(self.dataclass_types), command=self.command)
        options.path = path
        takes_many = {action.dest for action in options._actions if action.nargs == "+"}
        tokens: list[str] = []
        for action in options._actions:
            action.required = False
        for key, value in given.items():
            if isinstance(value, list) and key not in takes_many:
                raise UsageError(f"{path}: {key} is a list, but it takes one value.")
            if key in takes_many:
                tokens += [f"--{key}", *map(_token, value if isinstance(value, list) else [value])]
            else:
                tokens.append(f"--{key}={_token(value)}")
        namespace, _ = options.parse_known_args(tokens)
        return {key: getattr(namespace, key) for key in given}

    def _refuse_unknown(self, tokens: Sequence[str]) -> None:
        """Report an unknown option first; argparse would first report options that are missing."""
        for token in tokens:
            name = token.split("=")[0]
            if name == "--":
                return
            if name.startswith("--") and name not in self._option_string_actions:
                near = self._near(name, self._option_string_actions)
                self.error(f"unknown argument {name}{_did_you_mean(near)}")

    def _flags(self, arguments: Sequence[str]) -> list[str]:
        """Write `--flag` as `--flag=true` unless yes or no follows, so that it takes no positional as its value."""
        tokens = []
        for argument, following in zip_longest(arguments, arguments[1:], fillvalue=""):
            action = self._option_string_actions.get(argument)
            is_flag = action is not None and action.nargs == "?" and action.const is True
            tokens.append(f"{argument}=true" if is_flag and following.lower() not in _YES_OR_NO else argument)
        return tokens

    def _near(self, name: str, known: Iterable[str]) -> list[str]:
        return difflib.get_close_matches(name, sorted(known), n=1, cutoff=0.6)


def write_config(given: Mapping[str, Any], path: Path, comment: str) -> None:
    """Write options to a YAML file, which `--config` reads.

    Args:
        given (`Mapping[str, Any]`): Options by name, as `CommandParser.parse` returns them.
        path (`pathlib.Path`): The file.
        comment (`str`): First line of the file.
    """
    with atomic_write(path) as file:
        file.write(f"# {comment}\n")
        yaml.safe_dump(dict(given), file, sort_keys=False, allow_unicode=True)


class _Config(CommandParser):
    """Parses the values of a configuration file."""

    path: Path

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{self.path}: {message.replace('argument --', '')}")


def _default(field: dataclasses.Field[Any]) -> Any:
    return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()


def _values_of(action: argparse.Action) -> str:
    """The values of an option, as its help shows them."""
    if action.nargs == 0 or (action.nargs == "?" and action.const is True):
        return ""
    if action.choices is not None:
        name = _braced(action.choices)
        name = name if len(name) <= _LONGEST_CHOICES else "NAME"
    elif action.metavar is not None:
        name = str(action.metavar)
    else:
        name = {int: "N", float: "X", string_to_bool: "yes|no"}.get(action.type, "TEXT")
    return f" {name} ..." if action.nargs == "+" else f" {name}"


def _braced(choices: Iterable[Any]) -> str:
    return "{" + ",".join(map(str, choices)) + "}"


def _token(value: Any) -> str:
    return json.dumps(value) if isinstance(value, dict) else str(value)


def _did_you_mean(near: Sequence[str]) -> str:
    return f" (did you mean {', '.join(dict.fromkeys(near))}?)" if near else ""
