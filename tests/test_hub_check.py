"""Seeded faults that only loading shows, each in a process where nothing of ours is; and sound checkpoints."""

import re
import shutil
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import save_file
from transformers import ViTImageProcessor

from modeling_vit_custom import ViTCustomForImageClassification
from modeling_vit_custom.hub import check_all
from tests.matrix import make
from tests.support import VARIANTS
from tests.support import fill
from tests.support import tiny
from tests.test_hub_rules import LAYERS
from tests.test_hub_rules import MODELING
from tests.test_hub_rules import copy_out
from tests.test_hub_rules import in_forward
from tests.test_hub_rules import in_layer
from tests.test_hub_rules import in_modeling
from tests.toys import added
from tests.toys import configured
from tests.toys import make_toy
from tests.toys import mapped
from tests.toys import replaced
from tests.toys import spoiled
from tests.toys import weighed

pytestmark = pytest.mark.xdist_group("check")  # the process below is started once, not once a worker


def in_class(name: str, text: str):
    body = "\n".join(f"    {line}" for line in text.splitlines())
    return replaced(MODELING, f"class {name}(ToyPreTrainedModel):\n", f"class {name}(ToyPreTrainedModel):\n{body}\n\n")


HEAD = "ToyForImageClassification"
AFTER_LOADING = (
    "@classmethod\ndef from_pretrained(cls, *args, **kwargs):\n"
    "    import torch\n    model, info = super().from_pretrained(*args, **kwargs)\n    {}\n    return model, info"
)
EXTRA = "from .modeling_toy import ToyModel\n\n\nclass ExtraModel(ToyModel):\n    pass\n"
FAULTS = {
    "network": ("audit-network", in_layer("import socket; socket.getaddrinfo('example.org', 80)")),
    "network, in a thread": (
        "audit-network",
        in_forward(
            "import socket, threading; look = threading.Thread(target=socket.gethostbyname, args=('example.org',)); "
            "look.start(); look.join()"
        ),
    ),
    "process": ("audit-process", in_layer("import subprocess; subprocess.Popen(['true'])")),
    "process, in forward": ("audit-process", in_forward("import os; os.system('true')")),
    "writing": ("audit-write", in_layer("import pathlib; pathlib.Path(__file__).home().joinpath('x').touch()")),
    "deleting": ("audit-write", in_forward("import os; os.remove(os.path.join(os.path.expanduser('~'), 'x'))")),
    "writing, at import": (
        "audit-write",
        in_modeling("from pathlib import Path\nPath.home().joinpath('x').open('w').close()"),
    ),
    "library": ("audit-library", in_layer("from ctypes import CDLL; CDLL(None)")),
    "pickle": (
        "audit-pickle",
        in_layer(
            "import io, numpy; f = io.BytesIO(); numpy.save(f, numpy.array([print])); f.seek(0); "
            "numpy.load(f, **{'allow_pickle': True})"
        ),
    ),
    "changed after loading": (
        "weights-changed",
        in_class(HEAD, AFTER_LOADING.format("torch.nn.init.zeros_(model.classifier.bias)")),
    ),
    "initialised anew": (
        "weights-changed",
        in_class(HEAD, AFTER_LOADING.format("model.apply(model._init_weights)")),
        replaced(
            MODELING, "init.normal_(module.shift, std=self.config.initializer_range)", "nn.init.ones_(module.shift)"
        ),
    ),
    "random after loading": (
        "loads-differ",
        in_class(HEAD, AFTER_LOADING.format("torch.seed(); torch.nn.init.normal_(model.classifier.bias)")),
    ),
    "buffer": ("buffer-not-saved", in_layer("self.register_buffer('mask', torch.ones(6), **{'persistent': False})")),
    "parameter, not in the file": (
        "parameter-not-initialised",
        in_layer("setattr(self, 'scale', nn.Parameter(torch.empty(6)))"),
    ),
    "parameter, lost from the file": (
        "parameter-not-initialised",
        replaced(MODELING, "init.normal_(module.shift, std=self.config.initializer_range)", "module.shift"),
    ),
    "overwritten": (
        "initialiser-overwrites",
        replaced(MODELING, "        if isinstance(module, ToyLayer):", "        anew(module)\n        if False:"),
        added(
            MODELING, "\n\ndef anew(module):\n    for p in module.parameters(recurse=False):\n        p.data.normal_()"
        ),
    ),
    "plain tensor": ("tensor-as-attribute", in_layer("self.steps = torch.nn.functional.relu(torch.ones(6))")),
    "state kept": (
        "outputs-differ",
        in_forward("self.calls = getattr(self, 'calls', 0) + 1; hidden_states = hidden_states * self.calls"),
    ),
    "no number": ("output-not-finite", in_forward("hidden_states = hidden_states / 0 * 0")),
    "no forward": ("forward-fails", in_forward("raise IndexError('out of words')")),
    "no saving": (
        "save-fails",
        in_class(HEAD, "def save_pretrained(self, *args, **kwargs):\n    raise OSError('full')"),
    ),
    "other weights saved": (
        "save-changes-weights",
        in_class(
            HEAD,
            "def state_dict(self, *args, **kwargs):\n    state = super().state_dict(*args, **kwargs)\n"
            "    return {key: value + 1 if key == 'classifier.bias' else value for key, value in state.items()}",
        ),
    ),
    "other settings saved": (
        "save-changes-config",
        replaced(MODELING, "        self.layer = ", "        config.initializer_range += 1\n        self.layer = "),
    ),
    "map lost": (
        "save-loses-auto-map",
        replaced(MODELING, "        self.layer = ", "        config.auto_map = {}\n        self.layer = "),
    ),
    "code lost": (
        "save-loses-code",
        added("extra_toy.py", EXTRA),
        mapped(AutoModelForPreTraining="extra_toy.ExtraModel"),
    ),
    "weight missing": (
        "weights-missing",
        weighed(lambda tensors: {key: tensors[key] for key in tensors if key != "classifier.bias"}),
    ),
    "weight without elements": ("weights-missing", in_layer("self.nothing = nn.Parameter(torch.zeros(0))")),
    "weight without a place": ("weights-unused", weighed(lambda tensors: tensors | {"more": torch.ones(2)})),
    "another class fails": (
        "auto-class-fails",
        added("extra_toy.py", EXTRA + "\n\nclass Late(Unknown):\n    pass\n"),
        mapped(AutoModelForPreTraining="extra_toy.ExtraModel"),
    ),
    "another shape": ("load-fails", weighed(lambda tensors: tensors | {"classifier.bias": torch.ones(4)})),
    "another configuration": ("load-fails", configured(hidden_size="wide")),
    "error at import": ("load-fails", in_modeling("raise ArithmeticError('no')")),
    "processor": ("load-fails", configured("preprocessor_config.json", image_processor_type="GhostProcessor")),
    "the end": ("process-died", in_layer("import os; os._exit(3)")),
}
OURS = ("vit", "swin", "pit", "dinov3", "clip")
HEADS = (("segmentation", "swin"), ("detection", "pit"), ("pre-training", "deit"), ("image-text", "vit"))
COPIED = ("vit", "dinov2")


