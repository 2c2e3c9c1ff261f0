"""Boxes and masks: one scene, written in every layout by writers of the specifications, is read as the same rows."""

import json
from pathlib import Path

import datasets
import numpy as np
import pytest
import yaml
from PIL import Image
from pycocotools import mask as coco
from sklearn.datasets import load_sample_images

from modeling_vit_custom.training.recipe import read_recipe
from modeling_vit_custom.training.rows import find_layout
from modeling_vit_custom.training.run import train
from modeling_vit_custom.training.sources import load_source
from tests.recipes import write_recipe

DETECTION, SEGMENTATION = "object-detection", "image-segmentation"
WIDTH, HEIGHT = 48, 32
NAMES = ["cat", "dog", "ox"]
STEMS = ["one two", "zwölf", "3", "4", "5", "6"]
# Of each picture: class and whole corners, left, top, right, bottom.
SCENES = [
    [(0, (4, 2, 20, 18)), (2, (30, 10, 40, 30))],
    [(1, (1, 5, 12, 16))],
    [],
    [(2, (8, 8, 24, 24)), (1, (26, 4, 46, 12))],
    [(0, (10, 6, 30, 28))],
    [(1, (4, 4, 16, 12)), (0, (20, 16, 44, 31))],
]
PHOTOGRAPH = load_sample_images().images[0]


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))


def picture(number: int) -> Image.Image:
    top, left = 40 * number, 60 * number
    return Image.fromarray(PHOTOGRAPH[top : top + HEIGHT, left : left + WIDTH])


def true_mask(number: int) -> np.ndarray:
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    for category, (left, top, right, bottom) in SCENES[number]:
        mask[top:bottom, left:right] = category + 1
    return mask


def save(root: Path, place: str, number: int, ending: str = ".PNG") -> str:
    path = root / place / (STEMS[number] + ending)
    path.parent.mkdir(parents=True, exist_ok=True)
    picture(number).save(path)
    return path.name


def polygon(corners) -> list[float]:
    left, top, right, bottom = corners
    return [left, top, right, top, right, bottom, left, bottom]


def as_coco(numbers, outline="polygon", ids=(3, 17, 90)) -> dict:
    images, annotations = [], []
    for number in numbers:
        images.append(dict(id=100 + number, file_name=f"{STEMS[number]}.PNG", width=WIDTH, height=HEIGHT))
        for category, (left, top, right, bottom) in SCENES[number]:
            alone = np.zeros((HEIGHT, WIDTH), np.uint8, order="F")
            alone[top:bottom, left:right] = 1
            runs = coco.encode(alone)
            flat = alone.flatten(order="F")
            starts = np.flatnonzero(np.diff(np.concatenate([[0], flat])))
            starts = [0, *starts.tolist(), len(flat)]
            item = dict(id=len(annotations) + 1, image_id=100 + number, category_id=ids[category], iscrowd=0)
            item["bbox"] = [left, top, right - left, bottom - top]
            item["segmentation"] = {
                "polygon": [polygon((left, top, right, bottom))],
                "compressed": {"size": [HEIGHT, WIDTH], "counts": runs["counts"].decode()},
                "uncompressed": {"size": [HEIGHT, WIDTH], "counts": np.diff(starts).tolist()},
            }[outline]
            annotations.append(item)
    categories = [dict(id=ids[place], name=name) for place, name in enumerate(NAMES)][::-1]
    return dict(images=images, annotations=annotations, categories=categories)


SPLITS = {"train": [0, 1, 2, 3], "val": [4, 5]}


def write_coco(root: Path, outline="polygon", change=None):
    for split, numbers in SPLITS.items():
        for number in numbers:
            save(root, f"{split}2017", number)
        content = as_coco(numbers, outline)
        if change and split == "train":
            change(content)
        path = root / "annotations" / f"instances_{split}2017.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(content))


def write_coco_folders(root: Path):
    for split, numbers in SPLITS.items():
        for number in numbers:
            save(root, split, number)
        (root / split / "_annotations.coco.json").write_text(json.dumps(as_coco(numbers)))


