"""Margins, temperatures and weights that fit the scores of the candidates, and the published ones."""

import logging
import statistics

import datasets
import pytest
import torch
from sample_corpus import QUERIES
from tiny_models import make_bart
from training_examples import make_arguments, make_candidates, make_collator, make_trainer, query_dataset

from dgr_trainer.cli.train import make_parser
from dgr_trainer.identifiers import Identifiers
from dgr_trainer.runs import RankList
from dgr_trainer.training.arguments import DistillationTrainingArguments
from dgr_trainer.training.objective import RankingObjective
from dgr_trainer.training.score_spread import fitted_arguments


def measured(candidates, query_ids):
    """The median over queries of the best score less the median score."""
    spreads = []
    for query_id in query_ids:
        scores = [candidate.score for candidate in candidates[query_id]]
        spreads.append(max(scores) - statistics.median(scores))
    return statistics.median(spreads)


def test_the_defaults_fit_the_candidates(bpe_tokenizer, tmp_path, caplog):
    with caplog.at_level(logging.INFO, logger="dgr_trainer"):
        trainer = make_trainer(tmp_path, bpe_tokenizer, ranking_loss="distilled_ranknet")
    spread = measured(make_candidates(Identifiers(bpe_tokenizer)), QUERIES)
    objective = trainer.ranking_objective
    assert trainer.args.score_spread == pytest.approx(spread, rel=0.01)
    assert objective.settings["margin"] == pytest.approx(spread / 2, rel=0.01)
    assert objective.settings["margin_gap"] == pytest.approx(spread / 6, rel=0.01)
    assert objective.generation_weight == pytest.approx(spread / 6, rel=0.01)
    assert objective.settings["first_weight"] == 3.0
    # What is logged and saved as JSON holds the numbers.
    logged = trainer.args.to_dict()
    assert logged["margin"] == objective.settings["margin"] and logged["score_spread"] == trainer.args.score_spread
    assert logged["generation_weight"] == objective.generation_weight and logged["temperature"] is None
    assert "score_spread=4.5: the student scores its best candidate by this above its median one" in caplog.text
    assert "margin=2.25, margin_gap=0.75, generation_weight=0.75" in caplog.text


def test_temperatures_fit_too(bpe_tokenizer, tmp_path):
    trainer = make_trainer(tmp_path, bpe_tokenizer)
    assert trainer.args.ranking_loss == "kl_divergence"
    assert trainer.ranking_objective.settings["temperature"] == pytest.approx(trainer.args.score_spread / 6)
    assert trainer.ranking_objective.generation_weight == 1.0
    assert trainer.args.to_dict()["temperature"] == trainer.ranking_objective.settings["temperature"]


@pytest.mark.parametrize("scale", [1.0, 1e-3])
def test_the_temperature_of_the_teacher_fits_its_scores(bpe_tokenizer, tmp_path, scale, caplog):
    collator = make_collator(bpe_tokenizer)
    collator.rankings = {
        name: RankList(found.passage_ids, found.scores * scale) for name, found in collator.rankings.items()
    }
    args = make_arguments(tmp_path, ranking_loss="kl_divergence", teacher_temperature="auto")
    with caplog.at_level(logging.INFO, logger="dgr_trainer"):
        fitted = fitted_arguments(args, collator, query_dataset())
    lists = [collator.rankings[name].scores for name in QUERIES if name in collator.rankings]
    spread = statistics.median(max(scores) - statistics.median(scores) for scores in lists if len(scores) > 1)
    assert fitted.teacher_spread == pytest.approx(spread, rel=0.01) and spread > 0
    temperature = fitted.to_dict()["teacher_temperature"]
    assert temperature == pytest.approx(spread / 6, rel=0.01)
    assert RankingObjective.from_arguments(fitted, "log_odds").settings["teacher_temperature"] == temperature
    assert f"so by default teacher_temperature={temperature:g}." in caplog.text
    assert args.teacher_spread is None
    # Another loss that has none is not given it.
    fitted.ranking_loss = "ranknet"
    assert "teacher_temperature" not in RankingObjective.from_arguments(fitted, "log_odds").settings


def test_the_temperature_of_the_teacher_stays_where_it_is_given_or_nothing_is_known(bpe_tokenizer, tmp_path):
    def temperature(**settings):
        args = make_arguments(tmp_path, ranking_loss="listnet", **settings)
        fitted = fitted_arguments(args, collator, query_dataset())
        return RankingObjective.from_arguments(fitted, "log_odds").settings["teacher_temperature"]

    collator = make_collator(bpe_tokenizer)
    assert temperature(teacher_temperature=3.0) == 3.0
    assert temperature(ranking_loss_kwargs={"teacher_temperature": 3.0}) == 3.0
    assert temperature(teacher_spread=12.0) == 2.0
    collator.rankings = {
        name: RankList(found.passage_ids, found.scores * 0) for name, found in collator.rankings.items()
    }
    assert temperature() == 1.0


