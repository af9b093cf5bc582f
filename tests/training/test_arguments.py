import dataclasses

import pytest
from transformers import HfArgumentParser, Seq2SeqTrainingArguments

from dgr_trainer.training.arguments import DistillationTrainingArguments
from dgr_trainer.training.losses import RankingLoss


def test_the_command_line_reads_them(tmp_path):
    parser = HfArgumentParser(DistillationTrainingArguments)
    words = f"--output_dir {tmp_path} --ranking_loss listnet --generation_weight 2.5 --temperature 50 --max_steps 3"
    (args,) = parser.parse_args_into_dataclasses([*words.split(), "--ranking_weight", "0.5", "--report_to", "none"])
    assert (args.ranking_loss, args.generation_weight, args.temperature, args.ranking_weight) == (
        "listnet",
        2.5,
        50,
        0.5,
    )
    assert args.margin is None and args.max_steps == 3


def test_every_changed_default_is_documented():
    parent = {field.name: field for field in dataclasses.fields(Seq2SeqTrainingArguments)}
    for field in dataclasses.fields(DistillationTrainingArguments):
        same = field.name in parent and field.default == parent[field.name].default
        assert (
            same
            or f"`{field.name}`" in DistillationTrainingArguments.__doc__
            or (f"{field.name} (" in DistillationTrainingArguments.__doc__)
        )
    changed = {
        field.name
        for field in dataclasses.fields(DistillationTrainingArguments)
        if field.name in parent and field.default != parent[field.name].default
    }
    assert changed == {"learning_rate", "logging_nan_inf_filter"}


@pytest.mark.parametrize("metric", ["loss_ranking", "eval_dev_loss_generation", "violated_margins", "eval_loss"])
def test_a_smaller_loss_is_better(metric, tmp_path):
    settings = {"output_dir": str(tmp_path), "metric_for_best_model": metric}
    assert DistillationTrainingArguments(**settings).greater_is_better is False
    assert DistillationTrainingArguments(**settings, greater_is_better=True).greater_is_better is True
    settings["metric_for_best_model"] = "rank_accuracy"
    assert DistillationTrainingArguments(**settings).greater_is_better is True


def test_the_published_preset_sets_nothing_of_a_loss_of_ones_own(tmp_path):
    def own(scores, mask, *, margin):
        return ((margin - scores[:, :1] + scores[:, 1:]).relu() * mask[:, 1:]).sum(-1)

    arguments = DistillationTrainingArguments(output_dir=str(tmp_path), preset="dgr_paper")
    assert arguments.ranking_loss_settings["active_pair_mean"]
    changed = arguments.with_ranking_loss(RankingLoss(own, teaches="order", settings={"margin": 1.0}))
    changed.check_loss()  # As a trainer does.
    assert "active_pair_mean" not in changed.ranking_loss_settings


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"ranking_loss": "best"}, "ranking_loss='best' is unknown; use one of distilled_ranknet, "),
        ({"margin": -1.0}, "margin=-1.0 must be at least 0"),
        ({"temperature": 0.0}, "temperature=0.0 must be greater than 0"),
        ({"ranking_weight": 0, "generation_weight": 0}, "both 0, so there is nothing to train"),
        ({"decoder_tokens_at_once": 0}, "decoder_tokens_at_once=0 must be at least 1"),
        ({"ranking_loss_kwargs": "{weighting"}, "is no JSON"),
        ({"ranking_loss_kwargs": "[1]"}, "is no mapping of settings by name"),
        ({"ranking_loss_kwargs": {"margin": 1.0}, "margin": 0.0}, "ranking_loss_kwargs sets margin, which is"),
        ({"predict_with_generate": True}, "generates without the index.*retrieval_evaluator"),
    ],
)
def test_errors(settings, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        DistillationTrainingArguments(output_dir=str(tmp_path), **settings)