def write_voc(root: Path, shift=1, lists=True):
    (root / "Annotations").mkdir(parents=True)
    for number, stem in enumerate(STEMS):
        name = save(root, "JPEGImages", number)
        text = f"<annotation><filename>{name}</filename><size><width>{WIDTH}</width><height>{HEIGHT}</height></size>"
        for category, (left, top, right, bottom) in SCENES[number]:
            corners = dict(xmin=left + 1, ymin=top + 1, xmax=right, ymax=bottom)
            box = "".join(f"<{key}>{value}</{key}>" for key, value in corners.items())
            text += f"<object><name>{NAMES[category]}</name><difficult>0</difficult><bndbox>{box}</bndbox></object>"
        (root / "Annotations" / f"{stem}.xml").write_text(text + "</annotation>", encoding="utf-8")
    place = root / "ImageSets/Main"
    place.mkdir(parents=True)
    for split, numbers in SPLITS.items():
        (place / f"{split}.txt").write_text("\n".join(STEMS[number] for number in numbers), encoding="utf-8")
    (place / "trainval.txt").write_text("\n".join(STEMS), encoding="utf-8")


def write_yolo(root: Path, inner="images/{}", outlines=False):
    for split, numbers in SPLITS.items():
        for number in numbers:
            folder = inner.format(split)
            save(root, folder, number)
            lines = []
            for category, (left, top, right, bottom) in SCENES[number]:
                values = [(left + right) / 2 / WIDTH, (top + bottom) / 2 / HEIGHT]
                values += [(right - left) / WIDTH, (bottom - top) / HEIGHT]
                if outlines:
                    points = np.array(polygon((left, top, right, bottom))).reshape(-1, 2) / [WIDTH, HEIGHT]
                    values = points.flatten().tolist()
                lines.append(" ".join(map(str, [category, *values])))
            label = root / folder.replace("images", "labels") / f"{STEMS[number]}.txt"
            label.parent.mkdir(parents=True, exist_ok=True)
            label.write_text("\n".join(lines))
    paths = {split: inner.format(split) for split in SPLITS}
    (root / "data.yaml").write_text(yaml.safe_dump(dict(names=NAMES, nc=3, **paths)))


def write_metadata(root: Path, key="categories", words=True):
    for split, numbers in SPLITS.items():
        lines = []
        for number in numbers:
            boxes = [[a, b, c - a, d - b] for _, (a, b, c, d) in SCENES[number]]
            classes = [NAMES[category] if words else category for category, _ in SCENES[number]]
            name = save(root, split, number)
            lines.append(json.dumps({"file_name": name, "objects": {"bbox": boxes, key: classes}}))
        (root / split / "metadata.jsonl").write_text("\n".join(lines), encoding="utf-8")


PALETTE = [0, 0, 0, 128, 0, 0, 0, 128, 0, 128, 128, 0]


def write_masks(root: Path, kind="P", image="{}/images", mask="{}/masks", suffix="_mask"):
    for split, numbers in SPLITS.items():
        for number in numbers:
            save(root, image.format(split), number)
            values = true_mask(number)
            if kind == "RGB":
                made = Image.fromarray(np.array(PALETTE, np.uint8).reshape(-1, 3)[values])
            elif kind == "grey RGB":
                made = Image.fromarray(values).convert("RGB")
            else:
                made = Image.fromarray(values)
            if kind == "P":
                made.putpalette(PALETTE)
            path = root / mask.format(split) / f"{STEMS[number]}{suffix}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            made.save(path)
    if kind == "RGB":
        rows = [
            f"{name},{r},{g},{b}"
            for name, (r, g, b) in zip(["background", *NAMES], np.reshape(PALETTE, (-1, 3)).tolist(), strict=True)
        ]
        (root / "class_dict.csv").write_text("\n".join(["name,r,g,b", *rows]))
    else:
        (root / "classes.txt").write_text("\n".join(["background", *NAMES]))


BOXES = {
    "coco": write_coco,
    "coco in folders": write_coco_folders,
    "voc": write_voc,
    "yolo": write_yolo,
    "yolo, split first": lambda root: write_yolo(root, "{}/images"),
    "yolo, outlines": lambda root: write_yolo(root, outlines=True),
    "metadata": write_metadata,
    "metadata, one word": lambda root: write_metadata(root, "category"),
}
MASKS = {
    **{
        f"coco {kind}": lambda root, kind=kind: write_coco(root, kind)
        for kind in ("polygon", "compressed", "uncompressed")
    },
    "yolo": lambda root: write_yolo(root, outlines=True),
    "palette": write_masks,
    "grey": lambda root: write_masks(root, "L", "images/{}", "annotations/{}", ""),
    "grey RGB": lambda root: write_masks(root, "grey RGB"),
    "colours": lambda root: write_masks(root, "RGB", suffix="-gt"),
}


