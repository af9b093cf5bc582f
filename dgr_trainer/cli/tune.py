"""`dgr tune`: fit the settings of a search to development queries."""

from __future__ import annotations

import logging
from argparse import Namespace
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from dgr_trainer.cli.derive import default_of
from dgr_trainer.cli.models import LESS_MEMORY, check_retriever, load_retriever, memory_advice
from dgr_trainer.cli.parsing import CommandParser
from dgr_trainer.cli.paths import output_file
from dgr_trainer.cli.settings import DeviceOptions, SearchOptions
from dgr_trainer.cli.sources import check_split, read_qrels_of, read_queries_of
from dgr_trainer.cli.tables import print_result
from dgr_trainer.errors import DGRValueError
from dgr_trainer.evaluation.metrics import Metric
from dgr_trainer.evaluation.tuning import tune_search
from dgr_trainer.processes import require_single_process

if TYPE_CHECKING:
    from dgr_trainer.evaluation.tuning import TunedSearch

logger = logging.getLogger(__name__)


@dataclass
class TuneOptions:
    """Options of `dgr tune`."""

    queries: str = field(
        metadata={"metavar": "PATH", "help": "Development queries: JSON Lines, TSV, a BEIR folder, or hf:NAME."}
    )
    qrels: str = field(
        metadata={"metavar": "PATH", "help": "Their qrels: TREC, BEIR's TSV, a BEIR folder, or hf:NAME."}
    )
    output: str = field(metadata={"metavar": "FILE", "help": "JSON file to write the settings to."})
    split: str | None = field(
        default=None, metadata={"metavar": "NAME", "help": "Split of a BEIR folder, such as dev."}
    )
    metric: str = field(
        default=default_of(tune_search, "metric"), metadata={"help": "What is maximised, as in `dgr evaluate`."}
    )
    beam_sizes: list[int] | None = field(
        default=None,
        metadata={"help": "Beam sizes to try, each of which decodes the queries anew; by default the retriever's."},
    )
    max_queries: int = field(
        default=default_of(tune_search, "max_queries"), metadata={"help": "Of more queries, this many are taken."}
    )
    rounds: int = field(
        default=default_of(tune_search, "rounds"), metadata={"help": "How often the settings are gone through."}
    )
    seed: int = field(
        default=default_of(tune_search, "seed"), metadata={"help": "Seed of the sample of queries and of its halves."}
    )
    overwrite: bool = field(default=False, metadata={"help": "Replace existing settings."})


def make_parser() -> CommandParser:
    """The command line of `dgr tune`."""
    parser = CommandParser(
        [TuneOptions, SearchOptions, DeviceOptions],
        command="tune",
        description="Fit the settings of a search to development queries: how identifiers are weighted, and perhaps "
        "how many beams there are. They are chosen on one half of the queries; the other half says what that gains. "
        "Never give test queries. `dgr search`, `dgr candidates` and `dgr tune` take the result with --settings.",
        usage="RETRIEVER --queries FILE --qrels FILE --output FILE [options]",
        example="  dgr tune retriever --queries dev.jsonl --qrels dev.qrels \\\n"
        "      --output settings.json\n"
        "  dgr search retriever --settings settings.json \\\n"
        "      --queries test.jsonl --output dgr.trec",
    )
    parser.add_argument("retriever", metavar="RETRIEVER", help="Folder of a retriever.")
    return parser


def run(options: TuneOptions, search: SearchOptions, device: DeviceOptions, positionals: Namespace) -> None:
    """Run `dgr tune`."""
    require_single_process("dgr tune")
    output = output_file("--output", options.output, options.overwrite)
    Metric.parse(options.metric)
    if options.seed < 0:
        raise DGRValueError(f"--seed {options.seed} has to be at least 0.")
    check_split(options.split, options.queries, options.qrels)
    queries = read_queries_of(options.queries, options.split)
    qrels = read_qrels_of(options.qrels, options.split)
    folder = check_retriever(positionals.retriever, search)
    retriever = load_retriever(folder, search, device)
    with memory_advice(LESS_MEMORY):
        tuned = tune_search(
            retriever,
            queries,
            qrels,
            metric=options.metric,
            beam_sizes=options.beam_sizes,
            max_queries=options.max_queries,
            rounds=options.rounds,
            seed=options.seed,
        )
    tuned.save(output)
    print_result(_table(tuned))
    logger.info("tried %d settings: %s", len(tuned.trials), output)


def _table(tuned: TunedSearch) -> str:
    changed = ", ".join(f"{name}={value:g}" for name, value in tuned.changed.items()) or "nothing"
    return "\n".join(
        [
            f"{tuned.metric:<28}  before   after",
            f"{f'{tuned.fitted_queries} queries, fitted to':<28}  {tuned.fitted_before:.4f}  {tuned.fitted_after:.4f}",
            f"{f'{tuned.held_out_queries} others':<28}  {tuned.held_out_before:.4f}  {tuned.held_out_after:.4f}"
            f"  (p = {tuned.p_value:.3f})",
            f"changed: {changed}",
        ]
    )
