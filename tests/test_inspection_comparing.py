"""ViT against CNN: the measuring functions by their laws, the verdicts by their rule, the script from end to end."""

import json
import math
from types import SimpleNamespace

import pytest
import torch
import yaml
from torch import nn
from transformers import ResNetConfig
from transformers import ResNetForImageClassification
from transformers import ViTImageProcessor

from modeling_vit_custom import ViTCustomConfig
from modeling_vit_custom import ViTCustomForImageClassification
from modeling_vit_custom.inspection import comparing
from modeling_vit_custom.inspection import comparing_parts
from modeling_vit_custom.inspection import count_macs
from modeling_vit_custom.inspection.attention_distance import attention_distances
from modeling_vit_custom.inspection.attention_distance import mean_attention_distance
from modeling_vit_custom.inspection.attention_distance import uniform_distance
from modeling_vit_custom.inspection.comparing_parts import PARTS
from modeling_vit_custom.inspection.comparing_parts import Study
from modeling_vit_custom.inspection.comparing_runs import Run
from modeling_vit_custom.inspection.comparing_runs import Runs
from modeling_vit_custom.inspection.corruptions import CORRUPTIONS
from modeling_vit_custom.inspection.corruptions import STRENGTHS
from modeling_vit_custom.inspection.corruptions import corrupt
from modeling_vit_custom.inspection.measuring import accuracy
from modeling_vit_custom.inspection.measuring import untrained
from modeling_vit_custom.inspection.receptive_field import effective_fields
from modeling_vit_custom.inspection.receptive_field import feature_maps
from modeling_vit_custom.inspection.receptive_field import radius
from modeling_vit_custom.inspection.receptive_field import receptive_field
from modeling_vit_custom.inspection.receptive_field import resnet_fields
from modeling_vit_custom.inspection.resolution import growth
from modeling_vit_custom.inspection.resolution import macs_at
from modeling_vit_custom.inspection.resolution import overtakes
from scripts import compare
from tests.support import PYRAMID
from tests.support import ROOT
from tests.support import fill
from tests.support import picture
from tests.support import tiny

RECIPES = {path.stem.removeprefix("compare_"): path for path in (ROOT / "configs/recipes").glob("compare_*.yaml")}
CERTIFICATE = dict(command="c", hardware="2 CPU cores, Some CPU", versions="v", commit="abc")


def recipe_model(name: str):
    recipe = yaml.safe_load(RECIPES[name].read_text())
    settings = recipe["config_overrides"] | dict(num_labels=10)
    if recipe.get("model_type") == "resnet":
        return ResNetForImageClassification(ResNetConfig(**settings))
    return ViTCustomForImageClassification(ViTCustomConfig(**settings))


# Attention distance


def test_attention_that_looks_everywhere_alike_is_as_far_as_two_random_patches():
    """Over all pairs, by hand, on a grid and strides that are not square."""
    grid, stride, prefix = (3, 4), (5, 2), 2
    places = [(5 * row, 2 * column) for row in range(3) for column in range(4)]
    expected = sum(math.dist(one, other) for one in places for other in places) / len(places) ** 2
    size = prefix + 12
    uniform = torch.full((2, 3, size, size), 1 / size)
    assert mean_attention_distance(uniform, grid, stride).tolist() == pytest.approx([expected] * 3)
    assert uniform_distance(grid, stride) == pytest.approx(expected)


def test_attention_to_itself_has_no_distance_and_prefix_tokens_do_not_count():
    identity = torch.eye(11).expand(1, 2, 11, 11)
    assert mean_attention_distance(identity, (3, 3), (4, 4)).tolist() == [0, 0]
    with_prefix = identity / 4
    with_prefix = with_prefix.clone()
    with_prefix[..., :2] += 3 / 8  # most of it to the prefix tokens
    assert mean_attention_distance(with_prefix, (3, 3), (4, 4)).tolist() == [0, 0]


