"""transformers' own common model tests pass. What does not apply to our models is listed, with the line that says so.

A new version of transformers turns this red until it has a row in `NUMBERS`: judge each test that the message names,
then write down the numbers.
"""

import ast
import re
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import pytest

from tests import transformers_common
from tests.support import often
from tests.transformers_common import FAULTS
from tests.transformers_common import MEMBERS
from tests.transformers_common import VERSION
from tests.transformers_common import run
from tests.transformers_common import unpack

OUTCOMES = ("passed", "skipped", "idle", "failed")
BACKBONES = [member for member in MEMBERS if member.endswith("backbone")]
HEADS = ["heads on vit", "heads on swin", "pre-training on vit"]
DUAL = "dual encoder"
MODELS = [member for member in MEMBERS if member not in (*BACKBONES, *HEADS, DUAL)]
ON_SWIN = ("swin", "heads on swin")


def numbers(models: tuple[int, ...], heads: tuple[int, ...], dual: tuple[int, ...]) -> dict[str, dict[str, int]]:
    """{member: how many tests end how}. One more fails for Swin, and for a backbone of one stage."""
    rows: dict[str, tuple[int, ...]] = dict.fromkeys(MODELS, models) | dict.fromkeys(HEADS, heads) | {DUAL: dual}
    for member in ON_SWIN:
        passed, skipped, idle, failed = rows[member]
        rows[member] = (passed - 1, skipped, idle, failed + 1)
    rows |= dict.fromkeys(BACKBONES, (8, 0, 0, 0)) | {"vit backbone": (7, 0, 0, 1)}
    return {member: dict(zip(OUTCOMES, row, strict=True)) for member, row in rows.items()}


# For the versions that the project is tested with.
NUMBERS = {
    "5.23.0": numbers((70, 61, 25, 2), (67, 60, 29, 2), (76, 56, 20, 6)),
    "5.5.4": numbers((68, 50, 23, 2), (65, 49, 27, 2), (71, 47, 18, 7)),
}
MODELING, BACKBONE = "tests/test_modeling_common.py", "tests/test_backbone_common.py"


class Exclusion(NamedTuple):
    """Tests that do not apply, why, and the line of transformers that says so: in the test itself, or in `file`."""

    tests: str
    reason: str
    line: str
    file: str = MODELING
    versions: tuple[str, ...] = tuple(NUMBERS)
    members: tuple[str, ...] = (*MODELS, *HEADS, DUAL)


NEW = {"versions": ("5.23.0",)}  # tests that the oldest version does not have
OLD = {"versions": ("5.5.4",)}  # and that the newest has no longer
OF_IMAGES = {"members": (*MODELS, *HEADS)}
OF_HEADS = {"members": (*HEADS, DUAL)}
OF_DUAL = {"members": (DUAL,)}

