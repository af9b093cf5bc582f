"""The tables of docs/results.md from public corpora: one command, which goes on where it was interrupted.

    python examples/reproduce/run.py --data DIR --output DIR --preset cpu-small --models DIR
    python examples/reproduce/tables.py --output DIR --results examples/reproduce/results --preset cpu-small
    python examples/reproduce/page.py

--data holds a BEIR folder (corpus.jsonl, queries.jsonl, qrels/{train,dev,test}.tsv) for each corpus of the preset.
--list shows what is done and what is open. See docs/reproduce.md.
"""

import argparse
import logging
import os
import sys
import time

from selection import add_choice


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_choice(parser)
    parser.add_argument(
        "--splits", nargs="+", default=["dev", "test"], choices=["dev", "test"], help="What to evaluate on."
    )
    parser.add_argument("--list", action="store_true", help="Show which stages are done and open, and do nothing.")
    parser.add_argument("--until", type=float, metavar="MINUTES", help="Stop when this much time has passed.")
    parser.add_argument("--threads", type=int, help="Threads of computations; by default all cores.")
    parser.add_argument(
        "--discard-students", action="store_true", help="Delete a student of the ranking stage after its last row."
    )
    parser.add_argument(
        "--candidates-only",
        action="store_true",
        help="End when the candidates are found, and say where they are; benchmarks/train_step.py reads them.",
    )
    return parser.parse_args()


def main() -> int:
    options = parse()
    if options.threads:  # Before the libraries that read them are imported.
        for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"):
            os.environ[name] = str(options.threads)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("TQDM_DISABLE", "1")  # A line for each stage instead.

    import datasets
    import transformers
    from listing import list_stages
    from selection import chosen_cells
    from stages import WORK
    from store import OutOfTime, Store

    for library in (datasets, transformers.utils.logging):
        library.disable_progress_bar()
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    cells = chosen_cells(options)
    began = time.monotonic()

    def say(line: str) -> None:
        print(f"[{(time.monotonic() - began) / 60:6.1f} min] {line}", flush=True)

    store = Store(options.output, options.data, WORK, models=options.models, minutes=options.until, say=say)
    if options.list:
        print(list_stages(cells, store, options.splits))
        return 0
    try:
        if options.candidates_only:
            for stage in {stage.digest: stage for cell in cells for stage in cell.candidates()}.values():
                store.ensure(stage)
                say(f"{stage.label}: {store.folder(stage)}")
            return 0
        last_use = {stage.digest: number for number, cell in enumerate(cells) for stage in cell.students()}
        for number, cell in enumerate(cells):
            for stage in [*cell.rounds, *(cell.evaluations[split] for split in options.splits)]:
                store.ensure(stage)
                if stage in cell.evaluations.values():
                    metrics = store.record(stage)["result"]["metrics"]
                    say(f"= {stage.label}: " + ", ".join(f"{name} {value:.3f}" for name, value in metrics.items()))
            if options.discard_students:
                for student in cell.students():
                    if last_use[student.digest] == number:
                        store.discard(student, "model")
    except OutOfTime as late:
        say(f"{late}. The same command goes on from here.")
        return 3
    say("All that was asked for is done.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
