"""Candidates: the passages that the student found for each query, with the identifiers that led to each passage.

The full method trains on them: the model scores a candidate's identifiers again in each training step, and their
corpus counts turn the log-likelihoods into log-odds. All data is in flat columns of a memory-mapped
`datasets.Dataset`, so that a hundred thousand queries need little memory and some candidates of a query can be read
without decoding the others.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa

from dgr_trainer.data.saved_tables import TableRows
from dgr_trainer.errors import DGRKeyError, DGRValueError, input_errors
from dgr_trainer.files.atomic import atomic_folder, read_folder
from dgr_trainer.files.compression import atomic_text, undamaged
from dgr_trainer.files.lines import line_location
from dgr_trainer.files.records import json_records
from dgr_trainer.identifier_weights import ORIGINS
from dgr_trainer.identifiers import VIEWS

if TYPE_CHECKING:
    from datasets import Dataset

    from dgr_trainer.runs.rankings import Rankings

logger = logging.getLogger(__name__)

_FORMAT_VERSION = 2  # 2: where identifiers come from.
META = "candidates.json"
"""The file that every folder of candidates holds."""
_ROWS_PER_BATCH = 512
_COLUMNS = {
    "query_id": pa.string(),
    "passage_ids": pa.list_(pa.string()),
    "scores": pa.list_(pa.float64()),
    "num_identifiers": pa.list_(pa.int32()),  # One per candidate; the columns below have one value per identifier.
    "views": pa.list_(pa.int8()),  # Position in `VIEWS`.
    "lengths": pa.list_(pa.int32()),
    "counts": pa.list_(pa.int64()),
    "credits": pa.list_(pa.float32()),
    "origins": pa.list_(pa.int8()),  # Position in `ORIGINS`.
    "tokens": pa.list_(pa.int32()),  # One per token.
}
ROW_SCHEMA = pa.schema(_COLUMNS)
_VIEW_NUMBERS = {view: number for number, view in enumerate(VIEWS)}
_ORIGIN_NUMBERS = {origin: number for number, origin in enumerate(ORIGINS)}


@dataclass(frozen=True)
class MatchedIdentifier:
    """An identifier of a query or of a passage, with its count in the corpus and a score.

    One type is used from the beam search to the hits. What `score` means depends on the step that made the object:

    | made by | `score` |
    |---|---|
    | the beam search, and the scoring of identifiers that it did not generate | log-likelihood under the student |
    | `weigh_identifiers` | weight for the query (see [`identifier_weights`]) |
    | a `Hit` or a [`Candidate`] | what the identifier added to the score of the passage |
    | words of a query and the text of a passage, before they are scored | 0 |

    Args:
        view (`str`): Its view, for example `"substring"`.
        ids (`tuple[int, ...]`): Its generated tokens, closing marker included.
        count (`int`): Occurrences in the corpus.
        score (`float`): See the table.
        origin (`str`, defaults to `"generated"`): Where it comes from: `"generated"` by the beam search, from the
            `"query"` itself (also if it was generated), or a `"unigram"`, a single token beside the identifiers.
    """

    view: str
    ids: tuple[int, ...]
    count: int
    score: float
    origin: str = "generated"


@dataclass(frozen=True)
class Candidate:
    """A passage that the student found for a query.

    Args:
        passage_id (`str`): The passage.
        score (`float`): The score that the student gave it.
        identifiers (`tuple[MatchedIdentifier, ...]`): The identifiers that it contains, in the order of credit.
    """

    passage_id: str
    score: float
    identifiers: tuple[MatchedIdentifier, ...]


class Candidates(Mapping[str, tuple[Candidate, ...]]):
    """The candidates of each query, best first. A read-only mapping from query id to [`Candidate`]s.

    Make one with [`Candidates.from_lists`], with `GenerativeRetriever.candidates` or with
    [`Candidates.load_from_disk`].

    Args:
        dataset ([`~datasets.Dataset`]): One row per query, in the columns that `from_lists` writes.
        corpus_tokens (`int`): All tokens of the indexed corpus, separators included.
        tokenizer_fingerprint (`str`, *optional*): `Identifiers.fingerprint` of the tokenizer of the token ids.

    Raises:
        ValueError: if the columns are different, a query id is repeated, or `corpus_tokens` is not positive.
    """

    def __init__(self, dataset: Dataset, *, corpus_tokens: int, tokenizer_fingerprint: str = "") -> None:
        if set(dataset.column_names) != set(_COLUMNS):
            raise DGRValueError(
                f"Candidates are stored in the columns {', '.join(_COLUMNS)}; this dataset has "
                f"{', '.join(dataset.column_names)}. Build candidates with Candidates.from_lists."
            )
        if corpus_tokens <= 0:
            raise DGRValueError(
                f"corpus_tokens={corpus_tokens}: give the number of tokens of the corpus (num_tokens)."
            )
        self.dataset = dataset.with_format("arrow")
        self.corpus_tokens = int(corpus_tokens)
        self.tokenizer_fingerprint = tokenizer_fingerprint
        self._rows: dict[str, int] = {}
        for row, query_id in enumerate(dataset["query_id"]):
            if query_id in self._rows:
                raise DGRValueError(f"Query {query_id!r} has two lists of candidates. Give each query one list.")
            self._rows[query_id] = row

    @classmethod
    def from_lists(
        cls,
        lists: Mapping[str, Sequence[Candidate]] | Iterable[tuple[str, Sequence[Candidate]]],
        *,
        corpus_tokens: int,
        tokenizer_fingerprint: str = "",
    ) -> Candidates:
        """Pack candidates into columns.

        Args:
            lists (`Mapping[str, Sequence[Candidate]]` or iterable of such pairs):
                Candidates of each query, best first. An iterable is read in batches, so that only the packed columns
                are in memory.
            corpus_tokens (`int`): All tokens of the indexed corpus, separators included (`FMIndex.num_tokens`).
            tokenizer_fingerprint (`str`, *optional*): `Identifiers.fingerprint`.

        Returns:
            [`Candidates`]: the candidates.

        Raises:
            ValueError: if a candidate has a score that is not finite or an unknown view, or occurs twice in a list.
        """
        pairs = lists.items() if isinstance(lists, Mapping) else lists
        rows = (pack(query_id, candidates) for query_id, candidates in pairs)
        return cls.from_rows(rows, corpus_tokens=corpus_tokens, tokenizer_fingerprint=tokenizer_fingerprint)

    @classmethod
    def from_rows(
        cls, rows: Iterable[pa.RecordBatch], *, corpus_tokens: int, tokenizer_fingerprint: str = ""
    ) -> Candidates:
        """Make candidates from rows of [`pack`]; for the other arguments see `from_lists`."""
        dataset = _as_dataset(pa.concat_tables([ROW_SCHEMA.empty_table(), *_tables(rows)]))
        return cls(dataset, corpus_tokens=corpus_tokens, tokenizer_fingerprint=tokenizer_fingerprint)

    @classmethod
    def save_rows(
        cls,
        rows: Iterable[pa.RecordBatch],
        path: str | os.PathLike[str],
        *,
        corpus_tokens: int,
        tokenizer_fingerprint: str = "",
        order: Sequence[int] | None = None,
    ) -> None:
        """Write rows of [`pack`] to a folder, as `save_to_disk` does, without holding all of them in memory.

        With `order`, the i-th row of the folder is the `order[i]`-th of `rows`.
        """
        from datasets import Dataset

        with atomic_folder(path, marker=META) as folder:
            file = folder / "rows.arrow"
            _write_stream(file, rows)
            if order is not None:
                unordered = file.rename(folder / "unordered.arrow")
                with pa.memory_map(str(unordered)) as mapped:
                    found = TableRows(pa.ipc.open_stream(mapped).read_all())
                    _write_stream(file, found.take(order))
                    del found
                unordered.unlink()
            dataset = Dataset.from_file(str(file))
            candidates = cls(dataset, corpus_tokens=corpus_tokens, tokenizer_fingerprint=tokenizer_fingerprint)
            candidates._write(folder)
            file.unlink()

    def save_to_disk(self, path: str | os.PathLike[str]) -> None:
        """Write to a folder, which appears only when it is complete; raises what `atomic_folder` raises."""
        with atomic_folder(path, marker=META) as folder:
            self._write(folder)

    def _write(self, folder: Path) -> None:
        meta = {
            "format_version": _FORMAT_VERSION,
            "corpus_tokens": self.corpus_tokens,
            "tokenizer_fingerprint": self.tokenizer_fingerprint,
            "num_queries": len(self),
            "views": list(VIEWS),
        }
        _as_dataset(self.dataset.data).save_to_disk(folder / "dataset")
        (folder / META).write_text(json.dumps(meta, indent=2) + "\n", encoding="utf-8")

    @classmethod
    def load_from_disk(cls, path: str | os.PathLike[str], *, tokenizer_fingerprint: str | None = None) -> Candidates:
        """Open a folder that `save_to_disk` wrote; the columns are memory-mapped.

        Args:
            path (`str` or `os.PathLike`): The folder.
            tokenizer_fingerprint (`str`, *optional*): Compared with the stored one (see `check_tokenizer`).

        Returns:
            [`Candidates`]: the candidates.

        Raises:
            FileNotFoundError: if the folder holds no candidates.
            ValueError: if it was written by a newer version or for another tokenizer.
        """
        candidates = read_folder(path, cls._open)
        if tokenizer_fingerprint is not None:
            candidates.check_tokenizer(tokenizer_fingerprint)
        return candidates

    @classmethod
    def _open(cls, path: Path) -> Candidates:
        from datasets import load_from_disk

        meta_path = path / META
        if not meta_path.is_file():
            raise FileNotFoundError(
                f"{path} holds no {META}, so it is not a folder of candidates. Give a folder that "
                "Candidates.save_to_disk or GenerativeRetriever.save_candidates wrote."
            )
        with input_errors(f"{meta_path} is damaged", ValueError):
            meta = json.loads(meta_path.read_text(encoding="utf-8"))
        version = meta.get("format_version")
        if version not in (1, _FORMAT_VERSION) or meta.get("views") != list(VIEWS):
            raise DGRValueError(
                f"{path} has format version {version} and views {meta.get('views')}; this version of dgr-trainer "
                f"reads versions up to {_FORMAT_VERSION} with {list(VIEWS)}. Make the candidates again."
            )
        with input_errors(f"The candidates at {path} are damaged", Exception):
            dataset = load_from_disk(str(path / "dataset"))
            if version == 1:
                dataset = _with_origins(dataset)
                logger.warning(
                    "The candidates at %s do not say which identifiers are unigrams or words of the query, so "
                    "training weighs these like all others and a search does not. Make the candidates again.",
                    path,
                )
        return cls(dataset, corpus_tokens=meta["corpus_tokens"], tokenizer_fingerprint=meta["tokenizer_fingerprint"])

    def to_jsonl(self, path: str | os.PathLike[str]) -> None:
        """Write JSON Lines for other programs to read.

        The first line has `corpus_tokens` and `tokenizer_fingerprint`. Every other line has `query_id` and
        `candidates`, best first, a list of `passage_id`, `score` and `identifiers` (`view`, `ids`, `count`, `score`,
        `origin`).

        Args:
            path (`str` or `os.PathLike`): The file, which appears only when it is complete. It is compressed if its
                name ends in `.gz` or `.zst`.
        """
        with atomic_text(path) as file:
            head = {"corpus_tokens": self.corpus_tokens, "tokenizer_fingerprint": self.tokenizer_fingerprint}
            file.write(json.dumps(head) + "\n")
            for query_id, candidates in self.items():
                record = {"query_id": query_id, "candidates": [asdict(candidate) for candidate in candidates]}
                file.write(json.dumps(record, ensure_ascii=False) + "\n")

    @classmethod
    def from_jsonl(cls, path: str | os.PathLike[str]) -> Candidates:
        """Read a file in the format of `to_jsonl`.

        Args:
            path (`str` or `os.PathLike`): The file, which may be compressed (`.gz`, `.zst`, `.bz2`, `.xz`).

        Returns:
            [`Candidates`]: the candidates.

        Raises:
            FileNotFoundError: if the file does not exist.
            ValueError: if a line is malformed or a query occurs twice; see also `from_lists`.
        """
        with undamaged(path):
            return cls._from_lines(path)

    @classmethod
    def _from_lines(cls, path: str | os.PathLike[str]) -> Candidates:
        lines = iter(json_records(path).rows)
        number, head = next(lines, (1, {}))
        if not isinstance(head.get("corpus_tokens"), int):
            raise DGRValueError(
                f"{line_location(path, number)}: the first line of candidates has to contain corpus_tokens, the "
                "number of "
                f"tokens of the corpus, but its fields are {sorted(head)}."
            )

        def lists() -> Iterator[tuple[str, list[Candidate]]]:
            for number, record in lines:
                try:
                    yield record["query_id"], [_candidate(fields) for fields in record["candidates"]]
                except (KeyError, TypeError) as error:
                    raise DGRValueError(
                        f"{line_location(path, number)}: the line is not in the format of Candidates.to_jsonl "
                        f"({type(error).__name__}: {error})."
                    ) from None

        fingerprint = str(head.get("tokenizer_fingerprint", ""))
        return cls.from_lists(lists(), corpus_tokens=head["corpus_tokens"], tokenizer_fingerprint=fingerprint)

    def check_tokenizer(self, fingerprint: str) -> None:
        """Raise a `ValueError` if the token ids are those of a tokenizer with another fingerprint."""
        if self.tokenizer_fingerprint and fingerprint != self.tokenizer_fingerprint:
            raise DGRValueError(
                "These candidates were made with another tokenizer: their fingerprint is "
                f"{self.tokenizer_fingerprint[:12]}..., the tokenizer's is {fingerprint[:12]}.... Their token ids "
                "would mean other words. Use the tokenizer of the model that made them, or make the candidates "
                "again."
            )

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator[str]:
        return iter(self._rows)

    def __contains__(self, query_id: object) -> bool:
        return query_id in self._rows

    def __getitem__(self, query_id: str) -> tuple[Candidate, ...]:
        row = self._read(query_id)
        return tuple(_unpack(row, position, None) for position in range(len(row["scores"])))

    def passage_ids(self, query_id: str) -> tuple[str, ...]:
        """Passage ids of a query's candidates, best first, without reading their identifiers."""
        return tuple(self._cell(query_id, "passage_ids").to_pylist())

    def scores(self, query_id: str) -> np.ndarray:
        """The student's scores of a query's candidates, float64, in the order of `passage_ids`."""
        scores: np.ndarray = self._cell(query_id, "scores").to_numpy()
        return scores

    def select(
        self, query_id: str, passage_ids: Sequence[str], *, max_identifiers: int | None = None
    ) -> tuple[Candidate, ...]:
        """Some candidates of a query.

        Args:
            query_id (`str`): The query.
            passage_ids (`Sequence[str]`): Passages among its candidates.
            max_identifiers (`int`, *optional*): Number of identifiers of each to return, those credited first; by
                default all.

        Returns:
            `tuple[Candidate, ...]`: the candidates, in the order of `passage_ids`.

        Raises:
            KeyError: if the query has no candidates or a passage is not among them.
        """
        row = self._read(query_id)
        positions = {passage_id: position for position, passage_id in enumerate(row["passage_ids"])}
        unknown = [passage_id for passage_id in passage_ids if passage_id not in positions]
        if unknown:
            raise DGRKeyError(f"Passages {unknown[:5]} are not among the candidates of query {query_id!r}.")
        return tuple(_unpack(row, positions[passage_id], max_identifiers) for passage_id in passage_ids)

    def to_rankings(self) -> Rankings:
        """The rank lists of the student."""
        from dgr_trainer.runs.rankings import Rankings

        columns = ((q, self.passage_ids(q), self.scores(q).tolist()) for q in self)
        return Rankings({query_id: dict(zip(ids, scores, strict=True)) for query_id, ids, scores in columns})

    def _cell(self, query_id: str, column: str) -> pa.Array:
        if query_id not in self._rows:
            raise DGRKeyError(f"Query {query_id!r} has no candidates.")
        return self.dataset[self._rows[query_id]].column(column)[0].values

    def _read(self, query_id: str) -> dict[str, Any]:
        if query_id not in self._rows:
            raise DGRKeyError(f"Query {query_id!r} has no candidates.")
        table = self.dataset[self._rows[query_id]]
        row = {name: table.column(name)[0].values for name in _COLUMNS if name != "query_id"}
        arrays: dict[str, Any] = {name: values.to_numpy() for name, values in row.items() if name != "passage_ids"}
        arrays["passage_ids"] = row["passage_ids"].to_pylist()
        arrays["identifier_starts"] = np.concatenate([[0], np.cumsum(arrays["num_identifiers"], dtype=np.int64)])
        arrays["token_starts"] = np.concatenate([[0], np.cumsum(arrays["lengths"], dtype=np.int64)])
        return arrays


