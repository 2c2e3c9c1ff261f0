"""What begins from a checkpoint keeps its image processor, and its classes by their names."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from transformers import AutoImageProcessor
from transformers import AutoModelForImageClassification
from transformers import CLIPImageProcessor
from transformers import ConvNextImageProcessor
from transformers import DeiTImageProcessor
from transformers import DetrImageProcessor
from transformers import ViTConfig
from transformers import ViTForImageClassification
from transformers import ViTImageProcessor
from transformers import ViTModel

from modeling_vit_custom import ViTCustomConfig
from modeling_vit_custom import ViTCustomForImageClassification
from modeling_vit_custom import ViTCustomForMaskedImageModeling
from modeling_vit_custom import ViTCustomForObjectDetection
from modeling_vit_custom import ViTCustomForSemanticSegmentation
from modeling_vit_custom.training import TASKS
from modeling_vit_custom.training import read_recipe
from modeling_vit_custom.training import starting
from modeling_vit_custom.training.pipeline import make_pipeline
from modeling_vit_custom.training.task import named
from tests.support import fill
from tests.test_training_tasks import DECODER
from tests.test_training_tasks import TINY

SHORT = dict(num_examples=2, max_steps=1, learning_rate=0.0, use_cpu=True, report_to="none", save_strategy="no")
SHORT |= dict(disable_tqdm=True, dataloader_pin_memory=False, weight_decay=0.0)


def a_recipe(folder, **changes):
    (folder / "data").mkdir(exist_ok=True)  # a recipe names what is there
    settings = SHORT | dict(dataset=str(folder / "data"), output_dir=str(folder / "run")) | changes
    (folder / "recipe.yaml").write_text(yaml.safe_dump(settings))
    return read_recipe(folder / "recipe.yaml")


def checkpoint(folder, names=("cat", "dog"), kind=ViTCustomForImageClassification, processor=None, **fields):
    config = ViTCustomConfig(**TINY | named(list(names)) | fields) if names else ViTCustomConfig(**TINY | fields)
    fill(kind(config)).save_pretrained(folder)
    (processor or ViTImageProcessor(size={"height": 32, "width": 32})).save_pretrained(folder)
    return folder


def of_classes(*names):
    """What a data set says of its classes."""
    category = SimpleNamespace(feature=SimpleNamespace(names=list(names)))
    features = {"label": SimpleNamespace(names=list(names)), "objects": {"category": category}}
    return {"train": SimpleNamespace(features=features)}


def begun(folder, names, task="image-classification", **changes):
    recipe = a_recipe(folder, task=task, **changes)
    start = starting.read_start(recipe, TASKS[task])
    return starting.begin(start, TASKS[task], of_classes(*names), recipe.model.is_foreign).eval(), start


# Image processors

SQUASHED = {"height": 32, "width": 32}
KEPT = {
    "means": ViTImageProcessor(size=SQUASHED, image_mean=[0.1, 0.2, 0.3], image_std=[0.4, 0.5, 0.6]),
    "nearest": ViTImageProcessor(size=SQUASHED, resample=0),
    "cut": DeiTImageProcessor(size={"height": 40, "width": 36}, crop_size=SQUASHED),
    "shape": CLIPImageProcessor(size={"shortest_edge": 35}, crop_size=SQUASHED),
    "share": ConvNextImageProcessor(size={"shortest_edge": 32}, crop_pct=0.875),
    "bytes": ViTImageProcessor(size=SQUASHED, do_rescale=False, image_mean=[120.0] * 3, image_std=[60.0] * 3),
    "plain": ViTImageProcessor(size=SQUASHED, do_normalize=False),
    "wider": ViTImageProcessor(size=SQUASHED, rescale_factor=1 / 127.5, image_mean=[1.0] * 3, image_std=[1.0] * 3),
}


def shipped(processor):
    """What becomes of a checkpoint's processor: all of it stays, and it makes RGB, as training does."""
    return processor.to_dict() | {"do_convert_rgb": True}


