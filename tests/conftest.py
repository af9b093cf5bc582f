"""Shared fixtures: a small real corpus, tokenizers trained on it, and tiny random models built in memory."""

import gc
import os
import signal
import threading
from collections.abc import Iterator

# Started in the background, a process ignores Ctrl-C, and so do its children: those that tests interrupt must not.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN and threading.current_thread() is threading.main_thread():
    signal.signal(signal.SIGINT, signal.default_int_handler)

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # Several workers share the cores.

import datasets
import hypothesis
import pytest
import torch
from hub_server import Hub, take_for_the_hub
from sample_corpus import PASSAGES, QRELS, QUERIES
from tiny_models import TOKENIZERS, make_bart, make_t5
from tqdm import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from dgr_trainer.data.corpus import Corpus
from dgr_trainer.data.passages import Passage
from dgr_trainer.identifiers import Identifiers

datasets.disable_progress_bars()
# Forked processes share the default lock: a worker killed while it draws a bar would leave it locked for the others.
tqdm.set_lock(threading.RLock())
tqdm.monitor_interval = 0  # No thread that may hold the lock during a fork.
# How long an example takes says more about the machine than about the code. CI judges a change by the same examples
# every time; elsewhere they are drawn anew.
hypothesis.settings.register_profile("dgr", deadline=None, derandomize="CI" in os.environ)
hypothesis.settings.load_profile("dgr")


def pytest_collection_finish() -> None:
    """Spare the collector what the imports have made: every training collects garbage, and it would go through it."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def passages() -> list[Passage]:
    return list(PASSAGES)


@pytest.fixture(scope="session")
def corpus(passages: list[Passage]) -> Corpus:
    return Corpus.from_passages(passages)


@pytest.fixture(scope="session")
def queries() -> datasets.Dataset:
    return datasets.Dataset.from_dict({"query_id": list(QUERIES), "query": list(QUERIES.values())})


@pytest.fixture(scope="session")
def qrels() -> dict[str, dict[str, int]]:
    return {query_id: dict(relevant) for query_id, relevant in QRELS.items()}


@pytest.fixture(scope="session")
def bpe_tokenizer() -> PreTrainedTokenizerBase:
    return TOKENIZERS["bpe"]()


@pytest.fixture(scope="session")
def unigram_tokenizer() -> PreTrainedTokenizerBase:
    return TOKENIZERS["unigram"]()


@pytest.fixture(scope="session")
def plain_tokenizer() -> PreTrainedTokenizerBase:
    return TOKENIZERS["plain"]()


@pytest.fixture(scope="session", params=list(TOKENIZERS))
def tokenizer(request: pytest.FixtureRequest) -> PreTrainedTokenizerBase:
    return TOKENIZERS[request.param]()


@pytest.fixture
def bart(bpe_tokenizer: PreTrainedTokenizerBase) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    return make_bart(bpe_tokenizer), bpe_tokenizer


@pytest.fixture
def t5(unigram_tokenizer: PreTrainedTokenizerBase) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    return make_t5(unigram_tokenizer), unigram_tokenizer


@pytest.fixture(params=["bart", "t5"])
def model_and_tokenizer(request: pytest.FixtureRequest) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    return request.getfixturevalue(request.param)


@pytest.fixture(scope="session")
def bpe_identifiers(bpe_tokenizer: PreTrainedTokenizerBase) -> Identifiers:
    return Identifiers(bpe_tokenizer)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    """A small Hub on this machine, which this process takes for the real one, logged in as `me`."""
    server = Hub()
    take_for_the_hub(server, monkeypatch, tmp_path_factory.mktemp("cache"))
    yield server
    server.close()
