"""Teachers whose scores would depend on random weights are refused; what they do not use may be missing."""

import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from teachers.reranker_models import save_causal_lm, save_cross_encoder, save_seq2seq, word_tokenizer
from tiny_models import plain_tokenizer
from transformers import (
    AutoModelForSequenceClassification,
    BertConfig,
    BertForMaskedLM,
    BertForSequenceClassification,
    BertModel,
    GPT2Config,
    GPT2ForSequenceClassification,
    GPT2Model,
    LlamaConfig,
    LlamaForSequenceClassification,
    LlamaModel,
    T5Config,
    T5EncoderModel,
)

from dgr_trainer.data.corpus import Corpus
from dgr_trainer.data.passages import Passage
from dgr_trainer.query_generation import PseudoQueryGenerator
from dgr_trainer.runs.rankings import Rankings
from dgr_trainer.teachers import BiEncoderTeacher, CausalLMTeacher, CrossEncoderTeacher, Seq2SeqTeacher

CORPUS = Corpus.from_passages([Passage(f"p{n}", "Nile", "river " * (3 * n + 1)) for n in range(5)])
CANDIDATES = Rankings({"q": dict.fromkeys(CORPUS.ids, 0.0)})


def bert(kind, folder, **settings):
    torch.manual_seed(0)
    tokenizer = plain_tokenizer()
    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=64, initializer_range=0.5, pad_token_id=0,
    )  # fmt: skip
    kind(config, **settings).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("kind", [BertModel, BertForMaskedLM])
def test_a_cross_encoder_without_its_head(kind, tmp_path):
    with pytest.raises(ValueError, match=r"are missing: .*classifier.*random weights there\. The files are of a Bert"):
        CrossEncoderTeacher(bert(kind, tmp_path), CORPUS)


def test_a_cross_encoder_with_more_labels_than_asked_for(tmp_path):
    save_cross_encoder(tmp_path, labels=2)
    for ignored in ({}, {"ignore_mismatched_sizes": True}):
        with pytest.raises(ValueError, match=r"another shape \(classifier.bias: \(2,\) in the file, \(1,\) in"):
            CrossEncoderTeacher(tmp_path, CORPUS, model_kwargs={"num_labels": 1, **ignored})


def test_a_causal_model_without_its_head(tmp_path):
    save_causal_lm(tmp_path, "llama")
    config = LlamaConfig.from_pretrained(tmp_path)
    LlamaModel(config).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"are missing: lm_head\.weight"):
        CausalLMTeacher(tmp_path, CORPUS, prompt="monot5")
    config.tie_word_embeddings = True
    LlamaModel(config).save_pretrained(tmp_path)
    CausalLMTeacher(tmp_path, CORPUS, prompt="monot5")


def test_a_classifier_as_a_causal_model(tmp_path):
    save_causal_lm(tmp_path, "llama")
    config = LlamaConfig.from_pretrained(tmp_path, tie_word_embeddings=True, num_labels=1)
    LlamaForSequenceClassification(config).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"is a LlamaForSequenceClassification: as a LlamaForCausalLM its head"):
        CausalLMTeacher(tmp_path, CORPUS, prompt="monot5")


def test_an_encoder_as_a_sequence_to_sequence_model(tmp_path):
    save_seq2seq(tmp_path)
    T5EncoderModel(T5Config.from_pretrained(tmp_path)).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"are missing: decoder\.block\.0"):
        Seq2SeqTeacher(tmp_path, CORPUS)
    with pytest.raises(ValueError, match=r"are missing: decoder\.block\.0"):
        PseudoQueryGenerator(tmp_path)


def test_an_answering_model_without_a_start_token(tmp_path):
    save_seq2seq(tmp_path)
    for file in ("config.json", "generation_config.json"):
        content = json.loads((tmp_path / file).read_text())
        content.pop("decoder_start_token_id", None)
        (tmp_path / file).write_text(json.dumps(content))
    with pytest.raises(ValueError, match="has no decoder_start_token_id"):
        Seq2SeqTeacher(tmp_path, CORPUS)


