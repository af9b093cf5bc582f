"""Repositories of the Hub: a folder is uploaded as a commit; a commit is downloaded to the cache or a folder."""

from __future__ import annotations

import glob
import logging
import os
import shutil
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from huggingface_hub import CommitInfo, HfApi, constants, snapshot_download
from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError
from huggingface_hub.utils._validators import validate_repo_id

from dgr_trainer._version import __version__
from dgr_trainer.errors import DGRValueError
from dgr_trainer.hub.errors import UPLOADED, hub_errors, unreachable
from dgr_trainer.hub.file_names import PICKLES, TRAINING_STATE, check_names, matches_any

logger = logging.getLogger(__name__)

CARD = "README.md"
_LIBRARY = "dgr-trainer"
_IGNORED = [*PICKLES, *TRAINING_STATE, "*verified.json"]


def hub_client(token: str | bool | None = None) -> HfApi:
    """A client that tells the Hub which library asks."""
    return HfApi(token=token, library_name=_LIBRARY, library_version=__version__)


def is_repo_id(name: str) -> bool:
    """Whether a name may be that of a repository, and not only a path on the disk."""
    if name.startswith(("/", ".", "~")) or os.path.isabs(name):
        return False
    try:
        validate_repo_id(name)
    except ValueError:
        return False
    return True


