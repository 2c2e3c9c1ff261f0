"""A repository at one commit -> a folder, every file compared with the server's hash, and nothing run."""

import json
import shutil
import tempfile
from collections.abc import Callable
from collections.abc import Iterable
from fnmatch import fnmatch
from functools import partial
from pathlib import Path

from huggingface_hub import HfApi
from huggingface_hub.constants import HF_HUB_CACHE

from .doctor import UNTRUSTWORTHY
from .doctor import read_only_findings
from .file_rules import files_of
from .file_rules import names_findings
from .file_rules import sha256
from .findings import Finding
from .findings import Report
from .remote import HubProblem
from .remote import RemoteFile
from .remote import in_a_sentence
from .remote import listing
from .remote import retried
from .shapes import shape_findings

Say = Callable[[str], None]
ATTEMPTS = 3  # at a file that is not what the server says


def fetch(
    repo: str,
    revision: str = "main",
    *,
    api: HfApi,
    offline: bool = False,
    leave_out: Iterable[str] = (),
    cache: str | Path | None = None,
    say: Say = print,
) -> tuple[str, Path, list[str]]:
    """(commit, the folder in the cache, the paths of its files), all of them as the server has them.

    A break is waited for and gone on from, file by file; a file that is complete is not fetched again, by a later call
    neither.

    Raises:
        HubProblem: what is missing, refused or wrong; the sentence says what to do.
    """
    cache = Path(cache or HF_HUB_CACHE)
    try:
        if offline:
            return from_cache(repo, revision, api, cache, leave_out)
        commit = str(retried(lambda: api.repo_info(repo, revision=revision).sha, say, repo))
        say(f"{repo} at commit {commit}")
        files = retried(lambda: listing(api, repo, commit), say, repo)
        wanted = {path: file for path, file in files.items() if not any(fnmatch(path, p) for p in leave_out)}
        refuse(Report(f"{repo}@{commit}", list(names_findings(wanted))), "leave it out with --leave-out NAME")
        folder = download(repo, commit, wanted, api, cache, say)
        told = {path: [file.size, file.blob, file.sha256] for path, file in files.items()}
        whole = listed_in(cache, repo, commit)
        whole.parent.mkdir(parents=True, exist_ok=True)
        whole.write_text(json.dumps(told))
        if revision != commit:  # so that the name leads here without network too
            name = cache / f"models--{repo.replace('/', '--')}" / "refs" / revision
            name.parent.mkdir(parents=True, exist_ok=True)
            name.write_text(commit)
        return commit, folder, sorted(wanted)
    except HubProblem:
        raise
    except KeyboardInterrupt as error:
        error.add_note("What was fetched stays in the cache: the same command goes on from there.")
        raise
    except Exception as error:
        raise HubProblem(in_a_sentence(error, repo)) from error


def download(repo: str, commit: str, files: dict[str, RemoteFile], api: HfApi, cache: Path, say: Say) -> Path:
    """The snapshot's folder, whole and verified."""
    for path, file in files.items():
        for _ in range(ATTEMPTS):
            got = Path(retried(partial(api.hf_hub_download, repo, path, revision=commit, cache_dir=cache), say, path))
            if file.is_file(got):
                break
            say(f"{path} is not what {repo} has (its hash is another): it is fetched again.")
            got.resolve().unlink(missing_ok=True)
            got.unlink(missing_ok=True)
        else:
            raise HubProblem(
                f"{path} of {repo} does not have the hash that the server lists, {ATTEMPTS} times: do not use it, and "
                "tell its author."
            )
    return cache / f"models--{repo.replace('/', '--')}" / "snapshots" / commit


def listed_in(cache: Path, repo: str, commit: str) -> Path:
    """Where a fetch that has ended well keeps the server's list of files, for later ones without network."""
    return cache / f"models--{repo.replace('/', '--')}" / "pulled" / f"{commit}.json"