def _with_origins(dataset: Dataset) -> Dataset:
    """Rows of the first format version with the column that it lacks: all identifiers are taken for generated."""
    table = dataset.data.table.combine_chunks()
    lengths = table.column("lengths").combine_chunks()
    values = pa.array(np.zeros(len(lengths.values), dtype=np.int8))
    none = pa.ListArray.from_arrays(lengths.offsets, values)
    return _as_dataset(table.append_column("origins", none).select(list(_COLUMNS)).cast(ROW_SCHEMA))


def _as_dataset(table: pa.Table) -> Dataset:
    """A dataset that is named by its content, so that the same candidates are the same files.

    By default, datasets copies a table several times to name it, and names a file by the time of its last change.
    """
    from datasets import Dataset

    digest = hashlib.sha256()
    for batch in table.to_batches():
        digest.update(batch.serialize())
    return Dataset(table, fingerprint=digest.hexdigest()[:16])


def _write_stream(file: Path, rows: Iterable[pa.RecordBatch]) -> None:
    with pa.ipc.new_stream(str(file), ROW_SCHEMA) as stream:
        for table in _tables(rows):
            stream.write_table(table)


def _tables(rows: Iterable[pa.RecordBatch]) -> Iterator[pa.Table]:
    """Yield rows in tables of many."""
    remaining = iter(rows)
    while batch := list(islice(remaining, _ROWS_PER_BATCH)):
        yield pa.Table.from_batches(batch, schema=ROW_SCHEMA).combine_chunks()


