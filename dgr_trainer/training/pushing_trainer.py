"""Uploads of a trainer: as transformers makes them, with this library's model card, the index, and no pickles."""

import logging
import shutil
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any, cast

from huggingface_hub import HfApi
from torch import nn
from transformers import Seq2SeqTrainer
from transformers.trainer_utils import HubStrategy, SaveStrategy
from transformers.utils.hub import PushInProgress

from dgr_trainer.files.atomic import atomic_write
from dgr_trainer.hub.errors import UPLOADED, hub_errors
from dgr_trainer.hub.file_names import LOCAL_FILES, PICKLES
from dgr_trainer.hub.model_card import (
    UNKNOWN_LICENSE,
    check_license,
    license_of,
    listed,
    write_card,
    written_by_somebody,
)
from dgr_trainer.hub.repositories import CARD, hub_client
from dgr_trainer.training.arguments import DistillationTrainingArguments
from dgr_trainer.training.model_card import training_card

logger = logging.getLogger(__name__)

_RETRIEVER = "retriever.json"
# Of a checkpoint, what is a model or its tokenizer.
_MODEL_FILES = (".json", ".safetensors", ".txt", ".model", ".jinja", ".tiktoken")
_STATE_FILES = ("trainer_state.json",)
# What `dgr train` writes into the folder of a training: the same model once more, and options with paths of this disk.
_OF_COMMANDS = ("retriever/*", "model/*", "train.yaml", "dgr_run.json")
_NOT_UPLOADED = (
    *("_*", "checkpoint-*", *_OF_COMMANDS, *PICKLES, *LOCAL_FILES),
    *(f"*/{name}" for name in LOCAL_FILES),
)


