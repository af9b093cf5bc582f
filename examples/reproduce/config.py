"""Presets: corpora, students, teachers and rows with all their settings, as YAML files that can be edited."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from dgr_trainer.errors import DGRValueError

PRESETS = Path(__file__).with_name("presets")
SECTIONS = (
    "questions", "pairs", "generation", "candidates", "search", "scoring", "tuning", "collator", "training", "lora",
)  # fmt: skip
"""Settings that a preset has for all rows, and that a student, a corpus or a row may override in part."""

ROW_KINDS = ("teacher", "generation", "ranking")
OWN, MAIN = "own", "main"
"""Teachers of a row that are no entries of `teachers`: the student's own order, and the main teacher of the corpus."""

_PARTS = ("corpora", "students", "teachers", "rows")
_KEYS = {"extends", "seeds", "main_teacher", *_PARTS, *SECTIONS}
_ROW_KEYS = {
    "kind", "teacher", "rounds", "group", "sweep", "note", "students", "one_identifier", "corpora", *SECTIONS,
}  # fmt: skip
_STUDENT_KEYS = {"checkpoint", "scratch", "identifiers", "semantic_ids", "rows", "corpora", *SECTIONS}


@dataclass(frozen=True)
class Row:
    """A line of the tables.

    Args:
        name (`str`): Its name in the tables.
        kind (`str`): `"teacher"`, `"generation"` (the student after the generation stage) or `"ranking"`.
        teacher (`str`): An entry of the preset's teachers, `"main"` or `"own"`.
        rounds (`int`): How often candidates are searched with the student of the round before, and trained on.
        group (`str`): The table that it belongs to: `"main"`, `"losses"`, `"ablations"`, ...
        sweep (`dict`, *optional*): `of` and `value`: its point in a figure.
        note (`str`): What is particular about it, for the page.
        students, corpora (`list[str]`, *optional*): Where it applies; by default everywhere.
        one_identifier (`bool`): Whether it applies only to students for whom a passage has one identifier.
        settings (`dict[str, dict]`): Its overrides by section.
    """

    name: str
    kind: str
    teacher: str
    rounds: int
    group: str
    sweep: Mapping[str, Any] | None
    note: str
    students: list[str] | None
    one_identifier: bool
    corpora: list[str] | None
    settings: Mapping[str, Any]


@dataclass(frozen=True)
class Preset:
    """A preset as its file says.

    Args:
        name (`str`): Name of the file.
        corpora (`dict[str, dict]`): Overrides of the sections by the name of the corpus, which is its folder.
        seeds (`list[int]`): Seeds of everything that is random in training.
        students (`dict[str, dict]`): By name: `checkpoint`, or `scratch` with sizes; overrides of the sections;
            `identifiers`, arguments of `IdentifierSettings`; `semantic_ids` if it generates these and nothing else:
            the `teacher` whose vectors the codes are learnt from, and arguments of `SemanticIds.fit`; `rows` and
            `corpora`, if only some apply to it.
        teachers (`dict[str, dict]`): By name: `kind` and what that kind needs.
        main_teacher (`dict[str, str]`): The teacher that rows mean by `"main"`, by corpus, or `default`.
        rows (`dict[str, Row]`): The rows by name, in the order of the tables.
        settings (`dict[str, dict]`): The sections.
    """

    name: str
    corpora: Mapping[str, Mapping[str, Any]]
    seeds: list[int]
    students: Mapping[str, Mapping[str, Any]]
    teachers: Mapping[str, Mapping[str, Any]]
    main_teacher: Mapping[str, str]
    rows: Mapping[str, Row]
    settings: Mapping[str, Mapping[str, Any] | None]

    def resolved(self, corpus: str, student: str, row: Row) -> dict[str, Any]:
        """The sections for a row: those of the preset, overridden by the student's, the corpus's and the row's."""
        merged: dict[str, Any] = dict(self.settings)
        for overrides in (self.students[student], self.corpora[corpus], row.settings):
            merged = merge(merged, {name: overrides[name] for name in SECTIONS if name in overrides})
        return {name: merged.get(name) for name in SECTIONS}

    def teacher_of(self, row: Row, corpus: str) -> str:
        if row.teacher != MAIN:
            return row.teacher
        return self.main_teacher.get(corpus) or self.main_teacher["default"]

    def applies(self, row: Row, corpus: str, student: str) -> bool:
        of = self.students[student]
        if row.one_identifier and "semantic_ids" not in of and _views(of) not in (["title"], ["docid"]):
            return False
        named = corpus in (row.corpora or [corpus]) and student in (row.students or [student])
        return named and row.name in of.get("rows", [row.name]) and corpus in of.get("corpora", [corpus])


def _views(student: Mapping[str, Any]) -> list[str] | None:
    views: list[str] | None = student.get("identifiers", {}).get("views")
    return views


