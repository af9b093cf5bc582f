"""A Lucene index of a corpus: built once by Anserini, found again as long as corpus and settings are the same."""

from __future__ import annotations

import json
import logging
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from dgr_trainer.data.corpus import Corpus
from dgr_trainer.errors import DGRRuntimeError, DGRValueError
from dgr_trainer.files.atomic import atomic_folder, restore_folder
from dgr_trainer.teachers.inputs import passage_text
from dgr_trainer.teachers.lucene.anserini import run_anserini

logger = logging.getLogger(__name__)

MARKER = "dgr_trainer.json"
_PASSAGES_A_FILE = 100_000  # Anserini reads one file a thread


def build_index(
    corpus: Corpus,
    path: Path,
    *,
    java: Path,
    jar: Path,
    fields: Sequence[str],
    document_vectors: bool,
    separate_fields: bool,
    memory: str,
    threads: int,
    progress: bool,
) -> bool:
    """Index a corpus with Lucene, unless the folder has its index already.

    The index is one of Pyserini's as well: `LuceneSearcher(path)` opens it. It appears whole or not at all.

    Args:
        corpus (`Corpus`): the passages.
        path (`pathlib.Path`): the folder. An index that this function made of other passages is replaced.
        java (`pathlib.Path`): the `java` program.
        jar (`pathlib.Path`): the Anserini jar.
        fields (`Sequence[str]`): what is indexed of a passage.
        document_vectors (`bool`): whether to store each passage's terms, which RM3 reads.
        separate_fields (`bool`): whether each field is also indexed by itself, so that it can be weighted.
        memory (`str`): the most heap Java may take.
        threads (`int`): number of indexing threads.
        progress (`bool`): whether to show progress bars.

    Returns:
        `bool`: `True` if the index was built, `False` if it was there.

    Raises:
        FileExistsError: if the folder holds something else.
        RuntimeError: if Anserini failed.
        ValueError: if no passage has text in `fields`.
    """
    wanted = {"corpus_fingerprint": corpus.fingerprint, "fields": list(fields), "jar": jar.name}
    kept = {"document_vectors": document_vectors, "separate_fields": separate_fields}
    if _is_there(path, wanted, kept):
        logger.info("The Lucene index in %s is of this corpus already.", path)
        return False
    with atomic_folder(path, marker=MARKER) as folder:
        collection = folder / "collection"
        _write_collection(corpus, collection, fields, separate_fields, progress)
        arguments = ["-collection", "JsonCollection", "-generator", "DefaultLuceneDocumentGenerator"]
        arguments += ["-input", str(collection.absolute()), "-index", str(folder.absolute())]
        arguments += ["-threads", str(threads), "-optimize", *(["-storeDocvectors"] if document_vectors else [])]
        arguments += ["-fields", *fields] if separate_fields else []
        output = run_anserini(java, jar, "io.anserini.index.IndexCollection", arguments, memory)
        failed = re.search(r"\berrors:\s+([\d,]+)", output)
        if failed and int(failed.group(1).replace(",", "")) > 0:
            raise DGRRuntimeError(
                f"Anserini could not index {failed.group(1)} of {len(corpus)} passages:\n{output[-4000:]}"
            )
        shutil.rmtree(collection)
        (folder / MARKER).write_text(json.dumps(wanted | kept, indent=2), encoding="utf-8")
    return True


def _is_there(path: Path, wanted: dict[str, Any], kept: dict[str, bool]) -> bool:
    restore_folder(path)
    marker = path / MARKER
    if not marker.is_file():
        return False
    found = json.loads(marker.read_text(encoding="utf-8"))
    changed = [name for name, value in wanted.items() if found.get(name) != value]
    # An index that holds more than is needed serves as well.
    changed += [name for name, needed in kept.items() if needed and not found.get(name)]
    if changed:
        logger.warning("The Lucene index in %s has another %s; it is built anew.", path, " and ".join(changed))
    return not changed


def _write_collection(corpus: Corpus, folder: Path, fields: Sequence[str], separate: bool, progress: bool) -> None:
    folder.mkdir()
    empty = True
    passages = tqdm(corpus, desc="Writing passages for Lucene", unit="passage", disable=not progress)
    file = None
    try:
        for number, passage in enumerate(passages):
            if number % _PASSAGES_A_FILE == 0:
                if file is not None:
                    file.close()
                part = folder / f"part-{number // _PASSAGES_A_FILE:05d}.jsonl"
                file = open(part, "w", encoding="utf-8", newline="\n")
            contents = passage_text(passage, fields)
            empty = empty and not contents.strip()
            row = {name: passage_text(passage, (name,)) for name in fields} if separate else {}
            row |= {"id": passage.id, "contents": contents}
            file.write(json.dumps(row) + "\n")  # type: ignore[union-attr]
    finally:
        if file is not None:
            file.close()
    if empty:
        raise DGRValueError(
            f"None of the {len(corpus)} passages has text in {' or '.join(fields)}: there is nothing to index. "
            "Check the corpus and `fields`."
        )