EXCLUSIONS = {
    # They run all the same, and have to fail on the line cited: one that begins to pass leaves this list.
    "failed": [
        Exclusion(
            "test_model_get_set_embeddings",
            "An image is embedded by a convolution, not looked up in a table.",
            "self.assertIsInstance(model.get_input_embeddings(), nn.Embedding)",
            **OF_IMAGES,
        ),
        Exclusion(
            "test_model_get_set_embeddings",
            "This version does not find the embeddings of CLIP's text model by itself.",
            "self.assertIsInstance(model.get_input_embeddings(), nn.Embedding)",
            **OLD,
            **OF_DUAL,
        ),
        Exclusion(
            "test_model_weights_reload_no_missing_tied_weights",
            "It loads a checkpoint without weights and wants a report; we refuse one that lacks backbone tensors.",
            "model_reloaded, infos = model_class.from_pretrained(tmp_dir, output_loading_info=True)",
        ),
        Exclusion(
            "test_torch_export",
            "Strict export cannot trace this version's output capturing under torch 2.6, nor transformers' own ViT.",
            "exported_program = torch.export.export(model, args=(), kwargs=copy.deepcopy(inputs_dict))",
            **OLD,
            members=(DUAL,),
        ),
        Exclusion(
            "test_num_layers_is_small",
            "It wants two layers: a shifted window is in a second layer, and a pyramid has a second stage.",
            "assert self.model_tester.num_hidden_layers <= target_num_hidden_layers",
            members=ON_SWIN,
        ),
        Exclusion(
            "test_config",
            "It counts `depths`, which pyramids alone have in the library; here a model of one stage has it too, and "
            "a map for each layer, as the library's Dinov2 and DINOv3 backbones have.",
            "self.assertEqual(config.stage_names, expected_stage_names)",
            file=BACKBONE,
            members=("vit backbone",),
        ),
        Exclusion(
            "test_attention_outputs",
            "Each tower's outputs hold its own, as in transformers' CLIP, whose tests leave this out too.",
            "attentions = outputs.encoder_attentions if config.is_encoder_decoder else outputs.attentions",
            **OF_DUAL,
        ),
        Exclusion(
            "test_hidden_states_output",
            "Each tower's outputs hold its own, as in transformers' CLIP, whose tests leave this out too.",
            "hidden_states = outputs.encoder_hidden_states if config.is_encoder_decoder else outputs.hidden_states",
            **OF_DUAL,
        ),
        Exclusion(
            "test_retain_grad_hidden_states_attentions",
            "Each tower's outputs hold its own, as in transformers' CLIP, whose tests leave this out too.",
            "hidden_states = outputs.hidden_states[0]",
            **OF_DUAL,
        ),
        Exclusion(
            "test_config",
            "Of a tower we write what differs from its defaults.",
            "self.parent.assertEqual(sub_config_loaded_dict, general_config_dict[sub_config_key])",
            file="tests/test_configuration_common.py",
            **OF_DUAL,
        ),
        Exclusion(
            "test_can_init_all_missing_weights",
            "It loads a checkpoint without weights: inside custom code CLIP's text model then starts at another scale "
            "than by itself. We refuse a checkpoint that lacks a tower's tensors.",
            "The following weights are not properly handled in `_init_weights()` (the model should be able to",
            **NEW,
            **OF_DUAL,
        ),
    ],
    # They pass without having built a model: a loop over nothing.
    "idle": [
        Exclusion(
            """test_get_audio_features_attentions test_get_audio_features_hidden_states test_get_audio_features_output_0
            test_get_audio_features_output_1 test_get_audio_features_output_2""",
            "For models that hear.",
            'if not hasattr(model_class, "get_audio_features"):',
        ),
        Exclusion(
            """test_get_image_features_attentions test_get_image_features_hidden_states test_get_image_features_output_0
            test_get_image_features_output_1 test_get_image_features_output_2""",
            "For models of images and text.",
            'if not hasattr(model_class, "get_image_features"):',
            **OF_IMAGES,
        ),
        Exclusion(
            "test_get_image_features_pooler_output",
            "For models of images and text.",
            'if not hasattr(model_class, "get_image_features"):',
            **NEW,
        ),
        Exclusion(
            """test_get_text_features_attentions test_get_text_features_hidden_states test_get_text_features_output_0
            test_get_text_features_output_1 test_get_text_features_output_2""",
            "For models of images and text.",
            'if not hasattr(model_class, "get_text_features"):',
            **OF_IMAGES,
        ),
        Exclusion(
            """test_get_video_features_attentions test_get_video_features_hidden_states test_get_video_features_output_0
            test_get_video_features_output_1 test_get_video_features_output_2""",
            "For models of videos.",
            'if not hasattr(model_class, "get_video_features"):',
        ),
        Exclusion(
            "test_get_video_features_pooler_output",
            "For models of videos.",
            'if not hasattr(model_class, "get_video_features"):',
            **NEW,
        ),
        Exclusion(
            "test_load_with_mismatched_shapes",
            "For classifiers of text; `test_can_load_ignoring_mismatched_shapes` runs on ours.",
            "if model_class.__name__ not in get_values(MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES):",
        ),
        Exclusion(
            "test_can_load_ignoring_mismatched_shapes",
            "For classifiers; the suites of models run it on ours.",
            "if not is_classication_model:",
            **OF_HEADS,
        ),
        Exclusion(
            "test_problem_types",
            "For classifiers; the suites of models run it on ours.",
            "if model_class.__name__ not in [",
            **OF_HEADS,
        ),
        Exclusion(
            "test_model_forward_default_config_values",
            "For base models; the suites of models run it on ours.",
            "if model_class.__name__ not in [",
            **OF_HEADS,
        ),
        Exclusion(
            "test_inputs_embeds_matches_input_ids",
            "For base models.",
            "if model_class.__name__ not in get_values(MODEL_MAPPING_NAMES):",
            **OF_HEADS,
        ),
        Exclusion(
            "test_torch_save_load",
            "For heads on a base model, which two towers are themselves.",
            "if model_class == base_class:",
            **OF_DUAL,
        ),
        Exclusion(
            "test_model_base_model_prefix",
            "For models that generate text.",
            "for model_class in self.all_generative_model_classes:",
        ),
        Exclusion(
            "test_generation_tester_mixin_inheritance",
            "For models that generate text.",
            "if len(self.all_generative_model_classes) > 0:",
        ),
    ],
    "skipped": [
        Exclusion(
            """test_can_load_with_device_context_manager test_can_load_with_global_device_set test_cpu_offload
            test_disk_offload_bin test_disk_offload_safetensors test_flex_attention_with_grads
            test_sdpa_can_compile_dynamic test_sdpa_can_dispatch_on_flash test_torch_compile_for_training""",
            "On an accelerator only.",
            "@require_torch_accelerator",
        ),
        Exclusion("test_kernels_can_load_without_crashing", "On a GPU.", "@require_torch_accelerator", **NEW),
        Exclusion("test_model_parallelism", "On several GPUs.", "@require_torch_multi_accelerator"),
        Exclusion("test_multi_gpu_data_parallel_forward", "On several GPUs.", "@require_torch_multi_gpu", **OLD),
        Exclusion("test_flash_attn_kernels_mps_inference_equivalence", "On Apple's GPUs.", "@require_torch_mps"),
        Exclusion("test_flash_attn_kernels_inference_equivalence", "On a GPU.", "@require_torch_gpu"),
        Exclusion(
            """test_flash_attn_2_can_compile_with_attention_mask_None_without_graph_break
            test_flash_attn_2_can_dispatch_composite_models test_flash_attn_2_fp32_ln test_flash_attn_2_from_config
            test_flash_attn_2_inference_equivalence test_flash_attn_2_inference_equivalence_right_padding""",
            "A package that needs a GPU.",
            "@require_flash_attn",
        ),
        Exclusion(
            """test_flash_attn_3_can_dispatch_composite_models test_flash_attn_3_from_config
            test_flash_attn_3_inference_equivalence test_flash_attn_3_inference_equivalence_right_padding""",
            "A package that needs a GPU.",
            "@require_flash_attn_3",
        ),
        Exclusion(
            """test_flash_attn_4_can_dispatch_composite_models test_flash_attn_4_from_config
            test_flash_attn_4_inference_equivalence test_flash_attn_4_inference_equivalence_right_padding""",
            "A package that needs a GPU.",
            "@require_flash_attn_4",
        ),
        Exclusion(
            """test_resize_tokens_embeddings test_resize_embeddings_untied
            test_resize_embeddings_untied_no_reinit_on_post_init""",
            "Images have no vocabulary.",
            "model.resize_token_embeddings(",
        ),
        Exclusion(
            """test_resize_tokens_embeddings_with_deepspeed test_resize_tokens_embeddings_with_deepspeed_multi_gpu
            test_resize_embeddings_untied_with_deepspeed test_resize_embeddings_untied_with_deepspeed_multi_gpu""",
            "Images have no vocabulary.",
            "@require_deepspeed",
        ),
        Exclusion(
            "test_resize_position_vector_embeddings",
            "Our positions are on a grid, for which no configuration has this field.",
            "max_position_embeddings = config.max_position_embeddings",
        ),
        Exclusion(
            "test_inputs_embeds",
            "The inputs are pixels, and of captions the tokens.",
            'if "inputs_embeds" not in model_forward_args:',
        ),
        Exclusion(
            "test_inputs_embeds_matches_input_ids",
            "The inputs are pixels.",
            'if "inputs_embeds" not in model_forward_args:',
            members=tuple(MODELS),
        ),
        Exclusion(
            "test_keep_in_fp32_modules test_keep_in_fp32_modules_exist",
            "No module of ours needs float32 in a model of half precision.",
            "if len(model._keep_in_fp32_modules) == 0 and len(model._keep_in_fp32_modules_strict) == 0:",
        ),
        Exclusion(
            """test_attn_implementation_composite_models test_can_set_attention_dynamically_composite_model
            test_sdpa_can_dispatch_composite_models""",
            "For models made of models, each with its configuration.",
            "if not self._is_composite:",
            **OF_IMAGES,
        ),
        Exclusion(
            "test_internal_model_config_and_subconfig_are_same",
            "For models made of models, each with its configuration.",
            "if len(config.sub_configs) == 0:",
            **OF_IMAGES,
        ),
        Exclusion(
            "test_sdpa_can_dispatch_non_composite_models",
            "For models of one part.",
            "if not self.all_model_classes[0]._supports_sdpa or self._is_composite:",
            **OF_DUAL,
        ),
        Exclusion(
            "test_enable_input_require_grads_with_gradient_checkpointing",
            "This version does not find the embeddings of CLIP's text model by itself.",
            "if not has_verified_model:",
            **OLD,
            **OF_DUAL,
        ),
        Exclusion(
            "test_reverse_loading_mapping",
            "Renamings of old checkpoints are for models of the library.",
            "if len(conversions) == 0:",
        ),
        Exclusion(
            "test_can_load_from_already_mapped_keys",
            "Renamings of old checkpoints are for models of the library.",
            "if len(conversions) == 0:",
            **OF_IMAGES,
        ),
        Exclusion(
            "test_can_load_from_already_mapped_keys",
            "Renamings of old checkpoints are for models of the library; this version has none for CLIP's text.",
            "if len(conversions) == 0:",
            **OLD,
            **OF_DUAL,
        ),
        Exclusion(
            """test_eager_matches_batched_and_grouped_inference_0_fp16
            test_eager_matches_batched_and_grouped_inference_1_fp32
            test_eager_matches_batched_and_grouped_inference_2_bf16""",
            "For mixtures of experts.",
            "if not self.all_model_classes[0]._can_set_experts_implementation():",
        ),
        Exclusion(
            "test_moe_models_record_router_logits",
            "For mixtures of experts.",
            'if "@use_experts_implementation" not in modeling_source:',
            **NEW,
        ),
        Exclusion(
            "test_output_router_logits_from_config",
            "For mixtures of experts.",
            'if not hasattr(config.get_text_config(decoder=True), "output_router_logits"):',
            **NEW,
        ),
        Exclusion(
            "test_sliding_window_mask",
            "For attention along a text.",
            'if not (hasattr(config, "sliding_window") and hasattr(config, "use_sliding_window")):',
        ),
        Exclusion(
            "test_causal_lm_loss_honors_shift_labels", "For language models.", "if not decoder_lm_classes:", **NEW
        ),
        Exclusion(
            "test_encoder_decoder_loss_no_double_shift", "For language models.", "if not seq2seq_lm_classes:", **NEW
        ),
        Exclusion(
            """test_model_rope_scaling_frequencies test_model_rope_scaling_from_config_0_linear
            test_model_rope_scaling_from_config_1_dynamic test_model_rope_scaling_from_config_2_yarn""",
            "Rotary positions of text.",
            "if not _config_supports_rope_scaling(text_config):",
            **NEW,
        ),
        Exclusion(
            "test_model_rope_with_partial_rotation",
            "Rotary positions of text.",
            'if not hasattr(text_config, "rope_parameters"):',
            **NEW,
        ),
        Exclusion(
            "test_vision_axial_rope",
            "Our rotary positions are a function of the grid; this is about the library's class.",
            "if rope_class is None:",
            **NEW,
        ),
        Exclusion(
            "test_tp_plan_matches_params",
            "A Vision Transformer fits on one device: we declare no tensor-parallel plan.",
            "if config.base_model_tp_plan is None and all(",
        ),
        Exclusion(
            "test_tied_head_has_a_tp_plan_entry",
            "A Vision Transformer fits on one device: we declare no tensor-parallel plan.",
            "if config.base_model_tp_plan is None and all(",
            **NEW,
        ),
    ],
}
# They need no model to judge ours: its classes, its configuration, and that the one tested is tiny.
WITHOUT_A_MODEL = """test_config test_config_attn_implementation_setter test_config_save_pretrained
    test_model_main_input_name test_num_layers_is_small""".split()

