"""vit-custom predict says what the model says, of whatever pictures, in whatever batches."""

import csv
import io
import json

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from transformers import AutoImageProcessor
from transformers import CLIPImageProcessor
from transformers import DetrImageProcessor
from transformers import SegformerImageProcessor
from transformers import VisionTextDualEncoderProcessor
from transformers import ViTImageProcessor
from transformers import pipeline

from modeling_vit_custom import ViTCustomDualEncoder
from modeling_vit_custom import ViTCustomDualEncoderConfig
from modeling_vit_custom import ViTCustomForImageClassification
from modeling_vit_custom import ViTCustomForObjectDetection
from modeling_vit_custom import ViTCustomForSemanticSegmentation
from modeling_vit_custom import ViTCustomModel
from modeling_vit_custom.inspection import attention_maps
from modeling_vit_custom.inspection import rollout
from modeling_vit_custom.training.images import to_rgb
from modeling_vit_custom.training.tokenizers import word_tokenizer
from scripts import predict
from tests.support import fill
from tests.support import tiny

SIZE = dict(size=dict(height=32, width=32), do_convert_rgb=True)
NAMES = dict(enumerate("alpha beta gamma delta epsilon".split()))
DECODER = dict(decoder_hidden_size=32, decoder_num_hidden_layers=1, decoder_num_attention_heads=4)


def saved(folder, model, processor):
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    model = fill(ViTCustomForImageClassification(tiny(id2label=NAMES)))
    return saved(tmp_path_factory.mktemp("classifier"), model, ViTImageProcessor(**SIZE))


@pytest.fixture
def photos(tmp_path, monkeypatch):
    """Pictures of every mode, and a file that is none; the working directory is above them."""
    levels = np.random.default_rng(0).integers(0, 256, (40, 56, 4), dtype=np.uint8)
    (tmp_path / "more/deep").mkdir(parents=True)
    for mode in ("RGB", "L", "P", "1", "CMYK"):
        image = Image.fromarray(levels[..., :3]).convert(mode)
        image.save(tmp_path / f"more/{mode}.{'jpg' if mode == 'CMYK' else 'png'}")
    Image.fromarray(levels).save(tmp_path / "more/deep/see through.PNG")
    Image.fromarray(levels[..., 0].astype(np.uint16) * 257).save(tmp_path / "more/deep/sixteen bits.tif")
    Image.fromarray(levels[:20, :30, :3]).save(tmp_path / "photo.jpg", quality=95)
    (tmp_path / "broken.jpg").write_bytes(b"no picture")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_classes_are_the_pipelines(classifier, photos):
    found = predict.main([classifier, "photo.jpg", "more/RGB.png", "--top-k", "3"])
    theirs = pipeline("image-classification", classifier)(["photo.jpg", "more/RGB.png"], top_k=3)
    assert [one["file"] for one in found] == ["photo.jpg", "more/RGB.png"]
    for mine, other in zip(found, theirs, strict=True):
        assert [one["label"] for one in mine["answers"]] == [one["label"] for one in other]
        scores = [[one["score"] for one in answers] for answers in (mine["answers"], other)]
        np.testing.assert_allclose(*scores, rtol=1e-5)


def test_no_batch_and_no_neighbour_changes_an_answer(classifier, photos):
    alone = [predict.main([classifier, name])[0] for name in ("photo.jpg", "more/RGB.png", "more/L.png")]
    for size in ("1", "2", "16"):
        together = predict.main([classifier, "photo.jpg", "more/RGB.png", "more/L.png", "--batch_size", size])
        for one, other in zip(alone, together, strict=True):
            assert one["file"] == other["file"]
            for first, second in zip(one["answers"], other["answers"], strict=True):
                assert first["label"] == second["label"]
                assert first["score"] == pytest.approx(second["score"], rel=1e-5)


def test_every_kind_of_picture_is_seen_as_in_training(classifier, photos):
    found = {one["file"]: one["answers"] for one in predict.main([classifier, "more"])}
    assert len(found) == 7
    model = ViTCustomForImageClassification.from_pretrained(classifier).eval()
    process = AutoImageProcessor.from_pretrained(classifier)
    for name, answers in found.items():
        pixels = process(to_rgb(Image.open(photos / name)), return_tensors="pt")
        with torch.no_grad():
            shares = model(**pixels).logits.softmax(-1)[0]
        assert [one["label"] for one in answers] == [NAMES[index] for index in shares.argsort(descending=True).tolist()]
        assert answers[0]["score"] == pytest.approx(shares.max().item(), rel=1e-5)


