"""`dgr pseudo_queries`: corpus to pseudo-queries, written by a model."""

from __future__ import annotations

from argparse import Namespace
from dataclasses import dataclass, field, fields

from dgr_trainer.cli.parsing import CommandParser
from dgr_trainer.cli.paths import model_name, output_file
from dgr_trainer.cli.settings import DeviceOptions
from dgr_trainer.cli.sources import read_corpus
from dgr_trainer.errors import DGRValueError
from dgr_trainer.processes import require_single_process


@dataclass
class GenerationOptions:
    """Options of `PseudoQueryGenerator`."""

    _argument_group_name = "generation"

    template: str = field(default="{text}", metadata={"help": "What the model reads of a passage: {title}, {text}."})
    queries_per_passage: int = field(default=5, metadata={"help": "Queries to sample for a passage."})
    top_k: int = field(default=10, metadata={"help": "Tokens to sample from, at each step."})
    temperature: float = field(default=1.0, metadata={"help": "Of the sampling."})
    max_new_tokens: int = field(default=64, metadata={"help": "Longest query."})
    max_passage_tokens: int = field(default=512, metadata={"help": "Longer passages are cut."})
    batch_tokens: int = field(default=8192, metadata={"help": "Passage tokens in a batch."})
    seed: int = field(default=42, metadata={"help": "Of the sampling."})


@dataclass
class OutputOptions:
    """What is read and written."""

    model: str = field(
        metadata={"metavar": "MODEL", "help": "A sequence-to-sequence model: a folder, or a name on the hub."}
    )
    output: str = field(
        metadata={"metavar": "FILE", "help": "File to write (.jsonl). The same command goes on after an interruption."}
    )
    round_trip: int = field(
        default=0,
        metadata={"help": "Keep a query only if BM25 finds its passage among the first so many; 0 keeps all."},
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
    require_single_process("dgr pseudo_queries")
    if options.round_trip < 0:
        raise DGRValueError(f"--round_trip {options.round_trip}: give a number of passages, or 0 to keep all queries.")
    output = output_file("--output", options.output, overwrite=False, compressed=False)
    model = model_name("--model", options.model)
    corpus = read_corpus("CORPUS", positionals.corpus)
    searcher = None
    if options.round_trip:
        from dgr_trainer.teachers.bm25 import BM25Teacher

        searcher = BM25Teacher(corpus, progress=False)
    from dgr_trainer.query_generation import PseudoQueryGenerator

    settings = {one.name: getattr(generation, one.name) for one in fields(generation)}
    generator = PseudoQueryGenerator(model, **settings, device=device.device, dtype=device.dtype)
    generator.generate(corpus, output, round_trip=searcher, round_trip_k=options.round_trip or 1)
