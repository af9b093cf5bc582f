"""The Arrow table of a corpus: in memory if it is small, otherwise memory-mapped from a cache on disk."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from array import array
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from json.encoder import encode_basestring_ascii as quoted
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
from tqdm.auto import tqdm

from dgr_trainer.data.ids import IdColumn
from dgr_trainer.data.passages import NumberedPassages
from dgr_trainer.errors import DGRValueError
from dgr_trainer.files.atomic import temporary_folder
from dgr_trainer.files.compression import compression

if TYPE_CHECKING:
    from datasets import Dataset, Features

logger = logging.getLogger(__name__)

SCHEMA = pa.schema(
    {
        "id": pa.string(),
        "title": pa.string(),
        "text": pa.string(),
        "pseudo_queries": pa.list_(pa.string()),
        "docid": pa.string(),
    }
)
MARKER = "corpus.json"
LAYOUT = 1
BATCH = 1000
MEMORY_BYTES = 64 * 2**20
"""A larger table is written to disk and memory-mapped."""
CACHED_FILE_BYTES = 32 * 2**20
"""A larger file is read once; afterwards its cached table is used."""


@dataclass(frozen=True)
class StoredCorpus:
    """Checked passages and what identifies them.

    Args:
        dataset (`datasets.Dataset`): The passages, with the columns of `SCHEMA`.
        fingerprint (`str`): SHA-256 of ids and contents, in order.
    """

    dataset: Dataset
    fingerprint: str


def corpus_features() -> Features:
    """The columns of `SCHEMA`, as `datasets` describes them."""
    from datasets import Features

    return Features.from_arrow_schema(SCHEMA)


def _cache_folder(cache_dir: str | os.PathLike[str] | None) -> Path:
    from datasets import config

    return Path(cache_dir or config.HF_DATASETS_CACHE) / "dgr_trainer"


class CorpusDigest:
    """SHA-256 of the ids and contents of passages, in order."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256()

    def update(self, rows: Iterable[dict[str, Any]]) -> None:
        """Add passages, given as rows with the fields of a passage."""
        self._hash.update("".join(map(_as_json, rows)).encode("ascii"))

    def hexdigest(self) -> str:
        """The SHA-256 of the passages so far, as 64 hexadecimal digits."""
        return self._hash.hexdigest()


def _as_json(row: dict[str, Any]) -> str:
    """The values of a passage as a line of JSON, in half of the time that `json.dumps` takes for it."""
    queries = ",".join(map(quoted, row["pseudo_queries"]))
    docid = "null" if row["docid"] is None else quoted(row["docid"])
    return f"[{quoted(row['id'])},{quoted(row['title'])},{quoted(row['text'])},[{queries}],{docid}]\n"


def store(
    source: NumberedPassages, *, key: str | None = None, cache_dir: str | os.PathLike[str] | None = None
) -> StoredCorpus:
    """Check passages and put them in a table.

    Args:
        source ([`NumberedPassages`]): The passages; read once, in batches.
        key (`str`, *optional*):
            Name of the cached table, which has to change whenever the passages do. Without it, a table of up to 64 MiB
            stays in memory, and a larger one is cached under a hash of its contents.
        cache_dir (`str` or `os.PathLike`, *optional*, defaults to `datasets.config.HF_DATASETS_CACHE`):
            Folder of the cache.

    Raises:
        ValueError: if an id occurs twice, or there is no passage with a title or a text.
    """
    from datasets import Dataset

    folder = _cache_folder(cache_dir)
    numbers, digest, total = array("q"), CorpusDigest(), 0
    batches: list[pa.Table] = []
    size = 0
    with ExitStack() as stack:
        temporary: Path | None = None
        for batch, (batch_numbers, kept) in _tables(source):
            total += len(batch_numbers)
            numbers.extend(number for number, _ in kept)
            digest.update(row for _, row in kept)
            batches.append(batch)
            size += batch.nbytes
            if temporary is None and (key is not None or size > MEMORY_BYTES):
                temporary = stack.enter_context(temporary_folder(folder / "corpus"))
                schema = corpus_features().arrow_schema
                writer = stack.enter_context(pa.ipc.new_stream(str(temporary / "passages.arrow"), schema))
            if temporary is not None:
                for unwritten in batches:
                    writer.write_table(unwritten)
                batches.clear()
        dropped = total - len(numbers)
        if not numbers:
            reason = f"all {total} passages have neither" if total else "there is no passage in it at all"
            raise DGRValueError(f"{source.name}: no passage with a title or a text ({reason}), so there is no corpus.")
        if temporary is None:
            dataset = Dataset(pa.concat_tables(batches))
            _check_duplicates(dataset, numbers, source)
            _warn_of_dropped(source.name, dropped, total)
            return StoredCorpus(dataset, digest.hexdigest())
        writer.close()
        _check_duplicates(Dataset.from_file(str(temporary / "passages.arrow")), numbers, source)
        facts = {"layout": LAYOUT, "fingerprint": digest.hexdigest(), "passages": len(numbers), "dropped": dropped}
        (temporary / MARKER).write_text(json.dumps(facts), encoding="utf-8")
        target = folder / (key or f"contents-{digest.hexdigest()}")
        try:
            os.rename(temporary, target)
        except OSError:
            if not (target / MARKER).is_file():  # otherwise another process was first, with the same passages
                raise
    stored = stored_under(target.name, source.name, cache_dir=cache_dir)
    if stored is None:
        raise OSError(f"The table of {source.name} was written to {target} and is gone. Read the corpus again.")
    return stored


