"""Retrievers on a small Hub: what is uploaded and downloaded, what is transferred again, and what is refused."""

import copy
import json
import shutil
from pathlib import Path

import huggingface_hub
import numpy as np
import peft
import pytest
import torch
from hub_server import take_for_the_hub
from huggingface_hub import ModelCard
from tiny_models import make_bart
from transformers import AutoModelForSeq2SeqLM

from dgr_trainer import Corpus, FMIndex, GenerativeRetriever, Identifiers, SearchSettings, SemanticIds, compare_runs
from dgr_trainer.hub.repositories import HubRepository
from dgr_trainer.retrieval.hub import pull_retriever

QUERIES = ["who discovered penicillin", "sea"]


def made(model, tokenizer, corpus, **settings):
    identifiers = Identifiers(tokenizer)
    index = FMIndex.from_corpus(corpus, identifiers)
    return GenerativeRetriever(
        model, identifiers, index, corpus=corpus, settings=SearchSettings(beam_size=3), **settings
    )


@pytest.fixture(scope="module")
def retriever(bpe_tokenizer, corpus):
    return made(make_bart(bpe_tokenizer), bpe_tokenizer, corpus)


@pytest.fixture(scope="module")
def saved(retriever, tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved") / "retriever"
    retriever.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def expected(retriever):
    return retriever.search(QUERIES, k=3)


def contents(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_retriever_comes_back_from_the_hub(hub, retriever, saved, expected):
    folder_of_index = retriever.index.loaded_from
    commit = retriever.push_to_hub("me/first", license="apache-2.0", commit_message="One", private=True)
    assert commit.oid in commit.commit_url and commit.commit_url.startswith(hub.url)
    repository = hub.repositories["me/first"]
    assert repository.private and repository.messages[-1] == "One"
    files = repository.files()
    wanted = {name: content for name, content in contents(saved).items() if not name.startswith("corpus/")}
    assert {name: files[name] for name in wanted} == wanted
    assert files.keys() - wanted.keys() == {"README.md", ".gitattributes"}
    assert all(repository.commits[commit.oid][name].lfs for name in files if name.endswith((".npy", ".safetensors")))
    assert retriever.index.loaded_from == folder_of_index  # Not the temporary folder.

    hub.reset_counts()
    loaded = GenerativeRetriever.from_pretrained("me/first")
    assert loaded.search(QUERIES, k=3) == expected
    assert loaded.settings == retriever.settings and loaded.corpus is None
    assert sum(hub.sent.values()) >= sum(map(len, wanted.values()))
    hub.reset_counts()
    GenerativeRetriever.from_pretrained("me/first")
    assert not hub.sent  # All of it is in the cache.


def test_semantic_ids_go_along_and_are_deleted_with_their_retriever(hub, retriever, bpe_tokenizer, corpus):
    ids, tokenizer = SemanticIds.atomic(corpus.ids), copy.deepcopy(bpe_tokenizer)
    model = make_bart(tokenizer)
    ids.add_to(tokenizer, model)
    made(model, tokenizer, ids.with_docids(corpus), semantic_ids=ids).push_to_hub("me/coded", license="mit")
    loaded = GenerativeRetriever.from_pretrained("me/coded")
    assert loaded.semantic_ids is not None and loaded.semantic_ids.docids() == ids.docids()
    retriever.push_to_hub("me/coded")
    assert not [name for name in hub.repositories["me/coded"].files() if name.startswith("semantic_ids/")]


@pytest.mark.slow
@pytest.mark.parametrize("family", ["bart", "t5"])
def test_an_adapter_comes_back_with_the_model_that_it_names(request, hub, family, corpus, tmp_path, monkeypatch):
    model, tokenizer = request.getfixturevalue(family)
    model.save_pretrained(tmp_path / "org" / "base")
    monkeypatch.chdir(tmp_path)
    base = AutoModelForSeq2SeqLM.from_pretrained("org/base")
    targets = ["q_proj"] if family == "bart" else ["q"]
    config = peft.LoraConfig(task_type="SEQ_2_SEQ_LM", target_modules=targets, init_lora_weights=False)
    retriever = made(peft.get_peft_model(base, config), tokenizer, corpus)
    with pytest.raises(ValueError, match="belongs to the model 'org/base', which is not a name on the Hub.*base_mode"):
        retriever.push_to_hub("me/adapter", license="mit")
    assert "me/adapter" not in hub.repositories
    (tmp_path / "org").rename(tmp_path / "elsewhere")
    hub.add("org/base", contents(tmp_path / "elsewhere" / "base"))
    retriever.push_to_hub("me/adapter", license="mit")
    files = hub.repositories["me/adapter"].files()
    assert "model.safetensors" not in files and "adapter_model.safetensors" in files
    card = ModelCard(files["README.md"].decode())
    assert card.data.base_model == "org/base" and card.data.base_model_relation == "adapter"
    assert "an adapter (LORA) of `org/base`" in card.text and "More Information Needed" not in card.text
    loaded = GenerativeRetriever.from_pretrained("me/adapter")
    assert loaded.search(QUERIES, k=3) == retriever.search(QUERIES, k=3)
    assert isinstance(loaded.model, peft.PeftModel)


@pytest.mark.slow
def test_only_what_changed_is_sent_and_what_is_gone_is_deleted(hub, retriever, passages, bpe_tokenizer):
    retriever.push_to_hub("me/changing", license="mit", include_corpus=True)
    before = hub.repositories["me/changing"].files()
    assert "corpus/corpus.json" in before
    hub.reset_counts()
    commits = len(hub.repositories["me/changing"].commits)
    retriever.push_to_hub("me/changing", include_corpus=True)
    sent = set(hub.received)
    assert not [name for name in sent if not name.startswith("corpus/")], sent
    assert len(hub.repositories["me/changing"].commits) <= commits + 1

    fewer = Corpus.from_passages(passages[:20])
    other = GenerativeRetriever(
        retriever.model, retriever.identifiers, FMIndex.from_corpus(fewer, retriever.identifiers)
    )
    hub.reset_counts()
    other.push_to_hub("me/changing")
    after = hub.repositories["me/changing"].files()
    assert not [name for name in after if name.startswith("corpus/")]
    (segment,) = {name.split("/")[1] for name in after if name.startswith("index/segment")}
    assert segment not in {name.split("/")[1] for name in before if name.startswith("index/segment")}
    weights = hub.repositories["me/changing"].commits[hub.repositories["me/changing"].refs["main"]]
    assert weights["model.safetensors"].oid not in hub.received
    assert GenerativeRetriever.from_pretrained("me/changing").index.num_passages == 20


@pytest.mark.slow
def test_revisions_branches_and_pull_requests(hub, retriever, passages, monkeypatch):
    first = retriever.push_to_hub("me/many", license="mit")
    fewer = Corpus.from_passages(passages[:20])
    other = GenerativeRetriever(
        retriever.model, retriever.identifiers, FMIndex.from_corpus(fewer, retriever.identifiers)
    )
    branch = other.push_to_hub("me/many", revision="smaller")
    sizes = {revision: 20 if revision in ("smaller", branch.oid) else 24 for revision in (first.oid, branch.oid)}
    for revision, size in {**sizes, "main": 24, "smaller": 20, None: 24}.items():
        loaded = GenerativeRetriever.from_pretrained("me/many", revision=revision)
        assert loaded.index.num_passages == size, revision
    assert (
        "from_pretrained(\"me/many\", revision='smaller')"
        in hub.repositories["me/many"].files("smaller")["README.md"].decode()
    )

    monkeypatch.setenv("HF_TOKEN", "hf_reader")
    with pytest.raises(PermissionError, match="me/many cannot be uploaded to: the token does not allow it"):
        other.push_to_hub("me/many")
    request = other.push_to_hub("me/many", create_pr=True)
    assert request.pr_url == f"{hub.url}/me/many/discussions/1" and request.pr_revision == "refs/pr/1"
    assert GenerativeRetriever.from_pretrained("me/many", revision="refs/pr/1").index.num_passages == 20
    assert GenerativeRetriever.from_pretrained("me/many").index.num_passages == 24
    with pytest.raises(FileNotFoundError, match="me/many cannot be downloaded: it has no such revision"):
        GenerativeRetriever.from_pretrained("me/many", revision="v9")


@pytest.mark.slow
def test_a_name_without_a_user_is_one_of_the_user(hub, retriever):
    commit = retriever.push_to_hub("mine", license="mit")
    assert "/me/mine/" in commit.commit_url
    assert 'from_pretrained("me/mine")' in hub.repositories["me/mine"].files()["README.md"].decode()


def test_a_folder_goes_before_a_repository(hub, retriever, saved, tmp_path, monkeypatch):
    hub.add("me/local", {"retriever.json": b"{}"})
    shutil.copytree(saved, tmp_path / "me" / "local")
    monkeypatch.chdir(tmp_path)
    assert len(GenerativeRetriever.from_pretrained("me/local").corpus) == 24
    assert not [line for line in hub.log if "me/local" in line]
    with pytest.raises(ValueError, match="me/local is a folder on the disk, which has no revisions"):
        GenerativeRetriever.from_pretrained("me/local", revision="main")


# The card


@pytest.mark.slow
def test_the_card_of_a_comparison(hub, retriever, queries, qrels, tmp_path):
    comparison = compare_runs({"dgr": retriever.rank(queries, k=10)}, qrels, ["hits@10", "mrr@10"])
    retriever.push_to_hub(
        "me/card", license="cc-by-4.0", metrics=comparison, evaluated_on="BeIR/nq", datasets="BeIR/nq",
        language=["en"], tags="mine", base_model="facebook/bart-base",
    )  # fmt: skip
    card = ModelCard(hub.repositories["me/card"].files()["README.md"].decode())
    values = {result.metric_type: result.metric_value for result in card.data.eval_results}
    assert values == {name: value.mean for name, value in comparison.runs["dgr"].items()}
    assert {result.dataset_name for result in card.data.eval_results} == {"BeIR/nq"}
    assert card.data.library_name == "dgr-trainer" and card.data.license == "cc-by-4.0"
    assert {"dgr-trainer", "generative-retrieval", "mine"} <= set(card.data.tags)
    assert card.data.datasets == ["BeIR/nq"] and card.data.base_model == "facebook/bart-base"
    assert card.data.language == ["en"] and card.data.metrics == ["hits@10", "mrr@10"]
    for name, value in comparison.runs["dgr"].items():
        assert f"| {name} | {value.mean:.4f} | {value.low:.4f} to {value.high:.4f} |" in card.text
    assert f"On BeIR/nq, {comparison.queries} queries; bootstrap intervals of the mean, 95%" in card.text
    usage = card.text.split("```python\n")[1].split("```")[0]
    names = {}
    exec(usage.replace("a question", "who discovered penicillin"), names)  # It runs as it stands.
    assert names["hit"].passage_id
    assert len(usage.strip().splitlines()) == 5

    # The file that `dgr evaluate --json` prints says the same.
    (tmp_path / "metrics.json").write_text(json.dumps(comparison.to_dict()))
    hub.reset_counts()
    retriever.push_to_hub(
        "me/card", metrics=tmp_path / "metrics.json", evaluated_on="BeIR/nq", datasets=["BeIR/nq"], language=["en"],
        base_model="facebook/bart-base",
    )  # fmt: skip
    assert not hub.received


@pytest.mark.slow
def test_text_of_others_in_the_card_is_kept(hub, retriever):
    retriever.push_to_hub("me/text", license="mit", metrics={"hits@1": 0.25}, evaluated_on="test")
    repository = hub.repositories["me/text"]
    files = dict(repository.commits[repository.refs["main"]])
    edited = files["README.md"].content.decode().replace("license: mit", "license: mit\ninference: false")
    edited = edited.replace("<!-- dgr-trainer: written", "Ask \\1 Ann.\n\n<!-- dgr-trainer: written") + "\nThanks!\n"
    repository.commit("main", {**files, "README.md": type(files["README.md"])(edited.encode(), False)}, "edited")
    retriever.push_to_hub("me/text", metrics={"hits@1": 0.5}, evaluated_on="test")
    text = repository.files()["README.md"].decode()
    card = ModelCard(text)
    assert card.text.strip().startswith("Ask \\1 Ann.") and card.text.strip().endswith("Thanks!")
    assert "| hits@1 | 0.5000 |" in card.text and "0.25" not in text
    assert card.data.to_dict()["inference"] is False and card.data.license == "mit"
    assert text.count("# text") == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "No licence is given.*Give license .--license., such as 'apache-2.0'"),
        ({"license": "Apache 2"}, "license is 'Apache 2', but the Hub names licences by identifiers"),
        ({"license": "mit", "metrics": {"hits@1": 0.5}}, "not the data set that they were measured on"),
        ({"license": "mit", "evaluated_on": "nq"}, "say what metrics are about. Give metrics"),
        ({"license": "mit", "metrics": {}, "evaluated_on": "nq"}, "metrics has no metrics"),
        ({"license": "mit", "metrics": {"a": float("nan")}, "evaluated_on": "nq"}, "a is nan. A metric is a finite"),
        ({"license": "mit", "metrics": {"a": True}, "evaluated_on": "nq"}, "a is True"),
        ({"license": "mit", "metrics": 3, "evaluated_on": "nq"}, "metrics is a int. Give values by metric"),
        ({"license": "mit", "metrics": {"a": 1}, "evaluated_on": "n", "metrics_run": "x"}, "metrics has no runs"),
        (
            {"license": "mit", "metrics": {"runs": {"a": {}, "b": {}}}, "evaluated_on": "nq"},
            "compares the runs a, b. Say which of them",
        ),
        (
            {"license": "mit", "metrics": {"runs": {"a": {"hits@1": 3}}}, "evaluated_on": "nq"},
            "metrics is not a comparison of runs",
        ),
    ],
)
def test_a_card_that_cannot_be_written(hub, retriever, arguments, message):
    with pytest.raises((ValueError, TypeError), match=message):
        retriever.push_to_hub("me/none", **arguments)
    assert "me/none" not in hub.repositories


