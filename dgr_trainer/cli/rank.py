"""`dgr rank`: a teacher's rank lists, of candidates or of the whole corpus."""

from __future__ import annotations

import logging
from argparse import Namespace
from dataclasses import dataclass, field, fields
from typing import Any, Literal

from dgr_trainer.cli.parsing import CommandParser
from dgr_trainer.cli.paths import input_path, model_name, output_file
from dgr_trainer.cli.sources import check_split, read_corpus, read_queries_of, read_run, write_run

logger = logging.getLogger(__name__)

# The teachers to which an option belongs.
_LEXICAL = ("bm25", "pyserini")


@dataclass
class RankOptions:
    """Options of `dgr rank`."""

    teacher: Literal["bm25", "cross-encoder", "pyserini"] = field(
        metadata={"help": "BM25 without Java, a cross-encoder, or Lucene's BM25 through Pyserini (needs Java 21)."}
    )
    queries: str = field(metadata={"metavar": "PATH", "help": "Queries: JSON Lines, TSV or a BEIR folder."})
    output: str = field(metadata={"metavar": "PATH", "help": "Run to write: JSON Lines if named .jsonl, else TREC."})
    corpus: str | None = field(
        default=None,
        metadata={"metavar": "PATH", "help": "The corpus, or the folder of an index or retriever that holds it."},
    )
    candidates: str | None = field(
        default=None, metadata={"metavar": "DIR", "help": "Rank the candidates in this folder of `dgr candidates`."}
    )
    run: str | None = field(
        default=None, metadata={"metavar": "FILE", "help": "Rank the passages of this run (TREC, or .jsonl)."}
    )
    depth: int | None = field(default=None, metadata={"help": "Rank only so many first candidates a query."})
    k: int = field(default=100, metadata={"help": "Passages a query to keep.", "aliases": ["-k"]})
    split: str | None = field(
        default=None, metadata={"metavar": "NAME", "help": "Split of a BEIR folder, such as train."}
    )
    overwrite: bool = field(default=False, metadata={"help": "Replace a run that is there."})


@dataclass
class TeacherOptions:
    """Options of the teachers, by the names of their arguments; what is not given keeps the library's default."""

    _argument_group_name = "teachers"

    k1: float | None = field(
        default=None, metadata={"help": "bm25, pyserini: saturation of a repeated term. (default: 0.9)"}
    )
    b: float | None = field(
        default=None, metadata={"help": "bm25, pyserini: how much long passages are held back. (default: 0.4)"}
    )
    fields: list[str] | None = field(
        default=None,
        metadata={
            "help": "bm25, pyserini: what is searched of a passage. (default: title text)",
            "choices": ["title", "text", "pseudo_queries"],
        },
    )
    stemmer: str | None = field(
        default=None,
        metadata={"help": "bm25: porter, a Snowball algorithm such as german, or none. (default: porter)"},
    )
    lucene_index: str | None = field(
        default=None, metadata={"metavar": "DIR", "help": "pyserini: folder of the Lucene index, kept between calls."}
    )
    hits: int | None = field(
        default=None, metadata={"help": "pyserini: how deep Lucene looks for candidates. (default: 1000)"}
    )
    rm3: bool = field(default=False, metadata={"help": "pyserini: expand queries by RM3."})
    threads: int | None = field(default=None, metadata={"help": "pyserini: threads of Java. (default: 4)"})
    memory: str | None = field(default=None, metadata={"help": "pyserini: heap of Java. (default: 2g)"})
    model: str | None = field(
        default=None,
        metadata={
            "metavar": "MODEL",
            "help": "cross-encoder: the model, a folder or a name on the hub; has to be given.",
        },
    )
    query_template: str | None = field(
        default=None, metadata={"help": "cross-encoder: first segment of the input. (default: '{query}')"}
    )
    passage_template: str | None = field(
        default=None,
        metadata={"help": "cross-encoder: second segment, of {passage}, {title}, {text}. (default: '{passage}')"},
    )
    template: str | None = field(default=None, metadata={"help": "cross-encoder: the only segment, instead of two."})
    max_length: int | None = field(default=None, metadata={"help": "cross-encoder: tokens of an input."})
    dtype: str | None = field(
        default=None,
        metadata={
            "help": "cross-encoder: precision of the model. (default: float32)",
            "choices": ["float32", "bfloat16", "float16"],
        },
    )
    batch_tokens: int | None = field(
        default=None,
        metadata={"help": "cross-encoder: tokens at once, padding included; by default 2048 on a CPU, else 16384."},
    )
    device: str | None = field(
        default=None, metadata={"help": "cross-encoder: such as cuda:1. (default: a GPU if there is one)"}
    )
    cache: str | None = field(
        default=None,
        metadata={
            "metavar": "DIR",
            "help": "cross-encoder: folder of finished scores, from which the same call goes on after a stop.",
        },
    )

    def given(self, teacher: str) -> dict[str, Any]:
        """Arguments for a teacher. Raises a `ValueError` if there are options of others."""
        values = {one.name: getattr(self, one.name) for one in fields(self)}
        values = {name: value for name, value in values.items() if value not in (None, False)}
        for one in fields(self):
            of = str(one.metadata["help"]).split(":")[0].split(", ")
            if one.name in values and teacher not in of:
                raise ValueError(f"--{one.name} is an option of {' and '.join(of)}, not of {teacher}. Leave it out.")
        return values