def stored_under(key: str, name: str, *, cache_dir: str | os.PathLike[str] | None = None) -> StoredCorpus | None:
    """The cached table with that key, or `None`; the warning about dropped passages is repeated."""
    from datasets import Dataset

    folder = _cache_folder(cache_dir) / key
    if not (folder / MARKER).is_file():
        return None
    facts = json.loads((folder / MARKER).read_text(encoding="utf-8"))
    _warn_of_dropped(name, facts["dropped"], facts["passages"] + facts["dropped"])
    return StoredCorpus(Dataset.from_file(str(folder / "passages.arrow")), facts["fingerprint"])


def file_key(path: Path, reader: str) -> str | None:
    """The key of the cached table of a large file: a hash of its bytes and its reader. `None` for a small file."""
    if path.stat().st_size <= CACHED_FILE_BYTES:
        return None
    digest = hashlib.sha256()
    with (
        open(path, "rb") as file,
        tqdm(
            total=path.stat().st_size, desc=f"Hashing {path.name}", unit="B", unit_scale=True, delay=2, leave=False
        ) as bar,
    ):
        while block := file.read(1 << 20):
            digest.update(block)
            bar.update(len(block))
    content = digest.hexdigest()
    return "file-" + hashlib.sha256(f"{LAYOUT} {reader} {compression(path)} {content}".encode()).hexdigest()


Numbered = list[tuple[int, dict[str, Any]]]


def _tables(source: NumberedPassages) -> Iterator[tuple[pa.Table, tuple[list[int], Numbered]]]:
    """Batches as tables, with the numbers of all their passages and the rows of those that are not empty."""
    numbers: list[int] = []
    kept: Numbered = []
    progress = tqdm(source.rows, desc=f"Reading {Path(source.name).name}", unit=" passages", delay=2)
    for number, row in progress:
        numbers.append(number)
        if row["title"].strip() or row["text"].strip():
            kept.append((number, row))
        if len(numbers) == BATCH:
            yield _table(kept, source), (numbers, kept)
            numbers, kept = [], []
    if numbers:
        yield _table(kept, source), (numbers, kept)


def _table(kept: Numbered, source: NumberedPassages) -> pa.Table:
    try:
        return pa.Table.from_pylist([row for _, row in kept], schema=corpus_features().arrow_schema)
    except UnicodeEncodeError:
        for number, row in kept:
            try:
                json.dumps(list(row.values()), ensure_ascii=False).encode("utf-8")
            except UnicodeEncodeError as error:
                raise DGRValueError(
                    f"{source.location(number)}: a text that is not Unicode ({error}). It holds half of a surrogate "
                    "pair, as if a character was cut in two: correct the text."
                ) from None
        raise


def _check_duplicates(dataset: Dataset, numbers: array[int], source: NumberedPassages) -> None:
    duplicates = IdColumn(dataset.data.column("id")).duplicates()
    if not duplicates:
        return
    examples = "; ".join(
        f"{id!r} ({', '.join(source.location(numbers[position]) for position in positions[:3])})"
        for id, positions in list(duplicates.items())[:5]
    )
    raise DGRValueError(
        f"{source.name}: {len(duplicates)} passage ids occur more than once: {examples}"
        f"{'; ...' if len(duplicates) > 5 else ''}. Every passage needs its own id."
    )


def _warn_of_dropped(name: str, dropped: int, total: int) -> None:
    if dropped:
        logger.warning("%s: %d of %d passages have neither a title nor a text and were dropped.", name, dropped, total)