# Refusals


@pytest.mark.parametrize(
    "name", ["pytorch_model.bin", "training_args.bin", "index/x.PKL", "optimizer.pt", "a.ckpt", "deep/er/b.joblib"]
)
def test_a_repository_with_a_pickle_is_refused_before_anything_is_downloaded(hub, saved, name, tmp_path):
    hub.add("you/bad", {**contents(saved), name: b"\x80\x04."})
    with pytest.raises(ValueError, match=f"you/bad holds {name}, which may be a pickle: opening one can run any"):
        GenerativeRetriever.from_pretrained("you/bad")
    with pytest.raises(ValueError, match="which may be a pickle"):
        pull_retriever(HubRepository("you/bad"), tmp_path / "pulled")
    assert not hub.sent and not (tmp_path / "pulled").exists()


def test_the_state_of_a_training_is_neither_refused_nor_downloaded(hub, saved):
    state = {"last-checkpoint/optimizer.pt": b"\x80\x04.", "checkpoint-5/rng_state.pth": b"\x80\x04."}
    hub.add("you/resumable", {**contents(saved), **state})
    GenerativeRetriever.from_pretrained("you/resumable")
    assert not [line for line in hub.log if "optimizer" in line or "rng_state" in line]


@pytest.mark.slow
def test_the_base_model_of_a_downloaded_adapter_is_no_pickle(hub, bart, corpus, tmp_path):
    model, tokenizer = bart
    model.save_pretrained(tmp_path / "base")
    files = contents(tmp_path / "base")
    hub.add("org/base", files)
    base = AutoModelForSeq2SeqLM.from_pretrained("org/base")
    adapted = peft.get_peft_model(base, peft.LoraConfig(task_type="SEQ_2_SEQ_LM", target_modules=["q_proj"]))
    made(adapted, tokenizer, corpus).push_to_hub("me/adapter", license="mit")
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    del files["model.safetensors"]
    hub.add("org/base", {**files, "pytorch_model.bin": (tmp_path / "pytorch_model.bin").read_bytes()})
    hub.reset_counts()
    with pytest.raises(FileNotFoundError, match="belongs to the model 'org/base', which cannot be loaded"):
        GenerativeRetriever.from_pretrained("me/adapter", cache_dir=tmp_path / "cache")
    assert not [line for line in hub.log if line.startswith("GET") and "pytorch_model.bin" in line]


