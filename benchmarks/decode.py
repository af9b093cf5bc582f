"""The cost of the index in a beam search, and of a complete search.

    python benchmarks/decode.py --data corpus.jsonl
    python benchmarks/decode.py --data corpus.jsonl --shape qwen3 --layers 4
    python benchmarks/decode.py --data DIR --model MODEL --device cuda

`benchmarks/dictionaries.py` makes such a corpus of real text. Without a model, a random one is used, with the shape of
BART-base (139M parameters) or of Qwen3-0.6B (with as many of its 28 layers as --layers says), a byte-level BPE of
50,265 tokens trained on the corpus, and the token frequencies of the corpus as its bias, so that it generates frequent
tokens, whose ranges in the index are wide.

Decoding: the search of one view, which keeps all identifiers that it visits, compared with `model.generate` with the
same beams and lengths and no constraint, in alternating runs; 10 queries, beams 15 and 5, 10 and 15 tokens.
`constraint_overhead` is the largest of the four ratios of medians; `constraint_ms_per_step` is the time of a step
outside the model's decoder and its cache. With a decoder-only model, the search is run in both ways that most models
allow: "shared", where the beams of a prompt share its keys and values, and "copied", where each has its own, as in
`generate`; `cache_mb` is the largest size of its keys and values. End to end: three views, beam 15, 100 passages per
query. The last line is one JSON object.
"""

import argparse
import json
import logging
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any
from unittest import mock

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    AutoTokenizer,
    BartConfig,
    BartForConditionalGeneration,
    GenerationConfig,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3ForCausalLM,
    set_seed,
)

from dgr_trainer import (
    Corpus,
    FMIndex,
    GenerativeRetriever,
    Identifiers,
    IdentifierSettings,
    SearchSettings,
    read_queries,
)
from dgr_trainer.retrieval import beam_search, search_engine
from dgr_trainer.retrieval.decoder import decoding_way
from dgr_trainer.retrieval.search_engine import SearchEngine
from dgr_trainer.student.causal_steps import CopiedPromptSteps, RereadingSteps, SharedPromptSteps
from dgr_trainer.student.decoding_ways import remember_way
from dgr_trainer.student.encoder_decoder_steps import EncoderDecoderSteps
from dgr_trainer.student.generation_mode import generation_mode
from dgr_trainer.student.students import load_student_model, student_of

BART_VOCABULARY = 50265
QWEN3_VOCABULARY = 151936
SHAPES = [(15, 10), (15, 15), (5, 10), (5, 15)]


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="Corpus: a file of passages or a BEIR folder.")
    parser.add_argument("--split", help="Split of a BEIR folder whose queries are used.")
    parser.add_argument("--tokens", type=int, default=4_000_000, help="Tokens of the corpus to index, roughly.")
    parser.add_argument("--repeat", action="store_true", help="Repeat a corpus that has fewer tokens.")
    parser.add_argument("--model", help="Pretrained model, of an encoder and a decoder or of a decoder only.")
    parser.add_argument("--shape", default="bart", choices=["bart", "qwen3"], help="Shape of the random model.")
    parser.add_argument("--layers", type=int, default=4, help="Layers of the random model of Qwen3's shape.")
    parser.add_argument("--query-words", type=int, default=12, help="Words of a query that is taken from a passage.")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16", "float16"])
    parser.add_argument("--threads", type=int, default=2, help="Threads of torch and of the index.")
    parser.add_argument(
        "--cpu-time",
        action="store_true",
        help="Measure CPU time, on a machine that does other work, with --threads 1.",
    )
    parser.add_argument("--queries", type=int, default=10, help="Queries per batch.")
    parser.add_argument("--rounds", type=int, default=5, help="Timed runs of each side.")
    parser.add_argument("--shapes", type=int, default=len(SHAPES), help="How many of the four settings to run.")
    parser.add_argument("--searches", type=int, default=2, help="End-to-end searches; the first is not counted.")
    parser.add_argument("--beam-size", type=int, default=15, help="Beams end to end.")
    parser.add_argument("--small", action="store_true", help="Use a tiny random model, to check that the script runs.")
    parser.add_argument("--cache", type=Path, help="Folder that keeps index and tokenizer between runs.")
    return parser.parse_args()