class IdentifierColumns(NamedTuple):
    """Identifiers as columns, in the types of the columns of candidates.

    Attributes:
        views (`np.ndarray` of int8): Positions of the views in `VIEWS`.
        lengths (`np.ndarray` of int32): Numbers of tokens.
        counts (`np.ndarray` of int64): Occurrences in the corpus.
        credits (`np.ndarray` of float32): Their scores.
        origins (`np.ndarray` of int8): Positions of their origins in `ORIGINS`.
        tokens (`np.ndarray` of int32): The tokens of all, one after the other.
    """

    views: np.ndarray
    lengths: np.ndarray
    counts: np.ndarray
    credits: np.ndarray
    origins: np.ndarray
    tokens: np.ndarray


def identifier_columns(identifiers: Sequence[MatchedIdentifier]) -> IdentifierColumns:
    """Identifiers as columns. Raises a `ValueError` if one has an unknown view."""
    unknown = sorted({identifier.view for identifier in identifiers} - set(VIEWS))
    if unknown:
        raise DGRValueError(f"There are identifiers of unknown views {unknown}; views are {list(VIEWS)}.")
    return IdentifierColumns(
        np.array([_VIEW_NUMBERS[identifier.view] for identifier in identifiers], dtype=np.int8),
        np.array([len(identifier.ids) for identifier in identifiers], dtype=np.int32),
        np.array([identifier.count for identifier in identifiers], dtype=np.int64),
        np.array([identifier.score for identifier in identifiers], dtype=np.float32),
        np.array([_ORIGIN_NUMBERS[identifier.origin] for identifier in identifiers], dtype=np.int8),
        np.array([token for identifier in identifiers for token in identifier.ids], dtype=np.int32),
    )