@pytest.mark.parametrize("augmentation", [{}, {"flip": 0.0}], ids=["plain", "augmented"])
@pytest.mark.parametrize("name", KEPT)
def test_what_a_model_is_shown_is_what_the_saved_processor_makes(name, augmentation, tmp_path, capsys):
    checkpoint(tmp_path / "first", processor=KEPT[name])
    recipe = a_recipe(tmp_path, init_from=str(tmp_path / "first"), augmentation=augmentation)
    task = TASKS["image-classification"]
    start = starting.read_start(recipe, task)
    start.processor.save_pretrained(tmp_path / "saved")
    rng = np.random.default_rng(0)
    rows = [
        {"image": Image.fromarray(rng.integers(0, 256, (*sides, 3), dtype=np.uint8)), "label": 0}
        for sides in ((50, 70), (32, 32), (20, 90))
    ]
    collate = task.collator(start.processor, start.config, {})
    pipeline = make_pipeline(recipe, task, dict(train=rows, test=rows), start.config, start.processor, collate)
    saved = AutoImageProcessor.from_pretrained(tmp_path / "saved")
    for row, index in zip(rows, range(3), strict=True):
        seen = pipeline.device_steps[-1](pipeline.collate([pipeline.test[index]]))["pixel_values"]
        expected = saved(row["image"], return_tensors="pt")["pixel_values"]
        assert torch.equal(seen, expected)
        trained = pipeline.device_steps[-1](pipeline.collate([pipeline.train[index]]))["pixel_values"]
        assert trained.shape == expected.shape
        assert augmentation or torch.equal(trained, expected)
    assert saved.to_dict() == shipped(KEPT[name])
    assert "is kept, but for" not in capsys.readouterr().out


def test_a_recipe_changes_single_values_and_it_is_told(tmp_path, capsys):
    checkpoint(tmp_path / "first", processor=KEPT["cut"])
    recipe = a_recipe(tmp_path, init_from=str(tmp_path / "first"), processor_overrides={"image_std": [0.2] * 3})
    made = starting.read_start(recipe, TASKS["image-classification"]).processor.to_dict()
    assert made == shipped(KEPT["cut"]) | {"image_std": (0.2, 0.2, 0.2)}
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "is kept" in line]
    assert line.endswith("is kept, but for image_std: [0.5, 0.5, 0.5] -> [0.2, 0.2, 0.2].")


@pytest.mark.parametrize(
    ("name", "side", "size", "crop"),
    [
        ("means", 64, {"height": 64, "width": 64}, None),
        ("cut", 64, {"height": 80, "width": 72}, {"height": 64, "width": 64}),
        ("shape", 16, {"shortest_edge": 18}, {"height": 16, "width": 16}),
        ("shape", [16, 32], {"shortest_edge": 35}, {"height": 16, "width": 32}),
        ("means", [16, 32], {"height": 16, "width": 32}, None),
        ("share", 64, {"shortest_edge": 64}, None),
    ],
    ids=str,
)
def test_another_image_size_is_the_processors_too(name, side, size, crop, tmp_path):
    checkpoint(tmp_path / "first", processor=KEPT[name])
    model, start = begun(tmp_path, "ab", init_from=str(tmp_path / "first"), config_overrides={"image_size": side})
    made = start.processor.to_dict()
    assert (made["size"], made.get("crop_size")) == (size, crop)
    pixels = start.processor(Image.new("RGB", (50, 40)), return_tensors="pt")["pixel_values"]
    assert list(pixels.shape[2:]) == [*np.broadcast_to(model.config.image_size, 2)]
    assert made | {"size": 0, "crop_size": 0} == shipped(KEPT[name]) | {"size": 0, "crop_size": 0}


def test_a_size_of_the_processors_is_the_models_too(tmp_path, capsys):
    checkpoint(tmp_path / "first")
    changes = dict(init_from=str(tmp_path / "first"), processor_overrides={"size": {"height": 64, "width": 48}})
    assert begun(tmp_path, "ab", **changes)[0].config.image_size == [64, 48]
    assert "`image_size` becomes [64, 48]" in capsys.readouterr().out
    with pytest.raises(
        ValueError, match=r"sets `image_size: 16`, and by `processor_overrides` pictures become 64 x 48"
    ):
        begun(tmp_path, "ab", **changes, config_overrides={"image_size": 16})