def test_attention_to_the_right_neighbour_is_one_stride_far():
    """Around the edge it is two strides back, from a third of the places: (1 + 1 + 2) / 3 strides."""
    right = torch.zeros(1, 1, 9, 9)
    for place in range(9):
        right[0, 0, place, place - place % 3 + (place + 1) % 3] = 1
    assert mean_attention_distance(right, (3, 3), (7, 7)).item() == pytest.approx(7 * 4 / 3)


def test_a_models_attention_distance_is_that_of_its_weights_by_layer_and_head():
    model = fill(ViTCustomForImageClassification(tiny(attn_implementation="eager")))
    found = attention_distances(model, picture(2, 3, 32, 32))
    assert [len(heads) for heads in found] == [4, 4]
    assert all(0 < value < 24 * 2**0.5 for heads in found for value in heads)
    for layer in model.vit.stages[0].layers:
        nn.init.zeros_(layer.attention.q_proj.weight)
        nn.init.zeros_(layer.attention.q_proj.bias)
    for heads in attention_distances(model, picture(2, 3, 32, 32)):
        assert heads == pytest.approx([uniform_distance((4, 4), (8, 8))] * 4)


def test_attention_distance_is_refused_where_it_means_nothing():
    images = picture(1, 3, 32, 32)
    with pytest.raises(ValueError, match="attn_implementation='eager'"):
        attention_distances(ViTCustomForImageClassification(tiny()), images)
    swin = tiny(**PYRAMID, patch_size=2, prefix_tokens=[], downsample="merge", window_size=3, pooling="mean")
    with pytest.raises(ValueError, match="give a plain ViT"):
        attention_distances(ViTCustomForImageClassification(swin), images)


# Receptive fields


@pytest.mark.parametrize("kernels", [[(3, 1)] * 5, [(7, 2), (3, 2), (3, 1), (3, 1)], [(5, 3), (1, 1), (3, 2), (3, 1)]])
def test_a_receptive_field_is_where_a_stack_of_kernels_has_a_gradient(kernels):
    layers = [nn.Conv2d(1, 1, side, stride, bias=False) for side, stride in kernels]
    for layer in layers:
        nn.init.ones_(layer.weight)
    pixels = torch.zeros(1, 1, 99, 99, requires_grad=True)
    answer = nn.Sequential(*layers)(pixels)
    answer[0, 0, 2, 2].backward()
    seen = pixels.grad[0, 0].nonzero()
    side, jump = receptive_field(kernels)
    assert (seen.max(0).values - seen.min(0).values + 1).tolist() == [side, side]
    assert seen.min(0).values.tolist() == [2 * jump, 2 * jump]
    if {stride for _, stride in kernels} == {1}:
        assert side == 1 + sum(size - 1 for size, _ in kernels)  # the closed form without strides


