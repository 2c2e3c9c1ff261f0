"""A teacher beside the student: what it is shown, what the loss makes of its answers, and that it never changes."""

import json
import math
import signal
import sys
from pathlib import Path

import pytest
import timm
import torch
from datasets import Dataset
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file
from timm.task import TokenDistillationTask
from torch import nn
from torch.nn import functional
from transformers import ConvNextImageProcessor
from transformers import EfficientNetImageProcessor
from transformers import ResNetConfig
from transformers import ResNetForImageClassification
from transformers import TrainingArguments
from transformers import ViTConfig
from transformers import ViTForImageClassification
from transformers import ViTImageProcessor
from transformers import ViTModel
from transformers.image_utils import PILImageResampling

from modeling_vit_custom import ViTCustomForImageClassification
from modeling_vit_custom.training import distillation
from modeling_vit_custom.training.augmentation import Normalise
from modeling_vit_custom.training.distillation import CachedTeach
from modeling_vit_custom.training.distillation import DistillationLoss
from modeling_vit_custom.training.distillation import Preprocessing
from modeling_vit_custom.training.distillation import Targets
from modeling_vit_custom.training.distillation import Teach
from modeling_vit_custom.training.distillation import Teacher
from modeling_vit_custom.training.distillation import cache_predictions
from modeling_vit_custom.training.distillation import load_teacher
from modeling_vit_custom.training.mixing import MixPixels
from modeling_vit_custom.training.mixing import soft_cross_entropy
from modeling_vit_custom.training.trainer import ViTCustomTrainer
from tests.forking import with_package
from tests.support import VARIANTS
from tests.support import fill
from tests.support import formula
from tests.support import picture
from tests.support import tiny

MEAN, STD = [0.4, 0.5, 0.6], [0.2, 0.3, 0.25]
SIZE = dict(height=24, width=40)
NAMES = dict(enumerate(["ant", "bee", "cat", "dog", "eel"]))
LABELS = dict(id2label=NAMES, label2id={name: index for index, name in NAMES.items()})
# Twelve pictures of the student's size, for two steps of six.
IMAGES = (formula("images", torch.Size((12, 3, 32, 32))) * 60 + 128).clamp(0, 255).to(torch.uint8)
HARD = torch.arange(12) % 5
SOFT = picture(12, 5).double().softmax(dim=1).float()
DISTILLED = VARIANTS["deit"]


def resnet() -> ResNetForImageClassification:
    sizes = dict(embedding_size=8, hidden_sizes=[8, 12], depths=[1, 1], layer_type="basic")
    return fill(ResNetForImageClassification(ResNetConfig(**sizes, **LABELS)))


def vit(num_channels: int = 3) -> ViTForImageClassification:
    sizes = dict(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, patch_size=8)
    return fill(ViTForImageClassification(ViTConfig(image_size=[24, 40], num_channels=num_channels, **sizes, **LABELS)))


def ours() -> ViTCustomForImageClassification:
    return fill(ViTCustomForImageClassification(tiny(image_size=[24, 40], **DISTILLED, **LABELS)))


def processor(**changes) -> ViTImageProcessor:
    return ViTImageProcessor(**dict(size=SIZE, image_mean=MEAN, image_std=STD) | changes)


def saved(folder: Path, model: nn.Module, image_processor=None) -> str:
    model.save_pretrained(folder)
    (image_processor or processor()).save_pretrained(folder)
    return str(folder)


def timm_model(name: str) -> nn.Module:
    return fill(timm.create_model(name, num_classes=5))


def timm_folder(folder: Path, name: str, **changes) -> str:
    timm.models.save_for_hf(
        timm_model(name), folder, safe_serialization=True, model_config=dict(num_classes=5) | changes
    )
    return f"timm:{folder}"


def timm_checkpoint(folder: Path, name: str) -> str:
    save_file(timm_model(name).state_dict(), folder / "weights.safetensors")
    return f"timm:{name}:{folder / 'weights.safetensors'}"