def rows_by_pixels(splits, task):
    found = {}
    for split, rows in splits.items():
        for row in rows:
            (number,) = (n for n in range(len(SCENES)) if np.array_equal(row["image"], picture(n)))
            found[number] = (split, row)
    assert len(found) == len(SCENES)
    return [found[number] for number in range(len(SCENES))]


@pytest.mark.parametrize("layout", BOXES)
def test_boxes_of_one_scene_are_equal_in_every_layout(layout, tmp_path, capsys):
    BOXES[layout](tmp_path)
    splits = load_source(str(tmp_path), settings={}, needs_label=False, task=DETECTION)
    assert splits["train"].features["objects"]["category"].feature.names == NAMES
    for number, (split, row) in enumerate(rows_by_pixels(splits, DETECTION)):
        assert split == ("train" if number < 4 else "test")
        assert (row["width"], row["height"]) == (WIDTH, HEIGHT)
        assert row["objects"]["category"] == [category for category, _ in SCENES[number]]
        corners = np.array([box for _, box in SCENES[number]]).reshape(-1, 4)
        boxes = np.array(row["objects"]["bbox"]).reshape(-1, 4)
        np.testing.assert_allclose(boxes[:, :2], corners[:, :2], atol=1e-4)
        np.testing.assert_allclose(boxes[:, 2:], corners[:, 2:] - corners[:, :2], atol=1e-4)
    assert f"`dataset: {tmp_path}`: " in capsys.readouterr().out


@pytest.mark.parametrize("layout", MASKS)
def test_masks_of_one_scene_are_equal_in_every_layout(layout, tmp_path):
    MASKS[layout](tmp_path)
    splits = load_source(str(tmp_path), settings={}, needs_label=False, task=SEGMENTATION)
    assert splits["train"].features["classes"].feature.names == ["background", *NAMES]
    for number, (split, row) in enumerate(rows_by_pixels(splits, SEGMENTATION)):
        assert split == ("train" if number < 4 else "test")
        np.testing.assert_array_equal(np.asarray(row["mask"]), true_mask(number))
        assert row["classes"] == sorted({0, *(category + 1 for category, _ in SCENES[number])})
    splits.with_format(None).save_to_disk(str(tmp_path / "saved"))
    again = load_source(str(tmp_path / "saved"), settings={}, needs_label=False, task=SEGMENTATION)
    assert again["test"].features["classes"] == splits["test"].features["classes"]
    np.testing.assert_array_equal(np.asarray(again["test"][0]["mask"]), np.asarray(splits["test"][0]["mask"]))


def test_masks_of_0_and_255_are_background_and_foreground(tmp_path, capsys):
    for number in range(6):
        save(tmp_path, "images", number)
        (tmp_path / "masks").mkdir(exist_ok=True)
        Image.fromarray((true_mask(number) > 0).astype(np.uint8) * 255).save(tmp_path / f"masks/{STEMS[number]}.png")
    splits = load_source(str(tmp_path), settings={}, needs_label=False, task=SEGMENTATION)
    assert splits["train"].features["classes"].feature.names == ["background", "foreground"]
    assert "masks of 0 and 255 are background and foreground" in capsys.readouterr().out
    for number, (_, row) in enumerate(rows_by_pixels(splits, SEGMENTATION)):
        np.testing.assert_array_equal(np.asarray(row["mask"]), true_mask(number) > 0)


def test_classes_that_cover_every_pixel_have_no_background(tmp_path):
    def cover(content):
        for image in content["images"]:
            whole = [polygon((0, 0, WIDTH, HEIGHT))]
            first = dict(id=1000 + image["id"], image_id=image["id"], category_id=3, segmentation=whole)
            content["annotations"].append(first | dict(bbox=[0, 0, WIDTH, HEIGHT], iscrowd=0))

    for number in range(6):
        save(tmp_path, "images", number)
    content = as_coco(range(6))
    cover(content)
    (tmp_path / "all.json").write_text(json.dumps(content))
    splits = load_source(str(tmp_path), settings={}, needs_label=False, task=SEGMENTATION)
    assert splits["train"].features["classes"].feature.names == NAMES
    for number, (_, row) in enumerate(rows_by_pixels(splits, SEGMENTATION)):
        np.testing.assert_array_equal(np.asarray(row["mask"]), np.maximum(true_mask(number).astype(int) - 1, 0))


def broken(key, **values):
    return lambda content: content[key][0].update(values)