def test_a_broken_picture_is_named_at_the_end_and_stops_nothing(classifier, photos, capsys):
    found = predict.main([classifier, "broken.jpg", "photo.jpg"])
    assert [one["file"] for one in found] == ["photo.jpg"]
    said = capsys.readouterr().err
    assert "1 of 2 pictures could not be read:\n  broken.jpg cannot be decoded" in said
    with pytest.raises(ValueError, match="No picture could be read"):
        predict.main([classifier, "broken.jpg"])


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["nothere.jpg"], r"No file is called nothere\.jpg: check the path\."),
        (["empty"], r"empty holds no picture: name files, folders or patterns"),
        ([], r"has no examples/: name pictures, folders or patterns"),
        (["more/*.gif"], r"No file is called more/\*\.gif"),
    ],
)
def test_what_is_not_there_is_said_before_anything_is_loaded(words, sentence, classifier, photos, monkeypatch):
    monkeypatch.setattr("modeling_vit_custom.commands.predict.load_checkpoint", None)
    (photos / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=sentence):
        predict.main([classifier, *words])


def test_a_pattern_and_a_folder_name_a_picture_once(classifier, photos):
    found = predict.main([classifier, "photo.jpg", "more/**/*.PNG", "more", "./photo.jpg", "more/deep"])
    names = [one["file"] for one in found]
    assert len(names) == len(set(names)) == 8
    assert names[:2] == ["photo.jpg", "more/deep/see through.PNG"]


def test_table_json_and_csv_say_the_same(classifier, photos, capsys):
    told = {}
    for kind in ("table", "json", "csv"):
        found = predict.main([classifier, "photo.jpg", "--top_k", "2", "--format", kind])
        told[kind] = capsys.readouterr().out
    assert json.loads(told["json"]) == found
    rows = list(csv.DictReader(io.StringIO(told["csv"])))
    assert [(row["file"], row["label"], row["score"]) for row in rows] == [
        ("photo.jpg", one["label"], f"{one['score']:.6f}") for one in found[0]["answers"]
    ]
    words = told["table"].split()
    assert words == ["photo.jpg", *(w for one in found[0]["answers"] for w in (f"{one['score']:.4f}", one["label"]))]


def test_files_are_written_and_two_pictures_of_one_name_both(classifier, photos):
    (photos / "more/photo.png").write_bytes((photos / "more/RGB.png").read_bytes())
    (photos / "photo-2.png").write_bytes((photos / "more/L.png").read_bytes())
    found = predict.main([classifier, "photo.jpg", "more/photo.png", "photo-2.png", "--output", "told"])
    names = {path.name for path in (photos / "told").iterdir()}
    assert names == {"photo.png", "photo-2.png", "photo-2-2.png", "predictions.json", "predictions.csv"}
    assert json.loads((photos / "told/predictions.json").read_text()) == found


def test_several_classes_and_numbers_are_told_as_what_they_are(photos, tmp_path):
    for kind in ("multi_label_classification", "regression"):
        model = fill(ViTCustomForImageClassification(tiny(id2label=NAMES, problem_type=kind)))
        folder = saved(tmp_path / kind, model, ViTImageProcessor(**SIZE))
        (found,) = predict.main([folder, "photo.jpg"])
        pixels = ViTImageProcessor(**SIZE)(to_rgb(Image.open("photo.jpg")), return_tensors="pt")
        logits = model(**pixels).logits[0]
        wanted = dict(zip(NAMES.values(), (logits.sigmoid() if kind[0] == "m" else logits).tolist(), strict=True))
        assert {one["label"]: one["score"] for one in found["answers"]} == pytest.approx(wanted, rel=1e-4)


def test_masks_are_those_of_the_processor_and_cover_the_picture(photos, tmp_path):
    model = fill(ViTCustomForSemanticSegmentation(tiny(id2label=NAMES, **DECODER)))
    process = SegformerImageProcessor(**SIZE)
    (found,) = predict.main([saved(tmp_path / "model", model, process), "photo.jpg", "--output", "told"])
    image = to_rgb(Image.open("photo.jpg"))
    with torch.no_grad():
        outputs = model(pixel_values=process(image, return_tensors="pt")["pixel_values"])
    (wanted,) = process.post_process_semantic_segmentation(outputs, target_sizes=[image.size[::-1]])
    assert sum(one["score"] for one in found["answers"]) == pytest.approx(1)
    covered = np.zeros(wanted.shape, dtype=int)
    for one in found["answers"]:
        mask = np.asarray(Image.open(photos / "told" / one["mask"]))
        assert NAMES[one["index"]] == one["label"]
        np.testing.assert_array_equal(mask == 255, (wanted == one["index"]).numpy())
        covered += mask == 255
    assert (covered == 1).all()