TEACHERS = {
    "ResNet": lambda folder: saved(folder, resnet()),
    "ViT": lambda folder: saved(folder, vit()),
    "ours": lambda folder: saved(folder, ours()),
    "timm ResNet": lambda folder: timm_folder(folder, "test_resnet"),
    "timm ViT": lambda folder: timm_checkpoint(folder, "test_vit"),
}
every_teacher = pytest.mark.parametrize("name", TEACHERS)


@pytest.fixture(scope="module")
def teacher_names(tmp_path_factory):
    return {name: make(tmp_path_factory.mktemp("teacher")) for name, make in TEACHERS.items()}


def teacher(**changes) -> Teacher:
    """A small one with a BatchNorm, that tells the images apart."""
    settings = dict(size=(16, 16), interpolation="bilinear", scale=1 / 255, mean=(0.5,) * 3, std=(0.25,) * 3)
    layers = nn.Sequential(nn.Conv2d(3, 6, 4, 4), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(), nn.Linear(96, 5))
    return Teacher(fill(layers), Preprocessing(**settings | changes), 5)


def student(**changes) -> ViTCustomForImageClassification:
    return fill(ViTCustomForImageClassification(tiny(**changes)))


# What a teacher is shown.


@every_teacher
def test_a_teacher_answers_as_its_own_model_to_its_own_processors_pixels(name, teacher_names):
    loaded = load_teacher(teacher_names[name])
    size = loaded.preprocessing.size
    images = (formula("own", torch.Size((2, 3, *size))) * 60 + 128).clamp(0, 255).to(torch.uint8)
    if "timm" in name:
        model, short = timm_model("test_resnet" if "ResNet" in name else "test_vit"), max(size)
        transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model), is_training=False)
        transform.transforms[0].size = short  # as large as the picture already: without the margin that is cut off
        pixels = torch.stack([transform(as_picture(image)) for image in images])
    else:
        model = {"ResNet": resnet, "ViT": vit, "ours": ours}[name]()
        pixels = processor()([as_picture(image) for image in images], return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(loaded.preprocess(images), pixels, rtol=0, atol=2e-6)
    with torch.no_grad():
        wanted = model.eval()(pixels)
    logits = loaded(images.float())
    torch.testing.assert_close(logits, getattr(wanted, "logits", wanted), rtol=1e-4, atol=1e-4)
    assert logits.shape == (2, 5)
    assert logits.dtype == torch.float32
    assert logits.std() > 0.01


def as_picture(image: torch.Tensor):
    return Image.fromarray(image.permute(1, 2, 0).numpy())


def test_the_whole_picture_is_squashed_to_the_teachers_size():
    """A gradient from left to right stays one, from end to end, at any size."""
    ramp = torch.linspace(0, 255, 64).expand(1, 3, 20, 64)
    made = teacher(mean=(0.0,) * 3, std=(1.0,) * 3).preprocess(ramp)
    assert made.shape == (1, 3, 16, 16)
    torch.testing.assert_close(made[0, 0, 3], (torch.arange(16) * 4 + 1.5) / 63, rtol=0, atol=0.01)


@pytest.mark.parametrize("resample", ["nearest", "bilinear", "bicubic", "lanczos"])
def test_a_teacher_resizes_as_its_processor(resample, tmp_path):
    found = load_teacher(saved(tmp_path, vit(), processor(resample=PILImageResampling[resample.upper()])))
    wanted = processor(resample=PILImageResampling["BICUBIC" if resample == "lanczos" else resample.upper()])
    images = torch.nn.functional.interpolate(IMAGES[:2].float(), (60, 90), mode="bilinear").to(torch.uint8)
    pixels = wanted(list(images), return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(
        found.preprocess(images), pixels, rtol=0, atol=1.1 / 255 / min(STD)
    )  # which rounds between its two passes


def test_a_bicubic_teacher_sees_no_pixel_that_is_none():
    edges = torch.zeros(1, 3, 48, 48)
    edges[..., 24:] = 255
    made = teacher(interpolation="bicubic", mean=(0.0,) * 3, std=(1.0,) * 3, size=(36, 36)).preprocess(edges)
    assert made.min() == 0
    assert made.max() == 1


@pytest.mark.parametrize(
    ("settings", "size"),
    [
        (dict(size={"shortest_edge": 32}), (32, 32)),  # ConvNext's and ResNet's: `crop_pct` of a larger picture
        (dict(size={"shortest_edge": 384}), (384, 384)),
        (dict(do_resize=False), None),
    ],
)
def test_a_processors_size_is_that_of_what_it_makes(settings, size, tmp_path):
    found = load_teacher(saved(tmp_path, resnet(), ConvNextImageProcessor(**settings)))
    assert found.preprocessing.size == size
    assert found.preprocessing.interpolation == "bicubic"


def test_a_grey_teacher_sees_grey_and_a_grey_student_is_shown_in_colour(tmp_path):
    grey = load_teacher(saved(tmp_path, vit(num_channels=1), processor(image_mean=[0.5], image_std=[0.5])))
    images = (formula("own", torch.Size((2, 3, *SIZE.values()))) * 60 + 128).clamp(0, 255).to(torch.uint8)
    wanted = torch.stack([torch.tensor(list(as_picture(image).convert("L").tobytes())) for image in images])
    found = grey.preprocess(images)
    torch.testing.assert_close(found.reshape(2, -1), wanted / 127.5 - 1, rtol=0, atol=1.5 / 127.5)
    assert grey(images).shape == (2, 5)
    one = images[:, :1]
    torch.testing.assert_close(teacher().preprocess(one), teacher().preprocess(one.expand(-1, 3, -1, -1)))
    with pytest.raises(ValueError, match="have 4 channels, the teacher takes 3: choose"):
        teacher().preprocess(torch.zeros(1, 4, 16, 16))


# What is no teacher.


def test_only_teachers_that_are_here_are_loaded(tmp_path):
    for name in ("google/vit-base-patch16-224", "timm:resnet50", f"timm:{tmp_path}"):
        with pytest.raises(FileNotFoundError, match="name a folder"):
            load_teacher(name)
    with pytest.raises(FileNotFoundError, match="name a file"):
        load_teacher(f"timm:test_vit:{tmp_path / 'no.safetensors'}")
    with pytest.raises(ValueError, match="timm has no model 'test_vti'"):
        load_teacher(f"timm:test_vti:{tmp_path / 'no.safetensors'}")
    resnet().save_pretrained(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"no preprocessor_config\.json"):
        load_teacher(str(tmp_path))


def test_a_teacher_that_never_learned_to_classify_is_refused(tmp_path):
    config = vit().config
    with pytest.raises(RuntimeError, match=r"no weights for classifier\.bias, classifier\.weight: choose"):
        load_teacher(saved(tmp_path / "vit", ViTModel(config, add_pooling_layer=False)))
    save_file({"fc.weight": torch.zeros(5, 3)}, tmp_path / "weights.safetensors")
    with pytest.raises(RuntimeError, match="not hold exactly the weights of test_vit"):
        load_teacher(f"timm:test_vit:{tmp_path / 'weights.safetensors'}")


def test_a_processor_that_does_more_is_refused(tmp_path):
    more = EfficientNetImageProcessor(size=SIZE, rescale_offset=True, include_top=True)
    with pytest.raises(ValueError, match="EfficientNetImageProcessor, does more than resize"):
        load_teacher(saved(tmp_path, resnet(), more))


def test_a_size_from_which_many_follow_is_refused(tmp_path):
    folder = Path(saved(tmp_path, resnet()))
    settings = json.loads((folder / "preprocessor_config.json").read_text())
    settings["size"] = {"max_height": 24, "max_width": 40}
    (folder / "preprocessor_config.json").write_text(json.dumps(settings))
    with pytest.raises(ValueError, match="set `height` and `width`"):
        load_teacher(str(folder))


def test_a_processor_for_other_channels_is_refused(tmp_path):
    with pytest.raises(ValueError, match="normalises 3 channels, its model takes 1: correct"):
        load_teacher(saved(tmp_path, vit(num_channels=1)))


def test_without_timm_a_sentence_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(RuntimeError, match="pip install timm"):
        load_teacher("timm:test_vit:weights.safetensors")


def test_the_classes_must_be_the_students(tmp_path):
    named = load_teacher(saved(tmp_path / "named", resnet()))
    named.check_labels(NAMES)
    named.check_labels({str(index): name for index, name in NAMES.items()})
    with pytest.raises(ValueError, match="tells 5 classes apart, the student 2"):
        named.check_labels({0: "ant", 1: "bee"})
    with pytest.raises(ValueError, match="Class 1 is 'bee' to the teacher and 'cow' to the student"):
        named.check_labels(NAMES | {1: "cow"})
    teacher().check_labels(NAMES)  # whose classes have no names
    config = dict(label_names=["ant", "bee", "cat", "dog", "elk"])
    from_timm = load_teacher(timm_folder(tmp_path / "timm", "test_vit", **config))
    with pytest.raises(ValueError, match="Class 4 is 'elk'"):
        from_timm.check_labels(NAMES)


# The loss.


def outputs_of(heads: int, grad: bool = True) -> list[torch.Tensor]:
    return [formula(f"head {head}", torch.Size((12, 5))).mul(6).requires_grad_(grad) for head in range(heads)]


def answer(heads: list[torch.Tensor]) -> dict[str, torch.Tensor]:
    if len(heads) == 1:
        return {"logits": heads[0]}
    return {"logits": sum(heads) / 2, "cls_logits": heads[0], "distillation_logits": heads[1]}


TEACHER_LOGITS = formula("teacher", torch.Size((12, 5))).mul(6)


def by_hand(heads, labels, kind, alpha, temperature) -> torch.Tensor:
    """DeiT's two equations, (2) and (3), an image at a time."""
    total = torch.zeros(())
    for image in range(12):
        truth, taught, says = heads[0][image], heads[-1][image], TEACHER_LOGITS[image]
        target = labels[image] if labels.is_floating_point() else functional.one_hot(labels[image], 5).float()
        total = total - (1 - alpha) * (target * (truth.exp() / truth.exp().sum()).log()).sum()
        if kind == "hard":
            total = total - alpha * (taught.exp()[says.argmax()] / taught.exp().sum()).log()
        else:
            wanted, found = ((x / temperature).exp() / (x / temperature).exp().sum() for x in (says, taught))
            total = total + alpha * temperature**2 * (wanted * (wanted / found).log()).sum()
    return total / 12


@pytest.mark.parametrize("labels", [HARD, SOFT], ids=["hard labels", "soft labels"])
@pytest.mark.parametrize("num_heads", [1, 2])
@pytest.mark.parametrize(("kind", "temperature"), [("hard", 1.0), ("soft", 1.0), ("soft", 3.0)])
def test_the_loss_is_the_papers(kind, temperature, num_heads, labels):
    heads = outputs_of(num_heads)
    loss = DistillationLoss(kind, 0.3, temperature)(answer(heads), Targets(labels, TEACHER_LOGITS))
    wanted = by_hand(heads, labels, kind, 0.3, temperature)
    torch.testing.assert_close(loss, wanted, rtol=1e-5, atol=1e-6)
    for found, expected in zip(torch.autograd.grad(loss, heads), torch.autograd.grad(wanted, heads), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("kind", "temperature"), [("hard", 1.0), ("soft", 3.0)])
def test_the_loss_is_timms_for_distilled_models(kind, temperature):
    heads, images = outputs_of(2), torch.zeros(12, 3, 8, 8)
    cfg = dict(mean=(0.5,) * 3, std=(0.5,) * 3)

    class Student(nn.Module):
        num_classes, in_chans, head_dist, pretrained_cfg = 5, 3, nn.Identity(), cfg

        def set_distilled_training(self, enable=True):
            pass

        def forward(self, images):
            return tuple(heads)

    class Says(nn.Module):
        pretrained_cfg = cfg

        def forward(self, images):
            return TEACHER_LOGITS

    task = TokenDistillationTask(
        Student(),
        Says(),
        nn.CrossEntropyLoss(),
        distill_type=kind,
        task_loss_weight=0.7,
        temperature=temperature,
        verbose=False,
    )
    wanted = task.train()(images, HARD)["loss"]
    loss = DistillationLoss(kind, 0.3, temperature)(answer(heads), Targets(HARD, TEACHER_LOGITS))
    torch.testing.assert_close(loss, wanted)


@pytest.mark.parametrize("labels", [HARD, SOFT], ids=["hard labels", "soft labels"])
def test_plain_labels_have_the_loss_without_a_teacher(labels):
    for num_heads in (1, 2):
        outputs = answer(outputs_of(num_heads, grad=False))
        assert torch.equal(DistillationLoss()(outputs, labels), soft_cross_entropy(outputs, labels))


def test_of_images_without_a_label_nothing_is_learned():
    labels = HARD.where(torch.arange(12) % 3 > 0, -100)
    for kind in ("hard", "soft"):
        heads = outputs_of(2)
        loss = DistillationLoss(kind)(answer(heads), Targets(labels, TEACHER_LOGITS))
        for gradient in torch.autograd.grad(loss, heads):
            assert torch.equal(gradient.abs().sum(1) > 0, labels != -100)
        kept = [head.detach()[labels != -100] for head in heads]
        wanted = DistillationLoss(kind)(answer(kept), Targets(labels[labels != -100], TEACHER_LOGITS[labels != -100]))
        torch.testing.assert_close(loss, wanted)


@pytest.mark.parametrize("settings", [dict(kind="warm"), dict(alpha=1.5), dict(alpha=-0.1), dict(temperature=0.0)])
def test_settings_that_cannot_be_meant_are_refused(settings):
    with pytest.raises(ValueError, match=r"choose|set it"):
        DistillationLoss(**settings)


# In training.


def collate(rows: list[dict]) -> dict[str, torch.Tensor]:
    return {name: torch.stack([row[name] for row in rows]) for name in rows[0]}


def train(model, folder, steps, loss, labels=HARD, rows=(6, 1), **settings) -> ViTCustomTrainer:
    """`rows`: (a batch, batches a step)."""
    arguments = dict(per_device_train_batch_size=rows[0], gradient_accumulation_steps=rows[1], max_steps=2)
    arguments |= (
        dict(learning_rate=1e-2, use_cpu=True, report_to="none", disable_tqdm=True, save_strategy="no") | settings
    )
    data = [
        dict(pixel_values=x, labels=y, row_index=torch.tensor(i))
        for i, (x, y) in enumerate(zip(IMAGES, labels, strict=True))
    ]
    trainer = ViTCustomTrainer(
        model=model,
        args=TrainingArguments(str(folder), **arguments, remove_unused_columns=False),
        data_collator=collate,
        train_dataset=data,
        eval_dataset=data,
        compute_loss_func=loss,
        device_steps=[*steps, Normalise([0.5] * 3, [0.5] * 3)],
    )
    trainer.train()
    return trainer


class DropRowIndex:
    def __call__(self, inputs, training):
        return {name: value for name, value in inputs.items() if name != "row_index"}


@pytest.mark.parametrize("labels", [HARD, SOFT], ids=["hard labels", "soft labels"])
@pytest.mark.parametrize("kind", ["hard", "soft"])
def test_without_a_share_the_teacher_changes_nothing(kind, labels, tmp_path):
    """To the bit. A distilled model's class head learns as one head does without a teacher, the other not at all."""
    plain, taught = student(hidden_dropout_prob=0.1), student(hidden_dropout_prob=0.1)
    train(plain, tmp_path, [DropRowIndex()], soft_cross_entropy, labels)
    train(taught, tmp_path, [DropRowIndex(), Teach(teacher())], DistillationLoss(kind, alpha=0), labels)
    for (name, weight), other in zip(plain.named_parameters(), taught.parameters(), strict=True):
        assert torch.equal(weight, other), name
    heads = outputs_of(2)
    loss = DistillationLoss(kind, alpha=0)(answer(heads), Targets(labels, TEACHER_LOGITS))
    assert torch.equal(loss, soft_cross_entropy({"logits": heads[0]}, labels))
    assert not torch.autograd.grad(loss, heads)[1].any()


@pytest.mark.parametrize("kind", ["hard", "soft"])
def test_training_changes_the_student_and_not_the_teacher(kind, tmp_path):
    mine = teacher()
    before = {name: value.clone() for name, value in mine.state_dict().items()}
    says = mine(IMAGES)
    model, alone = student(**DISTILLED), student(**DISTILLED)
    trainer = train(model, tmp_path, [DropRowIndex(), Teach(mine)], DistillationLoss(kind))
    train(alone, tmp_path, [DropRowIndex()], soft_cross_entropy)
    assert not torch.equal(model.distillation_classifier.weight, alone.distillation_classifier.weight)
    trainer.model.train()
    mine.train()
    assert not any(module.training for module in mine.modules())
    assert all(torch.equal(value, before[name]) for name, value in mine.state_dict().items())
    assert all(weight.grad is None and not weight.requires_grad for weight in mine.parameters())
    assert torch.equal(mine(IMAGES), says)
    assert not set(map(id, mine.parameters())) & set(map(id, trainer.model.parameters()))


def test_evaluation_asks_no_teacher(tmp_path):
    model = student(**DISTILLED)
    refuses = Teach(teacher())
    trainer = train(model, tmp_path, [DropRowIndex(), refuses], DistillationLoss())
    refuses.teacher = None
    inputs = Normalise([0.5] * 3, [0.5] * 3)({"pixel_values": IMAGES})
    with torch.no_grad():
        wanted = soft_cross_entropy(model.eval()(**inputs), HARD)
    assert trainer.evaluate()["eval_loss"] == pytest.approx(wanted.item(), rel=1e-5)


@pytest.mark.parametrize("labels", [HARD, SOFT], ids=["hard labels", "soft labels"])
@pytest.mark.parametrize("kind", ["hard", "soft"])
def test_one_gradient_however_the_step_is_split(kind, labels, tmp_path):
    steps, loss, found = [DropRowIndex(), Teach(teacher())], DistillationLoss(kind, 0.5, 2.0), {}
    start = torch.cat([weight.detach().flatten() for weight in student(**DISTILLED).parameters()])
    for split in [(12, 1), (6, 2), (3, 4), (5, 3)]:  # the last of three batches has two rows
        model = student(**DISTILLED)
        settings = dict(max_steps=1, learning_rate=1.0, lr_scheduler_type="constant", optim="sgd", max_grad_norm=0)
        train(model, tmp_path, steps, loss, labels, split, **settings)
        found[split] = torch.cat([weight.detach().flatten() for weight in model.parameters()]) - start
    model = student(**DISTILLED)  # without any Trainer
    batch = Teach(teacher())({"pixel_values": IMAGES, "labels": labels}, True)
    images = Normalise([0.5] * 3, [0.5] * 3)({"pixel_values": IMAGES})["pixel_values"]
    loss(model(images), batch["labels"]).backward()
    wanted = -torch.cat([weight.grad.flatten() for weight in model.parameters()])
    for split, gradient in found.items():
        assert (gradient.norm() / wanted.norm()).item() == pytest.approx(1, abs=1e-3), split
        torch.testing.assert_close(gradient, wanted, rtol=1e-3, atol=1e-5)


def test_the_teacher_works_in_the_autocast_around_it():
    mine = teacher()
    with torch.autocast("cpu", torch.bfloat16):
        found = Teach(mine)({"pixel_values": IMAGES, "labels": HARD}, True)["labels"].teacher_logits
    assert found.dtype == torch.float32
    assert not torch.equal(found, mine(IMAGES))
    torch.testing.assert_close(found, mine(IMAGES), rtol=0.05, atol=0.05)


def test_pixels_that_were_normalised_are_no_pixels_for_a_teacher():
    inputs = Normalise([0.5] * 3, [0.5] * 3)({"pixel_values": IMAGES, "labels": HARD})
    with pytest.raises(ValueError, match="let it stand before Normalise"):
        Teach(teacher())(inputs, True)


# Predictions that are kept.


def rows_of(count: int = 12) -> list[dict[str, torch.Tensor]]:
    return [{"image": image} for image in IMAGES[:count]]


def image_of(row: dict[str, torch.Tensor]) -> torch.Tensor:
    return row["image"]


MIXES = {
    "mix_partner": torch.arange(12).flip(0),
    "mix_ratio": torch.full((12,), 0.75),
    "mix_box": torch.zeros(12, 4, dtype=torch.int64),
}


def test_kept_predictions_are_those_of_a_teacher_that_looks(tmp_path):
    mine = teacher()
    logits = cache_predictions(mine, rows_of(), image_of, tmp_path / "kept.safetensors", batch_size=5)
    order = torch.randperm(12, generator=torch.Generator().manual_seed(0))
    inputs = {"pixel_values": IMAGES[order], "labels": HARD[order]}
    live = Teach(mine)(inputs, True)["labels"]
    made = CachedTeach(logits)(inputs | {"row_index": order}, True)
    assert made.keys() == inputs.keys()
    assert torch.equal(made["labels"].labels, live.labels)
    kept = made["labels"].teacher_logits
    torch.testing.assert_close(kept.softmax(1), live.teacher_logits.softmax(1), rtol=1e-5, atol=1e-6)
    for kind in ("hard", "soft"):
        losses = [
            DistillationLoss(kind, 0.5, 3.0)(answer(outputs_of(2)), Targets(HARD[order], says))
            for says in (kept, live.teacher_logits)
        ]
        torch.testing.assert_close(*losses)


def test_kept_predictions_are_mixed_as_labels_are():
    logits = TEACHER_LOGITS.float()
    logits[3, 1:] = -1e4  # whose probabilities are 0
    steps = [CachedTeach(logits), MixPixels()]
    inputs = {"pixel_values": IMAGES, "labels": SOFT, "row_index": torch.arange(12)} | MIXES
    for step in steps:
        inputs = step(inputs, True)
    assert inputs.keys() == {"pixel_values", "labels"}
    says = inputs["labels"].teacher_logits
    wanted = 0.75 * logits.softmax(1) + 0.25 * logits.softmax(1).flip(0)
    torch.testing.assert_close(says.softmax(1), wanted)
    alone = CachedTeach(logits)(
        {"labels": SOFT, "row_index": torch.arange(12)} | MIXES | {"mix_ratio": torch.ones(12)}, True
    )
    heads = outputs_of(1)
    loss = DistillationLoss("soft")(answer(heads), alone["labels"])
    assert loss.isfinite()
    assert all(gradient.isfinite().all() for gradient in torch.autograd.grad(loss, heads))


def test_a_batch_must_tell_whose_rows_it_holds():
    step = CachedTeach(TEACHER_LOGITS)
    with pytest.raises(ValueError, match="`row_index`: let the collator add it"):
        step({"labels": HARD}, True)
    assert step({"labels": HARD, "row_index": torch.arange(12)}, False).keys() == {"labels"}


def test_a_student_learns_from_kept_predictions_as_from_a_teacher_that_looks(tmp_path):
    mine, models = teacher(), [student(**DISTILLED), student(**DISTILLED)]
    logits = cache_predictions(mine, rows_of(), image_of, tmp_path / "kept.safetensors")
    settings = dict(optim="sgd", learning_rate=0.1)  # AdamW makes much of gradients that are 0 but for rounding
    train(models[0], tmp_path, [DropRowIndex(), Teach(mine)], DistillationLoss("soft"), **settings)
    trainer = train(models[1], tmp_path, [CachedTeach(logits), MixPixels()], DistillationLoss("soft"), **settings)
    for weight, other in zip(models[0].parameters(), models[1].parameters(), strict=True):
        torch.testing.assert_close(weight, other, rtol=1e-4, atol=1e-4)
    assert math.isfinite(trainer.evaluate()["eval_loss"])


def test_predictions_are_computed_once_for_the_same_teacher_and_rows(tmp_path, capsys):
    path, seen = tmp_path / "new" / "kept.safetensors", []
    mine = teacher()
    mine.register_forward_hook(lambda *_: seen.append(1))

    def kept(teacher=mine, rows=None, prepare=image_of):
        seen.clear()
        logits = cache_predictions(teacher, rows or rows_of(), prepare, path, batch_size=5)
        return logits, capsys.readouterr().out

    first, said = kept()
    assert len(seen) == 3
    assert "there is no such file yet" in said
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    again, said = kept()
    assert not seen
    assert not said
    assert torch.equal(first, again)
    changes = {
        "the number of rows": dict(rows=rows_of(11)),
        "the rows' pixels": dict(prepare=lambda row: row["image"].flip(2)),
        "the teacher's preprocessing": dict(teacher=teacher(interpolation="bicubic")),
    }
    for words, change in changes.items():
        kept()
        assert words in kept(**change)[1]
    kept()
    with torch.no_grad():
        mine.model[1].running_mean += 0.1
    other, said = kept()
    assert "in the file that is there, the teacher's weights differ" in said
    assert not torch.equal(first, other)
    path.write_bytes(path.read_bytes()[:100])
    assert "cannot be read" in kept()[1]
    with safe_open(path, "pt") as file:
        assert torch.equal(file.get_tensor("logits"), other)


def test_another_data_set_of_as_many_rows_is_another(tmp_path, capsys):
    """Which no sampled row shows."""
    for value, said in ((1, "no such file"), (2, "the data set's fingerprint differ"), (2, "")):
        rows = Dataset.from_dict({"value": [0] * 40 + [value] + [0] * 7})
        cache_predictions(teacher(), rows, lambda row: IMAGES[row["value"]], tmp_path / "kept.safetensors")
        found = capsys.readouterr().out
        assert said in found
        assert bool(said) == bool(found)


KILLED = """
import os, signal, sys
import torch
from modeling_vit_custom.training import distillation

def dies(tensors, path, metadata):
    path.write_bytes(b"x" * 100)
    os.kill(os.getpid(), signal.SIGKILL)

distillation.save_file = dies
distillation.write_predictions(distillation.Path(sys.argv[0]), torch.zeros(2, 2), {})
"""


def test_a_run_that_is_killed_while_it_writes_leaves_the_file_as_it_was(tmp_path):
    path, mine = tmp_path / "kept.safetensors", teacher()
    logits = cache_predictions(mine, rows_of(), image_of, path)
    before = path.read_bytes()
    done = with_package().call(KILLED, [path])
    assert done.returncode == -signal.SIGKILL
    assert path.read_bytes() == before
    assert torch.equal(cache_predictions(mine, rows_of(), image_of, path), logits)


def test_a_file_that_was_not_written_whole_is_not_there(tmp_path, monkeypatch):
    def dies(tensors, path, metadata):
        path.write_bytes(b"x" * 100)
        raise KeyboardInterrupt

    monkeypatch.setattr(distillation, "save_file", dies)
    with pytest.raises(KeyboardInterrupt):
        cache_predictions(teacher(), rows_of(), image_of, tmp_path / "kept.safetensors")
    assert not list(tmp_path.iterdir())