HOSTILE = {
    "a box outside": (broken("annotations", bbox=[40, 2, 16, 16]), "reaches beyond its 48 x 32 pixels"),
    "another size": (broken("images", width=480), "says 480 x 32 pixels of"),
    "an unknown category": (broken("annotations", category_id=4), "is of category 4, which `categories` has not"),
    "an unknown image": (broken("annotations", image_id=9), "is of image 9: it is not there"),
    "no such file": (broken("images", file_name="none.png"), "names 'none.png', no picture there"),
    "one id twice": (broken("annotations", id=2), "has the annotation id 2 twice"),
    "one image twice": (broken("images", id=101), "has the image id 101 twice"),
    "one category twice": (broken("categories", id=3), "has the category id 3 twice"),
    "no numbers": (broken("annotations", bbox=["a", 0, 1, 1]), "give left, top, width, height in pixels"),
}


@pytest.mark.parametrize("fault", HOSTILE)
def test_a_faulty_coco_file_is_one_sentence(fault, tmp_path):
    change, sentence = HOSTILE[fault]
    write_coco(tmp_path, change=change)
    with pytest.raises((ValueError, FileNotFoundError), match=sentence) as error:
        load_source(str(tmp_path), settings={}, needs_label=False, task=DETECTION)
    assert "\n" not in str(error.value)


LINES = {
    "pixels": ("0 24 16 8 8", "numbers outside 0 to 1"),
    "no class": ("7 0.5 0.5 0.1 0.1", "has class 7, but data.yaml has fewer"),
    "words": ("cat 0.5 0.5 0.1 0.1", "is no row of numbers"),
    "a number too many": ("0 0.5 0.5 0.1 0.1 0.3", "has 6 numbers"),
}


@pytest.mark.parametrize("fault", LINES)
def test_a_faulty_line_of_yolo_is_one_sentence(fault, tmp_path):
    line, sentence = LINES[fault]
    write_yolo(tmp_path)
    (tmp_path / "labels/train/3.txt").write_text(line)
    with pytest.raises(ValueError, match=sentence):
        load_source(str(tmp_path), settings={}, needs_label=False, task=DETECTION)


def test_a_mask_of_another_size_or_class_is_one_sentence(tmp_path):
    write_masks(tmp_path)
    place = tmp_path / "train/masks/3_mask.png"
    Image.fromarray(np.full((HEIGHT, WIDTH), 9, np.uint8)).save(place)
    with pytest.raises(ValueError, match=r"has a pixel of class 9, and classes\.txt names 4"):
        load_source(str(tmp_path), settings={}, needs_label=False, task=SEGMENTATION)
    Image.fromarray(np.zeros((HEIGHT, 9), np.uint8)).save(place)
    with pytest.raises(ValueError, match=f"says 9 x {HEIGHT} pixels of .* which has {WIDTH} x {HEIGHT}"):
        load_source(str(tmp_path), settings={}, needs_label=False, task=SEGMENTATION)


def test_an_xml_file_with_entities_is_refused(tmp_path):
    write_voc(tmp_path)
    path = tmp_path / "Annotations/3.xml"
    path.write_text('<!DOCTYPE annotation [<!ENTITY a "b">]>' + path.read_text())
    with pytest.raises(ValueError, match="declares entities"):
        load_source(str(tmp_path), settings={}, needs_label=False, task=DETECTION)


def test_corners_that_count_from_0_are_told_and_taken_so(tmp_path, capsys):
    write_voc(tmp_path)
    path = tmp_path / "Annotations/3.xml"
    box = "<xmin>0</xmin><ymin>0</ymin><xmax>48</xmax><ymax>32</ymax>"
    path.write_text(
        path.read_text().replace("</size>", f"</size><object><name>ox</name><bndbox>{box}</bndbox></object>")
    )
    splits = load_source(str(tmp_path), settings={}, needs_label=False, task=DETECTION)
    assert [0, 0, 48, 32] in [box for row in splits["train"] for box in row["objects"]["bbox"]]
    assert "corners count from 0" in capsys.readouterr().out


def test_nothing_to_learn_from_is_refused_with_the_layouts_that_were_looked_for(tmp_path):
    save(tmp_path, "cat", 0)
    with pytest.raises(ValueError, match=r"looks for COCO's JSON, metadata.jsonl with objects"):
        load_source(str(tmp_path), settings={}, needs_label=False, task=DETECTION)


def write_classes(root: Path):
    for number in range(6):
        save(root, f"{NAMES[number % 2]}/photos", number)


def write_captions(root: Path, more=""):
    root.mkdir(exist_ok=True)
    names = [save(root, ".", number) for number in range(6)]
    lines = [f"{name},a photograph of {name}{more}" for name in names]
    head = "file_name,caption" + (",label" if more else "")
    (root / "metadata.csv").write_text("\n".join([head, *lines]), encoding="utf-8")


