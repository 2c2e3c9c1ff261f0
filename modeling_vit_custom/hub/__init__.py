"""Folders and cards for the Hub; checking, pushing and pulling them."""

from .card import keeps_its_own_card
from .card import write_card
from .doctor import check
from .doctor import check_all
from .doctor import code_facts
from .file_rules import sha256
from .findings import Finding
from .findings import Report
from .folder import run_folder
from .pulling import compare_with
from .pulling import fetch
from .pulling import pull
from .pushing import Remote
from .pushing import look_at
from .pushing import manifest
from .pushing import push
from .pushing import start_branch
from .pushing import tag_for
from .pushing import who
from .remote import HubProblem
from .remote import listing
from .remote import without_secrets
from .staging import stage

__all__ = [
    "Finding",
    "HubProblem",
    "Remote",
    "Report",
    "check",
    "check_all",
    "code_facts",
    "compare_with",
    "fetch",
    "keeps_its_own_card",
    "listing",
    "look_at",
    "manifest",
    "pull",
    "push",
    "run_folder",
    "sha256",
    "stage",
    "start_branch",
    "tag_for",
    "who",
    "without_secrets",
    "write_card",
]
