"""Parity with every model of transformers that ours can be, and the way back to its own files. No network."""

import functools

import pytest
import torch
import transformers
from packaging import version
from safetensors.torch import load_file
from safetensors.torch import save_file

from modeling_vit_custom import ViTCustomConfig
from modeling_vit_custom import ViTCustomForImageClassification
from modeling_vit_custom import ViTCustomModel
from modeling_vit_custom.conversion import back
from modeling_vit_custom.conversion import convert
from modeling_vit_custom.conversion import find_source
from modeling_vit_custom.conversion import from_transformers
from modeling_vit_custom.conversion.converting import as_ours
from modeling_vit_custom.conversion.probe import digest
from modeling_vit_custom.conversion.reading import sha256
from modeling_vit_custom.conversion.rename import choose
from modeling_vit_custom.conversion.rename import differences
from modeling_vit_custom.conversion.rename import into_ours
from modeling_vit_custom.conversion.rename import into_theirs
from modeling_vit_custom.conversion.sources import Checkpoint
from modeling_vit_custom.conversion.trace import trace_ours
from modeling_vit_custom.conversion.transformers_sources import SOURCES
from tests.conversion_support import BOUNDS
from tests.conversion_support import CASES
from tests.conversion_support import pixels
from tests.conversion_support import read
from tests.conversion_support import relative
from tests.conversion_support import saved
from tests.conversion_support import scalar
from tests.conversion_support import transformers_model
from tests.support import PRESETS
from tests.support import tiny

VERSION = version.parse(transformers.__version__)
# Before 5.9 Swin's absolute positions had a row too many, and it could not run.
NAMES = [name for name in CASES if name != "swin absolute" or version.parse("5.9") <= VERSION]
every_case = pytest.mark.parametrize("name", NAMES)
TWO_SPELLINGS = ("vit", "deit", "swin", "dinov2", "mae")  # in memory since 5.9


def checkpoint_of(model, tensors=None) -> Checkpoint:
    settings = model.config.to_dict() | {"architectures": [type(model).__name__]}
    return Checkpoint(settings, model.state_dict() if tensors is None else tensors)


@functools.cache
def in_dtype(name, dtype):
    """(source, theirs, ours) of a case; theirs is built in `dtype`, so that its tables are too."""
    checkpoint = checkpoint_of(transformers_model(name))
    tensors = {key: t.to(dtype) if t.is_floating_point() else t for key, t in checkpoint.tensors.items()}
    checkpoint = Checkpoint(checkpoint.config, tensors)
    source = find_source(checkpoint)
    return source, source.build(checkpoint), as_ours(checkpoint, source)[0].eval()


