from dgr_trainer.index import compilation
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