def pack(query_id: str, candidates: Sequence[Candidate]) -> pa.RecordBatch:
    """Pack the candidates of one query into a row; raises what [`Candidates.from_lists`] raises."""
    identifiers = [identifier for candidate in candidates for identifier in candidate.identifiers]
    unknown = sorted({identifier.view for identifier in identifiers} - set(VIEWS))
    if unknown:
        raise DGRValueError(f"Query {query_id!r} has identifiers of unknown views {unknown}; views are {list(VIEWS)}.")
    return row_of(
        query_id,
        [candidate.passage_id for candidate in candidates],
        [float(candidate.score) for candidate in candidates],
        [len(candidate.identifiers) for candidate in candidates],
        identifier_columns(identifiers),
    )


def row_of(
    query_id: str,
    passage_ids: Sequence[str],
    scores: Sequence[float],
    num_identifiers: Sequence[int],
    identifiers: IdentifierColumns,
) -> pa.RecordBatch:
    """Make the row of one query.

    Args:
        query_id (`str`): The query.
        passage_ids (`Sequence[str]`): Its candidates, best first.
        scores (`Sequence[float]`): Their scores.
        num_identifiers (`Sequence[int]`): How many identifiers each has.
        identifiers ([`IdentifierColumns`]): The identifiers of all candidates.

    Raises:
        ValueError: as `Candidates.from_lists` does.
    """
    if len(set(passage_ids)) < len(passage_ids):
        raise DGRValueError(f"A passage occurs twice among the candidates of query {query_id!r}.")
    if not np.isfinite(scores).all():
        raise DGRValueError(f"A candidate of query {query_id!r} has a score that is not a finite number.")
    if not identifiers.lengths.all():
        raise DGRValueError(f"Query {query_id!r} has an identifier without tokens.")
    lists: list[Any] = [
        list(passage_ids),
        np.array(scores, dtype=np.float64),
        np.array(num_identifiers, dtype=np.int32),
        *identifiers,
    ]
    columns = [pa.array([query_id], pa.string())]
    for values, field in zip(lists, list(ROW_SCHEMA)[1:], strict=True):
        array = pa.array(values, field.type.value_type)
        columns.append(pa.ListArray.from_arrays(pa.array([0, len(array)], pa.int32()), array, type=field.type))
    return pa.RecordBatch.from_arrays(columns, schema=ROW_SCHEMA)