@pytest.mark.parametrize(
    ("kept", "overrides", "sentence"),
    [
        (
            "cut",
            {"size": {"height": 24, "width": 24}},
            "resizes to .*24.* set `crop_size` in `processor_overrides` too",
        ),
        ("cut", {"crop_sise": 24}, "unknown key `crop_sise`: did you mean `crop_size`"),
    ],
)
def test_what_does_not_fit_the_kept_processor_gets_a_sentence(kept, overrides, sentence, tmp_path):
    checkpoint(tmp_path / "first", processor=KEPT[kept])
    with pytest.raises(ValueError, match=sentence):
        begun(tmp_path, "ab", init_from=str(tmp_path / "first"), processor_overrides=overrides)


@pytest.mark.parametrize("task", ["image-segmentation", "object-detection"])
def test_another_tasks_processor_gives_its_colours(task, tmp_path, capsys):
    checkpoint(tmp_path / "first", processor=KEPT["cut"])
    _, start = begun(tmp_path, "ab", task=task, init_from=str(tmp_path / "first"))
    made = start.processor
    assert type(made).__name__.startswith(TASKS[task].processor_class.__name__)
    assert (made.resample, tuple(made.image_mean), dict(made.size)["height"]) == (3, (0.5, 0.5, 0.5), 32)
    told = capsys.readouterr().out
    assert "image_processor_type: DeiTImageProcessor -> " in told
    assert "do_center_crop: True -> None" in told


def test_a_detectors_own_processor_is_kept_and_gives_a_classifier_its_colours(tmp_path):
    own = DetrImageProcessor(size={"shortest_edge": 32, "longest_edge": 48}, image_mean=[0.3] * 3)
    checkpoint(tmp_path / "first", processor=own)
    kept = begun(tmp_path, "ab", task="object-detection", init_from=str(tmp_path / "first"))[1].processor
    assert kept.to_dict() == shipped(own)
    made = begun(tmp_path, "ab", init_from=str(tmp_path / "first"))[1].processor
    assert {*made(Image.new("RGB", (9, 9)))} == {"pixel_values"}
    assert tuple(made.image_mean) == (0.3, 0.3, 0.3)


def test_without_an_image_processor_it_says_so(tmp_path, capsys):
    checkpoint(tmp_path / "first")
    (tmp_path / "first/preprocessor_config.json").unlink()
    assert begun(tmp_path, "ab", init_from=str(tmp_path / "first"))[1].processor is None
    assert "has no image processor: one with the settings of `task: image-classification` begins" in (
        capsys.readouterr().out
    )


# Classes


@torch.no_grad()
def logits(model, pixels):
    found = model(pixel_values=pixels)
    return found.logits if hasattr(found, "logits") else found


DISTILLED = dict(prefix_tokens=["cls", "distillation"], distillation_head=True)
HEADS = {
    "linear": (ViTCustomForImageClassification, {}),
    "hidden layer": (ViTCustomForImageClassification, dict(head_hidden_size=24)),
    "distilled": (ViTCustomForImageClassification, DISTILLED),
    "boxes": (ViTCustomForObjectDetection, dict(num_queries=3, **DECODER)),
    "pixels": (ViTCustomForSemanticSegmentation, dict(segmentation_decoder="linear")),
}
PIXELS = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("head", HEADS)
def test_a_class_keeps_its_logits_wherever_it_stands(head, tmp_path):
    kind, fields = HEADS[head]
    old, axis = ("background", "cat", "dog") if head == "pixels" else ("cat", "dog"), 2 if head == "boxes" else 1
    checkpoint(tmp_path / "first", old, kind, **fields)
    task = next(name for name, task in TASKS.items() if task.model_class is kind)
    before = logits(kind.from_pretrained(tmp_path / "first").eval(), PIXELS)
    for names in (("dog", "fox"), ("dog", "cat"), ("dog", "bird", "cat", "fox"), ("cat",)):
        new = ("background", *names) if head == "pixels" else names
        model = begun(tmp_path, names, task, init_from=str(tmp_path / "first"))[0]
        assert [*model.config.id2label.values()] == list(new)
        after = logits(model, PIXELS)
        for name in set(old) & set(new):
            torch.testing.assert_close(after.select(axis, new.index(name)), before.select(axis, old.index(name)))
        if head == "boxes":  # no object
            torch.testing.assert_close(after[..., -1], before[..., -1])
        for name in set(new) - set(old):
            assert not any(torch.equal(after.select(axis, new.index(name)), one) for one in before.unbind(axis))


