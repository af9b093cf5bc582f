"""What other libraries find wrong with the user's input is one line with exit code 2, not a bug."""

import json
import shutil

import pytest
import torch
from safetensors.torch import save_file

from dgr_trainer.cli.models import check_device, memory_advice
from dgr_trainer.errors import DGRMemoryError, DGRValueError, input_errors

TRAIN = "train --stage distillation --model {model} --output_dir {out} --use_cpu --max_steps 1 --report_to none"
TRAIN += " --queries {files}/queries.tsv --run {files}/best.trec --identifiers {files}/identifiers.tsv"


@pytest.fixture
def model(files, tmp_path):
    """A student of one's own, to be damaged."""
    return shutil.copytree(files / "bart", tmp_path / "model")


@pytest.fixture
def one_error(dgr, files, model, tmp_path):
    """Runs a command that has to fail with one line and exit code 2, and returns that line."""

    def run(command, *more):
        words = command.format(files=files, model=model, out=tmp_path / "out").split()
        found = dgr(*words, *more)
        *progress, last = found.err.splitlines()
        assert found.code == 2 and found.out == "", found.err
        assert last.startswith(f"dgr {words[0]}: error: ") and "Traceback" not in found.err, found.err
        return last

    return run


# Training arguments


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--eval_strategy", "sometimes"), "invalid choice: 'sometimes'"),
        (("--per_device_train_batch_size", "0"), "--per_device_train_batch_size 0 has to be at least 1"),
        (("--gradient_accumulation_steps", "0"), "--gradient_accumulation_steps 0 has to be at least 1"),
        (("--dataloader_num_workers", "-1"), "--dataloader_num_workers -1 has to be at least 0"),
        (("--seed", "-1"), "--seed -1 has to be at least 0"),
        (("--seed", str(2**32)), "has to be less than 2**32"),
        (("--eval_strategy", "epoch"), "--eval_strategy epoch: there is nothing to evaluate on. Give --eval_queries"),
        (("--use_liger_kernel",), "pip install liger-kernel"),
        (("--torch_compile", "--torch_compile_backend", "best"), "cannot use these options: 'BEST' is not a valid"),
        (("--load_best_model_at_end",), "cannot use these options: --load_best_model_at_end requires"),
        (("--lr_scheduler_kwargs", "{bad"), "cannot use these options"),
        (("--accelerator_config", '{"unknown": 1}'), "cannot use these options"),
        (("--accelerator_config", "no.json"), "No such file or directory: 'no.json'"),
        (("--fsdp_config", '{"xla": 3, "min_num_params": "x"}', "--fsdp", "what"), "cannot use these options"),
        (("--report_to", "wizard"), "--report_to cannot be used: wizard is not supported"),
        (("--learning_rate", "-1"), "--optim adamw_torch_fused cannot be used with its options: Invalid learning"),
        (("--adam_beta1", "7"), "cannot be used with its options: Invalid beta parameter"),
        (("--optim", "galore_adamw"), "--optim galore_adamw cannot be used with its options"),
        (("--optim", "lion_8bit"), "--optim lion_8bit cannot be used with its options"),
        (("--lr_scheduler_kwargs", '{"unknown": 1}'), "--lr_scheduler_type linear cannot be used with its options"),
    ],
)
def test_training_arguments(one_error, tmp_path, options, message):
    found = one_error(TRAIN, *options)
    assert message in found
    assert not (tmp_path / "out" / "train.yaml").exists()


def test_dates_in_a_configuration(one_error, tmp_path):
    (tmp_path / "c.yaml").write_text("run_name: 2024-13-45\n")
    assert "c.yaml is not YAML: month must be in 1..12" in one_error(TRAIN, "--config", tmp_path / "c.yaml")


def test_a_hub_that_cannot_be_reached(one_error, monkeypatch):
    class ConnectError(Exception):
        """As of an HTTP library, whose errors are no `OSError`s."""

    def whoami(*arguments, **others):
        raise ConnectError("Name or service not known")

    monkeypatch.setattr("huggingface_hub.HfApi.whoami", whoami)
    assert "--push_to_hub: the hub cannot be used: Name or service" in one_error(TRAIN, "--push_to_hub")


def test_checkpoints(one_error, files, tmp_path):
    (tmp_path / "checkpoint").mkdir()
    state = tmp_path / "checkpoint" / "trainer_state.json"
    state.write_text("{")
    resume = ("--resume_from_checkpoint", tmp_path / "checkpoint")
    assert "trainer_state.json is damaged" in one_error(TRAIN, *resume)
    state.write_text("{}")
    assert "checkpoint is not a checkpoint: it has no weights" in one_error(TRAIN, *resume)
    weights = tmp_path / "checkpoint" / "model.safetensors"
    weights.write_text("damaged")
    assert "model.safetensors is damaged" in one_error(TRAIN, *resume)
    save_file({"model.shared.weight": torch.zeros(3, 3)}, weights)
    message = "a checkpoint of another model: its weight model.shared.weight has the shape (3, 3), not ("
    assert message in one_error(TRAIN, *resume)
    save_file({"model.other.weight": torch.zeros(3)}, weights)
    message = "a checkpoint of another model: the model has none of the weights in model.safetensors"
    assert message in one_error(TRAIN, *resume)


