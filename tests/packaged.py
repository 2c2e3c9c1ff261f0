"""The package as a user installs it: built by `python -m build` from what git has, installed into an empty folder."""

import atexit
import shutil
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

from tests.support import ROOT

SOURCES = ("modeling_vit_custom", "configs", "scripts")
FILES = ("pyproject.toml", "README.md", "LICENSE", "model_card.md")


@cache
def built() -> tuple[Path, Path, Path]:
    """-> the source that was built, the source distribution, the wheel."""
    work = Path(tempfile.mkdtemp(prefix="build."))
    atexit.register(shutil.rmtree, work, ignore_errors=True)
    source = work / "source"  # a copy: what an earlier build left would come into the wheel
    for name in SOURCES:
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in FILES:
        shutil.copy(ROOT / name, source)
    words = [sys.executable, "-m", "build", "--no-isolation", "--outdir", work / "dist", source]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    said = [line for line in (done.stdout + done.stderr).splitlines() if "byte-compiling is disabled" not in line]
    assert not [line for line in said if "warning" in line.lower()]
    (archive,) = (work / "dist").glob("*.tar.gz")
    (wheel,) = (work / "dist").glob("*.whl")
    return source, archive, wheel


@cache
def installed() -> Path:
    """An empty folder into which pip has installed the wheel alone."""
    target = Path(tempfile.mkdtemp(prefix="target."))
    atexit.register(shutil.rmtree, target, ignore_errors=True)
    words = "-m pip install --quiet --no-deps --no-index --disable-pip-version-check --target".split()
    subprocess.run([sys.executable, *words, target, built()[2]], check=True)
    return target
