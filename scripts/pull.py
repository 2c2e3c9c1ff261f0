"""Fetch a repository at one commit into a new folder, compare every file with the server's hash, and run nothing.

    python scripts/pull.py alice/digits@v1 runs/digits
    python scripts/pull.py alice/digits@v1 runs/digits --offline

A break is waited for and gone on from, file by file: run the same command again. It shows what code would run if the
model were loaded, and refuses pickles, damaged or foreign weights, and code that is called from elsewhere.
"""

import argparse
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parent))
from _start import as_script


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", metavar="owner/name[@revision]")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--offline", action="store_true", help="from the cache alone")
    parser.add_argument("--leave-out", action="append", default=[], metavar="PATTERN", help="do not fetch these files")
    return parser.parse_args(argv)


if __name__ == "__main__":
    as_script(parse)

from huggingface_hub import HfApi

from modeling_vit_custom.hub import code_facts
from modeling_vit_custom.hub import pull
from modeling_vit_custom.hub import read_name


def main(argv: list[str] | None = None) -> Path:
    arguments = parse(argv)
    repo, revision = read_name(arguments.source)
    settings = dict(api=HfApi(), offline=arguments.offline, leave_out=arguments.leave_out)
    commit, report = pull(repo, revision, arguments.folder, **settings)
    for fact in code_facts(arguments.folder):
        print(fact)
    for finding in report.findings:
        print(finding)
    print(f"{arguments.folder}: {repo} at commit {commit}, every file verified, nothing run.")
    print("Read the code above; then load it with trust_remote_code=True, or let scripts/check.py try.")
    return arguments.folder


if __name__ == "__main__":
    main()
