"""`dgr pairs`: make the training pairs of the generation stage from a corpus, queries and qrels."""

from __future__ import annotations

import json
import logging
from argparse import Namespace
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dgr_trainer.cli.derive import LibraryOptions, default_of, derived, parameters_of
from dgr_trainer.cli.models import load_identifiers
from dgr_trainer.cli.parsing import CommandParser
from dgr_trainer.cli.paths import input_path, model_name, output_file, output_folder
from dgr_trainer.cli.settings import IdentifierOptions
from dgr_trainer.cli.sources import (
    PART_HELP,
    check_part,
    check_split,
    index_folder,
    open_index,
    read_corpus,
    read_description,
    read_qrels_of,
    read_queries_of,
)
from dgr_trainer.errors import DGRValueError, input_errors
from dgr_trainer.files.atomic import atomic_folder
from dgr_trainer.files.compression import atomic_text, undamaged
from dgr_trainer.files.lines import file_kind, line_location
from dgr_trainer.files.records import json_records
from dgr_trainer.training.pairs import TARGETS, generation_pairs, pairs_from_candidates

if TYPE_CHECKING:
    from collections.abc import Iterator

    from datasets import Dataset

    from dgr_trainer.data.queries import Qrels
    from dgr_trainer.identifiers import Identifiers
    from dgr_trainer.index import FMIndex

logger = logging.getLogger(__name__)

PAIRS_MARKER = "pairs.json"


@dataclass
class PairsOptions:
    """Options of `dgr pairs`."""

    model: str = field(
        metadata={"metavar": "MODEL", "help": "The student whose tokenizer is used: a folder, or a name on the hub."}
    )
    output: str = field(
        metadata={
            "metavar": "PATH",
            "help": "Where to write the pairs: a JSON Lines file if named .jsonl, else a saved datasets.Dataset.",
        }
    )
    queries: str | None = field(
        default=None,
        metadata={"metavar": "PATH", "help": "Training queries: JSON Lines, TSV, a BEIR folder, or hf:NAME."},
    )
    qrels: str | None = field(
        default=None, metadata={"metavar": "PATH", "help": "Their qrels: TREC, BEIR's TSV, a BEIR folder, or hf:NAME."}
    )
    split: str | None = field(
        default=None, metadata={"metavar": "NAME", "help": "Split of a BEIR folder, such as train."}
    )
    part: str | None = field(default=None, metadata={"metavar": "N/M", "help": PART_HELP})
    candidates: str | None = field(
        default=None,
        metadata={
            "metavar": "DIR",
            "help": "Candidates of `dgr candidates`: make pairs of the identifiers by which the student itself found "
            "the relevant passages.",
        },
    )
    identifiers_per_query: int | None = field(
        default=None,
        metadata={
            "help": "With --candidates: identifiers per query and relevant passage (default: "
            f"{default_of(pairs_from_candidates, 'identifiers_per_query')})."
        },
    )
    seed: int = field(default=default_of(generation_pairs, "seed"), metadata={"help": "Equal seeds give equal pairs."})
    overwrite: bool = field(default=False, metadata={"help": "Replace existing pairs."})


@derived(
    parameters_of(
        generation_pairs,
        {
            "titles_per_query": "Title examples per query and relevant passage; also docid examples.",
            "substrings_per_query": "Substrings per query and relevant passage.",
            "pseudo_queries_per_query": "Pseudo-queries per query and relevant passage, at most those of the passage.",
            "samples_per_passage": "Examples of every view from each passage alone; 0 for none.",
            "substring_words": "Length of a substring in words.",
            "temperature": "How evenly substrings are drawn from a passage; higher is more even.",
            "targets": "Substrings as published, or different ones that are rare in the corpus (an index).",
            "substring_length": "Longest substring in tokens; by default 8 for distinctive targets, else any.",
            "num_proc": "Processes that make pairs; by default one.",
        },
        choices={"targets": TARGETS},
        renamed={"temperature": "substring_temperature"},
    )
)
class PairOptions(LibraryOptions):
    """Options of `generation_pairs`."""

    _argument_group_name = "generation pairs"


