import os
import subprocess
import sys
import textwrap
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dgr_trainer.index import FMIndex
from dgr_trainer.index.remaining_ids import RemainingIds
from dgr_trainer.retrieval import distributed_ids
from dgr_trainer.retrieval.distributed_index import DistributedIndex

SEPARATOR, VOCABULARY = 1, 8


def build(passages, first=0, **others):
    ids = [f"p{first + number}" for number in range(len(passages))]
    return FMIndex.build(passages, passage_ids=ids, vocab_size=VOCABULARY, separator=SEPARATOR, progress=False,
                         **others)  # fmt: skip


class Board:
    """Exchanges values between the processes of an index, which are threads here."""

    def __init__(self, size):
        self.shown, self.met = [None] * size, threading.Barrier(size)

    def exchange(self, rank, own):
        self.shown[rank] = own
        self.met.wait(30)
        everything = list(self.shown)
        self.met.wait(30)
        return everything


class Member(DistributedIndex):
    """A part in a thread; the first asks the others in turn."""

    def __init__(self, part, rank, size, board):
        self._rank, self._size, self._board, self.questions = rank, size, board, []
        super().__init__(part)

    def _connect(self):
        pass

    def _disconnect(self):
        self._open = False

    def _exchange(self, own):
        return self._board.exchange(self._rank, own)

    def _collect(self, own, rank):
        everything = self._exchange(own)
        return everything if rank == self._rank else None

    def _ask_all(self, question):
        self.questions.append(question)
        return [one._answer(*question) for one in self.everyone]


def Party(parts):
    """The first process of an index in several parts."""
    board = Board(len(parts))
    with ThreadPoolExecutor(len(parts)) as pool:
        made = [pool.submit(Member, part, rank, len(parts), board) for rank, part in enumerate(parts)]
        errors = [one.exception() for one in made]
    if any(errors):
        assert len({(type(error), str(error)) for error in errors}) == 1  # The same in all of them.
        raise errors[0]
    everyone = [one.result() for one in made]
    everyone[0].everyone = everyone
    return everyone[0]


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


def test_shares_of_an_index_are_the_index(tmp_path):
    passages = [[2 + (7 * i + j) % 6 for j in range(i % 5)] for i in range(40)]
    whole = build(passages, segment_tokens=20)
    assert whole.num_segments > 3
    whole = whole.remove(["p7", "p20"])
    whole.save(tmp_path / "index")
    for parts in (1, 2, 3):
        shares = [FMIndex.load(tmp_path / "index").share(number, parts) for number in range(parts)]
        index = Party(shares)
        assert index.num_segments == whole.num_segments and list(index.passage_ids) == list(whole.passage_ids)
        patterns = [[a, b] for a in range(2, VOCABULARY) for b in range(2, VOCABULARY)]
        # The ranges of the parts together are those of the whole.
        assert np.array_equal(index.find_batch(patterns), whole.find_batch(patterns))
        for one, other in zip(index.extract_batch(range(38)), whole.extract_batch(range(38)), strict=True):
            assert one.tolist() == other.tolist()
    with pytest.raises(ValueError, match=f"has {whole.num_segments} segments, too few for 99 parts"):
        whole.share(0, 99)
    with pytest.raises(ValueError, match="There is no part 2 of 2"):
        whole.share(2, 2)


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


@pytest.mark.parametrize("processes", [2, 3, 5])
def test_an_id_in_two_parts_is_refused(processes, monkeypatch):
    monkeypatch.setattr(distributed_ids, "_IDS_PER_EXCHANGE", 2)
    parts = [build([[3, 4]] * 40, 40 * number) for number in range(processes)]
    assert Party(parts).num_passages == 40 * processes
    twice = [*parts[:-1], build([[3, 4]] * 40, 40 * (processes - 1) - 1)]
    name, last = f"p{40 * (processes - 1) - 1}", processes - 1
    with pytest.raises(ValueError, match=f"id '{name}' is in the parts of processes {last - 1} and {last} .*no other"):
        Party(twice)
    # It is in one part only after its removal from the other.
    twice[-1] = twice[-1].remove([name])
    assert Party(twice).num_passages == 40 * processes - 1
    with pytest.raises(ValueError, match="id 'p.*' is in the parts of .*others are.*Give each process other passages"):
        Party([parts[0]] * processes)


