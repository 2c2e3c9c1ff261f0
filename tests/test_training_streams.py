"""A stream's laws: each row once in an epoch, order and pixels by the seed alone, and a run that stops and goes on."""

import io
import json

import numpy as np
import pytest
import torch
from accelerate.data_loader import IterableDatasetShard
from datasets import Dataset
from datasets import Features
from datasets import Image as ImageFeature
from datasets import IterableDataset
from datasets import Value
from PIL import Image
from torch.utils.data import DataLoader
from transformers import Trainer
from transformers import TrainingArguments

from modeling_vit_custom import ViTCustomForImageClassification
from modeling_vit_custom.training.augmentation import Augmented
from modeling_vit_custom.training.augmentation import make_transform
from modeling_vit_custom.training.images import CorruptImage
from modeling_vit_custom.training.sources import load_source
from modeling_vit_custom.training.streams import POSITION
from modeling_vit_custom.training.streams import NumberedStream
from modeling_vit_custom.training.streams import SavesPosition
from modeling_vit_custom.training.streams import seek_to
from modeling_vit_custom.training.trainer import ViTCustomTrainer
from tests.support import fill
from tests.support import tiny
from tests.test_training_sources import jpeg
from tests.test_training_sources import noise
from tests.test_training_sources import write_tar

NUM_ROWS = 10
SIZE = (32, 32)
AUGMENTATION = dict(crop="resized", flip=0.5, color_jitter=0.3)


def rows_of(count: int = NUM_ROWS, broken: tuple[int, ...] = ()) -> Dataset:
    images = [{"bytes": b"none" if i in broken else jpeg(i), "path": None} for i in range(count)]
    columns = {"image": images, "label": [i % 5 for i in range(count)]}
    features = Features({"image": ImageFeature(decode=False), "label": Value("int64")})
    return Dataset.from_dict(columns, features=features)


def stream_of(parts: int = 3, count: int = NUM_ROWS, broken: tuple[int, ...] = ()) -> IterableDataset:
    return rows_of(count, broken).to_iterable_dataset(num_shards=parts)


def take(stream, count: int) -> list[dict]:
    return [row for row, _ in zip(stream, range(count), strict=False)]


def indices(rows: list[dict]) -> list[int]:
    return [row["index"] for row in rows]


def transform():
    return make_transform(SIZE, AUGMENTATION, fill=[127.5] * 3)


def collate(rows: list[dict]) -> dict[str, torch.Tensor]:
    pixels = torch.stack([row["image"] for row in rows]).float() / 127.5 - 1
    return {"pixel_values": pixels, "labels": torch.tensor([row["label"] for row in rows])}


@pytest.mark.parametrize("shuffle_buffer", [0, 1, 4, 100])
@pytest.mark.parametrize("parts", [1, 3, 10])
def test_each_row_comes_once_in_an_epoch_and_keeps_its_number(parts, shuffle_buffer):
    plain = take(NumberedStream(stream_of(parts), endless=False), 100)
    names = {row["image"].tobytes(): row["index"] for row in plain}
    assert len(names) == len(set(names.values())) == NUM_ROWS
    if parts == 1:
        assert indices(plain) == list(range(NUM_ROWS))
    rows = take(NumberedStream(stream_of(parts), shuffle_buffer=shuffle_buffer), 3 * NUM_ROWS)
    for epoch in range(3):
        some = rows[epoch * NUM_ROWS : (epoch + 1) * NUM_ROWS]
        assert {row["epoch"] for row in some} == {epoch}
        assert {row["image"].tobytes(): row["index"] for row in some} == names
        assert set(some[0]) == {"index", "copy", "image", "label", "epoch"}


def test_the_order_is_of_seed_and_epoch():
    def order(seed: int, epoch: int) -> list[int]:
        stream = NumberedStream(stream_of(), seed=seed, shuffle_buffer=4, endless=False)
        stream.set_epoch(epoch)
        return indices(list(stream))

    assert order(0, 0) == order(0, 0)
    assert len({tuple(order(seed, epoch)) for seed in range(3) for epoch in range(3)}) == 9
    endless = take(NumberedStream(stream_of(), seed=1, shuffle_buffer=4), 3 * NUM_ROWS)
    assert indices(endless) == [index for epoch in range(3) for index in order(1, epoch)]


def test_pixels_are_those_of_the_rows_read_whole():
    whole = Augmented([{**row, "image": Image.open(row_file(row))} for row in rows_of()], transform(), seed=3)
    stream = take(NumberedStream(stream_of(1), transform(), seed=3, shuffle_buffer=4), 2 * NUM_ROWS)
    for row in stream:
        whole.set_epoch(row["epoch"])
        expected = whole[row["index"]]
        assert torch.equal(row["image"], expected["image"])
        assert (row["label"], row["copy"]) == (expected["label"], expected["copy"])


