import json
import shutil

import numpy as np
import peft
import pytest
from safetensors.torch import load_file, save_file
from tiny_models import make_bart
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

from dgr_trainer.identifier_weights import ScoringSettings
from dgr_trainer.identifiers import Identifiers, IdentifierSettings
from dgr_trainer.index import FMIndex, save_changed
from dgr_trainer.retrieval import GenerativeRetriever, SearchSettings

pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")
QUERIES = ["who discovered penicillin", "sea"]


def made(model, tokenizer, corpus):
    identifiers = Identifiers(tokenizer, IdentifierSettings(title_end="@@ the", max_query_length=40))
    return GenerativeRetriever(
        model, identifiers, FMIndex.from_corpus(corpus, identifiers), corpus=corpus,
        settings=SearchSettings(beam_size=4), scoring=ScoringSettings(repetition=0.5),
    )  # fmt: skip


@pytest.mark.parametrize("family", ["bart", "t5"])
def test_a_retriever_survives_its_folder(request, family, corpus, tmp_path):
    model, tokenizer = request.getfixturevalue(family)
    retriever = made(model, tokenizer, corpus)
    expected = retriever.search(QUERIES, k=4)
    retriever.save_pretrained(tmp_path / "saved")
    retriever.save_pretrained(tmp_path / "saved")  # In place of the first.
    loaded = GenerativeRetriever.from_pretrained(tmp_path / "saved")
    assert loaded.search(QUERIES, k=4) == expected
    assert loaded.settings == retriever.settings and loaded.scoring == retriever.scoring
    assert loaded.identifiers.settings == retriever.identifiers.settings
    assert list(loaded.corpus) == list(corpus)
    assert not loaded.model.training
    # The root is an ordinary checkpoint.
    assert isinstance(AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "saved"), type(model))
    assert (
        Identifiers(AutoTokenizer.from_pretrained(tmp_path / "saved")).fingerprint
        == retriever.index.tokenizer_fingerprint
    )
    wider = GenerativeRetriever.from_pretrained(tmp_path / "saved", settings=SearchSettings(beam_size=6))
    assert wider.settings.beam_size == 6


@pytest.mark.parametrize("family", ["bart", "t5"])
def test_an_adapter_survives_its_folder(request, family, corpus, tmp_path):
    model, tokenizer = request.getfixturevalue(family)
    model.save_pretrained(tmp_path / "base")
    base = AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "base")
    targets = ["q_proj", "v_proj"] if family == "bart" else ["q", "v"]
    config = peft.LoraConfig(task_type="SEQ_2_SEQ_LM", target_modules=targets, init_lora_weights=False)
    retriever = made(peft.get_peft_model(base, config), tokenizer, corpus)
    expected = retriever.search(QUERIES, k=4)
    assert expected != made(model, tokenizer, corpus).search(QUERIES, k=4)
    retriever.save_pretrained(tmp_path / "saved")
    assert not (tmp_path / "saved" / "model.safetensors").exists()
    assert GenerativeRetriever.from_pretrained(tmp_path / "saved").search(QUERIES, k=4) == expected
    assert peft.AutoPeftModelForSeq2SeqLM.from_pretrained(str(tmp_path / "saved")) is not None

    shutil.move(tmp_path / "base", tmp_path / "moved")
    with pytest.raises(FileNotFoundError, match="belongs to the model .*base.*Pass the model as base_model"):
        GenerativeRetriever.from_pretrained(tmp_path / "saved")
    moved = AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "moved")
    assert GenerativeRetriever.from_pretrained(tmp_path / "saved", base_model=moved).search(QUERIES, k=4) == expected


def test_an_adapter_without_a_known_base_is_refused(bart, corpus, tmp_path):
    model, tokenizer = bart
    adapted = peft.get_peft_model(model, peft.LoraConfig(target_modules=["q_proj"]))
    adapted.peft_config["default"].base_model_name_or_path = ""
    with pytest.raises(ValueError, match="The configuration of adapter 'default' does not name its base model"):
        made(adapted, tokenizer, corpus).save_pretrained(tmp_path / "saved")
    assert not (tmp_path / "saved").exists()