@pytest.fixture(scope="module")
def reports(tmp_path_factory):
    """{what: its report}, all from one process that forks."""
    work = tmp_path_factory.mktemp("check")
    toy = make_toy(work / "toy")
    folders = {"the toy": toy} | {
        fault: spoiled(toy, work / f"fault{n}", *FAULTS[fault][1:]) for n, fault in enumerate(FAULTS)
    }
    for name in OURS:
        folders[name] = work / f"ours_{name}"
        fill(ViTCustomForImageClassification(tiny(**VARIANTS[name]))).save_pretrained(folders[name])
        ViTImageProcessor(size=dict(height=32, width=32)).save_pretrained(folders[name])
    for head, member in HEADS:
        folders[head] = work / head.replace("-", "_")
        make(head=head, member=member).save_pretrained(folders[head])
    for name in COPIED:
        folders[f"copied {name}"] = copied(name, work / f"copied_{name}")
    (work / "home").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(work / "home"))  # where the faults would leave their marks
        found = dict(zip(folders, check_all(list(folders.values())), strict=True))
    assert list((work / "home").iterdir()) == [], "the hook stops what it finds"
    return found


def copied(name: str, folder: Path) -> Path:
    """A small model of transformers' as its copier would publish it, under a name of its own."""
    library = getattr(
        transformers, {"vit": "ViTForImageClassification", "dinov2": "Dinov2ForImageClassification"}[name]
    )
    small = dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64, image_size=32)
    model = fill(library(library.config_class(**small, patch_size=8, num_labels=3)))
    folder.mkdir()
    copy_out(name, folder)
    for path in folder.glob("*.py"):
        text = re.sub(r"^ *@auto_docstring(\(\n(.*\n)*?\)|\(.*\))?\n", "", path.read_text(), flags=re.MULTILINE)
        path.write_text(text.replace(f'model_type = "{name}"', f'model_type = "{name}_copied"'))
    stem = library.__name__.removesuffix("ForImageClassification")
    model.save_pretrained(folder)
    configured(
        model_type=f"{name}_copied",
        auto_map={
            "AutoConfig": f"configuration_{name}.{stem}Config",
            "AutoModelForImageClassification": f"modeling_{name}.{library.__name__}",
        },
    )(folder)
    save_file(
        {key: value.contiguous() for key, value in model.state_dict().items()},
        folder / "model.safetensors",
        {"format": "pt"},
    )
    return folder


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_found_and_named(fault, reports):
    rule, report = FAULTS[fault][0], reports[fault]
    found = [finding for finding in report.findings if finding.rule == rule]
    assert found, report.text()
    assert all(":" in finding.says or rule == "process-died" for finding in found), "the sentence names the fix"
    if rule.startswith("audit-"):
        assert any(re.match(r"(layers|modeling)_toy\.py:\d+$", finding.where) or "thread" in fault for finding in found)


