"""Time and memory of semantic ids for many passages: fitting, numbering, adding further ones, saving and loading.

    python benchmarks/semantic_id_codes.py --folder DIR
    python benchmarks/semantic_id_codes.py --folder DIR --vectors 200000

Synthetic vectors: a tree of clusters with noise, so that codes are used unequally and passages share paths, as with
the vectors of texts. They are written to a `.npy` file in blocks, and memory-mapped. Times are CPU times, which other
processes of a busy machine change little. Memory is that of the process without the pages of the file, which the
system takes back when it needs them (`RssAnon` of Linux), sampled while each stage runs. The last line is one JSON
object.
"""

import argparse
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from dgr_trainer import SemanticIds

BLOCK = 1 << 15


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="Where vectors and ids are written.")
    parser.add_argument("--vectors", type=int, default=2_000_000, help="Vectors that codes are learnt from.")
    parser.add_argument("--further", type=int, default=100_000, help="Vectors that are added afterwards.")
    parser.add_argument("--dimensions", type=int, default=256)
    parser.add_argument("--dtype", choices=["float16", "float32"], default="float16", help="Type of the file.")
    parser.add_argument("--kind", choices=["residual", "hierarchical"], default="residual")
    parser.add_argument("--balanced", action="store_true", help="Let no cluster have more than its share.")
    parser.add_argument("--levels", type=int, default=3)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--threads", type=int, default=1, help="Threads of faiss and of NumPy's matrix products.")
    return parser.parse_args()


def main() -> None:
    options = parse()
    limit_threads(options.threads)
    options.folder.mkdir(parents=True, exist_ok=True)
    path, further = options.folder / "vectors.npy", options.folder / "further.npy"
    write_vectors(path, options.vectors, options.dimensions, options.dtype, seed=1)
    write_vectors(further, options.further, options.dimensions, options.dtype, seed=2)
    result = {name: value for name, value in vars(options).items() if name != "folder"}
    result["file_mib"] = round(path.stat().st_size / 2**20)

    def measured(name: str, run: Callable[[], object]) -> object:
        began = time.process_time()
        with sampled_memory() as peak:
            came_out = run()
        result[f"{name}_s"] = round(time.process_time() - began, 3)
        result[f"{name}_mib"] = round(peak[0] / 2**10)
        print(f"{name:>12}: {result[f'{name}_s']:8.1f} s, at most {result[f'{name}_mib']:,} MiB")
        return came_out

    names = (f"p{row}" for row in range(options.vectors))
    settings = {"kind": options.kind, "levels": options.levels, "size": options.size, "balanced": options.balanced}
    ids = measured("fit", lambda: SemanticIds.fit(path, names, **settings, progress=False))
    assert isinstance(ids, SemanticIds)
    statistics = measured("statistics", lambda: ids.statistics(path))
    print(statistics)
    result |= {name: value for name, value in statistics.to_dict().items() if name in ("collisions", "longest")}
    result["distinct_paths"] = statistics.prefixes[-1]
    before, numbers = ids.paths.copy(), ids.numbers.copy()
    added = measured("add", lambda: ids.add(further, (f"new{row}" for row in range(options.further))))
    assert (ids.paths[: len(before)] == before).all() and (ids.numbers[: len(before)] == numbers).all()
    result["added_that_share_a_path"] = int((ids.numbers[len(before) :] > 0).sum())
    docids = set(measured("docids", ids.docids).values())
    assert len(docids) == len(ids) == options.vectors + len(added), "each passage has a docid of its own"
    del docids
    measured("save", lambda: ids.save(options.folder / "ids"))
    loaded = measured("load", lambda: SemanticIds.load(options.folder / "ids"))
    assert loaded[f"p{options.vectors - 1}"] == ids[f"p{options.vectors - 1}"]
    print(json.dumps(result))


def limit_threads(threads: int) -> None:
    import faiss
    from threadpoolctl import threadpool_limits

    faiss.omp_set_num_threads(threads)
    threadpool_limits(threads)


def write_vectors(path: Path, count: int, dimensions: int, dtype: str, seed: int) -> None:
    """Vectors of a tree of clusters: 100 topics of 100 subjects each, drawn as often as words are (Zipf)."""
    drawn = np.random.default_rng(0)
    topics = drawn.standard_normal((100, dimensions), np.float32)
    subjects = np.repeat(topics, 100, axis=0) + 0.7 * drawn.standard_normal((10_000, dimensions), np.float32)
    shares = 1 / np.arange(10, 10_010)
    order = drawn.permutation(10_000)
    random = np.random.default_rng(seed)
    file = np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=(count, dimensions))
    for start in range(0, count, BLOCK):
        stop = min(start + BLOCK, count)
        chosen = order[random.choice(10_000, stop - start, p=shares / shares.sum())]
        rows = subjects[chosen] + 0.5 * random.standard_normal((stop - start, dimensions), np.float32)
        file[start:stop] = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    file.flush()


@contextmanager
def sampled_memory() -> Iterator[list[int]]:
    """The most anonymous memory of this process in KiB, as long as it runs; 0 where the system does not tell it."""
    peak, ended = [0], threading.Event()

    def sample() -> None:
        status = Path("/proc/self/status")
        while status.exists():
            line = next((line for line in status.read_text().splitlines() if line.startswith("RssAnon")), "RssAnon: 0")
            peak[0] = max(peak[0], int(line.split()[1]))
            if ended.wait(0.05):
                return

    thread = threading.Thread(target=sample, daemon=True)
    thread.start()
    try:
        yield peak
    finally:
        ended.set()
        thread.join()


if __name__ == "__main__":
    main()
