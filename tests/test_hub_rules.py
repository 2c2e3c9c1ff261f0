"""A corpus of seeded faults that reading alone must find and name; and what is sound stays without a word."""

import io
import json
import pickle
import re
import shutil
import zipfile
from pathlib import Path

import pytest
import torch
import transformers

from modeling_vit_custom.checkpoint_files import SHIPPED_FILES
from modeling_vit_custom.hub import check
from tests.support import ROOT
from tests.toys import added
from tests.toys import configured
from tests.toys import make_toy
from tests.toys import mapped
from tests.toys import replaced
from tests.toys import spoiled
from tests.toys import weighed
from tests.toys import written

MODELING, LAYERS, CONFIGURATION = "modeling_toy.py", "layers_toy.py", "configuration_toy.py"


def in_modeling(text: str):
    return added(MODELING, text, after="from .layers_toy")


def in_layer(text: str):
    return replaced(LAYERS, "        super().__init__()\n", f"        super().__init__()\n        {text}\n")


def in_initialiser(text: str):
    return replaced(
        MODELING, "            init.normal_(module.shift, std=self.config.initializer_range)", f"            {text}"
    )


def pickled(anything) -> bytes:
    return pickle.dumps(anything)


def saved_by_torch() -> bytes:
    file = io.BytesIO()
    torch.save({"weight": torch.zeros(2)}, file)
    return file.getvalue()


def truncated(folder: Path):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-40])


def divided(change):
    """Two shards and an index, with the index changed."""

    def spoil(folder: Path):
        from safetensors.torch import load_file
        from safetensors.torch import save_file

        tensors, weight_map = load_file(folder / "model.safetensors"), {}
        (folder / "model.safetensors").unlink()
        for number, names in enumerate((sorted(tensors)[:3], sorted(tensors)[3:]), start=1):
            file = f"model-0000{number}-of-00002.safetensors"
            save_file({name: tensors[name] for name in names}, folder / file, {"format": "pt"})
            weight_map |= dict.fromkeys(names, file)
        (folder / "model.safetensors.index.json").write_text(
            json.dumps(change({"metadata": {}, "weight_map": weight_map}))
        )

    return spoil


def remapped(**changes):
    return lambda index: index | {"weight_map": index["weight_map"] | changes}


def linked(folder: Path):
    (folder / "vocab.txt").symlink_to(folder / "gone")


def carded(file: str):
    """A card that lists the sha256 of every file, then another file than it lists."""

    def spoil(folder: Path):
        from modeling_vit_custom.hub import sha256

        rows = [f"| `{path.name}` | `{sha256(path)}` |\n" for path in sorted(folder.iterdir())]
        (folder / "README.md").write_text(f"# Toy\n\n| file | sha256 |\n|---|---|\n{''.join(rows)}")
        content = bytearray((folder / file).read_bytes())
        content[-1] ^= 1
        (folder / file).write_bytes(bytes(content))

    return spoil


HEIR = "\n\nclass Heir(ToyModel):\n    def __init__(self, config):\n        super().__init__(config)"


def in_forward(text: str):
    return replaced(LAYERS, "        return torch.tanh", f"        {text}\n        return torch.tanh")


def padded(folder: Path):
    """A header of 640 bytes, whose length in little-endian is a pickle's beginning."""
    path = folder / "model.safetensors"
    data = path.read_bytes()
    size = int.from_bytes(data[:8], "little")
    wanted = next(n for n in range(size, size + 70_000) if n % 65536 in (640, 896, 1152, 1408))
    path.write_bytes(wanted.to_bytes(8, "little") + data[8 : 8 + size] + b" " * (wanted - size) + data[8 + size :])