@dataclass(frozen=True)
class HubRepository:
    """A repository of models, at a revision.

    Args:
        repo_id (`str`): `user/name`; without a user that of the token.
        revision (`str`, *optional*): Branch, tag or commit; by default `main`.
        token (`str` or `bool`, *optional*): Token; by default the one of `hf auth login` or of `HF_TOKEN`.
    """

    repo_id: str
    revision: str | None = None
    token: str | bool | None = None

    @property
    def api(self) -> HfApi:
        """The client."""
        return hub_client(self.token)

    # Up

    def with_owner(self) -> HubRepository:
        """The same with the user in its name. Raises a `PermissionError` if nobody is logged in."""
        with hub_errors(self.repo_id, UPLOADED):
            validate_repo_id(self.repo_id)
            if "/" in self.repo_id:
                return self
            return HubRepository(f"{self.api.whoami()['name']}/{self.repo_id}", self.revision, self.token)

    def existing_card(self) -> str | None:
        """The text of the README.md that the repository has; `None` if it has none, or does not exist yet.

        A branch that is to be made begins as a copy of the main one.
        """
        with hub_errors(self.repo_id, UPLOADED):
            try:
                if CARD not in self._info()[1]:
                    return None
            except RevisionNotFoundError:
                return replace(self, revision=None).existing_card()
            except RepositoryNotFoundError as error:
                if error.response.status_code == 401:  # Nobody is logged in.
                    raise
                return None
            file = self.api.hf_hub_download(self.repo_id, CARD, revision=self.revision)
        return Path(file).read_text(encoding="utf-8")

    def upload(
        self,
        folder: Path,
        names: Sequence[str],
        *,
        replaces: Sequence[str] = (),
        private: bool | None = None,
        commit_message: str,
        commit_description: str | None = None,
        create_pr: bool = False,
    ) -> CommitInfo:
        """Upload files of a folder; those that the repository has already are not sent again.

        Args:
            folder (`pathlib.Path`): The folder.
            names (`Sequence[str]`): Names of its files, with slashes.
            replaces (`Sequence[str]`, *optional*): Names or patterns: a file of the repository that matches one, and
                is not among the uploaded ones, is deleted by the same commit.
            private (`bool`, *optional*): Whether the repository is private, if it is created here.
            commit_message (`str`): Message of the commit.
            commit_description (`str`, *optional*): More about it.
            create_pr (`bool`, *optional*, defaults to `False`): Whether to open a pull request.

        Returns:
            [`~huggingface_hub.CommitInfo`]: the commit.
        """
        api = self.api
        with hub_errors(self.repo_id, UPLOADED), warnings.catch_warnings():
            # A corpus is a data file that belongs to the model.
            warnings.filterwarnings("ignore", message=".*about to commit a data file")
            api.create_repo(self.repo_id, private=private, exist_ok=True)
            if self.revision is not None and not self.revision.startswith("refs/pr/"):
                api.create_branch(self.repo_id, branch=self.revision, exist_ok=True)
            return api.upload_folder(
                repo_id=self.repo_id,
                folder_path=folder,
                revision=self.revision,
                allow_patterns=[glob.escape(name) for name in names],
                delete_patterns=list(replaces) or None,
                commit_message=commit_message,
                commit_description=commit_description,
                create_pr=create_pr,
            )

    # Down

    def download(
        self,
        needed: Sequence[str],
        *,
        cache_dir: str | os.PathLike[str] | None = None,
        local_files_only: bool = False,
        force_download: bool = False,
    ) -> Path:
        """Download a revision, after its list of files was checked. Files that are here already are not sent again.

        If the Hub cannot be reached, what the cache has is used.

        Args:
            needed (`Sequence[str]`): Files without which the repository is not what is looked for.
            cache_dir (`str` or `os.PathLike`, *optional*): The cache; by default that of huggingface_hub.
            local_files_only (`bool`, *optional*, defaults to `False`): Whether not to ask the Hub.
            force_download (`bool`, *optional*, defaults to `False`): Whether to download what is here already.

        Returns:
            `pathlib.Path`: The folder.

        Raises:
            ValueError: if the repository holds a pickle, or a name that is not a path within a folder.
            FileNotFoundError: if a needed file is missing.
        """
        local_files_only = local_files_only or constants.HF_HUB_OFFLINE
        if not local_files_only:
            try:
                self._check(self._info()[1], needed)
            except Exception as error:
                with hub_errors(self.repo_id, "downloaded"):
                    if not unreachable(error) or not self._is_cached(cache_dir):
                        raise
                logger.warning("%s: the Hub cannot be reached; using what the cache has.", self.repo_id)
                local_files_only = True
        with hub_errors(self.repo_id, "downloaded"):
            folder = Path(self._snapshot(cache_dir, local_files_only, force_download))
        # The repository may have changed since it was listed, and the cache may be older than that.
        self._check(_files_of(folder), needed)
        return folder

    def download_to(self, folder: Path, needed: Sequence[str]) -> None:
        """Download a revision to a folder, after its list of files was checked; goes on from what is there already.

        Args:
            folder (`pathlib.Path`): The folder.
            needed (`Sequence[str]`): See `download`.

        Raises:
            ValueError, FileNotFoundError: see `download`.
        """
        with hub_errors(self.repo_id, "downloaded"):
            # A commit, so that the files are of one even if another is made meanwhile.
            commit, names = self._info()
        self._check(names, needed)
        with hub_errors(self.repo_id, "downloaded"):
            replace(self, revision=commit)._snapshot(None, False, False, folder)
        wanted = {name for name in names if not matches_any(name, _IGNORED)}
        for name in set(_files_of(folder)) - wanted:  # Of another commit, whose download was not finished.
            (folder / name).unlink()
        shutil.rmtree(folder / ".cache", ignore_errors=True)
        missing = sorted(wanted - set(_files_of(folder)))
        if missing:
            raise ConnectionError(
                f"{self.repo_id} cannot be downloaded: {missing[0]} was not sent. Repeat the call: files that were "
                "transferred are not sent again."
            )

    def _info(self) -> tuple[str | None, list[str]]:
        """The commit of the revision, and the names of its files."""
        info = self.api.model_info(self.repo_id, revision=self.revision)
        return info.sha, [file.rfilename for file in info.siblings or ()]

    def _check(self, names: Sequence[str], needed: Sequence[str]) -> None:
        where = self.repo_id if self.revision is None else f"{self.repo_id} at {self.revision}"
        check_names(names, where)
        missing = [name for name in needed if name not in names]
        if missing:
            raise FileNotFoundError(
                f"{where} has no {missing[0]}, so it is not a retriever that push_to_hub or `dgr push` uploaded. "
                f"It holds {', '.join(sorted(names)[:5]) or 'no files'}."
            )

    def _is_cached(self, cache_dir: str | os.PathLike[str] | None) -> bool:
        try:
            self._snapshot(cache_dir, True, False)
        except FileNotFoundError:
            return False
        return True

    def _snapshot(
        self,
        cache_dir: str | os.PathLike[str] | None,
        local_only: bool,
        force: bool,
        local_dir: Path | None = None,
    ) -> str:
        return snapshot_download(
            self.repo_id,
            revision=self.revision,
            cache_dir=None if cache_dir is None else str(cache_dir),
            local_dir=None if local_dir is None else str(local_dir),
            token=self.token,
            local_files_only=local_only,
            force_download=force,
            ignore_patterns=list(_IGNORED),
            library_name=_LIBRARY,
            library_version=__version__,
        )


def _files_of(folder: Path) -> list[str]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return [name for path in files if not (name := path.relative_to(folder).as_posix()).startswith(".cache/")]


def check_repo_id(repo_id: str) -> None:
    """Raise a `ValueError` if this is not the name of a repository."""
    if not is_repo_id(repo_id):
        raise DGRValueError(f"{repo_id!r} is not the name of a repository of the Hub. Give user/name.")
