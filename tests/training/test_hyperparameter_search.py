"""Settings of the loss that change: in a search over hyperparameters, and between calls of `train`."""

import functools

import pytest
import torch
from tiny_models import bpe_tokenizer as load_tokenizer
from tiny_models import make_bart
from training_examples import make_arguments, make_collator, make_trainer, query_dataset
from transformers import TrainerCallback

from dgr_trainer.errors import DGRTypeError
from dgr_trainer.training.losses import RANKING_LOSSES, RankingLoss
from dgr_trainer.training.trainer import DistillationGenerativeRetrievalTrainer

optuna = pytest.importorskip("optuna")
optuna.logging.set_verbosity(optuna.logging.WARNING)


def hinge_loss(scores, mask, *, margin, temperature=1.0):
    hinges = torch.relu(margin - (scores[:, :1] - scores[:, 1:]) / temperature)
    return (hinges * mask[:, 1:]).sum(-1) / mask[:, 1:].sum(-1).clamp(min=1)


OWN = RankingLoss(hinge_loss, teaches="order", scales={"log_odds": {"margin": 300.0}})


@functools.cache
def collator():
    return make_collator(load_tokenizer())


def model_init():
    return make_bart(load_tokenizer(), dropout=0.0)


class Trials(TrainerCallback):
    """Keeps what each trial logged."""

    def __init__(self) -> None:
        self.logs = []

    def on_train_begin(self, args, state, control, **kwargs):
        self.logs.append([])

    def on_log(self, args, state, control, logs=None, **kwargs):
        if self.logs and "loss" in logs:
            self.logs[-1].append(logs["loss"])


def searching(folder, ranking_loss="distilled_ranknet", model_init=model_init, trainer_settings=None, **settings):
    arguments = {"max_steps": 2, "eval_strategy": "no", **settings}
    trials = Trials()
    trainer = DistillationGenerativeRetrievalTrainer(
        model_init=model_init,
        args=make_arguments(folder, **arguments),
        data_collator=collator(),
        train_dataset=query_dataset(),
        ranking_loss=ranking_loss,
        callbacks=[trials],
        **{"eval_dataset": query_dataset(), **(trainer_settings or {})},
    )
    return trainer, trials


def grid(trainer, values, **kwargs):
    """A search over a grid: the trials in order, and the best run."""
    study = []

    def keep(trial):
        study.append({name: trial.suggest_categorical(name, choices) for name, choices in values.items()})
        return study[-1]

    count = 1
    for choices in values.values():
        count *= len(choices)
    best = trainer.hyperparameter_search(
        keep, n_trials=count, backend="optuna", sampler=optuna.samplers.GridSampler(values, seed=0), **kwargs
    )
    return study, best


def alone(folder, ranking_loss="distilled_ranknet", **settings):
    """The logged losses, and the loss afterwards, of a trainer that has had these settings from the beginning."""
    trainer, trials = searching(folder, ranking_loss, **settings)
    trainer.train()
    return trials.logs[0], trainer.evaluate()["eval_loss"]


@pytest.mark.parametrize(
    "loss",
    [
        pytest.param("distilled_ranknet", id="published", marks=pytest.mark.slow),
        pytest.param("margin_rank", id="name"),
        pytest.param(RANKING_LOSSES["margin_rank"], id="object", marks=pytest.mark.slow),
        pytest.param(OWN, id="own", marks=pytest.mark.slow),
    ],
)
def test_every_trial_trains_with_its_own_margin_and_weight(loss, tmp_path):
    trainer, trials = searching(tmp_path, loss)
    tried, best = grid(trainer, {"margin": [100.0, 900.0], "ranking_weight": [0.5, 2.0]})
    assert len({tuple(logs) for logs in trials.logs}) == len(tried) == 4
    expected = [alone(tmp_path, loss, **settings) for settings in tried]
    for logs, (logged, _) in zip(trials.logs, expected, strict=True):
        assert logs == logged
    assert best.objective == min(value for _, value in expected)
    assert tried[[value for _, value in expected].index(best.objective)] == best.hyperparameters


@pytest.mark.slow
def test_the_loss_itself_is_searched(tmp_path):
    names = ["distilled_ranknet", "ranknet", "listnet"]
    for given in (None, OWN):
        trainer, trials = searching(tmp_path, given)
        tried, _ = grid(trainer, {"ranking_loss": names})
        assert trials.logs == [alone(tmp_path, **settings)[0] for settings in tried]


def test_a_trial_does_not_inherit_from_the_one_before(tmp_path):
    """A margin is no setting of RankNet, which is tried after a loss with a margin."""
    trainer, trials = searching(tmp_path, temperature=None, margin=None)
    tried = [{"ranking_loss": "margin_rank", "margin": 7.0}, {"ranking_loss": "ranknet"}, {"temperature": None}]
    trials_of = iter(tried)
    trainer.hyperparameter_search(lambda trial: next(trials_of), n_trials=3, backend="optuna")
    expected = [alone(tmp_path, **settings)[0] for settings in ({**tried[0]}, {**tried[1]}, {})]
    assert trials.logs == expected


def test_a_whole_number_does_not_cut_the_values_that_are_tried(tmp_path):
    trainer, trials = searching(tmp_path, ranking_weight=1, margin=2)
    tried, _ = grid(trainer, {"ranking_weight": [0.25], "margin": [2.75]})
    assert trials.logs == [alone(tmp_path, **tried[0])[0]]


