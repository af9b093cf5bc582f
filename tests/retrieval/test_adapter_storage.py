"""Retrievers with adapters find the same after they were saved and loaded, and the same adapters act."""

import json
import shutil

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_models import make_bart, make_t5
from training_examples import make_trainer
from transformers import AutoModelForSeq2SeqLM

from dgr_trainer.identifiers import Identifiers
from dgr_trainer.index import FMIndex
from dgr_trainer.retrieval import GenerativeRetriever, SearchSettings

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:peft", "ignore:.is_gradient_checkpointing. is depr")
QUERIES = ["who discovered penicillin", "sea"]
LORA = ["q_proj", "v_proj", "q", "v"]


def lora(**settings):
    return peft.LoraConfig(
        **{"task_type": "SEQ_2_SEQ_LM", "target_modules": LORA, "init_lora_weights": False, **settings}
    )


@pytest.fixture(params=["bart", "t5"])
def base(request, tmp_path, bpe_tokenizer, unigram_tokenizer):
    """A model that was saved, and its tokenizer."""
    make, tokenizer = {"bart": (make_bart, bpe_tokenizer), "t5": (make_t5, unigram_tokenizer)}[request.param]
    make(tokenizer).save_pretrained(tmp_path / "base")
    return AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "base"), tokenizer


@pytest.fixture(scope="module")
def index_of(corpus):
    indexes = {}

    def made(tokenizer):
        if tokenizer not in indexes:
            identifiers = Identifiers(tokenizer)
            indexes[tokenizer] = identifiers, FMIndex.from_corpus(corpus, identifiers, progress=False)
        return indexes[tokenizer]

    return made


def retriever_of(model, tokenizer, index_of):
    return GenerativeRetriever(model, *index_of(tokenizer), settings=SearchSettings(beam_size=4))


def moved(model):
    """Trained, in effect: every trainable weight is somewhere else."""
    generator = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data += 0.3 * torch.randn(parameter.shape, generator=generator)
    return model


def two(model):
    model = peft.get_peft_model(model, lora(), adapter_name="first")
    model.add_adapter("second", lora(r=4, target_modules=LORA[::2]))
    return model


def with_active(names):
    def made(model):
        model = two(model)
        model.base_model.set_adapter(names)
        return model

    return made


def merged(model):
    model = two(model)
    model.merge_adapter(["first", "second"])
    return model


def disabled(model):
    model = two(model)
    model.set_adapter("second")
    model.base_model.disable_adapter_layers()
    return model


def of_different_layers(model):
    model = peft.get_peft_model(model, lora(target_modules=LORA[::2]), adapter_name="of_queries")
    model.add_adapter("of_values", lora(target_modules=LORA[1::2], modules_to_save=["lm_head"]))
    model.set_adapter("of_values")
    return model


def weighted(model):
    model = two(model)
    model.add_adapter("third", lora())
    model.add_weighted_adapter(["first", "third"], [0.3, 0.9], "combined", combination_type="linear")
    model.set_adapter("combined")
    return model


def named_like_parts(model):
    model = peft.get_peft_model(model, lora(), adapter_name="index")
    for name in ("corpus", "default", "adapters"):
        model.add_adapter(name, lora())
    model.set_adapter("corpus")
    return model


def deleted(model):
    model = two(model)
    model.set_adapter("second")
    model.delete_adapter("first")
    return model


ADAPTED = {
    "another name": (lambda model: peft.get_peft_model(model, lora(), adapter_name="french"), ["french"]),
    "the first": (with_active(["first"]), ["first"]),
    "not the first": (with_active(["second"]), ["second"]),
    "both": (with_active(["second", "first"]), ["second", "first"]),
    "disabled": (disabled, ["second"]),
    "of different layers": (of_different_layers, ["of_values"]),
    "weighted": (weighted, ["combined"]),
    "named like parts": (named_like_parts, ["corpus"]),
    "deleted": (deleted, ["second"]),
}


