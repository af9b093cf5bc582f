"""Prompts of chat models, and what a tokenizer puts at the end of prompts."""

import copy
import itertools

import pytest
from tiny_models import TOKENIZERS

from dgr_trainer.identifiers import Identifiers, IdentifierSettings

QUERY = "who discovered penicillin"
_TURN = "<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n"
TEMPLATES = {
    # Turns in control tokens; a model that reasons gets an empty thought.
    "turns": "{% for message in messages %}" + _TURN + "{% endfor %}{% if add_generation_prompt %}"
    "<|im_start|>assistant\n{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n\n"
    "{% endif %}{% endif %}",
    # A system message with the date, content without space around it, the beginning of the sequence.
    "date": "{{ bos_token }}<|im_start|>system\nToday: {{ strftime_now('%d %b %Y') }}<|im_end|>\n"
    "<|im_start|>user\n{{ messages[0]['content'] | trim }}<|im_end|>\n<|im_start|>assistant\n",
    # Plain text around the message.
    "plain": "{{ bos_token }}[INST] {{ messages[0]['content'] }} [/INST]",
}


def chat_tokenizer(template):
    tokenizer = copy.deepcopy(TOKENIZERS["bpe"]())
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    tokenizer.chat_template = TEMPLATES.get(template, template)
    return tokenizer


def chat(template, **settings):
    return Identifiers(chat_tokenizer(template), IdentifierSettings(chat=True, **settings))


@pytest.mark.parametrize("view", ["title", "substring"])
@pytest.mark.parametrize("template", TEMPLATES)
def test_a_prompt_is_the_message_of_a_user_in_the_template(template, view):
    identifiers = chat(template, max_query_length=200)
    content = identifiers.settings.prompts[view].replace("{query}", QUERY)
    message = [{"role": "user", "content": content}]
    text = identifiers.tokenizer.apply_chat_template(
        message, tokenize=False, add_generation_prompt=True, enable_thinking=False
    )
    if template == "date":  # Always the same, or a model would get other prompts every day.
        today = text.split("Today: ")[1].split("<")[0]
        text = text.replace(today, "26 Jul 2024")
    assert identifiers.prompt(QUERY, view) == text
    (ids,) = identifiers.encode_prompts([QUERY], view)
    assert ids == identifiers.tokenizer(text, add_special_tokens=False)["input_ids"]
    assert identifiers.eos_token_id not in ids and not identifiers.closes_prompts


@pytest.mark.parametrize("template", TEMPLATES)
def test_a_long_query_is_cut_and_the_template_is_kept(template):
    identifiers = chat(template, views=("docid",), max_query_length=70)
    long = " ".join(itertools.islice(itertools.cycle(QUERY.split()), 90))
    (ids,), (empty,) = (identifiers.encode_prompts([query], "docid", warn=False) for query in (long, ""))
    assert len(ids) == 70
    before, after = (
        next(place for place, (one, other) in enumerate(zip(ids[::way], empty[::way], strict=False)) if one != other)
        for way in (1, -1)
    )
    # All of the template, but for spaces around an empty query.
    assert identifiers.tokenizer.decode(empty[before : len(empty) - after]).strip() == ""
    kept = identifiers.tokenizer.decode(ids[before : len(ids) - after]).split()
    assert len(kept) > 5 and kept[:-1] == long.split()[: len(kept) - 1]


@pytest.mark.parametrize("query", ["a <|im_end|> b", "<|im_start|>assistant", "x</s>", "＜|im_end|＞"])
def test_a_query_does_not_end_its_message(query):
    identifiers = chat("turns", max_query_length=200)
    ids, ordinary = identifiers.encode_prompts([query, QUERY], "title")
    for token in ("<|im_start|>", "<|im_end|>", "</s>"):
        number = identifiers.tokenizer.convert_tokens_to_ids(token)
        assert ids.count(number) == ordinary.count(number)


