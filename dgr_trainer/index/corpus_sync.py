"""Changes an index and the corpus beside it in one step, in a folder of `dgr index` or of a retriever."""

from __future__ import annotations

from itertools import chain
from pathlib import Path

import numpy as np

from dgr_trainer.data.corpus import Corpus
from dgr_trainer.data.corpus_cache import StoredCorpus
from dgr_trainer.data.corpus_folder import write_changed
from dgr_trainer.errors import DGRValueError
from dgr_trainer.files.atomic import atomic_folder
from dgr_trainer.files.links import link_tree
from dgr_trainer.index.fm_index import FMIndex
from dgr_trainer.index.storage import belongs_to_index, unchanged

CORPUS = "corpus"


def save_changed(
    root: Path,
    marker: str,
    opened: FMIndex,
    changed: FMIndex,
    *,
    removed: np.ndarray,
    added: Corpus | None,
    compacted: bool,
) -> None:
    """Write a changed index and its corpus, which replace the older two in one step.

    Only what is new is written: the segment and the corpus part of the added passages, and which passages are removed.
    All other files of the folder are hard-linked. If the index was compacted, the whole corpus is written again. Then
    `changed` is the index in the folder, which can be changed further.

    Args:
        root (`pathlib.Path`): the folder that holds `corpus/`, and the index, itself or in a subfolder.
        marker (`str`): the file that identifies such a folder, see [`atomic_folder`].
        opened ([`FMIndex`]): the index as it was loaded.
        changed ([`FMIndex`]): the index that was made from it.
        removed (`np.ndarray` of int64): the numbers in `opened` of the passages that were removed, ascending.
        added ([`Corpus`], *optional*): the passages that were added, which come after the others.
        compacted (`bool`): whether the index was compacted.

    Raises:
        ValueError: if the corpus does not belong to the index, or the index was not loaded from that folder.
        RuntimeError: if another process has changed the index since it was loaded.
    """
    if opened.loaded_from is None:
        raise DGRValueError(
            "The index was not loaded from the disk, so there is no saved index to change. Save it with FMIndex.save."
        )
    index_folder, checksum = opened.loaded_from
    if not index_folder.is_relative_to(root.absolute()):
        raise DGRValueError(
            f"The index was loaded from {index_folder}, which is not in {root}, so it is not the one to change there. "
            "Load the index that is in that folder."
        )
    corpus = Corpus.load_from_disk(root / CORPUS)
    if len(corpus) != opened.num_passages or any(corpus.ids[n] != opened.passage_ids[n] for n in removed.tolist()):
        raise DGRValueError(
            f"The corpus in {root / CORPUS} ({len(corpus)} passages) does not belong to the index beside it "
            f"({opened.num_passages} passages). Index the corpus again."
        )
    with unchanged(index_folder, checksum), atomic_folder(root, marker=marker) as new:
        saved = changed._save_in_new(new / index_folder.relative_to(root.absolute()), index_folder, link=True)
        if compacted:
            removed_numbers = set(removed.tolist())
            kept = (passage for number, passage in enumerate(corpus) if number not in removed_numbers)
            Corpus.from_passages(chain(kept, added or ())).save_to_disk(new / CORPUS)
        else:
            new_part = None if added is None else StoredCorpus(added.dataset, added.fingerprint)
            write_changed(root / CORPUS, new / CORPUS, removed, new_part)
        index_in_root = index_folder == root.absolute()
        link_tree(
            root, new, leave_out=lambda name: (new / name).exists() or (index_in_root and belongs_to_index(name))
        )
    changed._is_saved(index_folder, saved)
