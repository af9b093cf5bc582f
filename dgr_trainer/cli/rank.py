"""`dgr rank`: a teacher's rank lists, of candidates or of the whole corpus."""

from __future__ import annotations

import logging
from argparse import Namespace
from dataclasses import dataclass, field
from typing import Any

from dgr_trainer.cli.models import check_device, memory_advice
from dgr_trainer.cli.parsing import CommandParser
from dgr_trainer.cli.paths import input_path, model_name, output_file
from dgr_trainer.cli.sources import (
    PART_HELP,
    check_part,
    check_split,
    read_corpus,
    read_queries_of,
    read_run,
    write_run,
)
from dgr_trainer.cli.teachers import TEACHERS, TeacherOptions, given_options, make_teacher
from dgr_trainer.errors import DGRValueError
from dgr_trainer.processes import is_main_process, process_group, require_single_process
from dgr_trainer.runs.rankings import Rankings
from dgr_trainer.teachers.inputs import rank_without_identical_ids

logger = logging.getLogger(__name__)


@dataclass
class RankOptions:
    """Options of `dgr rank`."""

    teacher: str = field(
        metadata={
            "help": "; ".join(f"{name}: {choice.help}" for name, choice in TEACHERS.items()) + ".",
            "choices": tuple(TEACHERS),
        }
    )
    queries: str = field(metadata={"metavar": "PATH", "help": "Queries: JSON Lines, TSV, a BEIR folder, or hf:NAME."})
    output: str = field(metadata={"metavar": "PATH", "help": "Run to write: JSON Lines if named .jsonl, else TREC."})
    corpus: str | None = field(
        default=None,
        metadata={"metavar": "PATH", "help": "The corpus, or the folder of an index or retriever that contains it."},
    )
    candidates: str | None = field(
        default=None, metadata={"metavar": "DIR", "help": "Rank the candidates in this folder of `dgr candidates`."}
    )
    run: str | None = field(
        default=None,
        metadata={"metavar": "FILE", "help": "Rank the passages of this run: TREC, JSON, a table, or hf:NAME."},
    )
    depth: int | None = field(default=None, metadata={"help": "Rank only this many first candidates per query."})
    k: int = field(default=100, metadata={"help": "Passages per query to keep.", "aliases": ["-k"]})
    split: str | None = field(
        default=None, metadata={"metavar": "NAME", "help": "Split of a BEIR folder, such as train."}
    )
    part: str | None = field(default=None, metadata={"metavar": "N/M", "help": PART_HELP})
    ignore_identical_ids: bool = field(
        default=False, metadata={"help": "Leave out the passage that has the id of the query, as BEIR does."}
    )
    overwrite: bool = field(default=False, metadata={"help": "Replace an existing run."})


def make_parser() -> CommandParser:
    """Return the command line of `dgr rank`."""
    return CommandParser(
        [RankOptions, TeacherOptions],
        command="rank",
        description="Rank candidates with a teacher, or search the corpus if none are given (not with a reranker).",
        usage="--teacher TEACHER --queries FILE --output FILE [options]",
        example="  dgr rank --teacher cross-encoder --model cross-encoder/ms-marco-MiniLM-L6-v2 \\\n"
        "      --corpus corpus.jsonl --queries train.jsonl --candidates candidates \\\n"
        "      --output teacher.trec",
    )


def run(options: RankOptions, teacher_options: Any, positionals: Namespace) -> None:
    """Run `dgr rank`."""
    output = output_file("--output", options.output, options.overwrite)
    given = given_options(teacher_options, options.teacher)
    _check(options, given)
    queries = read_queries_of(options.queries, options.split, part=options.part)
    candidates = _read_candidates(options)
    corpus = None if options.corpus is None else read_corpus("--corpus", options.corpus)
    with process_group(teacher_options.device) as processes:
        with memory_advice("Lower --batch_tokens or --batch_size, or give --device cpu."):
            teacher = make_teacher(options.teacher, corpus, given)
            if options.ignore_identical_ids:
                rankings = rank_without_identical_ids(teacher, queries, candidates, options.k)
            else:
                rankings = teacher.rank(queries, candidates, k=options.k)
        if is_main_process(processes):
            write_run(rankings, output)
            logger.info("%s ranked for %s queries: %s", rankings.name, f"{len(rankings):,}", output)


def _check(options: RankOptions, given: dict[str, Any]) -> None:
    teacher = TEACHERS[options.teacher].teacher
    if not teacher.shares_work:
        require_single_process(options.teacher)
    if options.k < 1 or (options.depth is not None and options.depth < 1):
        raise DGRValueError(f"-k {options.k} and --depth {options.depth} are numbers of passages. Give at least 1.")
    check_split(options.split, options.queries)
    check_part(options.part, options.queries)
    if options.candidates is not None and options.run is not None:
        raise DGRValueError("--candidates and --run both say what to rank. Give one of them.")
    without_candidates = options.candidates is None and options.run is None
    if options.depth is not None and without_candidates:
        raise DGRValueError("--depth cuts the lists of --candidates or --run, but neither is given. Leave it out.")
    check_device(given.get("device"))
    if "model" in given:
        given["model"] = model_name("--model", given["model"])
    if teacher.needs_candidates and without_candidates:
        raise DGRValueError(
            f"--teacher {options.teacher} is a reranker and cannot search the corpus. Give --candidates or --run."
        )
    if options.corpus is not None:
        input_path("--corpus", options.corpus)
    elif not {"lucene_index", "prebuilt"} & set(given):
        raise DGRValueError("--corpus is missing, so the teacher has no passages. Give the corpus.")


def _read_candidates(options: RankOptions) -> Rankings | None:
    if options.candidates is not None:
        from dgr_trainer.candidates import Candidates

        folder = input_path("--candidates", options.candidates, folder=True)
        rankings = Candidates.load_from_disk(folder).to_rankings()
    elif options.run is not None:
        rankings = read_run("--run", options.run)
    else:
        return None
    if options.ignore_identical_ids:
        rankings = rankings.without_identical_ids()
    return rankings if options.depth is None else rankings.top(options.depth)
