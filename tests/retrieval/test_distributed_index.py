import os
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dgr_trainer.index import FMIndex
from dgr_trainer.retrieval.distributed_index import DistributedIndex

SEPARATOR, VOCABULARY = 1, 8


def build(passages, first=0, **others):
    ids = [f"p{first + number}" for number in range(len(passages))]
    return FMIndex.build(passages, passage_ids=ids, vocab_size=VOCABULARY, separator=SEPARATOR, progress=False,
                         **others)  # fmt: skip


class Party(DistributedIndex):
    """Parts in one process, which asks them in turn."""

    def __init__(self, parts, rank=0, everyone=None):
        self._rank, self._size, self._parts = rank, len(parts), parts
        super().__init__(parts[rank])
        self._everyone = everyone or [self if n == 0 else Party(parts, n, [self]) for n in range(len(parts))]

    def _connect(self):
        self._exchanges = iter([self._described, lambda part: part.token_counts])

    def _exchange(self, own):
        look = next(self._exchanges)
        return [look(part) for part in self._parts]

    @staticmethod
    def _described(part):
        names = ("vocab_size", "separator", "tokenizer_fingerprint", "num_segments", "num_passages", "num_tokens",
                 "corpus_fingerprint", "num_bytes")  # fmt: skip
        return {name: getattr(part, name) for name in names}

    def _ask_all(self, question):
        return [one._answer(*question) for one in self._everyone]


@st.composite
def divided(draw):
    passages = draw(st.lists(st.lists(st.integers(2, VOCABULARY - 1), max_size=8), min_size=2, max_size=10))
    cuts = draw(st.lists(st.integers(1, len(passages) - 1), min_size=1, max_size=3, unique=True))
    bounds = [0, *sorted(cuts), len(passages)]
    return passages, [build(passages[a:b], a) for a, b in zip(bounds, bounds[1:], strict=False)]


@settings(deadline=None, max_examples=80)
@given(divided(), st.data())
def test_parts_answer_as_the_whole(division, data):
    passages, parts = division
    whole, index = build(passages), Party(parts)
    assert (index.num_tokens, index.num_passages) == (whole.num_tokens, whole.num_passages)
    assert index.token_counts.tolist() == whole.token_counts.tolist()
    assert index.passage_lengths.tolist() == whole.passage_lengths.tolist()
    token = st.integers(2, VOCABULARY - 1)
    patterns = [(), *data.draw(st.lists(st.lists(token, min_size=1, max_size=3), max_size=6))]
    patterns += [(SEPARATOR, *pattern) for pattern in patterns if pattern]
    found, expected = index.find_batch(patterns), whole.find_batch(patterns)
    assert index.counts(found).tolist() == whole.counts(expected).tolist()
    assert [index.count(pattern) for pattern in patterns] == whole.counts(expected).tolist()

    def followers(of, ranges):
        offsets, tokens, counts = of.continuations_batch(ranges)
        return [dict(zip(tokens[a:b].tolist(), counts[a:b].tolist(), strict=True))
                for a, b in zip(offsets, offsets[1:], strict=False)]  # fmt: skip

    assert followers(index, found) == followers(whole, expected)
    tokens = np.array([data.draw(st.permutations(range(2, VOCABULARY))) for _ in patterns])
    for enough in (None, 1, 2):
        longer, reference = index.extend(found, tokens, enough), whole.extend(expected, tokens, enough)
        assert index.counts(longer).tolist() == whole.counts(reference).tolist()
    one, reference = index.extend(found, tokens[:, 0]), whole.extend(expected, tokens[:, 0])
    assert index.counts(one).tolist() == whole.counts(reference).tolist()

    lengths = [max(1, len(pattern)) for pattern in patterns]
    located = [list(zip(*map(np.ndarray.tolist, of.locate_batch(r, lengths)), strict=True))
               for of, r in ((index, found), (whole, expected))]  # fmt: skip
    assert sorted(located[0]) == sorted(located[1])
    assert [number for number, *_ in located[0]] == sorted(number for number, *_ in located[0])
    limited = list(zip(*map(np.ndarray.tolist, index.locate_batch(found, lengths, 2)), strict=True))
    assert set(limited) <= set(located[0])
    for number, occurrences in enumerate(index.counts(found).tolist()):
        assert sum(n == number for n, *_ in limited) == min(2, occurrences)

    asked = data.draw(st.lists(st.integers(0, len(passages) - 1), max_size=6))
    for one, other in zip(index.extract_batch(asked), whole.extract_batch(np.array(asked, int)), strict=True):
        assert one.tolist() == other.tolist()
    assert list(index.passage_ids) == list(whole.passage_ids)
    assert index.passage_ids[-1] == whole.passage_ids[-1]
    assert index.passage_positions(["p1", "p0"]).tolist() == [1, 0]
    assert "p1" in index.passage_ids and "nowhere" not in index.passage_ids


