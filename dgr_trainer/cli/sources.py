"""What subcommands read: folders of indexes and retrievers, corpora, queries, qrels, runs, identifier strings."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from dgr_trainer.cli.paths import input_path
from dgr_trainer.cli.settings import DeviceOptions, IdentifierOptions, SearchOptions
from dgr_trainer.errors import DGRValueError
from dgr_trainer.files.atomic import read_folder
from dgr_trainer.files.compression import plain_name
from dgr_trainer.files.lines import file_kind, json_lines, line_location, numbered_lines

if TYPE_CHECKING:
    from accelerate import PartialState
    from datasets import Dataset

    from dgr_trainer.data.corpus import Corpus
    from dgr_trainer.data.queries import Qrels
    from dgr_trainer.identifiers import Identifiers, IdentifierSettings
    from dgr_trainer.index import FMIndex
    from dgr_trainer.retrieval.retriever import GenerativeRetriever
    from dgr_trainer.runs.rankings import Rankings

logger = logging.getLogger(__name__)

INDEX_MARKER = "index.json"
SETTINGS_FILE = "identifiers.json"
RETRIEVER_MARKER = "retriever.json"


class IndexFolder(NamedTuple):
    """What a folder of `dgr index`, or of a retriever, holds beside the model."""

    root: Path
    marker: str
    path: Path
    corpus: Path | None
    description: dict[str, Any]

    def settings(self, options: IdentifierOptions) -> IdentifierSettings:
        """Settings of identifiers that the index was made with. Options that say otherwise are refused."""
        from dgr_trainer.identifiers import IdentifierSettings

        given = options.given()
        if "identifiers" not in self.description:
            logger.warning(
                "%s does not say with which views and markers it was made (it has no %s); taken are %s.",
                self.path,
                SETTINGS_FILE,
                "those of the options" if given else "the defaults",
            )
            return IdentifierSettings(**given)
        saved = IdentifierSettings.from_dict(self.description["identifiers"])
        wanted = IdentifierSettings.from_dict({**saved.to_dict(), **given})
        different = [name for name in given if getattr(wanted, name) != getattr(saved, name)]
        if different:
            raise DGRValueError(
                f"The index at {self.path} was made with {different[0]}={getattr(saved, different[0])!r}, not "
                f"{getattr(wanted, different[0])!r}. Leave the option out, or index the corpus again with it."
            )
        return saved


def index_folder(path: Path) -> IndexFolder | None:
    """What `path` holds if it is a folder of `dgr index`, an index that was saved, or a retriever; else `None`."""
    corpus = path / "corpus" if (path / "corpus" / "corpus.json").is_file() else None
    if (path / RETRIEVER_MARKER).is_file():
        description = json.loads((path / RETRIEVER_MARKER).read_text(encoding="utf-8"))
        return IndexFolder(path, RETRIEVER_MARKER, path / "index", corpus, description)
    if (path / INDEX_MARKER).is_file():
        beside = path / SETTINGS_FILE
        description = json.loads(beside.read_text(encoding="utf-8")) if beside.is_file() else {}
        return IndexFolder(path, INDEX_MARKER, path, corpus, description)
    return None


def open_index(found: IndexFolder, fingerprint: str | None = None) -> tuple[FMIndex, Corpus | None]:
    """Open an index and the corpus beside it, which belong together even if others change them at this moment."""
    from dgr_trainer.data.corpus import Corpus
    from dgr_trainer.index import FMIndex

    return read_folder(
        found.root,
        lambda _: (
            FMIndex.load(found.path, tokenizer_fingerprint=fingerprint),
            None if found.corpus is None else Corpus.load_from_disk(found.corpus),
        ),
    )


def needed_index(option: str, path: str) -> IndexFolder:
    """What the folder of an index or a retriever holds. Raises `ValueError` if it is neither."""
    folder = input_path(option, path, folder=True)
    found = index_folder(folder)
    if found is None:
        raise DGRValueError(
            f"{option}: {path} holds neither an index ({INDEX_MARKER}) nor a retriever ({RETRIEVER_MARKER}). "
            "Make an index with `dgr index`."
        )
    return found


def read_corpus(option: str, path: str) -> Corpus:
    """Read a corpus, or the one in the folder of an index or a retriever."""
    from dgr_trainer.data.corpus import Corpus

    place = input_path(option, path)
    found = index_folder(place) if place.is_dir() else None
    if found is None:
        return Corpus.read(place)
    if found.corpus is None:
        raise DGRValueError(f"{option}: {path} holds an index without its corpus. Give the corpus itself.")
    return Corpus.load_from_disk(found.corpus)


def read_queries_of(path: str, split: str | None, option: str = "--queries") -> Dataset:
    """Read queries from a file, or from a split of a BEIR folder."""
    from dgr_trainer.data.queries import read_queries

    return read_queries(input_path(option, path), split if Path(path).is_dir() else None)


def read_qrels_of(path: str, split: str | None, option: str = "--qrels") -> Qrels:
    """Read qrels from a file, or from a split of a BEIR folder."""
    from dgr_trainer.data.queries import read_qrels

    return read_qrels(input_path(option, path), split if Path(path).is_dir() else None)


def check_split(split: str | None, *paths: str | None) -> None:
    """Raise a `ValueError` if a split is named, but none of the paths is a folder with splits."""
    if split is not None and not any(path is not None and Path(path).is_dir() for path in paths):
        raise DGRValueError(f"--split {split} chooses in a BEIR folder, but only files are given. Leave it out.")


def read_run(option: str, path: str) -> Rankings:
    """Read a run of ours or of another system: TREC, JSON or a table by its name, a saved dataset, or `hf:NAME`."""
    from dgr_trainer.runs import reading

    return reading.read_run(input_path(option, path))


def run_names(paths: Sequence[Path]) -> list[str]:
    """Names of runs: as much of their path as tells them apart."""
    if len({path.resolve() for path in paths}) < len(paths):
        raise DGRValueError("A run is given twice. Give each once.")
    stems = [plain_name(path).rsplit(".", 1)[0] or path.name for path in paths]
    return stems if len(set(stems)) == len(stems) else [str(path) for path in paths]


def write_run(rankings: Rankings, path: Path) -> None:
    """Write a run as [`read_run`] reads it."""
    from dgr_trainer.runs import reading

    reading.write_run(rankings, path)


def read_identifier_strings(option: str, path: str) -> dict[str, str]:
    """Read one identifier string a passage: JSON Lines with `id` and `identifier`, or two columns (tab-separated).

    Raises:
        ValueError: if a line is malformed, an id occurs twice, or there is none.
    """
    from dgr_trainer.data.ids import as_id

    file = input_path(option, path, folder=False)
    strings: dict[str, str] = {}
    rows = _identifier_rows(file)
    for number, passage_id, string in rows:
        where = line_location(path, number)
        key = as_id(passage_id, "passage", where)
        if not isinstance(string, str) or not string.strip():
            raise DGRValueError(f"{where}: the identifier of passage {key!r} is {string!r}. It needs a text.")
        if strings.setdefault(key, string) != string:
            raise DGRValueError(f"{where}: passage {key!r} has a second identifier. Keep one of the two.")
    if not strings:
        raise DGRValueError(f"{option}: {path} is empty.")
    return strings


def _identifier_rows(file: Path) -> Any:
    if file_kind(file) == "jsonl":
        for number, record in json_lines(file):
            id = record.get("id", record.get("_id"))
            if id is None or "identifier" not in record:
                raise DGRValueError(
                    f"{line_location(file, number)}: a line needs 'id' and 'identifier'; found are {sorted(record)}."
                )
            yield number, id, record["identifier"]
        return
    for number, line in numbered_lines(file):
        cells = line.split("\t")
        if len(cells) != 2:
            raise DGRValueError(
                f"{line_location(file, number)}: {len(cells)} columns, but two are expected: passage id and "
                "identifier, separated by a tab."
            )
        yield number, *cells


def load_tokenizer(name: str) -> Any:
    """The tokenizer of a model."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(name)


