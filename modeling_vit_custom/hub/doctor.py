"""The whole check of a checkpoint's folder: rules that only read, then, if nothing stands against it, a clean load."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

from .code_rules import code_findings
from .config_rules import config_findings
from .config_rules import read_configs
from .file_rules import card_findings
from .file_rules import content_findings
from .file_rules import files_of
from .file_rules import names_findings
from .file_rules import sha256
from .file_rules import weights_findings
from .findings import Finding
from .findings import Report
from .import_rules import import_findings
from .shapes import shape_findings
from .sources import absolute_imports
from .sources import read_sources

PROBE = Path(__file__).parent / "probe.py"
PACKAGE = __package__.split(".")[0]
SECONDS = 900
# What is wrong with what was shared, not with how it is written: nobody should load such files.
UNTRUSTWORTHY = frozenset(
    """adapter-elsewhere auto-map-elsewhere card-of-other-files lfs-pointer path-leads-out pickle pickle-of-trainer
    broken-link weights-damaged weights-index weights-missing weights-do-not-fit config-unreadable secret""".split()
)


def read_only_findings(folder: Path, secrets: Iterable[str] = ()) -> list[Finding]:
    """All that can be said without running anything."""
    files = files_of(folder)
    sources, broken = read_sources(folder)
    configs, found = read_configs(folder)
    found += [
        Finding("code-unreadable", f"{name}.py:{error.lineno or 1}", f"{error.msg}: mend the file.")
        for name, error in broken.items()
    ]
    found += names_findings(files)
    found += content_findings(files, secrets)
    found += config_findings(configs, sources)
    found += import_findings(sources, {*sources, *broken})
    found += code_findings(sources)
    found += weights_findings(folder)
    found += card_findings(folder)
    return found


def code_facts(folder: Path) -> list[str]:
    """What would run: each file, its size, its sha256, and what it imports."""
    rows = []
    for name, path in files_of(folder).items():
        if name.endswith(".py") and path.is_file():
            sources, _ = read_sources(path.parent)
            used = ", ".join(absolute_imports(sources[path.stem])) if path.stem in sources else "what cannot be parsed"
            size = f"{path.stat().st_size:,} bytes"
            rows.append(f"{name}: {size}, sha256 {sha256(path)}, imports {used or 'only its neighbours'}")
    return rows


def check(folder: str | Path, run: bool = True, secrets: Iterable[str] = ()) -> Report:
    """
    Args:
        run: also load it, which runs its code: in a clean process without network, under an audit hook.
        secrets: texts that must stand in no file.
    """
    return check_all([Path(folder)], run, secrets)[0]


def check_all(folders: list[Path], run: bool = True, secrets: Iterable[str] = ()) -> list[Report]:
    """`check` for several folders, whose loads share one import of torch."""
    reports = []
    for folder in folders:
        if not folder.is_dir():
            raise FileNotFoundError(f"{folder} is no folder: name the one that holds config.json.")
        reports.append(Report(str(folder), [*read_only_findings(folder, secrets), *shape_findings(folder)]))
    if run:
        # Code that the rules object to is not run; what is only about words in files does not stop it.
        harmless = ("absolute-path", "weights-stale", "secret")
        ready = [report for report in reports if not [f for f in report.errors if f.rule not in harmless]]
        for report, answer in zip(ready, probe([Path(report.subject) for report in ready]), strict=True):
            report.facts += answer["facts"]
            report.add(Finding(**finding) for finding in answer["findings"])
        for report in reports:
            if report not in ready:
                report.facts.append("not loaded, because of the errors below")
    return reports


def environment(work: Path) -> dict[str, str]:
    """Of a process that has no settings, no network and no GPU, and writes in `work` alone."""
    own = dict(HF_HOME=str(work / "home"), HF_HUB_OFFLINE="1", HF_HUB_DISABLE_TELEMETRY="1", TMPDIR=str(work / "tmp"))
    own |= dict(CUDA_VISIBLE_DEVICES="", HF_HUB_DISABLE_PROGRESS_BARS="1", HF_DATASETS_OFFLINE="1")
    theirs = ("HF_", "TRANSFORMERS_", "PYTHON", "HUGGING_FACE")
    return {key: value for key, value in os.environ.items() if not key.startswith(theirs)} | own


def probe(folders: list[Path], blocked: Iterable[str] = (PACKAGE,)) -> list[dict]:
    """What `probe.py` says of each folder."""
    if not folders:
        return []
    with tempfile.TemporaryDirectory(prefix="check.") as place:
        work, said_in = Path(place).resolve() / "work", Path(place).resolve()  # what runs may not write its own answer
        (work / "tmp").mkdir(parents=True)
        answers = [str(said_in / f"{index}.json") for index in range(len(folders))]
        job = dict(folders=[str(folder.resolve()) for folder in folders], answers=answers, blocked=list(blocked))
        try:
            done = subprocess.run(
                [sys.executable, "-P", "-s", str(PROBE), json.dumps(job)],
                cwd=work,
                env=environment(work),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=SECONDS * len(folders),
            )
            said = done.stderr.strip().splitlines()[-1:] or [f"exit code {done.returncode}"]
        except subprocess.TimeoutExpired:
            said = [f"it took more than {SECONDS} s"]
        died = Finding("process-died", "", f"the process that loads it ended before its end ({said[0][:200]}).")
        return [
            json.loads(Path(answer).read_text())
            if Path(answer).is_file()
            else {"facts": [], "findings": [dict(vars(died))]}
            for answer in answers
        ]