def run_theirs(model, x):
    """Their own forward, without any code of ours, and what it gives: logits or tokens."""
    arguments, size = {}, getattr(model.config, "vision_config", model.config).image_size
    if not isinstance(model, transformers.PreTrainedModel) or "Dino" not in type(model).__name__.title():
        arguments["interpolate_pos_encoding"] = tuple(x.shape[2:]) != (size, size)
    if hasattr(model.config, "mask_ratio"):
        arguments["noise"] = torch.arange((x.shape[2] // 8) * (x.shape[3] // 8), dtype=x.dtype).expand(len(x), -1)
    output = model(x, **arguments)
    return output.logits if hasattr(output, "logits") else output.last_hidden_state


@pytest.mark.parametrize(("dtype", "bound"), BOUNDS, ids=str)
@every_case
def test_layers_outputs_and_pixel_gradients_are_transformers_at_any_size(name, dtype, bound):
    source, theirs, ours = in_dtype(name, dtype)
    side = ours.config.image_size
    step = side // 4
    for size in [(side, side), (side + 2 * step, side + 2 * step), (side, side + 3 * step), (side + step, side)]:
        if not source.accepts(theirs, *size):
            assert name == "swin bare"  # windows of 3 on grids of 4: everything else takes every size
            continue
        x = [pixels(*size, dtype, ours.config.num_channels) for _ in range(2)]
        expected, traced = source.trace(theirs, x[0]), trace_ours(ours, x[1])
        layers = [f"stages.{s}.layers.{n}" for s, depth in enumerate(ours.config.depths) for n in range(depth)]
        assert expected.keys() >= {"embeddings", *layers, "last_hidden_state"}
        for layer, tensor in expected.items():
            assert relative(traced[layer], tensor) <= bound, (layer, size)
        last = list(expected)[-1]
        gradients = [torch.autograd.grad(scalar(t[last]), i)[0] for t, i in zip((expected, traced), x, strict=True)]
        assert relative(gradients[1], gradients[0]) <= bound, size


@every_case
def test_the_answer_is_that_of_their_own_forward(name):
    """Without the traces: a hook in the wrong place would agree with itself."""
    _, theirs, ours = in_dtype(name, torch.float64)
    x = pixels(ours.config.image_size, ours.config.image_size, torch.float64, ours.config.num_channels)
    with torch.no_grad():
        expected, output = run_theirs(theirs, x), ours(x)
    assert relative(output[0], expected) <= 1e-9


@every_case
def test_gradients_of_every_parameter_are_transformers(name):
    source, theirs, ours = in_dtype(name, torch.float64)
    head = ours.base_model is not ours
    for model in (theirs, ours):
        model.zero_grad()
        x = pixels(ours.config.image_size, ours.config.image_size, torch.float64, ours.config.num_channels)
        traced = trace_ours(model, x) if model is ours else source.trace(model, x)
        scalar(traced["logits" if head else "last_hidden_state"]).backward()
    gradients = {key: p.grad for key, p in theirs.named_parameters() if p.grad is not None}
    tables = source.tables(ours.config, head)
    expected = into_ours(gradients, max(tables.values(), key=lambda table: known(gradients, table)))[0]
    own = {key: p.grad for key, p in ours.named_parameters() if p.grad is not None}
    assert expected.keys() | ({"embeddings.position_embeddings"} & own.keys()) == own.keys()  # fixed in some MAE's
    # Within the largest gradient of the model: that of the key's bias is zero but for rounding.
    largest = max(gradient.abs().max() for gradient in expected.values())
    for key, gradient in expected.items():
        assert (own[key] - gradient).abs().max() <= 1e-9 * largest, key


def known(tensors, table):
    try:
        return len(into_ours(tensors, table)[0])
    except ValueError:
        return -1


@every_case
def test_the_way_there_and_back_gives_equal_files(name, tmp_path):
    """Through our own save_pretrained; the certificate is written on the way, at two sizes and in two types."""
    source = saved(name, tmp_path / "theirs")
    convert(source, tmp_path / "ours")
    back(tmp_path / "ours", tmp_path / "again")
    for file in ("model.safetensors", "config.json"):
        assert sha256(tmp_path / "again" / file) == sha256(source / file), file
    proof = read(tmp_path / "ours/parity.json")
    assert proof["largest"]["float64"] <= 1e-9
    assert proof["largest"]["float32"] <= 1e-5
    assert proof["differences"]["float64"]["native"].keys() > {"embeddings", "last_hidden_state", "pixel gradient"}
    assert proof["source"]["files"] == {"model.safetensors": sha256(source / "model.safetensors")}
    assert proof["source"]["tensors"] == sha256(source / "model.safetensors")


@every_case
def test_both_spellings_give_the_same_tensors_and_come_back_as_they_were(name, tmp_path):
    """On disk and on the Hub `encoder.layer.N.attention.attention.query`, in memory `layers.N.attention.q_proj`."""
    theirs = transformers_model(name)
    theirs.save_pretrained(tmp_path)
    in_memory = theirs.state_dict()
    on_disk = load_file(tmp_path / "model.safetensors")
    if version.parse("5.9") <= VERSION and name.split()[0] in TWO_SPELLINGS:
        assert on_disk.keys() != in_memory.keys()
    converted = []
    for tensors in (on_disk, in_memory):
        checkpoint = checkpoint_of(theirs, tensors)
        source = find_source(checkpoint)
        ours, aside, spelling = as_ours(checkpoint, source)
        table = source.tables(ours.config, source.has_head(checkpoint))[spelling]
        save_file(into_theirs(ours.state_dict(), table, aside), tmp_path / "again.safetensors", {"format": "pt"})
        assert sha256(tmp_path / "again.safetensors") == digest(tensors)
        converted.append(ours.state_dict())
    assert digest(converted[0]) == digest(converted[1])


# Which of the presets transformers has: the first part of a name that fits. Of the others, none.
PRESET_SOURCES = {
    "_dinov3": "transformers-dinov3",
    "_reg4_dinov2": "transformers-dinov2-with-registers",
    "_dinov2": "transformers-dinov2",
    "_clip_": "transformers-clip",
    "_mae": "transformers-vit-mae",
    "swin_": "transformers-swin",
    "_distilled_patch16": "transformers-deit",
    "deit3_": None,  # LayerScale
    "pit_": None,
    "big_vision": None,  # fixed positions, hidden layer in the head
    "flexivit": None,  # no position for the class token
    "tutorial": None,
    "": "transformers-vit",
}


def source_of_preset(preset):
    name = next(name for part, name in PRESET_SOURCES.items() if part in preset.stem)
    return next((source for source in SOURCES if source.name == name), None)


def preset_config(preset, source):
    """A preset that resamples its positions as others do, asked for this source's way."""
    config = ViTCustomConfig.from_pretrained(preset)
    fixed = next(iter(source.classes.values())).fixed
    config.position_interpolation = fixed.get("position_interpolation", config.position_interpolation)
    return config


@pytest.mark.parametrize("preset", [p for p in PRESETS if source_of_preset(p)], ids=lambda preset: preset.stem)
def test_full_size_presets_have_transformers_names_and_shapes_both_ways(preset):
    source = source_of_preset(preset)
    config = preset_config(preset, source)
    head = config.num_labels > 0
    settings = source.write_config(config, head)
    (architecture,) = settings["architectures"]
    with torch.device("meta"):
        ours = (ViTCustomForImageClassification if head else ViTCustomModel)(config).state_dict()
        theirs_config = source.their_config(Checkpoint(settings, {}))
        theirs = getattr(transformers, architecture)(theirs_config).state_dict()
    tables = source.tables(config, head)
    table = tables[choose(tables, theirs)]
    assert differences(theirs, into_theirs(ours, table), table) == []
    for spelling in tables.values():
        again, aside = into_ours(into_theirs(ours, spelling), spelling)
        assert {key: t.shape for key, t in again.items()} == {key: t.shape for key, t in ours.items()}
        assert not aside


@pytest.mark.parametrize("preset", [p for p in PRESETS if not source_of_preset(p)], ids=lambda preset: preset.stem)
def test_what_transformers_does_not_have_is_refused_by_name(preset):
    config = ViTCustomConfig.from_pretrained(preset)
    for source in SOURCES:
        with pytest.raises(ValueError, match=r"cannot (hold|express)|has no class"):
            source.write_config(config, head=True)


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("dinov3", dict(proj_bias=False), "proj_bias=False, which ours has not: .* set it to true"),
        ("dinov3", dict(mlp_bias=False), "mlp_bias=False"),
        ("vit", dict(quantization_config={"bits": 8}), "is quantised .* convert the original weights"),
    ],
    ids=str,
)
def test_what_ours_cannot_reproduce_is_refused_by_name(name, changes, message):
    make, config_class, settings = CASES[name]
    config = getattr(transformers, config_class)(**settings)
    for key, value in changes.items():
        setattr(config, key, value)
    checkpoint = Checkpoint(config.to_dict() | {"architectures": [make]}, {})
    with pytest.raises(ValueError, match=message):
        find_source(checkpoint).read_config(checkpoint)


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.name)
def test_every_field_of_their_configurations_is_known(source):
    """A field that a newer transformers brings is refused when it is used, and named here when it is not."""
    config = getattr(transformers, source.config_class)()
    for fields in source.classes.values():
        for name in fields.unknown(config):
            raise AssertionError(f"{source.config_class}.{name} is in no row of transformers_configs.py")