def main() -> None:
    options = parse()
    logging.basicConfig(level=logging.WARNING)
    set_seed(0)
    torch.set_num_threads(options.threads)
    _use_threads(options.threads)
    model, identifiers, index, corpus = prepare(options)
    model = model.to(options.device).eval()
    queries = choose_queries(options, corpus)
    unit = "CPU time" if options.cpu_time else "wall time"
    print(f"{index.num_passages:,} passages, {index.num_tokens:,} tokens, {len(queries)} queries at once, "
          f"{options.threads} threads, {options.device}, {options.dtype}, {unit}")  # fmt: skip

    print(f"\n{'beams':>5} {'length':>6} {'free s':>8} {'bound s':>8} {'ratio':>6} {'constraint ms/step':>18}")
    rows = [decode(options, model, identifiers, index, queries, *shape) for shape in SHAPES[: options.shapes]]
    result: dict[str, Any] = {
        "tokens": index.num_tokens,
        "constraint_overhead": max(row["ratio"] for row in rows) if rows else None,
        "constraint_ms_per_step": max(row["constraint_ms_per_step"] for row in rows) if rows else None,
        "decoding": rows,
    }
    if options.searches > 1:
        result |= end_to_end(options, model, identifiers, index, queries)
    print(json.dumps(result))


def _use_threads(threads: int) -> None:
    import numba

    numba.config.NUMBA_NUM_THREADS = threads


def prepare(options: argparse.Namespace) -> tuple[torch.nn.Module, Identifiers, FMIndex, Corpus]:
    """Model, identifiers, index and corpus."""
    corpus = Corpus.read(options.data)
    cached = options.cache / f"{'small' if options.small else 'bpe'}" if options.cache else None
    if options.model:
        tokenizer = AutoTokenizer.from_pretrained(options.model)
        model: Any = load_student_model(options.model, dtype=getattr(torch, options.dtype))
    else:
        if cached is not None and cached.is_dir():
            tokenizer = AutoTokenizer.from_pretrained(cached)
        else:
            tokenizer = byte_level_bpe((f" {passage.title} @@ {passage.text}" for passage in corpus), options.small)
            if cached is not None:
                tokenizer.save_pretrained(cached)
        make = random_bart if options.shape == "bart" else random_qwen3
        model = make(tokenizer, options).to(getattr(torch, options.dtype))
    # The random tokenizer is BART's.
    closed = student_of(model).reads_closed_prompts
    identifiers = Identifiers(tokenizer, IdentifierSettings(closed_prompts=closed))
    parts = list(_sequences(options, corpus, identifiers))
    index = FMIndex.build(
        [tokens for tokens, _ in parts], passage_ids=[id for _, id in parts], vocab_size=identifiers.vocab_size,
        separator=identifiers.eos_token_id, tokenizer_fingerprint=identifiers.fingerprint, progress=False,
    )  # fmt: skip
    if not options.model:
        bias = frequency_bias(index).to(model.dtype)
        if options.shape == "bart":
            model.final_logits_bias = bias[None]
        else:
            model.lm_head.bias.data.fill_(-20.0)[: len(bias)] = bias
    return model, identifiers, index, corpus


