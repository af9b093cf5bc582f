import os
import shutil
import subprocess
import sys
from pathlib import Path

import numba
import pytest

import dgr_trainer
from dgr_trainer import compilation
from dgr_trainer.index.bit_vector import rank_and_bit


def test_kernels_run_where_no_compiled_code_can_be_cached(monkeypatch):
    def njit(**options):
        if options.pop("cache", False):
            raise RuntimeError("cannot cache function: no locator available")
        return lambda function: lambda *arguments: ("compiled", function(*arguments))

    monkeypatch.setattr(compilation, "njit", njit)
    assert compilation.compiled(lambda value: value + 1)(1) == ("compiled", 2)


def test_cached_code_is_named_for_the_sources_of_all_kernels():
    assert rank_and_bit.py_func.__qualname__ == f"rank_and_bit_{compilation._SOURCES}"
    assert len(compilation._SOURCES) == 12


PACKAGE = Path(dgr_trainer.__file__).parent


def cache_of(file, folder, monkeypatch):
    compilation._own_folder.cache_clear()
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(folder))
    return compilation._SharedCache.from_function(cache_of, str(file))


def test_kernels_of_this_package_are_cached_at_one_place(tmp_path, monkeypatch):
    found = cache_of(PACKAGE / "index" / "bit_vector.py", tmp_path, monkeypatch)
    assert Path(found.get_cache_path()).is_relative_to(tmp_path / "dgr_trainer")
    assert Path(found.get_cache_path()).stat().st_mode & 0o777 == 0o700
    assert cache_of(tmp_path / "other_package.py", tmp_path, monkeypatch) is None


@pytest.mark.skipif(os.name != "posix", reason="folders have other permissions")
def test_a_folder_that_others_can_write_to_is_not_used(tmp_path, monkeypatch):
    file = PACKAGE / "index" / "bit_vector.py"
    Path(cache_of(file, tmp_path, monkeypatch).get_cache_path()).chmod(0o777)
    assert cache_of(file, tmp_path, monkeypatch) is None
    (tmp_path / "file").touch()
    assert cache_of(file, tmp_path / "file", monkeypatch) is None


@pytest.mark.slow
def test_a_second_environment_compiles_nothing(tmp_path):
    script = """
import numpy as np
from dgr_trainer.index.bit_vector import finish_ranks
finish_ranks(np.zeros(16, np.uint64), 0, 0)
print(sum(finish_ranks.stats.cache_hits.values()), sum(finish_ranks.stats.cache_misses.values()))
"""
    seen = []
    for name in ("first", "second"):
        shutil.copytree(PACKAGE, tmp_path / name / "dgr_trainer", ignore=shutil.ignore_patterns("__pycache__"))
        environment = {**os.environ, "PYTHONPATH": str(tmp_path / name), "NUMBA_CACHE_DIR": str(tmp_path / "cache")}
        command = [sys.executable, "-c", script]
        seen.append(subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout)
    assert seen == ["0 1\n", "1 0\n"]
