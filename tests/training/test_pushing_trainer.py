"""What a trainer uploads: model, tokenizer, index and card at the end or while it trains; no pickles."""

import peft
import pytest
from huggingface_hub import ModelCard
from launched_processes import results_of
from tiny_models import make_bart, make_causal, make_t5
from training_examples import QRELS, QUERIES, make_collator, make_rankings, make_trainer
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer, TrainerCallback

from dgr_trainer import FMIndex, GenerativeRetriever, Identifiers, Rankings, RetrievalEvaluator, SearchSettings

PUSHED = {"push_to_hub": True, "hub_model_id": "me/student"}


@pytest.fixture(scope="module")
def evaluator(bpe_tokenizer, corpus):
    identifiers = Identifiers(bpe_tokenizer)
    index = FMIndex.from_corpus(corpus, identifiers)
    settings = SearchSettings(beam_size=2, query_ngrams=False)
    return RetrievalEvaluator(
        index, identifiers, QUERIES, QRELS, metrics=["hits@10"], k=10, settings=settings, max_queries=3
    )


def card_of(hub, name="me/student", revision="main"):
    return ModelCard(hub.repositories[name].files(revision)["README.md"].decode())


def test_a_trainer_asks_nothing_of_the_hub_unless_told(hub, tmp_path, bpe_tokenizer):
    trainer = make_trainer(tmp_path, bpe_tokenizer, max_steps=1, save_strategy="steps", save_steps=1)
    trainer.train()
    trainer.save_model()
    trainer.create_model_card(license="mit")
    assert not hub.log
    card = ModelCard.load(tmp_path / "README.md")
    assert card.data.license == "mit" and card.data.library_name == "dgr-trainer"


@pytest.mark.parametrize("lora", [False, True])
@pytest.mark.parametrize(
    ("make", "auto_class", "task"),
    [(make_bart, "ModelForSeq2SeqLM", "SEQ_2_SEQ_LM"), (make_causal, "ModelForCausalLM", "CAUSAL_LM")],
)
def test_the_code_of_a_card_loads_the_model_with_its_class(tmp_path, bpe_tokenizer, make, auto_class, task, lora):
    def made(tokenizer):
        config = peft.LoraConfig(task_type=task, target_modules=["q_proj"])
        return peft.get_peft_model(make(tokenizer), config) if lora else make(tokenizer)

    make_trainer(tmp_path, bpe_tokenizer, made, max_steps=1).create_model_card(license="mit")
    code = ModelCard.load(tmp_path / "README.md").text.split("```python\n")[1].split("```")[0]
    compile(code, "card", "exec")
    kind = f"AutoPeft{auto_class}" if lora else f"Auto{auto_class}"
    assert f"from {'peft' if lora else 'transformers'} import {kind}" in code
    assert f"model = {kind}.from_pretrained(" in code


def test_what_is_pushed_is_a_retriever_with_a_card(hub, tmp_path, bpe_tokenizer, evaluator, caplog):
    lists = {query: zip(found.passage_ids, found.scores, strict=True) for query, found in make_rankings().items()}
    teacher = Rankings(lists, name="monoT5")
    trainer = make_trainer(
        tmp_path, bpe_tokenizer, collator=make_collator(bpe_tokenizer, rankings=teacher), max_steps=2,
        trainer_settings={"retrieval_evaluator": evaluator}, ranking_loss="distilled_ranknet", margin=123.0,
        learning_rate=0.0015, seed=7, **PUSHED,
    )  # fmt: skip
    trainer.train()
    metrics = trainer.evaluate()
    commit = trainer.push_to_hub(license="apache-2.0", language="en", tags="mine", dataset="BeIR/nq")
    assert commit.oid == hub.repositories["me/student"].refs["main"]
    files = hub.repositories["me/student"].files()
    assert not [name for name in files if name.endswith((".bin", ".pt", ".pth", ".pkl", ".lock"))]
    loaded = GenerativeRetriever.from_pretrained("me/student")
    retriever = GenerativeRetriever(trainer.model, evaluator.identifiers, evaluator.index, settings=evaluator.settings)
    assert loaded.search("sea", k=3) == retriever.search("sea", k=3)
    card = card_of(hub)
    assert card.data.license == "apache-2.0" and card.data.language == ["en"] and card.data.datasets == ["BeIR/nq"]
    assert card.data.library_name == "dgr-trainer" and {"mine", "dgr-trainer"} <= set(card.data.tags)
    measured = {result.metric_type: result.metric_value for result in card.data.eval_results}
    assert measured == {"hits@10": metrics["eval_hits@10"]}
    for row in (
        *("| ranking loss | distilled_ranknet |", "| margin of the loss | 123 |", "| teacher | monoT5 |"),
        *("| learning_rate | 0.0015 |", "| seed | 7 |", "| steps | 2 |", f"| training rows | {len(QUERIES)} |"),
    ):
        assert row in card.text, card.text
    assert 'GenerativeRetriever.from_pretrained("me/student")' in card.text
    assert "to rank passages as its teacher does" in card.text
    assert not [record for record in caplog.records if "licence" in record.message]
    hub.reset_counts()
    trainer.push_to_hub()
    assert not hub.received  # Nothing has changed, and the licence is that of the card.