def test_a_class_vector_of_a_mask_transformer_goes_with_its_name(tmp_path):
    names = ("background", "cat", "dog")
    checkpoint(tmp_path / "first", names, ViTCustomForSemanticSegmentation, **DECODER)
    model = begun(tmp_path, ("dog", "fox"), "image-segmentation", init_from=str(tmp_path / "first"))[0]
    before = ViTCustomForSemanticSegmentation.from_pretrained(tmp_path / "first").mask_decoder
    assert torch.equal(model.mask_decoder.class_embeddings[:, :2], before.class_embeddings[:, [0, 2]])
    assert torch.equal(model.mask_decoder.mask_norm.weight[:2], before.mask_norm.weight[[0, 2]])
    assert not torch.equal(model.mask_decoder.class_embeddings[:, 2], before.class_embeddings[:, 1])


@pytest.mark.parametrize(
    ("old", "new", "line"),
    [
        (("cat", "dog"), ("dog", "fox"), "first dog keep their rows; new: fox; left out: cat."),
        (("cat", "dog"), ("dog", "cat"), "has the data's classes in another order: each keeps its row."),
        (("cat", "dog"), ("ant", "bee", "fly"), "first none keep their rows; new: ant, bee, fly; left out: cat, dog."),
        (("LABEL_0", "LABEL_1"), ("ant", "bee"), "has no names for its 2 classes, and the data have as many"),
        (("LABEL_0", "LABEL_1"), ("ant",), "has no names for its 2 classes, and the data have 1: all rows are new."),
        (("cat", "dog"), ("cat", "dog"), None),
    ],
    ids=str,
)
def test_what_becomes_of_the_classes_is_told_in_a_line(old, new, line, tmp_path, capsys):
    checkpoint(tmp_path / "first", old)
    model = begun(tmp_path, new, init_from=str(tmp_path / "first"))[0]
    told = capsys.readouterr().out
    assert told == "" if line is None else line in told and told.count("\n") == 1
    if len(old) == len(new) and (line is None or "LABEL_0" in old):
        before = ViTCustomForImageClassification.from_pretrained(tmp_path / "first")
        assert torch.equal(model.classifier.weight, before.classifier.weight)


def test_a_name_of_two_classes_is_matched_in_turn_or_not_at_all():
    assert starting.shared(["crane", "dog", "crane"], ["crane", "crane", "dog"]) == {0: 0, 1: 2, 2: 1}
    assert starting.shared(["crane", "dog", "crane"], ["dog", "crane"]) == {0: 1}


def test_an_encoder_without_a_head_is_told_and_begins_as_before(tmp_path, capsys):
    checkpoint(tmp_path / "first", None, ViTCustomForMaskedImageModeling)
    models = []
    for _ in range(2):
        torch.manual_seed(0)
        models.append(begun(tmp_path, ("a", "b", "c"), init_from=str(tmp_path / "first"))[0])
    assert "has no head for `task: image-classification`: a new one begins" in capsys.readouterr().out
    torch.manual_seed(0)
    plain = ViTCustomForImageClassification.from_pretrained(tmp_path / "first", num_labels=3)
    for model in models:
        assert torch.equal(model.classifier.weight, plain.classifier.weight)


# Models of transformers' own, and names


def foreign(folder, kind=ViTForImageClassification, names=("cat", "dog")):
    config = ViTConfig(image_size=32, patch_size=8, hidden_size=32, num_hidden_layers=1, num_attention_heads=4)
    config.id2label = dict(enumerate(names))
    config.intermediate_size = 64
    fill(kind(config)).save_pretrained(folder)
    KEPT["cut"].save_pretrained(folder)
    return folder


