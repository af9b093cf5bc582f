import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dgr_trainer.index.bit_vector import BLOCK_WORDS, finish_ranks, num_blocks, rank_and_bit, set_bit


def make(bits: np.ndarray, first_block: int = 0) -> tuple[np.ndarray, int]:
    blocks = np.zeros((first_block + num_blocks(len(bits))) * BLOCK_WORDS, np.uint64)
    for position in np.flatnonzero(bits):
        set_bit(blocks, first_block, position)
    return blocks, finish_ranks(blocks, first_block, len(bits))


@pytest.mark.parametrize("size", [0, 1, 63, 64, 65, 447, 448, 449, 896, 5000])
@pytest.mark.parametrize("density", [0.0, 0.03, 0.5, 1.0])
def test_rank_and_bit_at_every_position(size, density):
    bits = np.random.default_rng(0).random(size) < density
    blocks, total = make(bits, first_block=3)
    ones = np.concatenate([[0], np.cumsum(bits)])
    assert total == ones[-1]
    assert [rank_and_bit(blocks, 3, position)[0] for position in range(size + 1)] == ones.tolist()
    assert [rank_and_bit(blocks, 3, position)[1] for position in range(size)] == bits.astype(int).tolist()


@given(st.lists(st.booleans(), max_size=1500))
@settings(max_examples=30, deadline=None)
def test_rank_of_the_end_is_the_number_of_ones(bits):
    blocks, total = make(np.array(bits, bool))
    assert rank_and_bit(blocks, 0, len(bits)) == (sum(bits), 0) and total == sum(bits)


def test_counts_before_a_block_use_37_bits():
    blocks = np.zeros(BLOCK_WORDS, np.uint64)
    blocks[0] = np.uint64(2**37 - 1)
    assert rank_and_bit(blocks, 0, 447)[0] == 2**37 - 1
