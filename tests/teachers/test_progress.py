"""The bars of teachers count inside their blocks, whatever the size of these."""

import numpy as np
import pytest
from teachers.reranker_models import save_encoder, save_seq2seq
from tqdm import tqdm

from dgr_trainer.query_generation import PseudoQueryGenerator
from dgr_trainer.teachers import BiEncoderTeacher, passage_vectors
from dgr_trainer.teachers.passage_vectors import compute_passage_vectors


class Recorded(tqdm):
    """Keeps what the bars have counted, by their descriptions, and what they said."""

    counts: dict[str, list[float]] = {}
    said: dict[str, list[str]] = {}

    def __init__(self, *args, **settings):
        super().__init__(*args, **{**settings, "disable": False, "delay": 0})
        self.counts.setdefault(self.desc, []).append(self.n)

    def update(self, n=1):
        self.counts[self.desc].append(n)
        return super().update(n)

    def set_postfix_str(self, s="", refresh=True):
        self.said.setdefault(self.desc, []).append(s)
        super().set_postfix_str(s, refresh)


@pytest.fixture(autouse=True)
def _empty():
    Recorded.counts, Recorded.said = {}, {}


def test_passage_vectors_count_inside_a_block(corpus, monkeypatch, tmp_path):
    monkeypatch.setattr(passage_vectors, "tqdm", Recorded)

    def encode(positions, encoded):
        for start in range(0, len(positions), 5):
            encoded(len(positions[start : start + 5]))
        return np.zeros((len(positions), 2), dtype=np.float32)

    for folder in (None, tmp_path / "vectors"):
        Recorded.counts = {}
        compute_passage_vectors(corpus, encode, 2, {}, folder, True)
        assert len(corpus) == 24 < passage_vectors._PASSAGES_PER_BLOCK
        assert Recorded.counts == {"Encoding passages": [0, 5, 5, 5, 5, 4]}


def test_a_bi_encoder_reports_each_batch(corpus, queries, tmp_path):
    pytest.importorskip("sentence_transformers", reason="needs the extra bi-encoder")
    teacher = BiEncoderTeacher(save_encoder(tmp_path), corpus, batch_size=10, progress=False)
    counted = []
    texts = [passage.text for passage in corpus]
    vectors = teacher._encode(texts, "", counted.append)
    assert counted == [10, 10, 4]
    alone = np.concatenate([teacher._encode([text], "", lambda _: None) for text in texts])
    assert np.allclose(vectors, alone, atol=1e-5)


def test_pseudo_queries_count_inside_a_chunk(corpus, monkeypatch, tmp_path):
    monkeypatch.setattr("dgr_trainer.query_generation.tqdm", Recorded)
    generator = PseudoQueryGenerator(save_seq2seq(tmp_path / "t5"), batch_tokens=300, max_new_tokens=6)
    generator.generate(corpus, tmp_path / "out.jsonl")
    counts = Recorded.counts["Writing pseudo-queries"]
    assert sum(counts) == len(corpus) == 24 and len(counts) > 5 and max(counts) < 10
    said = Recorded.said["Writing pseudo-queries"]
    assert any(text.startswith("token 3 of at most 6") for text in said)
