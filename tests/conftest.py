"""`pytest --record` writes the run's outcome into docs/tested_versions.md, a row for each version of transformers;
`pytest -m full_size --record-parity` writes how far full-size presets are from other libraries' into docs/parity.md;
`--record-matrix` writes which head passes what on which backbone into docs/matrix.md; `--record-versions` writes which
versions load what the pinned ones saved into docs/versions.md; `--record-killed` writes when runs were killed that
nevertheless ended alike into docs/killed.md. `make test-matrix` does these four.
"""

import os
import platform
import re
import time
from collections import Counter
from importlib.metadata import version

import pytest
from packaging.version import Version

from modeling_vit_custom.inspection import birth_certificate
from tests.forked_probe import forked_probe  # noqa: F401  # a fixture
from tests.support import ROOT

os.environ["CUDA_VISIBLE_DEVICES"] = ""  # the laws hold on the CPU, also where tests run beside a GPU

PAGE = ROOT / "docs" / "tested_versions.md"
HEAD = """# Tested versions

The whole test suite, written by `pytest --record`: the newest versions by `make pytest ARGS=--record`, the oldest by
`make test-oldest`. Hardware: {hardware}.

| transformers | torch | Python | timm | passed | failed | skipped | seconds | commit |
|---|---|---|---|---:|---:|---:|---:|---|
"""
PARITY = ROOT / "docs" / "parity.md"
PARITY_HEAD = """# Parity at full size

Every preset up to the base size beside the same model in transformers and timm, with equal random weights (every
parameter, norms and biases too): the largest difference of any hidden state, output or gradient of the pixels, relative
to the largest value of each, at the native size and at one that is neither native nor square, on CPU under SDPA.
Written by `make test-matrix`.

{birth}
| preset | source | other size | float64 | float32 | commit |
|---|---|---|---:|---:|---|
"""
MATRIX = ROOT / "docs" / "matrix.md"
MATRIX_HEAD = """# The matrix

Every head on every backbone, as small models (`tests/matrix.py`), at three image sizes. A number is the loss after
overfitting eight real pictures as a share of that at the start; it passes below 5 %. Compiling is `fullgraph=True`; a
detector's loss is left out of it, as scipy matches its predictions to objects. Shipped outputs are compared to the bit
at all three sizes; all cells are shipped by folder, each class once by a Hub. Blank: not run. Written by
`make test-matrix`.

{birth}
| head | backbone | size | {columns} |
|---|---|---|{rule}
{rows}
{failures}
## transformers' own tests

How many of its common tests end how, on each suite of ours; those that are skipped, idle or fail are listed with their
reasons in `tests/test_transformers_common.py`, and any other outcome is a failure here.

| suite | as listed | passed | skipped | idle | failed |
|---|---|---:|---:|---:|---:|
{suites}"""
KILLED = ROOT / "docs" / "killed.md"
KILLED_PHASES = {
    "train": "between, while training",
    "evaluate": "while evaluating",
    "save": "while a checkpoint was written",
    "average": "while the averaged weights were written into it",
}
KILLED_HEAD = """# Killed runs

Runs of 24 steps on digits with augmentation, Mixup, CutMix, EMA, drop path, dropout, layer decay and accumulated
batches, killed (SIGKILL) at random moments and gone on with by the same command and `--resume_from_checkpoint`, until
each had ended. All ended with the files of a run that was never killed, to the bit: weights, averages, optimizer,
schedule, random numbers, and every logged figure. Written by `make test-matrix`.

{birth}
| when | kills |
|---|---:|
{rows}"""
VERSIONS = ROOT / "docs" / "versions.md"
VERSIONS_HEAD = """# The versions

What the versions below save in a folder, and push to a Hub on this machine, is loaded in clean processes by
`trust_remote_code=True` with other versions: the oldest transformers and the last patch release of each minor since,
with huggingface_hub and tokenizers as pip chooses them, beside one torch; and the first and the last of them beside
the oldest torch. In folders: every head on every backbone, the bare model, the backbone, both configurations, and
three more members of the family; on the Hub: each class once, and those members. Loaded from a folder without a word,
all tensors and all outputs, at two or three image sizes, are equal to the bit; with another torch, an output may
differ by 1e-5 of its largest value. Saved again, the files are equal to the bit but for the version that
`config.json` names. Seconds: one import of torch and transformers, then all checkpoints loaded, run and saved.
Written by `make test-matrix`.

{birth}
| transformers | torch | huggingface_hub | tokenizers | by folder | by Hub | outputs | seconds |
|---|---|---|---|---:|---:|---|---:|
{rows}
{failures}## Weights that are initialised anew in silence

After loading, transformers runs `_init_weights` on custom code, and what it writes in place overwrites what was
loaded, without a word ([#46620](https://github.com/huggingface/transformers/issues/46620)). This happens in 5.0 and
5.1 to every module; in 5.2 to modules with buffers or without a loaded `weight`; from 5.3 to 5.12, so in versions of
this table, to classes loaded by their own `from_pretrained` and no Auto class; and up to 5.24 to a module that lacks
one of its tensors. The models here write by `transformers.initialization`, which leaves loaded tensors as they are,
register no buffers, and refuse a checkpoint without a backbone's tensor. 5.0 to 5.3 are below the floor, where this
code cannot even be imported.
"""
COLUMNS = (
    "checkpointing",
    "compiling",
    "compiling by inductor",
    "exporting",
    "overfitting",
    "shipping by folder",
    "shipping by hub",
)
START = time.perf_counter()
CERTIFICATE = birth_certificate("pytest --record")  # of the tree as the run found it


