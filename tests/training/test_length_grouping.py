"""Queries and pairs grouped by length: lengths are those of the prompts, and each mega-batch is sorted by them."""

import datasets
import pytest
import torch
from sample_corpus import QUERIES
from tiny_models import bpe_tokenizer as load_tokenizer
from training_examples import TITLES, make_collator, make_rankings, make_trainer, query_dataset
from training_runs import quiet_bart, run

from dgr_trainer.identifiers import Identifiers, IdentifierSettings
from dgr_trainer.training.collator import DistillationCollator
from dgr_trainer.training.length_grouping import GroupedByLength, row_lengths


def many_queries(count: int = 64) -> datasets.Dataset:
    """Queries of 1 to 15 words."""
    ids = list(QUERIES)
    rows = [
        {"query_id": ids[number % len(ids)], "query": " ".join(["mountain"] * (1 + (number * 7) % 15))}
        for number in range(count)
    ]
    return datasets.Dataset.from_list(rows)


def prompt_lengths(dataset) -> list[int]:
    """By tokenising one prompt at a time."""
    identifiers = Identifiers(load_tokenizer())
    return [
        max(len(identifiers.encode_prompts([row["query"]], view)[0]) for view in identifiers.views) for row in dataset
    ]


def pairs(count: int = 64) -> datasets.Dataset:
    return datasets.Dataset.from_list(
        [{"input_ids": [5] * (1 + (row * 7) % 15), "labels": [6, 2]} for row in range(count)]
    )


def order(trainer) -> list[int]:
    return list(iter(trainer._get_train_sampler(trainer.train_dataset)))


