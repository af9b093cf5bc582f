"""The candidates of each query, in memory-mapped columns, and the files that hold them."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from dgr_trainer.candidates.matched import Candidate, MatchedIdentifier
from dgr_trainer.candidates.rows import ROW_SCHEMA, pack, tables_of, unpack, write_rows
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
        if set(dataset.column_names) != set(ROW_SCHEMA.names):
            raise DGRValueError(
                f"Candidates are stored in the columns {', '.join(ROW_SCHEMA.names)}; this dataset has "
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
        """Make candidates from rows of `pack`; for the other arguments see `from_lists`."""
        dataset = _as_dataset(pa.concat_tables([ROW_SCHEMA.empty_table(), *tables_of(rows)]))
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
        """Write rows of `pack` to a folder, as `save_to_disk` does, without holding all of them in memory.

        With `order`, the i-th row of the folder is the `order[i]`-th of `rows`.
        """
        from datasets import Dataset

        with atomic_folder(path, marker=META) as folder:
            file = folder / "rows.arrow"
            write_rows(file, rows)
            if order is not None:
                unordered = file.rename(folder / "unordered.arrow")
                with pa.memory_map(str(unordered)) as mapped:
                    found = TableRows(pa.ipc.open_stream(mapped).read_all())
                    write_rows(file, found.take(order))
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
        return tuple(unpack(row, position, None) for position in range(len(row["scores"])))

    def passage_ids(self, query_id: str) -> tuple[str, ...]:
        """Passage ids of a query's candidates, best first, without reading their identifiers."""
        return tuple(self._cell(query_id, "passage_ids").to_pylist())

    def scores(self, query_id: str) -> np.ndarray:
        """The student's scores of a query's candidates, float64, in the order of `passage_ids`."""
        scores: np.ndarray = self._cell(query_id, "scores").to_numpy()
        return scores

    def num_identifiers(self, query_id: str) -> np.ndarray:
        """The number of identifiers of each of a query's candidates, int32, in the order of `passage_ids`."""
        numbers: np.ndarray = self._cell(query_id, "num_identifiers").to_numpy()
        return numbers

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
        return tuple(unpack(row, positions[passage_id], max_identifiers) for passage_id in passage_ids)

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
        row = {name: table.column(name)[0].values for name in ROW_SCHEMA.names if name != "query_id"}
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
    return _as_dataset(table.append_column("origins", none).select(ROW_SCHEMA.names).cast(ROW_SCHEMA))


def _as_dataset(table: pa.Table) -> Dataset:
    """A dataset that is named by its content, so that the same candidates are the same files.

    By default, datasets copies a table several times to name it, and names a file by the time of its last change.
    """
    from datasets import Dataset

    digest = hashlib.sha256()
    for batch in table.to_batches():
        digest.update(batch.serialize())
    return Dataset(table, fingerprint=digest.hexdigest()[:16])


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