def test_values_that_are_none_are_refused_in_the_trial(tmp_path):
    trainer, _ = searching(tmp_path)
    with pytest.raises(ValueError, match="margin=-1.0 must be at least 0"):
        grid(trainer, {"margin": [-1.0]})
    trainer, _ = searching(tmp_path)
    with pytest.raises(ValueError, match="ranking_loss='ranknett' is unknown"):
        grid(trainer, {"ranking_loss": ["ranknett"]})


class Evaluator:
    """Retrieval that is better for larger margins."""

    def __init__(self) -> None:
        self.trainer = None

    def __call__(self, model, accelerator=None):
        return {"hits@10": self.trainer.args.margin / 1000}


@pytest.mark.parametrize("during", [pytest.param(False, marks=pytest.mark.slow), True])
def test_the_objective_is_the_metric_of_the_best_model(during, tmp_path):
    evaluator = Evaluator()
    settings = {"metric_for_best_model": "hits@10", "greater_is_better": True}
    if during:
        settings |= {"eval_strategy": "steps", "eval_steps": 1}
    trainer, _ = searching(
        tmp_path, trainer_settings={"retrieval_evaluator": evaluator, "eval_dataset": None}, **settings
    )
    evaluator.trainer = trainer
    _, best = grid(trainer, {"margin": [100.0, 900.0, 500.0]})
    assert best.hyperparameters == {"margin": 900.0} and best.objective == 0.9
    _, best = grid(trainer, {"margin": [100.0, 900.0]}, compute_objective=lambda metrics: metrics["eval_hits@10"])
    assert best.hyperparameters == {"margin": 100.0}, "with an objective of one's own, the direction is transformers'"
    _, best = grid(trainer, {"margin": [100.0, 900.0]}, direction="minimize")
    assert best.hyperparameters == {"margin": 100.0}


def test_an_objective_that_is_not_measured_is_named(tmp_path):
    several = {"eval_dataset": {"a": query_dataset(), "b": query_dataset()}}
    trainer, trials = searching(tmp_path, trainer_settings=several)
    with pytest.raises(ValueError, match="has several, and their losses are eval_a_loss, eval_b_loss. Name a metric"):
        grid(trainer, {"margin": [1.0]})
    trainer, trials = searching(tmp_path, trainer_settings={"eval_dataset": None, "retrieval_evaluator": Evaluator()})
    with pytest.raises(ValueError, match="compares trials by eval_loss, but there is no eval_dataset"):
        grid(trainer, {"margin": [1.0]})
    assert not trials.logs, "before the first trial"
    trainer, _ = searching(tmp_path, metric_for_best_model="ndcg@10")
    with pytest.raises(
        ValueError, match="no eval_ndcg@10, only eval_kendall_tau, eval_loss, eval_loss_gen.*, or give"
    ):
        grid(trainer, {"margin": [1.0]})
    trainer, _ = searching(tmp_path, trainer_settings=several, metric_for_best_model="eval_a_loss")
    assert grid(trainer, {"margin": [1.0]})[1].objective > 0


def test_a_model_of_a_trial_that_cannot_be_trained_is_refused(tmp_path):
    made = iter([700, 600])
    trainer, _ = searching(tmp_path, model_init=lambda: make_bart(load_tokenizer(), vocab_size=next(made)))
    with pytest.raises(ValueError, match="700 tokens, but the model only 600 embeddings"):
        grid(trainer, {"margin": [1.0]})


CHANGES = {
    "margin": 50.0,
    "margin_gap": 7.0,
    "first_weight": 9.0,
    "ranking_weight": 0.1,
    "generation_weight": 3.0,
    "active_pair_mean": True,
    "ranking_loss": "listnet",
    "ranking_loss_kwargs": '{"margin": 50.0}',
}


@pytest.mark.parametrize("name", CHANGES)
def test_arguments_may_change_between_runs_and_evaluations(name, tmp_path):
    loss = {"ranking_loss": "distilled_ranknet"}
    changed = make_trainer(tmp_path, load_tokenizer(), collator=collator(), model=model_init(), **loss)
    before = changed.evaluate(query_dataset())["eval_loss"]
    setattr(changed.args, name, CHANGES[name])
    expected = make_trainer(
        tmp_path, load_tokenizer(), collator=collator(), model=model_init(), **(loss | {name: CHANGES[name]})
    )
    loss = changed.evaluate(query_dataset())["eval_loss"]
    assert loss == expected.evaluate(query_dataset())["eval_loss"] != before
    changed.train()
    expected.train()
    logs = [[log["loss"] for log in trainer.state.log_history if "loss" in log] for trainer in (changed, expected)]
    assert logs[0] == logs[1]


def test_arguments_that_were_changed_are_checked_before_training(tmp_path):
    trainer = make_trainer(tmp_path, load_tokenizer(), ranking_loss="margin_rank")
    trainer.args.ranking_loss = "ranknet"
    trainer.args.margin = 3.0
    with pytest.raises(ValueError, match="margin is no setting of the ranking loss 'ranknet'"):
        trainer.train()
    trainer.args.margin, trainer.args.ranking_loss = None, 3
    with pytest.raises(DGRTypeError, match="ranking_loss is a int"):
        trainer.train()


def test_the_size_of_pieces_may_change(tmp_path, monkeypatch):
    seen = []
    trainer = make_trainer(tmp_path, load_tokenizer(), collator=collator(), model=model_init(), max_steps=1)
    module = "dgr_trainer.training.batch_loss.score_batch"
    from dgr_trainer.training.batches import score_batch

    monkeypatch.setattr(module, lambda model, batch, pieces: seen.append(pieces) or score_batch(model, batch, pieces))
    trainer.train()
    trainer.args.decoder_tokens_at_once = 100
    trainer.train()
    assert seen == [4096, 100]
