"""Laws of the backbone, over every variant; parity with transformers' own backbones; its models on top of ours."""

import itertools
import re

import pytest
import torch
from safetensors.torch import load_file
from safetensors.torch import save_file
from torch import nn
from torch.export import Dim
from transformers import AutoBackbone
from transformers import DetrConfig
from transformers import DetrForObjectDetection
from transformers import Dinov2Backbone
from transformers import Dinov2Config
from transformers import DINOv3ViTBackbone
from transformers import DINOv3ViTConfig
from transformers import SwinBackbone
from transformers import SwinConfig
from transformers import UperNetConfig
from transformers import UperNetForSemanticSegmentation
from transformers import set_seed

from modeling_vit_custom import ViTCustomBackbone
from modeling_vit_custom import ViTCustomConfig
from modeling_vit_custom import ViTCustomForImageClassification
from modeling_vit_custom import ViTCustomModel
from tests.clean_process import digest
from tests.clean_process import reload_on_top
from tests.clean_process import run
from tests.clean_process import warnings_logged
from tests.support import VARIANTS
from tests.support import fill
from tests.support import often
from tests.support import picture
from tests.support import tiny
from tests.test_modeling_vit_custom import everything_held

every_variant = pytest.mark.parametrize("name", VARIANTS)
PLAIN = [name for name, changes in VARIANTS.items() if "downsample" not in changes]
PYRAMIDS = [name for name in VARIANTS if name not in PLAIN]
ALL = slice(None)


def make(name="vit", dtype=torch.float32, maps=ALL, **changes) -> ViTCustomBackbone:
    """By default every map is asked for, the stem's too."""
    config = tiny(**VARIANTS[name] | changes)
    config.out_features = config.stage_names[maps]
    return fill(ViTCustomBackbone(config)).to(dtype)


def images(model, batch=2, height=32, width=32, **kwargs) -> torch.Tensor:
    return picture(batch, model.config.num_channels, height, width, **kwargs)


def without_gradient(model: nn.Module) -> list[str]:
    return [key for key, parameter in model.named_parameters() if parameter.grad is None or not parameter.grad.any()]