def from_cache(
    repo: str, revision: str, api: HfApi, cache: Path, leave_out: Iterable[str]
) -> tuple[str, Path, list[str]]:
    """The same without network, of what was fetched before."""
    storage = cache / f"models--{repo.replace('/', '--')}"
    named = storage / "refs" / revision
    commit = named.read_text().strip() if named.is_file() else revision
    folder = storage / "snapshots" / commit
    if not folder.is_dir():
        raise HubProblem(f"{repo} at {revision} is not in the cache: pull it once without --offline.")
    listed = listed_in(cache, repo, commit)
    if not listed.is_file():
        raise HubProblem(f"{repo} at {revision} was never fetched as a whole: pull it once without --offline.")
    told = {path: RemoteFile(*row) for path, row in json.loads(listed.read_text()).items()}
    files = {path: file for path, file in told.items() if not any(fnmatch(path, p) for p in leave_out)}
    refuse(Report(f"{repo}@{commit}", list(names_findings(files))), "leave it out with --leave-out NAME")
    for path, file in files.items():
        if not (folder / path).is_file():
            raise HubProblem(f"the cache lacks {path} of {repo}: pull it again without --offline.")
        if not file.is_file(folder / path):
            raise HubProblem(f"{path} in the cache is not what {repo} had: pull it again without --offline.")
    return commit, folder, sorted(files)


def refuse(report: Report, fix: str = ""):
    """
    Raises:
        HubProblem: something in the report is no mistake of style but a danger.
    """
    dangers = [finding for finding in report.errors if finding.rule in UNTRUSTWORTHY]
    if dangers:
        lines = "\n".join(f"  {finding}" for finding in dangers)
        raise HubProblem(f"{report.subject} is refused{f'; {fix}' if fix else ''}:\n{lines}")


def pull(repo: str, revision: str, target: str | Path, **settings) -> tuple[str, Report]:
    """(commit, what the rules say of its code) of a new folder `target`, which is there when it is whole.

    Args:
        settings: as `fetch`.

    Raises:
        HubProblem: as `fetch`; also where the weights are no safetensors or damaged, the code is called from elsewhere,
            or `target` holds something else.
    """
    target, say = Path(target), settings.get("say", print)
    commit, folder, files = fetch(repo, revision, **settings)
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{target.name}.", dir=target.parent) as place:
        new = Path(place) / "new"
        for path in files:
            (new / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(folder / path, new / path)  # copies, so that nothing changes the cache
        report = Report(f"{repo}@{commit}", [*read_only_findings(new), *shape_findings(new)])
        refuse(report)
        if target.exists() and any(target.iterdir()):
            if hashes(target) != hashes(new):
                raise HubProblem(f"{target} holds something else already: name a new folder, nothing is written over.")
            say(f"{target} has it already, every file equal.")
        else:
            if target.exists():
                target.rmdir()
            new.rename(target)
    return commit, report


def hashes(folder: Path) -> dict[str, str]:
    return {path: sha256(file) for path, file in files_of(folder).items() if file.is_file()}


def compare_with(folder: Path, repo: str, revision: str, api: HfApi, say: Say = print) -> list[Finding]:
    """Where the files of a folder are not those that the Hub lists at a revision.

    Raises:
        HubProblem: the Hub does not say.
    """
    try:
        files = retried(lambda: listing(api, repo, revision), say, repo)
    except Exception as error:
        raise HubProblem(in_a_sentence(error, repo)) from error
    found = []
    for path, file in files.items():
        if not (folder / path).is_file():
            if path != ".gitattributes":
                found.append(Finding("not-on-disk", path, f"{repo}@{revision} has it, the folder not: pull it again."))
        elif not file.is_file(folder / path):
            says = f"it is not the file that {repo}@{revision} has: do not use it, or push it as a version of its own."
            found.append(Finding("tampered", path, says))
    for path in files_of(folder):
        if path not in files and path.endswith((".py", ".safetensors")):
            found.append(Finding("not-on-hub", path, f"{repo}@{revision} has no such file: take it out."))
    return found
