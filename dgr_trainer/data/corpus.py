"""The corpus: the passages of a collection, found by position or by id."""

from __future__ import annotations

import operator
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, SupportsIndex, overload

from datasets import Dataset, IterableDataset

from dgr_trainer.data.corpus_cache import (
    FEATURES,
    MARKER,
    CorpusDigest,
    StoredCorpus,
    file_key,
    store,
    stored_under,
)
from dgr_trainer.data.corpus_folder import open_corpus, write_corpus
from dgr_trainer.data.formats import ir_datasets_ids, kilt
from dgr_trainer.data.formats.huggingface import column_names
from dgr_trainer.data.formats.ir_datasets_ids import ir_datasets_id
from dgr_trainer.data.ids import IdColumn
from dgr_trainer.data.passage_readers import dataset_rows, record_rows, tsv_rows
from dgr_trainer.data.passages import FIELDS, ID_NAMES, Passage, PassageRows, passage_row
from dgr_trainer.data.sources import hub_dataset, hub_name, saved_dataset
from dgr_trainer.errors import DGRIndexError, DGRKeyError, DGRTypeError, DGRValueError
from dgr_trainer.files.atomic import atomic_folder, read_folder, restore_folder
from dgr_trainer.files.compression import SUFFIXES
from dgr_trainer.files.lines import existing_file, file_kind, listing
from dgr_trainer.files.records import read_records

PathLike = str | os.PathLike[str]


