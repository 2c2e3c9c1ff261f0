"""Folders and cards for the Hub; checking, pushing and pulling them."""

from .card import keeps_its_own_card
from .card import write_card
from .doctor import check
from .doctor import check_all
from .doctor import code_facts
from .file_rules import sha256
from .findings import Finding
from .findings import Report
from .folder import refuse_strangers
from .folder import run_folder
from .last_looks import check_staged
from .last_looks import kind_of
from .last_looks import see
from .origins import origins
from .origins import public_command
from .pulling import compare_with
from .pulling import fetch
from .pulling import pull
from .pushing import Pushed
from .pushing import Remote
from .pushing import has_branch
from .pushing import look_at
from .pushing import manifest
from .pushing import push
from .pushing import start_branch
from .pushing import tag_for
from .pushing import who
from .remote import HubProblem
from .remote import check_tag
from .remote import listing
from .remote import read_name
from .remote import without_secrets
from .staging import checkpoint_of
from .staging import stage

__all__ = [
    "Finding",
    "HubProblem",
    "Pushed",
    "Remote",
    "Report",
    "check",
    "check_all",
    "check_staged",
    "check_tag",
    "checkpoint_of",
    "code_facts",
    "compare_with",
    "fetch",
    "has_branch",
    "keeps_its_own_card",
    "kind_of",
    "listing",
    "look_at",
    "manifest",
    "origins",
    "public_command",
    "pull",
    "push",
    "read_name",
    "refuse_strangers",
    "run_folder",
    "see",
    "sha256",
    "stage",
    "start_branch",
    "tag_for",
    "who",
    "without_secrets",
    "write_card",
]
