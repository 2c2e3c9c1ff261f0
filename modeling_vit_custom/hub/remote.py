"""The Hub as seen from here: what it lists, how long we wait for it, and what its errors mean, in a sentence."""

import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from huggingface_hub import HfApi
from huggingface_hub import get_token
from huggingface_hub.errors import EntryNotFoundError
from huggingface_hub.errors import GatedRepoError
from huggingface_hub.errors import HfHubHTTPError
from huggingface_hub.errors import LocalEntryNotFoundError
from huggingface_hub.errors import OfflineModeIsEnabled
from huggingface_hub.errors import RepositoryNotFoundError
from huggingface_hub.errors import RevisionNotFoundError
from huggingface_hub.hf_api import RepoFile

from .file_rules import git_blob
from .file_rules import sha256

try:
    from httpx2 import TransportError  # huggingface_hub 2
except ImportError:
    from httpx import TransportError  # type: ignore[no-redef]  # huggingface_hub 1

TRIES = 6
PASSING = (408, 425, 429, 500, 502, 503, 504)  # what may be gone in a moment
LOG_IN = "run `hf auth login`, or set HF_TOKEN"
Value = TypeVar("Value")


class HubProblem(Exception):
    """What went wrong, and what to do, in a sentence without secrets."""


def read_name(text: str) -> tuple[str, str]:
    """(owner/name, revision) of `owner/name[@revision]`; the main branch where none is named.

    Raises:
        HubProblem: it is none.
    """
    repo, at, revision = text.partition("@")
    one = r"(?!.*(--|\.\.))[A-Za-z0-9_][\w.-]{0,95}"
    if not re.fullmatch(f"{one}/{one}", repo, flags=re.ASCII) or (at and not revision):
        raise HubProblem(f"{text!r} is no name of a repository: write owner/name, or owner/name@revision.")
    return repo, revision or "main"


def check_tag(tag: str):
    """
    Raises:
        HubProblem: git does not take it, or it is the name of a branch.
    """
    good = re.fullmatch(r"[A-Za-z0-9][\w.-]*", tag, flags=re.ASCII) and ".." not in tag
    if not good or tag.endswith((".", ".lock")) or tag in ("main", "HEAD", "timm"):
        raise HubProblem(f"--tag {tag!r} cannot be a tag: use letters, digits, dots, dashes, and no branch's name.")


@dataclass(frozen=True)
class RemoteFile:
    """
    Args:
        blob: git's hash of it, or of its pointer where it is in LFS.
        sha256: of the file itself, where it is in LFS.
    """

    size: int
    blob: str
    sha256: str | None

    @property
    def hash(self) -> str:
        return self.sha256 or self.blob

    def is_file(self, path: Path) -> bool:
        """Whether `path` holds exactly these bytes."""
        if not path.is_file() or path.stat().st_size != self.size:
            return False
        return sha256(path) == self.sha256 if self.sha256 else git_blob(path) == self.blob


def listing(api: HfApi, repo: str, revision: str) -> dict[str, RemoteFile]:
    """{path: file} of all files at a revision."""
    found = {}
    for entry in api.list_repo_tree(repo, revision=revision, recursive=True):
        if isinstance(entry, RepoFile):
            found[entry.path] = RemoteFile(entry.size, entry.blob_id, entry.lfs.sha256 if entry.lfs else None)
    return found


def retried(task: Callable[[], Value], say: Callable[[str], None], what: str) -> Value:
    """The task's value; what may pass is waited for, `TRIES` times, as long as the server asks for."""
    for attempt in range(TRIES):
        try:
            return task()
        except Exception as error:
            if not passing(error) or attempt == TRIES - 1:
                raise
            seconds = wait_of(error, attempt)
            say(f"{what}: {reason(error)}; again in {seconds:.0f} s ({attempt + 2} of {TRIES}).")
            time.sleep(seconds)
    raise AssertionError("the loop returns or raises")


