"""`dgr pseudo_queries`: let a model write pseudo-queries for the passages of a corpus."""

from __future__ import annotations

from argparse import Namespace
from dataclasses import dataclass, field

from dgr_trainer.cli.derive import LibraryOptions, derived, parameters_of
from dgr_trainer.cli.models import check_device, memory_advice
from dgr_trainer.cli.parsing import CommandParser
from dgr_trainer.cli.paths import model_name, output_file
from dgr_trainer.cli.settings import DeviceOptions
from dgr_trainer.cli.sources import read_corpus
from dgr_trainer.errors import DGRValueError
from dgr_trainer.processes import process_group
from dgr_trainer.query_generation import PseudoQueryGenerator


@derived(
    parameters_of(
        PseudoQueryGenerator,
        {
            "template": "What the model reads of a passage: {title}, {text}.",
            "queries_per_passage": "Queries to sample for a passage.",
            "top_k": "Sample from this many of the most probable tokens at each step.",
            "temperature": "Temperature of the sampling.",
            "max_new_tokens": "Longest query, in tokens.",
            "max_passage_tokens": "Longer passages are cut.",
            "batch_tokens": "Passage tokens in a batch.",
            "seed": "Seed of the sampling.",
        },
    )
)
class GenerationOptions(LibraryOptions):
    """Options of `PseudoQueryGenerator`."""

    _argument_group_name = "generation"


@dataclass
class OutputOptions:
    """The model, the output, and which queries are kept."""

    model: str = field(
        metadata={"metavar": "MODEL", "help": "A sequence-to-sequence model: a folder, or a name on the hub."}
    )
    output: str = field(
        metadata={"metavar": "FILE", "help": "File to write (.jsonl). After an interruption the same command resumes."}
    )
    round_trip: int = field(
        default=0,
        metadata={"help": "Keep a query only if BM25 ranks its passage this high or higher; 0 keeps all."},
    )


def make_parser() -> CommandParser:
    """The command line of `dgr pseudo_queries`."""
    parser = CommandParser(
        [OutputOptions, GenerationOptions, DeviceOptions],
        command="pseudo_queries",
        description="Let a model write queries that the passages of a corpus answer; `dgr index --pseudo_queries` "
        "takes them.",
        usage="CORPUS --model MODEL --output FILE [options]",
        example="  dgr pseudo_queries corpus.jsonl --model castorini/doc2query-t5-base-msmarco \\\n"
        "      --round_trip 10 --output pseudo-queries.jsonl",
    )
    parser.add_argument("corpus", metavar="CORPUS", help="Passages, in any format that `dgr index` takes.")
    return parser


def run(options: OutputOptions, generation: GenerationOptions, device: DeviceOptions, positionals: Namespace) -> None:
    """Run `dgr pseudo_queries`."""
    if options.round_trip < 0:
        raise DGRValueError(f"--round_trip {options.round_trip}: give a number of passages, or 0 to keep all queries.")
    output = output_file("--output", options.output, overwrite=None, compressed=False)
    model = model_name("--model", options.model)
    check_device(device.device)
    corpus = read_corpus("CORPUS", positionals.corpus)
    searcher = None
    if options.round_trip:
        from dgr_trainer.teachers.bm25 import BM25Teacher

        searcher = BM25Teacher(corpus, progress=False)
    with process_group(device.device) as processes:
        used = device.device or (None if processes is None else str(processes.device))
        generator = PseudoQueryGenerator(model, **generation.given(), device=used, dtype=device.dtype)
        with memory_advice("Lower --batch_tokens or --queries_per_passage, or give --device cpu."):
            generator.generate(
                corpus, output, round_trip=searcher, round_trip_k=options.round_trip or 1, accelerator=processes
            )