@pytest.mark.slow
@pytest.mark.parametrize("family", ["bart", "t5"])
@pytest.mark.parametrize("lora", [False, True])
def test_every_kind_of_student_is_pushed(hub, tmp_path, request, corpus, family, lora, monkeypatch):
    make, name = (make_bart, "bpe_tokenizer") if family == "bart" else (make_t5, "unigram_tokenizer")
    tokenizer = request.getfixturevalue(name)
    identifiers = Identifiers(tokenizer)
    index = FMIndex.from_corpus(corpus, identifiers)
    evaluator = RetrievalEvaluator(index, identifiers, QUERIES, QRELS, settings=SearchSettings(beam_size=2))
    make(tokenizer).save_pretrained(tmp_path / "base")
    content = {path.name: path.read_bytes() for path in (tmp_path / "base").iterdir()}
    hub.add("org/base", content)
    model = AutoModelForSeq2SeqLM.from_pretrained("org/base")
    if lora:
        targets = ["q_proj"] if family == "bart" else ["q"]
        model = peft.get_peft_model(model, peft.LoraConfig(task_type="SEQ_2_SEQ_LM", target_modules=targets))
    trainer = make_trainer(
        tmp_path / "out", tokenizer, model=model, trainer_settings={"retrieval_evaluator": evaluator}, **PUSHED
    )
    trainer.train()
    trainer.push_to_hub(license="mit")
    loaded = GenerativeRetriever.from_pretrained("me/student")
    retriever = GenerativeRetriever(trainer.model.eval(), identifiers, index, settings=evaluator.settings)
    assert loaded.search("sea", k=3) == retriever.search("sea", k=3)
    card = card_of(hub)
    assert card.data.base_model == "org/base"
    assert (card.data.to_dict().get("base_model_relation") == "adapter") == lora
    assert isinstance(loaded.model, peft.PeftModel) == lora
    assert "| ranking loss |" in card.text and "More Information Needed" not in card.text


class OneAtATime(TrainerCallback):
    """Training waits until a checkpoint is uploaded: three steps of a tiny model take less time than that."""

    trainer = None

    def on_save(self, *arguments, **others):
        self.trainer._finish_current_push()


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["every_save", "checkpoint", "all_checkpoints", "end"])
def test_the_strategies_of_transformers(hub, tmp_path, bpe_tokenizer, strategy, caplog, evaluator):
    trainer = make_trainer(
        tmp_path, bpe_tokenizer, save_strategy="steps", save_steps=2, max_steps=4, hub_strategy=strategy,
        trainer_settings={"retrieval_evaluator": evaluator}, **PUSHED,
    )  # fmt: skip
    callback = OneAtATime()
    callback.trainer = trainer
    trainer.add_callback(callback)
    trainer.train()
    repository = hub.repositories["me/student"]
    if strategy == "end":
        assert repository.messages == ["initial commit"]
        trainer.push_to_hub(license="mit")
        assert repository.messages == ["initial commit", "End of training"]
        return
    assert {"Training in progress, step 2", "Training in progress, step 4"} <= set(repository.messages)
    files = repository.files()
    assert card_of(hub).data.license == "unknown" and "since no licence was given" in caplog.text
    folders = {"checkpoint": {"last-checkpoint"}, "all_checkpoints": {"checkpoint-2", "checkpoint-4"}}
    wanted = folders.get(strategy, set())
    assert {name.split("/")[0] for name in files if name.endswith("optimizer.pt")} == wanted
    assert not [name for name in files if "training_args" in name or name.endswith("README.md") and "/" in name]
    # The state of a training is not downloaded with the retriever, and is whole for whoever resumes it.
    loaded = GenerativeRetriever.from_pretrained("me/student")
    retriever = GenerativeRetriever(
        trainer.model.eval(), evaluator.identifiers, evaluator.index, settings=evaluator.settings
    )
    assert loaded.search("sea", k=3) == retriever.search("sea", k=3)
    for folder in wanted:
        for name, content in files.items():
            if name.startswith(f"{folder}/"):
                (tmp_path / "again" / name).parent.mkdir(parents=True, exist_ok=True)
                (tmp_path / "again" / name).write_bytes(content)
        again = make_trainer(tmp_path / "other", bpe_tokenizer, max_steps=5)
        again.train(resume_from_checkpoint=str(tmp_path / "again" / folder))
        assert again.state.global_step == 5


