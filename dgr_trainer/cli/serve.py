"""`dgr serve`: an HTTP API and a page to search with a retriever, or to compare it with something else."""

from __future__ import annotations

import functools
import logging
import os
import threading
from argparse import Namespace
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dgr_trainer.cli.derive import LibraryOptions, derived, settings_of
from dgr_trainer.cli.main import INTERRUPTED
from dgr_trainer.cli.models import check_device, check_retriever, load_retriever
from dgr_trainer.cli.parsing import CommandParser
from dgr_trainer.cli.paths import input_path
from dgr_trainer.cli.settings import DeviceOptions, SearchOptions
from dgr_trainer.cli.sources import check_split, read_corpus, read_queries_of, read_run, run_names
from dgr_trainer.cli.teachers import TEACHERS, TeacherOptions, given_options, make_teacher
from dgr_trainer.errors import DGRValueError
from dgr_trainer.files.compression import name_as_text
from dgr_trainer.serving.settings import ServeSettings

if TYPE_CHECKING:
    from dgr_trainer.serving.systems import System

TOKEN_VARIABLE = "DGR_SERVE_TOKEN"
_USUAL_NAME = "retriever"


@dataclass
class ServeCommandOptions:
    """Options of `dgr serve`."""

    corpus: str | None = field(
        default=None,
        metadata={"metavar": "PATH", "help": "The texts, if they are not saved with the retriever."},
    )
    names: list[str] | None = field(
        default=None,
        metadata={"metavar": "NAME", "help": "What the page calls what it shows; by default names of folders."},
    )
    run: str | None = field(
        default=None,
        metadata={"metavar": "FILE", "help": "Show the lists of this run beside the retriever's; needs --queries."},
    )
    queries: str | None = field(
        default=None, metadata={"metavar": "PATH", "help": "The queries of --run, which the page suggests."}
    )
    split: str | None = field(
        default=None, metadata={"metavar": "NAME", "help": "Split of a BEIR folder, such as test."}
    )
    teacher: str | None = field(
        default=None,
        metadata={"help": "Show what this teacher finds beside the retriever.", "choices": tuple(TEACHERS)},
    )
    teacher_config: str | None = field(
        default=None,
        metadata={"metavar": "FILE", "help": "YAML file of the teacher's options, those of `dgr rank`."},
    )
    token_file: str | None = field(
        default=None,
        metadata={
            "metavar": "FILE",
            "help": f"File with the token that requests have to send; or set the variable {TOKEN_VARIABLE}.",
        },
    )


@derived(settings_of(ServeSettings, leave_out=("token",)))
class ServerOptions(LibraryOptions):
    """Options of `ServeSettings`."""

    _argument_group_name = "server"


def make_parser() -> CommandParser:
    """The command line of `dgr serve`."""
    parser = CommandParser(
        [ServeCommandOptions, ServerOptions, SearchOptions, DeviceOptions],
        command="serve",
        description="Serve a retriever on this machine: a page to search with, and an HTTP API. A second retriever, a "
        "run or a teacher is shown beside it.",
        usage="RETRIEVER [RETRIEVER2] [options]",
        example="  dgr serve distilled/retriever\n"
        "  dgr serve generation/retriever distilled/retriever --port 8080\n"
        "  dgr serve distilled/retriever --teacher bm25",
    )
    parser.add_argument("retriever", metavar="RETRIEVER", nargs="+", help="Folder of a retriever; of two at most.")
    return parser


def run(
    options: ServeCommandOptions,
    server: Any,
    search: SearchOptions,
    device: DeviceOptions,
    positionals: Namespace,
) -> None:
    """Run `dgr serve`."""
    from dgr_trainer.serving.server import serve

    given = server.given()
    if "allowed_hosts" in given:
        given["allowed_hosts"] = tuple(given["allowed_hosts"])
    settings = ServeSettings(**given, token=_token(options.token_file))
    _check(options, positionals.retriever)
    folders = [check_retriever(path, search) for path in positionals.retriever]
    if len({folder.resolve() for folder in folders}) < len(folders):
        raise DGRValueError("A retriever is given twice. Give two different ones, or one.")
    check_device(device.device)
    corpus = None if options.corpus is None else read_corpus("--corpus", options.corpus)
    loads = [_once(functools.partial(_load, folder, corpus, search, device)) for folder in folders]
    beside = _beside(options, corpus, loads[0])
    loads += [] if beside is None else [beside]
    if serve(dict(zip(_names(options, folders), loads, strict=True)), settings):
        # Python would tear down the libraries under the thread.
        logging.shutdown()
        os._exit(INTERRUPTED)


