"""`dgr index`: corpus to FM-index, and passages into and out of one that is there."""

from __future__ import annotations

import json
import logging
import shutil
from argparse import Namespace
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dgr_trainer.cli.parsing import CommandParser, UsageError
from dgr_trainer.cli.paths import input_path, model_name, output_folder
from dgr_trainer.cli.settings import IdentifierOptions
from dgr_trainer.cli.sources import (
    INDEX_MARKER,
    SETTINGS_FILE,
    load_tokenizer,
    make_identifiers,
    needed_index,
    open_index,
    read_corpus,
)
from dgr_trainer.files.atomic import atomic_folder
from dgr_trainer.files.lines import numbered_lines

if TYPE_CHECKING:
    from dgr_trainer.data.corpus import Corpus
    from dgr_trainer.index import FMIndex

logger = logging.getLogger(__name__)


@dataclass
class IndexOptions:
    """Options of `dgr index`."""

    output: str = field(metadata={"metavar": "PATH", "help": "Folder to write the index to."})
    pseudo_queries: list[str] | None = field(
        default=None,
        metadata={
            "metavar": "PATH",
            "help": "Files of pseudo-queries: of `dgr pseudo_queries`, docTTTTTquery, InPars, or a pickle of lists by "
            "passage id, which is read as data. In place of those in the corpus.",
        },
    )
    model: str | None = field(
        default=None,
        metadata={
            "metavar": "MODEL",
            "help": "The student whose tokenizer is used: a folder, or a name on the hub. With --add by default the "
            "one that the index was made with.",
        },
    )
    add: bool = field(default=False, metadata={"help": "Add the passages of CORPUS to the index at --output."})
    remove: str | None = field(
        default=None,
        metadata={"metavar": "FILE", "help": "Remove passages from the index at --output: a file of ids, one a line."},
    )
    compact: bool = field(
        default=False, metadata={"help": "Index what the index at --output holds anew, in one piece."}
    )
    verify: bool = field(
        default=False,
        metadata={"help": "Compare all files of the index at --output, and its corpus, with their checksums."},
    )
    segment_tokens: int | None = field(
        default=None,
        metadata={
            "metavar": "N",
            "help": "Index in segments of at most so many tokens, which takes less memory. If it is interrupted, the "
            "same command goes on after the last segment.",
        },
    )
    save_corpus: bool = field(
        default=True,
        metadata={"help": "Keep the corpus beside the index, so that retrievers can show passages."},
    )
    overwrite: bool = field(default=False, metadata={"help": "Replace an index that is there."})


def make_parser() -> CommandParser:
    """The command line of `dgr index`."""
    parser = CommandParser(
        [IndexOptions, IdentifierOptions],
        command="index",
        description="Index a corpus, so that a model can generate what occurs in it; or change an index: remove "
        "passages, add those of a corpus, and compact it, in this order; or verify it.",
        usage="[CORPUS] --output DIR [--model MODEL] [options]",
        example="  dgr index corpus.jsonl --model facebook/bart-base --output index\n"
        "  dgr index news.jsonl --output index --add --remove outdated.txt",
    )
    parser.add_argument(
        "corpus",
        metavar="CORPUS",
        nargs="?",
        help="JSON Lines (id, title, text, pseudo_queries, docid), TSV (MS MARCO's, DPR's), Parquet, a BEIR folder, "
        "KILT's knowledge source, or a saved corpus; files may be compressed (.gz, .zst).",
    )
    return parser


def run(options: IndexOptions, identifier_options: IdentifierOptions, positionals: Namespace) -> None:
    """Run `dgr index`."""
    if options.verify:
        _verify(options, positionals.corpus)
        return
    if options.add or options.remove is not None or options.compact:
        _change(options, identifier_options, positionals.corpus)
        return
    if positionals.corpus is None or options.model is None:
        missing = "CORPUS" if positionals.corpus is None else "--model"
        raise UsageError(f"the following arguments are required: {missing}. `dgr index --help` lists the options.")
    output = output_folder("--output", options.output, INDEX_MARKER, options.overwrite)
    model = model_name("--model", options.model)
    from dgr_trainer.identifiers import IdentifierSettings

    settings = IdentifierSettings(**identifier_options.given())
    corpus = _passages(options, positionals.corpus)
    identifiers = make_identifiers(load_tokenizer(model), settings)

    from dgr_trainer.index import FMIndex

    beside = output.with_name(f".{output.name}.segments") if options.segment_tokens is not None else None
    index = FMIndex.from_corpus(corpus, identifiers, folder=beside, segment_tokens=options.segment_tokens)
    description = {"model": options.model, "identifiers": settings.to_dict()}
    _write(output, index, corpus if options.save_corpus else None, description)
    if beside is not None:
        shutil.rmtree(beside)


