"""`dgr search`: search with a retriever, and show the identifiers that make up each passage's score."""

from __future__ import annotations

import logging
import os
import shutil
import sys
import textwrap
from argparse import Namespace
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from dgr_trainer.cli.models import LESS_MEMORY, check_retriever, load_retriever, memory_advice
from dgr_trainer.cli.parsing import CommandParser
from dgr_trainer.cli.passage_sets import PassageSets, check_sets, read_passage_sets
from dgr_trainer.cli.paths import output_file
from dgr_trainer.cli.settings import DeviceOptions, SearchOptions
from dgr_trainer.cli.sources import check_split, read_queries_of, write_run
from dgr_trainer.cli.tables import print_json, print_result
from dgr_trainer.data.texts import as_text
from dgr_trainer.errors import DGRValueError
from dgr_trainer.processes import is_main_process, process_group

if TYPE_CHECKING:
    from accelerate import PartialState

    from dgr_trainer.retrieval.hits import Hit
    from dgr_trainer.retrieval.retriever import GenerativeRetriever

logger = logging.getLogger(__name__)

_MAX_WIDTH = 100
_MIN_WIDTH = 20  # In less there is no room for a word of a text beside its indent.
_LEGEND = "Under a passage: score of an identifier, view, count in the corpus, text."
_LINES_OF_TEXT = 3


@dataclass
class SearchCommandOptions:
    """Options of `dgr search`."""

    k: int = field(default=5, metadata={"help": "Passages per query.", "aliases": ["-k"]})
    identifiers: int = field(default=5, metadata={"help": "Identifiers to show under a passage; 0 for none."})
    json: bool = field(
        default=False, metadata={"help": "Print JSON Lines: one object per query, with all identifiers."}
    )
    queries: str | None = field(
        default=None,
        metadata={"metavar": "PATH", "help": "File of queries: JSON Lines, TSV, a BEIR folder, or hf:NAME."},
    )
    split: str | None = field(
        default=None, metadata={"metavar": "NAME", "help": "Split of a BEIR folder, such as test."}
    )
    output: str | None = field(
        default=None,
        metadata={
            "metavar": "PATH",
            "help": "Write a run instead of printing: JSON Lines if named .jsonl, else TREC.",
        },
    )
    ignore_identical_ids: bool = field(
        default=False,
        metadata={"help": "With --queries: leave out the passage that has the id of the query, as BEIR does."},
    )
    among: str | None = field(
        default=None,
        metadata={
            "metavar": "FILE",
            "help": "Search among these passages, as if the index held no others: one id a line, or query id and "
            "passage id with a tab between them.",
        },
    )
    exclude: str | None = field(
        default=None, metadata={"metavar": "FILE", "help": "Leave these passages out: a file as for --among."}
    )
    leave_out_own_text: bool = field(
        default=False,
        metadata={"help": "Leave out pseudo-queries that are the query, to compare training queries with others."},
    )
    overwrite: bool = field(default=False, metadata={"help": "Replace an existing run."})


def make_parser() -> CommandParser:
    """The command line of `dgr search`."""
    parser = CommandParser(
        [SearchCommandOptions, SearchOptions, DeviceOptions],
        command="search",
        description="Search with a retriever. Shows passages with the identifiers that make up their scores.",
        usage="RETRIEVER [QUERY ...] [options]",
        example='  dgr search retriever "who discovered penicillin" -k 3\n'
        "  dgr search retriever --queries test.jsonl -k 100 --output dgr.trec",
    )
    parser.add_argument("retriever", metavar="RETRIEVER", help="Folder of a retriever.")
    parser.add_argument("query", metavar="QUERY", nargs="*", help="A query in quotes.")
    return parser


def run(options: SearchCommandOptions, search: SearchOptions, device: DeviceOptions, positionals: Namespace) -> None:
    """Run `dgr search`."""
    if bool(positionals.query) == bool(options.queries):
        raise DGRValueError("Give either queries in quotes, or a file of them with --queries.")
    if options.output is not None and not options.queries:
        raise DGRValueError("A run needs query ids: --output goes with --queries.")
    if options.ignore_identical_ids and not options.queries:
        raise DGRValueError("A typed query has no id: --ignore_identical_ids goes with --queries.")
    if options.output is not None and options.json:
        raise DGRValueError("--json prints, and --output writes a run. Give one of them.")
    if options.k < 1 or options.identifiers < 0:
        raise DGRValueError(
            f"-k {options.k} has to be at least 1, and --identifiers {options.identifiers} at least 0."
        )
    output = None if options.output is None else output_file("--output", options.output, options.overwrite)
    check_split(options.split, options.queries)
    for number, query in enumerate(positionals.query, start=1):
        as_text(query, "query", f"QUERY {number}")
    queries: dict[str, str] = {}
    if options.queries:
        from dgr_trainer.data.queries import queries_mapping

        queries = queries_mapping(read_queries_of(options.queries, options.split))
    among, exclude = (read_passage_sets(f"--{name}", getattr(options, name)) for name in ("among", "exclude"))
    check_sets("--among", among, queries, all_queries=True)
    check_sets("--exclude", exclude, queries, all_queries=False)
    folder = check_retriever(positionals.retriever, search)
    with process_group(device.device) as processes:
        retriever = load_retriever(folder, search, device, processes)
        if output is None:
            typed: list[tuple[str | None, str]] = [(None, query) for query in positionals.query]
            _show(retriever, [*typed, *queries.items()], options, among, exclude, processes)
            return
        with memory_advice(LESS_MEMORY):
            rankings = retriever.rank(
                queries,
                options.k,
                processes,
                ignore_identical_ids=options.ignore_identical_ids,
                among=among,
                exclude=exclude,
                leave_out_own_text=options.leave_out_own_text,
            )
        if is_main_process(processes):
            write_run(rankings, output)
            logger.info("searched for %s queries: %s", f"{len(rankings):,}", output)


