"""Laws of the model, over every variant: purity, invariance, gradients, agreement of its ways to run."""

import copy
import json
import shutil
from itertools import filterfalse

import pytest
import torch
from torch.export import Dim
from transformers import AutoModelForImageClassification
from transformers import set_seed

from modeling_vit_custom import ViTCustomConfig
from modeling_vit_custom import ViTCustomForImageClassification
from modeling_vit_custom import ViTCustomModel
from tests.golden.make_outputs import CASES
from tests.golden.make_outputs import SIZES
from tests.support import ROOT
from tests.support import VARIANTS
from tests.support import fill
from tests.support import often
from tests.support import picture
from tests.support import tiny

every_variant = pytest.mark.parametrize("name", VARIANTS)


def make(name="vit", dtype=torch.float32, **changes):
    return fill(ViTCustomForImageClassification(tiny(**VARIANTS[name] | changes))).to(dtype)


def images(model, batch=3, height=32, width=32, **kwargs):
    return picture(batch, model.config.num_channels, height, width, **kwargs)


def everything_held(model):
    """All that a forward pass could write: attributes, buffers and hooks of every module, and the configuration."""
    state = {
        (name, key): value.clone()
        if isinstance(value, torch.Tensor)
        else copy.copy(value)
        if isinstance(value, (dict, list, set))
        else value
        for name, module in model.named_modules()
        for key, value in {**vars(module), **module._parameters, **module._buffers}.items()
        if not isinstance(value, torch.nn.Module)
    }
    return state | {("config", key): copy.deepcopy(value) for key, value in model.config.to_dict().items()}


@every_variant
def test_forward_writes_nothing(name):
    model = make(name)
    labels = torch.tensor([0, 1, 2])
    before = everything_held(model)
    for size in ((32, 32), (64, 40), (8, 16)):
        model(images(model, 3, *size), labels=labels)
    after = everything_held(model)
    assert before.keys() == after.keys()
    for key, value in before.items():
        equal = torch.equal(value, after[key]) if isinstance(value, torch.Tensor) else value == after[key]
        assert equal, key


@every_variant
def test_big_small_big_again_gives_the_first_answer(name):
    model = make(name)
    first = model(images(model, 2, 64, 48)).logits
    model(images(model, 2, 8, 8))
    assert torch.equal(model(images(model, 2, 64, 48)).logits, first)


@every_variant
def test_an_image_does_not_depend_on_its_batch_mates(name):
    model = make(name, torch.float64)
    batch = images(model, dtype=torch.float64)
    together = model(batch).logits
    alone = torch.cat([model(image[None]).logits for image in batch])
    torch.testing.assert_close(alone, together, rtol=0, atol=1e-12)
    changed = batch.clone()
    changed[1:] += 1
    torch.testing.assert_close(model(changed).logits[0], together[0], rtol=0, atol=1e-12)


def test_permuting_patches_without_positions_permutes_the_tokens():
    model = fill(ViTCustomModel(tiny(position_embedding="none"))).double()
    patches = picture(1, 3, 4, 4, 8, 8, dtype=torch.float64)  # (B, C, h, w, patch, patch)
    order = torch.tensor([5, 3, 0, 15, 9, 1, 12, 7, 2, 14, 11, 4, 10, 6, 13, 8])
    shuffled = patches.flatten(2, 3)[:, :, order].unflatten(2, (4, 4))
    tokens, permuted = (
        model(grid.permute(0, 1, 2, 4, 3, 5).reshape(1, 3, 32, 32)).last_hidden_state for grid in (patches, shuffled)
    )
    torch.testing.assert_close(permuted[:, 1:], tokens[:, 1:][:, order], rtol=0, atol=1e-12)
    torch.testing.assert_close(permuted[:, 0], tokens[:, 0], rtol=0, atol=1e-12)


@every_variant
def test_every_parameter_gets_a_gradient(name):
    model = make(name).train()
    model(images(model), labels=torch.tensor([0, 1, 4])).loss.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.any(), name


