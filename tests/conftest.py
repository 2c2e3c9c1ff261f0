"""`pytest --record` writes the run's outcome into docs/tested_versions.md, a row for each version of transformers;
`pytest -m full_size --record-parity` writes how far full-size presets are from other libraries' into docs/parity.md;
`--record-matrix` writes which head passes what on which backbone into docs/matrix.md. `make test-matrix` does both.
"""

import platform
import re
import time
from importlib.metadata import version

from modeling_vit_custom.inspection import birth_certificate
from tests.support import ROOT

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


def pytest_terminal_summary(terminalreporter, config):
    if config.getoption("--record-parity"):
        write_parity(terminalreporter.getreports("passed"))
    if config.getoption("--record-matrix"):
        write_matrix([report for kind in ("passed", "failed", "error") for report in terminalreporter.getreports(kind)])
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
