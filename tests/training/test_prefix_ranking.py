"""A ranking loss at every depth of the identifiers, against plain loops over passages and depths."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sample_corpus import QUERIES
from training_examples import (
    TITLES,
    make_arguments,
    make_candidates,
    make_collator,
    make_rankings,
    make_trainer,
    query_dataset,
)
from training_runs import SGD, assert_same_run, quiet_bart, run

from dgr_trainer.errors import DGRValueError
from dgr_trainer.identifier_weights import ScoringSettings
from dgr_trainer.identifiers import Identifiers
from dgr_trainer.student.encoder_decoder import EncoderDecoderStudent
from dgr_trainer.training.collator import DistillationCollator
from dgr_trainer.training.losses import RANKING_LOSSES
from dgr_trainer.training.prefix_ranking import prefix_lists, prefix_ranking_losses

# Few tokens and lengths, so that passages share prefixes, and one may be the beginning of another.
CODES = {f"p{number:02d}": f"{'abcb'[number % 4]} {'xyx'[number % 3]} {number}" for number in range(1, 31)}


def make_batch(queries):
    """A batch of lists of identifiers: tokens of each passage, in cells as the collator lays them out."""
    tables, cells = [], []
    for passages in queries:
        distinct = sorted(set(passages))
        tables.append([distinct.index(passage) for passage in passages])
        cells.append([(token, number) for number, ids in enumerate(distinct) for token in ids])
    width, longest = max(map(len, cells)), max(map(len, tables))
    labels, segments = torch.full((len(queries), width), -100), torch.full((len(queries), width), -1)
    deepest = max(len(passage) for passages in queries for passage in passages)
    of_passages = torch.full((len(queries), longest, deepest), -1)
    for b, (row, numbers) in enumerate(zip(cells, tables, strict=True)):
        labels[b, : len(row)] = torch.tensor([token for token, _ in row])
        segments[b, : len(row)] = torch.tensor([number for _, number in row])
        for m, number in enumerate(numbers):
            own = [cell for cell, (_, segment) in enumerate(row) if segment == number]
            of_passages[b, m, : len(own)] = torch.tensor(own)
    return {
        "labels": labels,
        "segments": segments,
        "passage_cells": of_passages,
        "list_mask": of_passages[..., 0] >= 0,
    }


def plain_lists(passages, log_p):
    """Per depth: the scores of the prefixes, and whether no passage before has the same one."""
    depths = []
    for depth in range(1, max(map(len, passages)) + 1):
        prefixes = [passage[:depth] for passage in passages]
        scores = [sum(log_p[passage[: t + 1]] for t in range(min(depth, len(passage)))) for passage in passages]
        depths.append((scores, [prefix not in prefixes[:place] for place, prefix in enumerate(prefixes)]))
    return depths


passages = st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=4).map(tuple), min_size=1, max_size=5)


@settings(max_examples=40, deadline=None)
@given(st.lists(passages, min_size=1, max_size=3), st.sampled_from(sorted(RANKING_LOSSES)), st.integers(0, 9))
def test_the_loss_is_that_of_each_depth(queries, name, seed):
    generator = torch.Generator().manual_seed(seed)
    batch = make_batch(queries)
    # The probability of a token depends on the prefix before it, and is the same in all identifiers that begin so.
    known = [{} for _ in queries]
    log_p = torch.zeros(batch["labels"].shape, dtype=torch.float64)
    for b, identifiers in enumerate(queries):
        cell = 0
        for ids in sorted(set(identifiers)):
            for t in range(len(ids)):
                known[b].setdefault(ids[: t + 1], -torch.rand((), generator=generator, dtype=torch.float64).item())
                log_p[b, cell] = known[b][ids[: t + 1]]
                cell += 1
    shape = batch["list_mask"].shape
    teacher = torch.rand(shape, generator=generator, dtype=torch.float64).sort(descending=True).values
    ranks = torch.arange(shape[1]).expand(shape)
    judged = torch.rand(shape[0], generator=generator) < 0.5
    loss = RANKING_LOSSES[name]
    chosen = loss.defaults("log_likelihood")

    def ranking(*tensors):
        scores, teacher_scores, mask, *others = tensors
        return loss(scores, teacher_scores, mask, chosen, *others)

    found = prefix_ranking_losses(prefix_lists(log_p, batch), teacher, ranks, judged, ranking)
    for b, identifiers in enumerate(queries):
        expected = []
        for scores, kept in plain_lists(identifiers, known[b]):
            places = [place for place, keep in enumerate(kept) if keep]
            if len(places) >= 2:
                alone = torch.tensor([[scores[place] for place in places]], dtype=torch.float64)
                mask = torch.ones_like(alone, dtype=torch.bool)
                lists = teacher[b : b + 1, places], mask, ranks[b : b + 1, places], judged[b : b + 1]
                expected.append(ranking(alone, *lists).item())
        assert found[b].item() == pytest.approx(sum(expected) / len(expected) if expected else 0.0, rel=1e-6, abs=1e-9)


def test_a_list_by_hand():
    # The relevant passage 1 2, one that shares its first token, and one that is shorter.
    batch = make_batch([[(1, 2), (1, 3), (4,)]])
    log_p = torch.tensor([[-1.0, -2.0, -1.0, -0.5, -3.0]], requires_grad=True)
    scores, mask = prefix_lists(log_p, batch)
    torch.testing.assert_close(scores, torch.tensor([[[-1.0, -1.0, -3.0], [-3.0, -1.5, -3.0]]]))
    assert mask.tolist() == [[[True, False, True], [True, True, True]]]
    teacher, ranks = torch.tensor([[3.0, 2.0, 1.0]]), torch.tensor([[0, 1, 2]])

    def hinges(scores, teacher_scores, mask, taught_ranks, judged):
        others = (3.0 - scores[:, :1] + scores[:, 1:]).relu() * mask[:, 1:]
        return others.sum(-1)

    loss = prefix_ranking_losses(prefix_lists(log_p, batch), teacher, ranks, torch.tensor([True]), hinges)
    assert loss.tolist() == [((3 + 1 - 3) + (3 + 3 - 1.5) + (3 + 3 - 3)) / 2]
    loss.sum().backward()
    # 1 | 1 2 counts at both depths against the others; the token that two passages share cancels between them.
    assert log_p.grad.tolist() == [[-0.5 - 0.5 * 2, -0.5 * 2, 0.5, 0.5, 0.5 + 0.5]]


def test_a_loss_of_the_whole_batch_takes_the_lists_of_all_depths():
    batch = make_batch([[(1, 2), (1, 3)], [(1,), (2, 2)]])
    lists = prefix_lists(torch.zeros(batch["labels"].shape), batch)
    nothing = torch.zeros(2, 2), torch.zeros(2, 2), torch.zeros(2, dtype=torch.bool)
    total = prefix_ranking_losses(lists, *nothing, lambda s, t, mask, *_: mask.sum() * 1.0)
    assert total.item() == 1 + 2 + 2 + 2


def test_neither_accumulation_nor_packing_changes_training(bpe_tokenizer, tmp_path, monkeypatch):
    chosen = {"train_dataset": query_dataset().select(range(8)), "prefix_ranking": True}
    chosen |= {**SGD, "learning_rate": 1e-4, "max_steps": 1}

    def trained(steps, **more):
        collator = DistillationCollator(bpe_tokenizer, CODES, make_rankings(), list_length=5)
        sizes = {"per_device_train_batch_size": 8 // steps, "gradient_accumulation_steps": steps}
        return run(make_trainer(tmp_path, bpe_tokenizer, quiet_bart, collator=collator, **chosen, **sizes, **more))

    one = trained(1)
    assert_same_run(one, trained(8))
    monkeypatch.setattr(EncoderDecoderStudent, "packing_obstacle", lambda student: "for the test")
    assert_same_run(one, trained(1))


def test_padding_does_not_change_a_query(bpe_tokenizer, tmp_path):
    collator = make_collator(bpe_tokenizer, kind="titles")
    trainer = make_trainer(tmp_path, bpe_tokenizer, collator=collator, prefix_ranking=True, generation_weight=0.0)
    model = trainer.model.eval()
    features = [*query_dataset()]
    together = trainer.compute_loss(model, trainer.data_collator(features)).item()
    alone = [trainer.compute_loss(model, trainer.data_collator([feature])).item() for feature in features]
    assert together == pytest.approx(sum(alone) / len(alone), rel=1e-5)
    assert len({len(bpe_tokenizer.tokenize(title)) for title in TITLES.values()}) > 3
    trainer.args.prefix_ranking = False
    assert trainer.compute_loss(model, trainer.data_collator(features)).item() != pytest.approx(together, rel=1e-2)


def test_passages_of_several_identifiers_are_refused(bpe_tokenizer, tmp_path):
    with pytest.raises(DGRValueError, match="ranks the prefixes of one identifier a passage, but the candidates"):
        make_trainer(tmp_path, bpe_tokenizer, prefix_ranking=True)
    identifiers = Identifiers(bpe_tokenizer)
    likelihoods = DistillationCollator(
        identifiers, make_candidates(identifiers), make_rankings(), scoring=ScoringSettings(kind="log_likelihood")
    )
    with pytest.raises(DGRValueError, match="kind='log_likelihood', views title, substring, pseudo_query"):
        make_trainer(tmp_path, bpe_tokenizer, collator=likelihoods, prefix_ranking=True)


def test_it_needs_a_ranking_loss(tmp_path):
    with pytest.raises(DGRValueError, match="prefix_ranking changes the ranking loss, whose ranking_weight is 0"):
        make_arguments(tmp_path, prefix_ranking=True, ranking_weight=0.0)


def test_the_codes_of_the_test_share_prefixes():
    assert set(CODES) >= set(TITLES) and len(QUERIES) >= 8
    assert len({code.split()[0] for code in CODES.values()}) < 5
