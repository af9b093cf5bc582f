import shutil

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from teachers.reranker_models import save_causal_lm, save_cross_encoder, save_seq2seq, word_tokenizer
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM

from dgr_trainer import CausalLMTeacher, CrossEncoderTeacher, Seq2SeqTeacher
from dgr_trainer.data.corpus import Corpus
from dgr_trainer.data.passages import Passage
from dgr_trainer.errors import DGRError
from dgr_trainer.runs.rankings import Rankings
from dgr_trainer.teachers.prompts import BGE_RERANKER_GEMMA, MONOT5, QWEN3_RERANKER, Prompt, PromptTokens


@pytest.fixture(scope="module")
def seq2seq(tmp_path_factory):
    return save_seq2seq(tmp_path_factory.mktemp("t5"))


@pytest.fixture(scope="module")
def causal(tmp_path_factory):
    return {kind: save_causal_lm(tmp_path_factory.mktemp(kind), kind) for kind in ("qwen3", "llama", "gpt2")}


@pytest.fixture(scope="module")
def candidates(queries, corpus):
    ids = list(corpus.ids)
    return Rankings({id: dict.fromkeys(ids[row : row + 5], 0.0) for row, id in enumerate(queries["query_id"])})


def pairs_of(rankings, queries, corpus):
    texts = dict(zip(queries["query_id"], queries["query"], strict=True))
    for query_id in rankings:
        for passage_id, score in zip(*rankings[query_id], strict=True):
            yield texts[query_id], corpus.get(passage_id), score


def test_monot5_scores_by_true_against_false(seq2seq, corpus, queries, candidates):
    found = Seq2SeqTeacher(seq2seq, corpus, progress=False).rank(queries, candidates)
    model, tokenizer = AutoModelForSeq2SeqLM.from_pretrained(seq2seq).eval(), word_tokenizer(bos=False, eos=True)
    true, false = tokenizer.convert_tokens_to_ids(["true", "false"])
    for query, passage, score in pairs_of(found, queries, corpus):
        text = f"Query: {query} Document: {passage.title}: {passage.text} Relevant:"
        with torch.no_grad():
            inputs = tokenizer(text, return_tensors="pt", return_token_type_ids=False)
            logits = model(**inputs, decoder_input_ids=torch.tensor([[0]])).logits[0, 0]
        assert score == pytest.approx((logits[true] - logits[false]).item(), rel=1e-3, abs=1e-3)


@pytest.mark.parametrize(
    ("kind", "prompt"), [("qwen3", "qwen3-reranker"), ("llama", "bge-reranker-gemma"), ("gpt2", "qwen3-reranker")]
)
def test_causal_models_score_by_the_answer_that_would_follow(causal, corpus, queries, candidates, kind, prompt):
    found = CausalLMTeacher(causal[kind], corpus, prompt, batch_tokens=2000, progress=False).rank(queries, candidates)
    model, tokenizer = (
        AutoModelForCausalLM.from_pretrained(causal[kind]).eval(),
        word_tokenizer(kind == "llama", False),
    )
    for query, passage, score in list(pairs_of(found, queries, corpus))[::3]:
        document = f"{passage.title}: {passage.text}"
        if prompt == "qwen3-reranker":
            text = "".join(QWEN3_RERANKER.segments).format(query=query, passage=document)
        else:
            text = f"A: {query}\nB: {document}\n{BGE_RERANKER_GEMMA.segments[-1]}"
        with torch.no_grad():
            logits = model(tokenizer(text, return_tensors="pt")["input_ids"]).logits[0, -1]
        yes, no, capital = tokenizer.convert_tokens_to_ids(["yes", "no", "Yes"])
        expected = logits[yes] - logits[no] if prompt == "qwen3-reranker" else logits[capital]
        assert score == pytest.approx(expected.item(), rel=1e-3, abs=1e-3)