# The other files of the archive that test models.
OTHER_FILES = [
    Exclusion(
        "",
        "A head on a language model.",
        "from transformers import AutoModelForDecision, Qwen2Config, Qwen2ForCausalLM",
        file="tests/test_decision_head_common.py",
        **NEW,
    ),
    Exclusion(
        "",
        "For mixtures of experts.",
        'self.skipTest("Model does not have an expert parallel plan (base_model_ep_plan)")',
        file="tests/test_expert_parallel_mixin.py",
        **NEW,
    ),
    Exclusion(
        "",
        "accelerate wraps our layers by `_no_split_modules`: we declare no plan of transformers' own.",
        'self.skipTest("Model does not have an FSDP plan (base_model_fsdp_plan)")',
        file="tests/test_fsdp_mixin.py",
        **NEW,
    ),
    Exclusion(
        "",
        "It reads a list of tiny models on the Hub, which the archive leaves out and which has none of ours.",
        '"tests/utils/tiny_model_summary.json")',
        file="tests/test_pipeline_mixin.py",
    ),
    Exclusion(
        "",
        "A Vision Transformer fits on one device: we declare no tensor-parallel plan.",
        'self.skipTest("Model does not have a tensor parallel plan (base_model_tp_plan)")',
        file="tests/test_tensor_parallel_mixin.py",
    ),
    Exclusion(
        "",
        "It trains language models only.",
        'raise ValueError(f"Modality {modality} not supported yet for training overfit")',
        file="tests/test_training_mixin.py",
    ),
]
USED_FILES = {MODELING, BACKBONE, "tests/test_configuration_common.py"}