def test_a_folder_with_a_pickle_is_not_uploaded(hub, saved, tmp_path):
    from dgr_trainer.retrieval.hub import CardOptions, CommitOptions, push_folder

    folder = tmp_path / "saved"
    shutil.copytree(saved, folder)

    def push():
        push_folder(folder, HubRepository("me/bad"), CardOptions("mit"), CommitOptions())

    (folder / "index" / "old.bin").write_bytes(b"\x80\x04.")
    with pytest.raises(ValueError, match="holds index/old.bin, which may be a pickle"):
        push()
    (folder / "index" / "old.bin").unlink()
    np.save(folder / "index" / "objects.npy", np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match="objects.npy holds an array of objects, which is a pickle"):
        push()
    (folder / "index" / "objects.npy").unlink()
    (folder / "dangling.json").symlink_to(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="dangling.json is a link to nothing"):
        push()
    (folder / "dangling.json").unlink()
    (folder / "retriever.json").unlink()
    with pytest.raises(FileNotFoundError, match="holds no retriever.json, so it is not a saved retriever"):
        push()
    assert not hub.log


@pytest.mark.parametrize("name", ["../evil.json", "index/../../evil.json", "/etc/evil.json", "a\\b.json", "C:evil"])
def test_names_that_leave_the_folder_are_refused(hub, saved, name, tmp_path):
    hub.add("you/tricks", {**contents(saved), name: b"{}"})
    with pytest.raises(ValueError, match="which is not a path within a folder"):
        GenerativeRetriever.from_pretrained("you/tricks")
    with pytest.raises(ValueError, match="which is not a path within a folder"):
        pull_retriever(HubRepository("you/tricks"), tmp_path / "pulled")
    assert not hub.sent


