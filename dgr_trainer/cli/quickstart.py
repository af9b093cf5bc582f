"""`dgr quickstart`: run all stages on the documentation of the Python standard library."""

from __future__ import annotations

import sys
from argparse import Namespace
from contextlib import redirect_stdout
from dataclasses import asdict, dataclass, field
from pathlib import Path

from dgr_trainer.cli.parsing import CommandParser
from dgr_trainer.cli.paths import output_folder
from dgr_trainer.cli.sources import read_description
from dgr_trainer.cli.tables import comparison_lines, print_result
from dgr_trainer.errors import DGRValueError
from dgr_trainer.files.lines import listing
from dgr_trainer.quickstart import NAME

_RECORD = "dgr_run.json"
_OUTPUTS = {
    *("retriever", "runs", "hits", "qrels.test.tsv", "results.md", "training.png", "training"),
    *("report.html", _RECORD),
}


@dataclass
class QuickstartOptions:
    """Options of `dgr quickstart`: where to write, and the fields of `QuickstartSettings`."""

    output: str = field(
        default="dgr-quickstart",
        metadata={"metavar": "DIR", "help": "Folder to write to; an earlier quickstart in it is replaced."},
    )
    seed: int = field(default=0, metadata={"help": "Seed of everything random."})
    generation_steps: int = field(default=120, metadata={"help": "Steps of the generation stage, of 32 pairs."})
    made_up: int = field(default=500, metadata={"help": "Questions made up from passages, added to the written ones."})
    candidates: int = field(default=50, metadata={"help": "Passages found for each training question."})
    distillation_epochs: int = field(default=2, metadata={"help": "Epochs of each of the two ranking stages."})


def make_parser() -> CommandParser:
    """The command line of `dgr quickstart`."""
    return CommandParser(
        [QuickstartOptions],
        command="quickstart",
        description="Run all stages on the documentation of the Python standard library, which needs no download: "
        "index, generation, candidates, teacher, distillation. Then compare the stages on held-out questions.",
        usage="[options]",
        example="  dgr quickstart --output dgr-quickstart",
    )


def run(options: QuickstartOptions, positionals: Namespace) -> None:
    """Run `dgr quickstart`."""
    folder = Path(options.output)
    existing = {entry.name for entry in folder.iterdir()} if folder.is_dir() else set()
    if not existing:
        output_folder("--output", options.output, "results.md", overwrite=False)
    elif not (existing <= _OUTPUTS and _is_quickstart(folder)):
        raise FileExistsError(
            f"--output: {folder} holds other files ({listing(folder, 4)}) than an earlier quickstart, and they are "
            "not overwritten. Give a new folder."
        )
    settings = asdict(options)
    settings.pop("output")
    wrong = [name for name, value in settings.items() if value < (0 if name in ("seed", "made_up") else 1)]
    if wrong:
        raise DGRValueError(f"--{wrong[0]} {settings[wrong[0]]} is too small.")

    from tqdm import tqdm

    from dgr_trainer.quickstart.pipeline import FIRST_SEARCH, QuickstartSettings, run_quickstart

    # Trainers print what they log; only the results belong on standard output.
    with redirect_stdout(sys.stderr):
        result = run_quickstart(
            folder, QuickstartSettings(**settings), report=lambda line: tqdm.write(line, file=sys.stderr)
        )
    print_result(f"Held-out questions, after {result.seconds:.0f} seconds:\n")
    print_result("\n".join(comparison_lines(result.comparison, digits=3)))
    print_result(
        f"\nThe retriever, the runs and the table are in {folder}. The report is {folder / 'report.html'}. Try:\n\n"
        f'  dgr search {result.retriever} "{FIRST_SEARCH}"'
    )


def _is_quickstart(folder: Path) -> bool:
    """Whether a quickstart has written its record into a folder. Other programs name files as it does."""
    record = folder / _RECORD
    return record.is_file() and read_description(record).get("name") == NAME
