"""Collects what the page is made of from a run's stages: small files that can be kept with the code.

    python examples/reproduce/tables.py --data DIR --output RUN --preset cpu-small --models DIR \
        --results examples/reproduce/results

RESULTS/PRESET/results.json.gz has rows, settings, fingerprints, costs and means; RESULTS/PRESET/CORPUS.json.gz has the
metrics of each test question. Results that are there and that the run does not have stay, as long as the preset still
asks for them with the same settings: so the results of several runs, or machines, are collected one after the other.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dgr_trainer.files.compression import atomic_text, open_bytes

RESULTS = Path(__file__).with_name("results")
INDEX = "results.json.gz"


def parse() -> argparse.Namespace:
    from selection import add_choice

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_choice(parser)
    parser.add_argument("--results", type=Path, default=RESULTS, help="Folder of all presets' results.")
    return parser.parse_args()


def collect(
    cells: Sequence[Any], store: Any, preset: Any, earlier: tuple[dict[str, Any], dict[str, Any]] | None = None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """What is known about the cells of a preset.

    Args:
        cells (`Sequence[Cell]`): Rows with a corpus, a student and a seed.
        store ([`Store`]): The stages of a run.
        preset ([`Preset`]): The preset.
        earlier (`tuple[dict, dict]`, *optional*): What `collect` returned for other runs.

    Returns:
        `tuple[dict, dict]`: the index, and by corpus the metrics of its test questions.
    """
    from searching import read_per_query
    from store import Place

    old_index, old_values = earlier or ({"cells": [], "stages": {}, "test_evaluations": {}}, {})
    old_cells = {_key(entry): entry for entry in old_index["cells"]}
    done, missing, stages = [], [], {}
    values: dict[str, Any] = defaultdict(dict)

    def keep(cell: Any, per_query: Mapping[str, Any], metrics: Mapping[str, list[float]]) -> None:
        of_corpus = values[cell.corpus]
        order = _order(of_corpus, per_query)
        by_row = of_corpus.setdefault("values", {}).setdefault(cell.student, {}).setdefault(cell.row.name, {})
        by_row[str(cell.seed)] = {name: [of[position] for position in order] for name, of in metrics.items()}

    for cell in cells:
        known = old_cells.get(_key(_names(cell)), {"evaluations": {}})
        finished = {split: stage for split, stage in cell.evaluations.items() if store.is_done(stage)}
        kept = {
            split: stage.digest
            for split, stage in cell.evaluations.items()
            if split not in finished and known["evaluations"].get(split) == stage.digest
        }
        open_splits = [split for split in cell.evaluations if split not in finished and split not in kept]
        missing += [_names(cell) | {"split": split} for split in open_splits]
        if not finished and not kept:
            continue
        if kept:
            chain = {*known["stages"], *kept.values()}
            stages |= {digest: record for digest, record in old_index["stages"].items() if digest in chain}
        for stage in [end for evaluation in finished.values() for end in evaluation.chain()]:
            if store.is_done(stage):
                record = store.record(stage)
                stages[stage.digest] = {name: value for name, value in record.items() if name != "digest"}
        rounds = [store.record(stage)["result"]["metrics"] for stage in cell.rounds if store.is_done(stage)]
        metrics = {split: store.record(stage)["result"]["metrics"] for split, stage in finished.items()}
        done.append(
            _names(cell)
            | {
                "evaluations": kept | {split: stage.digest for split, stage in finished.items()},
                "metrics": {split: known["metrics"][split] for split in kept} | metrics,
                "rounds": rounds or known.get("rounds", []),
                "stages": [stage.digest for stage in next(iter(finished.values())).chain()]
                if finished
                else known["stages"],
            }
        )
        if "test" in finished:
            per_query = read_per_query(Place(finished["test"], store))
            keep(cell, per_query, per_query["metrics"])
        elif "test" in kept:
            of_corpus = old_values[cell.corpus]
            keep(cell, of_corpus, of_corpus["values"][cell.student][cell.row.name][str(cell.seed)])
    rows = {
        name: {"kind": row.kind, "teacher": row.teacher, "rounds": row.rounds, "group": row.group,
               "sweep": row.sweep, "note": row.note}
        for name, row in preset.rows.items()
    }  # fmt: skip
    index = {
        "preset": preset.name,
        "corpora": list(preset.corpora),
        "students": list(preset.students),
        "main_teacher": dict(preset.main_teacher),
        "rows": rows,
        "cells": done,
        "stages": stages,
        "not_run": missing,
        "test_evaluations": _test_evaluations(store, old_index),
    }
    return index, dict(values)


def _names(cell: Any) -> dict[str, Any]:
    return {"corpus": cell.corpus, "student": cell.student, "row": cell.row.name, "seed": cell.seed}


def _key(names: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(names[name] for name in ("corpus", "student", "row", "seed"))


def _order(of_corpus: dict[str, Any], per_query: Mapping[str, Any]) -> list[int]:
    """Positions of the questions, in the order that the corpus's file has."""
    for name in ("query_ids", "with_training_questions"):
        of_corpus.setdefault(name, per_query[name])
    if set(of_corpus["query_ids"]) != set(per_query["query_ids"]):
        raise SystemExit("Rows of one corpus were evaluated on different test questions. Give questions.test once.")
    positions = {query_id: position for position, query_id in enumerate(per_query["query_ids"])}
    return [positions[query_id] for query_id in of_corpus["query_ids"]]


def _test_evaluations(store: Any, old_index: Mapping[str, Any]) -> dict[str, int]:
    """How often a row's test questions were asked with any settings, by the label of the evaluation."""
    counts = defaultdict(int, old_index["test_evaluations"])
    for record in store.records("evaluation"):
        if record["config"]["split"] == "test" and record["digest"] not in old_index["stages"]:
            counts[record["label"]] += 1
    return dict(sorted(counts.items()))


def write_results(folder: Path, index: dict[str, Any], values: dict[str, Any]) -> None:
    """Write what `collect` returned."""
    folder.mkdir(parents=True, exist_ok=True)
    for corpus, of_corpus in values.items():
        _write(folder / f"{corpus}.json.gz", of_corpus)
    _write(folder / INDEX, index)


def read_results(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Read what `write_results` wrote."""
    index = _read(folder / INDEX)
    corpora = {cell["corpus"] for cell in index["cells"] if "test" in cell["evaluations"]}
    return index, {corpus: _read(folder / f"{corpus}.json.gz") for corpus in index["corpora"] if corpus in corpora}


def _write(path: Path, values: Any) -> None:
    with atomic_text(path) as file:
        json.dump(values, file, separators=(",", ":"))


def _read(path: Path) -> Any:
    with open_bytes(path) as file:
        return json.load(file)


def main() -> None:
    options = parse()
    from config import load_preset
    from selection import chosen_cells
    from stages import WORK
    from store import Store

    preset = load_preset(options.preset)
    store = Store(options.output, options.data, WORK, models=options.models)
    folder = options.results / preset.name
    earlier = read_results(folder) if (folder / INDEX).exists() else None
    index, values = collect(chosen_cells(options), store, preset, earlier)
    write_results(folder, index, values)
    size = sum(file.stat().st_size for file in folder.iterdir()) / 1e6
    print(f"{folder}: {len(index['cells'])} results, {len(index['not_run'])} not run, {size:.1f} MB")


if __name__ == "__main__":
    main()
