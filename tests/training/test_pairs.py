"""Generation pairs: what a student learns to generate, from judged queries and from passages alone."""

import logging
import unicodedata
from dataclasses import replace

import pytest
from languages import KINDS, LANGUAGES, UNSPACED, passages_in, tokenizer_for
from transformers import DataCollatorForSeq2Seq, Seq2SeqTrainer, Seq2SeqTrainingArguments

from dgr_trainer.data.corpus import Corpus
from dgr_trainer.data.passages import Passage
from dgr_trainer.identifiers import VIEWS, Identifiers, IdentifierSettings
from dgr_trainer.index import FMIndex
from dgr_trainer.training.pairs import generation_pairs


def pairs_of(dataset, tokenizer):
    """(prompt text, target text) of each pair, special tokens left out."""
    return [
        (
            tokenizer.decode(row["input_ids"], skip_special_tokens=True).strip(),
            tokenizer.decode(row["labels"], skip_special_tokens=True).strip(),
        )
        for row in dataset
    ]


def test_pairs_from_a_query(bpe_tokenizer, corpus, queries, qrels):
    identifiers = Identifiers(bpe_tokenizer)
    only = {"q07": qrels["q07"]}
    dataset = generation_pairs(
        corpus,
        identifiers,
        {"q07": queries["query"][6]},
        only,
        titles_per_query=2,
        substrings_per_query=4,
        pseudo_queries_per_query=5,
        samples_per_passage=0,
        progress=False,
    )
    pairs = pairs_of(dataset, bpe_tokenizer)
    question = "who made the steam engine more efficient"
    titles = [target for prompt, target in pairs if prompt == f"{question} || title || +"]
    assert titles == ["Steam engine @@"] * 2 + ["James Watt @@"] * 2
    pseudo_queries = [target for prompt, target in pairs if prompt == f"{question} || query || +"]
    assert pseudo_queries == ["who improved the steam engine @@", "unit of power named for an engineer @@"]
    bodies = {passage_id: corpus.get(passage_id).text for passage_id in only["q07"]}
    substrings = [target for prompt, target in pairs if prompt == f"{question} || body || +"]
    assert len(substrings) == 8
    assert all(any(f" {s}" in f" {body}" for body in bodies.values()) for s in substrings)
    assert len(pairs) == 4 + 2 + 8
    assert all(row["labels"][-1] == identifiers.eos_token_id for row in dataset)


def test_substrings_start_near_the_words_of_the_query(bpe_tokenizer):
    words = [f"word{i}" for i in range(60)]
    words[40:43] = ["molten", "rock", "surface"]
    corpus = Corpus.from_passages([Passage("p", "", " ".join(words))])
    settings = IdentifierSettings(views=("substring",))
    arguments = {"queries": {"q": "molten rock surface"}, "qrels": {"q": {"p": 1}}, "samples_per_passage": 0}
    identifiers = Identifiers(bpe_tokenizer, settings)
    dataset = generation_pairs(
        corpus, identifiers, substrings_per_query=400, temperature=0.3, progress=False, **arguments
    )
    starts = [target.split()[0] for _, target in pairs_of(dataset, bpe_tokenizer)]
    even = generation_pairs(
        corpus, identifiers, substrings_per_query=400, temperature=1e6, progress=False, **arguments
    )
    even_starts = [target.split()[0] for _, target in pairs_of(even, bpe_tokenizer)]
    assert starts.count("molten") > 3 * even_starts.count("molten")


def test_pairs_from_passages_alone(tokenizer, corpus):
    identifiers = Identifiers(tokenizer, IdentifierSettings(views=VIEWS))
    corpus = Corpus.from_passages(replace(passage, docid=passage.title) for passage in corpus)
    dataset = generation_pairs(corpus, identifiers, samples_per_passage=2, progress=False)
    # Zebras have no pseudo-query; a passage whose only pseudo-query plays the query has none left to generate.
    assert 24 * 2 * 3 <= len(dataset) <= 24 * 2 * 4
    index = {tuple(identifiers.pattern("title", identifiers.target("title", s.title))) for s in
             identifiers.encode_segments([corpus[i] for i in range(len(corpus))])}  # fmt: skip
    one, other = identifiers.encode_prompts(["ice", "river"], "title")
    tail = one[-next(n for n in range(1, len(one)) if one[-1 - n] != other[-1 - n]) :]
    titles = [row["labels"][:-1] for row in dataset if row["input_ids"][-len(tail) :] == tail]
    assert len(titles) == 48
    assert all(tuple(identifiers.pattern("title", title)) in index for title in titles)