class PushingTrainer(Seq2SeqTrainer):
    """The uploads of a trainer.

    Attributes:
        retrieval_evaluator (`Callable`, *optional*): See [`DistillationGenerativeRetrievalTrainer`].
        add_index (`Callable`, *optional*): Called as `add_index(model, folder)` to make the folder of a saved model
            that of a retriever, before it is uploaded; by default the method of that name of the evaluator.
    """

    args: DistillationTrainingArguments
    retrieval_evaluator: Any
    add_index: Callable[[nn.Module, Path], None] | None = None

    @property
    def _folder(self) -> Path:
        return Path(str(self.args.output_dir))

    @cached_property
    def _hub(self) -> HfApi:
        return hub_client()

    def init_hf_repo(self, *args: Any, **kwargs: Any) -> None:
        """Create the repository as the parent does; its errors are told in a sentence."""
        with hub_errors(self.args.hub_model_id or self._folder.absolute().name, UPLOADED):
            super().init_hf_repo(*args, **kwargs)

    def create_model_card(
        self,
        language: str | list[str] | None = None,
        license: str | None = None,
        tags: str | list[str] | None = None,
        model_name: str | None = None,
        finetuned_from: str | None = None,
        tasks: str | list[str] | None = None,
        dataset_tags: str | list[str] | None = None,
        dataset: str | list[str] | None = None,
        dataset_args: str | list[str] | None = None,
    ) -> None:
        """Write the model card, `README.md`, to `args.output_dir`; on the main process.

        It names the loss, the teacher, the settings and the metrics of the last evaluation. Text that somebody wrote
        into the card before is kept.

        Args:
            language (`str` or `list[str]`, *optional*): Languages of queries and passages, such as `"en"`.
            license (`str`, *optional*): Identifier of the licence, such as `"apache-2.0"`. Without one, that of the
                card which is there; else `unknown`, and a warning says so.
            tags (`str` or `list[str]`, *optional*): Further tags.
            model_name (`str`, *optional*): Heading of the card; by default the name of the repository.
            finetuned_from (`str`, *optional*): Name on the Hub of the model that was trained; by default the one that
                the model was loaded from.
            tasks (`str` or `list[str]`, *optional*): Further tags: what the model is for.
            dataset_tags (`str` or `list[str]`, *optional*): Names on the Hub of the training data.
            dataset (`str` or `list[str]`, *optional*): The same.
            dataset_args (`str` or `list[str]`, *optional*): Not used; models of this library are trained on queries,
                rank lists and passages of their own.

        Raises:
            ValueError: if `license` is not an identifier, or the metadata of the card which is there cannot be read.
        """
        if not self.is_world_process_zero():
            return
        check_license(license)
        folder = self._folder
        existing = (folder / CARD).read_text(encoding="utf-8") if (folder / CARD).is_file() else None
        existing = written_by_somebody(existing)
        if license is None and license_of(existing) in (None, UNKNOWN_LICENSE):
            logger.warning(
                'The model card says "license: %s", since no licence was given. Call push_to_hub(license=...), or '
                "write it into README.md.",
                UNKNOWN_LICENSE,
            )
        facts = training_card(
            self,
            self.hub_model_id or self.args.hub_model_id or folder.absolute().name,
            title=model_name,
            is_retriever=(folder / _RETRIEVER).is_file(),
            license=license,
            language=listed(language),
            tags=[*listed(tags), *listed(tasks)],
            datasets=list(dict.fromkeys([*listed(dataset), *listed(dataset_tags)])),
            base_model=finetuned_from,
        )
        folder.mkdir(parents=True, exist_ok=True)
        with atomic_write(folder / CARD) as file:
            file.write(write_card(facts, existing))

    def push_to_hub(
        self,
        commit_message: str | None = "End of training",
        blocking: bool = True,
        token: str | None = None,
        revision: str | None = None,
        private: bool | None = None,
        **kwargs: Any,
    ) -> Any:
        """Upload model, tokenizer and model card to the repository `args.hub_model_id`, as the parent does.

        With a [`RetrievalEvaluator`], its index is uploaded, too, and the repository is one that
        [`GenerativeRetriever`] loads by its name. Pickles are not uploaded (`training_args.bin`), except for the state
        of checkpoints that `args.hub_strategy` asks for. Every process has to call this.

        Args:
            commit_message (`str`, *optional*): Message of the commit.
            blocking (`bool`, *optional*, defaults to `True`): Whether to wait until all is uploaded.
            token (`str`, *optional*): Token for the Hub; by default `args.hub_token`, or that of `hf auth login`.
            revision (`str`, *optional*): Branch; by default `args.hub_revision`.
            private (`bool`, *optional*): Whether the repository is private, if it is created.
            kwargs (`dict[str, Any]`, *optional*): Arguments of `create_model_card`, such as `license`.

        Returns:
            [`~huggingface_hub.CommitInfo`]: the commit, or a future of it; `None` in all processes but the main one.

        Raises:
            PermissionError: if you are not logged in, or the token does not allow it.
            ConnectionError: if the Hub cannot be reached.
        """
        self.callback_handler.on_push_begin(self.args, self.state, self.control)
        token = self.args.hub_token if token is None else token
        if self.hub_model_id is None:  # If it is called with args.push_to_hub=False.
            kept = self.args.hub_private_repo
            self.args.hub_private_repo = kept if private is None else private
            try:
                self.init_hf_repo(token=token)
            finally:
                self.args.hub_private_repo = kept
        self.save_model(_internal_call=True)
        if not self.is_world_process_zero():
            return None
        self._add_index(self._folder)
        self.create_model_card(**kwargs)
        self._finish_current_push()
        with hub_errors(str(self.hub_model_id), UPLOADED):
            return self._upload(str(commit_message), token, revision, run_as_future=not blocking)

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        """Upload the model of a checkpoint, and the checkpoint if `args.hub_strategy` asks for it, meanwhile."""
        strategy = self.args.hub_strategy
        if not self.is_world_process_zero() or strategy == HubStrategy.END:
            return
        going_on: Any = self.push_in_progress
        pushing = going_on is not None and not going_on.is_done()
        if pushing and not self.args.hub_always_push:
            return
        self.callback_handler.on_push_begin(self.args, self.state, self.control)
        folder = self._folder
        for file in sorted(Path(checkpoint_folder).iterdir()):
            if file.suffix in _MODEL_FILES and file.name not in _STATE_FILES:
                shutil.copy(file, folder / file.name)
        self._add_index(folder)
        self.create_model_card()
        message = f"Training in progress, epoch {int(self.state.epoch or 0)}"
        if self.args.save_strategy == SaveStrategy.STEPS:
            message = f"Training in progress, step {self.state.global_step}"
        jobs = [self._upload(message, self.args.hub_token, None, run_as_future=True)]
        if strategy in (HubStrategy.CHECKPOINT, HubStrategy.ALL_CHECKPOINTS):
            last = strategy == HubStrategy.CHECKPOINT
            jobs.append(
                self._hub.upload_folder(
                    repo_id=str(self.hub_model_id),
                    folder_path=checkpoint_folder,
                    path_in_repo="last-checkpoint" if last else Path(checkpoint_folder).name,
                    commit_message=f"{message}, checkpoint",
                    token=self.args.hub_token,
                    run_as_future=True,
                    ignore_patterns=["training_args.bin", CARD],
                    revision=self.args.hub_revision,
                )
            )
        if pushing:
            going_on.jobs.extend(jobs)
        else:
            in_progress: Any = PushInProgress(cast(Any, jobs))
            self.push_in_progress = in_progress

    def _upload(self, message: str, token: str | None, revision: str | None, *, run_as_future: bool) -> Any:
        upload: Any = self._hub.upload_folder  # Its overloads do not take a bool.
        return upload(
            repo_id=str(self.hub_model_id),
            folder_path=str(self._folder),
            commit_message=message,
            token=token,
            run_as_future=run_as_future,
            ignore_patterns=list(_NOT_UPLOADED),
            # Segments of an index that was there before.
            delete_patterns=["index/*"] if (self._folder / _RETRIEVER).is_file() else None,
            revision=self.args.hub_revision if revision is None else revision,
        )

    def _add_index(self, folder: Path) -> None:
        """Make the saved model a retriever, if there is an index."""
        evaluator = getattr(self, "retrieval_evaluator", None)
        add_index = self.add_index or getattr(evaluator, "add_index", None)
        if add_index is not None:
            add_index(self.accelerator.unwrap_model(self.model), folder)
