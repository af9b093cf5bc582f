import os

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dgr_trainer.teachers import score_store
from dgr_trainer.teachers.score_store import KEY, ScoreStore, content_key


def keys(*numbers):
    return np.array([content_key(b"query", str(number).encode()) for number in numbers], KEY)


def write(path, *numbers, settings=None, merge=False):
    with ScoreStore(path, settings or {"model": "a"}) as store:
        for number in numbers:
            store.add(keys(number), np.array([number / 7]))
        if merge:
            store.merge()
    return store


def read(path, *numbers, settings=None):
    with ScoreStore(path, settings or {"model": "a"}) as store:
        return store.scores(keys(*numbers))


def test_scores_are_found_again_to_the_last_bit(tmp_path):
    write(tmp_path / "new" / "cache", 1, 2)
    write(tmp_path / "new" / "cache", 3, -1e-300)
    found = read(tmp_path / "new" / "cache", 3, 4, 1, -1e-300, 2)
    assert found[[0, 2, 3, 4]].tolist() == [3 / 7, 1 / 7, -1e-300 / 7, 2 / 7] and np.isnan(found[1])


def test_query_and_passage_are_kept_apart():
    assert content_key(b"ab", b"c") != content_key(b"a", b"bc") != content_key(b"", b"abc")
    assert len(content_key(b"", b"")) == 16


def test_settings_are_kept_apart_in_one_folder(tmp_path):
    write(tmp_path, 1, settings={"model": "a", "dtype": "float32"})
    assert np.isnan(read(tmp_path, 1, settings={"model": "a", "dtype": "bfloat16"}))
    assert read(tmp_path, 1, settings={"dtype": "float32", "model": "a"}) == 1 / 7
    assert '"dtype": "float32"' in next(tmp_path.glob("*/settings.json")).read_text()


def test_shards_are_merged_into_one_file(tmp_path):
    for number in range(5):
        write(tmp_path, number)
    store = write(tmp_path, 5, 3, merge=True)
    assert sorted(path.name for path in store.folder.iterdir()) == ["merged.scores", "settings.json"]
    assert read(tmp_path, *range(6)).tolist() == [number / 7 for number in range(6)]
    assert len(ScoreStore(tmp_path, {"model": "a"})) == 6
    before = (store.folder / "merged.scores").read_bytes()
    write(tmp_path, merge=True)
    assert (store.folder / "merged.scores").read_bytes() == before


def test_large_merges_are_cut_into_blocks(tmp_path, monkeypatch):
    monkeypatch.setattr(score_store, "_RECORDS_A_BLOCK", 2)
    write(tmp_path, *range(5), merge=True)
    assert read(tmp_path, *range(5)).tolist() == [number / 7 for number in range(5)]


def test_merging_leaves_a_shard_that_is_written_to(tmp_path):
    writing = ScoreStore(tmp_path, {"model": "a"})
    writing.add(keys(1), np.array([1.0]))
    write(tmp_path, 2, merge=True)
    writing.add(keys(3), np.array([3.0]))
    writing.close()
    assert read(tmp_path, 1, 2, 3).tolist() == [1.0, 2 / 7, 3.0]


def test_a_merge_that_fails_loses_nothing(tmp_path, monkeypatch):
    store = write(tmp_path, 1, 2)
    write(tmp_path, 3)
    monkeypatch.setattr(os, "replace", lambda *paths: (_ for _ in ()).throw(OSError("no space")))
    with pytest.raises(OSError, match="no space"):
        ScoreStore(tmp_path, {"model": "a"}).merge()
    monkeypatch.undo()
    assert read(tmp_path, 1, 2, 3).tolist() == [1 / 7, 2 / 7, 3 / 7]
    assert not list(store.folder.glob(".*"))


@given(st.lists(st.integers(1, 5), min_size=1, max_size=4), st.data())
def test_a_shard_cut_anywhere_keeps_its_whole_blocks(tmp_path_factory, sizes, data):
    path = tmp_path_factory.mktemp("cache")
    with ScoreStore(path, {}) as store:
        ends, number = [0], 0
        for size in sizes:
            store.add(keys(*range(number, number + size)), np.arange(number, number + size) + 0.1)
            number += size
            ends.append(next(store.folder.glob("*.scores")).stat().st_size)
    shard = next(store.folder.glob("*.scores"))
    cut = data.draw(st.integers(0, ends[-1]))
    shard.write_bytes(shard.read_bytes()[:cut] + data.draw(st.sampled_from([b"", b"\0" * 50])))
    whole = sum(sizes[: sum(end <= cut for end in ends) - 1])
    found = ScoreStore(path, {}).scores(keys(*range(number)))
    assert np.isfinite(found).tolist() == [True] * whole + [False] * (number - whole)


def test_a_block_that_was_damaged_is_not_used(tmp_path, caplog):
    store = write(tmp_path, 1, 2)
    shard = next(store.folder.glob("*.scores"))
    data = bytearray(shard.read_bytes())
    data[-3] ^= 1
    shard.write_bytes(bytes(data))
    found = read(tmp_path, 1, 2)
    assert found[0] == 1 / 7 and np.isnan(found[1])
    assert "was cut short; its last 36 bytes are not used" in caplog.text


def test_a_full_disk_leaves_whole_blocks(tmp_path, monkeypatch):
    store = ScoreStore(tmp_path, {})
    store.add(keys(1), np.array([1.0]))
    writes = iter([10, OSError("no space")])
    real = os.write

    def failing(descriptor, data):
        step = next(writes)
        if isinstance(step, OSError):
            raise step
        return real(descriptor, data[:step])

    monkeypatch.setattr(os, "write", failing)
    with pytest.raises(OSError, match="no space"):
        store.add(keys(2), np.array([2.0]))
    monkeypatch.undo()
    store.add(keys(3), np.array([3.0]))
    store.close()
    found = ScoreStore(tmp_path, {}).scores(keys(1, 2, 3))
    assert found[[0, 2]].tolist() == [1.0, 3.0] and np.isnan(found[1])


def test_another_file_is_refused_and_kept(tmp_path):
    (tmp_path / "letter").write_text("dear")
    with pytest.raises(NotADirectoryError, match="letter is a file, but scores are kept in a folder"):
        ScoreStore(tmp_path / "letter", {})
    folder = ScoreStore(tmp_path, {}).folder
    (folder / "mine.scores").write_text("something else")
    with pytest.raises(ValueError, match=r"mine.scores is no file of scores. Move it away"):
        ScoreStore(tmp_path, {})
    assert (folder / "mine.scores").read_text() == "something else"
