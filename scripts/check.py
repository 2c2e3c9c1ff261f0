"""The doctor for a checkpoint that ships its own code, ours or anyone's: will it load for others, can it be trusted?

    python scripts/check.py runs/quickstart/checkpoint
    python scripts/check.py alice/digits@v1 --trust-remote-code --json report.json
    python scripts/check.py runs/digits --against alice/digits@v1

First rules that only read the files; if none objects, the model is loaded in a clean process without network and under
an audit hook, which runs its code: of a repository only with --trust-remote-code, of a folder unless --static. The exit
code is 1 where there are errors. docs/hub.md explains each rule.
"""

import argparse
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parent))
from _start import as_script


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", metavar="FOLDER or owner/name[@revision]")
    parser.add_argument("--static", action="store_true", help="read only, run nothing")
    parser.add_argument("--trust-remote-code", action="store_true", help="run a repository's code too: read it first")
    parser.add_argument("--against", metavar="owner/name[@revision]", help="compare the folder's files with the Hub's")
    parser.add_argument("--json", type=Path, help="write the report there too")
    parser.add_argument("--offline", action="store_true", help="take a repository from the cache")
    return parser.parse_args(argv)


if __name__ == "__main__":
    as_script(parse)

from huggingface_hub import HfApi
from huggingface_hub import get_token

from modeling_vit_custom.hub import Finding
from modeling_vit_custom.hub import HubProblem
from modeling_vit_custom.hub import Report
from modeling_vit_custom.hub import check_all
from modeling_vit_custom.hub import checkpoint_of
from modeling_vit_custom.hub import code_facts
from modeling_vit_custom.hub import compare_with
from modeling_vit_custom.hub import fetch
from modeling_vit_custom.hub import read_name


def main(argv: list[str] | None = None) -> int:
    """The exit code."""
    arguments = parse(argv)

    folder, run = Path(arguments.source), not arguments.static
    found: list[Finding] = []
    facts: list[str] = []
    if not folder.is_dir():
        repo, revision = read_name(arguments.source)
        try:
            commit, folder, _ = fetch(repo, revision, api=HfApi(), offline=arguments.offline)
        except HubProblem as error:
            return answer(Report(arguments.source, [Finding("refused", "", str(error))]), arguments.json)
        facts = [f"commit {commit}"]
        run = run and arguments.trust_remote_code
        if not run:
            facts.append("its code was not run: read it, then add --trust-remote-code")
    if arguments.against:
        found += compare_with(folder, *read_name(arguments.against), HfApi())
        run = run and not found
    folder = checkpoint_of(folder)
    token = get_token()
    twins = [path.parent for path in folder.glob("transformers/config.json")]
    first, *others = check_all([folder, *twins], run, [token] if token else [])
    report = Report(arguments.source, [], [*facts, *code_facts(folder), *first.facts])
    report.add([*found, *first.findings])
    for twin, other in zip(twins, others, strict=True):
        report.facts += [f"{twin.name}/: {fact}" for fact in other.facts]
        report.add(Finding(f.rule, f"{twin.name}/{f.where}", f.says, f.level) for f in other.findings)
    return answer(report, arguments.json)


def answer(report: Report, path: Path | None) -> int:
    print(report.text())
    if path is not None:
        path.write_text(report.json() + "\n", encoding="utf-8")
    return 1 if report.errors else 0


if __name__ == "__main__":
    sys.exit(main())
