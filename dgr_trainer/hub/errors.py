"""What the Hub answers when something cannot be done, in one sentence that says what to do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from huggingface_hub import constants
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    LocalTokenNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from dgr_trainer.errors import DGRError, DGRRuntimeError, DGRValueError, one_line

UPLOADED = "uploaded to"
"""The action of an upload, which needs a user."""
LOG_IN = "Log in with `hf auth login`, or pass a token"
# httpx or its successor, by the version of huggingface_hub.
_NETWORK_ERROR: type[Exception] = HfHubHTTPError.__bases__[0]


@contextmanager
def hub_errors(repo_id: str, action: str) -> Iterator[None]:
    """Turn what huggingface_hub raises into an error of one sentence that says what to do.

    Args:
        repo_id (`str`): The repository.
        action (`str`): What was to be done with it, as in "cannot be {action}": `"uploaded to"`, `"downloaded"`.

    Raises:
        FileNotFoundError: if there is no such repository or revision, or none in the cache.
        PermissionError: if the user is not logged in, or may not do this.
        ConnectionError: if the Hub cannot be reached, or `HF_HUB_OFFLINE` is set.
        ValueError: if the name is not one of a repository.
        RuntimeError: if the Hub answers with another error.
    """
    try:
        yield
    except DGRError:
        raise
    except Exception as error:
        told = _told(error, repo_id, f"{repo_id} cannot be {action}", action == UPLOADED)
        if told is None:
            raise
        raise told from error


def unreachable(error: BaseException) -> bool:
    """Whether an error says that the Hub was not reached, or was not able to answer."""
    if isinstance(error, HfHubHTTPError):
        return _status(error) >= 500
    return isinstance(error, (OfflineModeIsEnabled, _NETWORK_ERROR))


def _told(error: BaseException, repo_id: str, start: str, upload: bool) -> Exception | None:
    if isinstance(error, HFValidationError):
        return DGRValueError(f"{start}: this is not the name of a repository ({one_line(error)}). Give user/name.")
    if isinstance(error, OfflineModeIsEnabled):
        return ConnectionError(f"{start}: HF_HUB_OFFLINE is set, so that the Hub is not asked. Unset it.")
    if isinstance(error, LocalTokenNotFoundError):
        return PermissionError(f"{start}: you are not logged in. {LOG_IN}.")
    if isinstance(error, HfHubHTTPError):
        return _answer(error, repo_id, start, upload)
    if isinstance(error, LocalEntryNotFoundError):
        cause = error.__cause__
        if cause is None or isinstance(cause, OfflineModeIsEnabled):
            return FileNotFoundError(
                f"{start}: the Hub is not asked (local_files_only or HF_HUB_OFFLINE), and the cache does not have all "
                "of it. Download it once while the Hub may be asked."
            )
        return _told(cause, repo_id, start, upload) or DGRRuntimeError(f"{start}: {one_line(error)}")
    if isinstance(error, _NETWORK_ERROR):
        return ConnectionError(
            f"{start}: the Hub at {constants.ENDPOINT} does not answer ({one_line(error)}). Check the connection, "
            "then repeat the call: files that were transferred are not sent again."
        )
    # An upload of a large file that failed is a RuntimeError or a ValueError about it.
    return None if error.__cause__ is None else _told(error.__cause__, repo_id, start, upload)


def _answer(error: HfHubHTTPError, repo_id: str, start: str, upload: bool) -> Exception:
    """The error for an answer of the Hub that is not a success."""
    status, page = _status(error), f"{constants.ENDPOINT}/{repo_id}"
    if isinstance(error, GatedRepoError):
        return PermissionError(
            f"{start}: it is gated, and its owner has not given you access. Ask for it at {page}. {LOG_IN}."
        )
    if isinstance(error, RevisionNotFoundError):
        return FileNotFoundError(f"{start}: it has no such revision. {page} lists its branches, tags and commits.")
    # A repository that is asked for without a user may be a private one.
    if status == 401 and (upload or not isinstance(error, RepositoryNotFoundError)):
        return PermissionError(f"{start}: you are not logged in, or the token is not valid. {LOG_IN}.")
    if isinstance(error, RepositoryNotFoundError) or status == 404:
        return FileNotFoundError(
            f"{start}: the Hub has no such repository, or it is private and you may not see it. Check the name. "
            f"{LOG_IN} if it is private."
        )
    if status == 403:
        return PermissionError(
            f"{start}: the token does not allow it. {LOG_IN} that may write there, or give a repository of yours."
        )
    said = error.server_message or one_line(error)
    return DGRRuntimeError(f"{start}: the Hub answers {status} ({' '.join(said.split())}). Try it again later.")


def _status(error: HfHubHTTPError) -> int:
    response: Any = error.response
    return 0 if response is None else int(response.status_code)