def test_equal_hashes_of_different_ids_are_accepted(monkeypatch):
    monkeypatch.setattr(distributed_ids, "_IDS_PER_EXCHANGE", 2)
    hashes = RemainingIds.hashes
    monkeypatch.setattr(RemainingIds, "hashes", lambda ids: hashes(ids) % np.uint64(7) << np.uint64(61))
    parts = [build([[3, 4]] * 20, 20 * number) for number in range(3)]
    assert Party(parts).num_passages == 60
    with pytest.raises(ValueError, match="id 'p39' is in the parts of processes 1 and 2"):
        Party([*parts[:2], build([[3, 4]] * 20, 39)])


def test_the_hash_of_an_id():
    """FNV-1a with MurmurHash3's last step, in plain integers."""

    def plain(text):
        value, mask = 0xCBF29CE484222325, (1 << 64) - 1
        for byte in text.encode():
            value = (value ^ byte) * 0x100000001B3 & mask
        value = (value ^ value >> 33) * 0xFF51AFD7ED558CCD & mask
        value = (value ^ value >> 33) * 0xC4CEB9FE1A85EC53 & mask
        return value ^ value >> 33

    index = FMIndex.build([[3]] * 3, passage_ids=["p1", "é", "long" * 20], vocab_size=8, separator=1, progress=False)
    assert index.passage_ids.hashes().tolist() == [plain(id) for id in index.passage_ids]


def test_ids_are_asked_for_together():
    index = Party([build([[3, 4]] * 5), build([[4, 5]] * 5, 5)])
    index.questions.clear()
    assert index.passage_ids.take(np.array([7, 0, 7, 9, 2])) == ["p7", "p0", "p7", "p9", "p2"]
    assert index.passage_ids[2:7:2] == ["p2", "p4", "p6"] and len(index.questions) == 2
    with pytest.raises(IndexError, match="There is no passage 10"):
        index.passage_ids[10]


@pytest.mark.slow
@pytest.mark.parametrize("where", ["between questions", "within a question", "in the other", "before answering"])
def test_an_error_in_one_process_ends_the_others(tmp_path, where):
    """No process waits for one that has failed, though all of them keep running."""
    script = tmp_path / "search.py"
    script.write_text(
        textwrap.dedent(
            """
            import sys
            import time
            from pathlib import Path
            from accelerate import Accelerator
            from dgr_trainer import FMIndex
            from dgr_trainer.retrieval import DistributedIndex, distributed_index

            rank = Accelerator(cpu=True).process_index
            part = FMIndex.build([[3, 4]], passage_ids=[f"p{rank}"], vocab_size=8, separator=1, progress=False)
            where, outcome = sys.argv[2], "left in order"
            if where == "within a question" and rank == 0:
                def stopped(*arguments, **options):
                    raise KeyboardInterrupt
            try:
                with DistributedIndex(part) as index:
                    if rank == 1 and where == "before answering":
                        raise ValueError("trouble")
                    if rank == 1 and where == "in the other":
                        index._answer = lambda *question: sys.exit("trouble")
                    if rank == 1:
                        index.answer()
                    else:
                        assert index.count([3, 4]) == 2 or where != "between questions"
                        if where == "within a question":
                            distributed_index.dist.gather_object = stopped
                        if where == "between questions":
                            raise ValueError("trouble")
                        index.count([3, 4])
            except BaseException as error:
                outcome = type(error).__name__
            (Path(sys.argv[1]) / str(rank)).write_text(outcome)
            time.sleep(2)  # A process that ends would be noticed in any case.
            """
        )
    )
    launch = ["torch.distributed.run", "--nproc_per_node=2", "--rdzv-backend=c10d", "--rdzv-endpoint=localhost:0"]
    done = subprocess.run(
        [sys.executable, "-m", *launch, str(script), str(tmp_path), where],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "ACCELERATE_USE_CPU": "true"},
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    expected = {
        "between questions": ("ValueError", "left in order"),
        "within a question": ("KeyboardInterrupt", "RuntimeError"),
        "in the other": ("RuntimeError", "SystemExit"),
        "before answering": ("RuntimeError", "ValueError"),
    }
    assert tuple((tmp_path / rank).read_text() for rank in "01") == expected[where]


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
            queries = dict(list(QUERIES.items())[:4]) | {"own": "who discovered penicillin"}
            for views, kind in ((("title", "substring", "pseudo_query"), "log_odds"), (("docid",), "log_likelihood")):
                identifiers = Identifiers(bpe_tokenizer(), IdentifierSettings(views=views))
                index = DistributedIndex(FMIndex.from_corpus(Corpus.from_passages(own), identifiers))
                if not index.is_first:
                    with index:
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
                with index:
                    pass
                index.close()  # Closing twice is allowed.
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
