"""transformers' own common model tests on our models: fetch them, unpack them, run them in a process of their own.

They are in no wheel, only in the source distribution. `python -m tests.transformers_common fetch` stores that of the
installed version under `.cache/`, as part of `make pytest`; nothing of it is copied into this repository.
"""

import argparse
import functools
import importlib
import json
import os
import subprocess
import sys
import tarfile
import unittest
import warnings
from importlib.metadata import version
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).parent.parent
CACHE = ROOT / ".cache" / "transformers"
VERSION = version("transformers")
PACKAGE = "transformers_tests"  # the unpacked folder's name as a package: `tests` is ours
# The numbers are for a CPU without network, slow tests included: a default like "slow" is no reason to leave one out.
ENVIRONMENT = {
    "CUDA_VISIBLE_DEVICES": "",
    "HF_HUB_OFFLINE": "1",
    "OMP_NUM_THREADS": "1",
    "RUN_SLOW": "1",
    "TRANSFORMERS_TEST_DEVICE": "cpu",
}


def archive() -> Path:
    return CACHE / f"transformers-{VERSION}.tar.gz"


def fetch():
    """Download the source distribution of the installed version, unless it is there."""
    if not archive().exists():
        download = f"download --quiet --no-deps --no-binary transformers transformers=={VERSION} --dest".split()
        subprocess.run([sys.executable, "-m", "pip", *download, str(CACHE)], check=True)


def unpack(folder: Path) -> Path:
    """Unpack the tests and return their folder."""
    if not archive().exists():
        raise FileNotFoundError(
            f"The source distribution of transformers {VERSION} is missing: run `make pytest`, or "
            "`python -m tests.transformers_common fetch` in this environment."
        )
    with tarfile.open(archive()) as tar:
        tar.extractall(folder, [member for member in tar if "/tests/" in member.name], filter="data")
    tests = folder / f"transformers-{VERSION}" / "tests"
    (tests / "__init__.py").touch()  # `test_configuration_common` loads it, and the archive leaves it out
    return tests


def run(tests: Path, report: Path, fault: str = "none") -> dict[str, list[str]]:
    """Run every test in a new process, so that no stand-in or fault outlives it: {test: [outcome, detail]}.

    An outcome is "passed", "failed", "skipped" or "idle", which is to pass without building a model of ours.
    """
    command = [sys.executable, "-m", "tests.transformers_common", "run", str(tests), str(report), fault]
    process = subprocess.run(command, cwd=ROOT, env=os.environ | ENVIRONMENT, capture_output=True, text=True)
    if process.returncode:
        raise RuntimeError(f"The suite did not run:\n{process.stderr[-4000:]}")
    return json.loads(report.read_text())


def expand(cases):
    """As `parameterized.expand`: a method for each case, put into the class body that is being executed."""

    def decorate(test):
        body = sys._getframe(1).f_locals
        for index, case in enumerate(cases):
            values = case if isinstance(case, tuple) else (case,)
            label = f"_{values[0]}" if isinstance(values[0], str) else ""
            body[f"{test.__name__}_{index}{label}"] = functools.partialmethod(test, *values)

    return decorate


def put_stand_ins(tests: Path):
    """Make the unpacked folder importable.

    The archive leaves out the folders of `tests/`, and the files that we use import three names from there: two
    mixins, of exporting and of text generation, which are suites of their own, and the values that `ConfigTester`
    sets, for which we choose ours. Of `parameterized` they use one function.
    """
    settings = {"dtype": "float16", "id2label": {0: "label"}, "output_attentions": True, "problem_type": "regression"}
    for name, contents in {
        PACKAGE: {"__path__": [str(tests)]},
        f"{PACKAGE}.exporters.test_export": {"ExportTesterMixin": type("ExportTesterMixin", (), {})},
        f"{PACKAGE}.generation.test_utils": {"GenerationTesterMixin": type("GenerationTesterMixin", (), {})},
        f"{PACKAGE}.utils.test_configuration_utils": {"config_common_kwargs": settings},
        "parameterized": {"parameterized": type("parameterized", (), {"expand": staticmethod(expand)})},
    }.items():
        module = sys.modules[name] = ModuleType(name)
        vars(module).update(contents)


