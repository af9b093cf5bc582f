import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dgr_trainer.index.rotation_sort import byte_code, least_rotation, sorted_rotations


def brute_force(ring: list[int]) -> list[tuple[int, ...]]:
    return sorted(tuple(ring[start:] + ring[:start]) for start in range(len(ring)))


def rotations_of(ring: list[int], counts: np.ndarray, force64: bool = False) -> list[tuple[int, ...]]:
    order, start, _ = sorted_rotations(np.array(ring, np.int32), counts, force64)
    cuts = (order.astype(np.int64) + start) % len(ring)
    assert len(set(cuts.tolist())) == len(ring)
    return [tuple(ring[cut:] + ring[:cut]) for cut in cuts]


rings = st.tuples(st.lists(st.integers(0, 2), min_size=1, max_size=9), st.integers(1, 4)).map(lambda t: t[0] * t[1])


@given(rings)
@settings(max_examples=200, deadline=None)
def test_rotations_are_sorted(ring):
    assert rotations_of(ring, np.bincount(ring, minlength=3)) == brute_force(ring)


@given(rings)
@settings(max_examples=200, deadline=None)
def test_least_rotation_and_period(ring):
    start, period = least_rotation(np.array(ring, np.int32))
    assert tuple(ring[start:] + ring[:start]) == brute_force(ring)[0]
    assert period == min(p for p in range(1, len(ring) + 1) if len(ring) % p == 0 and ring[p:] + ring[:p] == ring)


@pytest.mark.parametrize("num_symbols", [300, 70_000])
@pytest.mark.parametrize("force64", [False, True])
def test_symbols_of_two_and_three_bytes(num_symbols, force64):
    rng = np.random.default_rng(0)
    few = rng.choice(num_symbols, 12, replace=False)
    ring = rng.choice(few, 200).tolist()
    counts = np.bincount(ring, minlength=num_symbols)
    ones, twos = byte_code(counts)
    assert ones + 256 * twos + 65536 * (256 - ones - twos) >= num_symbols
    assert rotations_of(ring, counts, force64) == brute_force(ring)


@pytest.mark.parametrize("num_symbols", [257, 70_000])
def test_every_symbol_keeps_its_position(num_symbols):
    ring = np.random.default_rng(0).permutation(num_symbols).astype(np.int32)
    order, start, period = sorted_rotations(ring, np.ones(num_symbols, np.int64))
    assert ring[start] == 0 and period == num_symbols
    np.testing.assert_array_equal(ring[(order + start) % num_symbols], np.arange(num_symbols))


def test_byte_code_spends_one_byte_where_it_can():
    assert byte_code(np.ones(256, np.int64)) == (256, 0)
    ones, twos = byte_code(np.array([1000] * 200 + [1] * 1000))
    assert ones >= 200 and ones + 256 * twos >= 1200
    ones, twos = byte_code(np.ones(300_000, np.int64))
    assert ones + twos < 256