# Some of the tests that each seeded fault must turn red.
CAUGHT_BY = {
    "wrong_scale": "test_eager_matches_sdpa_inference_9_fp32_pad_left",
    "undeclared_sdpa": "test_eager_matches_sdpa_inference_9_fp32_pad_left test_sdpa_can_dispatch_non_composite_models",
    "undeclared_checkpointing": "test_training_gradient_checkpointing test_gradient_checkpointing_enable_disable",
    "uninitialised_parameter": "test_can_init_all_missing_weights test_save_load",
    "missing_hidden_state": "test_hidden_states_output",
    "forgotten_biases": "test_eager_matches_sdpa_inference_9_fp32_pad_left",
    "uninitialised_head": "test_can_init_all_missing_weights",
    "missing_map": "test_backbone_outputs test_backbone_stage_selection test_create_from_modified_config",
}


@pytest.fixture(scope="module")
def tests_folder(tmp_path_factory) -> Path:
    return unpack(tmp_path_factory.mktemp("transformers"))


def judge(member: str, report: dict[str, list[str]]) -> dict[str, str]:
    """What is red in a member's report: {test: what is wrong}."""
    expected = dict.fromkeys(report.keys() & WITHOUT_A_MODEL, ("idle", ""))
    for outcome, exclusions in EXCLUSIONS.items():
        for exclusion in exclusions:
            if VERSION in exclusion.versions and member in exclusion.members:
                line = exclusion.line if outcome == "failed" else ""  # a failure elsewhere is another one
                expected |= dict.fromkeys(exclusion.tests.split(), (outcome, line))
    red = dict.fromkeys(expected.keys() - report.keys(), f"is listed, and not in transformers {VERSION}")
    count = dict.fromkeys(OUTCOMES, 0)
    for name, (outcome, detail) in report.items():
        wanted, line = expected.get(name, ("passed", ""))
        if outcome != wanted or line not in detail:
            red[name] = f"{outcome}, expected {wanted} {line}\n{detail[-1500:]}"
        count["passed" if outcome == "idle" and name in WITHOUT_A_MODEL else outcome] += 1
    wanted_count = NUMBERS.get(VERSION, {}).get(member)
    if count != wanted_count:
        red["the number run"] = f"{count}, expected {wanted_count}"
    return red