def make_test_case() -> type[unittest.TestCase]:
    """The suite on our classes, in the form that transformers gives each of its own models."""
    from transformers.models.auto import modeling_auto

    from modeling_vit_custom import ViTCustomConfig
    from modeling_vit_custom import ViTCustomForImageClassification
    from modeling_vit_custom import ViTCustomModel
    from tests.support import picture
    from tests.support import tiny

    # The suite looks heads up by class name, in tables that `Auto*.register` does not fill: tests would pass idly.
    modeling_auto.MODEL_MAPPING_NAMES["vit_custom"] = "ViTCustomModel"
    modeling_auto.MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES["vit_custom"] = "ViTCustomForImageClassification"

    modeling = importlib.import_module(f"{PACKAGE}.test_modeling_common")
    configuration = importlib.import_module(f"{PACKAGE}.test_configuration_common")
    # The original sets every family's name for this number, and `layer_norm_epsilon` is one that we refuse when the
    # model is loaded: too close to ours, so in a user's hands a misspelling.
    modeling.set_config_for_less_flaky_test = lambda config: setattr(config, "layer_norm_eps", 1.0)

    class Tester:
        """A tiny model and its inputs, by the names under which the suite asks for them."""

        is_training = True
        batch_size, seq_length = 3, 17  # the class token and 4 x 4 patches
        image_size, patch_size, num_channels = 32, 8, 3
        hidden_size, num_hidden_layers, num_attention_heads = 32, 2, 4

        def get_config(self):
            return tiny(initializer_range=0.1)  # at 0.02 attention is all but uniform, whatever its scale

        def prepare_config_and_inputs_for_common(self):
            shape = (self.batch_size, self.num_channels, self.image_size, self.image_size)
            return self.get_config(), {"pixel_values": picture(*shape)}

    class ViTCustomModelTest(modeling.ModelTesterMixin, unittest.TestCase):
        all_model_classes = (ViTCustomModel, ViTCustomForImageClassification)
        test_resize_embeddings = False  # of a vocabulary

        def setUp(self):
            self.model_tester = Tester()

        def test_config(self):
            sizes = {"hidden_sizes": [36], "depths": [2], "num_attention_heads": [4]}
            configuration.ConfigTester(
                self, config_class=ViTCustomConfig, has_text_modality=False, **sizes
            ).run_common_tests()

    return ViTCustomModelTest


def seed_wrong_scale():
    from modeling_vit_custom import modeling_attention

    right = modeling_attention.eager_attention_forward
    modeling_attention.eager_attention_forward = lambda *args, scaling, **kwargs: right(
        *args, scaling=2 * scaling, **kwargs
    )


def seed_undeclared_sdpa():
    from modeling_vit_custom import ViTCustomPreTrainedModel

    ViTCustomPreTrainedModel._supports_sdpa = False


def seed_undeclared_checkpointing():
    from modeling_vit_custom import ViTCustomPreTrainedModel

    ViTCustomPreTrainedModel.supports_gradient_checkpointing = False


def seed_uninitialised_parameter():
    from modeling_vit_custom import ViTCustomPreTrainedModel
    from modeling_vit_custom.modeling_embeddings import ViTCustomEmbeddings

    right = ViTCustomPreTrainedModel._init_weights

    def wrong(self, module):
        if not isinstance(module, ViTCustomEmbeddings):
            right(self, module)

    ViTCustomPreTrainedModel._init_weights = wrong


def seed_missing_hidden_state():
    from modeling_vit_custom import ViTCustomModel

    right = ViTCustomModel.forward

    @functools.wraps(right)
    def wrong(*args, **kwargs):
        outputs = right(*args, **kwargs)
        if getattr(outputs, "hidden_states", None) is not None:
            outputs["hidden_states"] = outputs.hidden_states[:-1]
        return outputs

    ViTCustomModel.forward = wrong


FAULTS = {
    "wrong_scale": seed_wrong_scale,
    "undeclared_sdpa": seed_undeclared_sdpa,
    "undeclared_checkpointing": seed_undeclared_checkpointing,
    "uninitialised_parameter": seed_uninitialised_parameter,
    "missing_hidden_state": seed_missing_hidden_state,
}


def run_here(tests: Path, fault: str) -> dict[str, list[str]]:
    """See `run`."""
    import torch

    from modeling_vit_custom import ViTCustomModel

    put_stand_ins(tests)
    test_case = make_test_case()
    if fault != "none":
        FAULTS[fault]()
    built = []
    right = ViTCustomModel.__init__

    @functools.wraps(right)
    def counting(*args, **kwargs):
        built.append(True)
        right(*args, **kwargs)

    ViTCustomModel.__init__ = counting
    # Memory that nobody initialised is filled with NaN: what it held before can be the right value by luck.
    torch.use_deterministic_algorithms(True)
    warnings.simplefilter("error")
    outcomes = {}
    for name in unittest.defaultTestLoader.getTestCaseNames(test_case):
        built.clear()
        result = unittest.TestResult()
        test_case(name).run(result)
        if result.errors or result.failures:
            outcomes[name] = ["failed", (result.errors + result.failures)[0][1]]
        elif result.skipped:
            outcomes[name] = ["skipped", result.skipped[0][1]]
        else:
            outcomes[name] = ["passed" if built else "idle", ""]
    return outcomes


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("fetch", help="download the source distribution, once")
    child = commands.add_parser("run", help="run the suite and write a report: what the tests start")
    child.add_argument("tests", type=Path)
    child.add_argument("report", type=Path)
    child.add_argument("fault", choices=["none", *FAULTS])
    args = parser.parse_args(argv)
    if args.command == "fetch":
        fetch()
    else:
        args.report.write_text(json.dumps(run_here(args.tests, args.fault)))


if __name__ == "__main__":
    main()