def test_boxes_are_those_of_the_processor_in_pixels_of_the_picture(photos, tmp_path):
    model = fill(ViTCustomForObjectDetection(tiny(id2label=NAMES, num_queries=6, **DECODER)))
    process = DetrImageProcessor(**SIZE, do_pad=False)
    folder = saved(tmp_path / "model", model, process)
    (found,) = predict.main([folder, "photo.jpg", "--threshold", "0.1", "--output", "told"])
    image = to_rgb(Image.open("photo.jpg"))
    with torch.no_grad():
        outputs = model(pixel_values=process(image, return_tensors="pt")["pixel_values"])
    (wanted,) = process.post_process_object_detection(outputs, threshold=0.1, target_sizes=[image.size[::-1]])
    assert found["answers"]
    assert [one["score"] for one in found["answers"]] == sorted(wanted["scores"].tolist(), reverse=True)
    boxes = {tuple(one["box"].values()) for one in found["answers"]}
    assert boxes == {tuple(map(round, box)) for box in wanted["boxes"].tolist()}
    assert (photos / "told/photo.png").is_file()
    assert predict.main([folder, "photo.jpg", "--threshold", "1"]) == [dict(file="photo.jpg", answers=[])]


def test_texts_are_compared_as_by_transformers_pipeline(photos, tmp_path):
    texts = ["a red bird", "a green tree", "two birds"]
    tokenizer = word_tokenizer(texts)
    text = dict(hidden_size=32, num_hidden_layers=1, num_attention_heads=4, intermediate_size=64)
    ids = dict(vocab_size=len(tokenizer), max_position_embeddings=24)
    ids |= {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("pad", "bos", "eos")}
    vision = tiny().to_dict()
    config = ViTCustomDualEncoderConfig(
        projection_dim=16, vision_config=vision, text_config=dict(model_type="clip_text_model", **text, **ids)
    )
    model = fill(ViTCustomDualEncoder(config))
    processor = VisionTextDualEncoderProcessor(CLIPImageProcessor(**SIZE, do_center_crop=False), tokenizer)
    folder = saved(tmp_path / "model", model, processor)
    (found,) = predict.main([folder, "photo.jpg", "--labels", *texts])
    theirs = pipeline("zero-shot-image-classification", folder)(
        "photo.jpg", candidate_labels=texts, hypothesis_template="{}"
    )
    wanted = {one["label"]: one["score"] for one in theirs}
    assert {one["label"]: one["score"] for one in found["answers"]} == pytest.approx(wanted, rel=1e-4)
    with pytest.raises(ValueError, match="give them by --labels"):
        predict.main([folder, "photo.jpg"])


def test_a_model_without_an_answer_says_so(photos, tmp_path):
    folder = saved(tmp_path / "model", ViTCustomModel(tiny()), ViTImageProcessor(**SIZE))
    with pytest.raises(ValueError, match="which gives no answer of a picture: fine-tune it first"):
        predict.main([folder, "photo.jpg"])


def test_where_it_looked_is_written_as_picture_and_tensors(classifier, photos):
    predict.main([classifier, "photo.jpg", "--attention", "--output", "told"])
    with Image.open(photos / "told/photo.attention.png") as drawn:
        assert len(drawn.convert("RGB").getcolors(10**6)) > 100
    found = load_file(photos / "told/photo.attention.safetensors")
    model = ViTCustomForImageClassification.from_pretrained(classifier)
    pixels = AutoImageProcessor.from_pretrained(classifier)(Image.open(photos / "photo.jpg"), return_tensors="pt")
    torch.testing.assert_close(found.pop("rollout"), rollout(model, pixels["pixel_values"])[0])
    for number, layer in enumerate(attention_maps(model, pixels["pixel_values"])):
        torch.testing.assert_close(found.pop(f"layer_{number}"), layer[0])
    assert not found