def test_what_is_given_stays_and_the_arguments_of_the_caller_too(bpe_tokenizer, tmp_path):
    args = make_arguments(
        tmp_path, ranking_loss="distilled_ranknet", margin=7.0, margin_gap="auto", generation_weight="auto"
    )
    fitted = fitted_arguments(args, make_collator(bpe_tokenizer), query_dataset())
    objective = RankingObjective.from_arguments(fitted, "log_odds")
    assert (args.score_spread, fitted.score_spread, args.margin_gap) == (None, 4.5, None)
    assert objective.settings["margin"] == 7.0 and objective.settings["margin_gap"] == 0.75
    # Fitted to other candidates of the same arguments.
    assert fitted_arguments(args, make_collator(bpe_tokenizer), None).score_spread == 4.5
    given = make_arguments(tmp_path, ranking_loss="distilled_ranknet", score_spread=60)
    assert fitted_arguments(given, make_collator(bpe_tokenizer), None).score_spread == 60
    assert RankingObjective.from_arguments(given, "log_odds").settings["margin"] == 30.0


def test_only_the_training_queries_are_measured(bpe_tokenizer, tmp_path):
    one = datasets.Dataset.from_dict({"query_id": ["q03"], "query": [QUERIES["q03"]]})
    args = fitted_arguments(make_arguments(tmp_path), make_collator(bpe_tokenizer), one)
    assert args.score_spread == pytest.approx(measured(make_candidates(Identifiers(bpe_tokenizer)), ["q03"]))


def test_without_scores_the_defaults_are_those_of_the_loss(bpe_tokenizer, tmp_path):
    strings = make_collator(bpe_tokenizer, "strings")
    trainer = make_trainer(tmp_path, bpe_tokenizer, collator=strings, ranking_loss="distilled_ranknet")
    assert trainer.args.score_spread is None and trainer.ranking_objective.settings["margin"] == 1.0
    args = make_arguments(tmp_path)
    assert fitted_arguments(args, None, query_dataset()) is args
    elsewhere = datasets.Dataset.from_dict({"query_id": ["unknown"], "query": ["a"]})
    assert fitted_arguments(args, make_collator(bpe_tokenizer), elsewhere) is args


def test_the_published_loss(bpe_tokenizer, tmp_path):
    args = DistillationTrainingArguments.dgr_paper(output_dir=str(tmp_path), report_to=[], use_cpu=True)
    assert args.ranking_loss == "distilled_ranknet"
    trainer = make_trainer(tmp_path, bpe_tokenizer, preset="dgr_paper")
    for objective in (RankingObjective.from_arguments(args, "log_odds"), trainer.ranking_objective):
        assert objective.settings == {
            "margin": 300.0, "margin_gap": 100.0, "first_weight": 3.0, "active_pair_mean": True,
        }  # fmt: skip
        assert objective.generation_weight == 500.0
    ltrgr = make_arguments(tmp_path, preset="dgr_paper", ranking_loss="margin_rank", margin=250)
    objective = RankingObjective.from_arguments(ltrgr, "log_odds")
    assert (objective.settings["margin"], objective.settings["margin_gap"]) == (250.0, 100.0)
    assert objective.generation_weight == ltrgr.to_dict()["generation_weight"] == 500.0
    for loss, kind in ((None, "log_likelihood"), ("kl_divergence", "log_odds")):
        args = make_arguments(tmp_path, preset="dgr_paper", ranking_loss=loss)
        assert RankingObjective.from_arguments(args, kind).generation_weight == 1.0
    with pytest.raises(ValueError, match="preset='other' is unknown; use one of dgr_paper"):
        make_arguments(tmp_path, preset="other")