def pytest_addoption(parser):
    parser.addoption("--record", action="store_true", help="write the outcome into docs/tested_versions.md")
    parser.addoption("--record-matrix", action="store_true", help="write the outcomes into docs/matrix.md")
    parser.addoption("--record-versions", action="store_true", help="write the outcomes into docs/versions.md")
    parser.addoption("--record-killed", action="store_true", help="write the kills into docs/killed.md")
    parser.addoption("--record-parity", action="store_true", help="write the differences into docs/parity.md")


def birth() -> str:
    return "".join(f"- {key}: {CERTIFICATE[key]}\n" for key in ("hardware", "versions"))


def write_matrix(reports):
    """A row for each cell and size, a line for each failure, and a table of transformers' suites."""
    found, refused, failures, suites = {}, {}, [], []
    for report in reports:
        properties, passed = dict(report.user_properties), report.outcome == "passed"
        if "suite" in properties:
            suites.append([properties["suite"][0], "yes" if passed else "**no**", *properties["suite"][1:]])
        if "cell" not in properties:
            continue
        head, member, size, column = properties["cell"]
        figure = properties.get("figure", "")
        found[head, member, size, column] = (figure or "yes") if passed else f"**no** {figure}".strip()
        if column not in COLUMNS:
            refused[head, member] = "refused, with the way out" if passed else "**not refused**"
        if not passed:
            failures.append(f"- {head} on {member}, {size or 'every size'}, {column}: {reason(report)}")
    rows = []
    for head, member in dict.fromkeys(key[:2] for key in found):
        for size in dict.fromkeys(key[2] for key in found if key[:2] == (head, member) and key[2]):
            at = [found.get((head, member, size, c)) or found.get((head, member, "", c), "") for c in COLUMNS]
            rows.append([head, member, size, *at])
        if (head, member) in refused:
            rows.append([head, member, "every size", refused[head, member], *[""] * (len(COLUMNS) - 1)])
    rows, suites = ("".join(f"| {' | '.join(map(str, row))} |\n" for row in sorted(table)) for table in (rows, suites))
    MATRIX.write_text(
        MATRIX_HEAD.format(
            birth=f"{birth()}- commit: {CERTIFICATE['commit']}\n",
            columns=" | ".join(COLUMNS),
            rule="---|" * len(COLUMNS),
            rows=rows,
            failures="".join(f"{line}\n" for line in ["## Failures\n", *sorted(failures)]) if failures else "",
            suites=suites,
        )
    )