def row_file(row: dict):
    return io.BytesIO(row["image"]["bytes"])


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_change_no_batch(workers):
    def batches(num_workers: int) -> list[dict]:
        stream = NumberedStream(stream_of(2), transform(), shuffle_buffer=4, block=4)
        loader = DataLoader(stream, batch_size=4, num_workers=num_workers, collate_fn=collate)
        return take(loader, 7)

    for batch, expected in zip(batches(workers), batches(0), strict=True):
        assert torch.equal(batch["pixel_values"], expected["pixel_values"])
        assert torch.equal(batch["labels"], expected["labels"])


def test_more_workers_than_parts_and_rows_than_a_block():
    stream = NumberedStream(stream_of(1), shuffle_buffer=4, endless=False)
    loader = DataLoader(stream, batch_size=None, num_workers=2, collate_fn=lambda row: row["index"])
    assert sorted(loader) == list(range(NUM_ROWS))


def test_processes_are_cut_by_accelerate():
    def of_process(process: int) -> list[int]:
        stream = NumberedStream(stream_of(2), shuffle_buffer=4)
        return indices(take(IterableDatasetShard(stream, batch_size=5, num_processes=2, process_index=process), 10))

    whole = indices(take(NumberedStream(stream_of(2), shuffle_buffer=4), 20))
    assert of_process(0) == whole[:5] + whole[10:15]
    assert of_process(1) == whole[5:10] + whole[15:]


def test_corrupt_images_are_counted_each_pass(capsys):
    stream = NumberedStream(stream_of(2, broken=(1, 6)), shuffle_buffer=3, corrupt="skip")
    rows = take(stream, 2 * (NUM_ROWS - 2) + 1)
    assert sorted(indices(rows[:8])) == sorted(indices(rows[8:16]))
    said = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in said] == [
        f"Pass {i} of the stream left out 2 corrupt images" for i in (0, 1)
    ]
    assert "row 2 of the stream cannot be decoded" in said[0]  # of the first part the second
    with pytest.raises(CorruptImage, match="row 2 of the stream"):
        take(NumberedStream(stream_of(2, broken=(1, 6))), 9)


def test_what_has_no_rows_ends_in_a_sentence():
    with pytest.raises(ValueError, match="has no rows"):
        take(NumberedStream(stream_of().filter(lambda row: False)), 1)
    with pytest.raises(CorruptImage, match="Every image of the stream"):
        take(NumberedStream(stream_of(1, 3, broken=(0, 1, 2)), corrupt="skip"), 1)
    for wrong in (dict(corrupt="ignore"), dict(shuffle_buffer=-1), dict(block=0)):
        with pytest.raises(ValueError, match="choose fail or skip"):
            NumberedStream(stream_of(), **wrong)


# Going on


def layout_streams(tmp_path):
    """Of every reader that datasets has for us."""
    rows = rows_of()
    rows.to_parquet(tmp_path / "train.parquet", batch_size=3)
    for part in range(3):
        some = [{"jpg": row["image"]["bytes"], "cls": b"1"} for row in rows.select(range(part * 3, part * 3 + 3))]
        write_tar(tmp_path / f"train-{part}.tar", some)
    for i, row in enumerate(rows):
        (tmp_path / "folder" / "train" / "ab"[i % 2]).mkdir(parents=True, exist_ok=True)
        (tmp_path / "folder" / "train" / "ab"[i % 2] / f"{i}.jpg").write_bytes(row["image"]["bytes"])
    settings = dict(settings={"class_names": list("01234")}, streaming=True, test_share=0.2)
    yield stream_of()
    yield load_source(str(tmp_path / "train.parquet"), label_column="label", **settings)["train"]
    yield load_source(str(tmp_path / "train-*.tar"), label_column="cls", **settings)["train"]
    yield load_source(str(tmp_path / "folder"), **settings)["train"]


def test_after_a_seek_no_row_is_lost_or_repeated(tmp_path):
    for stream in layout_streams(tmp_path):
        count = len(list(NumberedStream(stream, endless=False)))
        whole = take(NumberedStream(stream), 3 * count)
        for stop in range(1, 2 * count + 1, 3):
            first = NumberedStream(stream)
            take(first, min(stop + 4, 3 * count))  # accelerate has fetched more than was trained on
            second = NumberedStream(stream)
            second.seek(json.loads(json.dumps(first.position(stop))))
            rest = take(second, 3 * count - stop)
            assert [(row["index"], row["epoch"]) for row in rest] == [
                (row["index"], row["epoch"]) for row in whole[stop:]
            ]


