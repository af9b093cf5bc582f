"""The alignment of weights in memory, and the hash that identifies them."""

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_models import make_bart

from dgr_trainer.student.weights import align_weights, weights_digest


@pytest.fixture
def moved(bpe_tokenizer):
    """A model whose weights are not aligned, like those mapped from a file."""
    model = make_bart(bpe_tokenizer)
    for parameter in model.parameters():
        space = torch.empty(parameter.numel() + 3)
        space[3:] = parameter.data.flatten()
        parameter.data = space[3:].view(parameter.shape)
    assert all(parameter.data_ptr() % 64 == 12 for parameter in model.parameters())
    return model


def test_weights_are_aligned_and_the_same(moved):
    before = {name: tensor.clone() for name, tensor in moved.state_dict().items()}
    assert align_weights(moved) is moved
    assert all(parameter.data_ptr() % 64 == 0 for parameter in moved.parameters())
    after = moved.state_dict()
    assert list(after) == list(before) and all(torch.equal(after[name], before[name]) for name in before)
    # Tied weights are still tied.
    assert moved.lm_head.weight.data_ptr() == moved.get_input_embeddings().weight.data_ptr()


def test_aligned_weights_are_not_copied(moved):
    places = [parameter.data_ptr() for parameter in align_weights(moved).parameters()]
    assert [parameter.data_ptr() for parameter in align_weights(moved).parameters()] == places


@pytest.mark.parametrize("padding", [0, 8, 24])
def test_a_mapped_file_of_any_header_is_aligned(bpe_tokenizer, tmp_path, padding):
    model = make_bart(bpe_tokenizer)
    model.save_pretrained(tmp_path)
    path = tmp_path / "model.safetensors"
    save_file(load_file(path), path, {"format": "pt", "note": "x" * padding})
    loaded = align_weights(type(model).from_pretrained(tmp_path))
    assert {parameter.data_ptr() % 64 for parameter in loaded.parameters()} == {0}


def test_the_digest_covers_all_weights(bpe_tokenizer, moved):
    digest = weights_digest(moved)
    assert digest == weights_digest(align_weights(moved)) == weights_digest(make_bart(bpe_tokenizer))
    with torch.no_grad():
        list(moved.parameters())[-1].view(-1)[-1] += 1e-3
    assert weights_digest(moved) != digest
    assert weights_digest(moved.double()) != weights_digest(moved.float())