def causes(error: BaseException) -> list[BaseException]:
    """The error and those that caused it."""
    found: list[BaseException] = []
    while error is not None and error not in found:
        found.append(error)
        error = error.__cause__ or error.__context__  # type: ignore[assignment]
    return found


def status(error: BaseException) -> int | None:
    """The HTTP status that it comes from."""
    for cause in causes(error):
        response = getattr(cause, "response", None)
        if isinstance(cause, HfHubHTTPError) and response is not None:
            return response.status_code
    return None


def passing(error: BaseException) -> bool:
    if isinstance(error, OfflineModeIsEnabled) or (by_xet(error) and "404" in str(error)):
        return False
    broken = any(isinstance(cause, TransportError | ConnectionError | TimeoutError) for cause in causes(error))
    return status(error) in PASSING or (status(error) is None and (broken or "Consistency check" in str(error)))


def by_xet(error: BaseException) -> bool:
    """Whether it comes from the Hub's newer way of storing large files."""
    return any("xet-" in str(cause) for cause in causes(error))


def wait_of(error: BaseException, attempt: int) -> float:
    for cause in causes(error):
        headers = getattr(getattr(cause, "response", None), "headers", {})
        asked = str(headers.get("Retry-After", ""))
        if asked.isdigit():
            return min(float(asked), 300.0)
    return float(min(2**attempt, 30))


def reason(error: BaseException) -> str:
    """What happened, without what to do."""
    code = status(error)
    if code == 429:
        return "the server asks to go slower (429)"
    if code is not None:
        return f"the server answers {code}"
    if any(isinstance(cause, TransportError | ConnectionError) for cause in causes(error)):
        return "the connection broke, or the server was too slow"
    root = causes(error)[-1]
    return without_secrets(f"{type(root).__name__}: {' '.join(str(root).split())[:200].rstrip('.')}")


def in_a_sentence(error: BaseException, repo: str) -> str:
    """What happened, and what to do."""
    code = status(error)
    kinds = {type(cause) for cause in causes(error)}
    if isinstance(error, HubProblem):
        return str(error)
    if OfflineModeIsEnabled in kinds:
        return "the Hub is not asked for anything while HF_HUB_OFFLINE is set: unset it and run the same command again."
    if LocalEntryNotFoundError in kinds and code is None:
        return (
            f"{repo} is not in the cache as a whole, and nothing may be or could be fetched: go online and try again."
        )
    if GatedRepoError in kinds:
        return f"{repo} is gated: ask for access on its page, then {LOG_IN} as the user who has it."
    if RepositoryNotFoundError in kinds:
        return f"{repo} is not there, or is private and you may not see it: correct the name, or {LOG_IN}."
    if RevisionNotFoundError in kinds:
        return f"{repo} has no such revision: name a branch, a tag or a commit that its page shows."
    if EntryNotFoundError in kinds:
        return f"{repo} lacks a file that should be there: pull another revision, or ask its author."
    if code == 401:
        return f"the Hub does not take your token (revoked or mistyped?): {LOG_IN} with a valid one."
    if code == 403:
        return f"you may not do this to {repo}: {LOG_IN} with a token that may write there, or use --create-pr."
    if code == 429:
        return "the Hub asks you to go slower (429): run the same command again in some minutes."
    if by_xet(error):
        return "the upload by Xet failed: run the same command again, with HF_HUB_DISABLE_XET=1 to send by plain LFS."
    if code is not None and code >= 500:
        return f"the Hub has trouble of its own ({code}): run the same command again later."
    broken = any(isinstance(cause, TransportError | ConnectionError) for cause in causes(error))
    return f"{reason(error)}: {'check the network, then ' if broken else ''}run the same command again."


def without_secrets(text: str) -> str:
    """No tokens, no signatures of addresses."""
    token = get_token()
    if token:
        text = text.replace(token, "(your token)")
    text = re.sub(r"(?<![A-Za-z0-9])(hf|api_org)_\w{6,}", "(a token)", text)
    return re.sub(r"((?:sig|signature|token|X-Amz-[\w-]+)=)[^&\s'\"]+", r"\1(hidden)", text, flags=re.IGNORECASE)