def _show(
    retriever: GenerativeRetriever,
    queries: list[tuple[str | None, str]],
    options: SearchCommandOptions,
    among: PassageSets | None,
    exclude: PassageSets | None,
    processes: PartialState | None,
) -> None:
    size = retriever.settings.batch_size * (1 if processes is None else processes.num_processes)
    for start in range(0, len(queries), size):
        batch = queries[start : start + size]
        with memory_advice(LESS_MEMORY):
            depth = options.k + options.ignore_identical_ids
            results: list[list[Hit]] = retriever.search(
                [text for _, text in batch],
                depth,
                accelerator=processes,
                among=_of_batch(among, batch),
                exclude=_of_batch(exclude, batch),
                leave_out_own_text=options.leave_out_own_text,
            )
        if not is_main_process(processes):
            continue
        if options.ignore_identical_ids:
            results = [
                [hit for hit in hits if hit.passage_id != query_id][: options.k]
                for (query_id, _), hits in zip(batch, results, strict=True)
            ]
        for number, ((query_id, query), hits) in enumerate(zip(batch, results, strict=True), start):
            if options.json:
                print_json(_record(retriever, query_id, query, hits))
            else:
                separator = [""] if number else []
                print_result("\n".join([*separator, *_lines(retriever, query, hits, options.identifiers)]))
    if is_main_process(processes) and not options.json and options.identifiers:
        print_result(f"\n{_LEGEND}")


def _of_batch(
    sets: PassageSets | None, batch: list[tuple[str | None, str]]
) -> list[str] | list[list[str] | None] | None:
    """The passages of all queries, or those of each query of a batch."""
    return [sets.get(str(query_id)) for query_id, _ in batch] if isinstance(sets, dict) else sets


def _record(retriever: GenerativeRetriever, query_id: str | None, query: str, hits: list[Hit]) -> dict[str, Any]:
    from dgr_trainer.retrieval.hits import identifier_records

    record: dict[str, Any] = {} if query_id is None else {"query_id": query_id}
    record |= {"query": query, "hits": []}
    for hit in hits:
        shown: dict[str, Any] = {"passage_id": hit.passage_id, "score": hit.score}
        if retriever.corpus is not None:
            passage = retriever.corpus.get(hit.passage_id)
            shown |= {"title": passage.title, "text": passage.text}
        shown["identifiers"] = identifier_records(hit.identifiers, retriever.identifier_text)
        record["hits"].append(shown)
    return record


def _lines(retriever: GenerativeRetriever, query: str, hits: list[Hit], shown: int) -> Iterator[str]:
    width = max(_MIN_WIDTH, min(_MAX_WIDTH, shutil.get_terminal_size((80, 24)).columns))
    yield _bold(_cut(query, width)) if query.strip() else "(an empty query)"
    if not hits:
        yield "  no passage found"
    for rank, hit in enumerate(hits, start=1):
        passage = None if retriever.corpus is None else retriever.corpus.get(hit.passage_id)
        title = "" if passage is None else " ".join(passage.title.split())
        score = f"{hit.score:,.1f}"
        heading = f"{title} ({hit.passage_id})" if title and title != hit.passage_id else hit.passage_id
        heading = _cut(heading, width - len(score) - 8)
        yield ""
        yield f"{rank:>3}. {_bold(heading)}{' ' * (width - 5 - len(heading) - len(score))}{score}"
        if passage is not None and passage.text.strip():
            yield from textwrap.wrap(
                passage.text, width - 5, max_lines=_LINES_OF_TEXT, placeholder=" ...",
                initial_indent=" " * 5, subsequent_indent=" " * 5,
            )  # fmt: skip
        yield from _identifier_lines(retriever, hit, shown, width)


def _identifier_lines(retriever: GenerativeRetriever, hit: Hit, shown: int, width: int) -> Iterator[str]:
    """The identifiers with the highest scores: score, view, occurrences in the corpus, text."""
    ranked = sorted(hit.identifiers, key=lambda identifier: -identifier.score)
    for identifier in ranked[:shown]:
        start = f"     {identifier.score:>10,.1f}  {identifier.view:<12}  {f'{identifier.count:,}x':>7}  "
        yield start + _cut(retriever.identifier_text(identifier), width - len(start))
    rest = ranked[shown:] if shown else []
    if rest:
        yield f"     {sum(identifier.score for identifier in rest):>10,.1f}  of {len(rest)} more"


def _cut(text: str, width: int) -> str:
    text = " ".join(text.split())
    return text if len(text) <= width else text[: max(0, width - 3)].rstrip() + "..."


def _bold(text: str) -> str:
    return f"\033[1m{text}\033[0m" if sys.stdout.isatty() and "NO_COLOR" not in os.environ else text