def test_a_field_that_nobody_knows_is_refused_when_it_is_used(monkeypatch):
    class Newer(transformers.ViTConfig):
        sandwich_norm: bool = False

    monkeypatch.setattr(transformers, "ViTConfig", Newer)
    checkpoint = Checkpoint(Newer(sandwich_norm=True).to_dict() | {"architectures": ["ViTModel"]}, {})
    with pytest.raises(ValueError, match="sandwich_norm=True, which this conversion does not know"):
        find_source(checkpoint).read_config(checkpoint)


def test_another_class_is_refused_with_what_it_says_of_itself():
    config = transformers.BeitConfig()
    with pytest.raises(ValueError, match=r"No source knows this checkpoint.*BeitModel.*beit"):
        find_source(Checkpoint(config.to_dict() | {"architectures": ["BeitModel"]}, {}))
    with pytest.raises(ValueError, match="There is no source 'transfromers-vit'"):
        find_source(Checkpoint({}, {}), "transfromers-vit")


def test_a_configuration_that_names_no_class_is_known_by_its_tensors():
    theirs = transformers_model("deit with teacher")
    config = {key: value for key, value in theirs.config.to_dict().items() if key != "architectures"}
    source = find_source(Checkpoint(config, theirs.state_dict()))
    assert source.name == "transformers-deit"
    assert source.has_head(Checkpoint(config, theirs.state_dict()))
    assert source.read_config(Checkpoint(config, theirs.state_dict())).distillation_head