def _origin(name: str) -> str:
    if name not in ORIGINS:
        raise TypeError(f"origin {name!r} is none of {', '.join(ORIGINS)}")
    return name


def _candidate(fields: Mapping[str, Any]) -> Candidate:
    identifiers = tuple(
        MatchedIdentifier(
            each["view"],
            tuple(map(int, each["ids"])),
            int(each["count"]),
            float(each["score"]),
            _origin(each.get("origin", ORIGINS[0])),
        )
        for each in fields["identifiers"]
    )
    return Candidate(fields["passage_id"], float(fields["score"]), identifiers)


def _unpack(row: Mapping[str, Any], position: int, max_identifiers: int | None) -> Candidate:
    start, end = row["identifier_starts"][position : position + 2].tolist()
    if max_identifiers is not None:
        end = min(end, start + max_identifiers)
    bounds = row["token_starts"][start : end + 1].tolist()
    tokens = row["tokens"][bounds[0] : bounds[-1]].tolist()
    views = row["views"][start:end].tolist()
    counts = row["counts"][start:end].tolist()
    scores = row["credits"][start:end].tolist()
    origins = row["origins"][start:end].tolist()
    identifiers = tuple(
        MatchedIdentifier(
            VIEWS[views[i]],
            tuple(tokens[bounds[i] - bounds[0] : bounds[i + 1] - bounds[0]]),
            counts[i],
            scores[i],
            ORIGINS[origins[i]],
        )
        for i in range(end - start)
    )
    return Candidate(row["passage_ids"][position], float(row["scores"][position]), identifiers)