class Corpus(Sequence[Passage]):
    """The passages of a collection, in their order, found by position or by id.

    The passages lie in a `datasets.Dataset` and become Python objects one at a time; a large corpus is memory-mapped
    from disk, so that it takes next to no memory and is shared between processes. A file of more than 32 MiB is read
    once and afterwards taken from `datasets`' cache (`HF_DATASETS_CACHE`, or `cache_dir`), under a hash of its bytes.

    Use one of the `from_` methods or [`Corpus.read`]; they check ids (strings or integers, without whitespace, each
    once) and drop passages that have neither a title nor a text, with a warning that counts them.

    Args:
        dataset (`datasets.Dataset`): columns `id`, `title`, `text`, `pseudo_queries` (list of strings), `docid`.
            It is taken as checked.
        fingerprint (`str`, *optional*): the corpus' fingerprint, where it is known.

    Attributes:
        dataset (`datasets.Dataset`): the passages.
        ids (`Sequence[str]`): their ids, in order, read as they are needed.

    Example:

    ```python
    >>> from dgr_trainer import Corpus, Passage
    >>> corpus = Corpus.from_passages([Passage("p1", "Herring", "A fish."), Passage("p2", "Heron", "A bird.")])
    >>> corpus.get("p2").title
    'Heron'

    ```
    """

    def __init__(self, dataset: Dataset, *, fingerprint: str | None = None) -> None:
        if not isinstance(dataset, Dataset) or dataset.features != FEATURES:
            found = dict(dataset.features) if isinstance(dataset, Dataset) else type(dataset).__name__
            raise DGRTypeError(
                f"A corpus lies over a datasets.Dataset with the columns {dict(FEATURES)}, but got {found}. "
                "Corpus.from_dataset takes a dataset with other columns."
            )
        if dataset._indices is not None:
            dataset = dataset.flatten_indices()
        self.dataset = dataset.with_format(None)
        self.ids = IdColumn(self.dataset.data.column("id"))
        self._fingerprint = fingerprint

    # Where passages come from

    @classmethod
    def from_passages(cls, passages: Iterable[Passage], *, cache_dir: PathLike | None = None) -> Corpus:
        """A corpus of the given passages; any iterable, which is read once.

        Raises:
            TypeError: if something is no `Passage`, or a value in it is of the wrong type.
            ValueError: if there is no passage, or an id is invalid or occurs twice.
        """

        def rows() -> Iterator[tuple[int, dict[str, Any]]]:
            for number, passage in enumerate(passages):
                where = f"passage {number}"
                if not isinstance(passage, Passage):
                    raise DGRTypeError(
                        f"{where} is a {type(passage).__name__}, not a Passage. Make it one: Passage(id, ...)."
                    )
                yield number, passage_row(where, **{name: getattr(passage, name) for name in FIELDS})

        return cls._of(store(PassageRows(rows(), lambda number: f"passage {number}", "passages"), cache_dir=cache_dir))

    @classmethod
    def from_dataset(
        cls,
        dataset: Dataset | IterableDataset,
        columns: Mapping[str, str] | None = None,
        *,
        cache_dir: PathLike | None = None,
    ) -> Corpus:
        """A corpus of the rows of a dataset, which may be streamed.

        Args:
            dataset (`datasets.Dataset` or `datasets.IterableDataset`): the passages.
            columns (`Mapping[str, str]`, *optional*): the dataset's column for a field, where it has another name,
                for example `{"id": "docno", "text": "contents"}`. Fields are `id`, `title`, `text`, `pseudo_queries`
                and `docid`; all but the id, and one of title and text, may be missing.
            cache_dir (`str` or `os.PathLike`, *optional*): where a large corpus is kept.

        Raises:
            TypeError: if `dataset` is no dataset.
            ValueError: if a column is missing.
        """
        present = column_names(dataset)
        chosen = dict(columns or {})
        unknown = sorted(set(chosen) - set(FIELDS))
        if unknown:
            raise DGRValueError(f"columns names the fields {unknown}, but a passage has only {list(FIELDS)}.")
        for name in ("id", "_id", *FIELDS[1:]):
            if name in present:
                chosen.setdefault("id" if name in ID_NAMES else name, name)
        missing = sorted(set(chosen.values()) - set(present))
        if missing or "id" not in chosen or not {"title", "text"} & set(chosen):
            wanted = missing or ("'id'" if "id" not in chosen else "'title' or 'text'")
            raise DGRValueError(
                f"The dataset has no column {wanted}; its columns are {present}. "
                'Name the ones to use, for example columns={"id": "docno", "text": "contents"}; in place of a path: '
                "hf:PATH,id=docno,text=contents."
            )
        return cls._of(store(dataset_rows(dataset, chosen), cache_dir=cache_dir))

    @classmethod
    def from_jsonl(cls, path: PathLike, *, cache_dir: PathLike | None = None) -> Corpus:
        """A corpus of a JSON Lines file: `id` (or `_id`), `title`, `text`, `pseudo_queries`, `docid` on each line.

        All fields but the id may be missing; others are ignored. A `.json` file may hold one array of such objects.
        The file may be compressed (`.gz`, `.zst`).
        """
        return cls._of_file(path, "jsonl", partial(record_rows, path), cache_dir)

    @classmethod
    def from_tsv(cls, path: PathLike, *, quoted: bool | None = None, cache_dir: PathLike | None = None) -> Corpus:
        """A corpus of a tab-separated file.

        A first line that names a column `id` (or `_id`) and a column `title` or `text` is a header. Without a header,
        two columns are `id`, `text` (as MS MARCO's `collection.tsv`), and three are `id`, `title`, `text`.

        Args:
            path (`str` or `os.PathLike`): the file, which may be compressed (`.gz`, `.zst`).
            quoted (`bool`, *optional*): whether cells in double quotes are meant without them. By default they are
                if the header is that of DPR's `psgs_w100.tsv`: `id`, `text`, `title`.
            cache_dir (`str` or `os.PathLike`, *optional*): where a large corpus is kept.
        """
        return cls._of_file(path, f"tsv quoted={quoted}", partial(tsv_rows, path, quoted=quoted), cache_dir)

    @classmethod
    def from_beir(cls, folder: PathLike, *, cache_dir: PathLike | None = None) -> Corpus:
        """The corpus of a BEIR folder: its `corpus.jsonl` (see [`read_queries`] and [`read_qrels`] for the rest)."""
        return cls.from_jsonl(_beir_corpus(Path(folder)), cache_dir=cache_dir)

    @classmethod
    def from_kilt(cls, path: PathLike, *, unit: str = "page", cache_dir: PathLike | None = None) -> Corpus:
        """The corpus of KILT's knowledge source, `kilt_knowledgesource.json`.

        Args:
            path (`str` or `os.PathLike`): the file, which may be compressed (`.gz`, `.zst`).
            unit (`str`, *optional*, defaults to `"page"`): what a passage is: `"page"`, whose id is the page's (these
                are what `read_qrels` judges), or `"paragraph"`, whose id is `PAGE-NUMBER`.
            cache_dir (`str` or `os.PathLike`, *optional*): where a large corpus is kept.
        """
        return cls._of_file(path, f"kilt {unit}", partial(kilt.page_rows, path, unit), cache_dir)

    @classmethod
    def read(cls, path: PathLike, *, cache_dir: PathLike | None = None) -> Corpus:
        """Read whatever corpus is at `path`.

        A folder is a saved corpus, a saved `datasets.Dataset` or a BEIR folder; a file is JSON Lines (`.jsonl`,
        `.ndjson`, `.json`) or tab-separated (`.tsv`, `.txt`), plain or compressed (`.gz`, `.zst`), or a table
        (`.parquet`, `.arrow`). Of KILT's knowledge source, each page is a passage. `irds:ID` is a data set of
        ir_datasets, `hf:NAME` a dataset of the Hub, perhaps with a mapping of columns (`hf:user/texts,id=docno`).
        """
        hub = hub_name(path)
        if hub is not None:
            return cls.from_dataset(*hub_dataset(hub, FIELDS), cache_dir=cache_dir)
        name = ir_datasets_id(path)
        if name is not None:
            return cls._of(store(ir_datasets_ids.passage_rows(name), cache_dir=cache_dir))
        path = Path(path)
        restore_folder(path)
        if path.is_dir():
            if (path / MARKER).is_file():
                return cls.load_from_disk(path)
            dataset = saved_dataset(path)
            if dataset is not None:
                return cls.from_dataset(dataset, cache_dir=cache_dir)
            return cls.from_beir(path, cache_dir=cache_dir)
        kind = file_kind(existing_file(path))
        if kind == "tsv":
            return cls.from_tsv(path, cache_dir=cache_dir)
        if kind == "jsonl" and kilt.PAGE_FIELDS <= read_records(path).peek()[1]:
            return cls.from_kilt(path, cache_dir=cache_dir)
        if kind:
            return cls._of_file(path, kind, partial(record_rows, path), cache_dir)
        raise DGRValueError(
            f"{path}: the name does not tell the format. Name it .jsonl, .tsv or .parquet, or use Corpus.from_jsonl "
            "or from_tsv."
        )

    @classmethod
    def _of_file(cls, path: PathLike, reader: str, rows: Any, cache_dir: PathLike | None) -> Corpus:
        key = file_key(existing_file(path), reader)
        stored = stored_under(key, os.fspath(path), cache_dir=cache_dir) if key else None
        return cls._of(stored or store(rows(), key=key, cache_dir=cache_dir))

    @classmethod
    def _of(cls, stored: StoredCorpus) -> Corpus:
        return cls(stored.dataset, fingerprint=stored.fingerprint)

    def with_pseudo_queries(
        self, pseudo_queries: Mapping[str, Sequence[str]], *, cache_dir: PathLike | None = None
    ) -> Corpus:
        """This corpus with other pseudo-queries; passages that are not named keep their own.

        Args:
            pseudo_queries (`Mapping[str, Sequence[str]]`): pseudo-queries by passage id.
            cache_dir (`str` or `os.PathLike`, *optional*): where a large corpus is kept.

        Raises:
            ValueError: if an id is not in the corpus.
        """
        unknown = [id for id in pseudo_queries if id not in self]
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

        source = PassageRows(rows(), lambda number: f"passage {number}", "the corpus with pseudo-queries")
        return self._of(store(source, cache_dir=cache_dir))

    # What is in it

    def __len__(self) -> int:
        return len(self.dataset)

    def __iter__(self) -> Iterator[Passage]:
        for batch in self.dataset.with_format("arrow").iter(batch_size=1000):
            yield from map(_passage, batch.to_pylist())

    @overload
    def __getitem__(self, position: SupportsIndex) -> Passage: ...

    @overload
    def __getitem__(self, position: slice) -> list[Passage]: ...

    def __getitem__(self, position: SupportsIndex | slice) -> Passage | list[Passage]:
        if isinstance(position, slice):
            return [self[index] for index in range(*position.indices(len(self)))]
        try:
            index = operator.index(position)
        except TypeError:
            raise DGRTypeError(
                f"Passages are found by position, an integer, but got {position!r}. To find one by id: corpus.get(id)."
            ) from None
        if not -len(self) <= index < len(self):
            raise DGRIndexError(f"There is no passage {index}: the corpus has {len(self)} passages.")
        return _passage(self.dataset[index])

    def get(self, id: str) -> Passage:
        """The passage of that id. Raises `KeyError` if there is none."""
        return self[self.position(id)]

    def __contains__(self, id: object) -> bool:
        """Whether there is a passage of that id (or that very passage)."""
        if isinstance(id, Passage):
            return id.id in self.ids and self.get(id.id) == id
        return id in self.ids

    def position(self, id: str) -> int:
        """Position of the passage of that id. Raises `KeyError` if there is none."""
        found = self.ids.find(id)
        if found is None:
            example = f" Ids are strings such as {self.ids[0]!r}." if len(self) else ""
            raise DGRKeyError(
                f"No passage has the id {id!r}: it is not among the {len(self)} ids of the corpus.{example}"
            )
        return found

    @property
    def fingerprint(self) -> str:
        """`str`: sha256 of the ids and contents of the passages in their order, as 64 hexadecimal digits."""
        if self._fingerprint is None:
            digest = CorpusDigest()
            for batch in self.dataset.with_format("arrow").iter(batch_size=1000):
                digest.update(batch.to_pylist())
            self._fingerprint = digest.hexdigest()
        return self._fingerprint

    def __repr__(self) -> str:
        return f"Corpus({len(self)} passages)"

    # How it is kept

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
        dataset, fingerprint = read_folder(path, open_corpus)
        return cls(dataset, fingerprint=fingerprint)


def _passage(row: Mapping[str, Any]) -> Passage:
    pseudo_queries = tuple(row["pseudo_queries"] or ())
    return Passage(row["id"], row["title"], row["text"], pseudo_queries, row["docid"])


def _beir_corpus(folder: Path) -> Path:
    for name in ("corpus.jsonl", *(f"corpus.jsonl{suffix}" for suffix in SUFFIXES)):
        if (folder / name).is_file():
            return folder / name
    found = listing(folder) if folder.is_dir() else "nothing there"
    raise FileNotFoundError(
        f"{folder} is no BEIR folder: it has no corpus.jsonl. Found: {found}. "
        "Give the path of the corpus file itself if it has another name."
    )
