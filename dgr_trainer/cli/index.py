"""`dgr index`: corpus to FM-index."""

from __future__ import annotations

import json
import logging
from argparse import Namespace
from dataclasses import dataclass, field

from dgr_trainer.atomic import atomic_folder
from dgr_trainer.cli.parsing import CommandParser
from dgr_trainer.cli.paths import input_path, model_name, output_folder
from dgr_trainer.cli.settings import IdentifierOptions
from dgr_trainer.cli.sources import INDEX_MARKER, SETTINGS_FILE, load_tokenizer, make_identifiers, read_corpus

logger = logging.getLogger(__name__)


@dataclass
class IndexOptions:
    """Options of `dgr index`."""

    model: str = field(
        metadata={"metavar": "MODEL", "help": "The student whose tokenizer is used: a folder, or a name on the hub."}
    )
    output: str = field(metadata={"metavar": "PATH", "help": "Folder to write the index to."})
    pseudo_queries: list[str] | None = field(
        default=None,
        metadata={
            "metavar": "PATH",
            "help": "Files of pseudo-queries: of `dgr pseudo_queries`, docTTTTTquery, InPars, or a pickle of lists by "
            "passage id, which is read as data. In place of those in the corpus.",
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
        description="Index a corpus, so that a model can generate what occurs in it.",
        usage="CORPUS --model MODEL --output DIR [options]",
        example="  dgr index corpus.jsonl --model facebook/bart-base --output index",
    )
    parser.add_argument(
        "corpus",
        metavar="CORPUS",
        help="JSON Lines (id, title, text, pseudo_queries, docid), TSV (MS MARCO's, DPR's), Parquet, a BEIR folder, "
        "KILT's knowledge source, or a saved corpus; files may be compressed (.gz, .zst).",
    )
    return parser


def run(options: IndexOptions, identifier_options: IdentifierOptions, positionals: Namespace) -> None:
    """Run `dgr index`."""
    output = output_folder("--output", options.output, INDEX_MARKER, options.overwrite)
    model = model_name("--model", options.model)
    from dgr_trainer.identifiers import IdentifierSettings

    settings = IdentifierSettings(**identifier_options.given())
    files = [input_path("--pseudo_queries", path, folder=False) for path in options.pseudo_queries or ()]
    corpus = read_corpus("CORPUS", positionals.corpus)
    if files:
        from dgr_trainer.pseudo_queries import read_pseudo_queries

        corpus = corpus.with_pseudo_queries(read_pseudo_queries(files, corpus.ids))
    identifiers = make_identifiers(load_tokenizer(model), settings)

    from dgr_trainer.index import FMIndex

    index = FMIndex.from_corpus(corpus, identifiers)
    with atomic_folder(output, marker=INDEX_MARKER) as folder:
        index.save(folder)
        if options.save_corpus:
            corpus.save_to_disk(folder / "corpus")
        description = {"model": options.model, "identifiers": settings.to_dict()}
        (folder / SETTINGS_FILE).write_text(json.dumps(description, indent=2) + "\n", encoding="utf-8")
    logger.info(
        "indexed %s passages, %s tokens (%.1f MB): %s",
        f"{index.num_passages:,}",
        f"{index.num_tokens:,}",
        index.num_bytes / 1e6,
        output,
    )