def test_equal_seeds_give_equal_pairs_whatever_the_order(bpe_tokenizer, corpus, queries, qrels):
    identifiers = Identifiers(bpe_tokenizer)
    mapping = dict(zip(queries["query_id"], queries["query"], strict=True))
    backwards = dict(reversed(mapping.items()))
    first = generation_pairs(corpus, identifiers, mapping, qrels, seed=3, progress=False)
    again = generation_pairs(corpus, identifiers, backwards, dict(reversed(qrels.items())), seed=3, progress=False)
    other = generation_pairs(corpus, identifiers, mapping, qrels, seed=4, progress=False)
    assert first.to_dict() == again.to_dict()
    assert first.to_dict() != other.to_dict()


def test_docid_pairs_are_ordinary_seq2seq_targets(bpe_tokenizer, corpus):
    identifiers = Identifiers(bpe_tokenizer, IdentifierSettings(views=("docid",)))
    dataset = generation_pairs(corpus, identifiers, {"q": "highest"}, {"q": {"p01": 1}}, titles_per_query=1,
                               samples_per_passage=0, progress=False)  # fmt: skip
    assert dataset[0] == {"input_ids": bpe_tokenizer("highest")["input_ids"],
                          "labels": [*bpe_tokenizer("p01", add_special_tokens=False)["input_ids"], 2]}  # fmt: skip


def test_judgements_outside_the_corpus_are_counted(bpe_identifiers, corpus, caplog):
    with caplog.at_level(logging.WARNING):
        generation_pairs(corpus, bpe_identifiers, {"q": "a"}, {"q": {"p01": 1, "nowhere": 1}}, progress=False)
    assert "1 judged passages are not in the corpus" in caplog.text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"titles_per_query": -1}, "Counts must not be negative"),
        ({"substring_words": 0}, "substring_words at least 1"),
        ({"temperature": 0.0}, "temperature above 0"),
        ({"queries": {"q": "a"}}, "queries and qrels go together"),
        ({"samples_per_passage": 0}, "No generation pair could be made"),
        ({"queries": {"q": "a"}, "qrels": {"q": {"p01": 0}}, "samples_per_passage": 0}, "No generation pair"),
    ],
)
def test_bad_arguments(bpe_identifiers, corpus, arguments, message):
    with pytest.raises(ValueError, match=message):
        generation_pairs(corpus, bpe_identifiers, progress=False, **arguments)


def test_trains_with_the_plain_trainer(bart, corpus, queries, qrels, tmp_path):
    model, tokenizer = bart
    dataset = generation_pairs(corpus, Identifiers(tokenizer), queries, qrels, progress=False)
    trainer = Seq2SeqTrainer(
        model=model,
        args=Seq2SeqTrainingArguments(
            output_dir=str(tmp_path), max_steps=30, per_device_train_batch_size=16, learning_rate=3e-3,
            logging_steps=10, report_to=[], use_cpu=True, disable_tqdm=True, save_strategy="no",
        ),
        train_dataset=dataset,
        data_collator=DataCollatorForSeq2Seq(tokenizer, model=model),
    )  # fmt: skip
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("language", LANGUAGES)
def test_substrings_in_other_languages(language, kind):
    """A substring is a phrase of the passage in any script, and so is a piece of a passage that plays the query."""
    tokenizer = tokenizer_for(language, kind)
    identifiers = Identifiers(tokenizer, IdentifierSettings(views=("substring",)))
    corpus = Corpus.from_passages(passages_in(language))
    index = FMIndex.from_corpus(corpus, identifiers, progress=False)
    queries = {f"q{n}": passage.title for n, passage in enumerate(corpus)}
    qrels = {f"q{n}": {passage.id: 1} for n, passage in enumerate(corpus)}
    dataset = generation_pairs(corpus, identifiers, queries, qrels, progress=False)
    lengths = [len(row["labels"]) - 1 for row in dataset]
    bodies = [len(segments.body) for segments in identifiers.encode_segments(list(corpus))]
    for row in dataset:
        assert index.count(row["labels"][:-1]) >= 1
    if language in UNSPACED and kind != "wordpiece":  # The WordPiece tokenizer has whole sentences as tokens.
        assert max(lengths) <= 35 and sum(lengths) / len(lengths) < sum(bodies) / len(bodies) / 2
        prompts = [len(row["input_ids"]) for row in dataset]
        assert max(prompts) <= 50
        # One word each: a start is the start of a word, and there are many.
        single = generation_pairs(corpus, identifiers, queries, qrels, substring_words=1, progress=False)
        starts = {tuple(row["labels"][:-1]) for row in single}
        assert len(starts) > 60 and max(map(len, starts)) <= 9