def write_versions(reports):
    """A row for each pair of versions, a line for each failure."""
    rows, failures = {}, []
    for report in reports:
        properties, passed = dict(report.user_properties), report.outcome == "passed"
        if not passed:
            failures.append(f"- {report.nodeid.partition('[')[2].rstrip(']')}: {reason(report)}")
        if "versions" in properties:
            versions, source, seconds = properties["versions"]
            key = tuple(Version(version) for version in versions.values())
            row = rows.setdefault(key, {"folder": [], "hub": [], "seconds": seconds, "differences": []})
            row[source].append(passed)
            row["differences"] += [properties["difference"]] if "difference" in properties else []
    table = [
        [
            *(version.public for version in versions),
            *(f"{sum(row[source])} of {len(row[source])}" for source in ("folder", "hub")),
            f"differ by {max(row['differences']):.0e}" if row["differences"] else "bit-equal",
            round(row["seconds"]),
        ]
        for versions, row in sorted(rows.items())
    ]
    VERSIONS.write_text(
        VERSIONS_HEAD.format(
            birth=f"{birth()}- commit: {CERTIFICATE['commit']}\n",
            rows="".join(f"| {' | '.join(map(str, row))} |\n" for row in table),
            failures="".join(f"{line}\n" for line in ["## Failures\n", *sorted(failures), ""]) if failures else "",
        )
    )


def write_killed(reports):
    """How many kills in which phase, of runs that ended as those that were never killed."""
    for report in reports:
        if kills := dict(report.user_properties).get("kills"):
            counts = Counter(kills)
            rows = "".join(f"| {KILLED_PHASES[phase]} | {count} |\n" for phase, count in counts.most_common())
            KILLED.write_text(KILLED_HEAD.format(birth=f"{birth()}- commit: {CERTIFICATE['commit']}\n", rows=rows))


def reason(report) -> str:
    """The first line of what went wrong."""
    crash = getattr(report.longrepr, "reprcrash", None)
    return (crash.message if crash else str(report.longrepr)).splitlines()[0]


def write_parity(reports):
    """A row for each pair that passed, beside the rows of pairs that did not run."""
    pattern = r"^(\| \w+ \| [\w-]+) (\| .*)$"
    rows = dict(re.findall(pattern, PARITY.read_text(), flags=re.MULTILINE)) if PARITY.exists() else {}
    rows.pop("| preset | source", None)
    for preset, source, other, worst in (
        value for report in reports for name, value in report.user_properties if name == "parity"
    ):
        figures = " | ".join(f"{worst[dtype]:.0e}" if worst[dtype] else "0" for dtype in ("float64", "float32"))
        rows[f"| {preset} | {source}"] = f"| {other} | {figures} | {CERTIFICATE['commit']} |"
    table = "".join(f"{key} {rows[key]}\n" for key in sorted(rows))
    PARITY.write_text(PARITY_HEAD.format(birth=f"{birth()}- timm: {version('timm')}\n") + table)


# Fixtures of a module that train, or start processes: made once, by the one worker that has all tests which need them.
COSTLY = ("elsewhere", "of_two_processes", "runs", "trained", "two_processes", "whole")


@pytest.hookimpl(tryfirst=True)  # before xdist reads the marks
def pytest_collection_modifyitems(items):
    for item in items:
        for name in COSTLY:
            if name in item.fixturenames:
                item.add_marker(pytest.mark.xdist_group(f"{item.module.__name__}.{name}"))


def pytest_terminal_summary(terminalreporter, config):
    if config.getoption("--record-parity"):
        write_parity(terminalreporter.getreports("passed"))
    if config.getoption("--record-killed"):
        write_killed(terminalreporter.getreports("passed"))
    if config.getoption("--record-matrix"):
        write_matrix([report for kind in ("passed", "failed", "error") for report in terminalreporter.getreports(kind)])
    if config.getoption("--record-versions"):
        write_versions(
            [report for kind in ("passed", "failed", "error") for report in terminalreporter.getreports(kind)]
        )
    if not config.getoption("--record"):
        return
    passed, failed, skipped, errors = (
        len(terminalreporter.getreports(name)) for name in ("passed", "failed", "skipped", "error")
    )
    versions = version("transformers"), version("torch"), platform.python_version(), version("timm")
    row = (*versions, passed, failed + errors, skipped, round(time.perf_counter() - START), CERTIFICATE["commit"])
    rows = dict(re.findall(r"^(\| \d+\.\d+\.\d+) (.*)$", PAGE.read_text(), flags=re.MULTILINE)) if PAGE.exists() else {}
    rows[f"| {row[0]}"] = "| " + " | ".join(map(str, row[1:])) + " |"
    by_version = sorted(rows, key=lambda key: [int(number) for number in key[2:].split(".")])
    table = "".join(f"{key} {rows[key]}\n" for key in by_version)
    PAGE.write_text(HEAD.format(hardware=CERTIFICATE["hardware"]) + table)
