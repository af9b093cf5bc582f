"""`dgr rank`: a teacher's rank lists, of candidates or of the whole corpus."""

from __future__ import annotations

import logging
from argparse import Namespace
from dataclasses import dataclass, field
from typing import Any, Literal

from dgr_trainer.cli.parsing import CommandParser
from dgr_trainer.cli.paths import input_path, model_name, output_file
from dgr_trainer.cli.sources import check_split, read_corpus, read_queries_of, read_run, write_run
from dgr_trainer.cli.teachers import MODELS, RERANKERS, TeacherOptions, make_teacher
from dgr_trainer.errors import DGRValueError
from dgr_trainer.processes import is_main_process, process_group, require_single_process

logger = logging.getLogger(__name__)


@dataclass
class RankOptions:
    """Options of `dgr rank`."""

    teacher: Literal["bm25", "cross-encoder", "seq2seq", "causal-lm", "bi-encoder", "pyserini"] = field(
        metadata={
            "help": "BM25 without Java; a cross-encoder; a seq2seq or causal language model that judges; a "
            "bi-encoder; or Lucene through Pyserini (needs Java 21)."
        }
    )
    queries: str = field(metadata={"metavar": "PATH", "help": "Queries: JSON Lines, TSV, a BEIR folder, or hf:NAME."})
    output: str = field(metadata={"metavar": "PATH", "help": "Run to write: JSON Lines if named .jsonl, else TREC."})
    corpus: str | None = field(
        default=None,
        metadata={"metavar": "PATH", "help": "The corpus, or the folder of an index or retriever that holds it."},
    )
    candidates: str | None = field(
        default=None, metadata={"metavar": "DIR", "help": "Rank the candidates in this folder of `dgr candidates`."}
    )
    run: str | None = field(
        default=None,
        metadata={"metavar": "FILE", "help": "Rank the passages of this run: TREC, JSON, a table, or hf:NAME."},
    )
    depth: int | None = field(default=None, metadata={"help": "Rank only so many first candidates a query."})
    k: int = field(default=100, metadata={"help": "Passages a query to keep.", "aliases": ["-k"]})
    split: str | None = field(
        default=None, metadata={"metavar": "NAME", "help": "Split of a BEIR folder, such as train."}
    )
    overwrite: bool = field(default=False, metadata={"help": "Replace a run that is there."})


def make_parser() -> CommandParser:
    """The command line of `dgr rank`."""
    return CommandParser(
        [RankOptions, TeacherOptions],
        command="rank",
        description="Let a teacher rank candidates, or search the corpus (all but rerankers) if none are given.",
        usage="--teacher TEACHER --queries FILE --output FILE [options]",
        example="  dgr rank --teacher cross-encoder --model cross-encoder/ms-marco-MiniLM-L6-v2 \\\n"
        "      --corpus corpus.jsonl --queries train.jsonl --candidates candidates \\\n"
        "      --output teacher.trec",
    )


def run(options: RankOptions, teacher_options: TeacherOptions, positionals: Namespace) -> None:
    """Run `dgr rank`."""
    output = output_file("--output", options.output, options.overwrite)
    settings = teacher_options.given(options.teacher)
    _check(options, settings)
    queries = read_queries_of(options.queries, options.split)
    candidates = _read_candidates(options)
    cache = {"cache": settings.pop("cache")} if "cache" in settings else {}
    corpus = None if options.corpus is None else read_corpus("--corpus", options.corpus)
    with process_group(teacher_options.device) as processes:
        teacher = make_teacher(options.teacher, corpus, settings)
        rankings = teacher.rank(queries, candidates, options.k, **cache)
        if is_main_process(processes):
            write_run(rankings, output)
            logger.info("%s ranked for %s queries: %s", rankings.name, f"{len(rankings):,}", output)


def _check(options: RankOptions, settings: dict[str, Any]) -> None:
    if options.teacher not in MODELS:
        require_single_process(options.teacher)
    if options.k < 1 or (options.depth is not None and options.depth < 1):
        raise DGRValueError(f"-k {options.k} and --depth {options.depth} are numbers of passages: at least 1.")
    check_split(options.split, options.queries)
    if options.candidates is not None and options.run is not None:
        raise DGRValueError("--candidates and --run both say what to rank. Give one of them.")
    unranked = options.candidates is None and options.run is None
    if options.depth is not None and unranked:
        raise DGRValueError("--depth cuts the lists of --candidates or --run, and neither is given. Leave it out.")
    if options.teacher in MODELS:
        if "model" not in settings:
            raise DGRValueError(f"The {options.teacher} needs its model: --model, a folder or a name on the hub.")
        settings["model"] = model_name("--model", settings["model"])
    if options.teacher in RERANKERS and unranked:
        raise DGRValueError(f"A {options.teacher} ranks what is given to it. Give --candidates or --run.")
    if options.corpus is not None:
        input_path("--corpus", options.corpus)
    elif options.teacher != "pyserini" or not {"lucene_index", "prebuilt"} & set(settings):
        raise DGRValueError("--corpus is missing: the teacher has to read the passages.")


def _read_candidates(options: RankOptions) -> Any:
    if options.candidates is not None:
        from dgr_trainer.candidates import Candidates

        found = Candidates.load_from_disk(input_path("--candidates", options.candidates, folder=True)).to_rankings()
    elif options.run is not None:
        found = read_run("--run", options.run)
    else:
        return None
    return found if options.depth is None else found.top(options.depth)
