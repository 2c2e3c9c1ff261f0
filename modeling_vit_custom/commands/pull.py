"""Fetch a repository at one commit into a new folder, compare every file with the server's hash, and run nothing.

    vit-custom pull alice/digits@v1 runs/digits
    vit-custom pull alice/digits@v1 runs/digits --offline

A break is waited for and gone on from, file by file: run the same command again. It shows what code would run if the
model were loaded, and refuses pickles, damaged or foreign weights, and code that is called from elsewhere.
"""

from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import HfApi

from ..hub import code_facts
from ..hub import pull
from ..hub import read_name
from .options import argument
from .options import option


@dataclass
class Options:
    source: str = argument("what to fetch", metavar="owner/name[@revision]")
    folder: Path = argument("a new folder")
    offline: bool = option(False, "from the cache alone")
    leave_out: list[str] = option([], "do not fetch these files", metavar="PATTERN")


def main(options: Options) -> Path:
    repo, revision = read_name(options.source)
    settings = dict(api=HfApi(), offline=options.offline, leave_out=options.leave_out)
    commit, report = pull(repo, revision, options.folder, **settings)
    for fact in code_facts(options.folder):
        print(fact)
    for finding in report.findings:
        print(finding)
    print(f"{options.folder}: {repo} at commit {commit}, every file verified, nothing run.")
    print("Read the code above; then load it with trust_remote_code=True, or let `vit-custom check` try.")
    return options.folder