@every_variant
def test_no_two_layers_start_equal_and_initial_values_are_the_documented_ones(name):
    set_seed(0)
    config = tiny(**VARIANTS[name] | dict(hidden_sizes=[64] * len(VARIANTS[name].get("depths", [2]))))
    model = ViTCustomForImageClassification(config)
    drawn = {}
    for key, parameter in model.named_parameters():
        if parameter.std() == 0:
            constant = 1.0 if "norm" in key and key.endswith("weight") else 0.0
            assert parameter.unique().tolist() == [config.layer_scale_init_value if "scale" in key else constant], key
        else:
            assert 0.8 * config.initializer_range < parameter.std() < 1.2 * config.initializer_range, key
            drawn[key] = parameter
    values = [parameter.flatten()[:8].tolist() for parameter in drawn.values()]
    assert len({tuple(value) for value in values}) == len(values)


@every_variant
def test_training_mode_without_dropout_is_evaluation_mode(name):
    model = make(name)
    assert torch.equal(model.train()(images(model)).logits, model.eval()(images(model)).logits)


@pytest.mark.parametrize("rate", ["hidden_dropout_prob", "embeddings_dropout_prob", "attention_probs_dropout_prob"])
def test_each_dropout_acts_in_training_only(rate):
    model = make(**{rate: 0.5})
    assert torch.equal(model(images(model)).logits, model(images(model)).logits)
    model.train()
    assert not torch.equal(model(images(model)).logits, model(images(model)).logits)


@every_variant
@pytest.mark.parametrize("size", [(32, 32), (40, 16)], ids=str)
def test_eager_is_sdpa(name, size):
    model = make(name, torch.float64)
    inputs = images(model, 2, *size, dtype=torch.float64)
    logits = {}
    for implementation in ("eager", "sdpa"):
        model.set_attn_implementation(implementation)
        logits[implementation] = model(inputs).logits
    torch.testing.assert_close(logits["eager"], logits["sdpa"], rtol=0, atol=1e-10)


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch compiles FlexAttention with a C++ compiler; none here")
@torch.no_grad()
def test_flex_attention_is_sdpa():
    """On CPU FlexAttention has a forward pass only, and takes heads of at least 16."""
    model = make(hidden_sizes=[64])
    logits = model(images(model)).logits
    model.set_attn_implementation("flex_attention")
    torch.testing.assert_close(model(images(model)).logits, logits, rtol=1e-4, atol=1e-5)


def test_flash_attention_is_selectable_where_it_is_installed():
    with pytest.raises(ImportError, match=r"[Ff]lash"):
        make().set_attn_implementation("flash_attention_2")


@every_variant
@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_attentions_and_hidden_states_of_all_layers_whatever_the_backend(name, implementation):
    model = make(name)
    model.set_attn_implementation(implementation)
    config, inputs = model.config, images(model, 2, 40, 32)
    output = model(inputs, output_attentions=True, output_hidden_states=True)
    torch.testing.assert_close(output.logits, model(inputs).logits)
    assert len(output.hidden_states) == config.num_hidden_layers + 1
    layers = [stage for stage in config.stages for _ in range(stage.depth)]
    for stage, hidden_states, attention in zip(layers, output.hidden_states[1:], output.attentions, strict=True):
        assert hidden_states.shape[::2] == (2, stage.hidden_size)
        windows, tokens = attention.shape[0] // 2, attention.shape[-1]
        assert attention.shape == (2 * windows, stage.num_attention_heads, tokens, tokens)
        if config.window_size is None:
            assert (windows, tokens) == (1, hidden_states.shape[1])
        else:  # windows cover the grid, with less than a window to spare on each side
            assert windows * tokens >= hidden_states.shape[1]
            assert tokens <= config.window_size**2
    for attention in output.attentions:
        torch.testing.assert_close(attention.sum(-1), torch.ones_like(attention[..., 0]))
    last = model.vit.norm(output.hidden_states[-1])
    assert torch.equal(last, model.vit(inputs, output_attentions=True).last_hidden_state)


def test_attentions_asked_for_by_the_configuration_are_returned_under_sdpa_too():
    model = ViTCustomForImageClassification(tiny(output_attentions=True))
    assert model.config._attn_implementation == "sdpa"
    assert len(model(images(model)).attentions) == 2


