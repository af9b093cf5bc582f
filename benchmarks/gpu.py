"""What a GPU does with this library: one script, in pieces of less than eight minutes that need no downloads.

    python benchmarks/gpu.py --output gpu                              # everything, on the GPU if there is one
    python benchmarks/gpu.py --output gpu --minutes 9                  # what fits; the same call again goes on
    python benchmarks/gpu.py --output gpu --pieces constraint train-bart
    python benchmarks/gpu.py --list
    python benchmarks/gpu.py --output gpu --small --device cpu         # tiny, to see that it runs

Pieces run in the order of `--list`, what tells most first, each in a process of its own with a limit of eight
minutes. A piece that is finished is not run again, so a call that was cut off is repeated as it is; a piece that
failed is. Its file `OUTPUT/PIECE.json` has its numbers, device and versions; after each piece `OUTPUT/results.json`
has those of all pieces and `OUTPUT/table.md` a row for each number. Text, tokenizer, index and training data are made
by the script from a seed, in `--work`; `--data` takes passages of a file instead.

constraint      a step of the search outside the model, 10 queries x 15 beams in an index of 10M tokens: asked of the
                host, of the device (sorted rows, and the wavelet matrix), and how many kernels 8 steps start
tests           `pytest tests/devices` on the device, the tests that run on a CPU everywhere
train-bart, train-t5, train-qwen3
                forward and backward pass at BART-large's, T5-large's and Qwen3-0.6B's shape, bf16, 8, 16 and 32
                queries of 6 passages: the published formulation, this library and the model's own loss on dense rows
                of the same tokens; peak memory; utilisation = operations counted by torch / seconds / measured rate
                of a matrix product
compile-bart    this library's step with and without torch.compile
decode          a search of one view at BART-large's shape, 10 tokens long, 15 and 50 beams, 10 and 100 queries:
                `generate` without a constraint, the index on the host, the index on the device; share of time in
                which the GPU has nothing to do
candidates      queries/s of `GenerativeRetriever.candidates`, three views
teacher         pairs/s of `CrossEncoderTeacher` at BERT-base's shape
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
import transformers
from decode import byte_level_bpe, frequency_bias
from torch.utils.flop_counter import FlopCounterMode
from train_step import Ours, Plain, Reference, shapes
from training_inputs import Inputs, make_model

from dgr_trainer import (
    Candidate,
    Candidates,
    Corpus,
    CrossEncoderTeacher,
    FMIndex,
    GenerativeRetriever,
    Identifiers,
    MatchedIdentifier,
    Passage,
    Rankings,
    SearchSettings,
)
from dgr_trainer.index.tensor_index import TensorIndex
from dgr_trainer.retrieval import beam_search, device_children
from dgr_trainer.retrieval.beam_search import search_views
from dgr_trainer.retrieval.decoder import decoding_way
from dgr_trainer.retrieval.legal_tokens import LegalTokens
from dgr_trainer.student.generation_mode import generation_mode
from dgr_trainer.student.students import student_of

ROOT = Path(__file__).parents[1]
LIMIT_S = 480
PASSAGE_TOKENS = 68


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, help="Folder of the results.")
    parser.add_argument("--work", type=Path, help="Folder of what is made once; by default OUTPUT/work.")
    parser.add_argument("--pieces", nargs="+", choices=list(PIECES), default=list(PIECES), metavar="PIECE")
    parser.add_argument("--list", action="store_true", help="Print the pieces and whether they are finished.")
    parser.add_argument("--minutes", type=float, help="Begin no piece after so many minutes, and cut off the last.")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", choices=["cpu", "cuda"])
    parser.add_argument("--data", type=Path, help="Passages, a file or a BEIR folder; left out, random text.")
    parser.add_argument("--tokens", type=int, default=10_000_000, help="Tokens of the index, roughly.")
    parser.add_argument("--rounds", type=int, default=3, help="Measured turns, after one for warming up.")
    parser.add_argument("--small", action="store_true", help="Everything tiny, to see that it runs.")
    parser.add_argument("--piece", choices=list(PIECES), help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


# What the pieces work on


class Made:
    """Corpus, tokenizer, index and training data, made when a piece first needs them and kept in `--work`."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options, self.small = options, options.small
        self.device = torch.device(options.device)
        self.folder = options.work or options.output / "work"
        self.folder.mkdir(parents=True, exist_ok=True)
        self.dtype = torch.bfloat16 if self.device.type == "cuda" else torch.float32

    def passages(self) -> Iterator[Passage]:
        """Passages of about `PASSAGE_TOKENS` tokens, as many as the index is to have."""
        if self.options.data is not None:
            yield from Corpus.read(self.options.data)
            return
        rng = np.random.default_rng(0)
        parts = ["ba", "do", "ke", "li", "mu", "na", "po", "ri", "sa", "te", "vo", "zu", "chi", "gre", "sta", "wen"]
        count = 300 if self.small else 40_000
        words = np.array(sorted({"".join(rng.choice(parts, rng.integers(1, 5))) for _ in range(2 * count)})[:count])
        weights = 1 / np.arange(3, len(words) + 3)
        weights /= weights.sum()
        words = rng.permutation(words)
        number = 300 if self.small else self.options.tokens // PASSAGE_TOKENS
        for start in range(0, number, 4096):
            size = min(4096, number - start)
            drawn = words[rng.choice(len(words), (size, PASSAGE_TOKENS * 3 // 4), p=weights)].tolist()
            for place, row in enumerate(drawn):
                query = " ".join(row[20:26])
                yield Passage(f"p{start + place}", " ".join(row[:2]), " ".join(row[2:]), (f"where {query}",))

    def tokenizer(self) -> Any:
        folder = self.folder / "tokenizer"
        if not folder.is_dir():
            texts = (
                f" {passage.title} @@ {passage.text}"
                for _, passage in zip(range(40_000), self.passages(), strict=False)
            )
            byte_level_bpe(texts, self.small).save_pretrained(folder)
        return transformers.AutoTokenizer.from_pretrained(folder)

    def corpus(self) -> Corpus:
        return Corpus.from_passages(list(self.passages()))

    def index(self, identifiers: Identifiers) -> FMIndex:
        folder = self.folder / "index"
        if not folder.is_dir():
            FMIndex.from_corpus(self.corpus(), identifiers, folder=folder, progress=False)
        return FMIndex.load(folder, verify=False)

    def student(self, tokenizer: Any, index: FMIndex, shape: str) -> Any:
        """A random student that generates frequent tokens, whose ranges are wide."""
        model = make_model(shape, tokenizer)
        bias = frequency_bias(index)
        model.final_logits_bias = torch.full((1, model.config.vocab_size), -20.0)
        model.final_logits_bias[0, : len(bias)] = bias
        return model.to(self.device, self.dtype).eval()

    def queries(self, number: int) -> list[str]:
        return [" ".join(p.text.split()[8:16]) for _, p in zip(range(number), self.passages(), strict=False)]

    def training(self) -> Path:
        """A folder of queries, judgements and candidates, as train_step.py takes it."""
        folder = self.folder / "training"
        if (folder / "candidates").is_dir():
            return folder
        tokenizer, chance = self.tokenizer(), random.Random(0)
        tokenizer.save_pretrained(folder / "student")
        identifiers = Identifiers(tokenizer)
        long = (passage for passage in self.passages() if len(passage.text.split()) > 20)
        passages = [passage for _, passage in zip(range(300), long, strict=False)]
        tokens = [segments.body for segments in identifiers.encode_segments(passages)]
        lists: dict[str, list[Candidate]] = {}
        (folder / "qrels").mkdir(parents=True, exist_ok=True)
        with (folder / "queries.jsonl").open("w") as queries, (folder / "qrels" / "train.tsv").open("w") as qrels:
            qrels.write("query-id\tcorpus-id\tscore\n")
            for number in range(32 if self.small else 128):
                chosen = chance.sample(range(len(passages)), 10)
                words = passages[chosen[0]].text.split()[8:16]
                queries.write(json.dumps({"_id": f"q{number}", "text": " ".join(words)}) + "\n")
                qrels.write(f"q{number}\t{passages[chosen[0]].id}\t1\n")
                lists[f"q{number}"] = [
                    Candidate(passages[one].id, 100.0 - rank, tuple(self._found(tokens[one], chance)))
                    for rank, one in enumerate(chosen)
                ]
        made = Candidates.from_lists(
            lists, corpus_tokens=self.options.tokens, tokenizer_fingerprint=identifiers.fingerprint
        )
        made.save_to_disk(folder / "candidates")
        return folder

    def _found(self, tokens: list[int], chance: random.Random) -> list[MatchedIdentifier]:
        """Substrings of a passage, of which many begin with the same tokens, as a search finds them."""
        found = {}
        for _ in range(10):
            start = chance.randrange(len(tokens) - 6)
            for length in chance.sample(range(1, 7), 4):
                found[tuple(tokens[start : start + length])] = chance.randint(1, 50)
        return [MatchedIdentifier("substring", ids, count, 3.0) for ids, count in found.items()]

    def inputs(self, shape: str, batch: int) -> Inputs:
        """Batches of the training data and a trainer of a model."""
        folder = self.training()
        options = argparse.Namespace(
            data=folder, candidates=folder, tokenizer=folder / "student", model=shape, device=self.device.type,
            tokens_at_once=4096, distinct=False, prompt_tokens=None, bf16=self.device.type == "cuda",
        )  # fmt: skip
        return Inputs(options, 3 if self.small else 6, batch)

    def finish(self) -> None:
        """Wait for the device."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def seconds(self, run: Callable[[], Any]) -> float:
        """Seconds that something takes until the device has finished."""
        self.finish()
        began = time.perf_counter()
        run()
        self.finish()
        return time.perf_counter() - began

    def median(self, run: Callable[[], Any]) -> float:
        """The median of some turns, after one for warming up."""
        run()
        return statistics.median(self.seconds(run) for _ in range(self.options.rounds))

    def matmul_rate(self) -> float:
        """Operations a second of a large matrix product."""
        size = 256 if self.small else 8192
        left, right = (torch.randn(size, size, device=self.device, dtype=self.dtype) for _ in range(2))
        return 2 * size**3 * 10 / self.median(lambda: [left @ right for _ in range(10)])

    def kernels(self, run: Callable[[], Any]) -> dict[str, Any]:
        """How many kernels something starts, and the share of its time in which the device has nothing to do."""
        if self.device.type != "cuda":
            return {"kernels": None, "idle_share": None}
        from torch.profiler import ProfilerActivity, profile

        run()
        with profile(activities=[ProfilerActivity.CUDA]) as profiled:
            seconds = self.seconds(run)
        spans = sorted(
            (event.time_range.start, event.time_range.end)
            for event in profiled.events()
            if event.device_type == torch.autograd.DeviceType.CUDA
        )
        busy, until = 0.0, 0.0
        for start, end in spans:
            busy += max(0.0, end - max(start, until))
            until = max(until, end)
        return {"kernels": len(spans), "idle_share": round(max(0.0, 1 - busy / 1e6 / seconds), 3)}


# The pieces


def constraint(made: Made) -> dict[str, Any]:
    """A step of the search outside the model."""
    identifiers = Identifiers(made.tokenizer())
    index = made.index(identifiers)
    num_queries, num_beams = (2, 3) if made.small else (10, 15)
    legal = LegalTokens(index, identifiers, "substring", best=2 * num_beams)
    rng = np.random.default_rng(1)
    bias = torch.full((index.vocab_size,), -20.0)
    bias[:] = frequency_bias(index)
    noise = torch.from_numpy(rng.normal(size=(num_queries * num_beams, index.vocab_size)).astype(np.float32))
    scores = (bias + noise).log_softmax(-1).to(made.device)
    results: dict[str, Any] = {"tokens": index.num_tokens, "rows": num_queries * num_beams}

    def searched(on_device: TensorIndex | None) -> Callable[[], None]:
        def run() -> None:
            search = beam_search._ViewBeams("substring", legal, 9, num_queries, num_beams)
            if on_device is not None:
                search.move_to(on_device)
            rows = num_queries
            for _ in range(8):
                (known,) = device_children.fetched([search.propose(scores[:rows])])
                results["asked_host"] += on_device is not None and known is None
                search.grow(search.children(scores[:rows]) if known is None else known)
                rows = len(search.ids)

        return run

    results["asked_host"] = 0
    results["host_ms_per_step"] = round(1000 * made.median(searched(None)) / 8, 3)
    for layout in ("sorted", "wavelet"):
        began = made.seconds(lambda layout=layout: TensorIndex(index.segments, made.device, layout))
        on_device = TensorIndex(index.segments, made.device, layout)
        results["asked_host"] = 0
        run = searched(on_device)
        results[layout] = {
            "ms_per_step": round(1000 * made.median(run) / 8, 3),
            "steps_that_asked_the_host": results["asked_host"] / (made.options.rounds + 1),
            "seconds_to_make": round(began, 2), "bytes_per_token": round(on_device.num_bytes / index.num_tokens, 2),
            **made.kernels(run),
        }  # fmt: skip
        ranges = torch.from_numpy(index.roots([], num_queries * num_beams)).to(made.device)
        tokens = torch.from_numpy(rng.integers(4, index.vocab_size, (len(ranges), 60))).to(made.device)
        extend = partial(on_device.extend, ranges[:, None], tokens)
        results[layout]["extend_ms"] = round(1000 * made.median(extend), 3)
        if made.device.type == "cuda":
            results[layout] |= _captured(made, extend)
    del results["asked_host"]
    return results


def _captured(made: Made, run: Callable[[], torch.Tensor]) -> dict[str, float]:
    """Milliseconds of something as a CUDA graph, and compiled."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()
    compiled = torch.compile(lambda: run())
    return {
        "extend_graph_ms": round(1000 * made.median(graph.replay), 3),
        "extend_compiled_ms": round(1000 * made.median(compiled), 3),
    }


def tests(made: Made) -> dict[str, Any]:
    """The tests that take a device."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/devices"]
    if made.small:
        command += ["-k", "losses_are_those_of_a_cpu"]
    paths = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "DGR_TEST_DEVICE": made.device.type, "PYTHONPATH": paths}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment)
    lines = done.stdout.splitlines()
    failed = [line for line in lines if line.startswith(("FAILED", "ERROR"))]
    return {"returncode": done.returncode, "summary": lines[-1] if lines else done.stderr[-500:], "failed": failed}


def train(shape: str, made: Made) -> dict[str, Any]:
    """Steps of training beside the published formulation and the model's own loss."""
    rate = made.matmul_rate()
    results: dict[str, Any] = {"matmul_tflops": round(rate / 1e12, 2)}
    for batch in (2,) if made.small else (8, 16, 32):
        inputs = made.inputs(_shape(shape, made), batch)
        inputs.model.train()
        of_batch: dict[str, Any] = {"shapes": shapes(inputs.batch(0))}
        for name, side in (("ours", Ours), ("plain", Plain), ("reference", Reference)):
            of_batch[name] = _measured(made, inputs, side(inputs, 0).step, rate)
        for other in ("reference", "plain"):
            both = of_batch[other].get("seconds"), of_batch["ours"].get("seconds")
            of_batch[f"{other}_over_ours"] = round(both[0] / both[1], 3) if all(both) else None
        results[f"batch {batch}"] = of_batch
        del inputs
    return results


def _shape(name: str, made: Made) -> str:
    family = name.split("-")[0]
    return f"{family}-tiny-shape" if made.small else name


def _measured(made: Made, inputs: Inputs, step: Callable[[], None], rate: float) -> dict[str, Any]:
    """Seconds, peak memory and utilisation of a step, or that it does not fit."""

    def whole() -> None:
        step()
        inputs.model.zero_grad(set_to_none=True)

    try:
        with FlopCounterMode(display=False) as counter:
            whole()
        if made.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        seconds = made.median(whole)
    except torch.cuda.OutOfMemoryError:
        inputs.model.zero_grad(set_to_none=True)
        torch.cuda.empty_cache()
        return {"out_of_memory": True}
    flops = counter.get_total_flops()
    found = {
        "seconds": round(seconds, 4), "tflop": round(flops / 1e12, 6), "utilisation": round(flops / seconds / rate, 3)
    }  # fmt: skip
    if made.device.type == "cuda":
        found["peak_mb"] = round(torch.cuda.max_memory_allocated() / 2**20)
    return found


def compiled(shape: str, made: Made) -> dict[str, Any]:
    """A step of training with and without torch.compile."""
    inputs = made.inputs(_shape(shape, made), 2 if made.small else 16)
    inputs.model.train()
    batches = [inputs.batch(number) for number in range(3)]
    model, results = inputs.model, {}
    for name in ("eager", "compiled"):
        student = torch.compile(model, backend="eager" if made.small else "inductor") if name == "compiled" else model

        def steps(student: Any = student) -> None:
            for batch in batches:
                with inputs.trainer.compute_loss_context_manager():
                    loss = inputs.trainer.compute_loss(student, batch)
                loss.backward()
            model.zero_grad(set_to_none=True)

        first = made.seconds(steps)
        results[name] = {"first_s": round(first, 2), "seconds": round(made.median(steps) / len(batches), 4)}
    results["eager_over_compiled"] = round(results["eager"]["seconds"] / results["compiled"]["seconds"], 3)
    return results


def decode(made: Made) -> dict[str, Any]:
    """A search of one view without a constraint, with the index on the host, and with it on the device."""
    tokenizer = made.tokenizer()
    identifiers = Identifiers(tokenizer)
    index = made.index(identifiers)
    model = made.student(tokenizer, index, _shape("bart-large-shape", made))
    decoding_way(model)
    length = 3 if made.small else 10
    results: dict[str, Any] = {"tokens": index.num_tokens}
    for num_queries, beams in [(2, 3)] if made.small else [(10, 15), (10, 50), (100, 15), (100, 50)]:
        queries = made.queries(num_queries)
        with generation_mode(model) as ready:
            ready.generation_config = transformers.GenerationConfig(
                decoder_start_token_id=student_of(ready).start_token_id
            )
            prompts = tokenizer.pad(
                {"input_ids": identifiers.encode_prompts(queries, "substring")}, return_tensors="pt"
            ).to(made.device)
            settings = transformers.GenerationConfig(
                num_beams=beams, do_sample=False, max_new_tokens=length, early_stopping="never", length_penalty=0.0
            )

            def free(ready: Any = ready, prompts: Any = prompts, settings: Any = settings) -> None:
                ready.generate(
                    input_ids=prompts["input_ids"], attention_mask=prompts["attention_mask"],
                    generation_config=settings,
                )  # fmt: skip

            def bound(where: str, ready: Any = ready, queries: Any = queries, beams: int = beams) -> None:
                search_views(ready, index, identifiers, queries, {"substring": length}, beams, constraint_device=where)

            sides = {"free": free, "host": lambda: bound("host"), "device": lambda: bound("model")}
            row: dict[str, Any] = {}
            for name, run in sides.items():
                try:
                    row[name] = {"ms_per_step": round(1000 * made.median(run) / length, 2), **made.kernels(run)}
                except torch.cuda.OutOfMemoryError:
                    torch.cuda.empty_cache()
                    row[name] = {"out_of_memory": True}
            row["asked_host"] = _asked_host(sides["device"])
        for name in ("host", "device"):
            both = row[name].get("ms_per_step"), row["free"].get("ms_per_step")
            row[f"{name}_overhead"] = round(both[0] / both[1], 3) if all(both) else None
        results[f"{num_queries} queries, {beams} beams"] = row
    return results


def _asked_host(run: Callable[[], None]) -> int:
    """In how many steps the host's index was asked although the search has the device's."""
    asked = 0
    fetched = device_children.fetched

    def counted(proposals: Any) -> Any:
        nonlocal asked
        found = fetched(proposals)
        asked += any(one is not None and known is None for one, known in zip(proposals, found, strict=True))
        return found

    with mock.patch.object(beam_search, "fetched", counted):
        run()
    return asked


def candidates(made: Made) -> dict[str, Any]:
    """Queries a second of a search for candidates."""
    tokenizer = made.tokenizer()
    identifiers = Identifiers(tokenizer)
    index = made.index(identifiers)
    model = made.student(tokenizer, index, _shape("bart-large-shape", made))
    number = 3 if made.small else 200
    queries = {f"q{n}": query for n, query in enumerate(made.queries(number))}
    results: dict[str, Any] = {"queries": number}
    for where in ("host", "model"):
        settings = SearchSettings(
            beam_size=3 if made.small else 15, title_length=15, pseudo_query_length=30,
            batch_size=2 if made.small else 50, constraint_device=where,
        )  # fmt: skip
        retriever = GenerativeRetriever(model, identifiers, index, settings=settings)
        retriever.candidates(dict(list(queries.items())[:2]), k=10)
        seconds = made.seconds(lambda retriever=retriever: retriever.candidates(queries, k=100))
        results[f"{'host' if where == 'host' else 'device'}_queries_per_s"] = round(number / seconds, 2)
    return results


def teacher(made: Made) -> dict[str, Any]:
    """Pairs a second of a cross-encoder."""
    folder = made.folder / "cross-encoder"
    tokenizer = made.tokenizer()
    if not folder.is_dir():
        torch.manual_seed(0)
        tiny = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
        config = transformers.BertConfig(
            vocab_size=len(tokenizer),
            num_labels=1,
            pad_token_id=tokenizer.pad_token_id,
            **(tiny if made.small else {}),
        )
        transformers.BertForSequenceClassification(config).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    number = 20 if made.small else 1000
    passages = [passage for _, passage in zip(range(number), made.passages(), strict=False)]
    corpus = Corpus.from_passages(passages)
    names = {f"q{n}": query for n, query in enumerate(made.queries(2 if made.small else 20))}
    pairs = Rankings({query: dict.fromkeys(corpus.ids, 0.0) for query in names})
    results: dict[str, Any] = {"pairs": len(names) * len(corpus)}
    for dtype in ("float32",) if made.device.type == "cpu" else ("float32", "bfloat16"):
        ranker = CrossEncoderTeacher(str(folder), corpus, dtype=dtype, progress=False, device=str(made.device))
        seconds = made.median(lambda ranker=ranker: ranker.rank(names, pairs))
        results[f"{dtype}_pairs_per_s"] = round(results["pairs"] / seconds, 1)
    return results


PIECES: dict[str, Callable[[Made], dict[str, Any]]] = {
    "constraint": constraint,
    "train-bart": lambda made: train("bart-large-shape", made),
    "decode": decode,
    "tests": tests,
    "train-t5": lambda made: train("t5-large-shape", made),
    "train-qwen3": lambda made: train("qwen3-0.6b-shape", made),
    "compile-bart": lambda made: compiled("bart-large-shape", made),
    "candidates": candidates,
    "teacher": teacher,
}


# Running them


def main(arguments: list[str] | None = None) -> None:
    options = parse(arguments)
    if options.list:
        for name in PIECES:
            finished = options.output is not None and _finished(options.output, name)
            print(f"{name:14} {'finished' if finished else ''}".rstrip())
        return
    if options.output is None:
        sys.exit("gpu.py needs --output, the folder of the results.")
    if options.piece:
        _work(options)
        return
    options.output.mkdir(parents=True, exist_ok=True)
    given = sys.argv[1:] if arguments is None else arguments
    began = time.monotonic()
    failed = []
    for name in options.pieces:
        left = LIMIT_S if options.minutes is None else 60 * options.minutes - (time.monotonic() - began)
        if _finished(options.output, name):
            print(f"{name}: finished before", flush=True)
        elif left <= 0:
            print(f"{name}: no time left", flush=True)
        elif not _run(name, given, options.output, min(LIMIT_S, left)):
            failed.append(name)
        _summarise(options.output)
    print((options.output / "table.md").read_text())
    if failed:
        sys.exit(f"Not finished: {', '.join(failed)}. See their .log in {options.output}; the same call tries again.")


def _finished(output: Path, name: str) -> bool:
    return (output / f"{name}.json").is_file()


def _run(name: str, given: list[str], output: Path, limit: float) -> bool:
    """Run a piece in a process of its own."""
    began = time.monotonic()
    with (output / f"{name}.log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, __file__, *given, "--piece", name], stdout=log, stderr=subprocess.STDOUT
        )
        try:
            code: int | str = process.wait(limit)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            code = f"stopped after {limit:.0f} s"
    told = "finished" if code == 0 else f"failed ({code})"
    print(f"{name}: {told}, {time.monotonic() - began:.0f} s", flush=True)
    return code == 0


def _work(options: argparse.Namespace) -> None:
    """What the process of a piece does."""
    torch.manual_seed(0)
    made = Made(options)
    began = time.perf_counter()
    found = PIECES[options.piece](made)
    gpu = made.device.type == "cuda"
    facts = {
        "device": torch.cuda.get_device_name() if gpu else "cpu", "dtype": str(made.dtype).removeprefix("torch."),
        "torch": torch.__version__, "transformers": transformers.__version__, "python": platform.python_version(),
        "small": options.small, "piece_seconds": round(time.perf_counter() - began, 1),
    }  # fmt: skip
    file = options.output / f"{options.piece}.json"
    file.with_suffix(".tmp").write_text(json.dumps({"facts": facts, "found": found}, indent=1))
    file.with_suffix(".tmp").replace(file)


def _summarise(output: Path) -> None:
    """Write the results of all finished pieces into one file and one table."""
    results = {name: json.loads((output / f"{name}.json").read_text()) for name in PIECES if _finished(output, name)}
    (output / "results.json").write_text(json.dumps(results, indent=1))
    lines = ["| piece | measured | value |", "|---|---|---|"]
    for name, result in results.items():
        facts = result["facts"]
        lines.append(f"| **{name}** | {facts['device']}, {facts['dtype']}, torch {facts['torch']} | |")
        lines += [f"| | {label} | {value} |" for label, value in _flat(result["found"])]
    (output / "table.md").write_text("\n".join(lines) + "\n")


def _flat(values: dict[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{before}{name}: ")
        else:
            yield f"{before}{name.replace('_', ' ')}", value


if __name__ == "__main__":
    main()