def _sequences(
    options: argparse.Namespace, corpus: Corpus, identifiers: Identifiers
) -> Iterator[tuple[list[int], str]]:
    """Yield tokens and ids of passages, spread over the corpus, with about `options.tokens` tokens in all."""
    sample = identifiers.encode_passages(corpus[:: max(1, len(corpus) // 2000)])
    count, size = round(options.tokens / (sum(map(len, sample)) / len(sample) + 1)), len(corpus)
    if count > size and not options.repeat:
        count = size
    # Positions beyond the end repeat the corpus.
    positions = [number * size // count if count <= size else number for number in range(count)]
    for start in range(0, count, 4096):
        batch = positions[start : start + 4096]
        sequences = identifiers.encode_passages([corpus[position % size] for position in batch])
        for position, tokens in zip(batch, sequences, strict=True):
            yield tokens, f"{corpus.ids[position % size]}-{position // size}"


def choose_queries(options: argparse.Namespace, corpus: Corpus) -> list[str]:
    """Queries of the folder, or words from the middle of passages."""
    if options.data.is_dir() and options.split:
        texts = read_queries(options.data, options.split)["query"]
        return [texts[i * len(texts) // options.queries] for i in range(options.queries)]
    sample = corpus[:: max(1, len(corpus) // 1000)]
    long = [passage for passage in sample if len(passage.text.split()) > 30] or list(corpus)
    chosen = [long[i * len(long) // options.queries] for i in range(options.queries)]
    return [" ".join(passage.text.split()[10 : 10 + options.query_words]) for passage in chosen]


def byte_level_bpe(texts: Iterator[str], small: bool) -> PreTrainedTokenizerBase:
    """A tokenizer like BART's, trained on these texts."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=1000 if small else BART_VOCABULARY, special_tokens=["<s>", "<pad>", "</s>", "<unk>", "<mask>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False,
    )  # fmt: skip
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>", unk_token="<unk>",
        mask_token="<mask>", model_max_length=1024,
    )  # fmt: skip


def frequency_bias(index: FMIndex) -> torch.Tensor:
    """The log-probability of each token by its frequency: a bias with which a random model generates as the corpus."""
    return torch.from_numpy(index.token_counts + 1.0).log().float().log_softmax(0)


def random_bart(tokenizer: PreTrainedTokenizerBase, options: argparse.Namespace) -> BartForConditionalGeneration:
    """A random model of BART-base's shape."""
    width = (16, 1, 2) if options.small else (768, 6, 12)
    return BartForConditionalGeneration(
        BartConfig(
            vocab_size=len(tokenizer), d_model=width[0], encoder_layers=width[1], decoder_layers=width[1],
            encoder_attention_heads=width[2], decoder_attention_heads=width[2], encoder_ffn_dim=4 * width[0],
            decoder_ffn_dim=4 * width[0],
        )
    )  # fmt: skip


def random_qwen3(tokenizer: PreTrainedTokenizerBase, options: argparse.Namespace) -> Qwen3ForCausalLM:
    """A random model of Qwen3-0.6B's shape with fewer layers, and a bias at its output."""
    width, head = (16, 8) if options.small else (1024, 128)
    vocabulary = len(tokenizer) if options.small else QWEN3_VOCABULARY
    model = Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=vocabulary, hidden_size=width, intermediate_size=3 * width, num_hidden_layers=options.layers,
            num_attention_heads=16, num_key_value_heads=8, head_dim=head, tie_word_embeddings=False,
            pad_token_id=tokenizer.pad_token_id, bos_token_id=None, eos_token_id=tokenizer.eos_token_id,
        )
    )  # fmt: skip
    model.lm_head = torch.nn.Linear(width, vocabulary)
    torch.nn.init.normal_(model.lm_head.weight, std=0.02)
    return model


class Clock:
    """Measures the seconds spent in parts of a search; time in a nested part counts for that part only."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self.calls: dict[str, int] = defaultdict(int)
        self._synchronise = options.device.startswith("cuda")
        self._time = time.process_time if options.cpu_time else time.perf_counter
        self._running: list[str] = []
        self._since = 0.0

    def now(self) -> float:
        """Current time in seconds, after the device has finished its work."""
        if self._synchronise:
            torch.cuda.synchronize()
        return self._time()

    def timed(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """Wrap a function so that its time is counted under a name."""

        def run(*args: Any, **kwargs: Any) -> Any:
            self._switch()
            self._running.append(name)
            self.calls[name] += 1
            try:
                return function(*args, **kwargs)
            finally:
                self._switch()
                self._running.pop()

        return run

    def _switch(self) -> None:
        now = self.now()
        if self._running:
            self.seconds[self._running[-1]] += now - self._since
        self._since = now

    @contextmanager
    def watching(self, *parts: tuple[Any, str, str]) -> Iterator[None]:
        """Within the context, count calls of `owner.attribute` under a name."""
        patches = [
            mock.patch.object(owner, attribute, self.timed(name, getattr(owner, attribute)))
            for owner, attribute, name in parts
        ]
        # Patched on the class, where the wrapper binds like the method that it replaces.
        for patch in patches:
            patch.start()
        try:
            yield
        finally:
            for patch in reversed(patches):
                patch.stop()


# The search without the model is the cost of the constraint. A prompt is read when steps are made.
STEPS = {
    "cached": EncoderDecoderSteps, "shared": SharedPromptSteps, "copied": CopiedPromptSteps, "reread": RereadingSteps
}  # fmt: skip
SEARCH = [
    (beam_search, "search_views", "constraint"),
    *((steps, "__init__", "prompts") for steps in STEPS.values()),
    *((steps, "step", "decoder") for steps in STEPS.values()),
]


def decode(
    options: argparse.Namespace,
    model: torch.nn.Module,
    identifiers: Identifiers,
    index: FMIndex,
    queries: list[str],
    beams: int,
    length: int,
) -> dict[str, Any]:
    """Time the generation of substrings with and without the index, in alternating runs."""
    clock = Clock(options)
    steps = 0

    def on_token(number: int) -> None:
        nonlocal steps
        steps = number

    def bound(way: str) -> None:
        remember_way(ready, way)
        beam_search.search_views(ready, index, identifiers, queries, {"substring": length}, beams, on_token)

    inputs = model_inputs(identifiers.encode_prompts(queries, "substring"), model)
    settings = GenerationConfig(
        num_beams=beams, do_sample=False, max_new_tokens=length, use_cache=True, early_stopping="never",
        length_penalty=0.0,
    )  # fmt: skip

    def free(_: str) -> None:
        ready.generate(**inputs, generation_config=settings)

    best = decoding_way(model) or student_of(model).decoding_ways[0]
    ways = ["shared", "copied"] if best == "shared" else [best]
    sides = [("free", free, best), *((way, bound, way) for way in ways)]
    seconds: dict[str, list[float]] = {name: [] for name, _, _ in sides}
    with generation_mode(model) as ready:
        # Replaces the settings of a checkpoint, which would be used for those not given here.
        ready.generation_config = GenerationConfig(decoder_start_token_id=student_of(ready).start_token_id)
        for number in range(options.rounds + 1):
            for name, run, way in sides:
                began = clock.now()
                run(way)
                if number:  # The first run is a warm-up.
                    seconds[name].append(clock.now() - began)
        with clock.watching(*SEARCH):
            bound(best)
        sizes = {way: cache_size(STEPS[way], lambda way=way: bound(way)) for way in ways}
    per_step = 1000 * clock.seconds["constraint"] / steps
    medians = {name: median(times) for name, times in seconds.items()}
    row = {
        "beams": beams, "length": length, "steps": steps, "prompt_tokens": inputs["input_ids"].shape[1],
        "free_s": round(medians["free"], 3), "bound_s": round(medians[best], 3),
        "ratio": round(medians[best] / medians["free"], 3), "constraint_ms_per_step": round(per_step, 2),
    }  # fmt: skip
    print(f"{beams:>5} {length:>6} {row['free_s']:>8} {row['bound_s']:>8} {row['ratio']:>6} {per_step:>18.2f}",
          flush=True)  # fmt: skip
    if len(ways) > 1:
        row["ways"] = {
            way: {"ms_per_step": round(1000 * medians[way] / steps, 1), "cache_mb": round(sizes[way] / 1e6, 1)}
            for way in ways
        }
        told = (f"{way} {of['ms_per_step']} ms/step, {of['cache_mb']} MB of keys and values"
                for way, of in row["ways"].items())  # fmt: skip
        print(f"{'':>12} {'; '.join(told)}", flush=True)
    return row


def cache_size(steps: type, run: Callable[[], None]) -> int:
    """Bytes of the keys and values after the largest step of a search."""
    largest = 0
    step = steps.step

    def measured(self: Any, *arguments: Any) -> torch.Tensor:
        nonlocal largest
        scores = step(self, *arguments)
        layers = getattr(self._cache, "layers", ())
        largest = max(largest, sum(layer.keys.nbytes + layer.values.nbytes for layer in layers))
        return scores

    with mock.patch.object(steps, "step", measured):
        run()
    return largest


def model_inputs(prompts: list[list[int]], model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Padded prompts on the device of the model, on the left for a model that goes on writing them."""
    width, pad = max(map(len, prompts)), model.config.pad_token_id or 0
    device = next(model.parameters()).device
    right = student_of(model).start_token_id is not None

    def padded(ids: list[int], value: int) -> list[int]:
        padding = [value] * (width - len(ids))
        return [*ids, *padding] if right else [*padding, *ids]

    return {
        "input_ids": torch.tensor([padded(ids, pad) for ids in prompts], device=device),
        "attention_mask": torch.tensor([padded([1] * len(ids), 0) for ids in prompts], device=device),
    }


def end_to_end(
    options: argparse.Namespace, model: torch.nn.Module, identifiers: Identifiers, index: FMIndex, queries: list[str]
) -> dict[str, Any]:
    """Time complete searches: three views, 100 passages per query."""
    settings = SearchSettings(
        beam_size=options.beam_size, title_length=15, pseudo_query_length=30, batch_size=len(queries)
    )
    searcher = GenerativeRetriever(model, identifiers, index, settings=settings)
    times, shares = [], []
    for number in range(options.searches):
        clock = Clock(options)
        others = [
            (search_engine, "search_views", "constraint"), (search_engine, "score_identifiers", "query words"),
            (SearchEngine, "rank_passages", "aggregation"), (search_engine, "weighed", "aggregation"),
            (search_engine, "query_ngrams", "aggregation"),
        ]  # fmt: skip
        with clock.watching(*SEARCH[1:], *others):
            began = clock.now()
            hits = searcher.search(queries, k=100)
            total = clock.now() - began
        if number:
            times.append(total / len(queries))
            shares.append({name: value / total for name, value in clock.seconds.items()})
    share = {name: round(median(shares_of_run.get(name, 0.0) for shares_of_run in shares), 3) for name in shares[0]}
    share["other"] = round(1 - sum(share.values()), 3)
    hits_per_query = sum(map(len, hits)) / len(hits)
    print(f"\nend to end: {median(times):.3f} s/query, {hits_per_query:.0f} passages per query; shares: "
          + ", ".join(f"{name} {value:.1%}" for name, value in share.items()))  # fmt: skip
    return {"seconds_per_query": round(median(times), 3), "share": share}


if __name__ == "__main__":
    main()