def make_parser() -> CommandParser:
    """The command line of `dgr rank`."""
    return CommandParser(
        [RankOptions, TeacherOptions],
        command="rank",
        description="Let a teacher rank candidates, or search the corpus (BM25 and Lucene) when none are given.",
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
    teacher = _teacher(options.teacher, corpus, settings)
    rankings = teacher.rank(queries, candidates, options.k, **cache)
    write_run(rankings, output)
    logger.info("%s ranked for %s queries: %s", rankings.name, f"{len(rankings):,}", output)


def _check(options: RankOptions, settings: dict[str, Any]) -> None:
    if options.k < 1 or (options.depth is not None and options.depth < 1):
        raise ValueError(f"-k {options.k} and --depth {options.depth} are numbers of passages: at least 1.")
    check_split(options.split, options.queries)
    if options.candidates is not None and options.run is not None:
        raise ValueError("--candidates and --run both say what to rank. Give one of them.")
    unranked = options.candidates is None and options.run is None
    if options.depth is not None and unranked:
        raise ValueError("--depth cuts the lists of --candidates or --run, and neither is given. Leave it out.")
    if options.teacher == "cross-encoder":
        if "model" not in settings:
            raise ValueError("The cross-encoder needs its model: --model, a folder or a name on the hub.")
        settings["model"] = model_name("--model", settings["model"])
        if unranked:
            raise ValueError("A cross-encoder ranks what is given to it. Give --candidates or --run.")
    if options.corpus is not None:
        input_path("--corpus", options.corpus)
    elif options.teacher != "pyserini" or "lucene_index" not in settings:
        raise ValueError("--corpus is missing: the teacher has to read the passages.")


def _read_candidates(options: RankOptions) -> Any:
    if options.candidates is not None:
        from dgr_trainer.candidates import Candidates

        found = Candidates.load_from_disk(input_path("--candidates", options.candidates, folder=True)).to_rankings()
    elif options.run is not None:
        found = read_run("--run", options.run)
    else:
        return None
    return found if options.depth is None else found.top(options.depth)


def _teacher(name: str, corpus: Any, settings: dict[str, Any]) -> Any:
    if name == "bm25":
        from dgr_trainer.teachers.bm25 import BM25Teacher

        if settings.get("stemmer") == "none":
            settings["stemmer"] = None
        return BM25Teacher(corpus, **settings)
    if name == "pyserini":
        from dgr_trainer.teachers.pyserini import RM3, PyseriniTeacher

        settings["rm3"] = RM3() if settings.get("rm3") else None
        return PyseriniTeacher(corpus, settings.pop("lucene_index", None), **settings)
    from dgr_trainer.teachers.cross_encoder import CrossEncoderTeacher

    return CrossEncoderTeacher(settings.pop("model"), corpus, **settings)