@every_variant
@pytest.mark.parametrize("reentrant", [True, False])
def test_gradient_checkpointing_changes_no_gradient(name, reentrant):
    gradients = []
    for checkpointing in (False, True):
        model = make(name, torch.float64).train()
        if checkpointing:
            enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
            enable({"use_reentrant": reentrant})  # the floor has the second name
        inputs = images(model, dtype=torch.float64).requires_grad_()  # reentrant checkpointing needs an input with one
        model(inputs, labels=torch.tensor([0, 1, 2])).loss.backward()
        gradients.append([parameter.grad for parameter in model.parameters()])
    for plain, checkpointed in zip(*gradients, strict=True):
        torch.testing.assert_close(checkpointed, plain, rtol=0, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@every_variant
def test_half_precision_by_dtype_and_under_autocast(name, dtype, tmp_path):
    model = make(name)
    reference = model(images(model)).logits
    model.save_pretrained(tmp_path)
    half = ViTCustomForImageClassification.from_pretrained(tmp_path, dtype=dtype).eval()
    assert {parameter.dtype for parameter in half.parameters()} == {dtype}
    tolerance = dict(rtol=0, atol=0.15 * reference.abs().max().item())
    assert half(images(model)).logits.dtype == dtype
    torch.testing.assert_close(half(images(model)).logits.float(), reference, **tolerance)
    for implementation in ("eager", "sdpa"):
        model.set_attn_implementation(implementation)
        with torch.autocast("cpu", dtype):
            output = model(images(model), labels=torch.tensor([0, 1, 2]))
        torch.testing.assert_close(output.logits.float(), reference, **tolerance)
        assert output.loss.dtype == torch.float32
        output.loss.backward()
        assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


@pytest.fixture
def compiler():
    """torch counts the compilations of one function over all models of a process."""
    torch.compiler.reset()
    yield torch.compile
    torch.compiler.reset()


@pytest.mark.parametrize("name", often(VARIANTS, ("vit", "everything")))
@torch.no_grad()
def test_compiles_without_graph_breaks_and_with_changing_sizes(name, compiler):
    """Windows by a graph for each size: that of their number, padding and shift takes torch minutes to guard."""
    model = make(name)
    dynamic = None if model.config.window_size is None else False
    compiled = compiler(model, fullgraph=True, backend="eager", dynamic=dynamic)
    for size in ((32, 32), (40, 64), (16, 24), (48, 48)):
        inputs = images(model, 2, *size)
        torch.testing.assert_close(compiled(inputs).logits, model(inputs).logits)


def test_compiles_for_training_without_graph_breaks(compiler):
    model = make(drop_path_rate=0.2, hidden_dropout_prob=0.1).train()
    compiled = compiler(model, fullgraph=True, backend="aot_eager")
    compiled(images(model), labels=torch.tensor([0, 1, 2])).loss.backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def export(model, dynamic, batch, height, width):
    inputs = {"pixel_values": images(model, batch, height, width)}
    return torch.export.export(model, (), inputs, dynamic_shapes={"pixel_values": dynamic}).module()


def assert_exported(model, program, batch, height, width):
    inputs = images(model, batch, height, width)
    torch.testing.assert_close(program(pixel_values=inputs).logits, model(inputs).logits)


def one_export_serves_all_sizes(name):
    """Not windows, whose number and padding depend on the size, nor a scale that interpolation is told as a number."""
    config = tiny(**VARIANTS[name])
    return config.window_size is None and config.position_interpolation != "bicubic_offset"


@pytest.mark.parametrize("name", often(filter(one_export_serves_all_sizes, VARIANTS), ("vit", "everything", "pit")))
@torch.no_grad()
def test_exports_once_for_every_batch_and_size(name):
    model = make(name)
    dynamic = {0: Dim.DYNAMIC, 2: Dim.DYNAMIC, 3: Dim.DYNAMIC}
    program = export(model, dynamic, 2, 32, 32)
    # torch takes a single row or column of tokens for a size that never changes; in the last stage of a pyramid, too.
    smallest = 8 * 2 ** len(model.config.depths) if model.config.downsample != "none" else 16
    for batch, *size in ((2, 32, 32), (1, 32, 32), (3, 64, 64), (2, 24, 56), (5, 37, 90), (2, smallest, 24)):
        assert_exported(model, program, batch, *size)


@pytest.mark.full_size
@torch.no_grad()
def test_windows_export_once_for_every_batch_and_multiple_of_stride_and_window():
    model = make("swin", hidden_sizes=[16, 32], depths=[2, 1], num_attention_heads=[2, 4])
    side = 4 * model.config.window_size  # the total stride of two stages of patches of 2 pixels, times the window
    dynamic = {0: Dim("batch", max=64)} | {axis: side * Dim(f"side{axis}", min=2, max=64) for axis in (2, 3)}
    program = export(model, dynamic, 2, 3 * side, 4 * side)
    for batch, rows, columns in ((2, 3, 4), (1, 2, 2), (3, 2, 5), (2, 6, 3)):
        assert_exported(model, program, batch, rows * side, columns * side)


@pytest.mark.parametrize("name", often(filterfalse(one_export_serves_all_sizes, VARIANTS), ("swin", "dinov2")))
@pytest.mark.parametrize("size", [(32, 32), (20, 28)], ids=str)
@torch.no_grad()
def test_the_others_export_for_one_size_and_every_batch(name, size):
    model = make(name)
    program = export(model, {0: Dim.DYNAMIC}, 2, *size)
    for batch in (2, 1, 5):
        assert_exported(model, program, batch, *size)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_formula_made_weights_give_the_stored_outputs(case, size):
    golden = json.loads((ROOT / "tests/golden/outputs.json").read_text())["logits"][f"{case} {size[0]}x{size[1]}"]
    changes = {
        "vit": {},
        "vit_scaled": dict(layer_scale_init_value=1.0, qk_norm=True),
        "vit_mean": dict(prefix_tokens=[], pooling="mean", final_norm="pooled"),
    }[case]
    model = make(dtype=torch.float64, position_interpolation="bicubic_antialias", **changes)
    # timm resamples positions in float32, ours here in float64.
    tolerance = 1e-9 if size == (32, 32) else 1e-6
    logits = model(picture(2, 3, *size, dtype=torch.float64)).logits
    torch.testing.assert_close(logits, torch.tensor(golden, dtype=torch.float64), rtol=0, atol=tolerance)


@every_variant
def test_no_buffer_at_all(name):
    assert list(make(name).named_buffers()) == []


def test_the_names_of_the_state_dict_are_the_published_ones():
    """They are public: checkpoints, adapters and conversions hold them. Change them only with a conversion."""
    names = {name: sorted(make(name).state_dict()) for name in VARIANTS}
    published = json.loads((ROOT / "tests/golden/state_dict_names.json").read_text())
    assert names == published


def test_auto_classes_know_the_model():
    model = AutoModelForImageClassification.from_config(tiny())
    assert isinstance(model, ViTCustomForImageClassification)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((1, 3, 7, 32), "smaller than one patch of 8 x 8: resize"),
        ((1, 4, 32, 32), "num_channels=3, got \\(1, 4, 32, 32\\): convert the images"),
        ((3, 32, 32), "must be \\(batch, num_channels, height, width\\)"),
    ],
)
def test_bad_pixels_get_a_sentence(shape, message):
    with pytest.raises(ValueError, match=message):
        make()(torch.zeros(shape))


