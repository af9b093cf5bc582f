"""Measures the cost of opening an index, and of changing an index together with its corpus.

    python benchmarks/storage.py --passages 100000

Passages are synthetic: words follow Zipf's law. Two comparisons, each in one process, with alternating variants and
medians:

- opening with the default checks, without checks, and with a check of all files;
- adding and removing passages with `save_changed`, and by rewriting index and corpus, as a program without segments
  would.

The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from dgr_trainer.data.corpus import Corpus
from dgr_trainer.data.passages import Passage
from dgr_trainer.files.atomic import atomic_folder
from dgr_trainer.index import FMIndex
from dgr_trainer.index.corpus_sync import save_changed

_WORDS = 50_000
_LENGTH = 100


def passages(first: int, number: int) -> list[Passage]:
    """Passages of words that are numbers."""
    words = 3 + np.random.default_rng(first).zipf(1.3, (number, _LENGTH)) % (_WORDS - 3)
    return [Passage(f"p{first + offset}", "", " ".join(map(str, row))) for offset, row in enumerate(words.tolist())]


def sequences(made: Sequence[Passage]) -> list[list[int]]:
    """Token ids of passages: their words."""
    return [list(map(int, passage.text.split())) for passage in made]


def milliseconds(action: Callable[[], Any]) -> float:
    """Time of a call."""
    start = time.perf_counter()
    action()
    return 1000 * (time.perf_counter() - start)


def size(folder: Path) -> int:
    """Bytes of all files in a folder."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def opening(folder: Path, rounds: int) -> dict[str, float]:
    """Milliseconds to open an index."""
    ways = {"unchecked": False, "default": None, "verified": True}
    taken: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(rounds):
        for way, verify in ways.items():
            taken[way].append(milliseconds(lambda verify=verify: FMIndex.load(folder, verify=verify)))
    results = {f"open_{way}_ms": statistics.median(times) for way, times in taken.items()}
    copy = folder.with_name("copy")
    shutil.copytree(folder, copy)
    results["open_copy_first_ms"] = milliseconds(lambda: FMIndex.load(copy))
    results["open_copy_then_ms"] = milliseconds(lambda: FMIndex.load(copy))
    shutil.rmtree(copy)
    return results


def change(root: Path, new: list[Passage], gone: list[str]) -> None:
    """Add and remove passages with segments and parts."""
    opened, added = FMIndex.load(root), Corpus.from_passages(new)
    removed = np.unique(opened.passage_positions(gone))
    index = opened.remove(gone).add(sequences(new), passage_ids=added.ids)
    save_changed(root, "index.json", opened, index, removed=removed, added=added, compacted=False)


def rewrite(root: Path, new: list[Passage], gone: list[str]) -> None:
    """Add and remove passages by rewriting the folder; the index is not rebuilt."""
    opened, corpus = FMIndex.load(root), Corpus.load_from_disk(root / "corpus")
    index = opened.remove(gone).add(sequences(new), passage_ids=[passage.id for passage in new])
    removed = set(gone)
    left = (passage for passage in corpus if passage.id not in removed)
    with atomic_folder(root, marker="index.json") as folder:
        index.save(folder)
        Corpus.from_passages(chain(left, new)).save_to_disk(folder / "corpus")


def changing(root: Path, number: int, changed: int, rounds: int) -> dict[str, float]:
    """Milliseconds and bytes to add `changed` passages and to remove as many."""
    ways = {"change": change, "rewrite": rewrite}
    taken: dict[str, list[float]] = {way: [] for way in ways}
    written: dict[str, int] = {}
    for turn in range(rounds):
        new = passages(number + turn * changed, changed)
        gone = [f"p{position}" for position in range(turn * changed, (turn + 1) * changed)]
        for way, action in ways.items():
            folder = root.with_name(way)
            shutil.copytree(root, folder)
            FMIndex.load(folder)
            before = {file.stat().st_ino for file in folder.rglob("*") if file.is_file()}
            taken[way].append(milliseconds(lambda do=action, at=folder, new=new, gone=gone: do(at, new, gone)))
            after = [file.stat() for file in folder.rglob("*") if file.is_file()]
            written[way] = sum(file.st_size for file in after if file.st_ino not in before)
            ids = list(FMIndex.load(folder).passage_ids)
            assert ids == list(Corpus.load_from_disk(folder / "corpus").ids) and len(ids) == number
            shutil.rmtree(folder)
    times = {f"{way}_ms": statistics.median(durations) for way, durations in taken.items()}
    return times | {f"{way}_bytes": float(count) for way, count in written.items()}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the measurements and print them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--passages", type=int, default=100_000, help="of 100 words each")
    parser.add_argument("--changed", type=int, default=100, help="passages that are added, and as many removed")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary) / "index"
        made = passages(0, options.passages)
        FMIndex.build(
            sequences(made), passage_ids=[p.id for p in made], vocab_size=_WORDS, separator=2, progress=False
        ).save(root)
        results: dict[str, float] = {"passages": options.passages, "index_bytes": size(root)}
        results |= opening(root, options.rounds)
        Corpus.from_passages(made).save_to_disk(root / "corpus")
        results["corpus_bytes"] = size(root / "corpus")
        results |= changing(root, options.passages, options.changed, options.rounds)
    results["verified_to_default"] = results["open_verified_ms"] / results["open_default_ms"]
    results["rewrite_to_change"] = results["rewrite_ms"] / results["change_ms"]
    for name, value in results.items():
        print(f"{name:24} {value:16,.1f}")
    print(json.dumps({name: round(value, 3) for name, value in results.items()}))


if __name__ == "__main__":
    main()
