"""`dgr push` and `dgr pull` with a small Hub, and after they were killed."""

import json
import os

import pytest
from huggingface_hub import ModelCard
from launched_processes import CONTEXT, wait_until
from tiny_models import make_bart

from dgr_trainer import FMIndex, GenerativeRetriever, Identifiers
from dgr_trainer.cli.main import USER_ERROR, main


@pytest.fixture(scope="module")
def saved(bpe_tokenizer, corpus, tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved") / "retriever"
    identifiers = Identifiers(bpe_tokenizer)
    index = FMIndex.from_corpus(corpus, identifiers)
    GenerativeRetriever(make_bart(bpe_tokenizer), identifiers, index, corpus=corpus).save_pretrained(folder)
    return folder


def contents(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_up_and_down(dgr, hub, saved, tmp_path):
    (tmp_path / "metrics.json").write_text(json.dumps({"hits@10": 0.75}))
    done = dgr(
        *("push", saved, "me/one", "--license", "mit", "--metrics", tmp_path / "metrics.json"),
        *("--evaluated_on", "nq", "--datasets", "BeIR/nq", "--language", "en", "--tags", "mine", "--include_corpus"),
        *("--base_model", "facebook/bart-base", "--private", "--commit_message", "First"),
    )  # fmt: skip
    repository = hub.repositories["me/one"]
    assert done.code == 0 and f"dgr push: uploaded: {hub.url}/me/one/commit/" in done.err
    assert repository.private and repository.messages[-1] == "First"
    card = ModelCard(repository.files()["README.md"].decode())
    assert (card.data.license, card.data.datasets, card.data.language) == ("mit", ["BeIR/nq"], ["en"])
    assert card.data.base_model == "facebook/bart-base" and "mine" in card.data.tags
    assert [result.metric_value for result in card.data.eval_results] == [0.75]

    done = dgr("pull", "me/one", tmp_path / "there")
    assert done.code == 0 and f"dgr pull: downloaded me/one: {tmp_path / 'there'}" in done.err
    pulled = contents(tmp_path / "there")
    assert {name: pulled[name] for name in contents(saved)} == contents(saved)
    assert dgr("search", tmp_path / "there", "penicillin", "-k", "1").code == 0
    # A folder that was pulled has the card, and is uploaded with it.
    assert dgr("push", tmp_path / "there", "me/two", "--revision", "next", "--create_pr", "no").code == 0
    assert "license: mit" in hub.repositories["me/two"].files("next")["README.md"].decode()


def test_what_is_wrong_is_said_before_anything_is_sent(dgr, hub, saved, tmp_path, files):
    def error(*arguments):
        done = dgr(*arguments)
        assert done.code == USER_ERROR and "Traceback" not in done.err
        return done.err

    assert "FOLDER: nowhere does not exist" in error("push", "nowhere", "me/x", "--license", "mit")
    assert "holds no retriever.json" in error("push", files / "bart", "me/x", "--license", "mit")
    assert "--metrics: no.json does not exist" in error("push", saved, "me/x", "--metrics", "no.json")
    assert "'../x' is not the name of a repository" in error("push", saved, "../x", "--license", "mit")
    assert "'../x' is not the name of a repository" in error("pull", "../x", tmp_path / "out")
    assert "No licence is given" in error("push", saved, "me/x")
    (tmp_path / "some").mkdir()
    (tmp_path / "some" / "file").touch()
    assert "holds other files (file)" in error("pull", "me/x", tmp_path / "some")
    assert "FOLDER: " in error("pull", "me/x", saved) and "Add --overwrite" in error("pull", "me/x", saved)
    assert "download it first: dgr pull you/one FOLDER" in error("search", "you/one", "sea")
    assert not hub.repositories
    said = error("pull", "me/x", tmp_path / "out")
    assert "dgr pull: error: me/x cannot be downloaded: the Hub has no such repository" in said
    assert not (tmp_path / "out").exists() and [path.name for path in tmp_path.iterdir()] == ["some"]


def run_command(*arguments):
    os._exit(main([str(argument) for argument in arguments]))


@pytest.mark.slow
def test_after_a_kill_the_same_command_goes_on(hub, saved, tmp_path):
    def start(*arguments):
        process = CONTEXT.Process(target=run_command, args=arguments)
        process.start()
        return process

    def finish(process):
        process.join(120)
        return process.exitcode

    push = ("push", saved, "me/killed", "--license", "mit")
    hub.seconds_per_block = 0.2  # The weights take four seconds.
    first = start(*push)
    wait_until(lambda: len(hub.objects) > 3)
    first.kill()
    finish(first)
    assert "README.md" not in hub.repositories["me/killed"].files()
    hub.seconds_per_block = 0
    before = set(hub.objects)
    hub.reset_counts()
    assert finish(start(*push)) == 0
    assert hub.received and not before & set(hub.received)
    files = hub.repositories["me/killed"].files()
    assert {name: files[name] for name in contents(saved) if not name.startswith("corpus/")} == {
        name: content for name, content in contents(saved).items() if not name.startswith("corpus/")
    }

    pull = ("pull", "me/killed", tmp_path / "there")
    hub.reset_counts()
    hub.seconds_per_block = 0.2
    first = start(*pull)
    wait_until(lambda: len(list((tmp_path / ".there.download" / "index").rglob("*.npy"))) > 3)
    first.kill()
    finish(first)
    assert not (tmp_path / "there").exists()
    there = {path.name for path in (tmp_path / ".there.download" / "index").rglob("*.npy")}
    hub.seconds_per_block = 0
    hub.reset_counts()
    assert finish(start(*pull)) == 0
    asked = {line.split("/")[-1] for line in hub.log if line.startswith("GET") and "/resolve/" in line}
    assert there and not asked & there
    pulled = contents(tmp_path / "there")
    assert pulled.keys() - files.keys() == set() and all(pulled[name] == files[name] for name in pulled)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["there"]


@pytest.mark.slow
def test_dgr_train_pushes_a_retriever(dgr, hub, files, tmp_path):
    assert dgr("index", files / "corpus.jsonl", "--model", files / "bart", "--output", tmp_path / "index").code == 0
    done = dgr(
        *("train", "--stage", "generation", "--model", files / "bart", "--index", tmp_path / "index"),
        *("--queries", files / "queries.tsv", "--qrels", files / "qrels.txt", "--output_dir", tmp_path / "out"),
        *("--use_cpu", "--max_steps", 2, "--save_steps", 1, "--report_to", "none"),
        *("--push_to_hub", "--hub_model_id", "me/trained", "--hub_strategy", "end"),
    )
    assert done.code == 0, done.err
    files_there = hub.repositories["me/trained"].files()
    assert not [name for name in files_there if name.startswith(("retriever/", "checkpoint")) or name == "train.yaml"]
    text = files_there["README.md"].decode()
    assert "dgr-trainer to generate the identifiers" in text and "| loss | generation of identifiers" in text
    loaded = GenerativeRetriever.from_pretrained("me/trained")
    local = GenerativeRetriever.from_pretrained(tmp_path / "out" / "retriever")
    assert loaded.search("sea", k=3) == local.search("sea", k=3) and loaded.settings == local.settings
