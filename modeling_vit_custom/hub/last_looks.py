"""The last looks before a push: at what is staged, and at what the repository holds."""

import json
from pathlib import Path

from huggingface_hub import HfApi
from huggingface_hub import ModelCard
from huggingface_hub import get_token
from huggingface_hub.errors import HfHubHTTPError

from .doctor import check_all
from .pushing import Remote
from .pushing import look_at
from .remote import HubProblem
from .remote import TransportError


def check_staged(folder: Path, repo: str):
    """
    Raises:
        HubProblem: the check found errors, which it has printed.
    """
    token = get_token()
    subjects = [folder, *(path.parent for path in folder.glob("*/config.json"))]
    reports = check_all(subjects, secrets=[token] if token else [])
    for report in reports:
        print(report.text().replace(str(folder), repo))
    if any(report.errors for report in reports):
        raise HubProblem("the check found errors, so nothing was sent.")
    try:
        ModelCard.load(folder / "README.md").validate()
    except ValueError as error:
        said = " ".join(str(error).split())[-200:]
        raise HubProblem(f"the Hub does not take the card's front matter ({said}): correct it, or --license.") from None
    except (
        OSError,
        HfHubHTTPError,
        TransportError,
    ):  # out of reach: the Hub looks again itself
        pass


def kind_of(folder: Path) -> str:
    return json.loads((folder / "config.json").read_text())["architectures"][0]


def see(api: HfApi, repo: str, dry_run: bool) -> Remote:
    """What the repository holds; a dry run goes on without."""
    try:
        return look_at(api, repo)
    except HubProblem as error:
        if not dry_run:
            raise
        print(f"Not compared with what {repo} holds: {error}")
        return Remote()