@pytest.mark.parametrize("kind", ADAPTED)
def test_adapters_survive_the_folder(kind, base, index_of, tmp_path, caplog):
    make, active = ADAPTED[kind]
    plain = retriever_of(base[0], base[1], index_of).search(QUERIES, k=4)
    model = moved(make(base[0])).eval()
    retriever = retriever_of(model, base[1], index_of)
    expected = retriever.search(QUERIES, k=4)
    assert (expected == plain) == (kind == "disabled")
    status, trainable = peft.get_model_status(model), {n for n, p in model.named_parameters() if p.requires_grad}
    for _ in range(2):
        retriever.save_pretrained(tmp_path / "saved")
        assert peft.get_model_status(model) == status
        assert {n for n, p in model.named_parameters() if p.requires_grad} == trainable
        assert retriever.search(QUERIES, k=4) == expected
    loaded = GenerativeRetriever.from_pretrained(tmp_path / "saved")
    assert loaded.search(QUERIES, k=4) == expected
    found = peft.get_model_status(loaded.model)
    assert found.active_adapters == status.active_adapters == active
    assert (found.available_adapters, found.enabled) == (status.available_adapters, status.enabled)
    assert loaded.model.active_adapters == active
    assert not any(parameter.requires_grad for parameter in loaded.model.parameters())
    assert "other log-probabilities" not in caplog.text
    # The folder is also one of peft, with the adapter that is active first.
    alone = peft.AutoPeftModelForSeq2SeqLM.from_pretrained(tmp_path / "saved").eval()
    if kind != "disabled":
        model.set_adapter(active[0])
        assert retriever_of(alone, base[1], index_of).search(QUERIES, k=4) == retriever.search(QUERIES, k=4)


def close(hits, expected):
    for of_query, expected_of_query in zip(hits, expected, strict=True):
        assert [hit.passage_id for hit in of_query] == [hit.passage_id for hit in expected_of_query]
        assert [hit.score for hit in of_query] == pytest.approx([hit.score for hit in expected_of_query], rel=1e-4)


def test_merged_adapters_stay_adapters(base, index_of, tmp_path):
    retriever = retriever_of(merged(base[0]), base[1], index_of)
    expected = retriever.search(QUERIES, k=4)
    retriever.save_pretrained(tmp_path / "saved")
    loaded = GenerativeRetriever.from_pretrained(tmp_path / "saved")
    close(loaded.search(QUERIES, k=4), expected)  # Not equal: merging rounds the weights.
    assert loaded.model.active_adapters == ["first", "second"]


def test_layers_with_different_adapters_are_refused(base, index_of, tmp_path):
    model = two(base[0])
    model.merge_adapter(["second"])  # The layers that it does not have keep the first.
    with pytest.raises(ValueError, match="layers of the model differ in which of the adapters first, second act"):
        retriever_of(model, base[1], index_of).save_pretrained(tmp_path / "saved")
    assert not (tmp_path / "saved").exists()


