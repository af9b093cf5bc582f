"""Prompts that are tokenised ahead of training."""

import datasets
import pytest
import torch
from training_examples import make_collator, make_trainer, query_dataset

from dgr_trainer.identifiers import Identifiers, IdentifierSettings
from dgr_trainer.training.prompts import with_prompts


@pytest.mark.parametrize("kind", ["candidates", "strings"])
@pytest.mark.parametrize("arrays", [None, "numpy", "torch"])
def test_batches_are_those_of_prompts_tokenised_late(arrays, kind, tokenizer):
    collator = make_collator(tokenizer, kind)
    queries = query_dataset()
    ahead = with_prompts(queries, collator.identifiers, progress=False).with_format(arrays)
    late, early = collator([*queries]), collator([*ahead])
    assert late.keys() == early.keys()
    assert all(torch.equal(late[name], early[name]) for name in late)


def test_training_and_evaluation_tokenise_nothing(bpe_tokenizer, tmp_path, monkeypatch):
    evaluated = {"one": query_dataset().select(range(4)), "other": query_dataset()}
    trainer = make_trainer(tmp_path, bpe_tokenizer, trainer_settings={"eval_dataset": evaluated})
    monkeypatch.setattr(Identifiers, "encode_prompts", None)
    trainer.train()
    assert {"eval_one_loss", "eval_other_loss"} <= set(trainer.evaluate())
    # A dataset that comes later is tokenised as it is read.
    with pytest.raises(TypeError, match="NoneType"):
        trainer.evaluate(query_dataset())
    monkeypatch.undo()
    assert trainer.evaluate(query_dataset())["eval_loss"] > 0


def test_datasets_of_another_kind_are_left_alone(bpe_tokenizer, tmp_path):
    stream = query_dataset().to_iterable_dataset()
    trainer = make_trainer(tmp_path, bpe_tokenizer, train_dataset=stream)
    assert trainer.train_dataset is stream
    trainer.train()


def test_a_dataset_on_disk_is_tokenised_once(bpe_tokenizer, tmp_path, monkeypatch):
    query_dataset().save_to_disk(tmp_path / "queries")
    queries = datasets.load_from_disk(tmp_path / "queries")
    identifiers = Identifiers(bpe_tokenizer)
    first = with_prompts(queries, identifiers, progress=False)
    encode, calls = Identifiers.encode_prompts, []
    monkeypatch.setattr(Identifiers, "encode_prompts", lambda self, *args: calls.append(1) or encode(self, *args))
    again = with_prompts(datasets.load_from_disk(tmp_path / "queries"), identifiers, progress=False)
    assert not calls and again["prompt_ids"] == first["prompt_ids"]
    # Other prompts are other tokens, also over a column that is there already.
    settings = IdentifierSettings(views=("title",), prompts={"title": "name {query}"})
    other = with_prompts(again, Identifiers(bpe_tokenizer, settings), progress=False)
    assert calls and len(other[0]["prompt_ids"]) == 1
    assert other[0]["prompt_ids"][0] == encode(Identifiers(bpe_tokenizer, settings), [queries[0]["query"]], "title")[0]


def test_progress_bars_are_as_they_were(bpe_tokenizer):
    shown = datasets.is_progress_bar_enabled()
    with_prompts(query_dataset(), Identifiers(bpe_tokenizer), progress=False)
    assert datasets.is_progress_bar_enabled() == shown