def test_what_the_hub_refuses_is_said_in_a_sentence(hub, retriever, saved, monkeypatch, tmp_path):
    hub.add("you/gated", contents(saved), gated=True)
    hub.add("you/private", contents(saved), private=True)
    hub.add("you/model", {"config.json": b"{}"})

    def message(error, call):
        with pytest.raises(error) as caught:
            call()
        assert "\n" not in str(caught.value)
        return str(caught.value)

    def load(name):
        return lambda: GenerativeRetriever.from_pretrained(name)

    assert "you/gated cannot be downloaded: it is gated" in message(PermissionError, load("you/gated"))
    for name in ("you/missing", "you/private"):
        said = message(FileNotFoundError, load(name))
        assert f"{name} cannot be downloaded: the Hub has no such repository, or it is private" in said
    said = message(FileNotFoundError, load("you/model"))
    assert "you/model has no retriever.json, so it is not a retriever that push_to_hub" in said
    said = message(PermissionError, lambda: retriever.push_to_hub("you/model", license="mit"))
    assert "the token does not allow it" in said
    said = message(ValueError, lambda: retriever.push_to_hub("a/b/c", license="mit"))
    assert "'a/b/c' is not the name of a repository" in said
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    for call in (load("you/model"), lambda: retriever.push_to_hub("me/x", license="mit")):
        assert "you are not logged in, or the token is not valid" in message(PermissionError, call)
    monkeypatch.delenv("HF_TOKEN")
    for name in ("me/x", "x"):
        said = message(PermissionError, lambda name=name: retriever.push_to_hub(name, license="mit"))
        assert "cannot be uploaded to: you are not logged in" in said
    with pytest.raises(FileNotFoundError, match="has no corpus to include|include_corpus is set"):
        bare = tmp_path / "bare"
        shutil.copytree(saved, bare, ignore=shutil.ignore_patterns("corpus"))
        from dgr_trainer.retrieval.hub import CardOptions, CommitOptions, push_folder

        push_folder(bare, HubRepository("me/x"), CardOptions("mit"), CommitOptions(include_corpus=True))


