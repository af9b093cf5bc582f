"""`dgr candidates`: find candidates for training queries, with the identifiers that led to them."""

from __future__ import annotations

import logging
from argparse import Namespace
from dataclasses import dataclass, field

from dgr_trainer.cli.models import LESS_MEMORY, check_retriever, load_retriever, memory_advice
from dgr_trainer.cli.parsing import CommandParser
from dgr_trainer.cli.passage_sets import read_passage_sets
from dgr_trainer.cli.paths import output_folder
from dgr_trainer.cli.settings import DeviceOptions, SearchOptions
from dgr_trainer.cli.sources import PART_HELP, check_part, check_split, read_qrels_of, read_queries_of
from dgr_trainer.errors import DGRValueError
from dgr_trainer.processes import is_main_process, process_group

logger = logging.getLogger(__name__)


@dataclass
class CandidatesOptions:
    """Options of `dgr candidates`."""

    queries: str = field(
        metadata={"metavar": "PATH", "help": "Training queries: JSON Lines, TSV, a BEIR folder, or hf:NAME."}
    )
    output: str = field(metadata={"metavar": "PATH", "help": "Folder to write the candidates to."})
    qrels: str | None = field(
        default=None,
        metadata={
            "metavar": "PATH",
            "help": "Qrels; their relevant passages are added to the candidates even if they rank below k.",
        },
    )
    split: str | None = field(
        default=None, metadata={"metavar": "NAME", "help": "Split of a BEIR folder, such as train."}
    )
    part: str | None = field(default=None, metadata={"metavar": "N/M", "help": PART_HELP})
    k: int = field(default=100, metadata={"help": "Passages per query.", "aliases": ["-k"]})
    ignore_identical_ids: bool = field(
        default=False, metadata={"help": "Leave out the passage that has the id of the query, as BEIR does."}
    )
    leave_out_own_text: bool = field(
        default=True,
        metadata={
            "help": "Search for each query as if no passage had it as a pseudo-query: training queries often are "
            "pseudo-queries, and would be found by their own text."
        },
    )
    among: str | None = field(
        default=None,
        metadata={
            "metavar": "FILE",
            "help": "Search among these passages, one id a line, as if the index held no others.",
        },
    )
    exclude: str | None = field(
        default=None, metadata={"metavar": "FILE", "help": "Leave these passages out, one id a line."}
    )
    overwrite: bool = field(default=False, metadata={"help": "Replace existing candidates."})


def make_parser() -> CommandParser:
    """The command line of `dgr candidates`."""
    parser = CommandParser(
        [CandidatesOptions, SearchOptions, DeviceOptions],
        command="candidates",
        description="Find candidates for training queries, with the identifiers by which the student found them. "
        "After an interruption the same command resumes after the last batch of queries.",
        usage="RETRIEVER --queries FILE --output DIR [options]",
        example="  dgr candidates generation/retriever --queries train.jsonl \\\n"
        "      --qrels train.qrels --output candidates",
    )
    parser.add_argument("retriever", metavar="RETRIEVER", help="Folder of a retriever.")
    return parser


def run(options: CandidatesOptions, search: SearchOptions, device: DeviceOptions, positionals: Namespace) -> None:
    """Run `dgr candidates`."""
    output = output_folder("--output", options.output, "candidates.json", options.overwrite)
    if options.k < 1:
        raise DGRValueError(f"-k {options.k}: ask for at least 1 passage.")
    check_split(options.split, options.queries, options.qrels)
    check_part(options.part, options.queries)
    queries = read_queries_of(options.queries, options.split, part=options.part)
    qrels = read_qrels_of(options.qrels, options.split) if options.qrels else None
    among, exclude = (_passages(f"--{name}", getattr(options, name)) for name in ("among", "exclude"))
    folder = check_retriever(positionals.retriever, search)

    with process_group(device.device) as processes:
        retriever = load_retriever(folder, search, device, processes)
        if qrels is not None:
            from dgr_trainer.data.queries import check_qrels

            qrels = check_qrels(qrels, retriever.index.passage_ids, queries)
        with memory_advice(LESS_MEMORY):
            retriever.save_candidates(
                output,
                queries,
                options.k,
                qrels,
                processes,
                ignore_identical_ids=options.ignore_identical_ids,
                leave_out_own_text=options.leave_out_own_text,
                among=among,
                exclude=exclude,
            )
        if is_main_process(processes):
            logger.info("found candidates for %s queries: %s", f"{len(set(queries['query_id'])):,}", output)


def _passages(option: str, path: str | None) -> list[str] | None:
    sets = read_passage_sets(option, path)
    if isinstance(sets, dict):
        raise DGRValueError(
            f"{option}: {path} has two columns, but candidates of all queries are searched among the same passages, "
            "since the counts of identifiers belong to one corpus. Give one passage id a line."
        )
    return sets
