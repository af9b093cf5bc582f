"""The loss of an evaluation: each query counts once, in however many processes and batches, and however it is read."""

import functools
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import datasets
import pytest
import torch
from tiny_models import bpe_tokenizer as load_tokenizer
from training_examples import make_collator, make_trainer, query_dataset
from training_runs import quiet_bart

from dgr_trainer.training.trainer import DistillationGenerativeRetrievalTrainer

WORKER = "import test_evaluation_processes as t, sys; t.evaluate_all(t.Path(sys.argv[1]), int(sys.argv[2]))"


class Stream(torch.utils.data.IterableDataset):
    """Rows without a length."""

    def __init__(self, rows) -> None:
        self.rows = [*rows]

    def __iter__(self):
        return iter(self.rows)


def pairs(count: int) -> datasets.Dataset:
    """Pairs of very different length, so that a mean over batches is none over tokens."""
    rows = [{"input_ids": [5] * (3 + row), "labels": [7 + row] * (1 + 5 * row % 11) + [2]} for row in range(count)]
    return datasets.Dataset.from_list(rows)


WAYS = {
    "map": ({}, lambda queries: queries),
    "list of dicts": ({}, lambda queries: [*queries]),
    "dictionary": ({}, lambda queries: {"first": queries, "rest": queries.select([0])}),
    "stream": ({}, Stream),
    "stream of datasets": ({}, lambda queries: queries.to_iterable_dataset(num_shards=min(3, len(queries)))),
    "stream with workers": (
        {"dataloader_num_workers": 2},
        lambda queries: queries.to_iterable_dataset(num_shards=min(3, len(queries))),
    ),
    "stream, not dispatched": ({"accelerator_config": {"dispatch_batches": False}}, Stream),
    "dispatched": ({"accelerator_config": {"dispatch_batches": True}}, lambda queries: queries),
    "uneven batches": ({"accelerator_config": {"even_batches": False}}, lambda queries: queries),
    "by length": ({"train_sampling_strategy": "group_by_length"}, lambda queries: queries),
    "persistent workers": (
        {"dataloader_num_workers": 1, "dataloader_persistent_workers": True},
        lambda queries: {"first": queries, "rest": queries.select([0])},
    ),
}
SIZES = [(1, 2), (3, 2), (7, 1), (7, 2), (12, 5)]  # Queries, batch size.


def measures(metrics: dict[str, float]) -> dict[str, float]:
    left_out = ("runtime", "per_second", "preparation_time")
    return {name: value for name, value in metrics.items() if not name.endswith(left_out)}


def evaluate_all(folder: Path, processes: int) -> None:
    """What each process does; the first one writes what came out."""
    torch.set_num_threads(1)
    found = {}
    for way, (settings, wrap) in WAYS.items():
        for count, batch_size in SIZES if way in ("map", "stream") else [(7, 2)]:
            data = wrap(query_dataset().select(range(count)))
            trainer = make_trainer(
                folder, load_tokenizer(), quiet_bart, per_device_eval_batch_size=batch_size, **settings
            )
            assert trainer.accelerator.num_processes == processes
            for repetition in range(2):
                found[f"{way} {count} {batch_size} {repetition}"] = measures(trainer.evaluate(data))
    for count, batch_size in SIZES:
        trainer = make_trainer(folder, load_tokenizer(), quiet_bart, per_device_eval_batch_size=batch_size)
        found[f"pairs {count} {batch_size}"] = measures(trainer.evaluate(pairs(count)))
    found["predicted"] = measures(trainer.predict(query_dataset().select(range(7))).metrics)
    found["best"] = best_model(folder / f"best-{processes}", processes)
    if trainer.is_world_process_zero():
        (folder / f"{processes}.json").write_text(json.dumps(found))


def best_model(folder: Path, processes: int) -> dict[str, float]:
    """The evaluation by which the best model is chosen, within training."""
    trainer = make_trainer(
        folder,
        load_tokenizer(),
        quiet_bart,
        train_dataset=query_dataset().select(range(8)),
        trainer_settings={"eval_dataset": query_dataset().select(range(7))},
        per_device_train_batch_size=8 // processes,
        per_device_eval_batch_size=2,
        max_steps=2,
        optim="sgd",
        learning_rate=1e-7,
        max_grad_norm=0.0,
        eval_strategy="steps",
        eval_steps=1,
        save_strategy="steps",
        save_steps=1,
        load_best_model_at_end=True,
        metric_for_best_model="eval_loss",
    )
    trainer.train()
    losses = {
        f"eval_loss {number}": log["eval_loss"]
        for number, log in enumerate(trainer.state.log_history[:4])
        if "eval_loss" in log
    }
    return {**losses, "best": trainer.state.best_metric}


@functools.cache
def one_by_one(count: int) -> float:
    """The mean loss of queries that are evaluated alone."""
    tokenizer = load_tokenizer()
    model, collator = quiet_bart(tokenizer).eval(), make_collator(tokenizer).for_evaluation()
    trainer = make_trainer(Path("unused"), tokenizer, model=model, collator=collator)
    losses = [trainer.compute_loss(model, collator([row])).item() for row in query_dataset().select(range(count))]
    return sum(losses) / count