def test_the_rates_and_labels_of_a_source_come_along():
    rates = dict(hidden_dropout_prob=0.2, attention_probs_dropout_prob=0.1, problem_type="regression")
    config = from_transformers(transformers_model("vit", **rates, id2label={0: "a", 1: "b"})).config
    assert (config.hidden_dropout_prob, config.embeddings_dropout_prob) == (0.2, 0.2)
    assert (config.attention_probs_dropout_prob, config.problem_type) == (0.1, "regression")
    assert config.id2label == {0: "a", 1: "b"}
    config = from_transformers(transformers_model("dinov3", drop_path_rate=0.3, initializer_range=0.1)).config
    assert (config.drop_path_rate, config.drop_path_schedule, config.initializer_range) == (0.3, "constant", 0.1)
    for name, schedule in {"swin": "linear", "dinov2": "constant", "dinov2 registers": "constant"}.items():
        config = from_transformers(transformers_model(name, drop_path_rate=0.3)).config
        assert (config.drop_path_rate, config.drop_path_schedule) == (0.3, schedule)


def test_a_source_of_another_shape_gets_the_two_sided_list():
    theirs = transformers_model("vit")
    theirs.classifier = torch.nn.Linear(48, 9, bias=False)
    theirs.strange = torch.nn.Parameter(torch.zeros(1))
    with pytest.raises(
        ValueError, match=r"(?s)\(9, 48\) in the source, \(7, 48\).*model: strange.*source: classifier.b"
    ):
        from_transformers(theirs)


def test_a_converted_model_shares_no_memory_and_keeps_dtype_and_mode():
    theirs = transformers_model("vit").to(torch.bfloat16).train()
    ours = from_transformers(theirs)
    assert (ours.dtype, ours.training) == (torch.bfloat16, True)
    with torch.no_grad():
        ours.classifier.weight.zero_()
    assert theirs.classifier.weight.any()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(qk_norm=True), r"`qk_norm` True \(only False\)"),
        (dict(prefix_tokens=["cls", "register"], num_prefix_positions=1), "`prefix_tokens`"),
        (dict(hidden_sizes=[32, 32], depths=[1, 1], num_attention_heads=[4, 4]), "it has one stage, not the 2"),
        (dict(position_interpolation="bicubic_antialias"), "only 'bicubic'.* set that in config.json first"),
        (dict(patch_stride=4), "`patch_stride`"),
    ],
    ids=str,
)
def test_what_their_vit_cannot_hold_is_refused_by_name(changes, message):
    source = next(source for source in SOURCES if source.name == "transformers-vit")
    with pytest.raises(ValueError, match=message):
        source.write_config(tiny(**changes), head=True)
