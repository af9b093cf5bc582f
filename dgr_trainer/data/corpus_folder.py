"""A corpus on disk: a saved `datasets.Dataset`, and later additions and removals.

`corpus.json` describes the folder. Added passages are a separate part, a saved dataset in a subfolder; the numbers of
removed passages are in a file. So the cost of a change depends on its size, not on that of the corpus.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pyarrow as pa

from dgr_trainer.data.corpus_cache import LAYOUT, MARKER, CorpusDigest, StoredCorpus
from dgr_trainer.data.saved_tables import SavedTable, open_saved_table
from dgr_trainer.errors import DGRValueError, input_errors
from dgr_trainer.files.lines import listing
from dgr_trainer.files.links import link_tree

if TYPE_CHECKING:
    from datasets import Dataset

CHANGED_LAYOUT = 2


@dataclass(frozen=True)
class OpenedCorpus:
    """A corpus in a folder.

    Args:
        table (`pyarrow.Table`): The passages that are not removed.
        saved (`Sequence[SavedTable]`): Its parts.
        facts (`Mapping[str, Any]`): Its description.
        removed (`np.ndarray` of int64): Numbers of the removed passages over all parts, ascending.
        fingerprint (`str`, *optional*): Fingerprint of the passages; `None` for a changed corpus.
    """

    table: pa.Table
    saved: Sequence[SavedTable]
    facts: dict[str, Any]
    removed: np.ndarray
    fingerprint: str | None

    def dataset(self) -> Dataset:
        """The passages as a dataset, on the same mapped files."""
        from datasets import Dataset, concatenate_datasets
        from datasets.table import InMemoryTable

        if len(self.removed):
            # Despite its name, InMemoryTable copies nothing.
            return Dataset(InMemoryTable(self.table), fingerprint=_dataset_name(self.facts, self.removed))
        parts = [part.dataset() for part in self.saved]
        return concatenate_datasets(parts) if len(parts) > 1 else parts[0]


def write_corpus(folder: Path, stored: StoredCorpus) -> None:
    """Write a whole corpus to an empty folder."""
    stored.dataset.save_to_disk(str(folder))
    _write_facts(folder, {"layout": LAYOUT, "fingerprint": stored.fingerprint, "passages": len(stored.dataset)})


def write_changed(source: Path, folder: Path, removed: np.ndarray, added: StoredCorpus | None) -> None:
    """Write a corpus with some passages removed and others added at the end. Unchanged files are linked, not copied.

    Args:
        source (`pathlib.Path`): The folder of the present corpus.
        folder (`pathlib.Path`): The folder to write.
        removed (`np.ndarray` of int64): Numbers of passages, ascending.
        added (`StoredCorpus`, *optional*): More passages, with new ids.
    """
    facts = _read_facts(source)
    parts, gone = _parts(facts), _removed(source, facts)
    removed_rows = removed + np.searchsorted(gone - np.arange(len(gone)), removed, side="right")
    link_tree(source, folder, leave_out=lambda name: name in (MARKER, facts.get("removed")))
    gone = np.union1d(gone, removed_rows)
    if added is not None:
        name = f"part-{len(parts)}"
        added.dataset.save_to_disk(str(folder / name))
        parts = [*parts, {"name": name, "passages": len(added.dataset), "fingerprint": added.fingerprint}]
    if len(gone):
        np.save(folder / "removed.npy", gone, allow_pickle=False)
    changed = {
        "layout": CHANGED_LAYOUT,
        "passages": sum(part["passages"] for part in parts) - len(gone),
        "parts": parts,
        "removed": "removed.npy" if len(gone) else None,
    }
    _write_facts(folder, changed)


def open_corpus(path: Path) -> OpenedCorpus:
    """Open the folder of a corpus, memory-mapped.

    Raises:
        FileNotFoundError: if there is no saved corpus.
        ValueError: if its files do not belong together.
    """
    facts = _read_facts(path)
    parts, gone = _parts(facts), _removed(path, facts)
    with input_errors(f"The corpus at {path} is damaged", Exception):
        saved = [open_saved_table(path / part["name"]) for part in parts]
        tables = [part.table for part in saved]
    for table, part in zip(tables, parts, strict=True):
        if table.num_rows != part["passages"]:
            raise DGRValueError(
                f"{path / part['name']} holds {table.num_rows} passages, but {part['passages']} were saved: its files "
                "do not belong together. Save the corpus again."
            )
    table = pa.concat_tables(tables)
    if len(gone):
        # Slices of the memory-mapped tables, which copy nothing.
        bounds = np.concatenate([[-1], gone, [len(table)]])
        kept = np.flatnonzero(np.diff(bounds) > 1)
        starts, lengths = (bounds[kept] + 1).tolist(), (np.diff(bounds)[kept] - 1).tolist()
        table = pa.concat_tables([table.slice(*span) for span in zip(starts, lengths, strict=True)])
    changed = len(parts) > 1 or len(gone) > 0
    return OpenedCorpus(table, saved, facts, gone, None if changed else facts.get("fingerprint"))


def verify_corpus(path: Path) -> None:
    """Check the SHA-256 of the ids and contents of every part, which reads all of it.

    Raises:
        ValueError: if a part is damaged.
    """
    from datasets import load_from_disk

    for part in _parts(_read_facts(path)):
        folder = path / part["name"]
        digest = CorpusDigest()
        try:
            for batch in load_from_disk(str(folder)).with_format("arrow").iter(batch_size=1000):
                digest.update(batch.to_pylist())
            intact = digest.hexdigest() == part["fingerprint"]
        except (pa.ArrowException, UnicodeDecodeError):
            intact = False
        if not intact:
            raise DGRValueError(
                f"The corpus is damaged: the passages at {folder} do not have the SHA-256 they were written with. "
                "Copy the folder again, or make it again."
            )


def _read_facts(path: Path) -> dict[str, Any]:
    if not (path / MARKER).is_file():
        contents = listing(path) if path.is_dir() else "nothing there"
        raise FileNotFoundError(
            f"{path} is no saved corpus: it has no {MARKER}. Found: {contents}. "
            "Corpus.read reads corpora in other formats."
        )
    with input_errors(f"{path / MARKER} is damaged", ValueError):
        facts: dict[str, Any] = json.loads((path / MARKER).read_text(encoding="utf-8"))
    if facts.get("layout") not in (LAYOUT, CHANGED_LAYOUT):
        raise DGRValueError(
            f"{path} was saved in layout {facts.get('layout')!r} of a corpus, and this version of dgr-trainer "
            f"reads layouts {LAYOUT} and {CHANGED_LAYOUT}. Save it again with this version, or use the version that "
            "wrote it."
        )
    return facts


def _write_facts(folder: Path, facts: dict[str, Any]) -> None:
    (folder / MARKER).write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")


def _parts(facts: dict[str, Any]) -> list[dict[str, Any]]:
    if facts["layout"] == LAYOUT:
        return [{"name": "", "passages": facts["passages"], "fingerprint": facts["fingerprint"]}]
    return cast(list[dict[str, Any]], facts["parts"])


def _removed(path: Path, facts: dict[str, Any]) -> np.ndarray:
    """The numbers of the removed passages, counted over all parts."""
    if not facts.get("removed"):
        return np.empty(0, np.int64)
    gone: np.ndarray = np.load(path / facts["removed"], allow_pickle=False)
    if gone.dtype != np.int64 or sum(part["passages"] for part in _parts(facts)) - len(gone) != facts["passages"]:
        raise DGRValueError(
            f"{path / facts['removed']} does not belong to the corpus in {path}. Copy the folder again, or make it "
            "again."
        )
    return gone


def _dataset_name(facts: dict[str, Any], gone: np.ndarray) -> str:
    """The fingerprint of the dataset, by which `datasets` finds cached results."""
    import datasets

    return str(datasets.fingerprint.Hasher.hash([[part["fingerprint"] for part in facts["parts"]], gone.tobytes()]))