def test_an_index_stays_the_one_of_the_folder_that_it_was_loaded_from(bart, corpus, tmp_path):
    retriever = made(*bart, corpus)
    retriever.index.save(tmp_path / "index")
    retriever.index = FMIndex.load(tmp_path / "index")
    retriever.save_pretrained(tmp_path / "saved")
    FMIndex.load(tmp_path / "index").remove([corpus.ids[2]]).save(tmp_path / "index")  # Another process.
    with pytest.raises(RuntimeError, match="changed by another process since it was opened here"):
        retriever.index.remove([corpus.ids[1]]).save(tmp_path / "index")
    elsewhere = {"removed": np.array([1]), "added": None, "compacted": False}
    with pytest.raises(ValueError, match="The index was loaded from .*index, which is not in .*saved"):
        save_changed(
            tmp_path / "saved", "retriever.json", retriever.index, retriever.index.remove(corpus.ids[1:2]), **elsewhere
        )


@pytest.mark.parametrize("loaded", [False, True])
def test_a_saved_index_can_be_changed_in_its_folder(bart, corpus, tmp_path, loaded):
    retriever = made(*bart, corpus)
    retriever.save_pretrained(tmp_path / "saved")
    if loaded:
        retriever = GenerativeRetriever.from_pretrained(tmp_path / "saved")
        retriever.save_pretrained(tmp_path / "saved")
    for passage_id in corpus.ids[1:3]:
        changed = retriever.index.remove([passage_id])
        position = retriever.index.passage_position(passage_id)
        save_changed(
            tmp_path / "saved", "retriever.json", retriever.index, changed,
            removed=np.array([position]), added=None, compacted=False,
        )  # fmt: skip
        retriever.index = changed
    changed.remove([corpus.ids[3]]).save(tmp_path / "saved" / "index")
    assert list(FMIndex.load(tmp_path / "saved" / "index").passage_ids) == [corpus.ids[0], *corpus.ids[4:]]
    assert [path.name for path in tmp_path.iterdir()] == ["saved"]


@pytest.fixture(scope="module")
def saved(bpe_tokenizer, corpus, tmp_path_factory):
    path = tmp_path_factory.mktemp("retriever") / "saved"
    made(make_bart(bpe_tokenizer), bpe_tokenizer, corpus).save_pretrained(path)
    return path


@pytest.fixture
def copied(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / "copied")


def test_a_folder_of_something_else(tmp_path, bart, corpus):
    with pytest.raises(FileNotFoundError, match="holds no retriever.json"):
        GenerativeRetriever.from_pretrained(tmp_path)
    (tmp_path / "thesis.txt").write_text("precious")
    with pytest.raises(FileExistsError, match="holds other files"):
        made(*bart, corpus).save_pretrained(tmp_path)
    assert (tmp_path / "thesis.txt").read_text() == "precious"


@pytest.mark.parametrize(
    "file, part", [("config.json", "the model"), ("tokenizer_config.json", "the tokenizer"), ("index", "the index")]
)
def test_missing_parts_are_named(copied, file, part):
    shutil.rmtree(copied / file) if (copied / file).is_dir() else (copied / file).unlink()
    with pytest.raises(FileNotFoundError, match=f"is incomplete: {part} missing"):
        GenerativeRetriever.from_pretrained(copied)


def test_missing_weights_are_named(copied):
    key = "model.decoder.layers.1.fc1.bias"
    weights = {name: weight for name, weight in load_file(copied / "model.safetensors").items() if name != key}
    save_file(weights, copied / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=f"Weights of .*copied are missing: {key}"):
        GenerativeRetriever.from_pretrained(copied)


def test_another_version(copied):
    description = json.loads((copied / "retriever.json").read_text())
    (copied / "retriever.json").write_text(json.dumps({**description, "format_version": 99}))
    with pytest.raises(ValueError, match="has format version 99; this version of dgr-trainer reads version 1"):
        GenerativeRetriever.from_pretrained(copied)


def test_another_tokenizer(copied, plain_tokenizer):
    plain_tokenizer.save_pretrained(copied)
    with pytest.raises(ValueError, match="made with another tokenizer"):
        GenerativeRetriever.from_pretrained(copied)


def test_without_a_corpus(bpe_tokenizer, corpus, tmp_path):
    identifiers = Identifiers(bpe_tokenizer)
    GenerativeRetriever(
        make_bart(bpe_tokenizer), identifiers, FMIndex.from_corpus(corpus, identifiers)
    ).save_pretrained(tmp_path / "saved")
    assert GenerativeRetriever.from_pretrained(tmp_path / "saved").corpus is None


def test_model_options_are_passed_on(saved):
    import torch

    assert GenerativeRetriever.from_pretrained(saved, dtype=torch.float64).model.dtype == torch.float64