KINDS = {
    "shared": lora(target_modules=[*LORA, "shared"]),
    "embed_tokens": lora(target_modules=[*LORA, "embed_tokens"]),
    "lm_head": lora(target_modules=[*LORA, "lm_head"]),
    "parameter": lora(target_parameters=["shared.weight", "embed_tokens.weight"], init_lora_weights=True),
    "saved shared": lora(modules_to_save=["shared"]),
    "saved embed_tokens": lora(modules_to_save=["embed_tokens"]),
    "tokens": lora(trainable_token_indices=list(range(5, 300))),
    "dora": lora(use_dora=True),
    "rslora": lora(use_rslora=True, r=4, rank_pattern={"q": 2}),
    "ia3": peft.IA3Config(target_modules=LORA, feedforward_modules=[]),
    "oft": peft.OFTConfig(target_modules=LORA, oft_block_size=4, r=0),
    "boft": peft.BOFTConfig(target_modules=LORA, boft_block_size=4),
    "loha": peft.LoHaConfig(target_modules=LORA),
    "lokr": peft.LoKrConfig(target_modules=LORA),
    "adalora": peft.AdaLoraConfig(target_modules=LORA, total_step=10),
    "vera": peft.VeraConfig(target_modules=LORA),
    "fourier": peft.FourierFTConfig(target_modules=LORA, n_frequency=10),
    "hra": peft.HRAConfig(target_modules=LORA),
    "vblora": peft.VBLoRAConfig(target_modules=LORA, num_vectors=8, vector_length=4),
    "norms": peft.LNTuningConfig(target_modules=["final_layer_norm", "layer_norm"]),
    "miss": peft.MissConfig(target_modules=LORA, r=8),
    "randlora": peft.RandLoraConfig(target_modules=LORA),
    "c3a": peft.C3AConfig(target_modules=LORA, block_size=4),
    "road": peft.RoadConfig(target_modules=LORA, group_size=4),
    "shira": peft.ShiraConfig(target_modules=LORA, r=4),
    "waveft": peft.WaveFTConfig(target_modules=LORA, n_frequency=10),
    "delora": peft.DeloraConfig(target_modules=LORA),
    "gralora": peft.GraloraConfig(target_modules=LORA),
    "trainable tokens": peft.TrainableTokensConfig(token_indices=list(range(5, 300)), target_modules=["embed_tokens"]),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_adapter_survives_the_folder(kind, base, index_of, tmp_path):
    plain = retriever_of(base[0], base[1], index_of).search(QUERIES, k=4)
    retriever = retriever_of(moved(peft.get_peft_model(base[0], KINDS[kind])).eval(), base[1], index_of)
    expected = retriever.search(QUERIES, k=4)
    assert expected != plain
    retriever.save_pretrained(tmp_path / "saved")
    assert GenerativeRetriever.from_pretrained(tmp_path / "saved").search(QUERIES, k=4) == expected


@pytest.mark.parametrize(
    "settings", [{}, {"trainable_token_indices": [5]}, {"target_modules": [*LORA, "embed_tokens"]}]
)
def test_embeddings_of_added_tokens_survive(settings, base, index_of, tmp_path):
    """The base model on the disk does not have them."""
    model, tokenizer = base
    model.resize_token_embeddings(len(tokenizer) + 3)
    retriever = retriever_of(moved(peft.get_peft_model(model, lora(**settings))).eval(), tokenizer, index_of)
    expected = retriever.search(QUERIES, k=4)
    added = retriever.model.get_input_embeddings().weight[-3:]
    retriever.save_pretrained(tmp_path / "saved")
    loaded = GenerativeRetriever.from_pretrained(tmp_path / "saved")
    assert loaded.search(QUERIES, k=4) == expected
    assert torch.equal(loaded.model.get_input_embeddings().weight[-3:], added)


def test_an_adapter_that_was_trained(bpe_tokenizer, index_of, tmp_path):
    make_bart(bpe_tokenizer).save_pretrained(tmp_path / "base")
    model = two(AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "base"))
    model.set_adapter("second")
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    make_trainer(tmp_path / "run", bpe_tokenizer, model=model, max_steps=1, learning_rate=0.1).train()
    changed = {name for name, weight in model.state_dict().items() if not torch.equal(weight, before[name])}
    assert changed and all(".second." in name for name in changed)
    retriever = retriever_of(model, bpe_tokenizer, index_of)
    expected = retriever.search(QUERIES, k=4)
    retriever.save_pretrained(tmp_path / "saved")
    loaded = GenerativeRetriever.from_pretrained(tmp_path / "saved")
    assert loaded.search(QUERIES, k=4) == expected and loaded.model.active_adapters == ["second"]