def _passages(options: IndexOptions, path: str) -> Corpus:
    """The corpus to index, with the pseudo-queries of the files that were named."""
    files = [input_path("--pseudo_queries", file, folder=False) for file in options.pseudo_queries or ()]
    corpus = read_corpus("CORPUS", path)
    if not files:
        return corpus
    from dgr_trainer.data.pseudo_queries import read_pseudo_queries

    return corpus.with_pseudo_queries(read_pseudo_queries(files, corpus.ids))


def _change(options: IndexOptions, identifier_options: IdentifierOptions, corpus_path: str | None) -> None:
    """Remove, add and compact."""
    if options.add != (corpus_path is not None):
        raise UsageError(
            "--add takes a CORPUS, whose passages are added."
            if options.add
            else "a CORPUS is given, but an index that is there is changed. Give --add to add its passages."
        )
    if options.pseudo_queries and not options.add:
        raise UsageError("--pseudo_queries are those of passages to index: give a CORPUS, and --add to add it.")
    if options.overwrite or options.segment_tokens is not None:
        raise UsageError("--overwrite and --segment_tokens are for new indexes, not for changes of one that is there.")
    found = needed_index("--output", options.output)
    import numpy as np

    opened, corpus = open_index(found)
    index, added = opened, None
    removed = np.empty(0, np.int64)
    if options.remove is not None:
        file = input_path("--remove", options.remove, folder=False)
        ids = [line.strip() for _, line in numbered_lines(file)]
        removed = np.unique(index.passage_positions(ids))
        index = index.remove(ids)
    if corpus_path is not None:
        model = options.model or found.description.get("model")
        if model is None:
            raise UsageError("--add needs --model: the index does not say with which it was made.")
        identifiers = make_identifiers(
            load_tokenizer(model_name("--model", model)), found.settings(identifier_options)
        )
        added = _passages(options, corpus_path)
        index = index.add_corpus(added, identifiers)
    if options.compact:
        index = index.compact()
    if corpus is None:
        index.save(found.path)
    else:
        from dgr_trainer.index.corpus_sync import save_changed

        save_changed(found.root, found.marker, opened, index, removed=removed, added=added, compacted=options.compact)
    _report(index, found.path)


def _verify(options: IndexOptions, corpus_path: str | None) -> None:
    """Compare what is on the disk with its checksums."""
    if corpus_path is not None or options.add or options.remove is not None or options.compact or options.overwrite:
        raise UsageError("--verify looks at an index that is there and changes nothing. Give it with --output only.")
    found = needed_index("--output", options.output)
    from dgr_trainer.data.corpus_folder import verify_corpus
    from dgr_trainer.index import FMIndex

    index = FMIndex.load(found.path, verify=True)
    if found.corpus is not None:
        verify_corpus(found.corpus)
    beside = " and its corpus" if found.corpus is not None else ""
    logger.info("undamaged: %s (%.1f MB)%s", found.path, index.num_bytes / 1e6, beside)


def _write(output: Path, index: FMIndex, corpus: Corpus | None, description: dict[str, Any]) -> None:
    """Write an index with its corpus, which take the place of what is there together."""
    with atomic_folder(output, marker=INDEX_MARKER) as folder:
        index.save(folder, link=True)
        if corpus is not None:
            corpus.save_to_disk(folder / "corpus")
        (folder / SETTINGS_FILE).write_text(json.dumps(description, indent=2) + "\n", encoding="utf-8")
    _report(index, output)


def _report(index: FMIndex, output: Path) -> None:
    logger.info(
        "indexed %s passages, %s tokens (%.1f MB): %s",
        f"{index.num_passages:,}",
        f"{index.num_tokens:,}",
        index.num_bytes / 1e6,
        output,
    )
