"""`pytest --record` writes the run's outcome into docs/tested_versions.md, a row for each version of transformers."""

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
START = time.perf_counter()
CERTIFICATE = birth_certificate("pytest --record")  # of the tree as the run found it


def pytest_addoption(parser):
    parser.addoption("--record", action="store_true", help="write the outcome into docs/tested_versions.md")


def pytest_terminal_summary(terminalreporter, config):
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
