"""transformers' own common model tests on our models: fetch them, unpack them, run them in a process of their own.

They are in no wheel, only in the source distribution. `python -m tests.transformers_common fetch` stores that of the
installed version under `.cache/`, as part of `make pytest`; nothing of it is copied into this repository.
"""

import argparse
import functools
import importlib
import json
import math
import os
import re
import subprocess
import sys
import tarfile
import traceback
import unittest
import warnings
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

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


class Numbers(NamedTuple):
    """What the suite expects of a member's outputs, counted by hand; of a pyramid, in its first stage."""

    seq_length: int  # prefix tokens and patches
    attention_length: int  # tokens that see each other
    hidden_size: int = 32
    num_attention_heads: int = 4
    num_hidden_layers: int = 2


PYRAMID = {"hidden_sizes": [16, 32], "num_attention_heads": [2, 4]}
DECODER = {
    "decoder_hidden_size": 32,
    "decoder_num_hidden_layers": 1,
    "decoder_num_attention_heads": 4,
    "num_queries": 5,
}
# Each suite: which of `tests.support.VARIANTS`, its numbers, and what is changed; heads are suites of their own.
MEMBERS: dict[str, tuple[str, Numbers, dict]] = {
    "vit": ("vit", Numbers(1 + 4 * 4, 17), {}),
    "deit": ("deit", Numbers(2 + 4 * 4, 18), {}),
    "swin": ("swin", Numbers(16 * 16, 3 * 3, 16, 2, 3), {**PYRAMID, "depths": [2, 1]}),
    "pit": ("pit", Numbers(2 + 7 * 7, 51, 16, 2), {**PYRAMID, "depths": [1, 1]}),
    "dinov2": ("dinov2", Numbers(2 + 4 * 4, 18), {}),
    "dinov3": ("dinov3", Numbers(3 + 4 * 4, 19), {}),
    "heads on vit": ("vit", Numbers(1 + 4 * 4, 17), DECODER),
    "heads on swin": ("swin", Numbers(16 * 16, 3 * 3, 16, 2, 3), {**PYRAMID, **DECODER, "depths": [2, 1]}),
    "pre-training on vit": ("vit", Numbers(1 + 4, 5), {**DECODER, "mask_ratio": 0.7}),
    "dual encoder": ("vit", Numbers(17, 17), {}),
    "vit backbone": ("vit", Numbers(17, 17), {"out_indices": [1, 2]}),
    "swin backbone": ("swin", Numbers(256, 9), {"out_indices": [1, 3]}),
    "pit backbone": ("pit", Numbers(51, 51), {"out_indices": [1, 3]}),
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


def run(tests: Path, folder: Path, names: list[str]) -> dict[str, dict[str, dict[str, list[str]]]]:
    """Run every test of the members that are named, and again with each seeded fault that is: {fault or "none":
    {member: {test: [outcome, detail]}}}.

    An outcome is "passed", "failed", "skipped" or "idle", which is to pass without building a model of ours. It is a
    new process, so that no stand-in outlives it, which forks once a fault: importing takes as long as a suite.
    """
    command = [sys.executable, "-m", "tests.transformers_common", "run", str(tests), str(folder), *names]
    process = subprocess.run(command, cwd=ROOT, env=os.environ | ENVIRONMENT, capture_output=True, text=True)
    if process.returncode:
        raise RuntimeError(f"The suite did not run:\n{process.stderr[-4000:]}")
    return {path.stem: json.loads(path.read_text()) for path in folder.glob("*.json")}


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


def make_test_cases() -> dict[str, type[unittest.TestCase]]:
    """The suites on our classes, in the form that transformers gives each of its own models, one for each member."""
    import torch
    from transformers.models.auto import modeling_auto

    from modeling_vit_custom import ViTCustomBackbone
    from modeling_vit_custom import ViTCustomConfig
    from modeling_vit_custom import ViTCustomDualEncoder
    from modeling_vit_custom import ViTCustomDualEncoderConfig
    from modeling_vit_custom import ViTCustomForImageClassification
    from modeling_vit_custom import ViTCustomForMaskedImageModeling
    from modeling_vit_custom import ViTCustomForObjectDetection
    from modeling_vit_custom import ViTCustomForPreTraining
    from modeling_vit_custom import ViTCustomForSemanticSegmentation
    from modeling_vit_custom import ViTCustomModel
    from modeling_vit_custom.checkpoint_files import AUTO_MAP
    from modeling_vit_custom.checkpoint_files import DUAL_ENCODER_AUTO_MAP
    from modeling_vit_custom.configuration_stages import grid_at
    from tests.matrix import make_config
    from tests.support import VARIANTS
    from tests.support import picture
    from tests.support import tiny

    # The suite looks heads up by class name, in tables that `Auto*.register` does not fill: tests would pass idly.
    for model_type, auto_map in (("vit_custom", AUTO_MAP), ("vit_custom_dual_encoder", DUAL_ENCODER_AUTO_MAP)):
        for auto_class, value in auto_map.items():
            task = re.sub(r"(?<!^)(?=[A-Z])", "_", auto_class.removeprefix("AutoModel").removeprefix("Auto")).upper()
            table = {"": "MODEL", "BACKBONE": "MODEL_FOR_BACKBONE", "FOR_PRE_TRAINING": "MODEL_FOR_PRETRAINING"}
            names = f"{table.get(task, f'MODEL_{task}')}_MAPPING_NAMES"
            if auto_class != "AutoConfig" and (task or model_type == "vit_custom"):  # base models are not trained there
                getattr(modeling_auto, names)[model_type] = value.split(".")[1]

    modeling = importlib.import_module(f"{PACKAGE}.test_modeling_common")
    backbones = importlib.import_module(f"{PACKAGE}.test_backbone_common")
    configuration = importlib.import_module(f"{PACKAGE}.test_configuration_common")
    # The original sets every family's name for this number, and `layer_norm_epsilon` is one that we refuse when the
    # model is loaded: too close to ours, so in a user's hands a misspelling.
    modeling.set_config_for_less_flaky_test = lambda config: setattr(config, "layer_norm_eps", 1.0)

    class Tester:
        """A tiny model and its inputs, by the names under which the suite asks for them."""

        is_training = True
        batch_size, image_size, patch_size, num_channels = 3, 32, 8, 3

        def __init__(self, variant: str, numbers: Numbers, **settings):
            self.settings = VARIANTS[variant] | settings
            self.__dict__.update(numbers._asdict())
            self.num_masks, self.mask_length = 4, math.prod(tiny(**self.settings).grid)

        def get_config(self):
            return tiny(**self.settings | {"initializer_range": 0.1})  # at 0.02 attention is all but uniform

        def prepare_config_and_inputs_for_common(self):
            shape = (self.batch_size, self.num_channels, self.image_size, self.image_size)
            return self.get_config(), {"pixel_values": picture(*shape)}

    class PreTrainingTester(Tester):
        """The noise is given: otherwise no two calls would hide the same patches."""

        def prepare_config_and_inputs_for_common(self):
            config, inputs = super().prepare_config_and_inputs_for_common()
            return config, inputs | {"noise": picture(self.batch_size, 4 * 4)}

    class DualEncoderTester(Tester):
        """Its text tower is CLIP's, and transformers 5.5 would fill a smaller batch with captions that never end."""

        batch_size = 7

        def get_config(self):
            config = make_config("image-text", "vit")
            config.text_config.num_hidden_layers = self.num_hidden_layers
            return config

        def prepare_config_and_inputs_for_common(self):
            config, inputs = super().prepare_config_and_inputs_for_common()
            words = torch.arange(self.batch_size * 7).view(self.batch_size, 7) % 10 + 4
            words[:, -1] = config.text_config.eos_token_id
            return config, inputs | {"input_ids": words, "attention_mask": torch.ones_like(words)}

    class Models(modeling.ModelTesterMixin):
        all_model_classes = (ViTCustomModel, ViTCustomForImageClassification, ViTCustomBackbone)
        test_resize_embeddings = False  # of a vocabulary

        def test_config(self):
            sizes = {"hidden_sizes": [48], "depths": [2], "num_attention_heads": [4]}
            configuration.ConfigTester(
                self, config_class=ViTCustomConfig, has_text_modality=False, **self.model_tester.settings | sizes
            ).run_common_tests()

        def test_attention_outputs(self):
            self.model_tester.seq_length = self.model_tester.attention_length
            super().test_attention_outputs()

    class Heads(Models):
        all_model_classes = (
            ViTCustomForMaskedImageModeling,
            ViTCustomForSemanticSegmentation,
            ViTCustomForObjectDetection,
        )

        def _prepare_for_class(self, inputs_dict, model_class, return_labels=False):
            """The original hides no patch, which we refuse, and knows nothing of boxes."""
            inputs = super()._prepare_for_class(inputs_dict, model_class, return_labels)
            config, batch = self.model_tester.get_config(), self.model_tester.batch_size
            if return_labels and model_class is ViTCustomForMaskedImageModeling:
                rows, columns = grid_at(config, *inputs["pixel_values"].shape[2:], stage=0)
                inputs["bool_masked_pos"] = (torch.arange(rows * columns) % 2).expand(batch, -1)
            if return_labels and model_class is ViTCustomForObjectDetection:
                box = {"class_labels": torch.tensor([1]), "boxes": torch.tensor([[0.5, 0.5, 0.25, 0.5]])}
                inputs["labels"] = [dict(box) for _ in range(batch)]
            return inputs

    class PreTraining(Models):
        all_model_classes = (ViTCustomForPreTraining,)

    class DualEncoders(modeling.ModelTesterMixin):
        all_model_classes = (ViTCustomDualEncoder,)
        test_resize_embeddings = False
        _is_composite = True

        def _prepare_for_class(self, inputs_dict, model_class, return_labels=False):
            """Some tests make captions alone."""
            inputs = super()._prepare_for_class(inputs_dict, model_class, return_labels)
            return inputs | {"pixel_values": picture(len(inputs["input_ids"]), 3, 32, 32)}

        def test_config(self):
            configuration.ConfigTester(
                self, config_class=ViTCustomDualEncoderConfig, has_text_modality=False, projection_dim=16
            ).run_common_tests()

    class PyramidConfig(ViTCustomConfig):
        """By default a pyramid: the suite looks at a configuration without settings, and asks for four maps of it."""

        def __init__(self, **kwargs):
            three = {"hidden_sizes": [16, 16, 16], "depths": [1, 1, 1], "num_attention_heads": [1, 1, 1]}
            super().__init__(**three | {"downsample": "conv"} | kwargs)

    class Backbones(backbones.BackboneTesterMixin):
        all_model_classes = (ViTCustomBackbone,)

        @property
        def config_class(self):
            return PyramidConfig if "downsample" in self.model_tester.settings else ViTCustomConfig

    kinds = {"heads on": (Heads, Tester), "pre-training": (PreTraining, PreTrainingTester)}
    kinds |= {"dual encoder": (DualEncoders, DualEncoderTester)}
    cases = {}
    for member, (variant, numbers, settings) in MEMBERS.items():
        chosen = [kind for start, kind in kinds.items() if member.startswith(start)]
        mixin, tester = chosen[0] if chosen else (Backbones if "out_indices" in settings else Models, Tester)

        def set_up(self, tester=tester, variant=variant, numbers=numbers, settings=settings):
            self.model_tester = tester(variant, numbers, **settings)

        cases[member] = type("ViTCustomModelTest", (mixin, unittest.TestCase), {"setUp": set_up})
    return cases


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


def seed_uninitialised_head():
    from modeling_vit_custom import ViTCustomForPreTraining
    from modeling_vit_custom import ViTCustomPreTrainedModel

    ViTCustomForPreTraining._init_weights = ViTCustomPreTrainedModel._init_weights


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


def seed_forgotten_biases():
    from modeling_vit_custom.modeling_attention import ViTCustomAttention

    right = ViTCustomAttention.bias
    ViTCustomAttention.bias = lambda self, *args: (
        right(self, *args) if self.config._attn_implementation == "eager" else None
    )


def seed_missing_map():
    from modeling_vit_custom import ViTCustomBackbone

    right = ViTCustomBackbone.forward

    @functools.wraps(right)
    def wrong(*args, **kwargs):
        outputs = right(*args, **kwargs)
        outputs["feature_maps"] = outputs.feature_maps[:1]
        return outputs

    ViTCustomBackbone.forward = wrong


# The member whose suite must see it, and what it does.
FAULTS = {
    "wrong_scale": ("vit", seed_wrong_scale),
    "undeclared_sdpa": ("vit", seed_undeclared_sdpa),
    "undeclared_checkpointing": ("vit", seed_undeclared_checkpointing),
    "uninitialised_parameter": ("vit", seed_uninitialised_parameter),
    "uninitialised_head": ("pre-training on vit", seed_uninitialised_head),
    "missing_hidden_state": ("vit", seed_missing_hidden_state),
    "forgotten_biases": ("swin", seed_forgotten_biases),
    "missing_map": ("pit backbone", seed_missing_map),
}


def run_case(test_case: type[unittest.TestCase], built: list[bool]) -> dict[str, list[str]]:
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


def run_cases(cases: dict[str, type[unittest.TestCase]]) -> dict[str, dict[str, list[str]]]:
    import torch

    from modeling_vit_custom import ViTCustomModel

    built: list[bool] = []
    right = ViTCustomModel.__init__

    @functools.wraps(right)
    def counting(*args, **kwargs):
        built.append(True)
        right(*args, **kwargs)

    ViTCustomModel.__init__ = counting
    # Memory that nobody initialised is filled with NaN: what it held before can be the right value by luck.
    torch.use_deterministic_algorithms(True)
    warnings.simplefilter("error")
    return {member: run_case(case, built) for member, case in cases.items()}


def run_here(tests: Path, folder: Path, names: list[str]):
    """See `run`."""
    put_stand_ins(tests)
    cases = make_test_cases()
    for fault in ("none", *(name for name in names if name in FAULTS)):
        if os.fork() == 0:
            try:
                chosen = {name: case for name, case in cases.items() if name in names}
                if fault != "none":
                    member, seed = FAULTS[fault]
                    seed()
                    chosen = {member: cases[member]}
                (folder / f"{fault}.json").write_text(json.dumps(run_cases(chosen)))
                os._exit(0)
            except BaseException:
                traceback.print_exc()
                os._exit(1)
        _, status = os.wait()
        if status:
            sys.exit(1)


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("fetch", help="download the source distribution, once")
    child = commands.add_parser("run", help="run the suites and write a report for each fault: what the tests start")
    child.add_argument("tests", type=Path)
    child.add_argument("folder", type=Path)
    child.add_argument("names", nargs="+", choices=(*MEMBERS, *FAULTS))
    args = parser.parse_args(argv)
    if args.command == "fetch":
        fetch()
    else:
        run_here(args.tests, args.folder, args.names)


if __name__ == "__main__":
    main()