def run_processes(folder: Path, processes: int) -> None:
    here = Path(__file__).parent
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    environment["PYTHONPATH"] = os.pathsep.join([str(here.parent), str(here), os.environ.get("PYTHONPATH", "")])
    environment |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(processes)}
    started = [
        subprocess.Popen(
            [sys.executable, "-c", WORKER, str(folder), str(processes)],
            env={**environment, "RANK": str(rank), "LOCAL_RANK": str(rank)},
        )
        for rank in range(processes)
    ]
    try:
        assert [process.wait(timeout=400) for process in started] == [0] * processes
    finally:
        for process in started:
            process.kill()


@pytest.fixture(scope="module")
def of_one_process(tmp_path_factory) -> dict[str, dict[str, float]]:
    folder = tmp_path_factory.mktemp("one")
    torch.manual_seed(0)
    evaluate_all(folder, 1)
    return json.loads((folder / "1.json").read_text())


@pytest.mark.slow
@pytest.mark.parametrize("processes", [2, 3])
def test_every_query_counts_once_in_several_processes(processes, of_one_process, tmp_path):
    run_processes(tmp_path, processes)
    one, several = of_one_process, json.loads((tmp_path / f"{processes}.json").read_text())
    assert one.keys() == several.keys()
    for name, expected in one.items():
        assert several[name] == pytest.approx(expected, rel=2e-5), name
    for count, batch_size in SIZES:
        for way in ("map", "stream"):
            found = several[f"{way} {count} {batch_size} 1"]["eval_loss"]
            assert found == pytest.approx(one_by_one(count), rel=2e-5), (way, count, batch_size)
    for way in WAYS:
        found = several[f"{way} 7 2 1"]
        loss = found["eval_first_loss"] if "eval_first_loss" in found else found["eval_loss"]
        assert loss == pytest.approx(one_by_one(7), rel=2e-5), way
        if "eval_rest_loss" in found:
            assert found["eval_rest_loss"] == pytest.approx(one_by_one(1), rel=2e-5), way


@pytest.mark.parametrize("way", WAYS)
def test_every_query_counts_once_however_it_is_read(way, tmp_path):
    settings, wrap = WAYS[way]
    trainer = make_trainer(tmp_path, load_tokenizer(), quiet_bart, per_device_eval_batch_size=2, **settings)
    found = trainer.evaluate(wrap(query_dataset().select(range(7))))
    loss = found["eval_first_loss"] if "eval_first_loss" in found else found["eval_loss"]
    assert loss == pytest.approx(one_by_one(7), rel=1e-5)


def test_the_loss_of_pairs_is_a_mean_over_their_tokens(tmp_path):
    model = quiet_bart(load_tokenizer())
    data, tokens, total = pairs(7), 0, 0.0
    for row in data:
        loss = model(input_ids=torch.tensor([row["input_ids"]]), labels=torch.tensor([row["labels"]])).loss
        tokens, total = tokens + len(row["labels"]), total + loss.item() * len(row["labels"])
    for batch_size in (1, 2, 7):
        trainer = make_trainer(tmp_path, load_tokenizer(), model=model, per_device_eval_batch_size=batch_size)
        metrics = trainer.evaluate(data)
        assert metrics["eval_loss"] == metrics["eval_loss_generation"] == pytest.approx(total / tokens, rel=1e-5)


def test_another_dataset_is_not_taken_for_the_trainers_own(tmp_path):
    """With workers that stay, the parent keeps one data loader for all datasets without a name."""
    own, other = query_dataset().select(range(3)), query_dataset().select(range(5, 9))
    trainer = make_trainer(
        tmp_path,
        load_tokenizer(),
        quiet_bart,
        trainer_settings={"eval_dataset": own},
        dataloader_num_workers=1,
        dataloader_persistent_workers=True,
    )
    before = trainer.evaluate()["eval_loss"]
    assert before == pytest.approx(one_by_one(3), rel=1e-5)
    assert trainer.evaluate(other)["eval_loss"] != pytest.approx(before, rel=1e-3)
    assert trainer.evaluate()["eval_loss"] == before


class OwnLoader(DistillationGenerativeRetrievalTrainer):
    """A trainer whose user makes the loader of evaluations, whose rows have no numbers."""

    def get_eval_dataloader(self, eval_dataset=None):
        return torch.utils.data.DataLoader([*eval_dataset], batch_size=2, collate_fn=self.data_collator)


def test_rows_without_numbers_all_count(tmp_path):
    made = make_trainer(tmp_path, load_tokenizer(), quiet_bart)
    trainer = OwnLoader(model=made.model, args=made.args, data_collator=made.data_collator)
    assert trainer.evaluate(query_dataset().select(range(7)))["eval_loss"] == pytest.approx(one_by_one(7), rel=1e-5)


def test_a_loss_that_is_no_number_is_not_hidden(tmp_path):
    trainer = make_trainer(tmp_path, load_tokenizer(), quiet_bart)
    with torch.no_grad():
        trainer.model.lm_head.weight.fill_(float("nan"))
    loss = trainer.evaluate(query_dataset().select(range(3)))["eval_loss"]
    assert loss != loss