def _check(options: ServeCommandOptions, retrievers: Sequence[str]) -> None:
    if len(retrievers) > 2:
        raise DGRValueError(f"{len(retrievers)} retrievers are given, but two at most are shown side by side.")
    beside = {"RETRIEVER2": len(retrievers) > 1, "--run": options.run is not None, "--teacher": bool(options.teacher)}
    chosen = [name for name, is_given in beside.items() if is_given]
    if len(chosen) > 1:
        raise DGRValueError(f"{' and '.join(chosen)} are given, but only one is shown beside the retriever.")
    if (options.run is None) != (options.queries is None):
        raise DGRValueError("--run and --queries go together: a run names queries by ids. Give both or neither.")
    if options.teacher_config is not None and options.teacher is None:
        raise DGRValueError("--teacher_config has the options of a teacher. Say which with --teacher.")
    check_split(options.split, options.queries)


def _load(folder: Path, corpus: Any, search: SearchOptions, device: DeviceOptions) -> System:
    from dgr_trainer.serving.systems import RetrieverSystem

    return RetrieverSystem(load_retriever(folder, search, device), corpus)


def _beside(options: ServeCommandOptions, corpus: Any, retriever: Callable[[], System]) -> Callable[[], System] | None:
    """What makes the run or the teacher that is shown beside the retriever."""
    from dgr_trainer.serving.systems import RetrieverSystem, RunSystem, TeacherSystem

    if options.run is not None and options.queries is not None:
        from dgr_trainer.data.queries import queries_mapping

        queries = queries_mapping(read_queries_of(options.queries, options.split))
        run = RunSystem(read_run("--run", options.run), queries)
        return lambda: run
    if options.teacher is None:
        return None
    name = options.teacher
    config = [] if options.teacher_config is None else ["--config", options.teacher_config]
    parsed, _ = CommandParser([TeacherOptions], command="serve").parse(config)
    given = given_options(parsed, name)

    def load() -> System:
        system = retriever()
        assert isinstance(system, RetrieverSystem)
        texts = corpus or system.corpus
        if texts is None and not {"lucene_index", "prebuilt"} & set(given):
            raise DGRValueError(f"--teacher {name} needs the texts, which the retriever lacks. Give --corpus.")
        teacher = make_teacher(name, texts, given)
        if hasattr(teacher, "progress"):
            teacher.progress = False
        return TeacherSystem(teacher, system.retriever if TEACHERS[name].teacher.needs_candidates else None)

    return load


def _names(options: ServeCommandOptions, folders: Sequence[Path]) -> list[str]:
    """Names of what is shown: as given, or the last parts of the folders in which they differ."""
    count = len(folders) + (options.run is not None or options.teacher is not None)
    if options.names is not None:
        if len(options.names) != count or len(set(options.names)) != count or not all(map(str.strip, options.names)):
            raise DGRValueError(f"--names {' '.join(options.names)} has to be {count} different names.")
        return options.names
    beside = [] if count == len(folders) else [options.teacher or run_names([Path(str(options.run))])[0]]
    names = [*_folder_names(folders), *beside]
    return names if len(set(names)) == count else [f"{name} [{number}]" for number, name in enumerate(names, start=1)]


def _folder_names(folders: Sequence[Path]) -> list[str]:
    """For each folder, the last part of its path that is not in the paths of the others, too."""
    parts = [[part for part in folder.resolve().parts if part != _USUAL_NAME] or [_USUAL_NAME] for folder in folders]
    while len(parts) > 1 and len({part[-1] for part in parts}) == 1 and all(len(part) > 1 for part in parts):
        parts = [part[:-1] for part in parts]
    return [name_as_text(part[-1]) for part in parts]


def _once(load: Callable[[], System]) -> Callable[[], System]:
    """Load at the first call; the others, also those of other threads, get the same."""
    lock, loaded = threading.Lock(), functools.cache(load)

    def locked() -> System:
        with lock:
            return loaded()

    return locked


def _token(path: str | None) -> str | None:
    if path is None:
        return os.environ.get(TOKEN_VARIABLE) or None
    file = input_path("--token_file", path, folder=False)
    try:
        token = file.read_text(encoding="utf-8").strip()
    except UnicodeDecodeError as error:
        raise DGRValueError(
            f"--token_file: {path} is not UTF-8 ({error.reason}). Write a token of letters and digits into it."
        ) from error
    if not token:
        raise DGRValueError(f"--token_file: {path} is empty. Write a token into it.")
    return token
