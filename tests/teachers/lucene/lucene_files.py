"""What Pyserini's searchers search: small indexes of impacts and of vectors, and encoders."""

import json
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tiny_models import plain_tokenizer
from transformers import BertConfig, BertForMaskedLM

from dgr_trainer import BiEncoderTeacher, Corpus
from dgr_trainer.teachers.lucene.anserini import find_jar, run_anserini
from dgr_trainer.teachers.lucene.java import find_java


@cache
def missing_lucene() -> str | None:
    """What is missing here to run Lucene; `None` if nothing is."""
    try:
        find_jar()
        find_java()
    except (ImportError, FileNotFoundError, RuntimeError) as error:
        return str(error)
    return None


def index_impacts(corpus: Corpus, folder: Path) -> dict[str, dict[str, int]]:
    """Index words with ten times their number of occurrences; returns the impacts of each passage."""
    impacts = {p.id: {w: 10 * n for w, n in Counter(p.text.lower().split()).items()} for p in corpus}
    documents = folder.with_name(f"{folder.name}-documents")
    documents.mkdir()
    rows = [json.dumps({"id": id, "contents": "", "vector": of}) + "\n" for id, of in impacts.items()]
    (documents / "documents.jsonl").write_text("".join(rows))
    arguments = ["-collection", "JsonVectorCollection", "-input", str(documents), "-index", str(folder)]
    arguments += ["-generator", "DefaultLuceneDocumentGenerator", "-threads", "1", "-impact", "-pretokenized"]
    run_anserini(find_java().path, find_jar(), "io.anserini.index.IndexCollection", arguments, "1g")
    return impacts


def save_splade(folder: Path) -> None:
    """A random SPLADE: a masked language model that gives every token of its vocabulary a weight."""
    torch.manual_seed(0)
    tokenizer = plain_tokenizer()
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=128,
        initializer_range=1.0,
        pad_token_id=tokenizer.pad_token_id,
    )
    BertForMaskedLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def save_faiss_index(teacher: BiEncoderTeacher, corpus: Corpus, folder: Path) -> None:
    """A folder of vectors as Pyserini's encoder writes it: `index` and `docid`."""
    import faiss

    folder.mkdir()
    index = faiss.IndexFlatIP(teacher.passage_vectors.shape[1])
    index.add(np.ascontiguousarray(teacher.passage_vectors))
    faiss.write_index(index, str(folder / "index"))
    (folder / "docid").write_text("".join(f"{id}\n" for id in corpus.ids))


def faiss_searcher(index: str, model: str) -> Any:
    """Pyserini's searcher of such a folder."""
    from pyserini.encode import AutoQueryEncoder
    from pyserini.search.faiss import FaissSearcher

    return FaissSearcher(index, AutoQueryEncoder(model, pooling="mean", l2_norm=True))
