"""`dgr pull`: download a retriever from the Hugging Face Hub."""

from __future__ import annotations

import logging
from argparse import Namespace
from dataclasses import dataclass, field

from dgr_trainer.cli.parsing import CommandParser
from dgr_trainer.cli.paths import output_folder
from dgr_trainer.cli.sources import RETRIEVER_MARKER
from dgr_trainer.processes import require_single_process

logger = logging.getLogger(__name__)


@dataclass
class PullOptions:
    """Options of `dgr pull`."""

    revision: str | None = field(
        default=None, metadata={"metavar": "NAME", "help": "Branch, tag or commit; by default main."}
    )
    overwrite: bool = field(default=False, metadata={"help": "Replace a retriever that is in the folder."})


def make_parser() -> CommandParser:
    """The command line of `dgr pull`."""
    parser = CommandParser(
        [PullOptions],
        command="pull",
        description="Download a retriever from the Hugging Face Hub to a folder, which appears when it is complete. "
        "After an interruption, the same command goes on with the files that are missing.",
        usage="REPOSITORY FOLDER [options]",
        example='  dgr pull me/my-retriever retriever\n  dgr search retriever "who discovered penicillin"',
    )
    parser.add_argument("repository", metavar="REPOSITORY", help="Name on the Hub: user/name.")
    parser.add_argument("folder", metavar="FOLDER", help="The folder to write.")
    return parser


def run(options: PullOptions, positionals: Namespace) -> None:
    """Run `dgr pull`."""
    from dgr_trainer.hub.repositories import HubRepository
    from dgr_trainer.retrieval.hub import pull_retriever

    require_single_process("dgr pull")
    folder = output_folder("FOLDER", positionals.folder, RETRIEVER_MARKER, options.overwrite)
    pull_retriever(HubRepository(positionals.repository, options.revision), folder)
    logger.info("downloaded %s: %s", positionals.repository, folder)
