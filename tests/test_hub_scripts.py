"""push, pull and check as a user calls them, each in a process of its own, over a loopback Hub; and plain Trainer."""

import json
import os
import re
import shutil
import subprocess
import sys
from inspect import getsource

import pytest
from huggingface_hub import RepoCard
from safetensors.torch import save_file
from transformers import ViTImageProcessor

from modeling_vit_custom import ViTCustomForImageClassification
from modeling_vit_custom.checkpoint_files import AUTO_MAP
from modeling_vit_custom.checkpoint_files import SHIPPED_FILES
from tests.clean_process import load_untrusted
from tests.clean_process import reload
from tests.clean_process import run
from tests.clean_process import train_with_push_to_hub
from tests.forking import ForkServer
from tests.minihub import MiniHub
from tests.support import ROOT
from tests.support import fill
from tests.support import picture
from tests.support import tiny
from tests.test_shipping import contents
from tests.toys import added
from tests.toys import make_toy
from tests.toys import replaced

pytestmark = pytest.mark.xdist_group("hub")
TOKEN = "hf_" + "a1B2c3D4" * 4
REPO = "alice/tiny"
PRELOAD = """
import runpy
from tests import forked_probe
forked_probe.doctor.subprocess.run = forked_probe.forked
forked_probe.server()
"""


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    return tmp_path_factory.mktemp("scripts")


@pytest.fixture(scope="module")
def hub():
    with MiniHub() as hub:
        hub.tokens[TOKEN] = hub.tokens["hf_alice"]
        yield hub


