import numpy as np
import pytest

from dgr_trainer.training.packing import pack_identifiers


def test_literal_rows():
    # Two queries; view 0 and view 1 never share a row; 5 tokens a row at most.
    packed = pack_identifiers([[(7, 8), (9,), (4, 5, 6), (3, 3)], [(1,)]], [[0, 1, 0, 0], [1]], max_row_tokens=5)
    assert packed.labels.tolist() == [
        [[4, 5, 6, 7, 8], [3, 3, -100, -100, -100], [9, -100, -100, -100, -100]],
        [[1, -100, -100, -100, -100], [-100] * 5, [-100] * 5],
    ]
    assert packed.segments.tolist() == [
        [[2, 2, 2, 0, 0], [3, 3, -1, -1, -1], [1, -1, -1, -1, -1]],
        [[0, -1, -1, -1, -1], [-1] * 5, [-1] * 5],
    ]
    assert packed.positions.tolist() == [
        [[0, 1, 2, 0, 1], [0, 1, 0, 0, 0], [0, 0, 0, 0, 0]],
        [[0, 0, 0, 0, 0], [0] * 5, [0] * 5],
    ]
    assert packed.row_prompts.tolist() == [[0, 0, 1], [1, 0, 0]]


def test_an_identifier_longer_than_a_row_gets_its_own():
    packed = pack_identifiers([[(1, 2, 3), (4,), (5,)]], [[0, 0, 0]], max_row_tokens=2)
    assert packed.labels.tolist() == [[[1, 2, 3], [4, 5, -100]]]


def test_nothing_to_pack_still_has_a_row():
    packed = pack_identifiers([[], []], [[], []], max_row_tokens=8)
    assert packed.labels.shape == (2, 1, 1)
    assert (packed.segments == -1).all()


def test_every_token_is_packed_once():
    rng = np.random.default_rng(0)
    identifiers = [[tuple(rng.integers(1, 99, rng.integers(1, 9))) for _ in range(50)] for _ in range(3)]
    prompts = [rng.integers(0, 3, 50).tolist() for _ in range(3)]
    packed = pack_identifiers(identifiers, prompts, max_row_tokens=20)
    for b, of_query in enumerate(identifiers):
        for k, ids in enumerate(of_query):
            cells = np.argwhere(packed.segments[b] == k)
            assert len(set(cells[:, 0])) == 1, "an identifier lies in one row"
            assert packed.row_prompts[b, cells[0, 0]] == prompts[b][k]
            assert packed.labels[b][tuple(cells.T)].tolist() == list(ids)
            assert packed.positions[b][tuple(cells.T)].tolist() == list(range(len(ids)))


def test_errors():
    with pytest.raises(ValueError, match="An identifier has no tokens"):
        pack_identifiers([[(1,), ()]], [[0, 0]], max_row_tokens=4)
    with pytest.raises(ValueError, match="max_row_tokens=0 must be at least 1"):
        pack_identifiers([[(1,)]], [[0]], max_row_tokens=0)
