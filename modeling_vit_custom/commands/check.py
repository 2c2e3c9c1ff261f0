"""The doctor for a checkpoint that ships its own code, ours or anyone's: will it load for others, can it be trusted?

    vit-custom check runs/quickstart/checkpoint
    vit-custom check alice/digits@v1 --trust-remote-code --json report.json
    vit-custom check runs/digits --against alice/digits@v1

First rules that only read the files; if none objects, the model is loaded in a clean process without network and under
an audit hook, which runs its code: of a repository only with --trust-remote-code, of a folder unless --static. The exit
code is 1 where there are errors. docs/hub.md explains each rule.
"""

from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import HfApi
from huggingface_hub import get_token

from ..hub import Finding
from ..hub import HubProblem
from ..hub import Report
from ..hub import check_all
from ..hub import checkpoint_of
from ..hub import code_facts
from ..hub import compare_with
from ..hub import fetch
from ..hub import read_name
from .options import argument
from .options import option


@dataclass
class Options:
    source: str = argument("what to look at", metavar="FOLDER or owner/name[@revision]")
    static: bool = option(False, "read only, run nothing")
    trust_remote_code: bool = option(False, "run a repository's code too: read it first")
    against: str | None = option(None, "compare a folder's files with the Hub's", metavar="owner/name[@revision]")
    json: Path | None = option(None, "write the report there too")
    offline: bool = option(False, "take a repository from the cache")


def main(options: Options) -> int:
    """The exit code."""
    folder, run = Path(options.source), not options.static
    found: list[Finding] = []
    facts: list[str] = []
    if not folder.is_dir():
        repo, revision = read_name(options.source)
        try:
            commit, folder, _ = fetch(repo, revision, api=HfApi(), offline=options.offline)
        except HubProblem as error:
            return answer(Report(options.source, [Finding("refused", "", str(error))]), options.json)
        facts = [f"commit {commit}"]
        run = run and options.trust_remote_code
        if not run:
            facts.append("its code was not run: read it, then add --trust-remote-code")
    if options.against:
        found += compare_with(folder, *read_name(options.against), HfApi())
        run = run and not found
    folder = checkpoint_of(folder)
    token = get_token()
    twins = [path.parent for path in folder.glob("transformers/config.json")]
    first, *others = check_all([folder, *twins], run, [token] if token else [])
    report = Report(options.source, [], [*facts, *code_facts(folder), *first.facts])
    report.add([*found, *first.findings])
    for twin, other in zip(twins, others, strict=True):
        report.facts += [f"{twin.name}/: {fact}" for fact in other.facts]
        report.add(Finding(f.rule, f"{twin.name}/{f.where}", f.says, f.level) for f in other.findings)
    return answer(report, options.json)


def answer(report: Report, path: Path | None) -> int:
    print(report.text())
    if path is not None:
        path.write_text(report.json() + "\n", encoding="utf-8")
    return 1 if report.errors else 0