FAULTS = {
    # imports
    "parent": ("import-from-parent", in_modeling("from ..elsewhere import thing")),
    "package": ("import-of-package", in_modeling("from . import layers_toy")),
    "sub-folder": ("import-of-subfolder", in_modeling("from .layers.layers_toy import ToyLayer")),
    "missing": ("import-of-missing-file", in_modeling("from .ghost import thing")),
    "missing, in try": (
        "import-of-missing-file",
        in_modeling("try:\n    from .ghost import thing\nexcept ImportError:\n    thing = None"),
    ),
    "missing, for types": (
        "import-of-missing-file",
        in_modeling("from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from .ghost import thing"),
    ),
    "missing, in a function": ("import-of-missing-file", added(LAYERS, "def later():\n    from .ghost import thing")),
    "second on a line": (
        "import-unseen",
        in_modeling("from .layers_toy import ToyLayer; from .configuration_toy import ToyConfig as Again"),
        replaced(MODELING, "from .configuration_toy import ToyConfig\n", ""),
    ),
    "in a docstring": (
        "import-in-text",
        added(LAYERS, 'def later():\n    """Usage:\n\n    from .ghost import thing\n    """'),
    ),
    "own package": ("import-of-own-package", in_modeling("from toy_package.layers_toy import ToyLayer")),
    "own package, whole": ("import-of-own-package", in_modeling("import toy_package.layers_toy")),
    "third party": ("import-of-third-party", in_modeling("import einops")),
    "third party, in a function": ("import-of-third-party", added(LAYERS, "def later():\n    import einops")),
    "third party, for types": (
        "import-of-third-party",
        in_modeling("from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import einops"),
    ),
    "torchvision in a model": ("import-of-third-party", in_modeling("import torchvision")),
    "no Python": ("code-unreadable", added(LAYERS, "def broken(:")),
    # what code does
    "eval": ("dynamic-code", added(LAYERS, "def later(text):\n    return eval(text)")),
    "exec": ("dynamic-code", added(LAYERS, "def later(text):\n    exec(text)")),
    "import by name": ("dynamic-code", added(LAYERS, "def later(name):\n    return __import__(name)")),
    "eval, by another way": (
        "dynamic-code",
        added(LAYERS, "import builtins as b\ndef later(t):\n    return b.eval(t)"),
    ),
    "system, by its name": (
        "dynamic-code",
        added(LAYERS, "import os\ndef later():\n    getattr(os, 'sys' + 'tem')('x')"),
    ),
    "pickle of numpy": (
        "pickle-in-code",
        added(LAYERS, "import numpy\ndef f(p):\n    return numpy.load(p, allow_pickle=True)"),
    ),
    "process, under another name": ("side-effect-at-import", added(LAYERS, "import subprocess as s\ns.run(['true'])")),
    "process, alone": ("side-effect-at-import", added(LAYERS, "from os import system as go\ngo('true')")),
    "by the file's own function": (
        "side-effect-at-import",
        added(LAYERS, "def later():\n    import os\n    os.system('true')\n\n\nlater()"),
    ),
    "beside what main runs": (
        "side-effect-at-import",
        added(LAYERS, "if __name__ == '__main__':\n    pass\nelse:\n    open('notes.txt')"),
    ),
    "importlib": (
        "dynamic-code",
        added(LAYERS, "import importlib\ndef later(n):\n    return importlib.import_module(n)"),
    ),
    "pickle": ("pickle-in-code", in_modeling("import pickle")),
    "torch.load": ("pickle-in-code", added(LAYERS, "def later(path):\n    return torch.load(path)")),
    "open at import": ("side-effect-at-import", added(LAYERS, "TEXT = open('notes.txt').read()")),
    "process at import": ("side-effect-at-import", added(LAYERS, "import subprocess\nsubprocess.run(['true'])")),
    "environment at import": ("side-effect-at-import", added(LAYERS, "import os\nos.environ['X'] = '1'")),
    "download at import": (
        "side-effect-at-import",
        added(LAYERS, "from huggingface_hub import hf_hub_download\nif True:\n    hf_hub_download('a/b', 'c')"),
    ),
    "in a class's body": ("side-effect-at-import", added(LAYERS, "class Later:\n    text = open('notes.txt')")),
    "as a default": ("side-effect-at-import", added(LAYERS, "def later(text=open('notes.txt')):\n    return text")),
    "file beside code": (
        "file-beside-code",
        added(
            LAYERS,
            "from pathlib import Path\ndef names():\n    return (Path(__file__).parent / 'names.txt').read_text()",
        ),
    ),
    "auto_docstring": (
        "auto-docstring",
        replaced(MODELING, "class ToyModel(", "@auto_docstring\nclass ToyModel("),
    ),
    # models
    "buffer": ("buffer-not-saved", in_layer("self.register_buffer('mask', torch.ones(4), persistent=False)")),
    "buffer, by place": ("buffer-not-saved", in_layer("self.register_buffer('mask', torch.ones(4), False)")),
    "buffer, as an attribute": ("buffer-not-saved", in_layer("self.mask = nn.Buffer(torch.ones(4), persistent=False)")),
    "parameter": ("parameter-not-initialised", in_layer("self.scale = nn.Parameter(torch.empty(4))")),
    "plain tensor": ("tensor-as-attribute", in_layer("self.steps = torch.arange(4)")),
    "overwritten, by data": ("initialiser-overwrites", in_initialiser("module.shift.data.normal_(std=0.1)")),
    "overwritten, in place": ("initialiser-overwrites", in_initialiser("module.shift.zero_()")),
    "overwritten, data handed over": ("initialiser-overwrites", in_initialiser("nn.init.normal_(module.shift.data)")),
    "overwritten, assigned": ("initialiser-overwrites", in_initialiser("module.shift.data = module.shift + 1")),
    "no post_init": (
        "post-init-missing",
        replaced(
            MODELING,
            "        self.post_init()\n\n    def forward(self, pixel_values, **kwargs):\n        return Base",
            "\n    def forward(self, pixel_values, **kwargs):\n        return Base",
        ),
    ),
    "no configuration": (
        "config-class-missing",
        replaced(MODELING, "    config: ToyConfig\n    config_class = ToyConfig\n", ""),
    ),
    "types as text": (
        "future-annotations",
        replaced(MODELING, "from torch import nn\n", "from __future__ import annotations\nfrom torch import nn\n"),
    ),
    "types as text, configuration": (
        "future-annotations",
        replaced(CONFIGURATION, "from huggingface_hub", "from __future__ import annotations\nfrom huggingface_hub"),
    ),
    "not strict": ("config-not-strict", replaced(CONFIGURATION, "@strict\n", "")),
    "tuple": (
        "tuple-in-config",
        replaced(CONFIGURATION, "int | list[int] | tuple[int, int] = 8", "tuple[int, int] = (8, 8)"),
    ),
    "backbone_config": (
        "sub-config-name",
        added(CONFIGURATION, "\n\nclass Both(PretrainedConfig):\n    sub_configs = {'backbone_config': ToyConfig}"),
    ),
    "isinstance": (
        "isinstance-of-config",
        replaced(
            MODELING, "        self.layer = ", "        assert isinstance(config, ToyConfig)\n        self.layer = "
        ),
    ),
    # config.json and its siblings
    "no config.json": ("config-missing", lambda folder: (folder / "config.json").unlink()),
    "broken config.json": ("config-unreadable", written("config.json", "{")),
    "config.json is a list": ("config-unreadable", written("config.json", "[]")),
    "another repository": ("auto-map-elsewhere", mapped(AutoModel="mallory/toy--modeling_toy.ToyModel")),
    "upward": ("auto-map-elsewhere", mapped(AutoModel="../modeling_toy.ToyModel")),
    "into a folder": ("auto-map-elsewhere", mapped(AutoModel="code/modeling_toy.ToyModel")),
    "too deep": ("auto-map-elsewhere", mapped(AutoModel="code.modeling_toy.ToyModel")),
    "no text": ("auto-map-elsewhere", mapped(AutoModel=3)),
    "of a tokenizer": (
        "auto-map-elsewhere",
        configured("tokenizer_config.json", auto_map={"AutoTokenizer": ["mallory/toy--t.T", None]}),
    ),
    "of a part": ("auto-map-elsewhere", configured(vision_config={"auto_map": {"AutoModel": "mallory/toy--t.T"}})),
    "of a processor": (
        "auto-map-missing-file",
        configured("preprocessor_config.json", auto_map={"AutoImageProcessor": "image_processing_toy.ToyProcessor"}),
    ),
    "file of the map": ("auto-map-missing-file", lambda folder: (folder / CONFIGURATION).unlink()),
    "class of the map": ("auto-map-missing-class", mapped(AutoModel="modeling_toy.ToyModell")),
    "no Auto class": ("auto-map-unknown-class", mapped(AutoModelForToys="modeling_toy.ToyModel")),
    "map is a list": ("auto-map-unreadable", configured(auto_map=["AutoModel"])),
    "no map": ("auto-map-missing", configured(drop=("auto_map",))),
    "no AutoConfig": ("auto-map-incomplete", mapped(AutoConfig=None)),
    "no way to what was saved": ("auto-map-incomplete", mapped(AutoModelForImageClassification=None)),
    "no model": (
        "auto-map-incomplete",
        configured(auto_map={"AutoConfig": "configuration_toy.ToyConfig"}, architectures=[]),
    ),
    "adapter": ("adapter-elsewhere", configured("adapter_config.json", base_model_name_or_path="mallory/toy")),
    "of a list": ("auto-map-elsewhere", configured(parts=[{"auto_map": {"AutoModel": "mallory/toy--t.T"}}])),
    "of another processor": (
        "auto-map-elsewhere",
        configured("video_preprocessor_config.json", auto_map={"AutoVideoProcessor": "mallory/toy--t.T"}),
    ),
    "architectures": ("config-unreadable", configured(architectures=5)),
    "endless nesting": ("config-unreadable", written("config.json", "[" * 100_000)),
    "endless sum": ("code-unreadable", added(LAYERS, "x = " + "-" * 100_000 + "1")),
    # files
    "pickled weights beside": ("pickle", written("pytorch_model.bin", saved_by_torch())),
    "pickle in a sub-folder": ("pickle", written("old/model.pth", saved_by_torch())),
    "pickle, disguised": ("pickle", written("weights.dat", pickled([1, 2]))),
    "archive of pickles, disguised": ("pickle", written("weights.npz", saved_by_torch())),
    "Trainer's pickle": ("pickle-of-trainer", written("training_args.bin", saved_by_torch())),
    "optimizer": ("pickle-of-trainer", written("optimizer.pt", saved_by_torch())),
    "random states": ("pickle-of-trainer", written("rng_state_3.pth", saved_by_torch())),
    "pointer as weights": (
        "lfs-pointer",
        written("model.safetensors", f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\nsize 9\n"),
    ),
    "pointer as a vocabulary": (
        "lfs-pointer",
        written("vocab.txt", f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\nsize 9\n"),
    ),
    "token": ("secret", added("notes.md", "my token: hf_" + "a1B2" * 8)),
    "token in code": ("secret", added(LAYERS, "TOKEN = 'hf_" + "a1B2" * 8 + "'")),
    "GitHub token": ("secret", added("notes.md", "ghp_" + "a1B2" * 9)),
    "AWS key": ("secret", added("notes.md", "AKIA" + "ABCD2345" * 2)),
    "API key": ("secret", added("notes.md", "sk-" + "a1B2" * 8)),
    "private key": ("secret", added("key.txt", "-----BEGIN OPENSSH " + "PRIVATE KEY-----")),
    "environment": ("secret", written(".env", "PASSWORD=x")),
    "path in config.json": ("absolute-path", configured(teacher="/" + "home/alice/runs/teacher")),
    "path in the card": ("absolute-path", added("README.md", "Trained from `/" + "Users/alice/data`.")),
    "path of Windows": ("absolute-path", configured(teacher="C:\\" + "Users\\alice")),
    "link to nowhere": ("broken-link", linked),
    "truncated": ("weights-damaged", truncated),
    "no safetensors": ("weights-damaged", written("model.safetensors", b"no tensors here, but long enough")),
    "empty": ("weights-damaged", written("model.safetensors", b"")),
    "damaged shard": (
        "weights-damaged",
        divided(lambda index: index),
        written("model-00002-of-00002.safetensors", b"x" * 99),
    ),
    "no weights": ("weights-none", lambda folder: (folder / "model.safetensors").unlink()),
    "lost shard": (
        "weights-missing",
        divided(lambda index: index),
        lambda folder: (folder / "model-00002-of-00002.safetensors").unlink(),
    ),
    "index leads out": ("path-leads-out", divided(remapped(**{"classifier.bias": "../other.safetensors"}))),
    "index disagrees": ("weights-index", divided(remapped(**{"classifier.bias": "model-00002-of-00002.safetensors"}))),
    "index unreadable": ("weights-index", divided(lambda index: [])),
    "shards without index": (
        "weights-index",
        divided(lambda index: index),
        lambda folder: (folder / "model.safetensors.index.json").unlink(),
    ),
    "stale weights": (
        "weights-stale",
        lambda folder: shutil.copyfile(folder / "model.safetensors", folder / "kept"),
        divided(lambda index: index),
        lambda folder: (folder / "kept").rename(folder / "model.safetensors"),
    ),
    "tampered weights": ("card-of-other-files", carded("model.safetensors")),
    "tampered code": ("card-of-other-files", carded(LAYERS)),
}
# What looks like a fault and is none.
SOUND = {
    "third party, in try": in_modeling("try:\n    import einops\nexcept ImportError:\n    einops = None"),
    "third party, asked for": in_modeling(
        "from transformers.utils import is_scipy_available\nif is_scipy_available():\n    import scipy"
    ),
    "torchvision for images": written("image_processing_toy.py", "import torchvision\n"),
    "a comment": in_modeling("# from .ghost import thing"),
    "a docstring of transformers": added(LAYERS, 'def later():\n    """\n    >>> from .ghost import thing\n    """'),
    "imports over lines": in_modeling("from .layers_toy import (\n    ToyLayer as Again,\n)"),
    "what main runs": added(LAYERS, "if __name__ == '__main__':\n    print(open('notes.txt').read())"),
    "open in a function": added(LAYERS, "def later(path):\n    return open(path)"),
    "buffer that is filled": lambda folder: [
        spoil(folder)
        for spoil in (
            in_layer("self.register_buffer('mask', torch.ones(4), persistent=False)"),
            in_initialiser("init.normal_(module.shift)\n            init.copy_(module.mask, module.mask.new_ones(4))"),
        )
    ],
    "tensor to a number": in_layer("self.steps = torch.arange(4).sum().item()"),
    "an address": added("notes.md", "https://example.org/home/alice/x and ./data/x and a/tmp/b"),
    "reading the environment": added(LAYERS, "import os\nimport shutil\nX = os.environ.get('X'), shutil.which('git')"),
    "a package with such a part": in_modeling(
        "try:\n    from einops.layers_toy.torch import R\nexcept ImportError:\n    R = None"
    ),
    "no buffer yet": in_layer("self.register_buffer('mask', None, persistent=False)"),
    "a tensor for a moment": in_forward("shift = torch.zeros(6)"),
    "a version beside code": added(
        LAYERS, "import os\ndef later():\n    return os.path.basename(__file__) + ' v1.beta'"
    ),
    "an heir without post_init": added(MODELING, HEIR),
    "a length like a pickle's": padded,
    "whole shards": divided(lambda index: index),
    "an array of numpy": written(
        "table.npz", (lambda f: (zipfile.ZipFile(f, "w").writestr("a.npy", b"x"), f.getvalue())[1])(io.BytesIO())
    ),
}


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    return make_toy(tmp_path_factory.mktemp("toy") / "toy")


def test_the_toy_is_sound(toy):
    assert check(toy, run=False).findings == []


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_found_and_named(fault, toy, tmp_path):
    rule, *spoils = FAULTS[fault]
    report = check(spoiled(toy, tmp_path / "toy", *spoils), run=False)
    found = [finding for finding in report.findings if finding.rule == rule]
    assert found, report.text()
    for finding in found:
        assert ":" in finding.says, "the sentence names the fix"
        assert str(tmp_path) not in finding.says
    if rule == "secret":
        assert "a1B2" not in report.text()
        assert "ABCD2345" not in report.text()


@pytest.mark.parametrize("case", SOUND)
def test_what_is_no_fault_is_not_found(case, toy, tmp_path):
    assert check(spoiled(toy, tmp_path / "toy", SOUND[case]), run=False).findings == []


def test_every_rule_that_reads_is_in_the_corpus_and_every_rule_on_the_page():
    """The names as the code writes them."""
    names = set()
    for path in (ROOT / "modeling_vit_custom/hub").glob("*.py"):
        names |= set(re.findall(r"Finding\(\s*\"([a-z-]+)\"", path.read_text()))
    seeded = {rule for rule, *_ in FAULTS.values()}
    elsewhere = {
        "weights-do-not-fit",
        "config-cannot-be-built",
        "process-died",
        "not-on-disk",
        "not-on-hub",
        "tampered",
        "refused",
    }
    assert names - elsewhere <= seeded
    page = (ROOT / "docs/hub.md").read_text()
    probed = set(re.findall(r"self\.find\(\s*\"([a-z-]+)\"", (ROOT / "modeling_vit_custom/hub/probe.py").read_text()))
    assert {name for name in names | probed if f"`{name}`" not in page} == set()


def test_the_token_of_the_one_who_asks_is_found_wherever_it_stands(toy, tmp_path):
    folder = spoiled(toy, tmp_path / "toy", added("notes.md", "short: abcd-1234-efgh"))
    report = check(folder, run=False, secrets=["abcd-1234-efgh"])
    assert [finding.rule for finding in report.errors] == ["secret"]
    assert "abcd-1234" not in report.text() + report.json()


COPIED_OUT = ("vit", "deit", "dinov2", "dinov3_vit", "swin", "bert", "llama")


@pytest.mark.parametrize("name", COPIED_OUT)
def test_a_model_of_transformers_copied_out_is_sound(name, toy, tmp_path):
    """Its imports made absolute, as whoever copies it must; `@auto_docstring` alone is warned of."""
    folder = spoiled(toy, tmp_path / name)
    copy_out(name, folder)
    report = check(folder, run=False)
    assert {finding.rule for finding in report.findings} <= {"auto-docstring"}, report.text()


def copy_out(name: str, folder: Path):
    source = Path(transformers.__file__).parent / "models" / name
    for kind in ("configuration", "modeling"):
        text = (source / f"{kind}_{name}.py").read_text()
        text = re.sub(r"^from \.\.\. import", "from transformers import", text, flags=re.MULTILINE)
        text = re.sub(r"^from \.\.\.([a-z_.]+) import", r"from transformers.\1 import", text, flags=re.MULTILINE)
        text = re.sub(r"^from \.\.([a-z_.]+) import", r"from transformers.models.\1 import", text, flags=re.MULTILINE)
        (folder / f"{kind}_{name}.py").write_text(text)


def test_our_own_files_are_sound(toy, tmp_path):
    folder = spoiled(toy, tmp_path / "toy")
    for name in SHIPPED_FILES:
        shutil.copyfile(ROOT / "modeling_vit_custom" / name, folder / name)
    assert check(folder, run=False).findings == []


def test_a_weight_in_another_shape_is_told_from_headers_alone(tmp_path):
    from modeling_vit_custom import ViTCustomForImageClassification
    from tests.support import tiny

    sound = tmp_path / "sound"
    ViTCustomForImageClassification(tiny()).save_pretrained(sound)
    assert check(sound, run=False).findings == []
    changes = {
        "another shape": weighed(lambda tensors: tensors | {"classifier.bias": torch.zeros(4)}),
        "missing": weighed(lambda tensors: {key: tensors[key] for key in tensors if key != "vit.norm.bias"}),
        "too many": weighed(lambda tensors: tensors | {"vit.more": torch.zeros(4)}),
    }
    for name, change in changes.items():
        (finding,) = check(spoiled(sound, tmp_path / name, change), run=False).findings
        assert finding.rule == "weights-do-not-fit"
    broken = spoiled(sound, tmp_path / "broken", configured(hidden_sizes=[33]))
    assert [finding.rule for finding in check(broken, run=False).findings] == ["config-cannot-be-built"]


def test_a_folder_that_is_none_is_said_in_a_sentence(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"is no folder: name the one that holds config\.json"):
        check(tmp_path / "nowhere")


def test_the_report_is_text_and_json(toy, tmp_path):
    report = check(spoiled(toy, tmp_path / "toy", FAULTS["eval"][1]), run=False)
    told = json.loads(report.json())
    assert told["sound"] is False
    assert told["findings"][0] == dict(
        rule="dynamic-code", where=f"{LAYERS}:16", says=report.findings[0].says, level="error"
    )
    assert report.text().endswith("Not sound: 1 errors, 0 warnings, 0 notes.")
