"""Inputs that several subcommands read: folders of indexes, corpora, queries, qrels, runs, identifier strings."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from dgr_trainer.cli.paths import input_path
from dgr_trainer.errors import DGRValueError, input_errors
from dgr_trainer.files.atomic import read_folder, with_own_name
from dgr_trainer.files.compression import name_as_text, plain_name, undamaged
from dgr_trainer.files.lines import line_location, numbered_lines

if TYPE_CHECKING:
    from datasets import Dataset

    from dgr_trainer.cli.settings import IdentifierOptions
    from dgr_trainer.data.corpus import Corpus
    from dgr_trainer.data.queries import Qrels
    from dgr_trainer.identifiers import IdentifierSettings
    from dgr_trainer.index import FMIndex
    from dgr_trainer.runs.rankings import Rankings

logger = logging.getLogger(__name__)

INDEX_MARKER = "index.json"
SETTINGS_FILE = "identifiers.json"
RETRIEVER_MARKER = "retriever.json"
PART_HELP = "Part of the queries, by a hash of their ids: 1/2 and 2/2 are two halves."


class IndexFolder(NamedTuple):
    """The folder of an index, or of a retriever.

    Args:
        root (`pathlib.Path`): The folder.
        marker (`str`): The file by which its kind is known.
        path (`pathlib.Path`): The index in it, or the folder itself.
        corpus (`pathlib.Path`, *optional*): The corpus in it.
        description (`dict[str, Any]`): Settings that were saved with it.
    """

    root: Path
    marker: str
    path: Path
    corpus: Path | None
    description: dict[str, Any]

    def settings(self, options: IdentifierOptions) -> IdentifierSettings:
        """Settings of identifiers that the index was made with. Raises a `ValueError` if options differ from them."""
        from dgr_trainer.identifiers import IdentifierSettings

        given = options.given()
        if "identifiers" not in self.description:
            logger.warning(
                "%s has no %s, which says with which views and markers it was made; using %s.",
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
    """The folder at `path` if it holds an index or a retriever; otherwise `None`.

    Raises:
        ValueError: if its description is damaged.
    """
    corpus = path / "corpus" if (path / "corpus" / "corpus.json").is_file() else None
    if (path / RETRIEVER_MARKER).is_file():
        return IndexFolder(path, RETRIEVER_MARKER, path / "index", corpus, read_description(path / RETRIEVER_MARKER))
    if (path / INDEX_MARKER).is_file():
        settings = path / SETTINGS_FILE
        return IndexFolder(path, INDEX_MARKER, path, corpus, read_description(settings) if settings.is_file() else {})
    return None


def read_description(file: Path) -> dict[str, Any]:
    """Read the JSON file that describes what a folder holds. Raises a `ValueError` if it is damaged."""
    with input_errors(f"{file} is damaged", ValueError):
        description = json.loads(file.read_text(encoding="utf-8"))
    if not isinstance(description, dict):
        raise DGRValueError(f"{file} is damaged: it holds a {type(description).__name__}, but an object is needed.")
    return description


def open_index(folder: IndexFolder, fingerprint: str | None = None) -> tuple[FMIndex, Corpus | None]:
    """Open an index and its corpus, in one consistent version even while another process changes them."""
    from dgr_trainer.data.corpus import Corpus
    from dgr_trainer.index import FMIndex

    return read_folder(
        folder.root,
        lambda _: (
            FMIndex.load(folder.path, tokenizer_fingerprint=fingerprint),
            None if folder.corpus is None else Corpus.load_from_disk(folder.corpus),
        ),
    )


def needed_index(option: str, path: str) -> IndexFolder:
    """The folder of an index or a retriever. Raises a `ValueError` if it is neither."""
    folder = index_folder(with_own_name(input_path(option, path, folder=True)))
    if folder is None:
        raise DGRValueError(
            f"{option}: {path} holds neither an index ({INDEX_MARKER}) nor a retriever ({RETRIEVER_MARKER}). "
            "Make an index with `dgr index`."
        )
    return folder


def read_corpus(option: str, path: str) -> Corpus:
    """Read a corpus, or the one in the folder of an index or a retriever."""
    from dgr_trainer.data.corpus import Corpus

    source = input_path(option, path)
    folder = index_folder(source) if source.is_dir() else None
    if folder is None:
        return Corpus.read(source)
    if folder.corpus is None:
        raise DGRValueError(f"{option}: {path} holds an index without its corpus. Give the corpus itself.")
    return Corpus.load_from_disk(folder.corpus)


def read_queries_of(path: str, split: str | None, option: str = "--queries", part: str | None = None) -> Dataset:
    """Read queries from a file, or from a split of a BEIR folder; all of them, or a part such as `1/2`."""
    from dgr_trainer.data.queries import read_queries
    from dgr_trainer.data.query_splits import split_queries

    number, parts = (1, 1) if part is None else _part(part)
    queries = read_queries(input_path(option, path), split if Path(path).is_dir() else None)
    if parts == 1:
        return queries
    with input_errors(f"--part {part}", ValueError):
        return split_queries(queries, parts)[number - 1]


def check_part(part: str | None, queries: str | None) -> None:
    """Raise a `ValueError` if a part of queries is no part, or there are no queries."""
    if part is None:
        return
    _part(part)
    if queries is None:
        raise DGRValueError(
            f"--part {part} is a part of queries, but there are none. Give --queries, or leave it out."
        )


def _part(part: str) -> tuple[int, int]:
    """Number of a part, from 1, and number of parts."""
    number, _, parts = part.partition("/")
    if number.isdecimal() and parts.isdecimal() and 1 <= int(number) <= int(parts) and int(parts) >= 2:
        return int(number), int(parts)
    raise DGRValueError(f"--part {part} is no part of queries. Give 1/2 for the first of two, for example.")


def read_qrels_of(path: str, split: str | None, option: str = "--qrels") -> Qrels:
    """Read qrels from a file, or from a split of a BEIR folder."""
    from dgr_trainer.data.queries import read_qrels

    return read_qrels(input_path(option, path), split if Path(path).is_dir() else None)


def check_split(split: str | None, *paths: str | None) -> None:
    """Raise a `ValueError` if a split is named, but none of the paths is a folder with splits."""
    if split is not None and not any(path is not None and Path(path).is_dir() for path in paths):
        raise DGRValueError(f"--split {split} selects from a BEIR folder, but only files are given. Leave it out.")


def read_run(option: str, path: str) -> Rankings:
    """Read a run: TREC, JSON or a table, according to its name; a saved dataset; or `hf:NAME`."""
    from dgr_trainer.runs import reading

    return reading.read_run(input_path(option, path))


def run_names(paths: Sequence[Path]) -> list[str]:
    """Names of runs: their file names without the ending, or their paths where these are equal."""
    if len({path.resolve() for path in paths}) < len(paths):
        raise DGRValueError("A run is given twice. Give each once.")
    stems = [name_as_text(plain_name(path).rsplit(".", 1)[0] or path.name) for path in paths]
    for names in (stems, [name_as_text(path) for path in paths]):
        if len(set(names)) == len(names):
            return names
    return [f"{name} [{number}]" for number, name in enumerate(stems, start=1)]


def write_run(rankings: Rankings, path: Path) -> None:
    """Write a run as [`read_run`] reads it."""
    from dgr_trainer.runs import reading

    reading.write_run(rankings, path)


def read_identifier_strings(option: str, path: str) -> dict[str, str]:
    """Read one identifier string per passage: records with `id` and `identifier`, or two columns with a tab.

    Raises:
        ValueError: if a line is malformed, a passage has two identifiers, or the file is empty.
    """
    from dgr_trainer.data.ids import as_id
    from dgr_trainer.data.texts import as_text

    file = input_path(option, path, folder=False)
    strings: dict[str, str] = {}
    with undamaged(file):
        for where, passage_id, string in _identifier_rows(file):
            key = as_id(passage_id, "passage", where)
            if not isinstance(string, str) or not string.strip():
                raise DGRValueError(f"{where}: the identifier of passage {key!r} is {string!r}. Give it some text.")
            as_text(string, f"identifier of passage {key!r}", where)
            if strings.setdefault(key, string) != string:
                raise DGRValueError(f"{where}: passage {key!r} has a second identifier. Keep one of the two.")
    if not strings:
        raise DGRValueError(f"{option}: {path} is empty.")
    return strings


def _identifier_rows(path: Path) -> Iterator[tuple[str, Any, Any]]:
    """Location, passage id and identifier of each line."""
    from dgr_trainer.data.columns import PASSAGE_COLUMNS, header_columns
    from dgr_trainer.data.record_fields import record_fields
    from dgr_trainer.data.sources import FileSource

    usual = {"id": PASSAGE_COLUMNS["id"], "identifier": ("identifier",)}
    needed = (("id",), ("identifier",))
    file = FileSource(path)
    if file.holds_records:
        records = file.records()
        for number, values in record_fields(records, usual, needed, "a passage", "Rename the fields."):
            yield records.location(number), values["id"], values["identifier"]
        return
    columns: dict[str, int] | None = None
    for number, line in numbered_lines(path):
        location = line_location(path, number)
        cells = line.split("\t")
        if len(cells) != 2:
            raise DGRValueError(
                f"{location}: {len(cells)} columns, but two are expected: passage id and identifier, separated by a "
                "tab."
            )
        if columns is None:
            columns = header_columns(location, cells, usual, needed)
            if columns is not None:
                continue
            columns = {"id": 0, "identifier": 1}
        yield location, cells[columns["id"]], cells[columns["identifier"]]