@pytest.mark.parametrize(
    "settings",
    [
        dict(layer_type="basic", depths=[2, 1]),
        dict(layer_type="bottleneck", depths=[1, 2]),
        dict(layer_type="bottleneck", depths=[1, 2], downsample_in_bottleneck=True),
        dict(layer_type="basic", depths=[1, 1], downsample_in_first_stage=True),
    ],
    ids=str,
)
def test_a_resnets_receptive_field_is_where_its_gradient_is(settings):
    """With weights that cancel nothing, away from the edges; the mean of a window has a gradient everywhere in it, its
    largest value only there."""
    model = ResNetForImageClassification(ResNetConfig(embedding_size=4, hidden_sizes=[4, 4], **settings)).eval()
    model.resnet.embedder.pooler = nn.AvgPool2d(3, 2, 1)
    for parameter in model.parameters():
        nn.init.constant_(parameter, 0.1)
    expected = resnet_fields(model.config)
    for name, one in feature_maps(model, pixels := torch.ones(1, 3, 224, 224, requires_grad=True)).items():
        (gradient,) = torch.autograd.grad(
            one[0, :, one.shape[2] // 2, one.shape[3] // 2].sum(), pixels, retain_graph=True
        )
        rows, columns = gradient[0].sum(0).nonzero().unbind(1)
        assert (rows.max() - rows.min() + 1, columns.max() - columns.min() + 1) == (expected[name], expected[name])


def test_the_receptive_field_of_resnet_50_is_the_published_one():
    """Araujo et al., "Computing Receptive Fields of Convolutional Neural Networks", table 1: 483, of the original,
    which strides in the first convolution of a block."""
    assert resnet_fields(ResNetConfig(downsample_in_bottleneck=True))["stage 4"] == 483


def test_the_radius_of_a_pixel_is_nothing_and_of_a_square_its_mean_distance():
    field = torch.zeros(9, 9)
    field[2, 5] = 3
    assert radius(field) == 0
    field = torch.zeros(12, 12)
    field[3:8, 2:7] = 7
    expected = sum(math.hypot(row - 2, column - 2) for row in range(5) for column in range(5)) / 25
    assert radius(field) == pytest.approx(expected)


def test_an_effective_field_is_that_of_the_middle_patch_where_nothing_is_mixed():
    """Attention and feed-forward that add nothing leave a patch to itself; real ones look at the whole image."""
    model = fill(ViTCustomForImageClassification(tiny(prefix_tokens=[], pooling="mean")))
    images = picture(2, 3, 32, 32)
    mixing = effective_fields(model, images)
    again = effective_fields(model, images)
    assert all(torch.equal(again[name], field) for name, field in mixing.items())
    assert all((field > 0).all() for field in mixing.values())
    for layer in model.vit.stages[0].layers:
        nn.init.zeros_(layer.attention.o_proj.weight)
    for field in effective_fields(model, images).values():
        inside = torch.zeros(32, 32, dtype=torch.bool)
        inside[16:24, 16:24] = True
        assert (field[inside] > 0).all()
        assert (field[~inside] == 0).all()


def test_every_recipes_maps_are_images_and_come_in_order():
    pixel_values = picture(2, 3, 28, 28)
    for name in ("vit", "deit_distilled", "pit", "swin", "resnet"):
        maps = list(feature_maps(recipe_model(name).eval(), pixel_values).values())
        assert [one.dim() for one in maps] == [4] * len(maps)
        sides = [one.shape[2] for one in maps]
        assert sides == sorted(sides, reverse=True)


# Corruptions


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_a_corruption_is_pure_deterministic_and_grows(name):
    images = ((picture(16, 1, 28, 28) * 60 + 128).clamp(0, 255)).byte()
    before, changes = images.clone(), []
    for strength in STRENGTHS[name]:
        worse = corrupt(name, images, strength)
        assert worse.shape == images.shape
        assert worse.dtype == torch.uint8
        assert torch.equal(worse, corrupt(name, images, strength))
        changes.append((worse.float() - images.float()).square().mean().item())
    assert torch.equal(images, before)
    assert changes[0] > 0
    if name in ("noise", "occlusion"):
        assert changes == sorted(changes)


def test_a_shift_moves_whole_pixels_and_lets_black_in():
    images = torch.full((64, 1, 14, 14), 200, dtype=torch.uint8)
    moved = corrupt("shift", images, 2 / 14)
    assert {(int(image.float().mean() * 196 / 200)) for image in moved} == {14 * 12}
    assert len({tuple(image.flatten().tolist()) for image in moved}) == 4  # each of the four sides


def test_an_occlusion_hides_a_square_of_its_size_and_nothing_else():
    worse = corrupt("occlusion", torch.zeros(8, 1, 16, 16, dtype=torch.uint8), 1 / 4)
    assert (worse == 127).sum((1, 2, 3)).tolist() == [16] * 8
    assert (worse == 0).sum((1, 2, 3)).tolist() == [240] * 8


def test_a_blur_leaves_a_flat_picture_as_it_is_and_noise_has_its_deviation():
    flat = torch.full((4, 1, 56, 56), 128, dtype=torch.uint8)
    assert torch.equal(corrupt("blur", flat, 0.06), flat)
    assert corrupt("noise", flat, 0.1).float().std().item() == pytest.approx(25.5, rel=0.05)


def test_a_corruption_that_is_not_there_is_refused():
    with pytest.raises(ValueError, match="choose one of noise"):
        corrupt("fog", torch.zeros(1, 1, 2, 2, dtype=torch.uint8), 1.0)
    with pytest.raises(ValueError, match="give bytes"):
        corrupt("noise", torch.zeros(1, 1, 2, 2), 1.0)


# Costs and accuracy


def test_the_power_by_which_a_cost_grows_is_in_pixels():
    sides = [100, 224, 440, 448]  # 440: the last step alone would tell little
    for power in (1, 2):
        assert growth(sides, [3 * side ** (2 * power) * (1 + (side == 440)) for side in sides]) == pytest.approx(power)


@pytest.mark.parametrize(
    ("costs", "side"), [((9, 9, 1, 1), 30), ((1, 9, 1, 1), 30), ((9, 9, 9, 9), None), ((1, 1, 1, 9), None)]
)
def test_one_overtakes_another_where_it_stays_ahead(costs, side):
    assert overtakes([10, 20, 30, 40], costs, [5, 5, 5, 5]) == side


def test_costs_by_formula_and_by_counter_are_one():
    config = ViTCustomConfig.from_pretrained(ROOT / "configs/models/deit_small_patch16_224.json")
    with torch.device("meta"):
        vit = ViTCustomForImageClassification(config)
        resnet = ResNetForImageClassification(ResNetConfig())
    assert macs_at(vit, 112)["all"] == count_macs(vit, 1, 3, 112, 112)
    assert 0 < macs_at(vit, 112)["attention"] < macs_at(vit, 112)["all"]
    assert macs_at(resnet, 224) == {"all": count_macs(resnet, 1, 3, 224, 224), "attention": 0}


def test_the_models_that_are_compared_cost_the_same_as_their_recipes_say():
    """Equal compute within 15 %, about equal parameters; and as the recipes' comments have it."""
    macs, parameters = {}, {}
    for name, path in RECIPES.items():
        model = recipe_model(name).eval()
        macs[name], parameters[name] = macs_at(model, 28)["all"], sum(p.numel() for p in model.parameters())
        if ": " in (first := path.read_text().split("multiply")[0]) and "parameters" in first:
            assert f"{parameters[name]:,} parameters, {macs[name] / 1e6:.1f} M " in first
    assert max(macs.values()) <= 1.15 * min(macs.values())
    assert max(parameters.values()) <= 1.25 * min(parameters.values())


def test_recipes_differ_in_the_model_and_the_training_recipe_alone():
    own = {"config_overrides", "processor_overrides", "model_type", "augmentation", "mix", "distillation", "output_dir"}
    shared = [
        {key: value for key, value in yaml.safe_load(path.read_text()).items() if key not in own}
        for path in RECIPES.values()
    ]
    assert all(one == shared[0] for one in shared)


def test_accuracy_is_the_share_of_hits():
    model = nn.Module()
    model.forward = lambda images: SimpleNamespace(logits=nn.functional.one_hot(images.long().flatten(), 3).float())
    assert accuracy(model, torch.tensor([0.0, 1, 2, 2]), torch.tensor([0, 1, 1, 2])) == 0.75


def test_an_untrained_model_is_drawn_by_its_seed_and_disturbs_nobody():
    model, state = ViTCustomForImageClassification(tiny()), torch.get_rng_state()
    one, same, other = untrained(model, 1), untrained(model, 1), untrained(model, 2)
    assert torch.equal(torch.get_rng_state(), state)
    weights = [one_of.vit.stages[0].layers[0].mlp.fc1.weight for one_of in (one, same, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


# Verdicts


@pytest.mark.parametrize(
    ("above", "below", "won"),
    [
        ([0.80, 0.82], [0.70, 0.72], True),  # 10 points, a margin of 4
        ([0.80, 0.82], [0.78, 0.79], False),  # 2.5 points
        ([0.70, 0.72], [0.80, 0.82], False),
        ([0.80, 0.80], [0.70, 0.76], False),  # the larger spread counts
    ],
)
def test_a_comparison_is_won_by_more_than_twice_the_larger_spread(above, below, won):
    check = comparing.trained("here", above, below)
    assert check.won is won
    assert check.difference == pytest.approx(100 * (sum(above) - sum(below)) / 2)


def test_a_verdict_follows_from_the_comparisons():
    won, lost = comparing.counted("at noon", 1.0, "px"), comparing.counted("at night", -1.0, "px")
    undecided = comparing.trained("once", [1.0], [0.0])

    def verdict(*checks):
        return comparing.Claim("a", "b", list(checks)).verdict

    assert verdict(won, won) == "**holds**"
    assert verdict(lost, won) == "**holds under these conditions**: at noon"
    assert verdict(lost) == "**does not hold here**"
    assert "not decided" in verdict(won, undecided)


@pytest.mark.parametrize(
    ("fast", "verdict"), [([1, 1, 1, 1], "**holds**"), ([1, 1, 1, 9], "**holds**"), ([1, 1, 9, 9], "under")]
)
def test_what_is_timed_must_be_true_in_three_of_four_rounds(fast, verdict):
    """One round in which the machine did something else decides nothing."""
    slow = [[1.0] * 4, [2.0] * 4, [40.0] * 4]
    quick = [[0.5] * 4, [float(value) for value in fast], [4.0] * 4]
    macs = [dict(all=value) for value in (1, 4, 80)]
    half = [dict(all=value) for value in (0.5, 2, 8)]
    found = dict(
        sides=[112, 224, 448],
        timed_sides=[112, 224, 448],
        macs={"ViT-S": macs, "Swin-T": half, "PiT-S": half, "ResNet-50": half},
        seconds={"ViT-S": slow, "Swin-T": quick, "PiT-S": quick, "ResNet-50": quick},
    )
    cnn, quadratic, swin, pit = comparing.cost_claims(found)
    assert verdict in cnn.verdict
    assert verdict in pit.verdict
    assert quadratic.verdict == "**holds**"
    assert swin.verdict == "**holds**"


def test_claims_of_data_efficiency_read_the_right_models_and_sizes():
    flat = {
        name: {"10": [0.5, 0.5], "100": [0.5, 0.5]} for name in ("deit", "deit_distilled", "swin", "pit", "resnet_deit")
    }
    found = dict(sizes=[10, 100], accuracy=flat)
    flat["vit"], flat["resnet"] = {"10": [0.4, 0.4], "100": [0.6, 0.6]}, {"10": [0.6, 0.6], "100": [0.6, 0.6]}
    first, gap, recipe, bias, both = comparing.efficiency_claims(found)
    assert first.verdict == "**holds under these conditions**: plain ViT, 10 images"
    assert gap.verdict == "**holds**"
    assert recipe.verdict == "**holds under these conditions**: recipe, 10 images; recipe and distillation, 10 images"
    assert bias.verdict == "**holds under these conditions**: Swin, 10 images; PiT, 10 images"
    assert both.verdict == "**does not hold here**"


# Runs


def fake(runs: Runs, run: Run):
    """What scripts/train.py leaves of a run that ends at once."""
    torch.manual_seed(run.seed)
    model = recipe_model(run.model)
    if run.depths:
        config = type(model.config).from_dict(model.config.to_dict() | dict(depths=list(run.depths)))
        model = type(model)(config)
    for parameter in (one for name, one in model.named_parameters() if name.endswith("bias") and len(one) == 10):
        nn.init.constant_(parameter[3:4], 100)  # the same answer to all, so that one in ten is right
    model.save_pretrained(runs.checkpoint(run))
    halves = dict(image_mean=[0.5] * 3, image_std=[0.5] * 3)
    ViTImageProcessor(size=dict(height=28, width=28), **halves).save_pretrained(runs.checkpoint(run))
    reached = 0.5 + 0.01 * run.seed + 0.02 * len(run.model)
    metrics = dict(reached=dict(accuracy=reached), seconds=60.0, certificate=CERTIFICATE)
    (runs.folder / run.name / "metrics.json").write_text(json.dumps(metrics))


def test_a_run_is_kept_a_failed_one_named_and_one_of_another_command_refused(tmp_path, monkeypatch):
    ran = []

    def call(command, stdout, **kwargs):
        folder = command[command.index("--output_dir") + 1]
        ran.append(folder.rsplit("/", 1)[1])
        if "swin" in folder:
            return SimpleNamespace(returncode=1)
        (tmp_path / ran[-1]).mkdir()
        (tmp_path / ran[-1] / "metrics.json").write_text("{}")
        return SimpleNamespace(returncode=0)

    monkeypatch.setattr("modeling_vit_custom.inspection.comparing_runs.subprocess.run", call)
    tmp_path = tmp_path / "not/there/yet"
    runs = Runs(tmp_path, ROOT, ["--max_steps", "2"], cuts=True)
    wanted = [Run("deit_distilled", 250, 1), Run("swin", 250, 1), Run("vit", 250, 1, (8,))]
    with pytest.raises(RuntimeError, match="failed: swin-250-1; why"):
        runs.train(wanted, jobs=1)
    assert ran == ["resnet-250-1", "deit_distilled-250-1", "swin-250-1", "vit-d8-250-1"]
    with pytest.raises(RuntimeError, match="swin"):
        runs.train(wanted, jobs=2)
    assert ran[4:] == ["swin-250-1"]
    log = (tmp_path / "deit_distilled-250-1.log").read_text()
    assert "--distillation.teacher" in log
    assert "resnet-250-1/checkpoint" in log
    with pytest.raises(RuntimeError, match="is of another command"):
        Runs(tmp_path, ROOT, ["--max_steps", "3"], cuts=True).train(wanted[:1], jobs=1)


def test_the_script_writes_the_page_and_its_pictures(tmp_path, monkeypatch):
    """On scikit-learn's digits, from runs that ended at once; one part first, then all."""
    small = {"ViT-S": "deit_tiny_patch16_224", "PiT-S": "pit_ti_224"}
    monkeypatch.setattr(comparing_parts, "PRESETS", comparing_parts.PRESETS | small)
    runs = Runs(tmp_path / "runs", ROOT, [], cuts=False)
    study = Study(runs, [0, 1], [1], lambda *_: {}, tmp_path, 0, [], 0)
    for run in {run for part in PARTS for run in study.needed(part)}:
        fake(runs, run)
    words = "--dataset sklearn_digits --sizes 1 --seeds 0 1 --num_images 40 --sides 32 64 --rounds 2".split()
    page = tmp_path / "docs/page.md"
    page.parent.mkdir()
    words += ["--runs", str(runs.folder), "--page", str(page)]
    compare.main([*words, "--only", "depth"])
    assert "Not measured yet: efficiency, cost, robustness, locality." in page.read_text()
    compare.main(words)
    text = page.read_text()
    assert "Not measured yet" not in text
    for part in PARTS:
        assert f"figures/vit_vs_cnn_{part}.png" in text
        assert (page.parent / f"figures/vit_vs_cnn_{part}.png").stat().st_size > 10_000
    table = [line for line in text.split("## Data efficiency")[0].splitlines() if line.startswith("| ")][1:]
    assert len(table) == 16
    assert all("holds" in line or "does not hold here" in line for line in table)
    assert "464,458" in text
    assert "abc" in text
    with pytest.raises(ValueError, match="is always whole"):
        compare.main([*words, "--sizes", "1", "2"])
