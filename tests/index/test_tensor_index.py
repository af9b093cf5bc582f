"""The index on a device answers as the compiled kernels do."""

import gc

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dgr_trainer.index import FMIndex, tensor_index
from dgr_trainer.index.passage_subset import index_of_passages
from dgr_trainer.index.tensor_bits import population_counts
from dgr_trainer.index.tensor_index import TensorIndex, fitting_layout

CPU = torch.device("cpu")
LAYOUTS = ["sorted", "wavelet"]


@st.composite
def indexes(draw):
    """An index of random passages in one to three segments, from which some passages may be gone."""
    vocab_size = draw(st.sampled_from([2, 3, 9, 70]))
    token = st.integers(0, vocab_size - 1).filter(lambda token: token != 1)
    size = draw(st.sampled_from([3, 12, 250]))
    sequences = draw(st.lists(st.lists(token, max_size=size), min_size=2, max_size=8))
    index = FMIndex.build(
        sequences, passage_ids=[f"p{number}" for number in range(len(sequences))], vocab_size=vocab_size, separator=1,
        segment_tokens=draw(st.sampled_from([None, None, size + 2, 2 * size])), progress=False,
    )  # fmt: skip
    chosen = draw(st.sets(st.integers(0, len(sequences) - 1), min_size=1))
    if draw(st.booleans()):
        index = index_of_passages(index, np.array(sorted(chosen)), indexed_share=draw(st.sampled_from([0.0, 1.0])))
    return index, sequences


def assert_same_answers(index, tensors, ranges, tokens):
    on_device = torch.from_numpy(ranges)
    assert tensors.counts(on_device).numpy().tolist() == index.counts(ranges).tolist()
    extended = tensors.extend(on_device, torch.from_numpy(tokens))
    assert extended.numpy().tolist() == index.extend(ranges, tokens).tolist()
    table = np.repeat(np.arange(index.vocab_size)[None], len(ranges), axis=0)
    all_children = tensors.extend(on_device[:, None], torch.from_numpy(table))
    assert all_children.numpy().tolist() == index.extend(ranges, table).tolist()
    width = int((ranges[..., 1] - ranges[..., 0]).sum(-1).max(initial=0)) + 1
    listed = tensors.following(on_device, width).numpy()
    offsets, following, counts = index.continuations_batch(ranges)
    for row, of_row in enumerate(listed):
        found, times = np.unique(of_row[of_row < index.vocab_size], return_counts=True)
        expected = np.sort(following[offsets[row] : offsets[row + 1]])
        if tensors.has_removed:
            assert set(expected.tolist()) <= set(found.tolist())
        else:
            assert found.tolist() == expected.tolist()
            assert times.sum() == counts[offsets[row] : offsets[row + 1]].sum()
        assert (of_row == index.vocab_size)[len(of_row) - 1]
    return extended


@settings(max_examples=25)
@given(indexes(), st.sampled_from(LAYOUTS), st.randoms(use_true_random=False))
def test_answers_are_those_of_the_compiled_kernels(case, layout, chance):
    index, sequences = case
    tensors = TensorIndex(index.segments, CPU, layout)
    patterns = [[]]
    for _ in range(6):
        sequence = chance.choice(sequences) + [1]
        start = chance.randrange(len(sequence))
        patterns.append(sequence[start : start + chance.randrange(4)])
        patterns.append([chance.randrange(index.vocab_size) for _ in range(2)])
    ranges = index.find_batch(patterns)
    for _ in range(3):
        tokens = np.array([chance.randrange(index.vocab_size) for _ in ranges])
        ranges = assert_same_answers(index, tensors, ranges, tokens).numpy()
    none = torch.full((len(ranges),), index.vocab_size)
    assert not tensors.extend(torch.from_numpy(index.find_batch(patterns)), none).any()


@given(st.lists(st.integers(-(1 << 63), (1 << 63) - 1), min_size=1))
def test_population_counts_are_those_of_python(words):
    expected = [(word & ((1 << 64) - 1)).bit_count() for word in words]
    assert population_counts(torch.tensor(words)).tolist() == expected


def test_tensors_are_shared_and_freed_with_the_index():
    index = FMIndex.build([[3, 4, 5]], passage_ids=["a"], vocab_size=9, separator=1, progress=False)
    one, other = (TensorIndex(index.segments, CPU, "sorted") for _ in range(2))
    assert one._ranks is other._ranks
    made = len(tensor_index._made)
    del index, one, other
    gc.collect()
    assert len(tensor_index._made) == made - 1


@pytest.mark.parametrize(("limit", "layout"), [(10**6, "sorted"), (3000, "wavelet"), (10, None)])
def test_the_layout_is_the_fastest_that_fits(limit, layout, monkeypatch):
    rng = np.random.default_rng(0)
    index = FMIndex.build(
        [rng.integers(2, 9, 500).tolist()], passage_ids=["a"], vocab_size=9, separator=1, progress=False
    )
    monkeypatch.setattr(tensor_index, "_memory_limit", lambda device: limit)
    assert fitting_layout(index.segments, CPU) == layout


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_size_is_as_documented(layout):
    rng = np.random.default_rng(0)
    tokens = rng.integers(2, 300, 60_000).tolist()
    index = FMIndex.build([tokens], passage_ids=["a"], vocab_size=300, separator=1, progress=False)
    size = TensorIndex(index.segments, CPU, layout).num_bytes / len(tokens)
    assert 11.9 < size < 12.3 if layout == "sorted" else size < 2.0