one_process = pytest.mark.xdist_group("transformers_common")  # started once, not once a worker
ALWAYS = ("vit", "heads on swin", "dual encoder", "pit backbone", "wrong_scale")


@pytest.fixture(scope="module")
def reports(request, tests_folder, tmp_path_factory) -> dict[str, dict[str, dict[str, list[str]]]]:
    """Of what is asked of this session."""
    asked = [item.callspec.id for item in request.session.items if one_process.mark in item.own_markers]
    return run(tests_folder, tmp_path_factory.mktemp("reports"), asked)


@one_process
@pytest.mark.parametrize("member", often(MEMBERS, ALWAYS))
def test_the_suite_is_green(member, reports, record_property):
    record_property("suite", (member, *NUMBERS.get(VERSION, {}).get(member, {}).values()))
    red = judge(member, reports["none"][member])
    assert not red, "\n".join(f"{name}: {problem}" for name, problem in red.items())


@one_process
@pytest.mark.parametrize("fault", often(FAULTS, ALWAYS))
def test_a_seeded_fault_turns_the_suite_red(fault, reports):
    ((member, report),) = reports[fault].items()
    red = judge(member, report)
    assert red.keys() >= {"the number run", *CAUGHT_BY[fault].split()}, sorted(red)


def functions(source: str) -> dict[str, str]:
    """Each function's text, its decorators included."""
    lines = source.splitlines()
    nodes = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.FunctionDef)]
    starts = [min(part.lineno for part in [node, *node.decorator_list]) - 1 for node in nodes]
    return {node.name: "\n".join(lines[start : node.end_lineno]) for node, start in zip(nodes, starts, strict=True)}