@pytest.fixture(scope="module")
def call(hub, work):
    """script, arguments -> (exit code, what it printed). All but those in another environment are forks of a process
    that has imported what they import."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "TRANSFORMERS_"))}
    own = dict(HF_ENDPOINT=hub.url, HF_HOME=str(work / "home"), HF_HUB_DISABLE_XET="1", HF_TOKEN=TOKEN)
    server = ForkServer(PRELOAD, work, kept | own | dict(PYTHONPATH=str(ROOT)))

    def call(script: str, *arguments, token: str = TOKEN, **environment: str):
        words = [str(ROOT / f"scripts/{script}.py"), *map(str, arguments)]
        if environment:
            done = subprocess.run(
                [sys.executable, *words],
                cwd=work,
                env=kept | own | environment,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
            )
        else:
            done = server.call("runpy.run_path(sys.argv[0], run_name='__main__')", words, HF_TOKEN=token)
        printed = done.stdout + done.stderr
        assert TOKEN not in printed
        assert "Traceback" not in printed, printed
        return done.returncode, printed

    return call


@pytest.fixture(scope="module")
def model(work):
    folder = work / "model"
    fill(ViTCustomForImageClassification(tiny(position_interpolation="bicubic"))).save_pretrained(folder)
    ViTImageProcessor(size=dict(height=32, width=32)).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def published(call, hub, model):
    """What a dry run, which comes first, and two pushes print, and what the dry run has asked of the Hub."""
    push = "push", model, REPO, "--license", "mit"
    return {
        "dry run": call(*push, "--native", "--dry-run"),
        "asked by it": list(hub.log),
        "first": call(*push, "--native", "--message", "hello"),
        "again": call(*push, "--native"),
    }


def test_a_dry_run_shows_files_hashes_and_card_and_publishes_nothing(published):
    code, printed = published["dry run"]
    assert code == 0, printed
    rows = dict(re.findall(r"^new +[\d,]+  [0-9a-f]{64}  (\S+)()$", printed, flags=re.MULTILINE))
    assert {*SHIPPED_FILES, "config.json", "model.safetensors", "README.md", "transformers/model.safetensors"} <= set(
        rows
    )
    assert "license: mit" in printed
    assert "Nothing was published. The tag would be v1." in printed
    asked = {request.path for request in published["asked by it"] if request.method not in ("GET", "HEAD")}
    # The Hub looks the card over and keeps nothing of it. Older clients ask the public Hub, wherever they push to.
    assert asked == ({"/api/validate-yaml"} if "ENDPOINT" in getsource(RepoCard.validate) else set())


def test_a_push_publishes_and_an_unchanged_one_says_so(published, hub):
    code, printed = published["first"]
    assert code == 0, printed
    assert "every one compared with the file" in printed
    assert 'Load it with revision="v1"' in printed
    assert f'timm.create_model("hf-hub:{REPO}@timm", pretrained=True)' in printed
    head = hub.repos["model", REPO].find("main")
    assert head.title == "hello"
    assert published["again"][0] == 0
    assert f"Unchanged: commit {head.id} holds exactly these files, as v1." in published["again"][1]
    assert hub.repos["model", REPO].find("main").id == head.id
    assert set(hub.repos["model", REPO].find("timm").tree) == {
        ".gitattributes",
        "config.json",
        "model.safetensors",
        "preprocessor_config.json",
    }


@pytest.fixture(scope="module")
def pulled(published, call, work):
    """What fetching it prints; it lies in `pulled/`."""
    code, printed = call("pull", f"{REPO}@v1", work / "pulled")
    assert code == 0, printed
    return printed


def test_what_was_pushed_is_pulled_checked_and_loaded(pulled, call, model, work, hub):
    printed = pulled
    commit = hub.repos["model", REPO].refs["refs/tags/v1"]
    assert f"{REPO} at commit {commit}" in printed
    assert all(f"{name}: " in printed for name in SHIPPED_FILES)
    ours = contents(model)
    assert {name: contents(work / "pulled")[name] for name in ours} == ours
    asked = len(hub.log)
    again = call("pull", f"{REPO}@v1", work / "offline", "--offline")
    assert again[0] == 0, again[1]
    assert len(hub.log) == asked
    assert contents(work / "offline") == contents(work / "pulled")
    code, printed = call("check", work / "pulled", "--against", f"{REPO}@v1", "--json", work / "report.json")
    assert code == 0, printed
    report = json.loads((work / "report.json").read_text())
    assert report["sound"]
    assert (
        "transformers/: ViTForImageClassification: 32,389 parameters, every one compared with the file"
        in report["facts"]
    )


def test_a_repository_is_checked_without_running_it_until_it_is_trusted(published, call):
    code, printed = call("check", f"{REPO}@v1")
    assert code == 0, printed
    assert "its code was not run" in printed
    assert "AutoModel: loads" not in printed
    code, printed = call("check", f"{REPO}@v1", "--trust-remote-code")
    assert code == 0, printed
    assert "AutoModel: loads" in printed


def test_a_tampered_file_is_named_and_its_code_is_not_run(pulled, call, work):
    folder = shutil.copytree(work / "pulled", work / "tampered")
    added("modeling_heads.py", "from pathlib import Path\nPath('mark').touch()")(folder)
    code, printed = call("check", folder, "--against", f"{REPO}@v1")
    assert code == 1
    assert f"modeling_heads.py: it is not the file that {REPO}@v1 has" in printed
    assert "AutoModel: loads" not in printed


def test_errors_are_a_sentence_and_an_exit_code(published, call, model, work):
    for arguments, sentence in (
        (("push", model, REPO), "nothing says under which licence"),
        (("push", work / "nowhere", REPO, "--license", "mit"), "is no folder"),
        (("pull", "alice/ghost", work / "ghost"), "alice/ghost is not there, or is private"),
        (("pull", f"{REPO}@v77", work / "ghost"), "has no such revision"),
        (("check", work / "nowhere"), "is no name of a repository: write owner/name"),
    ):
        code, printed = call(*arguments)
        assert code == 1
        assert sentence in printed
    by_xet = call("push", model, "alice/xet", "--license", "mit", HF_HUB_DISABLE_XET="0")  # which MiniHub has not
    refused = "nothing was published, main of alice/xet is as it was: the upload by Xet failed" in by_xet[1]
    assert refused if by_xet[0] else "Published" in by_xet[1]  # huggingface_hub 1 asks first which way there is
    code, printed = call("push", model, REPO, "--license", "mit", token="")
    assert code == 1
    assert "there is no token to push with: run `hf auth login`, or set HF_TOKEN" in printed
    assert not any("token" in line for line in call("push", "--help")[1].splitlines() if line.startswith("  --"))


def test_code_that_the_check_objects_to_is_never_sent(call, model, work, hub):
    folder = shutil.copytree(model, work / "objectionable")
    replaced("modeling_heads.py", "import torch\n", "import torch\nimport pickle\n")(folder)
    before = len(hub.requests("POST", "/commit/"))
    code, printed = call("push", folder, "alice/other", "--license", "mit", "--code", "folder")
    assert code == 1
    assert "`pickle` can run code" in printed
    assert "the check found errors, so nothing was sent" in printed
    assert ("model", "alice/other") not in hub.repos
    assert len(hub.requests("POST", "/commit/")) == before


def test_a_plain_trainer_that_pushes_makes_a_repository_that_loads_and_whose_pickle_is_named(call, hub, work):
    jobs = {"trained": (train_with_push_to_hub, dict(repo="alice/trained", output=work / "trained"))}
    author = run(jobs, work / "trainer", installed=True, HF_ENDPOINT=hub.url, HF_TOKEN=TOKEN, PYTHONPATH=str(ROOT))
    tensors = author["trained"]["tensors"]
    config = json.loads(hub.read("alice/trained", "config.json"))
    assert config["auto_map"] == AUTO_MAP
    given = dict(auto_class="AutoModelForImageClassification", source="alice/trained", target=work / "reloaded")
    jobs = {"stranger": (reload, given | dict(pictures=work / "pictures.safetensors"))}
    save_file({"8/pixel_values": picture(2, 3, 8, 8)}, work / "pictures.safetensors")
    assert run(jobs, work / "stranger", HF_ENDPOINT=hub.url)["stranger"]["tensors"] == tensors
    code, printed = call("check", "alice/trained")
    assert code == 1
    assert "training_args.bin: Trainer left this pickle" in printed
    code, printed = call("pull", "alice/trained", work / "refused")
    assert code == 1
    assert "leave it out with --leave-out NAME" in printed
    code, printed = call("push", work / "trained", "alice/trained", "--license", "mit")
    assert code == 1
    assert "README.md has a gap, 'More information needed': fill it, or delete the file to have one written" in printed
    (work / "trained/README.md").unlink()
    code, printed = call("push", work / "trained", "alice/trained", "--license", "mit")
    assert code == 0, printed
    assert "left out: training_args.bin: Trainer left it" in printed
    assert "training_args.bin" not in hub.repos["model", "alice/trained"].find("main").tree


def test_nothing_of_a_repository_runs_without_trust(work):
    """Anybody's: the toy's code leaves a mark when it runs."""
    folder = make_toy(work / "planted")
    added("modeling_toy.py", "import pathlib\npathlib.Path('code-ran').touch()")(folder)
    added("configuration_toy.py", "import pathlib\npathlib.Path('code-ran').touch()")(folder)
    classes = ["AutoConfig", "AutoModel", "AutoModelForImageClassification"]
    job = load_untrusted, dict(source=folder, mark="code-ran", auto_classes=classes)
    answer = run({"untrusted": job}, work / "untrusting", HF_HUB_OFFLINE="1")["untrusted"]
    assert not answer["ran"]
    assert answer["copied"] == []
    assert answer["ran with trust"]
    assert all("trust_remote_code=True" in refusal for refusal in answer["refusals"].values())
