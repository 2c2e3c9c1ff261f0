"""What pip installs: every file, the command, and the five lines of the README from an empty folder."""

import ast
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tarfile
from importlib.metadata import version
from pathlib import Path

import pytest
from datasets import load_dataset  # noqa: F401  # imported before a process is forked
from PIL import Image
from sklearn.datasets import load_digits
from transformers import ViTConfig
from transformers import ViTForImageClassification
from transformers import ViTImageProcessor

from modeling_vit_custom import __version__
from modeling_vit_custom import list_presets
from tests.forking import ForkServer
from tests.minihub import MiniHub
from tests.packaged import built
from tests.packaged import installed
from tests.support import ROOT

pytestmark = [
    pytest.mark.xdist_group("packaging"),
    pytest.mark.skipif(int(version("setuptools").split(".")[0]) < 77, reason="the build needs setuptools 77"),
]
NAMES = ("zero", "one", "two", "three")


def files(place: Path) -> set[str]:
    folder = place / "modeling_vit_custom"
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file() and path.suffix != ".pyc"}


def test_a_wheel_has_every_file_of_the_package_and_what_it_reads():
    source, archive, _ = built()
    models, recipes = source / "configs/models", source / "configs/recipes"
    data = {f"presets/{path.relative_to(models)}" for path in models.rglob("*.json")}
    data |= {f"recipes/generic/{path.name}" for path in (recipes / "generic").iterdir()}
    data |= {"recipes/quickstart.yaml", "card/model_card.md"}
    assert files(installed()) == files(source) | data
    with tarfile.open(archive) as opened:
        names = {name.partition("/")[2] for name in opened.getnames()}
    assert {f"modeling_vit_custom/{name}" for name in files(source)} <= names


def test_the_version_stands_in_one_place():
    assert version("modeling-vit-custom") == __version__
    done = subprocess.run([installed() / "bin/vit-custom", "--version"], capture_output=True, text=True, env=alone())
    assert done.stdout == f"{__version__}\n"


def alone(**more: str) -> dict[str, str]:
    """The environment of a user who has the wheel and no checkout."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "PYTHON", "TRANSFORMERS_"))}
    return kept | {"PYTHONPATH": str(installed()), "PYTHONDONTWRITEBYTECODE": "1"} | more


HELP = """
import sys, vit_custom
try:
    vit_custom.main(sys.argv[1:])
finally:
    print([name for name in ("torch", "transformers", "modeling_vit_custom") if name in sys.modules])
"""


@pytest.mark.parametrize("verb", ["train", "evaluate", "predict", "convert", "describe", "push", "pull", "check"])
def test_help_of_the_command_imports_nothing_but_the_standard_library(verb):
    done = subprocess.run(
        [sys.executable, "-P", "-c", HELP, verb, "--help"], capture_output=True, text=True, env=alone()
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"usage: vit-custom {verb}")
    assert done.stdout.endswith("[]\n")


PRELOAD = """
import gc, sys
import transformers
import modeling_vit_custom.commands.evaluate, modeling_vit_custom.commands.predict
import modeling_vit_custom.commands.push, modeling_vit_custom.commands.train
import vit_custom
assert vit_custom.__file__.startswith(PLACE) and modeling_vit_custom.__file__.startswith(PLACE)
_ = transformers.Trainer, transformers.pipeline
gc.freeze()
"""
STRANGER = """
import sys
sys.modules["modeling_vit_custom"] = None
from transformers import pipeline
print(pipeline("image-classification", sys.argv[0], trust_remote_code=True)(sys.argv[1]))
"""


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """A folder with pictures in folders of their classes, and a checkpoint of transformers."""
    work, digits = tmp_path_factory.mktemp("user"), load_digits()
    for number, (pixels, label) in enumerate(zip(digits.images[:200], digits.target[:200], strict=True)):
        if label < len(NAMES):
            (folder := work / "my/pictures" / NAMES[label]).mkdir(parents=True, exist_ok=True)
            Image.fromarray((15.9 * pixels).astype("uint8")).resize((40, 48)).save(folder / f"{number}.png")
    shutil.copy(next((work / "my/pictures/two").iterdir()), work / "photo.png")
    (work / "broken.png").write_bytes(b"no picture")
    config = ViTConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, image_size=32, patch_size=8
    )
    ViTForImageClassification(config).save_pretrained(work / "theirs")
    ViTImageProcessor(size=dict(height=32, width=32)).save_pretrained(work / "theirs")
    return work


@pytest.fixture(scope="module")
def hub():
    with MiniHub() as hub:
        yield hub


@pytest.fixture(scope="module")
def server(hub, work):
    """Forks of a process that has imported the installed package."""
    own = dict(HF_ENDPOINT=hub.url, HF_HOME=str(work / "home"), HF_TOKEN=hub.token(), HF_HUB_DISABLE_XET="1")
    return ForkServer(f"PLACE = {str(installed())!r}\n{PRELOAD}", work, alone(**own), "-P")


@pytest.fixture(scope="module")
def call(server):
    def call(*words: str) -> str:
        done = server.call("sys.argv.insert(0, 'vit-custom'); vit_custom.main()", words)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "Traceback" not in done.stderr
        return done.stdout + done.stderr

    return call


def test_the_five_lines_from_an_empty_folder(work, server, call):
    said = call("train", "--data", "my/pictures", "--from", "theirs", "--num_train_epochs", "2")
    assert "theirs is a transformers-vit checkpoint, converted to runs/converted/theirs-" in said
    assert "`dataset: my/pictures` has 4 folders of pictures" in said
    assert "images of my/pictures" in call("evaluate", "runs/pictures")
    said = call("predict", "runs/pictures", "photo.png", "my/pictures/o*/*.png", "broken.png", "--output", "told")
    answers = json.loads((work / "told/predictions.json").read_text())
    ones = sorted(str(path) for path in (work / "my/pictures/one").iterdir())
    assert [one["file"] for one in answers] == ["photo.png", *(str(Path(one).relative_to(work)) for one in ones)]
    assert "broken.png cannot be decoded: it is no image" in said
    call("push", "runs/pictures", "alice/pictures", "--license", "mit")
    theirs = server.call(STRANGER, ["alice/pictures", "photo.png"])
    assert theirs.returncode == 0, theirs.stderr
    found = [(one["label"], round(one["score"], 4)) for one in ast.literal_eval(theirs.stdout)]
    assert found == [(one["label"], round(one["score"], 4)) for one in answers[0]["answers"]]


def test_the_page_about_ones_own_pictures_runs(work, server, call):
    page = (ROOT / "docs/own_pictures.md").read_text()
    blocks = re.findall(r"```(python|bash)\n(.*?)```", page, flags=re.DOTALL)
    assert [kind for kind, _ in blocks] == ["python", "bash", "bash", "bash", "bash", "python"]
    for kind, code in blocks:
        if kind == "bash":
            for line in code.splitlines():
                name, *words = shlex.split(line)
                assert name == "vit-custom"
                call(*words)
            continue
        hidden = 'import sys; sys.modules["modeling_vit_custom"] = None\n' if "trust_remote_code" in code else ""
        done = server.call(hidden + code)
        assert done.returncode == 0, done.stderr
    assert re.search(r"'label': '\d', 'score'", done.stdout)
    assert (work / "seen/3.attention.png").is_file()


def test_presets_are_those_of_the_checkout():
    code = "import json, modeling_vit_custom as m; print(json.dumps([m.__file__, m.list_presets()]))"
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, env=alone())
    place, presets = json.loads(done.stdout)
    assert place.startswith(str(installed()))
    assert presets == list_presets()
