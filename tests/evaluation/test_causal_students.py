"""A decoder-only student from training to search: what it was trained to write is what a search finds."""

import peft
import pytest
import torch
from retrieval.causal_students import causal_identifiers, make_causal
from sample_corpus import PASSAGES, QRELS, QUERIES
from training_examples import make_rankings, make_trainer

from dgr_trainer.evaluation import RetrievalEvaluator
from dgr_trainer.identifier_weights import ScoringSettings
from dgr_trainer.index import FMIndex
from dgr_trainer.retrieval import GenerativeRetriever
from dgr_trainer.training.collator import DistillationCollator

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated")]
LIKELIHOOD = ScoringSettings(kind="log_likelihood")


@pytest.mark.parametrize("adapter", [False, True])
@pytest.mark.parametrize("name", ["llama", "gemma3_text"])
def test_a_student_that_learned_its_docids_finds_them(name, adapter, corpus, tmp_path):
    torch.manual_seed(0)
    identifiers = causal_identifiers(views=("docid",))
    make_causal(name, identifiers.vocab_size, initializer_range=0.05).save_pretrained(tmp_path / "base")
    model = make_causal(name, identifiers.vocab_size, initializer_range=0.05)
    model.name_or_path = str(tmp_path / "base")
    if adapter:
        config = peft.LoraConfig(
            task_type="CAUSAL_LM", r=16, lora_alpha=64, target_modules="all-linear", modules_to_save=["embed_tokens"]
        )
        model = peft.get_peft_model(model, config)
    index = FMIndex.from_corpus(corpus, identifiers, progress=False)
    evaluator = RetrievalEvaluator(index, identifiers, QUERIES, QRELS, metrics=["hits@1"], k=10, scoring=LIKELIHOOD)
    collator = DistillationCollator(
        identifiers, {passage.id: passage.id for passage in PASSAGES}, make_rankings(), qrels=QRELS
    )
    before = evaluator(model)["hits@1"]
    trainer = make_trainer(
        tmp_path / "run", identifiers.tokenizer, model=model, collator=collator, max_steps=60, learning_rate=5e-3,
        eval_strategy="steps", eval_steps=60, trainer_settings={"retrieval_evaluator": evaluator},
    )  # fmt: skip
    trainer.train()
    (found,) = [log["eval_hits@1"] for log in trainer.state.log_history if "eval_hits@1" in log]
    assert found > 0.6 > before
    assert found == evaluator(model)["hits@1"]
    retriever = GenerativeRetriever(model.eval(), identifiers, index, scoring=LIKELIHOOD)
    retriever.save_pretrained(tmp_path / "saved")
    loaded = GenerativeRetriever.from_pretrained(tmp_path / "saved")
    ranked = loaded.rank(QUERIES, k=10)
    assert ranked == retriever.rank(QUERIES, k=10)
    assert sum(ranked[query].passage_ids[0] in QRELS[query] for query in QUERIES) == round(found * len(QUERIES))