def test_margins_in_units_of_the_list(bpe_tokenizer, tmp_path):
    kwargs = {"normalization": "list", "margin_growth": "teacher_scores"}
    trainer = make_trainer(tmp_path, bpe_tokenizer, ranking_loss="distilled_ranknet", ranking_loss_kwargs=kwargs)
    objective = trainer.ranking_objective
    assert objective.settings["margin"] == 0.5 and objective.settings["margin_gap"] == pytest.approx(1 / 6)
    trainer.train()
    (first, *_) = [log for log in trainer.state.log_history if "loss_ranking" in log]
    assert 0 < first["loss_ranking"] < 5 and 0 <= first["violated_margins"] <= 1
    # Scores of another scale give the same violations.
    scores, mask = torch.randn(5, 6, dtype=torch.float64), torch.ones(5, 6, dtype=torch.bool)
    lists = torch.rand(5, 6, dtype=torch.float64), mask, torch.arange(6).expand(5, 6)
    one, other = (objective.statistics(scores * scale, *lists)["violated_margins"] for scale in (1, 900))
    torch.testing.assert_close(one, other)
    assert 0 < one.mean() < 1


def test_the_spread_is_saved_and_the_same_after_resuming(bpe_tokenizer, tmp_path):
    trainer = make_trainer(tmp_path, bpe_tokenizer, save_strategy="steps", save_steps=2, max_steps=3)
    trainer.train()
    saved = torch.load(tmp_path / "checkpoint-2" / "training_args.bin", weights_only=False)
    assert saved.score_spread == 4.5
    resumed = make_trainer(tmp_path, bpe_tokenizer, max_steps=3)
    resumed.train(resume_from_checkpoint=True)
    assert resumed.args.score_spread == 4.5


@pytest.mark.parametrize("name", ["margin", "margin_gap", "temperature", "generation_weight", "score_spread"])
def test_numbers_and_auto_are_read_from_the_command_line(name, tmp_path):
    command = ["--stage", "distillation", "--model", "m", "--output_dir", str(tmp_path), "--use_cpu", f"--{name}"]
    parser = make_parser()

    def read(value):
        return next(
            one for one in parser.parse_args_into_dataclasses([*command, value])
            if isinstance(one, DistillationTrainingArguments)
        )  # fmt: skip

    assert getattr(read("auto"), name) is None and getattr(read("2.5"), name) == 2.5
    with pytest.raises(ValueError, match=f"{name}='many' is no number. Give one, or 'auto'"):
        make_arguments(tmp_path, **{name: "many"})


def test_a_large_margin_is_still_told(bpe_tokenizer, tmp_path, caplog):
    make_trainer(tmp_path, bpe_tokenizer, make_bart, ranking_loss="distilled_ranknet", margin=300, max_steps=1).train()
    assert "margin=300 is larger than 4.5" in caplog.text
    caplog.clear()
    make_trainer(tmp_path, bpe_tokenizer, make_bart, max_steps=1).train()
    assert "is larger than" not in caplog.text


def test_standardised_scores_have_the_same_margins_whatever_they_are(bpe_tokenizer, tmp_path):
    args = make_arguments(tmp_path, ranking_loss="distilled_ranknet", ranking_loss_kwargs={"normalization": "list"})
    of_kinds = [RankingObjective.from_arguments(args, kind) for kind in ("log_odds", "log_likelihood")]
    assert of_kinds[0] == of_kinds[1] and of_kinds[1].settings["margin"] == 0.5


def test_the_spread_is_one_of_log_odds(tmp_path):
    args = make_arguments(tmp_path, ranking_loss="distilled_ranknet", score_spread=60)
    objective = RankingObjective.from_arguments(args, "log_likelihood")
    assert (objective.settings["margin"], objective.generation_weight) == (1.0, 1.0)


def test_the_stated_defaults_are_those_of_the_collators_scores(bpe_tokenizer, tmp_path):
    trainer = make_trainer(
        tmp_path, bpe_tokenizer, preset="dgr_paper", collator=make_collator(bpe_tokenizer, "strings")
    )
    stated, objective = trainer.args.to_dict(), trainer.ranking_objective
    for name in ("margin", "margin_gap"):
        assert stated[name] == objective.settings[name] < 10
    assert stated["generation_weight"] == objective.generation_weight == 1.0


def test_the_preset_fits_a_loss_that_is_chosen_later(bpe_tokenizer, tmp_path):
    trainer = make_trainer(tmp_path, bpe_tokenizer, preset="dgr_paper", ranking_loss="distilled_ranknet")
    trainer.args.ranking_loss = "margin_rank"
    assert trainer.ranking_objective.settings["margin"] == 300.0
    trainer.args.ranking_loss = "distilled_ranknet"
    assert trainer.ranking_objective.settings["active_pair_mean"]
    other = make_arguments(tmp_path, preset="dgr_paper").with_ranking_loss("margin_rank")
    assert RankingObjective.from_arguments(other, "log_odds").settings["margin_gap"] == 100.0