def grids(config: ViTCustomConfig, height: int, width: int) -> list[tuple[int, int]]:
    """Of each map, by the definitions: whole patches, at their stride; then half as many, rounded up, a stage."""
    patch, stride = config.patch_size, config.patch_stride or config.patch_size
    patch, stride = ([size, size] if isinstance(size, int) else size for size in (patch, stride))
    rows, columns = (len(range(0, side - p + 1, s)) for side, p, s in zip((height, width), patch, stride, strict=True))
    if config.downsample == "none":
        return [(rows, columns)] * (1 + sum(config.depths))
    return [(rows, columns)] + [(-(-rows // 2**n), -(-columns // 2**n)) for n in range(len(config.depths))]


# Maps


@every_variant
@pytest.mark.parametrize("size", [(32, 32), (40, 64), (13, 27), (8, 16)], ids=str)
def test_maps_have_the_channels_and_the_grids_of_their_stages(name, size):
    model = make(name)
    config, maps = model.config, model(images(model, 3, *size)).feature_maps
    widths = config.hidden_sizes if name in PYRAMIDS else config.hidden_sizes[:1] * sum(config.depths)
    assert model.channels == [config.hidden_sizes[0], *widths]
    assert model.stage_names == ["stem", *(f"stage{number}" for number in range(1, len(widths) + 1))]
    shapes = [(3, width, *grid) for width, grid in zip(model.channels, grids(config, *size), strict=True)]
    assert [tuple(feature_map.shape) for feature_map in maps] == shapes


@every_variant
def test_the_last_map_is_the_models_last_hidden_state(name):
    model = make(name, maps=slice(-1, None))
    inputs = images(model, 2, 40, 24)
    tokens = model.vit.pooled_norm(model.vit(inputs).last_hidden_state)  # normed once: one of the two is the identity
    prefix = len(model.config.prefix_tokens)
    (last,) = model(inputs).feature_maps
    assert torch.equal(last.flatten(2).transpose(1, 2), tokens[:, prefix:])


@pytest.mark.parametrize("name", PLAIN)
def test_the_maps_of_a_plain_model_are_its_normed_hidden_states(name):
    model = make(name)
    inputs = images(model, 2, 40, 24)
    hidden_states = model.vit(inputs, output_hidden_states=True).hidden_states
    prefix = len(model.config.prefix_tokens)
    for feature_map, tokens in zip(model(inputs).feature_maps, hidden_states, strict=True):
        tokens = model.vit.pooled_norm(model.vit.norm(tokens))[:, prefix:]
        assert torch.equal(feature_map.flatten(2).transpose(1, 2), tokens)


@pytest.mark.parametrize("name", PYRAMIDS)
def test_the_maps_of_a_pyramid_pass_through_their_own_norms(name):
    """A norm makes mean 0 and variance 1 of a place's channels; scale and shift are its own."""
    model = make(name)
    norms = [*model.feature_norms.values()]
    norms.append(model.vit.norm if model.config.final_norm == "all" else model.vit.pooled_norm)
    assert list(model.feature_norms) == model.stage_names[:-1]
    for feature_map, norm in zip(model(images(model)).feature_maps, norms, strict=True):
        plain = (feature_map - norm.bias[:, None, None]) / norm.weight[:, None, None]
        torch.testing.assert_close(plain.mean(1), torch.zeros_like(plain[:, 0]), rtol=0, atol=1e-4)
        torch.testing.assert_close(plain.var(1, correction=0), torch.ones_like(plain[:, 0]), rtol=0, atol=1e-3)


@every_variant
def test_a_map_depends_on_no_later_stage(name):
    model = make(name)
    before = model(images(model)).feature_maps
    last = model.vit.stages[-1] if name in PYRAMIDS else model.vit.stages[-1].layers[-1]
    with torch.no_grad():
        for parameter in last.parameters():
            parameter.mul_(1.5)
    after = model(images(model)).feature_maps
    assert [torch.equal(*pair) for pair in zip(before, after, strict=True)] == [True] * (len(before) - 1) + [False]


@pytest.mark.parametrize("name", ["vit", "swin", "pit", "dinov2"])
@pytest.mark.parametrize("indices", [[0], [1], [-1], [1, 2], [-2, -1], [0, -1]], ids=str)
def test_chosen_maps_are_those_of_all_maps(name, indices, tmp_path):
    everything = make(name)
    inputs = images(everything)
    maps = everything(inputs).feature_maps
    names = [everything.stage_names[index] for index in indices]
    for choice in (dict(out_indices=indices), dict(out_features=names), dict(out_indices=tuple(indices))):
        config = tiny(**VARIANTS[name], **choice)
        config.save_pretrained(tmp_path)
        for settings in (config, ViTCustomConfig.from_pretrained(tmp_path)):
            model = fill(ViTCustomBackbone(settings))
            assert model.out_features == names
            assert [everything.stage_names[index] for index in model.out_indices] == names
            assert model.channels == [everything.channels[index] for index in indices]
            for index, feature_map in zip(indices, model(inputs).feature_maps, strict=True):
                assert torch.equal(feature_map, maps[index])


def test_without_a_choice_it_is_the_last_map_and_the_configuration_says_nothing():
    for name in VARIANTS:
        config = tiny(**VARIANTS[name])
        assert config.out_features == config.stage_names[-1:]
        assert not {"out_features", "out_indices", "_out_features", "_out_indices"} & config.to_dict().keys()


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        (dict(out_features=["stage4"]), "subset of stage_names"),
        (dict(out_features=["stage2", "stage1"]), "same order"),
        (dict(out_indices=[9]), "valid indices"),
        (dict(out_features=["stage1"], out_indices=[2]), "same stages"),
    ],
)
def test_a_map_that_is_not_there_is_an_error(choice, message):
    with pytest.raises(ValueError, match=message):
        tiny(**VARIANTS["swin"], **choice)


# One model, many ways to run it


@every_variant
@pytest.mark.parametrize("maps", [ALL, slice(-1, None)], ids=["all maps", "last map"])
def test_every_parameter_gets_a_gradient(name, maps):
    model = make(name, maps=maps).train()
    maps = model(images(model, 3)).feature_maps
    sum((feature_map * picture(*feature_map.shape)).sum() for feature_map in maps).backward()
    assert without_gradient(model) == []


@every_variant
def test_forward_writes_nothing(name):
    model = make(name)
    before = everything_held(model)
    first = model(images(model, 2, 64, 40)).feature_maps
    model(images(model, 2, 8, 16), output_hidden_states=True, output_attentions=True)
    again = model(images(model, 2, 64, 40)).feature_maps
    assert all(torch.equal(*pair) for pair in zip(first, again, strict=True))
    after = everything_held(model)
    assert before.keys() == after.keys()
    for key, value in before.items():
        equal = torch.equal(value, after[key]) if isinstance(value, torch.Tensor) else value == after[key]
        assert equal, key


@every_variant
def test_hidden_states_and_attentions_are_the_models(name):
    model = make(name)
    inputs = images(model)
    asked = dict(output_hidden_states=True, output_attentions=True)
    ours, theirs = model(inputs, **asked), model.vit(inputs, **asked)
    assert model(inputs).keys() == {"feature_maps"}
    assert len(ours.hidden_states) == 1 + model.config.num_hidden_layers == 1 + len(ours.attentions)
    for mine, its in ((ours.hidden_states, theirs.hidden_states), (ours.attentions, theirs.attentions)):
        assert all(torch.equal(*pair) for pair in zip(mine, its, strict=True))
    as_tuple = model(inputs, return_dict=False, **asked)
    assert type(as_tuple) is tuple
    flat = [*ours.feature_maps, *ours.hidden_states, *ours.attentions]
    assert all(torch.equal(*pair) for pair in zip(itertools.chain(*as_tuple), flat, strict=True))


@every_variant
def test_gradient_checkpointing_changes_no_gradient(name):
    gradients = []
    for checkpointing in (False, True):
        model = make(name, torch.float64).train()
        if checkpointing:
            enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
            enable({"use_reentrant": False})  # the floor has the second name
        maps = model(images(model, dtype=torch.float64)).feature_maps
        sum((feature_map**2).sum() for feature_map in maps).backward()
        gradients.append([parameter.grad for parameter in model.parameters()])
    for plain, checkpointed in zip(*gradients, strict=True):
        torch.testing.assert_close(checkpointed, plain, rtol=0, atol=1e-10)


@every_variant
def test_eager_is_sdpa(name):
    model = make(name, torch.float64)
    inputs = images(model, 2, 40, 16, dtype=torch.float64)
    maps = {}
    for implementation in ("eager", "sdpa"):
        model.set_attn_implementation(implementation)
        maps[implementation] = model(inputs).feature_maps
    torch.testing.assert_close(maps["eager"], maps["sdpa"], rtol=0, atol=1e-9)


@pytest.fixture
def compiler():
    """torch counts the compilations of one function over all models of a process."""
    torch.compiler.reset()
    yield torch.compile
    torch.compiler.reset()


@pytest.mark.parametrize("name", often(VARIANTS, ("swin", "everything")))
@torch.no_grad()
def test_compiles_without_graph_breaks_and_with_changing_sizes(name, compiler):
    model = make(name)
    # With symbolic sides the guards over windows and padding take minutes: one graph for each size instead.
    dynamic = False if model.config.window_size else None

    @compiler(fullgraph=True, backend="eager", dynamic=dynamic)
    def compiled(pixel_values):  # in torch 2.6 the decorator of transformers' models cannot be the outermost frame
        return model(pixel_values).feature_maps

    for size in ((32, 32), (40, 64)):
        inputs = images(model, 2, *size)
        torch.testing.assert_close(compiled(inputs), model(inputs).feature_maps)


class Maps(nn.Module):
    """What somebody deploys; and in torch 2.6 transformers' decorator cannot be the outermost frame of an export."""

    def __init__(self, backbone):
        super().__init__()
        self.backbone = backbone

    def forward(self, pixel_values):
        return self.backbone(pixel_values).feature_maps


@pytest.mark.parametrize("name", often(("vit", "swin", "pit", "dinov3"), ("vit", "swin")))
@torch.no_grad()
def test_exports_for_every_batch_and_without_windows_for_every_size(name):
    model = make(name)
    dynamic = {0: Dim.DYNAMIC} if model.config.window_size else {0: Dim.DYNAMIC, 2: Dim.DYNAMIC, 3: Dim.DYNAMIC}
    program = torch.export.export(Maps(model), (images(model),), dynamic_shapes=(dynamic,)).module()
    for batch, *size in ((2, 32, 32), (3, 32, 32)) if model.config.window_size else ((3, 32, 32), (1, 40, 64)):
        inputs = images(model, batch, *size)
        torch.testing.assert_close(program(inputs), model(inputs).feature_maps)


@pytest.mark.parametrize("name", ["vit", "swin", "pit", "dinov3"])
def test_half_precision_by_dtype_and_under_autocast(name):
    model = make(name)
    inputs, reference = images(model), model(images(model)).feature_maps
    with torch.autocast("cpu", torch.bfloat16):
        autocast = model(inputs).feature_maps
    half = model.to(torch.bfloat16)(inputs).feature_maps
    assert {feature_map.dtype for feature_map in half} == {torch.bfloat16}
    for maps in (autocast, half):
        for feature_map, exact in zip(maps, reference, strict=True):
            assert (feature_map.float() - exact).norm() < 0.03 * exact.norm()


# Loading


@pytest.mark.parametrize("source", [ViTCustomModel, ViTCustomForImageClassification, ViTCustomBackbone])
@pytest.mark.parametrize("name", ["vit", "swin", "pit", "dinov2"])
def test_any_checkpoint_makes_a_backbone_and_only_norms_of_maps_are_new(name, source, tmp_path):
    saved = fill(source(tiny(**VARIANTS[name])))
    saved.save_pretrained(tmp_path)
    with warnings_logged() as warnings:
        model, info = ViTCustomBackbone.from_pretrained(tmp_path, out_indices=[0, 1, 2], output_loading_info=True)
    new = {key for key in model.state_dict() if key.startswith("feature_norms.")}
    assert {key.split(".")[1] for key in new} == ({"stem", "stage1", "stage2"} if name in PYRAMIDS else set())
    assert set(info["missing_keys"]) == new
    assert not [key for key in new if not any(key in warning for warning in warnings)]
    tensors = {key if key.startswith("vit.") else f"vit.{key}": value for key, value in saved.state_dict().items()}
    for key, value in model.state_dict().items():
        expected = torch.full_like(value, float(key.endswith("weight"))) if key in new else tensors[key]
        assert torch.equal(value, expected), key


def test_a_checkpoint_that_lacks_a_backbone_tensor_is_refused(tmp_path):
    model = ViTCustomModel(tiny(**VARIANTS["swin"]))
    tensors = {key: value for key, value in model.state_dict().items() if key != "stages.1.downsample.reduction.weight"}
    model.save_pretrained(tmp_path, state_dict=tensors)
    with pytest.raises(RuntimeError, match=r"missing from the checkpoint: vit.stages.1.downsample.reduction.weight"):
        ViTCustomBackbone.from_pretrained(tmp_path)


def test_auto_backbone_makes_it_from_a_configuration():
    model = AutoBackbone.from_config(tiny(**VARIANTS["pit"], out_indices=[1, 2]))
    assert type(model) is ViTCustomBackbone
    assert model.channels == [16, 32]


# Parity with transformers' backbones, at weights that no initialisation gives


HEADS = [
    (r"attention\.(?:attention|self)\.(query|key|value)\.", lambda m: f"attention.{m[1][0]}_proj."),
    (r"attention\.output\.dense\.", "attention.o_proj."),
    (r"(layer_scale)(\d)\.lambda1", r"branch\2.scale"),
    (r"patch_embeddings\.projection\.", "patch_embeddings."),
]
# Their names on disk, where all versions agree, as ours.
NAMES = {
    Dinov2Backbone: [
        *HEADS,
        (r"^encoder\.layer\.", "stages.0.layers."),
        (r"^layernorm\.", "norm."),
    ],
    DINOv3ViTBackbone: [
        *HEADS,
        (r"^(model\.)?layer\.", "stages.0.layers."),
        (r"mlp\.up_proj", "mlp.fc1"),
        (r"mlp\.down_proj", "mlp.fc2"),
    ],
    SwinBackbone: [
        *HEADS,
        (r"^swin\.", ""),
        (r"attention\.self\.relative_position_bias_table", "attention.relative_position_bias_table"),
        (r"^encoder\.layers\.(\d+)\.blocks\.", r"stages.\1.layers."),
        (r"^encoder\.layers\.(\d+)\.downsample\.", lambda m: f"stages.{int(m[1]) + 1}.downsample."),
        (r"layernorm_before", "norm1"),
        (r"layernorm_after", "norm2"),
        (r"intermediate\.dense", "mlp.fc1"),
        (r"(\d)\.output\.dense", r"\1.mlp.fc2"),
    ],
}


def copied(theirs: nn.Module, ours: ViTCustomBackbone, folder) -> ViTCustomBackbone:
    """Our backbone with their tensors, each of ours given exactly once."""
    theirs.save_pretrained(folder)
    tensors, prefix = {}, []
    for name, tensor in load_file(folder / "model.safetensors").items():
        for pattern, ours_is in NAMES[type(theirs)]:
            name = re.sub(pattern, ours_is, name)
        if name.startswith("hidden_states_norms."):
            stage, kind = name.split(".")[1:]
            name = f"vit.norm.{kind}" if stage == ours.stage_names[-1] else f"feature_norms.{stage}.{kind}"
            tensors[name] = tensor
        elif name in ("embeddings.cls_token", "embeddings.register_tokens"):
            prefix.append((name, tensor))
        elif name != "embeddings.mask_token" and not name.endswith(("relative_position_index", "layernorm.bias")):
            tensors[f"vit.{name}"] = tensor
    tensors.pop("vit.layernorm.weight", None)  # Swin's own final norm, which its backbone does not use
    if prefix:
        tensors["vit.embeddings.prefix_tokens"] = torch.cat([tensor for _, tensor in sorted(prefix)], dim=1)
    ours.to(torch.float64).load_state_dict(tensors)
    return ours.eval()


COMMON = dict(hidden_size=32, num_hidden_layers=3, num_attention_heads=4, image_size=32, patch_size=8)
OURS = dict(hidden_sizes=[32], depths=[3], num_attention_heads=[4], layer_scale_init_value=1.0)
STAGES = ["stem", "stage1", "stage3"]
PARITY = {
    "dinov2": (
        Dinov2Backbone,
        Dinov2Config(**COMMON, out_features=STAGES, layer_norm_eps=1e-6),
        OURS | dict(position_interpolation="bicubic_float32"),
    ),
    "dinov3": (
        DINOv3ViTBackbone,
        DINOv3ViTConfig(
            **COMMON, intermediate_size=64, num_register_tokens=2, out_features=STAGES, layer_norm_eps=1e-5
        ),
        OURS
        | dict(
            prefix_tokens=["cls", "register", "register"],
            position_embedding="rotary",
            qkv_bias=[True, False, True],
            intermediate_size=64,
            layer_norm_eps=1e-5,
        ),
    ),
    "swin": (
        SwinBackbone,
        SwinConfig(
            image_size=32,
            patch_size=2,
            embed_dim=16,
            depths=[2, 2, 1],
            num_heads=[2, 4, 8],
            window_size=3,
            drop_path_rate=0.0,
            layer_norm_eps=1e-5,
            out_features=["stem", "stage1", "stage2", "stage3"],
        ),
        VARIANTS["swin"] | dict(window_clamp="never", layer_norm_eps=1e-5),
    ),
}


@pytest.mark.parametrize("name", PARITY)
@torch.no_grad()
def test_maps_are_those_of_transformers_backbone(name, tmp_path):
    kind, config, settings = PARITY[name]
    # Made in float64, not converted: that would convert DINOv3's float32 frequencies too.
    theirs = fill(kind._from_config(config, dtype=torch.float64))
    ours = copied(theirs, ViTCustomBackbone(tiny(**settings, out_features=list(config.out_features))), tmp_path)
    for size in ((32, 32), (64, 64), (48, 24), (16, 40), (8, 8)):
        inputs = picture(2, 3, *size, dtype=torch.float64)
        expected = theirs(inputs).feature_maps
        for mine, its in zip(ours(inputs).feature_maps, expected, strict=True):
            torch.testing.assert_close(mine, its, rtol=0, atol=1e-9)


# transformers' own models on top


FOUR = dict(hidden_sizes=[8, 16, 32, 64], depths=[1, 1, 2, 1], num_attention_heads=[1, 2, 4, 8])
# PiT has three stages; its four maps begin with the stem, which has the first stage's grid.
ON_TOP = {
    "vit": dict(depths=[4], out_indices=[1, 2, 3, 4]),
    "swin": VARIANTS["swin"] | FOUR | dict(out_indices=[1, 2, 3, 4]),
    "pit": VARIANTS["pit"] | dict(out_indices=[0, 1, 2, 3]),
}
SIZE = (40, 48)


def upernet(name: str) -> tuple[nn.Module, dict]:
    config = UperNetConfig(
        backbone_config=tiny(**ON_TOP[name]),
        hidden_size=16,
        pool_scales=[1, 2],
        auxiliary_in_channels=32,  # of the third map, whatever the backbone
        auxiliary_channels=8,
        num_labels=5,
    )
    places = torch.arange(2 * SIZE[0] * SIZE[1]).view(2, *SIZE)
    return UperNetForSemanticSegmentation(config), dict(labels=places % 5)


def detr(name: str) -> tuple[nn.Module, dict]:
    config = DetrConfig(
        backbone_config=tiny(**ON_TOP[name] | dict(out_indices=[-1])),
        use_timm_backbone=False,
        d_model=16,
        encoder_layers=1,
        decoder_layers=1,
        encoder_ffn_dim=16,
        decoder_ffn_dim=16,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        num_queries=4,
        num_labels=5,
    )
    pixel_mask = torch.ones(2, *SIZE, dtype=torch.long)
    pixel_mask[0, 30:] = 0
    boxes = torch.tensor([[0.3, 0.4, 0.2, 0.3], [0.6, 0.5, 0.4, 0.4]])
    labels = [dict(class_labels=torch.tensor([n, 4]), boxes=boxes) for n in (0, 1)]
    return DetrForObjectDetection(config), dict(pixel_mask=pixel_mask, labels=labels)


on_top = pytest.mark.parametrize("task", [upernet, detr])
of_members = pytest.mark.parametrize("name", ON_TOP)


@on_top
@of_members
def test_transformers_models_train_and_reload_on_it(name, task, tmp_path):
    set_seed(0)
    model, targets = task(name)
    inputs = picture(2, 3, *SIZE)
    model.train()(inputs, **targets).loss.backward()
    (backbone,) = (module for module in model.modules() if isinstance(module, ViTCustomBackbone))
    assert without_gradient(backbone) == []
    fill(model).save_pretrained(tmp_path)
    again, info = type(model).from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info.values())
    assert again.state_dict().keys() == model.state_dict().keys()
    for key, value in again.state_dict().items():
        assert torch.equal(value, model.state_dict()[key]), key
    with torch.no_grad():
        mine, its = again.eval()(inputs, **targets), model(inputs, **targets)
    torch.testing.assert_close(mine.logits, its.logits)  # convolutions may depend on how the memory lies
    torch.testing.assert_close(mine.loss, its.loss)