def test_without_the_hub_the_cache_serves(hub, saved, monkeypatch, caplog, retriever, tmp_path):
    hub.add("you/kept", contents(saved))
    GenerativeRetriever.from_pretrained("you/kept")
    GenerativeRetriever.from_pretrained("you/kept", local_files_only=True)
    with pytest.raises(FileNotFoundError, match="the Hub is not asked .*and the cache does not have all of it"):
        GenerativeRetriever.from_pretrained("you/kept", local_files_only=True, cache_dir=tmp_path / "other")
    hub.close()
    assert len(GenerativeRetriever.from_pretrained("you/kept").corpus) == 24
    assert "you/kept: the Hub cannot be reached; using what the cache has" in caplog.text
    with pytest.raises(ConnectionError, match="you/other cannot be downloaded: the Hub at .* does not answer"):
        GenerativeRetriever.from_pretrained("you/other")
    with pytest.raises(ConnectionError, match="does not answer .*Check the connection, then repeat the call"):
        pull_retriever(HubRepository("you/kept"), tmp_path / "pulled")
    with pytest.raises(ConnectionError, match="me/new cannot be uploaded to: the Hub at .* does not answer"):
        retriever.push_to_hub("me/new", license="mit")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert len(GenerativeRetriever.from_pretrained("you/kept").corpus) == 24
    with pytest.raises(FileNotFoundError, match="you/other cannot be downloaded: the Hub is not asked"):
        GenerativeRetriever.from_pretrained("you/other")
    for call in (
        lambda: pull_retriever(HubRepository("you/kept"), tmp_path / "pulled"),
        lambda: retriever.push_to_hub("me/new", license="mit"),
    ):
        with pytest.raises(ConnectionError, match="HF_HUB_OFFLINE is set, so that the Hub is not asked. Unset it"):
            call()
    assert not (tmp_path / "pulled").exists()