@pytest.mark.parametrize(
    "name", ["the toy", *OURS, *(head for head, _ in HEADS), *(f"copied {name}" for name in COPIED)]
)
def test_what_is_sound_has_no_finding_but_notes(name, reports):
    # Seen in 5.5.4 and not in 5.23: saved again, a copied model's folder lacks the model's file.
    known = {"save-loses-code"} if name.startswith("copied") and transformers.__version__.startswith("5.5.") else set()
    assert [str(f) for f in reports[name].findings if f.level != "note" and f.rule not in known] == []
    assert any("every one compared with the file" in fact for fact in reports[name].facts), reports[name].text()
    assert any(": run on" in fact for fact in reports[name].facts), reports[name].text()


def test_every_auto_class_of_ours_is_tried(reports):
    told = "\n".join([*reports["vit"].facts, *(finding.says for finding in reports["vit"].findings)])
    for auto_class in ("AutoModel", "AutoBackbone", "AutoModelForObjectDetection", "AutoModelForSemanticSegmentation"):
        assert f"{auto_class}: loads" in told
    refused = [finding.says for finding in reports["swin"].findings if finding.level == "note"]
    assert len(refused) == 1
    assert "AutoModelForPreTraining does not take this checkpoint: ValueError: MAE leaves patches out" in refused[0]


def test_importing_our_files_opens_no_socket_starts_no_process_and_writes_nothing(reports):
    for name in (*OURS, *(head for head, _ in HEADS)):
        assert [f for f in reports[name].findings if f.rule.startswith("audit-")] == []


def test_code_that_a_rule_objects_to_is_not_run(tmp_path):
    """Neither is a folder whose card lists another file."""
    toy = make_toy(tmp_path / "toy")
    mark = added(LAYERS, "open('mark', 'w').close()")
    (report,) = check_all([spoiled(toy, tmp_path / "spoiled", mark)])
    assert [finding.rule for finding in report.errors] == ["side-effect-at-import"]
    assert "not loaded, because of the errors below" in report.facts
    shutil.rmtree(tmp_path / "spoiled")


def test_every_finding_of_a_load_is_in_the_corpus(reports):
    from tests.support import ROOT

    text = (ROOT / "modeling_vit_custom/hub/probe.py").read_text()
    names = set(re.findall(r"self\.find\(\s*\"([a-z-]+)\"", text)) | set(re.findall(r"\"(audit-[a-z]+)\"", text))
    assert names - {rule for rule, *_ in FAULTS.values()} <= {"auto-class-refuses"}