@of_members
def test_pretrained_weights_go_into_a_model_on_top(name, tmp_path):
    """transformers 5 builds a backbone from its configuration alone: its weights are loaded by their owner."""
    fill(ViTCustomForImageClassification(tiny(**ON_TOP[name]))).save_pretrained(tmp_path)
    pretrained = ViTCustomBackbone.from_pretrained(tmp_path)
    assert pretrained.out_indices == ON_TOP[name]["out_indices"]  # they were saved with the classifier
    model, _ = upernet(name)
    model.backbone.load_state_dict(pretrained.state_dict())
    inputs = picture(2, 3, *SIZE)
    maps = zip(model.eval().backbone(inputs).feature_maps, pretrained(inputs).feature_maps, strict=True)
    assert all(torch.equal(*pair) for pair in maps)


@pytest.fixture(scope="module")
def reloaded(tmp_path_factory):
    """Both models on each member: as saved, reloaded where our package is imported, and where it is not."""
    folder = tmp_path_factory.mktemp("on_top")
    save_file({"pixel_values": picture(2, 3, *SIZE)}, folder / "pictures")
    saved, jobs = {}, {}
    for name, task in itertools.product(ON_TOP, (upernet, detr)):
        key = f"{task.__name__} {name}"
        saved[key] = fill(task(name)[0])
        saved[key].save_pretrained(folder / key)
        jobs[key] = dict(class_name=type(saved[key]).__name__, source=folder / key, pictures=folder / "pictures")
    answers = {}
    for package in (True, False):
        order = {key: (reload_on_top, arguments | dict(package=package)) for key, arguments in jobs.items()}
        answers[package] = run(order, folder / f"package {package}", installed=package, HF_HUB_OFFLINE="1")
    return saved, answers


@pytest.mark.xdist_group("on_top")  # the two processes are started once
@on_top
@of_members
def test_in_a_clean_process_it_takes_the_import_of_our_package_to_reload_them(name, task, reloaded):
    saved, answers = reloaded
    key = f"{task.__name__} {name}"
    answer = answers[True][key]
    assert answer["tensors"] == {key: digest(tensor) for key, tensor in saved[key].state_dict().items()}
    with torch.no_grad():
        torch.testing.assert_close(torch.tensor(answer["logits"]), saved[key](picture(2, 3, *SIZE)).logits)
    # No code of ours runs there, so the sentence is transformers': it has the name of our configuration.
    assert answers[False][key]["traceback"].splitlines()[-1] == "KeyError: 'vit_custom'"
