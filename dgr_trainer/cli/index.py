"""`dgr index`: index a corpus; add passages to an index, remove them from it, compact and verify it."""

from __future__ import annotations

import json
import logging
import shutil
from argparse import Namespace
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dgr_trainer.cli.models import load_identifiers
from dgr_trainer.cli.parsing import CommandParser, UsageError
from dgr_trainer.cli.paths import input_path, model_name, output_folder
from dgr_trainer.cli.settings import IdentifierOptions
from dgr_trainer.cli.sources import (
    INDEX_MARKER,
    SETTINGS_FILE,
    needed_index,
    open_index,
    read_corpus,
)
from dgr_trainer.files.atomic import atomic_folder
from dgr_trainer.files.lines import numbered_lines
from dgr_trainer.processes import require_single_process
from dgr_trainer.processes.jobs import job_lock

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
            "help": "Files of pseudo-queries, instead of those in the corpus: of `dgr pseudo_queries`, docTTTTTquery, "
            "InPars, or a pickle of lists by passage id (read as data; no code is run).",
        },
    )
    model: str | None = field(
        default=None,
        metadata={
            "metavar": "MODEL",
            "help": "The student whose tokenizer is used: a folder, or a name on the hub. With --add, by "
            "default the one that the index was made with.",
        },
    )
    add: bool = field(default=False, metadata={"help": "Add the passages of CORPUS to the index at --output."})
    remove: str | None = field(
        default=None,
        metadata={
            "metavar": "FILE",
            "help": "Remove passages from the index at --output: a file of ids, one per line.",
        },
    )
    compact: bool = field(
        default=False, metadata={"help": "Rebuild the index at --output in as few segments as possible."}
    )
    verify: bool = field(
        default=False,
        metadata={"help": "Compare all files of the index at --output and of its corpus with their checksums."},
    )
    segment_tokens: int | None = field(
        default=None,
        metadata={
            "metavar": "N",
            "help": "Index in segments of at most this many tokens, which takes less memory. After an interruption "
            "the same command resumes after the last segment.",
        },
    )
    num_proc: int | None = field(
        default=None, metadata={"metavar": "N", "help": "Processes that tokenise the corpus; by default one."}
    )
    save_corpus: bool = field(
        default=True,
        metadata={"help": "Save the corpus with the index, so that retrievers can show passages."},
    )
    overwrite: bool = field(default=False, metadata={"help": "Replace an existing index."})


def make_parser() -> CommandParser:
    """The command line of `dgr index`."""
    parser = CommandParser(
        [IndexOptions, IdentifierOptions],
        command="index",
        description="Index a corpus, so that a model can generate identifiers that occur in it; or change an index: "
        "remove passages, add those of a corpus, and compact it, in this order; or verify it.",
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
    require_single_process("dgr index")
    if options.verify:
        _verify(options, positionals)
        return
    if options.add or options.remove is not None or options.compact:
        _check_change(options, positionals)
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
    identifiers = load_identifiers(model, settings)

    from dgr_trainer.index import FMIndex

    saved_corpus = corpus if options.save_corpus else None
    description = {"model": model, "identifiers": settings.to_dict()}
    if options.segment_tokens is None:
        _write(output, FMIndex.from_corpus(corpus, identifiers, num_proc=options.num_proc), saved_corpus, description)
        return
    segments = output.with_name(f".{output.name}.segments")
    with job_lock(segments.with_name(f"{segments.name}.lock"), f"The index at {output}", None):
        index = FMIndex.from_corpus(
            corpus, identifiers,
            folder=segments, segment_tokens=options.segment_tokens, num_proc=options.num_proc,
        )  # fmt: skip
        _write(output, index, saved_corpus, description)
        shutil.rmtree(segments)


def _passages(options: IndexOptions, path: str) -> Corpus:
    """The corpus to index, with the pseudo-queries of `--pseudo_queries`."""
    files = [input_path("--pseudo_queries", file, folder=False) for file in options.pseudo_queries or ()]
    corpus = read_corpus("CORPUS", path)
    if not files:
        return corpus
    from dgr_trainer.data.pseudo_queries import read_pseudo_queries

    return corpus.with_pseudo_queries(read_pseudo_queries(files, corpus.ids))


def _check_change(options: IndexOptions, positionals: Namespace) -> None:
    """Refuse options that a change of an index would not look at."""
    if options.add != (positionals.corpus is not None):
        raise UsageError(
            "--add takes a CORPUS, whose passages are added."
            if options.add
            else "a CORPUS is given without --add. Give --add to add its passages to the index."
        )
    if options.overwrite or options.segment_tokens is not None:
        raise UsageError("--overwrite and --segment_tokens are for new indexes, not for changes of an existing one.")
    if not options.save_corpus:
        raise UsageError("--save_corpus is for new indexes. A corpus that is saved with an index changes with it.")
    about_passages = [name for name in positionals.given if name not in ("output", "remove", "compact")]
    if about_passages and not options.add:
        raise UsageError(
            f"--{about_passages[0]} is for passages that are tokenised and indexed, but there are none. Give a "
            "CORPUS, and --add to add it; or leave the option out."
        )


def _change(options: IndexOptions, identifier_options: IdentifierOptions, corpus_path: str | None) -> None:
    """Remove passages from an index, add passages, and compact it."""
    folder = needed_index("--output", options.output)
    import numpy as np

    opened, corpus = open_index(folder)
    index, added = opened, None
    removed = np.empty(0, np.int64)
    if options.remove is not None:
        file = input_path("--remove", options.remove, folder=False)
        ids = [line.strip() for _, line in numbered_lines(file)]
        removed = np.unique(index.passage_positions(ids))
        index = index.remove(ids)
    if corpus_path is not None:
        model = options.model or folder.description.get("model")
        if model is None:
            raise UsageError("--add needs --model: the index does not say with which it was made.")
        identifiers = load_identifiers(model_name("--model", model), folder.settings(identifier_options))
        added = _passages(options, corpus_path)
        index = index.add_corpus(added, identifiers, num_proc=options.num_proc)
    if corpus is None:
        if options.compact:
            index = index.compact(folder=folder.path)
        else:
            index.save(folder.path)
        _report(index, folder.path)
        return
    from dgr_trainer.index.corpus_sync import save_changed

    # Index and corpus are replaced together: until then the compacted index is beside them.
    compacted = folder.root.with_name(f".{folder.root.name}.compacted")
    if options.compact:
        compacted.mkdir(exist_ok=True)
        index = index.compact(folder=compacted / "index")
    save_changed(folder.root, folder.marker, opened, index, removed=removed, added=added, compacted=options.compact)
    if options.compact:
        shutil.rmtree(compacted)
    _report(index, folder.path)


def _verify(options: IndexOptions, positionals: Namespace) -> None:
    """Compare the files of an index and its corpus with their checksums."""
    if positionals.corpus is not None or set(positionals.given) - {"output", "verify"}:
        raise UsageError("--verify reads an existing index and changes nothing. Give it with --output only.")
    folder = needed_index("--output", options.output)
    from dgr_trainer.data.corpus_folder import verify_corpus
    from dgr_trainer.index import FMIndex

    index = FMIndex.load(folder.path, verify=True)
    if folder.corpus is not None:
        verify_corpus(folder.corpus)
    and_corpus = " and its corpus" if folder.corpus is not None else ""
    logger.info("undamaged: %s (%.1f MB)%s", folder.path, index.num_bytes / 1e6, and_corpus)


def _write(output: Path, index: FMIndex, corpus: Corpus | None, description: dict[str, Any]) -> None:
    """Write an index and its corpus; together they replace what the folder held."""
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
