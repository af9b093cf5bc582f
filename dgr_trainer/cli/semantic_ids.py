"""`dgr semantic_ids`: make docids of codes from the vectors of passages."""

from __future__ import annotations

import json
import logging
from argparse import Namespace
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dgr_trainer.cli.derive import LibraryOptions, derived, parameters_of
from dgr_trainer.cli.models import check_device, memory_advice
from dgr_trainer.cli.parsing import CommandParser
from dgr_trainer.cli.paths import input_path, model_name, output_folder
from dgr_trainer.cli.sources import read_corpus
from dgr_trainer.cli.tables import print_result
from dgr_trainer.errors import DGRValueError, input_errors
from dgr_trainer.files.atomic import atomic_folder
from dgr_trainer.processes import is_main_process, process_group
from dgr_trainer.semantic_ids.ids import KINDS, SemanticIds, check_count, check_settings
from dgr_trainer.semantic_ids.storage import MARKER
from dgr_trainer.teachers.bi_encoder import BiEncoderTeacher
from dgr_trainer.teachers.passage_vectors import stored_passage_vectors

if TYPE_CHECKING:
    from dgr_trainer.data.corpus import Corpus
    from dgr_trainer.semantic_ids.statistics import SemanticIdStatistics

logger = logging.getLogger(__name__)

_ENCODER = ("passage_prefix", "passage_template", "max_length", "dtype", "batch_size", "device")


@dataclass
class SourceOptions:
    """Where the vectors come from, and what is written."""

    output: str = field(
        metadata={
            "metavar": "DIR",
            "help": "Folder to write: the codes, corpus.jsonl (for `dgr index`), identifiers.jsonl (for `dgr train "
            "--identifiers`), statistics.json, and the student.",
        }
    )
    kind: str = field(
        default="residual",
        metadata={
            "help": "residual: a codebook a level; hierarchical: a tree of clusters; atomic: one token a passage.",
            "choices": list(KINDS),
        },
    )
    bi_encoder: str | None = field(
        default=None,
        metadata={"metavar": "MODEL", "help": "Encode the passages with this model: a folder or a name on the hub."},
    )
    vectors: str | None = field(
        default=None,
        metadata={
            "metavar": "PATH",
            "help": "A .npy file with a row for each passage, or a folder that a bi-encoder keeps its vectors in; "
            "with --bi_encoder, the folder to keep them in.",
        },
    )
    student: str | None = field(
        default=None,
        metadata={
            "metavar": "MODEL",
            "help": "Also write DIR/student: this model and its tokenizer, with the tokens of the codes.",
        },
    )
    pad_to_multiple_of: int | None = field(
        default=None, metadata={"help": "Make the number of the student's embeddings a multiple of this."}
    )
    overwrite: bool = field(default=False, metadata={"help": "Replace existing semantic ids."})


@derived(
    parameters_of(
        SemanticIds.fit,
        {
            "levels": "Codes of a docid; in a tree, the most.",
            "size": "Codes of a level, one number for all levels or one for each.",
            "balanced": "Let no cluster have more than its share of the passages.",
            "seed": "Seed of k-means.",
            "iterations": "Iterations of k-means.",
            "sample": "Most vectors that k-means is trained on; by default 256 for each cluster.",
            "name": "What the tokens begin with.",
        },
    )
)
class FitOptions(LibraryOptions):
    """Options of `SemanticIds.fit`."""

    _argument_group_name = "codes"

    def given(self) -> dict[str, Any]:
        """Arguments of `SemanticIds.fit` for the options that were given."""
        arguments = super().given()
        if len(arguments.get("size", ())) == 1:
            (arguments["size"],) = arguments["size"]
        return arguments


@derived(
    parameters_of(
        BiEncoderTeacher,
        {one.name: one.metadata["help"] for one in fields(BiEncoderTeacher) if one.name in _ENCODER},
        choices={one.name: one.metadata["choices"] for one in fields(BiEncoderTeacher) if "choices" in one.metadata},
    )
)
class EncoderOptions(LibraryOptions):
    """Options of `BiEncoderTeacher`."""

    _argument_group_name = "bi-encoder"


def make_parser() -> CommandParser:
    """The command line of `dgr semantic_ids`."""
    parser = CommandParser(
        [SourceOptions, FitOptions, EncoderOptions],
        command="semantic_ids",
        description="Make semantic ids: docids of codes, learnt by k-means from the vectors of the passages, so that "
        "similar passages have docids that begin alike.",
        usage="CORPUS --output DIR --vectors PATH [options]",
        example="  dgr semantic_ids corpus.jsonl --bi_encoder intfloat/e5-base-v2 \\\n"
        "      --passage_prefix 'passage: ' --student facebook/bart-base --output ids\n"
        "  dgr index ids/corpus.jsonl --model ids/student --views docid --output index\n"
        "  dgr train --stage generation --model ids/student --index index \\\n"
        "      --queries train.jsonl --qrels train.qrels --output_dir generation",
    )
    parser.add_argument("corpus", metavar="CORPUS", help="Passages, in any format that `dgr index` takes.")
    return parser


