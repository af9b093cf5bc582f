"""`dgr fuse`: several runs to one, by the ranks in them or by their scores."""

from __future__ import annotations

import logging
from argparse import Namespace
from dataclasses import dataclass, field
from typing import Literal

from dgr_trainer.cli.parsing import CommandParser
from dgr_trainer.cli.paths import input_path, output_file
from dgr_trainer.cli.sources import read_run, run_names, write_run
from dgr_trainer.errors import DGRValueError

logger = logging.getLogger(__name__)

_OF_METHOD = {"constant": "reciprocal-rank", "normalisation": "score"}


@dataclass
class FuseOptions:
    """Options of `dgr fuse`."""

    output: str = field(
        metadata={
            "metavar": "PATH",
            "help": "Run to write: JSON Lines if named .jsonl, a table if .parquet, else TREC.",
        }
    )
    method: Literal["reciprocal-rank", "score"] = field(
        default="reciprocal-rank",
        metadata={"help": "Add up reciprocal ranks, or normalised scores."},
    )
    weights: list[float] | None = field(
        default=None, metadata={"help": "Weight of each run, in their order. (default: 1 for each)"}
    )
    constant: float = field(default=60.0, metadata={"help": "reciprocal-rank: how little the first ranks differ."})
    normalisation: Literal["min-max", "z-score", "none"] = field(
        default="min-max",
        metadata={
            "help": "score: put the scores of a list between 0 and 1, give them mean 0 and deviation 1, or take them "
            "as they are."
        },
    )
    depth: int | None = field(default=None, metadata={"help": "Fuse only so many first passages of each list."})
    k: int | None = field(
        default=None, metadata={"help": "Passages a query to keep. (default: all)", "aliases": ["-k"]}
    )
    overwrite: bool = field(default=False, metadata={"help": "Replace a run that is there."})


def make_parser() -> CommandParser:
    """The command line of `dgr fuse`."""
    parser = CommandParser(
        [FuseOptions],
        command="fuse",
        description="Make one run of several: an ensemble of teachers. A query is fused from the runs that have it.",
        usage="RUN RUN [RUN ...] --output FILE [options]",
        example="  dgr fuse bm25.trec cross-encoder.trec --output ensemble.trec\n"
        "  dgr fuse bm25.trec cross-encoder.trec --method score --weights 0.3 0.7 \\\n"
        "      --output ensemble.trec",
    )
    parser.add_argument("runs", metavar="RUN", nargs="+", help="Two or more runs, as `dgr evaluate` takes them.")
    return parser


def run(options: FuseOptions, positionals: Namespace) -> None:
    """Run `dgr fuse`."""
    output = output_file("--output", options.output, options.overwrite)
    paths = [input_path("RUN", path) for path in positionals.runs]
    run_names(paths)
    if len(paths) < 2:
        raise DGRValueError("There is one run, and nothing to fuse it with. Give two or more.")
    for name, method in _OF_METHOD.items():
        if name in positionals.given and options.method != method:
            raise DGRValueError(f"--{name} belongs to --method {method}, and has no part in {options.method}.")
    if options.weights is not None and len(options.weights) != len(paths):
        raise DGRValueError(
            f"--weights are {len(options.weights)}, but the runs {len(paths)}. Give a weight for each."
        )
    if min(options.k or 1, options.depth or 1) < 1 or 0 in (options.k, options.depth):
        raise DGRValueError(f"-k {options.k} and --depth {options.depth} are numbers of passages: at least 1.")
    from dgr_trainer.runs.fusion import reciprocal_rank_fusion, score_fusion

    runs = [read_run("RUN", str(path)) for path in paths]
    if options.depth is not None:
        runs = [one.top(options.depth) for one in runs]
    if options.method == "score":
        fused = score_fusion(
            runs, normalisation=options.normalisation, weights=options.weights, name=f"score-{options.normalisation}"
        )
    else:
        fused = reciprocal_rank_fusion(runs, weights=options.weights, constant=options.constant, name=options.method)
    shared = sum(all(query_id in one for one in runs) for query_id in fused)
    if shared < len(fused):
        logger.warning(
            "%d of %d queries are not in all runs; fused are those that have them.", len(fused) - shared, len(fused)
        )
    write_run(fused if options.k is None else fused.top(options.k), output)
    logger.info("fused %d runs for %s queries: %s", len(runs), f"{len(fused):,}", output)