def assert_grouped(order: list[int], lengths: list[int], batch_size: int) -> None:
    """Every mega-batch is sorted by length, longest first; the longest row of all has changed places to the front."""
    assert sorted(order) == list(range(len(lengths)))
    size = min(len(lengths) // (batch_size * 4), 50) * batch_size or batch_size
    assert lengths[order[0]] == max(lengths)
    for start in range(0, len(order), size):
        found = [lengths[row] for row in order[start : start + size]]
        # The first of a mega-batch may be the one that the longest row changed places with.
        assert found[1:] == sorted(found[1:], reverse=True), start
    assert [lengths[row] for row in order] != [lengths[row] for row in range(len(lengths))]


def by_length(folder, dataset, collator=None, **settings):
    settings = {"train_sampling_strategy": "group_by_length", "per_device_train_batch_size": 4, **settings}
    return make_trainer(folder, load_tokenizer(), quiet_bart, collator=collator, train_dataset=dataset, **settings)


@pytest.mark.parametrize("accumulation", [1, 2])
def test_queries_are_grouped_by_their_prompts(accumulation, tmp_path):
    queries = many_queries()
    trainer = by_length(tmp_path, queries, gradient_accumulation_steps=accumulation)
    assert_grouped(order(trainer), prompt_lengths(queries), 4 * accumulation)
    trainer.train()
    assert trainer.state.global_step == 3


@pytest.mark.parametrize("kind", ["list", "dataset of torch"])
def test_queries_that_are_not_tokenised_before(kind, tmp_path):
    class Rows(torch.utils.data.Dataset):
        def __len__(self):
            return 64

        def __getitem__(self, row):
            return many_queries()[row]

    queries = [*many_queries()] if kind == "list" else Rows()
    trainer = by_length(tmp_path, queries)
    assert_grouped(order(trainer), prompt_lengths(many_queries()), 4)
    trainer.train()


def test_pairs_are_grouped_by_their_inputs(tmp_path):
    trainer = by_length(tmp_path, pairs())
    assert_grouped(order(trainer), [len(row["input_ids"]) for row in pairs()], 4)
    trainer.train()


@pytest.mark.parametrize("make", [many_queries, pairs])
@pytest.mark.parametrize("name", ["length", "words"])
def test_a_column_of_lengths_is_used_and_not_pruned(name, make, tmp_path):
    lengths = [(row * 5) % 17 for row in range(64)]
    dataset = make().add_column(name, lengths)
    trainer = by_length(tmp_path, dataset, length_column_name=name)
    assert_grouped(order(trainer), lengths, 4)
    seen = []
    sampler = trainer.get_train_dataloader().batch_sampler.sampler
    assert_grouped(list(sampler), lengths, 4)
    trainer.model.register_forward_hook(lambda *_: seen.append(1))
    trainer.train()
    assert len(seen) == 3


def test_a_column_that_holds_no_lengths_is_refused(tmp_path):
    trainer = by_length(tmp_path, many_queries().add_column("length", ["long"] * 64))
    with pytest.raises(ValueError, match="Row 0 of the training dataset has 'long' in the column 'length'.*integers"):
        trainer.train()


def test_batches_are_rebalanced_by_the_lengths_of_prompts(tmp_path):
    trainer = by_length(tmp_path, many_queries(), train_sampling_strategy="batch_rebalance")
    assert trainer._get_train_sampler(None).lengths == prompt_lengths(many_queries())
    trainer.train()


def test_evaluation_is_grouped_and_counts_the_same(tmp_path):
    queries = many_queries(30)
    grouped = by_length(tmp_path, queries, per_device_eval_batch_size=4)
    loader = grouped.get_eval_dataloader(queries)
    assert_grouped(list(loader.batch_sampler.sampler), prompt_lengths(queries), 4)
    plain = make_trainer(tmp_path, load_tokenizer(), quiet_bart, per_device_eval_batch_size=4)
    assert grouped.evaluate(queries)["eval_loss"] == pytest.approx(plain.evaluate(queries)["eval_loss"], rel=1e-5)
    assert grouped.predict(queries).metrics["test_loss"] == pytest.approx(grouped.evaluate(queries)["eval_loss"])


def test_the_order_depends_on_the_seed_and_the_epoch_alone():
    lengths = [row % 9 for row in range(64)]
    epoch = [0]
    orders = []
    for seed, number in ((1, 0), (1, 0), (1, 1), (2, 0)):
        epoch[0] = number
        torch.manual_seed(len(orders))
        orders.append(list(GroupedByLength(4, lengths, seed, lambda: epoch[0])))
    assert orders[0] == orders[1] and orders[0] != orders[2] and orders[0] != orders[3]


@pytest.mark.parametrize("steps_before", [4, 3])
def test_a_resumed_run_is_the_uninterrupted_one(steps_before, tmp_path):
    def trainer(name):
        settings = {"max_steps": 6, "save_strategy": "steps", "save_steps": steps_before}
        return by_length(tmp_path / name, query_dataset(), make_collator(load_tokenizer(), list_length=4), **settings)

    whole = run(trainer("whole"))
    resumed = run(trainer("resumed"), resume_from_checkpoint=str(tmp_path / "whole" / f"checkpoint-{steps_before}"))
    assert whole[0] == resumed[0]
    assert all(torch.equal(value, resumed[1][name]) for name, value in whole[1].items())


def test_lengths_that_cannot_be_told():
    identifiers = Identifiers(load_tokenizer(), IdentifierSettings(views=("title",)))
    assert row_lengths([], identifiers, "length") is None
    assert row_lengths([{"text": "a"}], identifiers, "length") is None
    assert row_lengths([{"query": "a"}], None, "length") is None
    assert row_lengths(iter([{"query": "a"}]), identifiers, "length") is None
    assert row_lengths([{"query": "a", "length": torch.tensor(7)}], identifiers, "length") == [7]


def test_streams_keep_their_order(tmp_path, caplog):
    collator = DistillationCollator(load_tokenizer(), TITLES, make_rankings())
    trainer = by_length(tmp_path, many_queries().to_iterable_dataset(), collator)
    trainer.train()
    assert trainer.state.global_step == 3
