"""A Lucene index of a corpus: built once by Anserini, and reused while corpus and settings are the same."""

from __future__ import annotations

import json
import logging
import re
import shutil
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from dgr_trainer.data.corpus import Corpus
from dgr_trainer.errors import DGRRuntimeError, DGRValueError
from dgr_trainer.files.atomic import atomic_folder, restore_folder
from dgr_trainer.files.progress import elapsed_time
from dgr_trainer.teachers.inputs import passage_text
from dgr_trainer.teachers.lucene.anserini import run_anserini

logger = logging.getLogger(__name__)

MARKER = "dgr_trainer.json"
_PASSAGES_PER_FILE = 100_000  # Each thread of Anserini reads one file.


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

    Pyserini can open the index too: `LuceneSearcher(path)`. An interruption leaves no partial index.

    Args:
        corpus (`Corpus`): The passages.
        path (`pathlib.Path`): The folder. An index that this function made of other passages is replaced.
        java (`pathlib.Path`): The `java` program.
        jar (`pathlib.Path`): The Anserini jar.
        fields (`Sequence[str]`): Fields of a passage that are indexed.
        document_vectors (`bool`): Whether to store the terms of each passage, which RM3 reads.
        separate_fields (`bool`): Whether to index each field separately too, so that it can be weighted.
        memory (`str`): Maximum heap of Java.
        threads (`int`): Number of indexing threads.
        progress (`bool`): Whether to show progress bars.

    Returns:
        `bool`: `True` if the index was built, `False` if it existed.

    Raises:
        FileExistsError: if the folder contains something else.
        RuntimeError: if Anserini failed.
        ValueError: if no passage has text in `fields`.
    """
    identity = {"corpus_fingerprint": corpus.fingerprint, "fields": list(fields), "jar": jar.name}
    contents = {"document_vectors": document_vectors, "separate_fields": separate_fields}
    if _exists(path, identity, contents):
        logger.info("The folder %s contains the Lucene index of this corpus already.", path)
        return False
    with atomic_folder(path, marker=MARKER) as folder:
        collection = folder / "collection"
        _write_collection(corpus, collection, fields, separate_fields, progress)
        arguments = ["-collection", "JsonCollection", "-generator", "DefaultLuceneDocumentGenerator"]
        arguments += ["-input", str(collection.absolute()), "-index", str(folder.absolute())]
        arguments += ["-threads", str(threads), "-optimize", *(["-storeDocvectors"] if document_vectors else [])]
        arguments += ["-fields", *fields] if separate_fields else []
        with elapsed_time(f"Lucene indexes {len(corpus):,} passages", shown=progress):
            output = run_anserini(java, jar, "io.anserini.index.IndexCollection", arguments, memory)
        failed = re.search(r"\berrors:\s+([\d,]+)", output)
        if failed and int(failed.group(1).replace(",", "")) > 0:
            raise DGRRuntimeError(
                f"Anserini could not index {failed.group(1)} of {len(corpus)} passages:\n{output[-4000:]}"
            )
        shutil.rmtree(collection)
        (folder / MARKER).write_text(json.dumps(identity | contents, indent=2), encoding="utf-8")
    return True


def _exists(path: Path, identity: dict[str, Any], contents: dict[str, bool]) -> bool:
    restore_folder(path)
    marker = path / MARKER
    if not marker.is_file():
        return False
    saved = json.loads(marker.read_text(encoding="utf-8"))
    changed = [name for name, value in identity.items() if saved.get(name) != value]
    # An index that contains more than is needed can be reused.
    changed += [name for name, needed in contents.items() if needed and not saved.get(name)]
    if changed:
        logger.warning("The Lucene index in %s has another %s; it is rebuilt.", path, " and ".join(changed))
    return not changed


def _write_collection(corpus: Corpus, folder: Path, fields: Sequence[str], separate: bool, progress: bool) -> None:
    folder.mkdir()
    empty = True
    passages = iter(tqdm(corpus, desc="Writing passages for Lucene", unit=" passages", disable=not progress))
    for number, start in enumerate(range(0, len(corpus), _PASSAGES_PER_FILE)):
        with open(folder / f"part-{number:05d}.jsonl", "w", encoding="utf-8", newline="\n") as file:
            for passage in islice(passages, min(_PASSAGES_PER_FILE, len(corpus) - start)):
                contents = passage_text(passage, fields)
                empty = empty and not contents.strip()
                row = {name: passage_text(passage, (name,)) for name in fields} if separate else {}
                row |= {"id": passage.id, "contents": contents}
                file.write(json.dumps(row) + "\n")
    if empty:
        raise DGRValueError(
            f"None of the {len(corpus)} passages has text in {' or '.join(fields)}: there is nothing to index. "
            "Check the corpus and `fields`."
        )