def make_parser() -> CommandParser:
    """The command line of `dgr pairs`."""
    parser = CommandParser(
        [PairsOptions, PairOptions, IdentifierOptions],
        command="pairs",
        description="Make the training pairs of the generation stage: prompts, and identifiers to be generated.",
        usage="CORPUS --model MODEL --output PATH [options]",
        example="  dgr pairs index --model facebook/bart-base \\\n"
        "      --queries train.jsonl --qrels train.qrels --output pairs",
    )
    parser.add_argument(
        "corpus", metavar="CORPUS", help="A corpus, or the folder of its index, whose views and markers then apply."
    )
    return parser


def run(
    options: PairsOptions, pair_options: PairOptions, identifier_options: IdentifierOptions, positionals: Namespace
) -> None:
    """Run `dgr pairs`."""
    as_jsonl = file_kind(options.output) == "jsonl"
    if as_jsonl:
        output = output_file("--output", options.output, options.overwrite)
    else:
        output = output_folder("--output", options.output, PAIRS_MARKER, options.overwrite)
    if options.seed < 0:
        raise DGRValueError(f"--seed {options.seed} has to be at least 0.")
    source = input_path("CORPUS", positionals.corpus)
    model = model_name("--model", options.model)
    check_split(options.split, options.queries, options.qrels)
    check_part(options.part, options.queries)
    if (options.queries is None) != (options.qrels is None):
        raise DGRValueError(
            "--queries and --qrels go together: pairs are made of a query and the passage it asks for."
        )
    _check_ways(options, pair_options)
    if options.candidates is not None:
        input_path("--candidates", options.candidates, folder=True)
    queries = read_queries_of(options.queries, options.split, part=options.part) if options.queries else None
    qrels = read_qrels_of(options.qrels, options.split) if options.qrels else None

    from dgr_trainer.identifiers import IdentifierSettings

    indexed = index_folder(source)
    if indexed is None:
        settings = IdentifierSettings(**identifier_options.given())
    else:
        settings = indexed.settings(identifier_options)
    given = pair_options.given()
    distinctive = given.get("targets") == "distinctive"
    if distinctive and indexed is None:
        raise DGRValueError(
            f"--targets distinctive compares substrings with the corpus, but {positionals.corpus} is not the folder "
            "of an index. Give one that `dgr index` made."
        )
    identifiers = load_identifiers(model, settings)
    if options.candidates is not None:
        pairs = _of_candidates(options, given, identifiers, queries, qrels)
    else:
        index: FMIndex | None = None
        corpus = read_corpus("CORPUS", positionals.corpus)
        if distinctive and indexed is not None:
            index, _ = open_index(indexed, identifiers.fingerprint)
        pairs = generation_pairs(corpus, identifiers, queries, qrels, seed=options.seed, index=index, **given)
    if as_jsonl:
        with atomic_text(output) as file:
            for row in pairs:
                file.write(json.dumps({"input_ids": row["input_ids"], "labels": row["labels"]}) + "\n")
    else:
        with atomic_folder(output, marker=PAIRS_MARKER) as written:
            pairs.save_to_disk(str(written))
            description = {"tokenizer_fingerprint": identifiers.fingerprint, "identifiers": settings.to_dict()}
            (written / PAIRS_MARKER).write_text(json.dumps(description, indent=2) + "\n", encoding="utf-8")
    logger.info("made %s pairs: %s", f"{len(pairs):,}", output)