def make_identifiers(tokenizer: Any, settings: IdentifierSettings) -> Identifiers:
    """Identifiers of a tokenizer."""
    from dgr_trainer.identifiers import Identifiers

    return Identifiers(tokenizer, settings)


def load_retriever(
    path: Path, search: SearchOptions, device: DeviceOptions, processes: PartialState | None = None
) -> GenerativeRetriever:
    """Load a retriever onto a device, with the search settings that were given in place of its own."""
    import dataclasses

    import torch
    from transformers.utils import logging as transformers_logging

    from dgr_trainer.retrieval.retriever import GenerativeRetriever

    transformers_logging.disable_progress_bar()
    retriever = GenerativeRetriever.from_pretrained(path, dtype=getattr(torch, device.dtype))
    model: torch.nn.Module = retriever.model
    own = ("cuda" if torch.cuda.is_available() else "cpu") if processes is None else processes.device
    model.to(device.device or own)
    retriever.settings = dataclasses.replace(retriever.settings, **search.given())
    return retriever


def check_retriever(path: str, search: SearchOptions) -> Path:
    """The folder of a retriever, after a look at it and at the search settings."""
    from dgr_trainer.retrieval.settings import SearchSettings

    folder = input_path("RETRIEVER", path, folder=True)
    if not (folder / RETRIEVER_MARKER).is_file():
        raise FileNotFoundError(
            f"{path} is no folder of a retriever: it has no {RETRIEVER_MARKER}. `dgr train --index ...` writes "
            "one, and so does GenerativeRetriever.save_pretrained."
        )
    SearchSettings(**search.given())
    return folder