def test_a_hub_that_fails_is_not_there(hub, saved, retriever, caplog):
    hub.add("you/kept", contents(saved))
    GenerativeRetriever.from_pretrained("you/kept")
    hub.failing = True
    GenerativeRetriever.from_pretrained("you/kept")
    assert "you/kept: the Hub cannot be reached; using what the cache has" in caplog.text
    with pytest.raises(RuntimeError, match="you/other cannot be downloaded: the Hub answers 503 .*Try it again later"):
        GenerativeRetriever.from_pretrained("you/other")
    with pytest.raises(RuntimeError, match="me/new cannot be uploaded to: the Hub answers 503"):
        retriever.push_to_hub("me/new", license="mit")


# To a folder


def test_a_retriever_is_pulled_to_a_folder(hub, saved, tmp_path, expected, monkeypatch):
    hub.add("you/whole", contents(saved))
    folder = tmp_path / "pulled"
    pull_retriever(HubRepository("you/whole"), folder)
    assert contents(folder) == contents(saved)
    assert [path.name for path in tmp_path.iterdir()] == ["pulled"]
    assert GenerativeRetriever.from_pretrained(folder).search(QUERIES, k=3) == expected
    monkeypatch.chdir(folder)
    pull_retriever(HubRepository("you/whole"), Path("."))  # In place of the first.
    assert contents(Path(".")) == contents(saved)
    assert [path.name for path in tmp_path.iterdir()] == ["pulled"]
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("precious")
    with pytest.raises(FileExistsError, match="holds other files"):
        pull_retriever(HubRepository("you/whole"), tmp_path / "mine")


@pytest.mark.slow
def test_a_download_that_was_cut_off_goes_on(hub, saved, tmp_path):
    hub.add("you/cut", contents(saved))
    hub.stop_after = 100_000
    with pytest.raises(OSError, match="you/cut cannot be downloaded"):
        pull_retriever(HubRepository("you/cut"), tmp_path / "pulled")
    assert not (tmp_path / "pulled").exists()
    finished = {path.name for path in (tmp_path / ".pulled.download").rglob("*.npy")}
    assert finished
    hub.stop_after = None
    hub.reset_counts()
    pull_retriever(HubRepository("you/cut"), tmp_path / "pulled")
    assert contents(tmp_path / "pulled") == contents(saved)
    again = {line.split("/")[-1] for line in hub.log if line.startswith("GET") and "/resolve/" in line}
    assert not again & finished


@pytest.mark.slow
def test_files_of_another_download_do_not_mix(hub, saved, tmp_path):
    first = {**contents(saved), "extra.txt": b"of the first"}
    hub.add("you/first", {**first, "config.json": b"{}", "model.safetensors": bytes(400_000)})
    hub.add("you/second", contents(saved))
    hub.stop_after = 350_000
    with pytest.raises(OSError, match="you/first cannot be downloaded"):
        pull_retriever(HubRepository("you/first"), tmp_path / "pulled")
    assert (tmp_path / ".pulled.download" / "extra.txt").is_file()
    hub.stop_after = None
    pull_retriever(HubRepository("you/second"), tmp_path / "pulled")
    assert contents(tmp_path / "pulled") == contents(saved)


@pytest.mark.slow
def test_another_account_does_not_see_what_is_private(hub, retriever, monkeypatch, tmp_path):
    retriever.push_to_hub("me/secret", license="mit", private=True)
    take_for_the_hub(hub, monkeypatch, tmp_path / "cache-of-another", token=None)
    with pytest.raises(FileNotFoundError, match="no such repository, or it is private"):
        GenerativeRetriever.from_pretrained("me/secret")
    assert GenerativeRetriever.from_pretrained("me/secret", token="hf_me").index.num_passages == 24
