"""Retrievers, teachers and calls of rounds on the sample corpus."""

import torch
from peft import LoraConfig, get_peft_model
from sample_corpus import PASSAGES, QRELS, QUERIES
from tiny_models import TOKENIZERS, make_bart, make_causal, make_t5
from training_examples import make_arguments

from dgr_trainer import FunctionTeacher, RetrievalEvaluator
from dgr_trainer.data.corpus import Corpus
from dgr_trainer.identifiers import Identifiers
from dgr_trainer.index import FMIndex
from dgr_trainer.retrieval import GenerativeRetriever, SearchSettings

TRAINING = dict(list(QUERIES.items())[:6])
DEV = dict(list(QUERIES.items())[6:10])
SEARCH = SearchSettings(beam_size=2, title_length=6, pseudo_query_length=6, substring_length=4)
K = 5
STUDENTS = {"bart": (make_bart, "bpe"), "t5": (make_t5, "unigram"), "causal": (make_causal, "bpe")}


def overlap(query, passages):
    words = set(query.lower().split())
    return [len(words & set(f"{p.title} {p.text}".lower().split())) + len(p.id) / 100 for p in passages]


def make_retriever(kind="bart", adapter_of=None):
    """A retriever with a random student; with a new adapter if there is a folder to save the base model in."""
    make, tokenizer = STUDENTS[kind]
    tokenizer = TOKENIZERS[tokenizer]()
    model = make(tokenizer)
    if adapter_of is not None:
        model = with_adapter(model, kind, adapter_of)
    identifiers, corpus = Identifiers(tokenizer), Corpus.from_passages(list(PASSAGES))
    index = FMIndex.from_corpus(corpus, identifiers, progress=False)
    return GenerativeRetriever(model, identifiers, index, corpus=corpus, settings=SEARCH)


def with_adapter(model, kind, folder):
    model.save_pretrained(folder / "base")
    model.name_or_path = str(folder / "base")
    torch.manual_seed(0)
    targets = ["q", "v"] if kind == "t5" else ["q_proj", "v_proj"]
    task = "CAUSAL_LM" if kind == "causal" else "SEQ_2_SEQ_LM"
    return get_peft_model(model, LoraConfig(task_type=task, r=2, lora_dropout=0.1, target_modules=targets))


def make_teacher(retriever, **settings):
    return FunctionTeacher(overlap, retriever.corpus, progress=False, **settings)


def arguments(folder, **settings):
    return make_arguments(folder, **{"max_steps": 2, "learning_rate": 3e-3, "seed": 5, **settings})


def dev(retriever, **settings):
    settings = {"metrics": ("hits@5", "mrr@10"), "k": 10, "settings": SEARCH, **settings}
    return RetrievalEvaluator(retriever.index, retriever.identifiers, DEV, QRELS, **settings)
