"""`dgr search`: queries to passages, with the identifiers that earned each its score."""

from __future__ import annotations

import json
import logging
import os
import shutil
import sys
import textwrap
from argparse import Namespace
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from dgr_trainer.cli.parsing import CommandParser
from dgr_trainer.cli.paths import output_file
from dgr_trainer.cli.settings import DeviceOptions, SearchOptions
from dgr_trainer.cli.sources import check_retriever, check_split, load_retriever, read_queries_of, write_run
from dgr_trainer.errors import DGRValueError
from dgr_trainer.processes import is_main_process, process_group

if TYPE_CHECKING:
    from accelerate import PartialState

    from dgr_trainer.retrieval.hits import Hit
    from dgr_trainer.retrieval.retriever import GenerativeRetriever

logger = logging.getLogger(__name__)

_WIDEST = 100
_LEGEND = "Under a passage: what an identifier earned it, view, count in the corpus, text."
_LINES_OF_TEXT = 3


@dataclass
class SearchCommandOptions:
    """Options of `dgr search`."""

    k: int = field(default=5, metadata={"help": "Passages a query.", "aliases": ["-k"]})
    identifiers: int = field(default=5, metadata={"help": "Identifiers to show of a passage; 0 for none."})
    json: bool = field(default=False, metadata={"help": "Print JSON Lines, one object a query, identifiers complete."})
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
            "help": "Write a run in place of printing: JSON Lines if named .jsonl, else TREC.",
        },
    )
    overwrite: bool = field(default=False, metadata={"help": "Replace a run that is there."})


def make_parser() -> CommandParser:
    """The command line of `dgr search`."""
    parser = CommandParser(
        [SearchCommandOptions, SearchOptions, DeviceOptions],
        command="search",
        description="Search with a retriever. Shows passages with the identifiers that earned each its score.",
        usage="RETRIEVER [QUERY ...] [options]",
        example='  dgr search retriever "who discovered penicillin" -k 3\n'
        "  dgr search retriever --queries test.jsonl -k 100 --output dgr.trec",
    )
    parser.add_argument("retriever", metavar="RETRIEVER", help="Folder of a retriever.")
    parser.add_argument("query", metavar="QUERY", nargs="*", help="What to search for; in quotes.")
    return parser


def run(options: SearchCommandOptions, search: SearchOptions, device: DeviceOptions, positionals: Namespace) -> None:
    """Run `dgr search`."""
    if bool(positionals.query) == bool(options.queries):
        raise DGRValueError("Give either queries in quotes, or a file of them with --queries.")
    if options.output is not None and not options.queries:
        raise DGRValueError("A run needs ids of queries: --output goes with --queries.")
    if options.output is not None and options.json:
        raise DGRValueError("--json prints and --output writes a run. Give one of them.")
    if options.k < 1 or options.identifiers < 0:
        raise DGRValueError(
            f"-k {options.k} has to be at least 1, and --identifiers {options.identifiers} at least 0."
        )
    output = None if options.output is None else output_file("--output", options.output, options.overwrite)
    check_split(options.split, options.queries)
    queries: dict[str, str] = {}
    if options.queries:
        from dgr_trainer.data.queries import queries_mapping

        queries = queries_mapping(read_queries_of(options.queries, options.split))
    folder = check_retriever(positionals.retriever, search)
    with process_group(device.device) as processes:
        retriever = load_retriever(folder, search, device, processes)
        if output is None:
            asked: list[tuple[str | None, str]] = [(None, query) for query in positionals.query]
            _show(retriever, [*asked, *queries.items()], options, processes)
            return
        rankings = retriever.rank(queries, options.k, processes)
        if is_main_process(processes):
            write_run(rankings, output)
            logger.info("searched for %s queries: %s", f"{len(rankings):,}", output)


def _show(
    retriever: GenerativeRetriever,
    asked: list[tuple[str | None, str]],
    options: SearchCommandOptions,
    processes: PartialState | None,
) -> None:
    size = retriever.settings.batch_size * (1 if processes is None else processes.num_processes)
    for start in range(0, len(asked), size):
        batch = asked[start : start + size]
        found = retriever.search([text for _, text in batch], options.k, accelerator=processes)
        for place, ((query_id, query), hits) in enumerate(zip(batch, found, strict=True), start):
            if not is_main_process(processes):
                continue
            if options.json:
                print(json.dumps(_record(retriever, query_id, query, hits), ensure_ascii=False))
            else:
                print("\n".join([""] * (place > 0) + list(_lines(retriever, query, hits, options.identifiers))))
    if is_main_process(processes) and not options.json and options.identifiers:
        print(f"\n{_LEGEND}")


def _record(retriever: GenerativeRetriever, query_id: str | None, query: str, hits: list[Hit]) -> dict[str, Any]:
    record: dict[str, Any] = {} if query_id is None else {"query_id": query_id}
    record |= {"query": query, "hits": []}
    for hit in hits:
        found: dict[str, Any] = {"passage_id": hit.passage_id, "score": hit.score}
        if retriever.corpus is not None:
            passage = retriever.corpus.get(hit.passage_id)
            found |= {"title": passage.title, "text": passage.text}
        found["identifiers"] = [
            {"view": one.view, "text": retriever.identifier_text(one), "count": one.count, "score": one.score}
            for one in hit.identifiers
        ]
        record["hits"].append(found)
    return record


def _lines(retriever: GenerativeRetriever, query: str, hits: list[Hit], shown: int) -> Iterator[str]:
    width = min(_WIDEST, shutil.get_terminal_size((80, 24)).columns)
    yield _bold(_cut(query, width)) if query.strip() else "(an empty query)"
    if not hits:
        yield "  no passage found"
    for rank, hit in enumerate(hits, start=1):
        passage = None if retriever.corpus is None else retriever.corpus.get(hit.passage_id)
        title = "" if passage is None else " ".join(passage.title.split())
        score = f"{hit.score:,.1f}"
        named = f"{title} ({hit.passage_id})" if title and title != hit.passage_id else hit.passage_id
        named = _cut(named, width - len(score) - 8)
        yield ""
        yield f"{rank:>3}. {_bold(named)}{' ' * (width - 5 - len(named) - len(score))}{score}"
        if passage is not None and passage.text.strip():
            yield from textwrap.wrap(
                passage.text, width - 5, max_lines=_LINES_OF_TEXT, placeholder=" ...",
                initial_indent=" " * 5, subsequent_indent=" " * 5,
            )  # fmt: skip
        yield from _identifier_lines(retriever, hit, shown, width)


def _identifier_lines(retriever: GenerativeRetriever, hit: Hit, shown: int, width: int) -> Iterator[str]:
    """The identifiers that earned most: score, view, occurrences in the corpus, text."""
    ranked = sorted(hit.identifiers, key=lambda one: -one.score)
    for one in ranked[:shown]:
        start = f"     {one.score:>10,.1f}  {one.view:<12}  {f'{one.count:,}x':>7}  "
        yield start + _cut(retriever.identifier_text(one), width - len(start))
    rest = ranked[shown:] if shown else []
    if rest:
        yield f"     {sum(one.score for one in rest):>10,.1f}  of {len(rest)} more"


def _cut(text: str, width: int) -> str:
    text = " ".join(text.split())
    return text if len(text) <= width else text[: max(0, width - 3)].rstrip() + "..."


def _bold(text: str) -> str:
    return f"\033[1m{text}\033[0m" if sys.stdout.isatty() and "NO_COLOR" not in os.environ else text
