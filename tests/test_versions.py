"""What is saved and pushed today, by the pinned set, is the same in every supported version of transformers and torch.

The versions of transformers share one torch: each lies in a folder of `.cache`, with whatever it needs otherwise than
the environment has it, and a clean process finds the folder first. `make test-matrix` runs this, which takes a network,
and writes docs/versions.md. The author is the one of tests/test_shipping.py.
"""

import json
import re
import shutil
import subprocess
import sys
import time
import tomllib
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from packaging.requirements import Requirement
from packaging.version import Version
from safetensors.torch import load_file

from tests import test_shipping
from tests.clean_process import reload
from tests.clean_process import run
from tests.support import ROOT
from tests.test_shipping import AUTO_CLASSES
from tests.test_shipping import PUSHED
from tests.test_shipping import configuration
from tests.test_shipping import contents
from tests.test_shipping import repository

pytestmark = pytest.mark.full_size
work, hub, pictures = test_shipping.work, test_shipping.hub, test_shipping.pictures  # fixtures
published, saved = test_shipping.published, test_shipping.saved

REQUIREMENTS = map(Requirement, tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"])
FLOORS = {asked.name: next(iter(asked.specifier)).version for asked in REQUIREMENTS}
PYTHONS = {"pinned": Path(sys.executable), "oldest": ROOT / ".venv-oldest" / "bin" / "python"}
TORCHES = {"pinned": Version(torch.__version__).public, "oldest": FLOORS["torch"]}
ACROSS_TORCH = 1e-5  # of the largest value of an output
CHECKPOINTS = [*(("folder", name) for name in AUTO_CLASSES), *(("hub", name) for name in PUSHED)]


class Stranger(NamedTuple):
    answers: dict
    work: Path
    seconds: float


def pip(python: Path, *arguments: str) -> str:
    command = [python, "-m", "pip", "--disable-pip-version-check", *arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"pip {' '.join(arguments)} failed; can it reach a package index?\n{done.stderr}")
    return done.stdout


def supported() -> list[str]:
    """The floor, and from it on the last patch release of each minor that there is."""
    listed = re.search("Available versions: (.*)", pip(PYTHONS["pinned"], "index", "versions", "transformers"))[1]
    floor = Version(FLOORS["transformers"])
    versions = sorted(version for version in map(Version, listed.split(", ")) if version >= floor)
    last = {version.release[:2]: version for version in versions}
    return [str(version) for version in dict.fromkeys([floor, *last.values()])]


def pytest_generate_tests(metafunc):
    """All versions beside the pinned torch, the first and the last beside the oldest. `make test` collects these tests
    too, and must not ask a package index."""
    if "stranger" in metafunc.fixturenames:
        left_out = metafunc.config.getoption("markexpr") == "not full_size"
        versions = [FLOORS["transformers"]] if left_out else supported()
        rows = [*(("pinned", version) for version in versions), *(("oldest", versions[end]) for end in (0, -1))]
        marked = [pytest.param(row, marks=pytest.mark.xdist_group("-".join(row)), id="-".join(row)) for row in rows]
        metafunc.parametrize("stranger", marked, indirect=True, scope="module")


def install(python: Path, version: str, folder: Path):
    """Put into a folder what `pip install transformers==VERSION` would change in an environment, and nothing else."""
    plan = json.loads(pip(python, "install", "--dry-run", "--quiet", "--report", "-", f"transformers=={version}"))
    parts = [f"{part['metadata']['name']}=={part['metadata']['version']}" for part in plan["install"]]
    complete = folder / "complete.json"
    if complete.exists() and json.loads(complete.read_text()) == parts:
        return
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    if parts:
        pip(python, "install", "--quiet", "--no-deps", "--no-compile", "--target", str(folder), *parts)
    complete.write_text(json.dumps(parts))


@pytest.fixture(scope="module")
def stranger(request, work, hub, saved, pictures):
    """Somebody with a version of transformers and of torch, who loads each checkpoint and saves it again."""
    (environment, version), row = request.param, "-".join(request.param)
    python, folder = PYTHONS[environment], ROOT / ".cache" / f"transformers-{version}-{environment}"
    assert python.exists(), "make .venv-oldest/.ready"
    install(python, version, folder)
    jobs = {}
    for source, name in CHECKPOINTS:
        given = dict(source=saved[name] if source == "folder" else repository(name), target=work / row / source / name)
        jobs[f"{source} {name}"] = reload, dict(auto_class=AUTO_CLASSES[name], pictures=pictures[name], **given)
    endpoint = hub.url.replace("127.0.0.1", "localhost")  # huggingface_hub 1.33 knows another server by its host alone
    start = time.perf_counter()
    answers = run(jobs, work / row, python=python, HF_ENDPOINT=endpoint, PYTHONPATH=str(folder))
    return Stranger(answers, work / row, time.perf_counter() - start)


def difference(found: Path, expected: Path) -> float:
    """The largest of any output, relative to its largest value."""
    found, expected = (load_file(f"{folder}-outputs.safetensors") for folder in (found, expected))
    assert {name: value.shape for name, value in found.items()} == {name: x.shape for name, x in expected.items()}
    shares = [(found[name] - right).abs().max() / right.abs().max() for name, right in expected.items()]
    return torch.stack(shares).max().item()  # NaN if any is


@pytest.mark.parametrize(("source", "name"), CHECKPOINTS)
def test_a_checkpoint_of_today_is_the_same_there(source, name, request, stranger, saved, published, record_property):
    environment, version = request.node.callspec.params["stranger"]
    answer, author, again = stranger.answers[f"{source} {name}"], published[name], stranger.work / source / name
    record_property("versions", (answer["versions"], source, stranger.seconds))
    ran = {library: Version(answer["versions"][library]).public for library in ("transformers", "torch")}
    assert ran == {"transformers": version, "torch": TORCHES[environment]}

    assert answer["module"].startswith("transformers_modules.")
    if source == "folder":
        assert answer["warnings"] == []  # loading from a Hub, transformers says which code it downloads
    assert answer.get("tensors") == author.get("tensors")
    if answer.get("outputs") != author.get("outputs"):
        worst = difference(again, saved[name])
        record_property("difference", worst)
        assert environment == "oldest", f"not bit-equal: {worst}"
        assert worst <= ACROSS_TORCH

    assert contents(again) | {"config.json": ""} == contents(saved[name]) | {"config.json": ""}
    one_version = {"transformers_version": version}
    assert configuration(again) == configuration(saved[name]) | one_version
