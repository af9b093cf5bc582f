import sqlite3
import subprocess
import sys

import numpy as np
import pytest

from dgr_trainer.errors import DGRError
from dgr_trainer.teachers import score_cache
from dgr_trainer.teachers.score_cache import KEY, ScoreCache, content_key


def keys(*numbers):
    return np.array([content_key(b"query", str(number).encode()) for number in numbers], KEY)


def write(path, *numbers, settings=None):
    with ScoreCache(path, settings or {"model": "a"}) as cache:
        for number in numbers:
            cache.add(keys(number), np.array([number / 7]))
    return cache


def read(path, *numbers, settings=None):
    with ScoreCache(path, settings or {"model": "a"}) as cache:
        return cache.scores(keys(*numbers))


def test_scores_are_read_to_the_last_bit(tmp_path):
    write(tmp_path / "new" / "cache", 1, 2)
    write(tmp_path / "new" / "cache", 3, -1e-300)
    scores = read(tmp_path / "new" / "cache", 3, 4, 1, -1e-300, 2)
    assert scores[[0, 2, 3, 4]].tolist() == [3 / 7, 1 / 7, -1e-300 / 7, 2 / 7] and np.isnan(scores[1])


def test_keys_separate_query_and_passage():
    assert content_key(b"ab", b"c") != content_key(b"a", b"bc") != content_key(b"", b"abc")
    assert len(content_key(b"", b"")) == 16


def test_keys_may_end_in_zeros(tmp_path):
    zeros = np.array([b"a", b"a\0b", b""], KEY)
    with ScoreCache(tmp_path, {}) as cache:
        cache.add(zeros, np.array([1.0, 2.0, 3.0]))
        assert cache.scores(zeros).tolist() == [1.0, 2.0, 3.0]


def test_each_model_has_its_own_file(tmp_path):
    write(tmp_path, 1, settings={"model": "a", "dtype": "float32"})
    assert np.isnan(read(tmp_path, 1, settings={"model": "a", "dtype": "bfloat16"}))
    assert read(tmp_path, 1, settings={"dtype": "float32", "model": "a"}) == 1 / 7
    assert len(list(tmp_path.iterdir())) == 2
    with sqlite3.connect(write(tmp_path, settings={"model": "a"}).file) as connection:
        assert connection.execute("SELECT json FROM settings").fetchall() == [('{"model": "a"}',)]


def test_the_first_score_of_a_key_is_kept(tmp_path):
    write(tmp_path, 5)
    with ScoreCache(tmp_path, {"model": "a"}) as cache:
        cache.add(keys(5, 6), np.array([1.0, 2.0]))
        assert cache.scores(keys(5, 6)).tolist() == [5 / 7, 2.0] and len(cache) == 2


def test_more_keys_than_one_query_takes(tmp_path, monkeypatch):
    monkeypatch.setattr(score_cache, "_KEYS_PER_LOOKUP", 2)
    write(tmp_path, *range(5))
    assert read(tmp_path, *range(5)).tolist() == [number / 7 for number in range(5)]


def test_scores_are_committed_about_once_a_second(tmp_path, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(score_cache.time, "monotonic", lambda: now[0])
    with ScoreCache(tmp_path, {"model": "a"}) as cache:
        cache.add(keys(1), np.array([1.0]))
        assert np.isnan(read(tmp_path, 1))
        now[0] += 1.0
        cache.add(keys(2), np.array([2.0]))
        assert read(tmp_path, 1, 2).tolist() == [1.0, 2.0]
        cache.add(keys(3), np.array([3.0]))
        assert np.isnan(read(tmp_path, 3))
    assert read(tmp_path, 3) == 3.0


_WRITER = """
import sys
import numpy as np
from dgr_trainer.teachers import score_cache
from dgr_trainer.teachers.score_cache import KEY, ScoreCache, content_key

score_cache._SECONDS_PER_COMMIT = 0
with ScoreCache(sys.argv[1], {"model": "a"}) as cache:
    for number in range(int(sys.argv[2]), 200, 2):
        cache.add(np.array([content_key(b"query", b"%d" % number)], KEY), np.array([number / 7]))
"""


def test_two_processes_write_at_the_same_time(tmp_path):
    jobs = [subprocess.Popen([sys.executable, "-c", _WRITER, str(tmp_path), str(first)]) for first in (0, 1)]
    assert [job.wait(timeout=100) for job in jobs] == [0, 0]
    assert read(tmp_path, *range(200)).tolist() == [number / 7 for number in range(200)]


def test_a_failed_commit_is_rolled_back_and_can_be_repeated(tmp_path):
    with ScoreCache(tmp_path, {"model": "a"}) as cache:
        cache.add(keys(1), np.array([1.0]))
        cache.commit()
        cache._connection.execute(
            f"PRAGMA max_page_count = {cache._connection.execute('PRAGMA page_count').fetchone()[0]}"
        )
        cache.add(keys(*range(2, 500)), np.arange(2.0, 500.0))
        with pytest.raises(OSError, match="cannot be used: database or disk is full. Check the free space"):
            cache.commit()
        with ScoreCache(tmp_path, {"model": "a"}) as other:
            assert len(other) == 1
        cache._connection.execute("PRAGMA max_page_count = 100000")
        cache.commit()
        assert len(cache) == 499


def test_a_locked_cache_is_an_error_that_says_so(tmp_path, monkeypatch):
    file = write(tmp_path, 1).file
    monkeypatch.setattr(score_cache, "_SECONDS_TO_WAIT", 0.1)
    holder = sqlite3.connect(file, isolation_level=None)
    holder.execute("BEGIN EXCLUSIVE")
    with pytest.raises(OSError, match="database is locked.*whether another process holds it"):
        write(tmp_path, 2)
    holder.close()


def test_a_damaged_file_is_refused_and_kept(tmp_path):
    file = write(tmp_path, *range(300)).file
    content = file.read_bytes()
    for damaged in (b"something else" * 100, content[:4096] + b"\x55" * (len(content) - 4096)):
        file.write_bytes(damaged)
        with pytest.raises(ValueError, match="is damaged or is not one: .* Delete it; its scores") as caught:
            read(tmp_path, *range(300))
        assert isinstance(caught.value, DGRError) and str(file) in str(caught.value)
        assert file.read_bytes() == damaged
    file.unlink()
    assert np.isnan(read(tmp_path, 1))


def test_other_folders_are_refused(tmp_path):
    (tmp_path / "letter").write_text("dear")
    with pytest.raises(NotADirectoryError, match="letter is a file, but a cache of scores is a folder"):
        ScoreCache(tmp_path / "letter", {})
    old = tmp_path / "cache" / "0123456789abcdef"
    old.mkdir(parents=True)
    (old / "merged.scores").write_bytes(b"dgrS")
    with pytest.raises(ValueError, match=r"no longer read, such as .*merged.scores. Delete the folder"):
        ScoreCache(tmp_path / "cache", {})
    assert (old / "merged.scores").read_bytes() == b"dgrS"