def run(options: SourceOptions, fit: FitOptions, encoder: EncoderOptions, positionals: Namespace) -> None:
    """Run `dgr semantic_ids`."""
    output = output_folder("--output", options.output, MARKER, options.overwrite)
    sizes = check_settings(options.kind, **{name: value for name, value in fit.given().items() if name in _CHECKED})
    _check(options, encoder)
    student = None if options.student is None else _load_student(model_name("--student", options.student))
    corpus = read_corpus("CORPUS", positionals.corpus)
    if options.kind != "atomic":
        check_count(len(corpus), sizes)
    given = encoder.given()
    with process_group(given.get("device")) as processes:
        vectors: Any = None
        if options.bi_encoder is not None:
            teacher = BiEncoderTeacher(
                model_name("--bi_encoder", options.bi_encoder), corpus, vectors=options.vectors, **given
            )
            with memory_advice("Lower --batch_size, or give --device cpu."):
                vectors = teacher.passage_vectors  # All processes share the work.
        elif options.vectors is not None:
            path = input_path("--vectors", options.vectors)
            vectors = stored_passage_vectors(path, corpus) if path.is_dir() else path
        if not is_main_process(processes):
            return
        if options.kind == "atomic":
            ids = SemanticIds.atomic(corpus.ids, name=fit.given().get("name", "c"))
        else:
            ids = SemanticIds.fit(vectors, corpus.ids, kind=options.kind, **fit.given())  # type: ignore[arg-type]
        statistics = ids.statistics(vectors)
        with atomic_folder(output, marker=MARKER) as folder:
            _write(folder, ids, corpus, statistics)
            if student is not None:
                _write_student(folder / "student", ids, *student, options.pad_to_multiple_of)
        print_result(str(statistics))
        logger.info("semantic ids of %s passages: %s", f"{len(ids):,}", output)


_CHECKED = ("levels", "size", "iterations", "sample", "name")


def _check(options: SourceOptions, encoder: EncoderOptions) -> None:
    given = encoder.given()
    if options.kind == "atomic":
        if options.bi_encoder is not None or options.vectors is not None:
            raise DGRValueError("--kind atomic gives each passage a token, whatever its vector. Leave vectors out.")
    elif options.bi_encoder is None and options.vectors is None:
        raise DGRValueError(
            f"--kind {options.kind} needs the vectors of the passages. Give --vectors, or a --bi_encoder that encodes "
            "them."
        )
    if options.bi_encoder is None and given:
        raise DGRValueError(f"--{next(iter(given))} is a setting of the bi-encoder, but there is no --bi_encoder.")
    if options.pad_to_multiple_of is not None and (options.student is None or options.pad_to_multiple_of < 1):
        raise DGRValueError(
            f"--pad_to_multiple_of {options.pad_to_multiple_of} is a number of embeddings of --student, at least 1."
        )
    check_device(given.get("device"))
    if options.bi_encoder is not None:
        model_name("--bi_encoder", options.bi_encoder)
    elif options.vectors is not None:
        input_path("--vectors", options.vectors)


def _load_student(name: str) -> tuple[Any, Any]:
    """A model of any architecture that generates, and its tokenizer."""
    from transformers import AutoTokenizer

    from dgr_trainer.student.students import load_student_model

    with input_errors(f"--student: {name} cannot be loaded", Exception):
        return load_student_model(name), AutoTokenizer.from_pretrained(name)


def _write(folder: Path, ids: SemanticIds, corpus: Corpus, statistics: SemanticIdStatistics) -> None:
    ids.save(folder)
    (folder / "statistics.json").write_text(json.dumps(statistics.to_dict(), indent=2) + "\n", encoding="utf-8")
    with (
        open(folder / "corpus.jsonl", "w", encoding="utf-8", newline="\n") as passages,
        open(folder / "identifiers.jsonl", "w", encoding="utf-8", newline="\n") as strings,
    ):
        for passage in corpus:
            docid = ids[passage.id]
            row = {"id": passage.id, "title": passage.title, "text": passage.text, "docid": docid}
            if passage.pseudo_queries:
                row["pseudo_queries"] = list(passage.pseudo_queries)  # type: ignore[assignment]
            passages.write(json.dumps(row, ensure_ascii=False) + "\n")
            strings.write(json.dumps({"id": passage.id, "identifier": docid}, ensure_ascii=False) + "\n")


def _write_student(folder: Path, ids: SemanticIds, model: Any, tokenizer: Any, pad_to_multiple_of: int | None) -> None:
    """The student with the tokens; beside them the semantic ids, which `dgr train` puts into the retriever."""
    from dgr_trainer.retrieval.storage import SEMANTIC_IDS

    ids.add_to(tokenizer, model, pad_to_multiple_of=pad_to_multiple_of)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    ids.save(folder / SEMANTIC_IDS)
