"""Writes docs/results.md and its figures from stored results alone.

python examples/reproduce/page.py
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import figures
import jinja2
import numpy as np
import page_tables
from claims import SeedValues, judge, read_claims, values_of
from tables import INDEX, RESULTS, read_results

from dgr_trainer.files.atomic import atomic_write

HERE = Path(__file__).parent
PAGE = HERE.parents[1] / "docs" / "results.md"
TEMPLATE = HERE / "results.md.jinja"


def make_page(results: Path = RESULTS) -> tuple[str, dict[str, str]]:
    """The page, and the figures that it shows by their file names.

    Args:
        results (`Path`): What `tables.py` wrote, a folder for each preset.
    """
    drawn: dict[str, str] = {}
    presets = [_preset(folder.parent, drawn) for folder in sorted(results.glob(f"*/{INDEX}"))]
    if not presets:
        raise SystemExit(f"{results} has no results. Run run.py and tables.py first.")
    marks = " ".join(f"`{mark}` differs from {name} with p < 0.05." for name, mark in page_tables.MARKS.items())
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, keep_trailing_newline=True, autoescape=False)
    text = environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(presets=presets, marks=marks)
    return re.sub(r"\n{3,}", "\n\n", text).rstrip() + "\n", drawn


def _preset(folder: Path, drawn: dict[str, str]) -> dict[str, Any]:
    index, values = read_results(folder)
    names = [name for name in index["students"] if any(name in of["values"] for of in values.values())]
    return {
        "name": index["preset"],
        "corpora": page_tables.corpora_table(index),
        "students": [_student(index, values, name, drawn) for name in names],
        "side_by_side": page_tables.students_table(index, {name: values_of(values, name) for name in names}),
        "costs": page_tables.costs_table(index),
        "machines": page_tables.machines(index),
        "not_run": page_tables.not_run(index),
        "repeated": page_tables.repeated_tests(index),
    }


def _student(index: Mapping[str, Any], values: Mapping[str, Any], name: str, drawn: dict[str, str]) -> dict[str, Any]:
    rows = {corpus: of for corpus, of in values_of(values, name).items() if name in values[corpus]["values"]}
    verdicts = [verdict for claim in read_claims() if (verdict := judge(claim, rows)) is not None]
    shown = []

    def show(kind: str, title: str, svg: str) -> None:
        file = re.sub(r"[^a-z0-9]+", "-", f"{index['preset']} {name} {kind}".lower()) + ".svg"
        drawn[file] = svg
        shown.append({"title": title, "path": f"results/{file}"})

    main = [row for row, of in index["rows"].items() if of["group"] in ("teachers", "main")]
    show("rows", "nDCG@10 of the test questions, with 95 % intervals over questions", figures.overview(rows, main))

    for of, lines in figures.sweeps(index, rows).items():
        show(of, f"nDCG@10 of the test questions by {of}", figures.figure(lines, of, "test questions"))
    curves = figures.rounds(index, name)
    if curves:
        title = "nDCG@10 of the dev questions after each round (0: the generation stage)"
        show("rounds", title, figures.figure(curves, "round", "dev questions"))
    return {
        "name": name,
        "description": page_tables.description(index, name),
        "overview": page_tables.overview_table(rows, main),
        "verdicts": page_tables.verdict_table(verdicts) if verdicts else "",
        "numbers": page_tables.numbers_table(verdicts) if verdicts else "",
        "corpora": [_corpus(index, corpus, values[corpus], of) for corpus, of in rows.items()],
        "overview_figure": shown[0],
        "figures": shown[1:],
        "settings": page_tables.settings_table(index, index["rows"], name),
    }


def _corpus(
    index: Mapping[str, Any], name: str, stored: Mapping[str, Any], rows: Mapping[str, SeedValues]
) -> dict[str, Any]:
    ordered = [row for row in index["rows"] if row in rows]
    groups: dict[str, list[str]] = {}
    for row in ordered:
        groups.setdefault(index["rows"][row]["group"], []).append(row)
    known = np.asarray(stored["with_training_questions"])
    main = [row for group in ("teachers", "main") for row in groups.get(group, [])]
    parts = {"known": known, "unknown": ~known}
    return {
        "name": name,
        "questions": f"{len(known):,}",
        "groups": [{"name": group, "table": page_tables.results_table(rows, of)} for group, of in groups.items()],
        "seeds": page_tables.seeds_table(rows, ordered),
        **{part: page_tables.results_table(rows, main, mask) if mask.any() else "" for part, mask in parts.items()},
        **{f"{part}_questions": f"{int(mask.sum()):,}" for part, mask in parts.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=RESULTS, help="What tables.py wrote.")
    parser.add_argument("--page", type=Path, default=PAGE, help="The page; figures go to `results` beside it.")
    options = parser.parse_args()
    text, drawn = make_page(options.results)
    folder = options.page.with_name("results")
    folder.mkdir(parents=True, exist_ok=True)
    for file, svg in drawn.items():
        with atomic_write(folder / file) as opened:
            opened.write(svg)
    for old in folder.glob("*.svg"):
        if old.name not in drawn:
            old.unlink()
    with atomic_write(options.page) as opened:
        opened.write(text)
    print(f"{options.page}, {len(drawn)} figures")


if __name__ == "__main__":
    main()