@pytest.mark.parametrize(
    ("language", "query", "start"),
    [
        ("japanese", "水運に使われる大きな湖", ("大きな湖", "きな湖", "水運に", "運に")),
        ("chinese", "发源于青藏高原的河流", ("源于", "于青", "青藏", "藏高", "高原")),
        ("thai", "แม่น้ำเจ้าพระยา", ("แม่น้ำเ", "เจ้าพระ", "จ้าพระ", "้าพระ")),
        ("german", "Zahnradbahn auf den Gipfel", ("Zahnradbahn", "Gipfel", "eine")),
        ("arabic", "أطول نهر في أفريقيا", ("أطول", "نهر", "أفريقيا،")),
    ],
)
def test_substrings_start_near_the_words_of_the_query_in_other_languages(language, query, start):
    identifiers = Identifiers(tokenizer_for(language, "unigram"), IdentifierSettings(views=("substring",)))
    corpus = Corpus.from_passages(passages_in(language))
    number = {"japanese": 1, "chinese": 1, "thai": 0, "german": 0, "arabic": 1}[language]
    arguments = {"samples_per_passage": 0, "substrings_per_query": 300, "progress": False}
    both = ({"q": query}, {"q": {corpus[number].id: 1}})

    def share(temperature):
        pairs = generation_pairs(corpus, identifiers, *both, temperature=temperature, **arguments)
        texts = [unicodedata.normalize("NFKC", identifiers.decode(row["labels"][:-1])) for row in pairs]
        starts = tuple(unicodedata.normalize("NFKC", one) for one in start)
        return sum(text.startswith(starts) for text in texts)

    assert share(0.3) > 2 * share(1e6)


def test_queries_that_are_cut_are_counted(bpe_tokenizer, caplog):
    identifiers = Identifiers(bpe_tokenizer, IdentifierSettings(views=("title", "substring"), max_query_length=20))
    corpus = Corpus.from_passages([Passage("p", "river", "a long river in the town " * 9)])
    queries = {"q1": "river " * 40, "q2": "river", "q3": "town " * 30}
    lengths = [
        len(ids) for ids in bpe_tokenizer([f" {q.strip()} || title || +" for q in queries.values()])["input_ids"]
    ]
    with caplog.at_level(logging.WARNING):
        generation_pairs(corpus, identifiers, queries, {q: {"p": 1} for q in queries}, progress=False,
                         samples_per_passage=0)  # fmt: skip
    (message,) = [record.getMessage() for record in caplog.records]
    # Of each query, three titles and ten substrings.
    assert message.startswith("26 of 39 queries of generation pairs are cut to max_query_length=20 tokens")
    assert f"(the longest has {max(lengths)})" in message and "for example 'river river" in message
    caplog.clear()
    wide = Identifiers(bpe_tokenizer, IdentifierSettings(views=("title", "substring"), max_query_length=max(lengths)))
    generation_pairs(corpus, wide, queries, {q: {"p": 1} for q in queries}, progress=False, samples_per_passage=0)
    assert not caplog.records


def test_queries_that_the_tokenizer_does_not_know_are_counted(unigram_tokenizer, caplog):
    identifiers = Identifiers(unigram_tokenizer, IdentifierSettings(views=("title",)))
    corpus = Corpus.from_passages([Passage("p", "river", "a long river")])
    arguments = {"samples_per_passage": 0, "titles_per_query": 1, "progress": False}
    queries = {"q1": "river 東京", "q2": "the river", "q3": "大阪"}
    generation_pairs(corpus, identifiers, queries, {q: {"p": 1} for q in queries}, **arguments)
    (message,) = [record.getMessage() for record in caplog.records]
    assert "2 of 3 queries of generation pairs hold text that the tokenizer does not know" in message
    queries["q2"] = "京都、？"
    with pytest.raises(ValueError, match="knows no letter of 2 of 3 queries of generation pairs, for example"):
        generation_pairs(corpus, identifiers, queries, {q: {"p": 1} for q in queries}, **arguments)