def test_the_passage_is_cut_and_the_question_never(causal):
    prompt = Prompt(("Query: {query}", "Document: {text}", "Relevant yes no"), yes="yes", no="no")
    tokenizer = word_tokenizer(bos=True, eos=True)
    tokens = PromptTokens(tokenizer, prompt, 20, "m", ends=False)
    (whole,) = tokens([("a b", Passage("p", text="c d"))])
    assert tokenizer.convert_ids_to_tokens(whole.tolist()) == "<s> Query : a b Document : c d Relevant yes no".split()
    (cut,) = tokens([("a b", Passage("p", text="c " * 50))])
    assert tokenizer.convert_ids_to_tokens(cut.tolist()) == (
        "<s> Query : a b Document :".split() + ["c"] * 10 + "Relevant yes no".split()
    )
    # A query that leaves no room gives the passage a quarter of it.
    (both,) = tokens([("a " * 50, Passage("p", text="c " * 50))])
    assert tokenizer.convert_ids_to_tokens(both.tolist()) == (
        "<s> Query :".split() + ["a"] * 10 + "Document : c c".split() + "Relevant yes no".split()
    )
    (ended,) = PromptTokens(tokenizer, prompt, 20, "m", ends=True)([("a", Passage("p", text="c " * 50))])
    assert len(ended) == 20 and tokenizer.convert_ids_to_tokens(ended.tolist())[-2:] == ["no", "</s>"]


def decoded(prompt, max_length, query, text, ends=False):
    tokenizer = word_tokenizer(bos=False, eos=ends)
    (ids,) = PromptTokens(tokenizer, prompt, max_length, "m", ends=ends)([(query, Passage("p", text=text))])
    return tokenizer.convert_ids_to_tokens(ids.tolist())


def test_a_query_that_occurs_twice_is_cut_in_both_places_and_the_text_after_it_is_kept():
    prompt = Prompt(("Query {query}", "Document {text}", "Relevant {query} yes no"), yes="yes", no="no")
    assert decoded(prompt, 25, "a " * 50, "c " * 50) == [
        *["Query", *"a" * 7, "Document", *"c" * 6],
        *["Relevant", *"a" * 7, "yes", "no"],
    ]  # fmt: skip
    # Short queries are whole, and the passage alone is cut.
    assert decoded(prompt, 25, "a b", "c " * 50) == [
        *["Query", "a", "b", "Document", *"c" * 16],
        *["Relevant", "a", "b", "yes", "no"],
    ]  # fmt: skip


def test_a_query_in_the_segment_of_the_passage_leaves_room_for_it():
    found = decoded(MONOT5, 30, "a " * 100, "c " * 50)
    assert len(found) == 30 and 5 <= found.count("c") < found.count("a") and found[-2:] == ["Relevant", ":"]


@given(
    st.lists(st.sampled_from(["{query}", "{query} yes", "no {query} no", "Relevant", "Query {query!s}"]), max_size=4),
    st.sampled_from(["{passage}", "Document {text:.40}", "{query} {title} {text} no", "{text!s} {query}"]),
    st.integers(0, 4),
    st.integers(0, 60),
    st.integers(0, 60),
    st.integers(1, 40),
    st.booleans(),
)
def test_inputs_are_never_too_long(segments, passage, place, words, passage_words, room, ends):
    segments = [*segments[:place], passage, *segments[place:]]
    if not any("{query" in segment for segment in segments):
        segments = ["{query}", *segments]
    prompt = Prompt(tuple(segments), yes="yes", no="no")
    tokenizer = word_tokenizer(bos=True, eos=True)
    with pytest.raises(ValueError, match="alone has") as raised:
        PromptTokens(tokenizer, prompt, 0, "m", ends=ends)
    alone = int(str(raised.value).split("alone has ")[1].split()[0])
    tokens = PromptTokens(tokenizer, prompt, alone + room, "m", ends=ends)
    (ids,) = tokens([("a " * words, Passage("p", "t", "c " * passage_words))])
    assert len(ids) <= alone + room
    found = tokenizer.convert_ids_to_tokens(ids.tolist())
    fixed = " ".join(segments)
    for word in ("yes", "Relevant"):
        assert found.count(word) == fixed.split().count(word)
    if passage == "{passage}":
        assert "t" in found  # Its first token is always read.


def test_fields_may_have_formats(causal, corpus):
    prompt = Prompt(("Query: {query!s}", "Document: {text:.5}", "Relevant yes no"), yes="yes", no="no")
    assert prompt.passage_segment == 1
    assert decoded(prompt, 40, "a", "cdefghij") == decoded(prompt, 40, "a", "cdefg")
    found = CausalLMTeacher(causal["qwen3"], corpus, prompt, progress=False).rank(
        {"q": "a"}, Rankings({"q": {"p01": 0.0}})
    )
    assert len(found["q"].scores) == 1


@pytest.mark.parametrize("field", ["{text:d}", "{text:{width}}", "{text!x}"])
def test_formats_that_texts_do_not_take_are_refused(field):
    with pytest.raises(ValueError, match="a segment of the prompt .* is not a template: "):
        Prompt(("Query: {query}", field), yes="yes")


