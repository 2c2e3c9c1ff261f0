"""Boxes: COCO in, relative centre boxes inside, pixels out; the way to a batch and back, and through the pipeline."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import transformers
from PIL import Image

from modeling_vit_custom import ViTCustomForObjectDetection
from modeling_vit_custom.training.detection_data import DetectionCollator
from tests.forking import stranger
from tests.support import VARIANTS
from tests.support import fill
from tests.support import tiny

SIZES = [(61, 97), (97, 61), (33, 160), (128, 128)]  # (width, height)
BOXES = [
    [[0, 0, 61, 97], [10.5, 3.25, 20, 50]],
    [[96, 60, 1, 1], [1, 2, 3, 4], [40, 20, 57, 41]],
    [],
    [[127.5, 0, 0.5, 128]],
]
SHAPES = {"squashed": {"height": 64, "width": 48}, "kept": {"shortest_edge": 32, "longest_edge": 80}}


def rows() -> list[dict]:
    """Four pictures of odd sizes, one of them without objects."""
    made = []
    for index, (size, boxes) in enumerate(zip(SIZES, BOXES, strict=True)):
        noise = np.random.default_rng(index).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
        objects = dict(bbox=boxes, category=[n % 3 for n in range(len(boxes))])
        made.append({"image_id": 100 + index, "image": Image.fromarray(noise), "objects": objects})
    return made


def collator(size: dict[str, int]) -> DetectionCollator:
    return DetectionCollator(transformers.DetrImageProcessor(size=size), num_labels=3)


def found(labels: list[dict]) -> SimpleNamespace:
    """What a model would say that finds each object, surely, by its first queries."""
    logits, boxes = torch.full((len(labels), 5, 4), -30.0), torch.full((len(labels), 5, 4), 0.5)
    logits[:, :, 3] = 0
    for index, target in enumerate(labels):
        for query, (category, box) in enumerate(zip(target["class_labels"], target["boxes"], strict=True)):
            logits[index, query, category], boxes[index, query] = 30, box
    return SimpleNamespace(logits=logits, pred_boxes=boxes)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("together", [True, False], ids=("in one batch", "alone"))
def test_a_box_goes_in_and_comes_out_where_it_was(shape, together):
    collate = collator(SHAPES[shape])
    batches = [collate(rows())] if together else [collate([row]) for row in rows()]
    assert ("pixel_mask" in batches[0]) == (together and shape == "kept")
    labels = [target for batch in batches for target in batch["labels"]]
    for target, (width, height), boxes in zip(labels, SIZES, BOXES, strict=True):
        expected = [[(x + w / 2) / width, (y + h / 2) / height, w / width, h / height] for x, y, w, h in boxes]
        torch.testing.assert_close(target["boxes"], torch.tensor(expected).reshape(-1, 4))
    assert [int(target["image_id"]) for target in labels] == [100, 101, 102, 103]
    sizes = torch.stack([target["orig_size"] for target in labels])
    for answers in (
        collate.image_processor.post_process_object_detection(found(labels), target_sizes=sizes),
        collate.image_processor.post_process_object_detection(found(labels), target_sizes=[s[::-1] for s in SIZES]),
    ):
        for answer, boxes in zip(answers, BOXES, strict=True):
            corners = torch.tensor([[x, y, x + w, y + h] for x, y, w, h in boxes], dtype=torch.float32)
            torch.testing.assert_close(answer["boxes"], corners.reshape(-1, 4), atol=1e-3, rtol=0)
            assert answer["labels"].tolist() == [n % 3 for n in range(len(boxes))]


def test_an_image_in_a_padded_batch_is_the_image_alone():
    collate = collator(SHAPES["kept"])
    batch = collate(rows())
    for index, row in enumerate(rows()):
        alone = collate([row])["pixel_values"][0]
        _, height, width = alone.shape
        assert torch.equal(batch["pixel_values"][index, :, :height, :width], alone)
        assert batch["pixel_mask"][index].sum() == batch["pixel_mask"][index, :height, :width].sum() == height * width
    assert {tuple(mask.sum(dim=dim).max().item() for dim in (0, 1)) for mask in batch["pixel_mask"]} == {
        (50, 32),
        (32, 50),
        (80, 16),
        (32, 32),
    }


def test_a_batch_trains_a_model_that_says_the_same_of_an_image_alone():
    model = fill(ViTCustomForObjectDetection(tiny(num_labels=3, num_queries=6, decoder_num_hidden_layers=1)))
    collate = collator(SHAPES["kept"])
    together = model(**collate(rows()))
    assert together.loss.isfinite()
    for index, row in enumerate(rows()):
        torch.testing.assert_close(together.pred_boxes[index], model(**collate([row])).pred_boxes[0])


def test_boxes_that_a_processor_made_relative_to_its_padding_are_refused():
    """transformers' processors do so when they pad a batch, as they do unless they are told not to."""
    processor = transformers.DetrImageProcessor(size=SHAPES["kept"])
    annotations = [
        dict(
            image_id=row["image_id"],
            annotations=[
                dict(bbox=box, category_id=0, area=1, iscrowd=0) for box in (row["objects"]["bbox"] or [[0, 0, 9, 9]])
            ],
        )
        for row in rows()
    ]
    batch = processor([row["image"] for row in rows()], annotations=annotations, return_tensors="pt")
    model = fill(ViTCustomForObjectDetection(tiny(num_queries=6, decoder_num_hidden_layers=1)))
    sentence = (
        r"Image 0 of the batch \(image_id 100\) has boxes relative to \[80, 50\] pixels.*`do_pad=False`, one at a"
    )
    with pytest.raises(ValueError, match=sentence):
        model(**batch)
    assert model(batch["pixel_values"], batch["pixel_mask"]).logits.shape == (4, 6, 6)


