"""`pytest --record` writes the run's outcome into docs/tested_versions.md, a row for each version of transformers;
`pytest -m full_size --record-parity` writes how far full-size presets are from other libraries' into docs/parity.md.
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
START = time.perf_counter()
CERTIFICATE = birth_certificate("pytest --record")  # of the tree as the run found it


def pytest_addoption(parser):
    parser.addoption("--record", action="store_true", help="write the outcome into docs/tested_versions.md")
    parser.addoption("--record-parity", action="store_true", help="write the differences into docs/parity.md")


def write_parity(reports):
    """A row for each pair that passed, beside the rows of pairs that did not run."""
    pattern = r"^(\| \w+ \| [\w-]+) (\| .*)$"
    rows = dict(re.findall(pattern, PARITY.read_text(), flags=re.MULTILINE)) if PARITY.exists() else {}
    rows.pop("| preset | source", None)
    for preset, source, other, worst in (value for report in reports for _, value in report.user_properties):
        figures = " | ".join(f"{worst[dtype]:.0e}" if worst[dtype] else "0" for dtype in ("float64", "float32"))
        rows[f"| {preset} | {source}"] = f"| {other} | {figures} | {CERTIFICATE['commit']} |"
    birth = "".join(f"- {key}: {value}\n" for key, value in CERTIFICATE.items() if key in ("hardware", "versions"))
    table = "".join(f"{key} {rows[key]}\n" for key in sorted(rows))
    PARITY.write_text(PARITY_HEAD.format(birth=f"{birth}- timm: {version('timm')}\n") + table)


def pytest_terminal_summary(terminalreporter, config):
    if config.getoption("--record-parity"):
        write_parity(terminalreporter.getreports("passed"))
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
