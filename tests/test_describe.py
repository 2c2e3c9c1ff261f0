"""scripts/describe.py prints what the cost model says, refuses what it cannot read, and finds what fits."""

import json
import re

import pytest
import transformers
from PIL import Image

from modeling_vit_custom import ViTCustomConfig
from modeling_vit_custom.inspection import Run
from modeling_vit_custom.inspection import cost
from modeling_vit_custom.inspection import memory
from modeling_vit_custom.inspection import total
from scripts import describe
from tests.support import ROOT

MODELS = ROOT / "configs/models"
GOLDEN = json.loads((ROOT / "tests/golden/presets.json").read_text())
GIB = 2**30


@pytest.mark.parametrize("name", ["vit_giant_patch14_dinov2", "swin_tiny_patch4_window7_224", "pit_ti_distilled_224"])
def test_the_table_adds_up_to_the_golden_counts(name, capsys):
    describe.main([str(MODELS / f"{name}.json"), "--batch", "4"])
    lines = [re.split(r"\s{2,}", line) for line in capsys.readouterr().out.splitlines()]
    (whole,) = (line for line in lines if line[0] == "total")
    parts = [line for line in lines if line[0].endswith(",") or re.match(r"embeddings, ", line[0])]
    assert whole[1] == f"{GOLDEN[name]['parameters']:,}"
    assert whole[2] == f"{4 * GOLDEN[name]['macs'] / 1e9:.4f}"
    assert sum(int(part[-4].replace(",", "")) for part in parts) == GOLDEN[name]["parameters"]
    assert sum(float(part[-2].rstrip("%")) for part in parts) == pytest.approx(100, abs=0.05 * len(parts))


def printed(text: str, pattern: str) -> list[int]:
    found = re.search(pattern, text)
    assert found, text
    return [int(number) for number in found.groups()]


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("name", ["deit_tiny_distilled_patch16_224", "swin_tiny_patch4_window7_224", "pit_ti_224"])
def test_the_largest_batch_and_image_fit_and_the_next_do_not(name, training, capsys):
    path = MODELS / f"{name}.json"
    flags = ["--training"] * training
    describe.main([str(path), "--image-size", "200", "312", "--batch", "2", "--memory", "2GiB", *flags])
    out = capsys.readouterr().out
    config = ViTCustomConfig.from_pretrained(path)

    def needed(size, batch_size: int) -> int:
        return sum(memory(config, size, Run(batch_size), training).values())

    (batch,) = printed(out, r"at 200 x 312 pixels: a batch of (\d+)")
    assert needed((200, 312), batch) <= 2 * GIB < needed((200, 312), batch + 1)
    side, same = printed(out, r"at batch 2: images of (\d+) x (\d+) pixels")
    assert side == same
    assert needed(side, 2) <= 2 * GIB < needed(side + (config.patch_stride or config.patch_size), 2)


def test_what_does_not_fit_at_all_is_said(capsys):
    describe.main([str(MODELS / "vit_7b_patch16_dinov3.json"), "--memory", "1GB"])
    out = capsys.readouterr().out
    assert "a batch of 0" in out
    assert "at batch 1: no image" in out


def test_the_memory_is_that_of_the_run_that_was_asked_for(capsys):
    path = str(MODELS / "vit_tiny_patch16_224.json")
    config, seen = ViTCustomConfig.from_pretrained(path), set()
    for flags in ([], ["--dtype", "bfloat16"], ["--attention", "eager"], ["--checkpointing"]):
        describe.main([path, "--training", "--batch", "2", *flags])
        seen.add(re.search(r"^memory +([\d,.]+) MiB$", capsys.readouterr().out, flags=re.MULTILINE)[1])
    assert len(seen) == 4
    assert f"{(16 * total(cost(config)).parameters + total(cost(config, None, Run(2))).kept) / 2**20:,.1f}" in seen


@pytest.mark.parametrize("suffix", ["png", "svg"])
def test_the_picture_is_drawn_and_drawn_alike(suffix, tmp_path, capsys):
    first, second = tmp_path / f"first.{suffix}", tmp_path / f"second.{suffix}"
    for picture in (first, second):
        models = [str(MODELS / f"{name}.json") for name in ("vit_base_patch16_224", "swin_base_patch4_window7_224")]
        describe.main([models[0], "--against", models[1], "--plot", str(picture)])
        assert f"The picture: {picture}" in capsys.readouterr().out
    assert first.read_bytes() == second.read_bytes()
    if suffix == "png":
        with Image.open(first) as picture:
            assert picture.size == (1500, 660)


def test_a_checkpoints_folder_is_read_as_its_config(tmp_path, capsys):
    ViTCustomConfig(
        image_size=32, patch_size=8, hidden_sizes=[32], depths=[2], num_attention_heads=[4]
    ).save_pretrained(tmp_path)
    describe.main([str(tmp_path)])
    assert "32 x 32 pixels, batch 1, float32" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        (["{path}", "--memory", "16"], "'16' is no size of a memory: write a number and a unit, as in 16GiB."),
        (["{path}", "--image-size", "10", "300"], "smaller than one patch of 16 x 16: give a larger `image_size`."),
        (["{path}", "--batch", "0"], "`--batch` 0 holds no image: make it at least 1."),
        (["{folder}/none.json"], "none.json: give a preset, a JSON file, a folder or a Hub id."),
        (
            ["{path}", "--against", "{folder}", "--plot", "{folder}/a.png"],
            "`modeling_vit_custom.conversion.convert(source, output)`, and load OUTPUT.",
        ),
    ],
    ids=["memory", "image", "batch", "nothing", "other"],
)
def test_bad_input_is_one_sentence_that_names_the_fix(argv, sentence, tmp_path, capsys):
    transformers.ViTConfig().save_pretrained(tmp_path)
    places = {"path": MODELS / "vit_tiny_patch16_224.json", "folder": tmp_path}
    with pytest.raises((SystemExit, ValueError)) as caught:
        describe.main([text.format(**places) for text in argv])
    assert f"{caught.value}\n{capsys.readouterr().err}".strip().endswith(sentence)
