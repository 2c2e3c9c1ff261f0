"""A staged folder -> one commit on the Hub and a tag, or nothing at all."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from dataclasses import field
from pathlib import Path
from typing import Any

from huggingface_hub import CommitOperationAdd
from huggingface_hub import CommitOperationDelete
from huggingface_hub import HfApi
from huggingface_hub.errors import RepositoryNotFoundError

from .file_rules import INDEX
from .file_rules import PICKLED
from .file_rules import sha256
from .remote import LOG_IN
from .remote import HubProblem
from .remote import RemoteFile
from .remote import in_a_sentence
from .remote import listing
from .remote import retried
from .remote import status
from .staging import next_tag

Say = Callable[[str], None]
TWIN = "transformers"  # the sub-folder of the layout that needs no code
STALE = (".py", ".safetensors", INDEX, *PICKLED)


@dataclass
class Remote:
    """What the branch holds now."""

    exists: bool = False
    private: bool = False
    head: str | None = None
    files: dict[str, RemoteFile] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)  # {tag: commit}

    def changes(self, files: dict[str, Path]) -> tuple[list[str], list[str]]:
        """(files to add or change, files to delete): of what is there and not staged, code and weights alone go."""
        added = [path for path, file in files.items() if path not in self.files or not self.files[path].is_file(file)]
        folders = {path.rpartition("/")[0] for path in files}
        gone = [path for path in self.files if path not in files]
        deleted = [path for path in gone if path.endswith(STALE) and path.rpartition("/")[0] in folders]
        deleted += [path for path in gone if path.startswith(f"{TWIN}/") and path not in deleted]  # of older weights
        return added, deleted

    def tag_at_head(self) -> str | None:
        """The newest of those of the branch's last commit."""
        at_head = [tag for tag, commit in self.tags.items() if self.head is not None and commit == self.head]
        return max(
            at_head,
            key=lambda tag: [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", tag)],
            default=None,
        )

    def free_tag(self, wanted: str | None) -> str:
        """The tag for a new commit.

        Raises:
            HubProblem: `wanted` is taken.
        """
        if wanted in self.tags:
            raise HubProblem(f"the tag {wanted} is taken, by commit {self.tags[wanted]}: choose another by --tag.")
        return wanted or next_tag(self.tags)


def tag_for(remote: Remote, wanted: str | None) -> str:
    """The tag of what the branch holds now, if that is wanted or nothing is; else a new one.

    Raises:
        HubProblem: `wanted` is the tag of another commit.
    """
    at_head = remote.tag_at_head()
    if at_head is not None and wanted in (None, at_head):
        return at_head
    return remote.free_tag(wanted)


def manifest(files: dict[str, Path], remote: Remote) -> list[str]:
    """A line for each file: what would happen to it, its size and its sha256."""
    added, deleted = remote.changes(files)
    rows = []
    for path, file in files.items():
        what = "equal" if path not in added else "changed" if path in remote.files else "new"
        rows.append(f"{what:<8}{file.stat().st_size:>14,}  {sha256(file)}  {path}")
    return rows + [f"{'delete':<8}{remote.files[path].size:>14,}  {'':<64}  {path}" for path in deleted]


@dataclass
class Pushed:
    """
    Args:
        commit: that now holds the files.
        url: of the pull request, or of the commit; None where there was nothing to commit.
    """

    commit: str
    tag: str | None
    url: str | None
    pull_request: bool = False


def look_at(api: HfApi, repo: str, branch: str = "main", say: Say = print) -> Remote:
    """
    Raises:
        HubProblem: it cannot be seen, by this token or at all.
    """
    try:
        info = retried(lambda: api.repo_info(repo, revision=branch), say, repo)
    except RepositoryNotFoundError:
        return Remote()
    except Exception as error:
        raise HubProblem(in_a_sentence(error, repo)) from error
    try:
        files = retried(lambda: listing(api, repo, str(info.sha)), say, repo)
        tags = retried(lambda: api.list_repo_refs(repo).tags, say, repo)
    except Exception as error:
        raise HubProblem(in_a_sentence(error, repo)) from error
    return Remote(True, bool(info.private), info.sha, files, {tag.name: tag.target_commit for tag in tags})


def who(api: HfApi, say: Say = print) -> str:
    """The user whose token it is.

    Raises:
        HubProblem: there is none, or the Hub does not take it.
    """
    try:
        return retried(api.whoami, say, "the login")["name"]
    except Exception as error:
        if status(error) is None and "oken" in str(error):
            raise HubProblem(f"there is no token to push with: {LOG_IN}.") from None
        raise HubProblem(in_a_sentence(error, "the Hub")) from error


def push(
    files: dict[str, Path],
    repo: str,
    *,
    api: HfApi,
    remote: Remote,
    tag: str | None,
    message: str,
    branch: str = "main",
    private: bool = False,
    create_pr: bool = False,
    say: Say = print,
) -> Pushed:
    """Commit what differs, delete stale code and weights in the same commit, then tag it.

    Args:
        files: {path in the repository: file}, all that it shall hold of code and weights.
        remote: as `look_at` saw it; if the branch has moved since, nothing is committed.
        tag: None for none.

    Raises:
        HubProblem: the branch is as it was, unless the sentence says otherwise.
    """
    added, deleted = remote.changes(files)
    if not added and not deleted and remote.head is not None:
        made = Pushed(remote.head, tag, None)
    else:
        if not remote.exists:
            remote.head = create(api, repo, private, say)
        made = commit(api, repo, files, added, deleted, remote, message, branch, create_pr, say)
    if tag is not None and not made.pull_request and tag not in remote.tags:
        try:
            retried(lambda: api.create_tag(repo, tag=tag, revision=made.commit, exist_ok=True), say, f"the tag {tag}")
        except Exception as error:
            raise HubProblem(
                f"{repo} holds all files, at commit {made.commit}, but the tag {tag} could not be made "
                f"({in_a_sentence(error, repo)}): run the same command again, which makes the tag alone."
            ) from error
    return made


def has_branch(api: HfApi, repo: str, branch: str, say: Say = print) -> bool:
    try:
        return any(ref.name == branch for ref in retried(lambda: api.list_repo_refs(repo).branches, say, repo))
    except Exception as error:
        raise HubProblem(in_a_sentence(error, repo)) from error


def start_branch(api: HfApi, repo: str, branch: str, say: Say = print) -> Remote:
    """A branch that begins at the repository's first commit, where it was empty, if there is none of this name yet."""
    try:
        first = retried(lambda: api.list_repo_commits(repo)[-1].commit_id, say, repo)
        retried(lambda: api.create_branch(repo, branch=branch, revision=first, exist_ok=True), say, branch)
    except Exception as error:
        raise HubProblem(f"the branch {branch} could not be made: {in_a_sentence(error, repo)}") from error
    return look_at(api, repo, branch, say)


def create(api: HfApi, repo: str, private: bool, say: Say) -> str:
    """The first commit of a new repository."""
    try:
        retried(lambda: api.create_repo(repo, private=private, exist_ok=True), say, repo)
        return str(retried(lambda: api.repo_info(repo).sha, say, repo))
    except Exception as error:
        raise HubProblem(f"{repo} was not made: {in_a_sentence(error, repo)}") from error


def commit(
    api: HfApi,
    repo: str,
    files: dict[str, Path],
    added: list[str],
    deleted: list[str],
    remote: Remote,
    message: str,
    branch: str,
    create_pr: bool,
    say: Say,
) -> Pushed:
    where: dict[str, Any] = dict(repo_id=repo, revision=branch, create_pr=create_pr)
    additions = [CommitOperationAdd(path, str(files[path])) for path in added]
    try:
        # The content first, in as many requests as it takes; a commit names it afterwards, in one.
        retried(lambda: api.preupload_lfs_files(additions=additions, free_memory=False, **where), say, "the upload")
        ignored = [operation.path_in_repo for operation in additions if getattr(operation, "_should_ignore", False)]
        if ignored:
            raise HubProblem(
                f"the .gitignore of {repo} leaves out {', '.join(ignored[:3])}: take the lines out of it and run "
                "this again. Nothing was published."
            )
        made = api.create_commit(
            operations=[*additions, *(CommitOperationDelete(path, is_folder=False) for path in deleted)],
            commit_message=message,
            parent_commit=remote.head,
            **where,
        )
    except HubProblem:
        raise
    except KeyboardInterrupt as error:
        error.add_note(f"Look at {repo}, or run the same command again: it sends what is not there, and no more.")
        raise
    except Exception as error:
        if not create_pr and arrived(api, repo, branch, files, deleted, remote, say):
            say("The server's answer was lost on the way, but the commit is there.")
            return Pushed(look_at(api, repo, branch, say).head or "", None, f"{api.endpoint}/{repo}/tree/{branch}")
        raise HubProblem(why_not(error, repo, branch)) from error
    if made.pr_url:
        return Pushed(made.oid, None, made.pr_url, True)
    return Pushed(made.oid, None, made.commit_url)


def arrived(
    api: HfApi, repo: str, branch: str, files: dict[str, Path], deleted: list[str], remote: Remote, say: Say
) -> bool:
    """Whether the branch holds everything although the answer was an error."""
    try:
        now = look_at(api, repo, branch, say)
    except HubProblem:
        return False
    return now.head != remote.head and now.changes(files)[0] == [] and not set(deleted) & set(now.files)


def why_not(error: Exception, repo: str, branch: str) -> str:
    if status(error) == 412:
        return (
            f"somebody has changed {repo} meanwhile, so nothing was published: look at what they did, then run this "
            "again, which compares anew."
        )
    if "README.md" in str(error) and "etadata" in str(error):
        return f"the Hub does not take the card's front matter ({' '.join(str(error).split())[-200:]}): correct it."
    return f"nothing was published, {branch} of {repo} is as it was: {in_a_sentence(error, repo)}"