@pytest.mark.slow
def test_one_of_two_processes_pushes(hub, tmp_path, bpe_tokenizer, evaluator):
    def work(processes):
        trainer = make_trainer(
            tmp_path, bpe_tokenizer, max_steps=1, trainer_settings={"retrieval_evaluator": evaluator}, **PUSHED
        )
        trainer.train()
        return trainer.push_to_hub(license="mit") is not None

    assert results_of(2, work) == [True, False]
    assert hub.repositories["me/student"].messages == ["initial commit", "End of training"]
    assert [line for line in hub.log if "create" in line] == ["POST /api/repos/create"]
    assert GenerativeRetriever.from_pretrained("me/student").index.num_passages == evaluator.index.num_passages


@pytest.mark.slow
def test_a_student_without_an_index_is_pushed_as_a_model(hub, tmp_path, bpe_tokenizer):
    trainer = make_trainer(tmp_path, bpe_tokenizer, max_steps=1, hub_model_id="me/student")
    trainer.train()
    assert not hub.log
    trainer.push_to_hub(license="mit", finetuned_from="facebook/bart-base", private=True)
    assert hub.repositories["me/student"].private and trainer.args.hub_private_repo is None
    assert isinstance(AutoModelForSeq2SeqLM.from_pretrained("me/student"), type(trainer.model))
    assert len(AutoTokenizer.from_pretrained("me/student")) == len(bpe_tokenizer)
    card = card_of(hub)
    assert card.data.base_model == "facebook/bart-base" and "FMIndex.from_corpus" in card.text
    compile(card.text.split("```python\n")[1].split("```")[0], "card", "exec")
    with pytest.raises(FileNotFoundError, match="me/student has no retriever.json"):
        GenerativeRetriever.from_pretrained("me/student")


def test_what_the_hub_refuses_is_said_at_the_start(hub, tmp_path, bpe_tokenizer, monkeypatch):
    with pytest.raises(PermissionError, match="you/student cannot be uploaded to: the token does not allow it"):
        make_trainer(tmp_path, bpe_tokenizer, push_to_hub=True, hub_model_id="you/student")
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(PermissionError, match="me/student cannot be uploaded to: you are not logged in"):
        make_trainer(tmp_path, bpe_tokenizer, **PUSHED)


def test_several_adapters_are_no_retriever(hub, tmp_path, bpe_tokenizer, evaluator):
    model = make_bart(bpe_tokenizer)
    model.name_or_path = "org/base"
    model = peft.get_peft_model(model, peft.LoraConfig(task_type="SEQ_2_SEQ_LM", target_modules=["q_proj"]))
    model.add_adapter("second", peft.LoraConfig(task_type="SEQ_2_SEQ_LM", target_modules=["v_proj"]))
    trainer = make_trainer(
        tmp_path, bpe_tokenizer, model=model, trainer_settings={"retrieval_evaluator": evaluator}, **PUSHED
    )
    with pytest.raises(ValueError, match="the adapters default, second, which a trainer does not save"):
        trainer.push_to_hub(license="mit")