def test_every_citation_stands_in_the_source(tests_folder):
    """The line is in the test that it excludes, or in the file that is named with it."""
    sources = {file: functions((tests_folder.parent / file).read_text()) for file in (MODELING, BACKBONE)}
    missing = []
    for exclusion in [*chain.from_iterable(EXCLUSIONS.values()), *OTHER_FILES]:
        if VERSION not in exclusion.versions:
            continue
        places = [(tests_folder.parent / exclusion.file).read_text()]
        if exclusion.file in sources:
            tests, names = sources[exclusion.file], exclusion.tests.split()
            # A parametrised test has a number and a label behind its name, and may only call a function of its name.
            names = [name if name in tests else re.sub(r"_\d+($|_).*", "", name) for name in names]
            places = [tests[name] + tests.get(f"_{name}", "") for name in names]
        missing += [exclusion for place in places if exclusion.line not in place]
    assert not missing


def test_every_file_that_tests_models_is_used_or_excluded(tests_folder):
    about_models = {
        f"tests/{path.name}"
        for path in tests_folder.glob("*.py")
        if re.search("all_model_classes|model_tester", path.read_text())
    }
    assert about_models == USED_FILES.union(e.file for e in OTHER_FILES if VERSION in e.versions)


def test_a_missing_archive_is_an_error_that_names_the_fix(monkeypatch, tmp_path):
    monkeypatch.setattr(transformers_common, "CACHE", tmp_path)
    with pytest.raises(FileNotFoundError, match="make pytest"):
        unpack(tmp_path)
