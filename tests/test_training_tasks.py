"""Every task from recipe to a folder for the Hub, on eight real pictures; and metrics against their definitions."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from datasets import ClassLabel
from datasets import Dataset
from datasets import DatasetDict
from datasets import Features
from datasets import Image
from datasets import List
from datasets import Value
from huggingface_hub import ModelCard
from PIL import Image as PILImage
from transformers import AutoProcessor

import modeling_vit_custom
from modeling_vit_custom import ViTCustomConfig
from modeling_vit_custom.commands import train as verb
from modeling_vit_custom.modeling_pixels import patchify
from modeling_vit_custom.training import TASKS
from modeling_vit_custom.training import data
from modeling_vit_custom.training import metrics
from modeling_vit_custom.training import read_recipe
from modeling_vit_custom.training import run
from modeling_vit_custom.training import save_examples
from modeling_vit_custom.training import starting
from modeling_vit_custom.training.tokenizers import word_tokenizer
from scripts import train
from tests import matrix
from tests.support import ROOT
from tests.support import picture
from tests.support import tiny

FEATURES = Features(
    {
        "image_id": Value("int64"),
        "image": Image(),
        "width": Value("int32"),
        "height": Value("int32"),
        "label": ClassLabel(names=matrix.NAMES),
        "mask": Image(),
        "caption": Value("string"),
        "objects": {
            "bbox": List(List(Value("float32"), length=4)),
            "category": List(ClassLabel(names=matrix.NAMES)),
        },
    }
)


def eight_pictures(seed: int = 0, data_dir: Path = Path(), copies: int = 1) -> DatasetDict:
    """The matrix's pictures as a data set's rows; the same ones to train and to test."""
    shown = matrix.pictures(32, 32)
    rows = []
    for index in range(matrix.NUM_PICTURES):
        pixels = ((shown.pixel_values[index].permute(1, 2, 0).numpy() + 1) * 127.5).round().astype(np.uint8)
        centres = shown.objects[index]["boxes"] * 32
        boxes = torch.cat((centres[:, :2] - centres[:, 2:] / 2, centres[:, 2:]), dim=1)
        rows.append(
            {
                "image_id": index,
                "image": PILImage.fromarray(pixels),
                "width": 32,
                "height": 32,
                "label": int(shown.digits[index]),
                "mask": PILImage.fromarray(shown.masks[index].numpy().astype(np.uint8)),
                "caption": shown.captions[index],
                "objects": {"bbox": boxes.tolist(), "category": shown.objects[index]["class_labels"].tolist()},
            }
        )
    split = Dataset.from_list(rows * copies, features=FEATURES)
    return DatasetDict(train=split, test=split)


TINY = dict(image_size=32, patch_size=8, hidden_sizes=[32], depths=[1], num_attention_heads=[4])
DECODER = dict(decoder_hidden_size=32, decoder_num_hidden_layers=1, decoder_num_attention_heads=4)
TEXT = dict(hidden_size=32, num_hidden_layers=1, num_attention_heads=4, intermediate_size=64)
CONFIGS = {
    "image-classification": TINY,
    "masked-image-modeling": TINY,
    "pre-training": TINY | DECODER,
    "image-segmentation": TINY | DECODER,
    "object-detection": TINY | DECODER | dict(num_queries=4),
    "zero-shot-image-classification": dict(
        projection_dim=16,
        vision_config=TINY,
        text_config=TEXT | dict(max_position_embeddings=24, pad_token_id=0, bos_token_id=2, eos_token_id=3),
    ),
}
SETTINGS = {"masked-image-modeling": dict(mask_patch_size=8)}


@pytest.fixture(scope="module")
def recipes(tmp_path_factory):
    """{task: path}, with the eight pictures among the data sets."""
    work = tmp_path_factory.mktemp("tasks")
    for task in TASKS:
        settings = dict(
            task=task,
            dataset="eight_pictures",
            num_examples=3,
            config_overrides=CONFIGS[task],
            collator_settings=SETTINGS.get(task, {}),
            output_dir=str(work / task),
            num_train_epochs=1,
            per_device_train_batch_size=4,
            per_device_eval_batch_size=3,
            learning_rate=1e-3,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            dataloader_pin_memory=False,
            remove_unused_columns=False,
        )
        (work / f"{task}.yaml").write_text(yaml.safe_dump(settings))
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(data.DATASETS, "eight_pictures", eight_pictures)
        yield {task: work / f"{task}.yaml" for task in TASKS}


@pytest.mark.parametrize("task", TASKS)
def test_a_task_goes_from_its_recipe_to_a_folder_for_the_hub(task, recipes, monkeypatch):
    def draw_afterwards(folder, trained, count):
        trained.model.to("meta")  # as far away as a GPU: what is drawn comes from what was saved
        save_examples(folder, trained, count)

    monkeypatch.setattr(verb, "save_examples", draw_afterwards)
    folder = train.main([str(recipes[task]), "--seed", "1", "--overwrite"])
    figures = json.loads((folder / "metrics.json").read_text())
    assert figures["seed"] == 1
    assert figures["metric"] in figures["reached"].keys() & figures["baseline"].keys()
    card = ModelCard.load(folder / "checkpoint/README.md")
    assert f"{figures['reached'][figures['metric']]:.4f}" in card.content
    assert card.data.pipeline_tag == (
        "image-feature-extraction" if task in ("masked-image-modeling", "pre-training") else task
    )
    assert "{{" not in card.content
    kind = type(TASKS[task]).model_class
    loaded = getattr(modeling_vit_custom, kind.__name__).from_pretrained(folder / "checkpoint")
    processor = AutoProcessor.from_pretrained(folder / "checkpoint")
    assert type(processor).__name__.startswith(
        type(TASKS[task].processor(loaded.config, eight_pictures(), {})).__name__
    )
    assert len(list((folder / "examples").glob("*.png"))) == 3
    drawn = folder / "predictions.png"
    assert drawn.is_file() == (task != "image-classification")
    if drawn.is_file():
        with PILImage.open(drawn) as shown:
            assert shown.height >= 3 * 32


def test_an_encoder_is_kept_when_another_task_begins_from_it(recipes):
    folder = Path(yaml.safe_load(recipes["pre-training"].read_text())["output_dir"])
    if not folder.is_dir():
        train.main([str(recipes["pre-training"])])
    recipe = read_recipe(recipes["image-classification"])
    recipe.model.init_from = str(folder / "checkpoint")
    before = modeling_vit_custom.ViTCustomModel.from_pretrained(folder / "checkpoint").state_dict()
    task = TASKS["image-classification"]
    model = starting.begin(starting.read_start(recipe, task), task, eight_pictures(), False)
    for name, tensor in model.vit.state_dict().items():
        assert torch.equal(tensor, before[name])
    assert model.config.id2label[3] == "three"


def test_a_dual_encoder_goes_on_with_its_own_tokenizer_and_pictures(recipes, tmp_path):
    recipe, name = recipes["zero-shot-image-classification"], "zero-shot-image-classification"
    first = train.main(
        [str(recipe), "--output_dir", str(tmp_path / "first"), "--processor_overrides.image_mean", "[0.1, 0.2, 0.3]"]
    )
    told = first / "checkpoint/tokenizer_config.json"
    told.write_text(json.dumps(json.loads(told.read_text()) | {"model_max_length": 20}))
    begun = starting.read_start(
        read_recipe(recipe, ["--init_from", str(first), "--config_overrides.projection_dim", "16"]), TASKS[name]
    )
    assert begun.processor.tokenizer.model_max_length == 20
    assert tuple(begun.processor.image_processor.image_mean) == (0.1, 0.2, 0.3)
    model = starting.begin(begun, TASKS[name], eight_pictures(), False)
    before = modeling_vit_custom.ViTCustomDualEncoder.from_pretrained(first / "checkpoint").state_dict()
    for key, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[key])
    again = train.main([str(recipe), "--output_dir", str(tmp_path / "again"), "--init_from", str(first)])
    assert json.loads((again / "checkpoint/tokenizer_config.json").read_text())["model_max_length"] == 20


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(task="segmentation"), "`task: segmentation`: choose one of image-classification"),
        (dict(collator_settings=dict(mask_ratoi=0.5)), "unknown key `mask_ratoi`: this task has none there"),
        (dict(dataset_settings=dict(coppies=2)), "unknown key `coppies`: did you mean `copies`"),
    ],
)
def test_a_mistake_in_a_recipe_gets_a_sentence(changes, message, recipes, tmp_path):
    settings = yaml.safe_load(recipes["image-classification"].read_text())
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(settings | changes))
    with pytest.raises(ValueError, match=message):
        run.train(read_recipe(tmp_path / "recipe.yaml"))


@pytest.mark.parametrize("path", sorted((ROOT / "configs/recipes").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_recipe_reads_and_its_header_says_how_to_run_it(path):
    recipe = read_recipe(path)
    assert recipe.data.dataset in data.DATASETS
    header = [line for line in path.read_text().splitlines() if line.startswith("#")]
    assert any("command:" in line for line in header)
    assert any("result:" in line for line in header)


# -- metrics ----------------------------------------------------------------------------------------------------------


def test_mean_iou_is_its_definition_and_ignores_what_is_ignored():
    config = ViTCustomConfig(id2label={0: "a", 1: "b", 2: "c"})
    truth = torch.randint(0, 3, (4, 6, 5), generator=torch.Generator().manual_seed(0))
    found = torch.randint(0, 3, (4, 6, 5), generator=torch.Generator().manual_seed(1))
    truth[0, 0], found[0, 0] = 255, 1
    counted = truth != 255
    expected = [
        ((truth == c) & (found == c) & counted).sum() / (((truth == c) | (found == c)) & counted).sum()
        for c in range(3)
    ]
    measured = metrics.mean_iou(found.numpy(), truth.numpy(), config)
    assert measured["mean_iou"] == pytest.approx(float(sum(expected) / 3))
    assert measured["iou_b"] == pytest.approx(float(expected[1]))
    perfect = torch.where(counted, truth, 2)
    assert metrics.mean_iou(perfect, truth, config)["mean_iou"] == 1


def test_true_boxes_have_an_average_precision_of_one_and_the_constant_ones_less():
    rows = eight_pictures()["test"]
    label = dict(boxes=matrix.pictures(32, 32).objects[5]["boxes"], class_labels=torch.tensor([5, 0]))
    truth = metrics.in_pixels(label, (32, 32))
    corners = metrics.corners_of(rows[5]) * 32
    torch.testing.assert_close(truth["boxes"], corners)
    found = truth | {"scores": torch.tensor([0.9, 0.8])}
    assert metrics.average_precision([found], [truth]) == dict(map=1.0, map_50=1.0, map_75=1.0)
    assert 0 <= metrics.constant_boxes(rows, rows, 10)["map_50"] < 1


def test_partners_are_found_and_ties_are_no_find():
    embeddings = torch.eye(8)
    assert set(metrics.retrieval(embeddings, embeddings).values()) == {1.0}
    moved = metrics.retrieval(embeddings, embeddings.roll(1, 0))
    assert moved["caption_recall_1"] == moved["image_recall_1"] == 0
    assert metrics.retrieval(torch.ones(8, 4), torch.ones(8, 4))["caption_recall_1"] == 0
    assert metrics.chance(20) == dict(
        caption_recall_1=0.05, caption_recall_5=0.25, image_recall_1=0.05, image_recall_5=0.25
    )


def test_the_mean_colour_is_that_of_the_visible_pixels():
    config, pixels, mask = tiny(), picture(2, 3, 32, 32), torch.zeros(2, 16, dtype=torch.bool)
    mask[0, 3], mask[1, 8:] = True, True
    hidden = mask.view(2, 4, 4).repeat_interleave(8, 1).repeat_interleave(8, 2)
    errors = []
    for image, h in zip(pixels, hidden, strict=True):
        errors.append((image[:, h] - image[:, ~h].mean(1, keepdim=True)).abs().mean(0))
    batch = dict(pixel_values=pixels, bool_masked_pos=mask)
    assert metrics.mean_colour_error([batch], config) == pytest.approx(float(torch.cat(errors).mean()), rel=1e-5)


@pytest.mark.parametrize("norm_pix_loss", [True, False])
def test_patches_come_back_as_the_image_they_were_cut_from(norm_pix_loss):
    config, pixels = tiny(norm_pix_loss=norm_pix_loss), picture(2, 3, 37, 40)
    patches = patchify(pixels, (8, 8))
    if norm_pix_loss:
        patches = (patches - patches.mean(-1, keepdim=True)) / (patches.var(-1, keepdim=True) + 1e-6).sqrt()
    torch.testing.assert_close(metrics.unpatchify(patches, pixels, config)[:, :, :32], pixels[:, :, :32])
    flat = metrics.flat_patch_error([{"pixel_values": pixels}], config)
    assert flat == pytest.approx(191 / 192 if norm_pix_loss else float(patches.var(-1, correction=0).mean()), rel=1e-4)


def test_a_word_that_no_caption_had_is_unknown_and_padding_is_masked():
    tokenizer = word_tokenizer(["a red Fox", "a dog"], max_length=6)
    ids = tokenizer(["A fox", "a blue dog!"], padding=True)
    words = [tokenizer.convert_ids_to_tokens(row) for row in ids["input_ids"]]
    assert words == [["[BOS]", "a", "fox", "[EOS]", "[PAD]", "[PAD]"], ["[BOS]", "a", "[UNK]", "dog", "[UNK]", "[EOS]"]]
    assert ids["attention_mask"][0] == [1, 1, 1, 1, 0, 0]


def test_where_there_is_nothing_to_find_a_figure_is_no_number():
    """No division by 0, and no -1 that looks like a figure."""
    nothing = dict(boxes=torch.zeros(0, 4), labels=torch.zeros(0).long())
    found = metrics.average_precision([{**nothing, "scores": torch.zeros(0)}] * 2, [nothing] * 2)
    rows = Dataset.from_list([{"objects": {"bbox": [], "category": []}, "width": 8, "height": 8}] * 2)
    config = tiny()
    visible = dict(pixel_values=picture(1, 3, 32, 32), bool_masked_pos=torch.zeros(1, 16).long())
    figures = [*found.values(), *metrics.constant_boxes(rows, rows, 3).values(), *metrics.chance(0).values()]
    figures += [metrics.mean_colour_error(batches, config) for batches in ([], [visible])]
    figures.append(metrics.flat_patch_error([], config))
    assert len(figures) == 13
    assert all(figure != figure for figure in figures)
    hidden = {**visible, "bool_masked_pos": torch.ones(1, 16).long()}
    assert metrics.mean_colour_error([hidden], config) > 0