def merge(base: Any, over: Any) -> Any:
    """Mappings are merged entry by entry; anything else replaces what was there, also `None`."""
    if not isinstance(base, Mapping) or not isinstance(over, Mapping):
        return copy.deepcopy(over)
    merged = {**base, **{name: merge(base.get(name), value) for name, value in over.items()}}
    return merged


def load_preset(name: str) -> Preset:
    """Read a preset of the folder `presets`, or a YAML file by its path.

    Raises:
        ValueError: if there is none, or it names what it does not have.
    """
    values = _read(name)
    _check_names(f"preset {name}", values, _KEYS)
    # A preset that extends another leaves out what it gives as null.
    parts = {part: {key: of for key, of in values[part].items() if of is not None} for part in _PARTS}
    preset = Preset(
        name=Path(name).stem,
        corpora=parts["corpora"],
        seeds=list(values["seeds"]),
        students=parts["students"],
        teachers=parts["teachers"],
        main_teacher=values.get("main_teacher") or {},
        rows={row: _row(row, of) for row, of in parts["rows"].items()},
        settings={section: values.get(section) for section in SECTIONS},
    )
    _check(preset)
    return preset


def _read(name: str) -> dict[str, Any]:
    path = Path(name) if name.endswith((".yaml", ".yml")) else PRESETS / f"{name}.yaml"
    if not path.is_file():
        known = sorted(file.stem for file in PRESETS.glob("[!_]*.yaml"))
        raise DGRValueError(
            f"There is no preset {name!r}. Give one of {', '.join(known)}, or the path of a YAML file."
        )
    values = yaml.safe_load(path.read_text(encoding="utf-8"))
    parent = values.pop("extends", None)
    return values if parent is None else dict(merge(_read(parent), values))


def _row(name: str, of: Mapping[str, Any]) -> Row:
    _check_names(f"row {name!r}", of, _ROW_KEYS)
    return Row(
        name=name,
        kind=of.get("kind", "ranking"),
        teacher=of.get("teacher", MAIN),
        rounds=of.get("rounds", 1),
        group=of.get("group", "main"),
        sweep=of.get("sweep"),
        note=of.get("note", ""),
        students=of.get("students"),
        one_identifier=of.get("one_identifier", False),
        corpora=of.get("corpora"),
        settings={section: of[section] for section in SECTIONS if section in of},
    )


def _check_names(where: str, values: Mapping[str, Any], known: set[str]) -> None:
    unknown = sorted(values.keys() - known)
    if unknown:
        raise DGRValueError(
            f"The {where} has {unknown[0]!r}, which means nothing. Known are {', '.join(sorted(known))}."
        )


def _check(preset: Preset) -> None:
    for part, of in {"corpora": preset.corpora, "seeds": preset.seeds, "students": preset.students}.items():
        if not of:
            raise DGRValueError(f"The preset {preset.name} has no {part}. Give at least one.")
    for name, row in preset.rows.items():
        if row.kind not in ROW_KINDS:
            raise DGRValueError(f"Row {name!r} is of kind {row.kind!r}; use one of {', '.join(ROW_KINDS)}.")
        if row.teacher not in (OWN, MAIN, *preset.teachers) or (row.teacher == OWN and row.kind == "teacher"):
            known = ", ".join([*preset.teachers, MAIN, OWN])
            raise DGRValueError(f"Row {name!r} has the teacher {row.teacher!r}, but there are: {known}.")
        if row.rounds < 1:
            raise DGRValueError(f"Row {name!r} has rounds={row.rounds}; give at least 1.")
    for name, student in preset.students.items():
        _check_student(name, student, preset)
    for name, teacher in preset.teachers.items():
        for other in [*teacher.get("of", []), *([teacher["pool"]] if "pool" in teacher else [])]:
            if other not in preset.teachers or other == name:
                raise DGRValueError(f"Teacher {name!r} needs the teacher {other!r}, which is no other of the preset.")
    missing = sorted(set(preset.main_teacher.values()) - set(preset.teachers))
    if missing:
        raise DGRValueError(f"main_teacher names {missing[0]!r}, but the teachers are {', '.join(preset.teachers)}.")


def _check_student(name: str, student: Mapping[str, Any], preset: Preset) -> None:
    _check_names(f"student {name!r}", student, _STUDENT_KEYS)
    for what, named, known in (("row", "rows", preset.rows), ("corpus", "corpora", preset.corpora)):
        unknown = [one for one in student.get(named, []) if one not in known]
        if unknown:
            raise DGRValueError(
                f"Student {name!r} has the {what} {unknown[0]!r}, which is none of {', '.join(known)}."
            )
    if "semantic_ids" in student:
        teacher = student["semantic_ids"].get("teacher")
        if preset.teachers.get(teacher, {}).get("kind") != "bi-encoder":
            known = [other for other, of in preset.teachers.items() if of["kind"] == "bi-encoder"]
            raise DGRValueError(
                f"The semantic ids of student {name!r} are learnt from the vectors of the teacher {teacher!r}, which "
                f"is no bi-encoder of the preset. Name one of: {', '.join(known) or 'none, so add one'}."
            )