FOUND = {
    **{f"boxes, {name}": (write, DETECTION) for name, write in BOXES.items()},
    **{f"masks, {name}": (MASKS[name], SEGMENTATION) for name in ("palette", "grey", "colours")},
    "captions": (write_captions, "zero-shot-image-classification"),
    "class folders": (write_classes, "image-classification"),
}


@pytest.mark.parametrize("layout", FOUND)
def test_the_task_is_found_by_what_lies_there(layout, tmp_path):
    write, task = FOUND[layout]
    write(tmp_path)
    found = find_layout(tmp_path)
    assert found.task == task
    assert f"the task is {task}; `--task` chooses another" in found.sentence(tmp_path)
    if layout in ("boxes, coco", "masks, palette", "masks, grey"):
        assert found.splits == ("train", "val")
    assert find_layout(tmp_path, task) == found


def test_a_table_in_a_file_tells_the_task_by_its_columns(tmp_path):
    for layout, task in (("boxes", DETECTION), ("masks", SEGMENTATION)):
        folder = tmp_path / layout
        {"boxes": write_coco, "masks": write_masks}[layout](folder)
        splits = load_source(str(folder), settings={}, needs_label=False, task=task)
        rows = splits["train"].with_format(None).remove_columns("row_number")
        rows.cast_column("image", datasets.Image()).to_parquet(str(tmp_path / f"{layout}.parquet"))
        assert find_layout(tmp_path / f"{layout}.parquet").task == task
        again = load_source(str(tmp_path / f"{layout}.parquet"), settings={}, needs_label=False, task=task, whole=True)
        assert again["all"].num_rows == len(rows)


def test_two_readings_are_refused_and_name_the_option(tmp_path):
    write_voc(tmp_path / "voc")
    for number, stem in enumerate(STEMS):
        path = tmp_path / f"voc/SegmentationClass/{stem}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(true_mask(number)).save(path)
    write_captions(tmp_path / "table", ",cat")
    for name, first, second in (
        ("voc", DETECTION, SEGMENTATION),
        ("table", "zero-shot-image-classification", "image-classification"),
    ):
        with pytest.raises(ValueError, match=f"--task {first}` or `--task {second}`"):
            find_layout(tmp_path / name)
        assert find_layout(tmp_path / name, first).task == first
        assert find_layout(tmp_path / name, second).task == second
    write_coco(tmp_path / "one")
    write_yolo(tmp_path / "one")
    with pytest.raises(ValueError, match="both for object-detection: keep one"):
        find_layout(tmp_path / "one")


def test_images_and_masks_that_do_not_pair_are_no_classes(tmp_path):
    save(tmp_path, "images", 0)
    save(tmp_path, "masks", 1)
    with pytest.raises(
        ValueError, match=r"has nothing to learn from; it holds .png files. Looked for were COCO's JSON"
    ):
        find_layout(tmp_path)


def test_outlines_of_coco_are_masks_where_the_task_says_so(tmp_path):
    write_coco(tmp_path)
    assert find_layout(tmp_path).task == DETECTION
    assert find_layout(tmp_path, SEGMENTATION).layout == "coco"


SMALL = dict(image_size=32, patch_size=8, hidden_sizes=[16], depths=[1], num_attention_heads=[2])
DECODER = dict(decoder_hidden_size=16, decoder_num_attention_heads=2, decoder_intermediate_size=16)


@pytest.mark.parametrize(("task", "write"), [(DETECTION, write_coco), (SEGMENTATION, write_masks)])
def test_a_recipe_trains_on_a_folder(task, write, tmp_path):
    write(tmp_path / "data")
    config = SMALL | dict(decoder_num_hidden_layers=1) | (DECODER | dict(num_queries=3) if task == DETECTION else {})
    none = dict.fromkeys(("augmentation", "mix", "ema", "layer_decay"))
    few = dict(max_steps=2, per_device_train_batch_size=2, gradient_accumulation_steps=1, eval_steps=2, save_steps=2)
    recipe = write_recipe(
        tmp_path,
        task=task,
        dataset=str(tmp_path / "data"),
        config_overrides=config,
        output_dir=str(tmp_path / "run"),
        remove_unused_columns=False,
        use_cpu=True,
        **few,
        **none,
    )
    trained = train(read_recipe(recipe))
    assert trained.class_names == (NAMES if task == DETECTION else ["background", *NAMES])
    assert trained.metrics.keys() >= trained.baseline.keys()