def test_codes_that_are_special_tokens_stay_tokens_in_a_message():
    tokenizer = chat_tokenizer("turns")
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>", "<item_7>"]})
    identifiers = Identifiers(tokenizer, IdentifierSettings(chat=True))
    (ids,) = identifiers.encode_prompts(["<item_7> <item_7>"], "title")
    assert ids.count(tokenizer.convert_tokens_to_ids("<item_7>")) == 2


def test_templates_that_cannot_be_used_are_refused():
    with pytest.raises(ValueError, match="has no chat template. Load the tokenizer of a chat model, or leave chat"):
        Identifiers(TOKENIZERS["bpe"](), IdentifierSettings(chat=True))
    with pytest.raises(ValueError, match="does not hold a message as it is: it makes 'HI .* of '.query.*another mod"):
        chat("HI {{ messages[0]['content'] | upper }}")
    with pytest.raises(ValueError, match="cannot hold a single message: give a system message"):
        chat("{{ raise_exception('give a system message') }}")
    identifiers = chat("date", views=("docid",), max_query_length=12)
    with pytest.raises(ValueError, match="max_query_length=12 leaves no room for a query: .*with the chat template"):
        identifiers.encode_prompts([QUERY * 9], "docid")


def test_the_settings_are_saved():
    settings = IdentifierSettings(chat=True, closed_prompts=False)
    assert IdentifierSettings.from_dict(settings.to_dict()) == settings
    old = {name: value for name, value in IdentifierSettings().to_dict().items() if "chat" not in name}
    assert IdentifierSettings.from_dict(old) == IdentifierSettings()
    for name in ("chat", "closed_prompts"):
        with pytest.raises(ValueError, match=f"{name}='yes' must be True or False"):
            IdentifierSettings(**{name: "yes"})


@pytest.mark.parametrize(
    ("name", "begin", "end"), [("bpe", ["<s>"], ["</s>"]), ("unigram", [], ["</s>"]), ("plain", ["[CLS]"], ["[SEP]"])]
)
def test_only_closed_prompts_end_with_what_the_tokenizer_appends(name, begin, end):
    tokenizer = TOKENIZERS[name]()
    of_encoder, of_decoder = (
        Identifiers(tokenizer, IdentifierSettings(closed_prompts=closed)) for closed in (True, False)
    )
    assert of_encoder.closes_prompts and not of_decoder.closes_prompts
    begin, end = tokenizer.convert_tokens_to_ids(begin), tokenizer.convert_tokens_to_ids(end)
    for view in of_encoder.views:
        closed, open_ = (one.encode_prompts([QUERY, ""], view) for one in (of_encoder, of_decoder))
        assert closed == [ids + end for ids in open_]
        assert all(ids[: len(begin)] == begin for ids in open_)
    long = [QUERY * 20]
    closed, open_ = (one.encode_prompts(long, "title", warn=False)[0] for one in (of_encoder, of_decoder))
    assert len(closed) == len(open_) == 64 and open_[-1] not in end


def test_a_tokenizer_that_appends_nothing_leaves_prompts_open():
    tokenizer = copy.deepcopy(TOKENIZERS["bpe"]())
    tokenizer.backend_tokenizer.post_processor = None
    one, other = (Identifiers(tokenizer, IdentifierSettings(closed_prompts=closed)) for closed in (True, False))
    assert not one.closes_prompts
    assert one.encode_prompts([QUERY], "title") == other.encode_prompts([QUERY], "title")


def test_a_prompt_that_is_longer_than_the_limit_around_the_query_is_refused():
    settings = IdentifierSettings(views=("docid",), prompts={"docid": "find " * 12 + "{query}"}, max_query_length=9)
    with pytest.raises(ValueError, match="leaves no room for a query: the prompt of view 'docid' has .* around it"):
        Identifiers(TOKENIZERS["bpe"](), settings).encode_prompts([QUERY], "docid")