def test_what_it_refuses(monkeypatch):
    parts = [build([[3, 4]]), build([[4, 5]], 1)]
    index = Party(parts)
    with pytest.raises(KeyError, match="No passage of the index has the id 'nowhere'"):
        index.passage_position("nowhere")
    with pytest.raises(IndexError, match="There is no passage 2: the index holds passages 0 to 1"):
        index.extract_batch([0, 2])
    with pytest.raises(ValueError, match="Token id 99 is outside the vocabulary"):
        index.find([99])
    with pytest.raises(ValueError, match="enough is 0"):
        index.extend(index.empty(1), [[3]], 0)
    with pytest.raises(ValueError, match="Save each part by itself"):
        index.save("anywhere")
    with pytest.raises(ValueError, match="has nobody to answer"):
        index.answer()
    with pytest.raises(ValueError, match="made with different tokenizers: their tokenizer_fingerprint is a, b"):
        Party([build([[3]], tokenizer_fingerprint="a"), build([[3]], 1, tokenizer_fingerprint="b")])
    with pytest.raises(ValueError, match="Start the script with `accelerate launch`"):
        DistributedIndex(parts[0])


@pytest.mark.slow
def test_a_search_over_two_processes_is_that_over_one_index(tmp_path):
    """All views and docids, over gloo; each process holds about half of the corpus."""
    script = tmp_path / "search.py"
    script.write_text(
        textwrap.dedent(
            """
            import sys
            from pathlib import Path
            from accelerate import Accelerator
            from sample_corpus import PASSAGES, QRELS, QUERIES
            from tiny_models import bpe_tokenizer, make_bart
            from dgr_trainer import Corpus, FMIndex, GenerativeRetriever, Identifiers, IdentifierSettings
            from dgr_trainer import ScoringSettings, SearchSettings
            from dgr_trainer.retrieval import DistributedIndex

            accelerator = Accelerator(cpu=True)
            own = PASSAGES[:10] if accelerator.is_main_process else PASSAGES[10:]
            queries = dict(list(QUERIES.items())[:4])
            for views, kind in ((("title", "substring", "pseudo_query"), "log_odds"), (("docid",), "log_likelihood")):
                identifiers = Identifiers(bpe_tokenizer(), IdentifierSettings(views=views))
                index = DistributedIndex(FMIndex.from_corpus(Corpus.from_passages(own), identifiers))
                if not index.is_first:
                    index.answer()
                    continue
                whole = FMIndex.from_corpus(Corpus.from_passages(PASSAGES), identifiers)
                found = []
                for one in (index, whole):
                    retriever = GenerativeRetriever(
                        make_bart(bpe_tokenizer()), identifiers, one, settings=SearchSettings(beam_size=5),
                        scoring=ScoringSettings(kind=kind),
                    )
                    hits = retriever.search(list(queries.values()), k=8)
                    found.append((hits, dict(retriever.candidates(queries, 8, QRELS))))
                assert found[0] == found[1] and all(found[0][0])
                index.close()
            (Path(sys.argv[1]) / str(accelerator.process_index)).write_text("done")
            """
        )
    )
    tests = Path(__file__).parents[1]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tests), str(tests.parent)]),
                   "ACCELERATE_USE_CPU": "true"}  # fmt: skip
    launch = ["torch.distributed.run", "--nproc_per_node=2", "--rdzv-backend=c10d", "--rdzv-endpoint=localhost:0"]
    done = subprocess.run([sys.executable, "-m", *launch, str(script), str(tmp_path)], env=environment,
                          capture_output=True, text=True)  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert [(tmp_path / rank).read_text() for rank in "01"] == ["done", "done"]