def _check_ways(options: PairsOptions, pair_options: PairOptions) -> None:
    """Refuse options of one way to make pairs where the other one is chosen."""
    if options.candidates is None:
        if options.identifiers_per_query is not None:
            raise DGRValueError("--identifiers_per_query goes with --candidates, of which pairs are made then.")
        return
    if options.queries is None:
        raise DGRValueError("--candidates needs the --queries and --qrels that say which of them are relevant.")
    others = [name for name in pair_options.given_names() if name != "num_proc"]
    if others:
        raise DGRValueError(
            f"--candidates: pairs are made of the student's own identifiers, so --{others[0]} has no effect. Leave "
            "one of them out."
        )
    if options.identifiers_per_query is not None and options.identifiers_per_query < 1:
        raise DGRValueError(f"--identifiers_per_query {options.identifiers_per_query} has to be at least 1.")


def _of_candidates(
    options: PairsOptions,
    given: dict[str, Any],
    identifiers: Identifiers,
    queries: Dataset | None,
    qrels: Qrels | None,
) -> Dataset:
    from dgr_trainer.candidates import Candidates

    assert options.candidates is not None and queries is not None and qrels is not None
    if options.identifiers_per_query is not None:
        given = given | {"identifiers_per_query": options.identifiers_per_query}
    candidates = Candidates.load_from_disk(options.candidates, tokenizer_fingerprint=identifiers.fingerprint)
    return pairs_from_candidates(candidates, identifiers, queries, qrels, seed=options.seed, **given)


def read_pairs(path: Path, fingerprint: str, vocab_size: int) -> Dataset:
    """Read what `dgr pairs` wrote, or another saved dataset with the columns `input_ids` and `labels`.

    Args:
        path (`pathlib.Path`): The folder or JSON Lines file.
        fingerprint (`str`): Fingerprint of the student's tokenizer.
        vocab_size (`int`): Number of its tokens.

    Raises:
        ValueError: if a column is missing, or the pairs were made with another tokenizer.
    """
    import datasets

    from dgr_trainer.files.arrow_rows import dataset_from_rows

    if path.is_dir():
        if not (path / "state.json").is_file():
            raise DGRValueError(f"--pairs: {path} is not a saved datasets.Dataset. `dgr pairs` writes one.")
        with input_errors(f"--pairs: {path} cannot be read", Exception):
            pairs = datasets.load_from_disk(str(path))
        if (path / PAIRS_MARKER).is_file():
            made_with = str(read_description(path / PAIRS_MARKER).get("tokenizer_fingerprint"))
            if made_with != fingerprint:
                raise DGRValueError(
                    f"--pairs: {path} was made with another tokenizer (fingerprint {made_with[:12]}..., the "
                    f"model's is {fingerprint[:12]}...). Make the pairs again with `dgr pairs --model` and this model."
                )
    else:
        ids = datasets.List(datasets.Value("int32"))
        features = datasets.Features({"input_ids": ids, "labels": ids})
        with undamaged(path):
            pairs = dataset_from_rows(_jsonl_rows(path), features, description="reading pairs")
    missing = {"input_ids", "labels"} - set(pairs.column_names)
    if missing:
        raise DGRValueError(f"--pairs: {path} has the columns {pairs.column_names}, but lacks {sorted(missing)}.")
    for row in pairs.select(range(min(len(pairs), 1000))):
        largest = max([*row["input_ids"], *row["labels"]], default=0)
        if largest >= vocab_size:
            raise DGRValueError(
                f"--pairs: {path} holds token id {largest}, but the model's tokenizer has {vocab_size} tokens: the "
                "pairs were made with another. Make them again with `dgr pairs --model` and this model."
            )
    return pairs


def _jsonl_rows(path: Path) -> Iterator[dict[str, Any]]:
    for number, record in json_records(path).rows:
        for name in ("input_ids", "labels"):
            ids = record.get(name)
            if not isinstance(ids, list) or not ids or not all(type(id) is int for id in ids):
                raise DGRValueError(
                    f"{line_location(path, number)}: {name} has to be a list of token ids, but is {ids!r}. `dgr "
                    "pairs` "
                    "writes such files."
                )
        yield {"input_ids": record["input_ids"], "labels": record["labels"]}
