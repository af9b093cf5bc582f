"""`dgr push`: upload a retriever to the Hugging Face Hub."""

from __future__ import annotations

import logging
from argparse import Namespace
from dataclasses import dataclass, field

from dgr_trainer.cli.parsing import CommandParser
from dgr_trainer.cli.paths import input_path
from dgr_trainer.processes import require_single_process

logger = logging.getLogger(__name__)


@dataclass
class PushOptions:
    """Options of `dgr push`."""

    license: str | None = field(
        default=None,
        metadata={
            "metavar": "ID",
            "help": "Licence of the model, such as apache-2.0; unknown if it is not decided. Needed the first time.",
        },
    )
    metrics: str | None = field(
        default=None,
        metadata={
            "metavar": "FILE",
            "help": "Numbers for the model card: JSON with a value for each metric, or what `dgr evaluate --json` "
            "prints.",
        },
    )
    evaluated_on: str | None = field(
        default=None, metadata={"metavar": "NAME", "help": "With --metrics: the data set that they were measured on."}
    )
    metrics_run: str | None = field(
        default=None,
        metadata={"metavar": "NAME", "help": "With --metrics of several runs: the run of this retriever."},
    )
    datasets: list[str] = field(
        default_factory=list, metadata={"help": "Data sets that it was trained on, by their names on the Hub."}
    )
    language: list[str] = field(default_factory=list, metadata={"help": "Languages of the passages, such as en."})
    tags: list[str] = field(default_factory=list, metadata={"help": "Further tags of the model."})
    base_model: str | None = field(
        default=None,
        metadata={"metavar": "NAME", "help": "Name on the Hub of the model that it was trained from."},
    )
    include_corpus: bool = field(default=False, metadata={"help": "Upload the passages, too."})
    private: bool = field(default=False, metadata={"help": "Make a private repository, if it does not exist."})
    revision: str | None = field(
        default=None, metadata={"metavar": "BRANCH", "help": "Branch to upload to; made if it does not exist."}
    )
    commit_message: str | None = field(default=None, metadata={"help": "Message of the commit."})
    create_pr: bool = field(default=False, metadata={"help": "Open a pull request instead."})


def make_parser() -> CommandParser:
    """The command line of `dgr push`."""
    parser = CommandParser(
        [PushOptions],
        command="push",
        description="Upload a retriever to the Hugging Face Hub, with a model card. What the repository has already "
        "is not sent again. Log in before with `hf auth login`, or set HF_TOKEN.",
        usage="FOLDER REPOSITORY [options]",
        example="  dgr push distilled/retriever me/my-retriever --license apache-2.0\n"
        "  dgr evaluate dgr.trec --qrels test.qrels --json > metrics.json\n"
        "  dgr push distilled/retriever me/my-retriever --metrics metrics.json \\\n"
        "      --evaluated_on BeIR/nq",
    )
    parser.add_argument("folder", metavar="FOLDER", help="Folder of a retriever.")
    parser.add_argument("repository", metavar="REPOSITORY", help="Name on the Hub: user/name.")
    return parser


def run(options: PushOptions, positionals: Namespace) -> None:
    """Run `dgr push`."""
    from dgr_trainer.hub.repositories import HubRepository
    from dgr_trainer.retrieval.hub import COMMIT_MESSAGE, CardOptions, CommitOptions, push_folder

    require_single_process("dgr push")
    folder = input_path("FOLDER", positionals.folder, folder=True)
    if options.metrics is not None:
        input_path("--metrics", options.metrics, folder=False)
    card = CardOptions(
        license=options.license,
        metrics=options.metrics,
        evaluated_on=options.evaluated_on,
        metrics_run=options.metrics_run,
        datasets=options.datasets,
        language=options.language,
        tags=options.tags,
        base_model=options.base_model,
    )
    commit = CommitOptions(
        include_corpus=options.include_corpus,
        private=options.private or None,
        commit_message=options.commit_message or COMMIT_MESSAGE,
        create_pr=options.create_pr,
    )
    made = push_folder(folder, HubRepository(positionals.repository, options.revision), card, commit)
    logger.info("uploaded: %s", made.pr_url or made.commit_url)