def test_another_kind_of_model_keeps_its_processor_and_its_classes(tmp_path, capsys):
    foreign(tmp_path / "first")
    model, start = begun(tmp_path, ("dog", "fox"), model_type="vit", init_from=str(tmp_path / "first"))
    before = AutoModelForImageClassification.from_pretrained(tmp_path / "first")
    torch.testing.assert_close(logits(model, PIXELS)[:, 0], logits(before, PIXELS)[:, 1])
    assert start.processor.to_dict() == shipped(KEPT["cut"])
    with pytest.raises(RuntimeError, match=r"embeddings\.position_embeddings as .* take the change out"):
        begun(tmp_path, "ab", model_type="vit", init_from=str(tmp_path / "first"), config_overrides={"image_size": 64})
    with pytest.raises(ValueError, match="is a vit, where this recipe begins from a resnet"):
        begun(tmp_path, "ab", model_type="resnet", init_from=str(tmp_path / "first"))
    with pytest.raises(ValueError, match="is a vit, where this recipe begins from a vit_custom"):
        begun(tmp_path, "ab", init_from=str(tmp_path / "first"))
    foreign(tmp_path / "encoder", ViTModel)
    capsys.readouterr()
    begun(tmp_path, "abc", model_type="vit", init_from=str(tmp_path / "encoder"))
    assert "has no head for" in capsys.readouterr().out


def test_the_folder_of_a_run_is_taken_and_others_get_a_sentence(tmp_path):
    checkpoint(tmp_path / "run/checkpoint")
    assert starting.folder_of(str(tmp_path / "run")) == tmp_path / "run/checkpoint"
    checkpoint(tmp_path / "some/checkpoint-3")
    with pytest.raises(FileNotFoundError, match="holds no checkpoint: name one of its sub-folders, checkpoint-3"):
        starting.folder_of(str(tmp_path / "some"))
    for name in (tmp_path, tmp_path / "run/checkpoint/config.json", tmp_path / "not/there/at-all"):
        with pytest.raises(FileNotFoundError, match="holds no checkpoint: run the recipe that makes it first"):
            starting.folder_of(str(name))
    with pytest.raises(FileNotFoundError, match=r"is no folder with a config.json, and could not be fetched"):
        starting.folder_of("runs/missing")


def test_a_name_on_the_hub_is_fetched_at_its_revision(tmp_path, monkeypatch):
    """Safetensors, else pickled weights; no code, and nothing in sub-folders."""
    checkpoint(tmp_path / "first", processor=KEPT["cut"])
    asked: list[dict] = []

    def fetch(repo, **settings):
        asked.append(dict(repo=repo, **settings))
        return str(tmp_path / "first")

    monkeypatch.setattr(starting, "snapshot_download", fetch)
    model, start = begun(tmp_path, ("dog", "cat"), init_from="alice/pets@v1")
    assert start.processor.to_dict() == shipped(KEPT["cut"])
    before = ViTCustomForImageClassification.from_pretrained(tmp_path / "first")
    assert torch.equal(model.classifier.weight, before.classifier.weight[[1, 0]])
    (first,) = asked
    assert (first["repo"], first["revision"], first["ignore_patterns"]) == ("alice/pets", "v1", ["*/*"])
    assert {"*.json", "*.safetensors"} <= {*first["allow_patterns"]}
    assert not {"*.py", "*.bin"} & {*first["allow_patterns"]}
    (tmp_path / "first/model.safetensors").unlink()
    starting.folder_of("alice/pets")
    assert [row["revision"] for row in asked[1:]] == [None, None]
    assert "*.bin" in asked[2]["allow_patterns"]


def test_a_home_is_known_by_its_short_name(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    for place in ("vit", "run/checkpoint"):
        (tmp_path / place).mkdir(parents=True)
        (tmp_path / place / "config.json").write_text("{}")
    assert starting.folder_of("~/vit") == tmp_path / "vit"
    assert starting.folder_of("~/run") == tmp_path / "run/checkpoint"
    with pytest.raises(FileNotFoundError, match="`init_from: ~/none` holds no checkpoint"):
        starting.folder_of("~/none")