def test_models_of_another_kind_are_errors_of_the_input(seq2seq, causal, corpus, tmp_path):
    encoder = save_cross_encoder(tmp_path / "encoder")
    damaged = shutil.copytree(encoder, tmp_path / "damaged")
    (damaged / "config.json").write_text('{"model_type": "unheard-of"}')
    for teacher, model in (
        (Seq2SeqTeacher, encoder),
        (Seq2SeqTeacher, causal["qwen3"]),
        (CausalLMTeacher, seq2seq),
    ):
        with pytest.raises(DGRError, match=r"is not a model that AutoModelFor\w+LM loads, or its files are damaged: "):
            teacher(model, corpus)
    for teacher in (Seq2SeqTeacher, CausalLMTeacher, CrossEncoderTeacher):
        with pytest.raises(DGRError, match="cannot be loaded: |files are damaged: "):
            teacher(damaged, corpus)


def test_a_cache_serves_and_another_prompt_is_another_model(
    seq2seq, corpus, queries, candidates, tmp_path, monkeypatch
):
    teacher = Seq2SeqTeacher(seq2seq, corpus, cache=tmp_path, progress=False)
    found = teacher.rank(queries, candidates)
    monkeypatch.setattr(teacher, "score", None)
    assert teacher.rank(queries, candidates) == found
    prompt = Prompt(MONOT5.segments, yes="yes", no="no")
    other = Seq2SeqTeacher(seq2seq, corpus, prompt, cache=tmp_path, progress=False)
    assert other.rank(queries, candidates) != found
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"prompt": "gpt"},
            "There is no prompt 'gpt'. The named prompts are monot5, qwen3-reranker, bge",
        ),
        ({"max_length": 6}, r"max_length is 6, but the prompt of .* alone has \d+ tokens. Give a larger max_length"),
        ({"prompt": Prompt(MONOT5.segments, yes="relevant")}, r"The answer 'relevant' is the tokens \['r', '##e', "),
        ({"prompt": Prompt(MONOT5.segments, yes="é")}, r"The answer 'é' is the tokens \['<unk>'\]"),
        ({"dtype": "int8"}, "dtype is 'int8'"),
        ({"batch_tokens": 0}, "batch_tokens is 0"),
        ({"max_length": 0}, "max_length is 0"),
    ],
)
def test_bad_settings_are_refused(causal, corpus, settings, message):
    with pytest.raises(ValueError, match=message):
        CausalLMTeacher(causal["qwen3"], corpus, **{"prompt": MONOT5, **settings})


def test_a_model_of_positions_has_an_end(causal, corpus):
    with pytest.raises(ValueError, match="max_length is 2000, but .* has positions for 1024 tokens"):
        CausalLMTeacher(causal["gpt2"], corpus, max_length=2000)
    assert CausalLMTeacher(causal["gpt2"], corpus, max_length=None).max_length == 1024


@pytest.mark.slow
def test_compiled_models_score_the_same(causal, corpus, queries, candidates):
    plain = CausalLMTeacher(causal["llama"], corpus, progress=False).rank(queries, candidates)
    compiled = CausalLMTeacher(causal["llama"], corpus, compile=True, progress=False).rank(queries, candidates)
    for query_id in plain:
        found = dict(zip(*compiled[query_id], strict=True))
        assert found == pytest.approx(dict(zip(*plain[query_id], strict=True)), rel=1e-3, abs=1e-3)


def test_bfloat16_is_close(causal, corpus, queries, candidates):
    plain = CausalLMTeacher(causal["llama"], corpus, progress=False).rank(queries, candidates)
    teacher = CausalLMTeacher(causal["llama"], corpus, dtype="bfloat16", progress=False)
    assert {parameter.dtype for parameter in teacher.model.parameters()} == {torch.bfloat16}
    rough = teacher.rank(queries, candidates)
    values = torch.tensor([score for _, _, score in pairs_of(plain, queries, corpus)])
    again = {(q, p.id): score for q, p, score in pairs_of(rough, queries, corpus)}
    errors = torch.tensor([again[q, p.id] - score for q, p, score in pairs_of(plain, queries, corpus)])
    assert 0 < errors.abs().mean() < 0.2 * values.std()


def test_surrogates_do_not_stop_it(seq2seq):
    corpus = Corpus.from_passages([Passage("p", text="a lone word")])
    assert (
        len(Seq2SeqTeacher(seq2seq, corpus, progress=False).rank({"q": "x"}, Rankings({"q": {"p": 1.0}}))["q"].scores)
        == 1
    )