def test_a_seek_with_a_buffer_loses_no_more_than_it_says(capsys):
    first = NumberedStream(stream_of(2, 40), shuffle_buffer=6)
    before = take(first, 17)
    second = NumberedStream(stream_of(2, 40), shuffle_buffer=6)
    second.seek(first.position(16))
    assert "up to 6 rows of this pass, which were in the buffer, are left out" in capsys.readouterr().out
    rest = [row for row in take(second, 60) if row["epoch"] == 0]
    seen = indices(before[:16]) + indices(rest)
    assert len(seen) == len(set(seen)) == 34
    assert [row["epoch"] for row in take(second, 3)] == [0, 0, 0]  # once: it begins anew


def test_places_that_are_not_known_are_refused(tmp_path):
    stream = NumberedStream(stream_of(), block=2)
    loader = DataLoader(stream, batch_size=2, num_workers=1, collate_fn=list)
    take(loader, 3)
    with pytest.raises(RuntimeError, match="set `dataloader_num_workers: 0` for a fast seek"):
        stream.position(4)
    take(stream, 6)
    with pytest.raises(ValueError, match="is of a stream with"):
        NumberedStream(stream_of(), seed=1).seek(stream.position(4))
    with pytest.raises(FileNotFoundError, match=f"holds no {POSITION}"):
        seek_to(stream, tmp_path)


def train(
    tmp_path, trainer_class, stream, steps: int, resume: str | None = None, callbacks=(), dropout=0.1, **settings
):
    torch.manual_seed(0)
    args = TrainingArguments(
        output_dir=str(tmp_path),
        max_steps=6,
        save_steps=steps,
        per_device_train_batch_size=4,
        learning_rate=1e-2,
        use_cpu=True,
        report_to="none",
        disable_tqdm=True,
        logging_strategy="no",
        remove_unused_columns=False,
        dataloader_pin_memory=False,
        accelerator_config={"dispatch_batches": False},  # one process would deal out tensors only, not the rows' names
        **settings,
    )
    model = fill(ViTCustomForImageClassification(tiny(hidden_dropout_prob=dropout)))
    trainer = trainer_class(model, args, data_collator=collate, train_dataset=stream, callbacks=list(callbacks))
    trainer.train(resume_from_checkpoint=resume)
    return {name: weight.clone() for name, weight in model.state_dict().items()}


@pytest.mark.parametrize(
    ("trainer_class", "steps", "accumulation"),
    [(Trainer, 4, 1), (ViTCustomTrainer, 2, 1), (ViTCustomTrainer, 4, 1), (ViTCustomTrainer, 3, 2)],
)
def test_a_run_that_is_resumed_is_bit_equal(tmp_path, trainer_class, steps, accumulation):
    """10 rows in batches of 4: a checkpoint is within the first pass, the second or, accumulating, the third."""
    settings = dict(gradient_accumulation_steps=accumulation)

    def stream():
        return NumberedStream(stream_of(), transform(), seed=1, shuffle_buffer=4)

    whole = train(tmp_path, trainer_class, stream(), steps, **settings)
    checkpoint = str(tmp_path / f"checkpoint-{steps}")
    resumed = train(tmp_path, trainer_class, stream(), steps, checkpoint, **settings)
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    start = fill(ViTCustomForImageClassification(tiny())).state_dict()
    assert any(not torch.equal(whole[name], start[name]) for name in whole)


def test_a_run_that_seeks_is_bit_equal_without_a_buffer(tmp_path):
    def stream():
        return NumberedStream(stream_of(), transform(), seed=1, block=4)

    first = stream()
    whole = train(tmp_path, ViTCustomTrainer, first, 3, callbacks=[SavesPosition(first)], dropout=0.0)
    second = stream()
    seek_to(second, tmp_path / "checkpoint-3")
    made = second.make
    read = []
    second.make = lambda row, index, epoch: read.append(index) or made(row, index, epoch)
    settings = dict(dropout=0.0, ignore_data_skip=True)
    resumed = train(tmp_path, ViTCustomTrainer, second, 3, str(tmp_path / "checkpoint-3"), **settings)
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    assert len(read) <= 3 * 4 + 4  # what was given before is not decoded again


def test_the_whole_way_from_tars(tmp_path):
    for part in range(2):
        some = [{"png": png(i), "cls": str(i % 5).encode()} for i in range(part * 10, part * 10 + 10)]
        write_tar(tmp_path / f"train-{part}.tar", some)
    settings = {"class_names": list("abcde")}
    splits = load_source(str(tmp_path), settings=settings, streaming=True, label_column="cls", test_share=0.3)
    training = NumberedStream(splits["train"], transform(), shuffle_buffer=4)
    train(tmp_path, ViTCustomTrainer, training, 6)
    held_out = NumberedStream(splits["test"], make_transform(SIZE, {}, [0] * 3), endless=False)
    rows = list(held_out)
    assert 0 < len(rows) < 20
    assert np.isin([row["label"] for row in rows], range(5)).all()


def png(seed: int) -> bytes:
    file = io.BytesIO()
    Image.fromarray(noise(16, 16, 3, seed=seed)).save(file, "PNG")
    return file.getvalue()
