"""A corpus: the passages of a collection, found by position or by id."""

from __future__ import annotations

import operator
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, SupportsIndex, overload

import pyarrow as pa
from tqdm.auto import tqdm

from dgr_trainer.data.columns import PASSAGE_COLUMNS, usual_columns
from dgr_trainer.data.corpus_cache import (
    MARKER,
    SCHEMA,
    CorpusDigest,
    StoredCorpus,
    corpus_features,
    file_key,
    store,
    stored_under,
)
from dgr_trainer.data.corpus_folder import OpenedCorpus, open_corpus, write_corpus
from dgr_trainer.data.formats import ir_datasets_ids, kilt
from dgr_trainer.data.formats.huggingface import column_names
from dgr_trainer.data.hub import HubSource, SavedDatasetSource
from dgr_trainer.data.ids import IdColumn, as_id
from dgr_trainer.data.passage_readers import FORMATS, dataset_passages, record_passages, tsv_passages
from dgr_trainer.data.passages import FIELDS, NumberedPassages, Passage, passage_row
from dgr_trainer.data.pseudo_queries import PseudoQueries
from dgr_trainer.data.saved_tables import TableRows
from dgr_trainer.data.sources import (
    FileSource,
    FolderSource,
    IrDatasetsSource,
    file_format,
    resolve,
)
from dgr_trainer.errors import DGRIndexError, DGRKeyError, DGRTypeError, DGRValueError
from dgr_trainer.files.atomic import atomic_folder, read_folder
from dgr_trainer.files.compression import SUFFIXES, undamaged
from dgr_trainer.files.lines import existing_file, listing

if TYPE_CHECKING:
    from datasets import Dataset, IterableDataset

PathLike = str | os.PathLike[str]


