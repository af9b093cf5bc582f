"""The part of a preset that a command names."""

from __future__ import annotations

import argparse
from collections.abc import Iterable

from config import Preset, load_preset
from rows import Cell, Graph


def chosen_cells(options: argparse.Namespace) -> list[Cell]:
    """The cells of `--preset` that `--corpora`, `--students`, `--rows` and `--seeds` leave.

    Raises:
        SystemExit: if one of them names what the preset does not have.
    """
    preset = load_preset(options.preset)
    _check(preset, "corpora", options.corpora, preset.corpora)
    _check(preset, "students", options.students, preset.students)
    _check(preset, "rows", options.rows, preset.rows)
    graph = Graph(preset, options.data, options.models)
    return list(graph.cells(options.corpora, options.students, options.rows, options.seeds))


def _check(preset: Preset, what: str, asked: Iterable[str] | None, known: Iterable[str]) -> None:
    unknown = [name for name in asked or () if name not in known]
    if unknown:
        raise SystemExit(f"The preset {preset.name} has no {unknown[0]!r} among its {what}: {', '.join(known)}.")
