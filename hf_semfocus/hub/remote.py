"""A repository on the Hub: its state, and atomic commits."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
from huggingface_hub.errors import RepositoryNotFoundError

from ..hub_client import shielded
from .staging import README, files

# from_pretrained would prefer these to new weights in other files
WEIGHTS = re.compile(r"(model(-\d+-of-\d+)?\.safetensors|model\.safetensors\.index\.json)")


@dataclass(frozen=True)
class State:
    """State of a repository; ``private`` and ``commit`` are None where it does not exist."""

    private: bool | None
    commit: str | None
    files: tuple[str, ...]


class Remote:
    """A model repository, accessed with one token.

    Args:
        repo_id: ``owner/name``.
        token: access token; None for anonymous access.
    """

    def __init__(self, repo_id: str, token: str | None):
        self.repo_id = repo_id
        self.token = token
        self.api = HfApi(token=token or False, library_name="hf_semfocus")

    def state(self) -> State:
        """The current state.

        Raises:
            HubError: the request failed.
        """

        def ask() -> State:
            try:
                info = self.api.model_info(self.repo_id)
            except RepositoryNotFoundError:
                return State(None, None, ())
            return State(bool(info.private), info.sha, tuple(file.rfilename for file in info.siblings or ()))

        return shielded(f"reading the state of {self.repo_id!r}", self.token, ask)

    def readme(self, state: State, folder: Path) -> str | None:
        """The card in that state, downloaded into ``folder``; None if there is none.

        Raises:
            HubError: the download failed.
            ValueError: it is not UTF-8 text.
        """
        if README not in state.files:
            return None
        path = shielded(
            f"reading the card of {self.repo_id!r}",
            self.token,
            lambda: self.api.hf_hub_download(self.repo_id, README, revision=state.commit, local_dir=folder),
        )
        try:
            return Path(path).read_bytes().decode("utf-8")
        except UnicodeDecodeError as error:
            raise ValueError(f"the README.md of {self.repo_id!r} is not UTF-8 text ({error}); fix it there") from None

    def create(self, private: bool) -> None:
        """Create the repository.

        Raises:
            HubError: the request failed, or the repository exists meanwhile.
        """
        shielded(
            f"creating {self.repo_id!r}",
            self.token,
            lambda: self.api.create_repo(self.repo_id, private=private),
        )

    def commit(self, folder: Path, state: State, message: str, outdated: Collection[str] = ()) -> str:
        """Commit all files at once on top of ``state``; no commit if nothing changes.

        ``upload_folder`` is not used because it may split a large folder into several commits.

        Args:
            folder: the new files.
            state: the current state; the commit fails if that has changed.
            message: the commit message.
            outdated: files to delete unless they are among the new ones.

        Returns:
            The revision that now holds the files.

        Raises:
            HubError: nothing was committed, or the answer was lost; trying again is safe in both cases.
        """
        new = files(folder)
        operations = [CommitOperationAdd(path_in_repo=name, path_or_fileobj=folder / name) for name in new]
        replaced = [name for name in state.files if WEIGHTS.fullmatch(name) or name in outdated]
        info = shielded(
            f"publishing {self.repo_id!r}",
            self.token,
            lambda: self.api.create_commit(
                self.repo_id,
                [*operations, *(CommitOperationDelete(path_in_repo=name) for name in replaced if name not in new)],
                commit_message=message,
                parent_commit=state.commit,
            ),
        )
        return info.oid