class TestBiEncoder:
    @pytest.fixture(autouse=True)
    def _sentence_transformers(self):
        self.st = pytest.importorskip("sentence_transformers", reason="needs the extra bi-encoder")

    def make(self, folder):
        return BiEncoderTeacher(folder, CORPUS, progress=False, device="cpu")

    def scores(self, folder, seed):
        torch.manual_seed(seed)
        return self.make(folder).rank({"q": "sea"}, CANDIDATES)["q"].scores.tolist()

    @pytest.mark.parametrize("settings", [{}, {"add_pooling_layer": False}])
    def test_a_pooling_layer_that_is_not_used_may_be_missing(self, settings, tmp_path):
        bert(BertModel, tmp_path, **settings)
        assert self.scores(tmp_path, 0) == self.scores(tmp_path, 1)

    def test_a_classifier_is_refused(self, tmp_path):
        with pytest.raises(ValueError, match=r"is a BertForSequenceClassification: as a BertModel its head"):
            self.make(bert(BertForSequenceClassification, tmp_path))

    @pytest.mark.parametrize("old_layout", [False, True])
    def test_weights_of_a_model_of_sentence_transformers(self, old_layout, tmp_path):
        from sentence_transformers.sentence_transformer.modules import Dense, Pooling, Transformer

        bert(BertModel, tmp_path / "bert")
        modules = [Transformer(str(tmp_path / "bert")), Pooling(16, pooling_mode="cls"), Dense(16, 8)]
        model = self.st.SentenceTransformer(modules=modules, device="cpu")
        model.save(str(tmp_path / "st"))
        folder = tmp_path / "st"
        if old_layout:
            (folder / "0_Transformer").mkdir()
            for name in ("model.safetensors", "config.json", "tokenizer.json", "tokenizer_config.json"):
                shutil.move(folder / name, folder / "0_Transformer" / name)
            listed = json.loads((folder / "modules.json").read_text())
            listed[0]["path"] = "0_Transformer"
            (folder / "modules.json").write_text(json.dumps(listed))
        assert self.scores(folder, 0) == self.scores(folder, 1)
        file = folder / ("0_Transformer" if old_layout else "") / "model.safetensors"
        weights = load_file(file)
        del weights["encoder.layer.1.output.dense.weight"]
        save_file(weights, file, metadata={"format": "pt"})
        with pytest.raises(ValueError, match=r"are missing: encoder\.layer\.1\.output\.dense\.weight"):
            self.make(folder)

    def test_a_tokenizer_without_padding(self, tmp_path):
        torch.manual_seed(0)
        tokenizer = word_tokenizer(bos=False, eos=False)
        tokenizer.pad_token = None
        config = GPT2Config(vocab_size=len(tokenizer), n_embd=16, n_layer=2, n_head=2, n_positions=64)
        GPT2Model(config).save_pretrained(tmp_path)
        tokenizer.save_pretrained(tmp_path)
        together = self.make(tmp_path).passage_vectors
        one_by_one = self.make(tmp_path)
        one_by_one.batch_size = 1
        assert np.allclose(together, one_by_one.passage_vectors, atol=1e-5)


PADDING = {"in both": ("<pad>", 0), "only in the tokenizer": ("<pad>", None), "only in the model": (None, 0),
           "in neither": (None, None), "another in each": ("<unk>", 0)}  # fmt: skip


@pytest.mark.parametrize("padding", PADDING)
@pytest.mark.parametrize("family", ["gpt2", "llama", "bert"])
def test_classifiers_score_in_batches_as_one_by_one(family, padding, tmp_path):
    """GPT-2 and Llama score at the last token before the padding, which they know from their configuration."""
    torch.manual_seed(0)
    of_tokenizer, of_model = PADDING[padding]
    tokenizer = word_tokenizer(bos=False, eos=False)
    tokenizer.pad_token = of_tokenizer
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
             "vocab_size": len(tokenizer), "num_labels": 1, "pad_token_id": of_model}  # fmt: skip
    if family == "gpt2":
        config = GPT2Config(
            vocab_size=len(tokenizer), n_embd=16, n_layer=2, n_head=2, n_positions=128, num_labels=1,
            initializer_range=0.5, pad_token_id=of_model,
        )  # fmt: skip
        model = GPT2ForSequenceClassification(config)
    elif family == "llama":
        model = LlamaForSequenceClassification(LlamaConfig(**sizes, num_key_value_heads=1, initializer_range=0.5))
    else:
        model = BertForSequenceClassification(BertConfig(**sizes, initializer_range=0.5))
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    teacher = CrossEncoderTeacher(tmp_path, CORPUS, passage_template="{text}", progress=False)
    found = dict(zip(*teacher.rank({"q": "Nile"}, CANDIDATES)["q"], strict=True))
    alone = AutoModelForSequenceClassification.from_pretrained(tmp_path).eval()
    assert len(set(found.values())) == len(CORPUS)
    for passage in CORPUS:
        with torch.no_grad():
            logit = alone(**tokenizer("Nile", passage.text, return_tensors="pt")).logits[0, 0]
        assert found[passage.id] == pytest.approx(logit.item(), rel=1e-4, abs=1e-5)