class Corpus(Sequence[Passage]):
    """The passages of a collection, in their order, found by position or by id.

    The passages are kept in a `datasets.Dataset` and become Python objects one at a time; a large corpus is
    memory-mapped from disk, so that it takes almost no memory and is shared between processes. A file of more than
    32 MiB is read once and afterwards loaded from the cache of `datasets` (`HF_DATASETS_CACHE`, or `cache_dir`), under
    a hash of its bytes.

    Use one of the `from_` methods or [`Corpus.read`]; they check ids (strings or integers, without whitespace, each
    once) and drop passages that have neither a title nor a text, with a warning that counts them.

    Args:
        dataset (`datasets.Dataset`):
            Columns `id`, `title`, `text`, `pseudo_queries` (list of strings), `docid`. It is not checked again.
        fingerprint (`str`, *optional*): Fingerprint of the corpus, if it is known.

    Attributes:
        dataset (`datasets.Dataset`): The passages.
        ids (`Sequence[str]`): Their ids, in order, read as they are needed.

    Example:

    ```python
    >>> from dgr_trainer import Corpus, Passage
    >>> corpus = Corpus.from_passages([Passage("p1", "Herring", "A fish."), Passage("p2", "Heron", "A bird.")])
    >>> corpus.get("p2").title
    'Heron'

    ```
    """

    def __init__(self, dataset: Dataset, *, fingerprint: str | None = None) -> None:
        from datasets import Dataset

        if not isinstance(dataset, Dataset) or dataset.features != corpus_features():
            given = dict(dataset.features) if isinstance(dataset, Dataset) else type(dataset).__name__
            raise DGRTypeError(
                f"A corpus needs a datasets.Dataset with the columns {dict(corpus_features())}, but got {given}. "
                "Corpus.from_dataset takes a dataset with other columns."
            )
        if dataset._indices is not None:
            dataset = dataset.flatten_indices()
        self._dataset: Dataset | None = dataset.with_format(None)
        self._opened: OpenedCorpus | None = None
        self._set_table(self._dataset.data.table, fingerprint)

    def _set_table(self, table: pa.Table, fingerprint: str | None) -> None:
        self._table = table
        self._rows: TableRows | None = None
        self.ids = IdColumn(table.column("id"))
        self._fingerprint = fingerprint

    @classmethod
    def _of_folder(cls, opened: OpenedCorpus) -> Corpus:
        """A corpus of a folder, whose dataset is made when it is asked for: `datasets` takes a second to import."""
        corpus = cls.__new__(cls)
        corpus._dataset, corpus._opened = None, opened
        corpus._set_table(opened.table, opened.fingerprint)
        return corpus

    def __reduce__(self) -> tuple[Any, ...]:
        # Datasets are pickled as the paths of their files.
        return partial(type(self), fingerprint=self._fingerprint), (self.dataset,)

    @property
    def dataset(self) -> Dataset:
        """`datasets.Dataset`: The passages."""
        if self._dataset is None:
            assert self._opened is not None
            self._dataset = self._opened.dataset().with_format(None)
        return self._dataset

    # Reading

    @classmethod
    def from_passages(cls, passages: Iterable[Passage], *, cache_dir: PathLike | None = None) -> Corpus:
        """Make a corpus of passages, an iterable that is read once.

        Raises:
            TypeError: if an item is no `Passage`, or a value in it has the wrong type.
            ValueError: if there is no passage, or an id is invalid or occurs twice.
        """

        def rows() -> Iterator[tuple[int, dict[str, Any]]]:
            for number, passage in enumerate(passages):
                location = f"passage {number}"
                if not isinstance(passage, Passage):
                    raise DGRTypeError(
                        f"{location} is a {type(passage).__name__}, not a Passage. Make it one: Passage(id, ...)."
                    )
                yield number, passage_row(location, **{name: getattr(passage, name) for name in FIELDS})

        passage_rows = NumberedPassages(rows(), lambda number: f"passage {number}", "passages")
        return cls._from_stored(store(passage_rows, cache_dir=cache_dir))

    @classmethod
    def from_dataset(
        cls,
        dataset: Dataset | IterableDataset,
        columns: Mapping[str, str] | None = None,
        *,
        cache_dir: PathLike | None = None,
    ) -> Corpus:
        """Make a corpus of the rows of a dataset, which may be streamed.

        Args:
            dataset (`datasets.Dataset` or `datasets.IterableDataset`): The passages.
            columns (`Mapping[str, str]`, *optional*):
                Column of a field that has another name in the dataset, for example `{"id": "docno", "text":
                "contents"}`. Fields are `id`, `title`, `text`, `pseudo_queries` and `docid`; the id and one of title
                and text are required.
            cache_dir (`str` or `os.PathLike`, *optional*): Where a large corpus is kept.

        Raises:
            TypeError: if `dataset` is no dataset.
            ValueError: if a column is missing.
        """
        present = column_names(dataset)
        chosen = dict(columns or {})
        unknown = sorted(set(chosen) - set(FIELDS))
        if unknown:
            raise DGRValueError(f"columns names the fields {unknown}, but a passage has only {list(FIELDS)}.")
        chosen = usual_columns(present, PASSAGE_COLUMNS, chosen)
        missing = sorted(set(chosen.values()) - set(present))
        if missing or "id" not in chosen or not {"title", "text"} & set(chosen):
            needed = missing or ("'id'" if "id" not in chosen else "'title' or 'text'")
            raise DGRValueError(
                f"The dataset has no column {needed}; its columns are {present}. "
                'Name the ones to use, for example columns={"id": "docno", "text": "contents"}; in place of a path: '
                "hf:PATH,id=docno,text=contents."
            )
        return cls._from_stored(store(dataset_passages(dataset, chosen), cache_dir=cache_dir))

    @classmethod
    def from_jsonl(cls, path: PathLike, *, cache_dir: PathLike | None = None) -> Corpus:
        """Read a JSON Lines file: `id`, `title`, `text`, `pseudo_queries`, `docid` on each line.

        Fields may have the other names in `docs/data.md`, such as `docno` and `contents`. All but the id may be
        missing; others are ignored. The file may also hold one array of such objects.
        The file may be compressed (`.gz`, `.zst`, `.bz2`, `.xz`).
        """
        return cls._from_file(_file(path), "records", record_passages, cache_dir)

    @classmethod
    def from_tsv(cls, path: PathLike, *, quoted: bool | None = None, cache_dir: PathLike | None = None) -> Corpus:
        """Read a tab-separated file.

        A first line that names a column of ids and one of titles or texts (by one of the names in `docs/data.md`, such
        as `docno` and `contents`) is a header. Without a header, two columns are `id`, `text` (as MS MARCO's
        `collection.tsv`), and three are `id`, `title`, `text`.

        Args:
            path (`str` or `os.PathLike`): The file, which may be compressed (`.gz`, `.zst`, `.bz2`, `.xz`).
            quoted (`bool`, *optional*):
                Whether double quotes around a cell are removed. By default they are if the header is that of DPR's
                `psgs_w100.tsv`: `id`, `text`, `title`.
            cache_dir (`str` or `os.PathLike`, *optional*): Where a large corpus is kept.
        """
        reader = "TSV" if quoted is None else f"TSV quoted={quoted}"
        return cls._from_file(_file(path), reader, partial(tsv_passages, quoted=quoted), cache_dir)

    @classmethod
    def from_beir(cls, folder: PathLike, *, cache_dir: PathLike | None = None) -> Corpus:
        """Read `corpus.jsonl` in a BEIR folder; [`read_queries`] and [`read_qrels`] read the rest."""
        return cls.from_jsonl(_beir_corpus(Path(folder)), cache_dir=cache_dir)

    @classmethod
    def from_kilt(cls, path: PathLike, *, unit: str = "page", cache_dir: PathLike | None = None) -> Corpus:
        """Read KILT's knowledge source, `kilt_knowledgesource.json`.

        Args:
            path (`str` or `os.PathLike`): The file, which may be compressed (`.gz`, `.zst`, `.bz2`, `.xz`).
            unit (`str`, *optional*, defaults to `"page"`):
                What a passage is: `"page"`, whose id is the page's (`read_qrels` reads judgements of pages), or
                `"paragraph"`, whose id is `PAGE-NUMBER`.
            cache_dir (`str` or `os.PathLike`, *optional*): Where a large corpus is kept.
        """
        return cls._from_file(_file(path), f"KILT {unit}s", partial(kilt.pages, unit=unit), cache_dir)

    @classmethod
    def read(cls, path: PathLike, *, cache_dir: PathLike | None = None) -> Corpus:
        """Read a corpus in any of the formats of `docs/data.md`.

        Args:
            path (`str` or `os.PathLike`):
                A file: JSON Lines (`.jsonl`, `.ndjson`, `.json`), tab-separated (`.tsv`, `.txt`) or comma-separated
                (`.csv`, with a header), plain or compressed (`.gz`, `.zst`, `.bz2`, `.xz`), or a table (`.parquet`,
                `.arrow`). Of KILT's knowledge source, each page is a passage. A folder: a saved corpus, a saved
                `datasets.Dataset` or a BEIR folder. `irds:ID`: a data set of ir_datasets. `hf:NAME`: a dataset of the
                Hub or a file or folder, perhaps with names of columns (`hf:user/texts,id=docno`).
            cache_dir (`str` or `os.PathLike`, *optional*): Where a large corpus is kept.

        Raises:
            FileNotFoundError: if nothing is there.
            ValueError: if the name does not tell the format, or the contents are malformed.
        """
        match resolve(path, FIELDS):
            case HubSource() as hub:
                return cls.from_dataset(*hub.load(FIELDS), cache_dir=cache_dir)
            case IrDatasetsSource(id):
                return cls._from_stored(store(ir_datasets_ids.passages(id), cache_dir=cache_dir))
            case SavedDatasetSource(folder) | FolderSource(folder) if (folder / MARKER).is_file():
                return cls.load_from_disk(folder)
            case SavedDatasetSource() as saved:
                return cls.from_dataset(saved.load(), cache_dir=cache_dir)
            case FolderSource(folder):
                return cls.from_beir(folder, cache_dir=cache_dir)
            case FileSource() as file:
                reader = file_format(file, FORMATS, _FORMAT_ADVICE)
                return cls._from_file(file, reader.name, reader.read, cache_dir)

    @classmethod
    def _from_file(
        cls, file: FileSource, reader: str, read: Callable[[FileSource], NumberedPassages], cache_dir: PathLike | None
    ) -> Corpus:
        # Where columns are named, the table depends on the names; several files are read every time.
        key = None if file.more else file_key(file.path, f"{reader} {sorted((file.columns or {}).items())}")
        stored = stored_under(key, str(file.path), cache_dir=cache_dir) if key else None
        with undamaged(*file.paths):
            return cls._from_stored(stored or store(read(file), key=key, cache_dir=cache_dir))

    @classmethod
    def _from_stored(cls, stored: StoredCorpus) -> Corpus:
        return cls(stored.dataset, fingerprint=stored.fingerprint)

    def with_pseudo_queries(
        self, pseudo_queries: Mapping[str, Sequence[str]], *, cache_dir: PathLike | None = None
    ) -> Corpus:
        """A copy of the corpus with other pseudo-queries; passages that are not named keep theirs.

        Args:
            pseudo_queries (`Mapping[str, Sequence[str]]`): Pseudo-queries by passage id.
            cache_dir (`str` or `os.PathLike`, *optional*): Where a large corpus is kept.

        Raises:
            ValueError: if an id is not in the corpus.
        """
        if not isinstance(pseudo_queries, PseudoQueries):
            pseudo_queries = {as_id(id, "passage", "pseudo-queries"): of for id, of in pseudo_queries.items()}
        unknown = [id for id in pseudo_queries if id not in self.ids]
        if unknown:
            raise DGRValueError(
                f"{len(unknown)} of {len(pseudo_queries)} passage ids with pseudo-queries are not in the corpus, "
                f"for example {unknown[:3]}. Were they generated for another corpus?"
            )

        def rows() -> Iterator[tuple[int, dict[str, Any]]]:
            for number, passage in enumerate(self):
                values = {name: getattr(passage, name) for name in FIELDS}
                values["pseudo_queries"] = pseudo_queries.get(passage.id, passage.pseudo_queries)
                yield number, passage_row(f"passage {passage.id!r}", **values)

        passage_rows = NumberedPassages(rows(), lambda number: f"passage {number}", "the corpus with pseudo-queries")
        return self._from_stored(store(passage_rows, cache_dir=cache_dir))

    # Passages

    def __len__(self) -> int:
        return int(self._table.num_rows)

    def __iter__(self) -> Iterator[Passage]:
        for rows in self._batches():
            yield from map(_passage, rows)

    @overload
    def __getitem__(self, position: SupportsIndex) -> Passage: ...

    @overload
    def __getitem__(self, position: slice) -> list[Passage]: ...

    def __getitem__(self, position: SupportsIndex | slice) -> Passage | list[Passage]:
        if isinstance(position, slice):
            positions = range(*position.indices(len(self)))
            if positions.step != 1:
                return self.take(positions)
            return [_passage(row) for row in self._table.slice(positions.start, len(positions)).to_pylist()]
        try:
            index = operator.index(position)
        except TypeError:
            raise DGRTypeError(
                f"Passages are found by position, an integer, but got {position!r}. To find one by id: corpus.get(id)."
            ) from None
        return self.take([index])[0]

    def take(self, positions: Sequence[int]) -> list[Passage]:
        """The passages at some positions, which is faster than one at a time."""
        for position in positions:
            if not -len(self) <= position < len(self):
                raise DGRIndexError(f"There is no passage {position}: the corpus has {len(self)} passages.")
        if self._rows is None:
            self._rows = TableRows(self._table)
        rows = list(self._rows.take([position % len(self) for position in positions]))
        return [_passage(row) for row in pa.Table.from_batches(rows, self._table.schema).to_pylist()]

    def _batches(self) -> Iterator[list[dict[str, Any]]]:
        for batch in self._table.to_batches(max_chunksize=1000):
            yield batch.to_pylist()

    def get(self, id: str) -> Passage:
        """The passage with that id. Raises `KeyError` if there is none."""
        return self[self.position(id)]

    def __contains__(self, id: object) -> bool:
        """Whether there is a passage with that id, or a passage equal to the given one."""
        if isinstance(id, Passage):
            position = self.ids.find(id.id)
            return position is not None and self[position] == id
        return id in self.ids

    def position(self, id: str) -> int:
        """Position of the passage with that id. Raises `KeyError` if there is none."""
        position = self.ids.find(id)
        if position is None:
            example = f" Ids are strings such as {self.ids[0]!r}." if len(self) else ""
            raise DGRKeyError(
                f"No passage has the id {id!r}: it is not among the {len(self)} ids of the corpus.{example}"
            )
        return position

    @property
    def fingerprint(self) -> str:
        """`str`: sha256 of the ids and contents of the passages in their order, as 64 hexadecimal digits."""
        if self._fingerprint is None:
            digest = CorpusDigest()
            with tqdm(total=len(self), desc="Hashing the corpus", unit=" passages", delay=2, leave=False) as bar:
                for rows in self._batches():
                    digest.update(rows)
                    bar.update(len(rows))
            self._fingerprint = digest.hexdigest()
        return self._fingerprint

    def __repr__(self) -> str:
        return f"Corpus({len(self)} passages)"

    # Saving and loading

    def save_to_disk(self, path: PathLike) -> None:
        """Save to a folder (a saved `datasets.Dataset` and `corpus.json`), whole or not at all.

        Raises:
            FileExistsError: if `path` is a file, or a folder with other files in it.
        """
        with atomic_folder(path, marker=MARKER) as folder:
            write_corpus(folder, StoredCorpus(self.dataset, self.fingerprint))

    @classmethod
    def load_from_disk(cls, path: PathLike) -> Corpus:
        """Load what [`~Corpus.save_to_disk`] saved, or the corpus of an index or retriever; memory-mapped.

        Raises:
            FileNotFoundError: if `path` is no saved corpus.
            ValueError: if its files do not belong together.
        """
        opened = read_folder(path, open_corpus)
        if opened.table.schema.remove_metadata() != SCHEMA:
            return cls(opened.dataset(), fingerprint=opened.fingerprint)  # raises the error
        return cls._of_folder(opened)


def _passage(row: Mapping[str, Any]) -> Passage:
    pseudo_queries = tuple(row["pseudo_queries"] or ())
    return Passage(row["id"], row["title"], row["text"], pseudo_queries, row["docid"])


_FORMAT_ADVICE = "Name it .jsonl, .tsv, .csv or .parquet, or use Corpus.from_jsonl or from_tsv."


def _file(path: PathLike) -> FileSource:
    return FileSource(existing_file(path))


def _beir_corpus(folder: Path) -> Path:
    for name in ("corpus.jsonl", *(f"corpus.jsonl{suffix}" for suffix in SUFFIXES)):
        if (folder / name).is_file():
            return folder / name
    contents = listing(folder) if folder.is_dir() else "nothing there"
    raise FileNotFoundError(
        f"{folder} is no BEIR folder: it has no corpus.jsonl. Found: {contents}. "
        "Give the path of the corpus file itself if it has another name."
    )