BAD = {
    "corners": (dict(bbox=[[50, 60, 60, 90]], category=[0]), "beyond its 61 x 97 pixels: give"),
    "left of it": (dict(bbox=[[-5, 6, 10, 10]], category=[0]), "beyond its 61 x 97 pixels"),
    "no area": (dict(bbox=[[5, 6, 0, 10]], category=[0]), "no area: leave the object out"),
    "nan": (dict(bbox=[[5, 6, float("nan"), 10]], category=[0]), "no area"),
    "category": (dict(bbox=[[5, 6, 5, 10]], category=[3]), "category 3, but categories are 0 to 2: set `num_labels`"),
}


@pytest.mark.parametrize("name", BAD)
def test_objects_that_cannot_be_meant_are_refused_with_their_row(name):
    """transformers' processor would cut them off or drop them in silence."""
    objects, sentence = BAD[name]
    with pytest.raises(ValueError, match=rf"Row 1 of the batch \(image_id 100\) has .*{sentence}"):
        collator(SHAPES["kept"])([rows()[1], rows()[0] | {"objects": objects}])


def test_pixels_that_are_not_finite_are_refused_with_their_row():
    collate = collator(SHAPES["squashed"])
    collate.image_processor.image_std = [0.0, 1.0, 1.0]
    collate.image_processor.image_mean = [float("nan")] * 3
    with pytest.raises(ValueError, match=r"Row 0 of the batch \(image_id 100\) has pixels that are not finite"):
        collate(rows())


def test_a_folder_is_a_pipeline_in_a_clean_process(tmp_path):
    """Boxes in pixels of pictures of odd sizes, as the model and the processor give them here, padding or not."""
    model = fill(
        ViTCustomForObjectDetection(tiny(**VARIANTS["swin"] | dict(num_queries=6, decoder_num_hidden_layers=1)))
    )
    with torch.no_grad():
        model.bbox_predictor.layers[-1].weight *= 0.2
        model.bbox_predictor.layers[-1].bias.copy_(torch.tensor([0.0, 0.0, -1.5, -1.5]))  # small boxes, in the middle
    for row in rows():
        row["image"].save(tmp_path / f"{row['image_id']}.png")
    for do_pad in (True, False):
        processor = transformers.DetrImageProcessor(size=dict(height=32, width=32), do_pad=do_pad)
        for part in (model, processor):
            part.save_pretrained(tmp_path / str(do_pad))
    program = """
import json, sys
sys.modules["modeling_vit_custom"] = None
from transformers import AutoImageProcessor, pipeline
pictures, said = [f"{number}.png" for number in range(100, 104)], []
for folder in ("./True", "./False"):
    detect = pipeline("object-detection", model=folder, trust_remote_code=True, device="cpu")
    said.append([detect(picture, threshold=0.0) for picture in pictures])
    said.append(detect(pictures, threshold=0.0, batch_size=2))
    assert type(detect.model).__module__.startswith("transformers_modules")
    assert type(AutoImageProcessor.from_pretrained(folder)).__name__.startswith("DetrImageProcessor")
print(json.dumps(said))
"""
    done = stranger().call(program, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    for said in json.loads(done.stdout):
        for answers, row, (width, height) in zip(said, rows(), SIZES, strict=True):
            with torch.no_grad():
                output = model(**processor(row["image"], return_tensors="pt"))
            (expected,) = processor.post_process_object_detection(output, 0.0, target_sizes=[(height, width)])
            assert len(answers) == 6
            for answer, score, box in zip(answers, expected["scores"], expected["boxes"], strict=True):
                assert answer["score"] == pytest.approx(score.item(), abs=1e-5)
                assert list(answer["box"].values()) == pytest.approx(box.tolist(), abs=1.01)
                assert 0 <= answer["box"]["xmin"] < answer["box"]["xmax"] <= width
                assert 0 <= answer["box"]["ymin"] < answer["box"]["ymax"] <= height
