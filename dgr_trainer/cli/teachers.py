"""The teachers of `dgr rank`: their names, and their options, which are the fields of their dataclasses.

A field is an option if its metadata has a help text:

    help (`str`): What the setting is. Defaults are added.
    option (`str`, *optional*, defaults to the name of the field): Name of the option.
    choices (`Sequence[str]`, *optional*): Allowed values.
    metavar (`str`, *optional*): Placeholder of the value in the help.
    type (`type`, *optional*, defaults to that of the field): Type of the option: a plain type or a list of one.
    parse (`Callable`, *optional*): Turns the value of the option into that of the field.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, field, fields, make_dataclass
from typing import Any, get_args, get_origin, get_type_hints

from dgr_trainer.data.corpus import Corpus
from dgr_trainer.errors import DGRValueError
from dgr_trainer.teachers import (
    BiEncoderTeacher,
    BM25Teacher,
    CausalLMTeacher,
    CrossEncoderTeacher,
    PyseriniTeacher,
    Seq2SeqTeacher,
    Teacher,
)


@dataclass(frozen=True)
class TeacherChoice:
    """A value of `--teacher`.

    Args:
        teacher (`type`): Dataclass of the teacher, with the class attributes `needs_candidates` (whether it cannot
            search the corpus) and `shares_work` (whether several processes can share its work).
        help (`str`): What it is, in a few words.
    """

    teacher: Any
    help: str


TEACHERS = {
    "bm25": TeacherChoice(BM25Teacher, "BM25 without Java"),
    "pyserini": TeacherChoice(PyseriniTeacher, "Lucene through Pyserini (needs Java 21)"),
    "cross-encoder": TeacherChoice(CrossEncoderTeacher, "a sequence-classification model"),
    "seq2seq": TeacherChoice(Seq2SeqTeacher, "a sequence-to-sequence model that answers, such as monoT5"),
    "causal-lm": TeacherChoice(CausalLMTeacher, "a causal language model that answers"),
    "bi-encoder": TeacherChoice(BiEncoderTeacher, "a model that encodes queries and passages separately"),
}


def teacher_settings(name: str) -> dict[str, Field[Any]]:
    """Return the settings that a teacher takes from the command line: name of the option -> field."""
    settings = [setting for setting in fields(TEACHERS[name].teacher) if "help" in setting.metadata]
    return {setting.metadata.get("option", setting.name): setting for setting in settings}


def given_options(options: Any, name: str, prefix: str = "") -> dict[str, Any]:
    """Return the options that were given to a teacher.

    Args:
        options (`TeacherOptions`): The parsed options.
        name (`str`): Name of the teacher.
        prefix (`str`, *optional*): What the names of the parsed options begin with.

    Returns:
        `dict[str, Any]`: Name of the option, without the prefix -> value.

    Raises:
        ValueError: if an option of other teachers was given, or a required one was not.
    """
    settings = teacher_settings(name)
    given = {option.removeprefix(prefix): getattr(options, option) for option in all_given(options)}
    for option in given:
        if option not in settings:
            owners = [teacher for teacher in TEACHERS if option in teacher_settings(teacher)]
            raise DGRValueError(
                f"--{prefix}{option} is an option of {' and '.join(owners)}, not of {name}. Leave it out."
            )
    for option, setting in settings.items():
        if option not in given and setting.default is MISSING:
            raise DGRValueError(f"--teacher {name} needs --{prefix}{option}. {setting.metadata['help']}")
    return given


def all_given(options: Any) -> list[str]:
    """Names of the options of teachers that were given, whatever teacher they are for."""
    values = {option.name: getattr(options, option.name) for option in fields(options)}
    return [option for option, value in values.items() if value is not None and value is not False]


def make_teacher(name: str, corpus: Corpus | None, given: Mapping[str, Any]) -> Teacher:
    """Construct a teacher.

    Args:
        name (`str`): Its name.
        corpus (`Corpus`, *optional*): The passages.
        given (`Mapping[str, Any]`): Options from `given_options`; the teacher has defaults for the others.

    Returns:
        [`Teacher`]
    """
    arguments = {}
    for option, value in given.items():
        setting = teacher_settings(name)[option]
        parse = setting.metadata.get("parse")
        arguments[setting.name] = value if parse is None else parse(value)
    if any(setting.name == "results_on" for setting in fields(TEACHERS[name].teacher)):
        arguments["results_on"] = "main"  # The main process writes the run.
    teacher: Teacher = TEACHERS[name].teacher(corpus=corpus, **arguments)
    return teacher


def _make_options(name: str = "TeacherOptions", prefix: str = "", group: str = "teachers") -> type[Any]:
    """Make a dataclass of the options of all teachers; those that are not given are `None`, or `False` for flags."""
    settings_by_option: dict[str, dict[str, Field[Any]]] = {}
    for teacher in TEACHERS:
        for option, setting in teacher_settings(teacher).items():
            settings_by_option.setdefault(option, {})[teacher] = setting
    options: list[tuple[str, Any, Any]] = []
    for option, settings in settings_by_option.items():
        teacher, setting = next(iter(settings.items()))
        metadata = {key: setting.metadata[key] for key in ("choices", "metavar") if key in setting.metadata}
        metadata["help"] = _help(settings)
        option_type = setting.metadata.get("type") or _plain_type(
            get_type_hints(TEACHERS[teacher].teacher)[setting.name]
        )
        if option_type is bool:
            options.append((prefix + option, bool, field(default=False, metadata=metadata)))
        else:
            options.append((prefix + option, option_type | None, field(default=None, metadata=metadata)))
    return make_dataclass(name, options, namespace={"_argument_group_name": group})


def _plain_type(annotation: Any) -> Any:
    """Return the type of an option for that of a field: `str | PathLike | None` -> `str`, sequences -> lists."""
    if get_origin(annotation) is Sequence:
        return list[get_args(annotation)[0]]  # type: ignore[misc]  # The type is known only at runtime.
    return next(plain for plain in get_args(annotation) or (annotation,) if plain in (bool, int, float, str))


def _help(settings: Mapping[str, Field[Any]]) -> str:
    """Return the help of an option: for which teachers it is, what it is, and the defaults."""
    teachers_by_help: dict[str, list[str]] = {}
    defaults: dict[str, str] = {}
    for name, setting in settings.items():
        teachers_by_help.setdefault(setting.metadata["help"], []).append(name)
        if isinstance(setting.default, tuple):
            defaults[name] = " ".join(setting.default)
        elif isinstance(setting.default, (int, float, str)) and setting.default is not False and setting.default != "":
            defaults[name] = str(setting.default)
    text = " ".join(f"{', '.join(names)}: {meaning}" for meaning, names in teachers_by_help.items())
    if len(defaults) == len(settings) and len(set(defaults.values())) == 1:
        return f"{text} (default: {next(iter(defaults.values()))})"
    if defaults:
        return f"{text} (default of {', of '.join(f'{name}: {value}' for name, value in defaults.items())})"
    return text


TeacherOptions = _make_options()
"""Options of all teachers, whose defaults are those of the teachers."""
TEACHER_PREFIX = "teacher_"
PrefixedTeacherOptions = _make_options("PrefixedTeacherOptions", TEACHER_PREFIX, "teacher (with --rounds)")
"""The same options with a prefix, for commands that have options of these names."""