# Models


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("tokenizer.json", "{", "--model: the tokenizer of"),
        ("tokenizer_config.json", "[", "--model: the tokenizer of"),
        ("config.json", '{"model_type": "unheard-of"}', "--model: "),
        ("config.json", '{"model_type": "bert"}', "As a BertLMHeadModel it would compute with random weights"),
        ("model.safetensors", "damaged", "cannot be loaded"),
    ],
)
def test_damaged_models(one_error, model, file, content, message):
    (model / file).write_text(content)
    assert message in one_error(TRAIN)


def test_modules_that_the_model_lacks(one_error):
    found = one_error(TRAIN, "--lora_r", 2, "--lora_target_modules", "nothing")
    assert "--lora_r 2: no adapter can be added to" in found and "Target modules {'nothing'} not found" in found


def test_a_model_that_is_not_an_encoder_decoder(one_error, model):
    (model / "config.json").write_text('{"model_type": "bert"}')
    command = "pseudo_queries {files}/corpus.jsonl --model {model} --output {out}"
    assert "cannot be loaded: Unrecognized configuration class" in one_error(command)


# Devices and memory


def test_devices(one_error):
    command = "pseudo_queries {files}/corpus.jsonl --model {model} --output {out} --device"
    assert "--device gpu cannot be used: Expected one of cpu, cuda" in one_error(command, "gpu")
    with pytest.raises(DGRValueError, match="--device cuda:99 cannot be used"):
        check_device("cuda:99")
    check_device("cpu")
    check_device(None)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory."),
        MemoryError(),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 4 bytes."),
    ],
)
def test_memory(error):
    with pytest.raises(DGRMemoryError, match=r"There is not enough memory \(.*emory.*\)\. Lower it\."):
        with memory_advice("Lower it."):
            raise error
    with pytest.raises(RuntimeError, match="something else"):
        with memory_advice("Lower it."):
            raise RuntimeError("something else")


# Saved folders


@pytest.fixture(scope="module")
def retriever(files, tmp_path_factory):
    from tiny_models import bpe_tokenizer, make_bart

    from dgr_trainer import Corpus, FMIndex, GenerativeRetriever, Identifiers

    identifiers = Identifiers(bpe_tokenizer())
    corpus = Corpus.read(files / "corpus.jsonl")
    index = FMIndex.from_corpus(corpus, identifiers, progress=False)
    folder = tmp_path_factory.mktemp("made") / "retriever"
    GenerativeRetriever(make_bart(identifiers.tokenizer), identifiers, index, corpus=corpus).save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("retriever.json", "{", "retriever.json is damaged: Expecting property name"),
        ("retriever.json", "[]", "retriever.json is damaged: it holds a list"),
        ("tokenizer.json", "{", "The tokenizer at"),
        ("model.safetensors", "damaged", "The model at"),
        ("corpus/corpus.json", "{", "corpus.json is damaged: Expecting property name"),
        ("corpus/state.json", "{}", "corpus is damaged: '_data_files'"),
    ],
)
def test_damaged_retrievers(one_error, retriever, tmp_path, file, content, message):
    shutil.copytree(retriever, tmp_path / "retriever")
    (tmp_path / "retriever" / file).write_text(content)
    assert message in one_error(f"search {tmp_path / 'retriever'} query")


def test_damaged_pairs(one_error, tmp_path):
    (tmp_path / "pairs").mkdir()
    for name in ("state.json", "dataset_info.json"):
        (tmp_path / "pairs" / name).write_text("{")
    command = "train --stage generation --model {model} --output_dir {out} --pairs"
    assert f"--pairs: {tmp_path / 'pairs'} cannot be read" in one_error(command, tmp_path / "pairs")


def test_data_sets_that_cannot_be_loaded(one_error, tmp_path):
    (tmp_path / "queries.parquet").write_text("damaged")
    for source in (f"hf:{tmp_path / 'queries.parquet'}", tmp_path / "queries.parquet"):
        assert "queries.parquet" in one_error(
            "rank --teacher bm25 --corpus {files}/corpus.jsonl --output {out} --queries", source
        )


def test_saved_datasets_that_are_damaged(one_error, tmp_path):
    (tmp_path / "queries").mkdir()
    for name in ("state.json", "dataset_info.json"):
        (tmp_path / "queries" / name).write_text("{")
    command = "rank --teacher bm25 --corpus {files}/corpus.jsonl --output {out} --queries"
    assert f"The dataset at {tmp_path / 'queries'} is damaged" in one_error(command, tmp_path / "queries")


def test_only_the_named_errors_are_those_of_the_input():
    with pytest.raises(DGRValueError, match="--x 1: it is bad and wrong") as raised:
        with input_errors("--x 1", ValueError):
            raise ValueError("it is bad\n  and wrong")
    assert isinstance(raised.value.__cause__, ValueError)
    with pytest.raises(IndexError), input_errors("--x 1", ValueError):
        raise IndexError
    with pytest.raises(FileNotFoundError), input_errors("--x 1", Exception):
        raise FileNotFoundError
    with pytest.raises(json.JSONDecodeError), input_errors("--x 1", KeyError):
        json.loads("{")
