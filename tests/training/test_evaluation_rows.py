import pytest
import torch
from accelerate import Accelerator
from torch.utils.data import DataLoader

from dgr_trainer.training.evaluation_rows import ROW, NumberedRows, NumberingCollator, RowTerms, numbered

CPU = torch.device("cpu")


def test_repeated_rows_count_once_and_terms_have_their_own_counts():
    terms = RowTerms(("loss", "tau", "never"))
    terms.add_batch(2, torch.tensor([0, 1]), CPU)
    terms.add("loss", torch.tensor([1.0, 2.0]))
    terms.add("tau", torch.tensor([float("nan"), 0.5]))
    terms.add_batch(2, torch.tensor([2, 0]), CPU)  # The sampler began again to fill the batch.
    terms.add("loss", torch.tensor([6.0, 1.0]))
    terms.add("tau", torch.tensor([1.0, float("nan")]))
    assert terms.averages(Accelerator(cpu=True)) == {"loss": 3.0, "tau": 0.75}
    assert terms.averages(Accelerator(cpu=True)) == {}, "it forgets"


def test_values_of_tokens_and_of_the_whole_batch():
    terms = RowTerms(("loss", "batch"))
    terms.add_batch(2, torch.tensor([5, 3]), CPU)
    terms.add("loss", torch.tensor([[1.0, 2.0, 3.0], [10.0, float("nan"), float("nan")]]))
    terms.add("batch", torch.tensor(4.0))
    terms.add_batch(1, torch.tensor([9]), CPU)
    terms.add("batch", torch.tensor(1.0))
    assert terms.averages(Accelerator(cpu=True)) == {"loss": 4.0, "batch": 3.0}


def test_rows_without_a_number_all_count_and_take_no_memory():
    terms = RowTerms(("loss",))
    for number in range(1000):
        terms.add_batch(2, None, CPU)
        terms.add("loss", torch.tensor([float(number), 1.0]))
    assert sum(map(len, terms._rows)) == 1
    terms.add_batch(1, torch.tensor([0]), CPU)
    terms.add("loss", torch.tensor([7.0]))
    terms.add_batch(1, torch.tensor([1, 2]), CPU)  # A collator that makes one row of two.
    terms.add("loss", torch.tensor([8.0]))
    expected = (sum(range(1000)) + 1000 + 7 + 8) / 2002
    assert terms.averages(Accelerator(cpu=True))["loss"] == pytest.approx(expected)


def test_a_collator_does_not_see_the_numbers_and_other_rows_pass():
    seen = []

    def collate(features):
        seen.append(features)
        return {"x": torch.tensor([1] * len(features))}

    collator = NumberingCollator(collate)
    (batch,) = DataLoader(NumberedRows([{"a": 1}, {"a": 2}]), batch_size=2, collate_fn=collator)
    assert batch[ROW].tolist() == [0, 1] and seen == [[{"a": 1}, {"a": 2}]]
    (batch,) = DataLoader(NumberedRows([(1, 2), (3, 4)]), batch_size=2, collate_fn=collator)
    assert ROW not in batch and seen[1] == [(1, 2), (3, 4)]
    assert numbered(None, lambda *_: None) is None
