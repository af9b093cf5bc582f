import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dgr_trainer.index.bit_vector import rank_and_bit
from dgr_trainer.index.wavelet_matrix import (
    FIRST_BLOCK,
    FIRST_ROW,
    SIZE,
    ZEROS,
    build_matrix,
    distinct_symbols,
    extend_range,
    huffman_codes,
    level_table,
)


def make(sequence: np.ndarray, dtype=np.uint32):
    """The matrix of a sequence of 0..n-1, and the sequence with its symbols numbered as the matrix numbers them."""
    counts = np.bincount(sequence)
    order, codes = huffman_codes(counts)
    number = np.empty(len(order), np.int64)
    number[order] = np.arange(len(order))
    levels = level_table(codes, counts[order])
    return build_matrix(codes[number[sequence]].astype(dtype), levels), levels, codes, number[sequence]


def next_row(blocks: np.ndarray, levels: np.ndarray, row: int) -> int:
    """The position, in the sequence sorted by symbol, of the element at position `row`, as the walks find it."""
    level = 0
    while row < levels[level, SIZE]:
        ones, bit = rank_and_bit(blocks, levels[level, FIRST_BLOCK], row)
        row = levels[level, ZEROS] + ones if bit else row - ones
        level += 1
    return int(levels[level, FIRST_ROW] + row - levels[level, SIZE])


def dense(values) -> np.ndarray:
    return np.unique(np.array(values), return_inverse=True)[1]


sequences = st.lists(st.integers(0, 12).map(lambda value: value * value // 5), min_size=1, max_size=60).map(dense)


@given(sequences, st.data())
@settings(max_examples=150, deadline=None)
def test_access_rank_and_distinct_symbols_equal_brute_force(sequence, data):
    blocks, levels, codes, numbered = make(sequence)
    sorted_rows = np.empty(len(sequence), np.int64)
    sorted_rows[np.argsort(numbered, kind="stable")] = np.arange(len(sequence))
    assert [next_row(blocks, levels, row) for row in range(len(sequence))] == sorted_rows.tolist()

    low = data.draw(st.integers(0, len(sequence) - 1))
    high = data.draw(st.integers(low + 1, len(sequence)))
    inside = numbered[low:high]
    for symbol, code in enumerate(codes):
        found = extend_range(blocks, levels, code, 0, low, high)
        rows = sorted_rows[low:high][inside == symbol]
        assert found == ((rows.min(), rows.max() + 1) if len(rows) else (0, 0))

    # One line more than there are symbols; what is behind it is not to be written.
    room = min(high - low, len(codes)) + 1
    nodes = np.full((2, room + 1, 3), -7, np.int64)
    symbols, counts = np.zeros(100, np.int64), np.zeros(100, np.int64)
    end = distinct_symbols(blocks, levels, low, high, nodes[0], nodes[1], symbols, counts, 2)
    assert (nodes[:, room] == -7).all()
    assert len(set(symbols[2:end])) == end - 2
    expected = zip(*np.unique(inside, return_counts=True), strict=True)
    assert dict(zip(symbols[2:end], counts[2:end], strict=True)) == dict(expected)


def test_size_is_near_the_entropy():
    rng = np.random.default_rng(0)
    sequence = dense(np.minimum(rng.zipf(1.3, 200_000), 20_000))
    counts = np.bincount(sequence)
    entropy = -(counts * np.log2(counts / len(sequence))).sum()
    blocks, *_ = make(sequence)
    assert entropy < blocks.nbytes * 8 < 1.25 * entropy


def test_frequent_symbols_come_first_and_codes_are_prefix_free():
    counts = np.array([1, 100, 7, 7, 30, 2])
    order, codes = huffman_codes(counts)
    assert order[:2].tolist() == [1, 4]
    bits = [bin(int(code))[:2:-1] for code in codes]  # lowest bit first, without the one on top
    assert not any(a != b and b.startswith(a) for a in bits for b in bits)
    assert [len(code) for code in bits] == [1, 2, 3, 4, 5, 5]


def test_one_symbol_needs_no_bits():
    blocks, levels, codes, _ = make(np.zeros(5, np.int64))
    assert len(blocks) == 0 and codes.tolist() == [1]
    assert next_row(blocks, levels, 3) == 3
    assert extend_range(blocks, levels, codes[0], 0, 1, 4) == (1, 4)


def test_codes_of_more_than_31_bits():
    fibonacci = [1, 1]
    while len(fibonacci) < 60:
        fibonacci.append(fibonacci[-1] + fibonacci[-2])
    _, codes = huffman_codes(np.array(fibonacci[:36]))
    assert int(codes.max()).bit_length() == 36
    sequence = dense(np.random.default_rng(0).integers(0, 9, 500) ** 2)
    narrow, wide = make(sequence)[0], make(sequence, np.uint64)[0]
    np.testing.assert_array_equal(narrow, wide)


def test_too_many_elements_to_count():
    order, codes = huffman_codes(np.array([2**36, 2**36]))
    with pytest.raises(ValueError, match="an index holds at most 137438953471.*[Ss]plit the corpus"):
        level_table(codes, np.array([2**36, 2**36])[order])
