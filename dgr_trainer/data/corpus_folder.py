"""A corpus on the disk: a saved `datasets.Dataset`, and what was added to it and removed from it since.

`corpus.json` says what the folder holds. Passages that are added lie in a part of their own, a saved dataset in a
subfolder; the numbers of those that are removed lie in a file. So a change costs what changes, not what is there.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
from datasets import Dataset
from datasets.table import InMemoryTable

from dgr_trainer.data.corpus_cache import LAYOUT, MARKER, CorpusDigest, StoredCorpus
from dgr_trainer.errors import DGRValueError, input_errors
from dgr_trainer.files.lines import listing
from dgr_trainer.files.links import link_tree

CHANGED_LAYOUT = 2


def write_corpus(folder: Path, stored: StoredCorpus) -> None:
    """Write a whole corpus to an empty folder."""
    stored.dataset.save_to_disk(str(folder))
    _write_facts(folder, {"layout": LAYOUT, "fingerprint": stored.fingerprint, "passages": len(stored.dataset)})


def write_changed(source: Path, folder: Path, removed: np.ndarray, added: StoredCorpus | None) -> None:
    """Write a corpus without some passages and with others after the rest. What stays is linked, not copied.

    Args:
        source (`pathlib.Path`): the folder of the corpus as it is.
        folder (`pathlib.Path`): where the changed one goes.
        removed (`np.ndarray` of int64): numbers of passages, ascending.
        added (`StoredCorpus`, *optional*): more passages, whose ids are not taken.
    """
    facts = _read_facts(source)
    parts, gone = _parts(facts), _gone(source, facts)
    own = removed + np.searchsorted(gone - np.arange(len(gone)), removed, side="right")
    link_tree(source, folder, leave_out=lambda name: name in (MARKER, facts.get("removed")))
    gone = np.union1d(gone, own)
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


def open_corpus(path: Path) -> tuple[Dataset, str | None]:
    """Open the folder of a corpus.

    Returns:
        `tuple[datasets.Dataset, str | None]`: the passages, memory-mapped, and their fingerprint; that of a changed
        corpus is not known.

    Raises:
        FileNotFoundError: if there is no saved corpus.
        ValueError: if its files do not belong together.
    """
    facts = _read_facts(path)
    parts, gone = _parts(facts), _gone(path, facts)
    with input_errors(f"The corpus at {path} is damaged", Exception):
        found = [datasets.load_from_disk(str(path / part["name"])) for part in parts]
    for dataset, part in zip(found, parts, strict=True):
        if len(dataset) != part["passages"]:
            raise DGRValueError(
                f"{path / part['name']} holds {len(dataset)} passages, but {part['passages']} were saved: its files "
                "do not belong together. Save the corpus again."
            )
    if len(gone):
        # Slices of what is mapped. The table holds nothing of its own, whatever its name says.
        table = pa.concat_tables([dataset.data.table for dataset in found])
        bounds = np.concatenate([[-1], gone, [len(table)]])
        kept = np.flatnonzero(np.diff(bounds) > 1)
        starts, lengths = (bounds[kept] + 1).tolist(), (np.diff(bounds)[kept] - 1).tolist()
        slices = pa.concat_tables([table.slice(*place) for place in zip(starts, lengths, strict=True)])
        return Dataset(InMemoryTable(slices), fingerprint=_name_of(facts, gone)), None
    if len(found) > 1:
        return datasets.concatenate_datasets(found), None
    return found[0], facts.get("fingerprint")


def verify_corpus(path: Path) -> None:
    """Compare every part with the SHA-256 of its ids and contents, which reads all of it.

    Raises:
        ValueError: if a part is damaged.
    """
    for part in _parts(_read_facts(path)):
        place = path / part["name"]
        digest = CorpusDigest()
        try:
            for batch in datasets.load_from_disk(str(place)).with_format("arrow").iter(batch_size=1000):
                digest.update(batch.to_pylist())
            whole = digest.hexdigest() == part["fingerprint"]
        except (pa.ArrowException, UnicodeDecodeError):
            whole = False
        if not whole:
            raise DGRValueError(
                f"The corpus is damaged: the passages at {place} do not have the SHA-256 they were written with. "
                "Copy the folder again, or make it again."
            )


def _read_facts(path: Path) -> dict[str, Any]:
    if not (path / MARKER).is_file():
        found = listing(path) if path.is_dir() else "nothing there"
        raise FileNotFoundError(
            f"{path} is no saved corpus: it has no {MARKER}. Found: {found}. "
            "Corpus.read reads corpora in other formats."
        )
    with input_errors(f"{path / MARKER} is damaged", ValueError):
        facts = json.loads((path / MARKER).read_text(encoding="utf-8"))
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
    return facts["parts"]


def _gone(path: Path, facts: dict[str, Any]) -> np.ndarray:
    """The numbers of the removed passages among those of all parts."""
    if not facts.get("removed"):
        return np.empty(0, np.int64)
    gone = np.load(path / facts["removed"], allow_pickle=False)
    if gone.dtype != np.int64 or sum(part["passages"] for part in _parts(facts)) - len(gone) != facts["passages"]:
        raise DGRValueError(
            f"{path / facts['removed']} does not belong to the corpus in {path}. Copy the folder again, or make it "
            "again."
        )
    return gone


def _name_of(facts: dict[str, Any], gone: np.ndarray) -> str:
    """A name of the passages, by which `datasets` knows what it has cached of them."""
    return datasets.fingerprint.Hasher.hash([[part["fingerprint"] for part in facts["parts"]], gone.tobytes()])