@pytest.mark.parametrize("change", ["base model", "scale"])
def test_what_the_folder_does_not_hold_is_noticed(change, base, index_of, tmp_path, caplog):
    model = peft.get_peft_model(base[0], lora()).eval()
    if change == "scale":
        for module in model.modules():
            if hasattr(module, "scale_layer"):
                module.scale_layer(0.1)
    else:
        with torch.no_grad():
            for parameter in model.get_base_model().parameters():
                parameter += 0.1 * torch.randn_like(parameter)
    retriever_of(model, base[1], index_of).save_pretrained(tmp_path / "saved")
    GenerativeRetriever.from_pretrained(tmp_path / "saved")
    assert "gives other log-probabilities than when it was saved" in caplog.text


def test_adapters_of_several_kinds_are_refused(base, index_of, tmp_path):
    model = peft.get_peft_model(base[0], lora(), mixed=True)
    with pytest.raises(ValueError, match="peft cannot save a PeftMixedModel"):
        retriever_of(model, base[1], index_of).save_pretrained(tmp_path / "saved")
    assert not (tmp_path / "saved").exists()


def test_a_folder_without_a_description_of_its_adapter(base, index_of, tmp_path):
    """As folders of earlier versions are."""
    retriever = retriever_of(peft.get_peft_model(base[0], lora()).eval(), base[1], index_of)
    retriever.save_pretrained(tmp_path / "saved")
    description = json.loads((tmp_path / "saved" / "retriever.json").read_text())
    del description["adapters"]
    (tmp_path / "saved" / "retriever.json").write_text(json.dumps(description))
    loaded = GenerativeRetriever.from_pretrained(tmp_path / "saved")
    assert loaded.search(QUERIES, k=4) == retriever.search(QUERIES, k=4)


@pytest.fixture
def saved(base, index_of, tmp_path):
    model = two(base[0])
    retriever_of(model, base[1], index_of).save_pretrained(tmp_path / "saved")
    return tmp_path / "saved"


@pytest.mark.parametrize("file", ["adapter_model.safetensors", "adapters/second/adapter_model.safetensors"])
def test_missing_weights_of_an_adapter_are_named(saved, file):
    weights = load_file(saved / file)
    missing = sorted(weights)[1]
    save_file({name: weight for name, weight in weights.items() if name != missing}, saved / file)
    with pytest.raises(ValueError, match=rf"{file} lacks 1 weights of the adapter .*, such as {missing}"):
        GenerativeRetriever.from_pretrained(saved)


def test_a_missing_adapter_is_an_error(saved):
    shutil.rmtree(saved / "adapters" / "second")
    with pytest.raises(ValueError, match="The model at .* cannot be loaded.*second"):
        GenerativeRetriever.from_pretrained(saved)


def test_a_base_model_with_adapters_is_refused(saved, base):
    with pytest.raises(ValueError, match="base model has adapters already"):
        GenerativeRetriever.from_pretrained(saved, base_model=base[0])  # The adapters were put into it.


def test_names_that_cannot_be_folders_are_refused(base, index_of, tmp_path):
    model = peft.get_peft_model(base[0], lora(), adapter_name="langues/french")
    with pytest.raises(ValueError, match="The adapter .langues/french. cannot be saved"):
        retriever_of(model, base[1], index_of).save_pretrained(tmp_path / "saved")


def test_an_adapter_that_peft_would_not_load_is_refused_when_it_is_saved(bpe_tokenizer, index_of, tmp_path):
    make_bart(bpe_tokenizer).save_pretrained(tmp_path / "base")
    model = AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "base")
    model = peft.get_peft_model(model, peft.IA3Config(target_modules=["q_proj"]))  # peft adds feedforward_modules.
    with pytest.raises(ValueError, match="adapter 'default' cannot be saved: peft would not load its configuration"):
        retriever_of(model, bpe_tokenizer, index_of).save_pretrained(tmp_path / "saved")
    assert not (tmp_path / "saved").exists()
