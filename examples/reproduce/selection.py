"""The part of a preset that a command names."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from config import Preset, load_preset

if TYPE_CHECKING:
    from rows import Cell


def add_choice(parser: argparse.ArgumentParser) -> None:
    """Add the options that say where the data is, and what of a preset is meant."""
    parser.add_argument("--data", type=Path, required=True, help="Folder with a BEIR folder for each corpus.")
    parser.add_argument("--output", type=Path, required=True, help="Folder of all stages: new, or one to go on in.")
    parser.add_argument("--preset", required=True, help="A name in examples/reproduce/presets, or a YAML file.")
    parser.add_argument("--models", type=Path, help="Folder of the checkpoints that the preset names.")
    parser.add_argument("--corpora", nargs="+", help="Some of the preset's corpora.")
    parser.add_argument("--students", nargs="+", help="Some of the preset's students.")
    parser.add_argument("--rows", nargs="+", help="Some of the preset's rows.")
    parser.add_argument("--seeds", nargs="+", type=int, help="Seeds in place of the preset's.")


def chosen_cells(options: argparse.Namespace) -> list[Cell]:
    """The cells of `--preset` that `--corpora`, `--students`, `--rows` and `--seeds` leave.

    Raises:
        SystemExit: if one of them names what the preset does not have.
    """
    from rows import Graph  # Later than the number of threads is set.

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