@pytest.mark.parametrize(("name", "prefix"), [("vit", 1), ("yolos", 3)])
def test_positions_can_be_drawn_on_another_grid_for_good(name, prefix):
    model = make(name, dtype=torch.float64)
    inputs = images(model, 2, 48, 40, dtype=torch.float64)
    before = model(inputs).logits
    model.resize_position_embeddings((6, 5))
    assert model.vit.embeddings.position_embeddings.shape == (1, prefix + 6 * 5, 32)
    if name == "yolos":
        assert model.vit.stages[0].layer_position_embeddings.shape == (1, prefix + 6 * 5, 32)
    assert model.config.position_grid == [6, 5]
    torch.testing.assert_close(model(inputs).logits, before, rtol=0, atol=1e-12)


def test_another_image_size_keeps_the_checkpoints_grid_and_a_preset_follows_it(tmp_path):
    make().save_pretrained(tmp_path)
    loaded = ViTCustomForImageClassification.from_pretrained(tmp_path, image_size=[64, 48])
    assert (loaded.config.position_grid, loaded.config.image_size) == ([4, 4], [64, 48])
    preset = ViTCustomConfig.from_pretrained(ROOT / "configs/models/vit_tiny_patch16_224.json", image_size=384)
    with torch.device("meta"):
        assert ViTCustomModel(preset).config.position_grid == [24, 24]
