"""One batch gives one gradient, however Trainer splits it into accumulated batches and processes.

Each case is a model in float64 and eight rows, drawn before any split; what is right is the gradient of the loss over
all rows at once, without any Trainer.
"""

import gc
import os
import re
import tempfile
from collections.abc import Callable
from typing import Any
from typing import NamedTuple

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils.data import SequentialSampler
from transformers import Trainer
from transformers import TrainerCallback
from transformers import TrainingArguments
from transformers import ViTConfig
from transformers import ViTForImageClassification

from modeling_vit_custom import ViTCustomDualEncoder
from modeling_vit_custom import ViTCustomDualEncoderConfig
from modeling_vit_custom import ViTCustomForImageClassification
from modeling_vit_custom import ViTCustomForMaskedImageModeling
from modeling_vit_custom import ViTCustomForObjectDetection
from modeling_vit_custom import ViTCustomForPreTraining
from modeling_vit_custom import ViTCustomForSemanticSegmentation
from modeling_vit_custom.training.trainer import SMOOTHER_COUNTS
from modeling_vit_custom.training.trainer import ViTCustomTrainer
from tests.forking import in_two_processes
from tests.own_losses import OWN
from tests.own_losses import OfMean
from tests.own_losses import OfSum
from tests.own_losses import behind
from tests.own_losses import in_front
from tests.support import fill
from tests.support import formula
from tests.support import picture
from tests.support import tiny
from tests.test_modeling_heads import LABELS

IMAGES = picture(8, 3, 32, 32, dtype=torch.float64)
RANKS = formula("ranks", torch.Size((8, 16))).argsort(dim=1).argsort(dim=1)  # a random order of each image's patches
HIDDEN = RANKS.lt(torch.tensor([1, 12, 3, 9, 5, 2, 14, 4])[:, None]).long()
PIXEL_LABELS = formula("labels", torch.Size((8, 32, 32))).mul(100).long().remainder(5)
for image, width in enumerate([0, 30, 5, 12, 32, 1, 20, 8]):  # of the fifth image every pixel
    PIXEL_LABELS[image, :, :width] = 255
OBJECTS = [
    {"class_labels": torch.arange(count) % 5, "boxes": 0.3 + 0.3 * picture(5, 4).double()[:count].sigmoid()}
    for count in (0, 3, 1, 0, 2, 5, 0, 1)
]
CAPTIONS = formula("captions", torch.Size((8, 6))).mul(100).long().remainder(49) + 1
CAPTIONS[:, -1] = 49  # where the text tower looks
TEXT = dict(model_type="clip_text_model", hidden_size=16, intermediate_size=32, num_hidden_layers=1, vocab_size=50)
TEXT |= dict(num_attention_heads=2, max_position_embeddings=8, eos_token_id=49)
DISTILLED = tiny(prefix_tokens=["cls", "distillation"], distillation_head=True)


def classifier(problem: str, **changes) -> Callable[[], nn.Module]:
    return lambda: fill(ViTCustomForImageClassification(tiny(problem_type=problem, **changes)))


def detector(**changes) -> Callable[[], nn.Module]:
    return lambda: fill(ViTCustomForObjectDetection(tiny(**changes)))


def dual_encoder(loss: str) -> Callable[[], nn.Module]:
    towers = dict(vision_config=tiny().to_diff_dict(), text_config=TEXT, projection_dim=8)
    return lambda: fill(ViTCustomDualEncoder(ViTCustomDualEncoderConfig(**towers, contrastive_loss=loss)))


def smoothed(model: nn.Module, pixel_values: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return functional.cross_entropy(model(pixel_values).logits, labels, label_smoothing=0.1)


class Case(NamedTuple):
    make: Callable[[], nn.Module]
    columns: dict[str, Any]  # eight rows each
    plain_is_exact: bool = False  # in transformers' own Trainer too
    one_normaliser: bool = True  # so that an evaluation can add up
    settings: dict[str, Any] = {}
    loss: Callable = lambda model, **batch: model(**batch).loss


TRANSFORMERS = dict(image_size=32, patch_size=8, hidden_size=32, num_hidden_layers=1, num_attention_heads=4)
HARD = LABELS["single_label_classification"]
BOXES = dict(decoder_hidden_size=32, decoder_num_hidden_layers=2, decoder_num_attention_heads=4)
CASES = {
    **{f"classes, {p}": Case(classifier(p), {"labels": labels}, True) for p, labels in LABELS.items()},
    "classes, some ignored": Case(
        classifier("single_label_classification"),
        {"labels": HARD.where(torch.tensor([1, 0, 1, 1, 0, 0, 1, 1]) > 0, -100)},
        True,
    ),
    "classes, smoothed": Case(
        classifier("single_label_classification"),
        {"labels": HARD},
        settings=dict(label_smoothing_factor=0.1),
        loss=smoothed,
    ),
    "distilled": Case(lambda: fill(ViTCustomForImageClassification(DISTILLED)), {"labels": HARD}, True),
    "segmentation": Case(lambda: fill(ViTCustomForSemanticSegmentation(tiny())), {"labels": PIXEL_LABELS}),
    "SimMIM": Case(lambda: fill(ViTCustomForMaskedImageModeling(tiny())), {"bool_masked_pos": HIDDEN}),
    "MAE": Case(
        lambda: fill(ViTCustomForPreTraining(tiny(decoder_hidden_size=16, decoder_num_hidden_layers=1))),
        {"noise": RANKS.double()},
    ),
    "DETR": Case(detector(num_queries=6, **BOXES), {"labels": OBJECTS}, one_normaliser=False),
    "YOLOS": Case(detector(prefix_tokens=["cls"] + ["detection"] * 6), {"labels": OBJECTS}, one_normaliser=False),
}
# What a batch tells apart depends on the batch: exact across processes, and each accumulated batch for itself.
CONTRASTIVE = {loss: Case(dual_encoder(loss), {"input_ids": CAPTIONS}) for loss in ("softmax", "sigmoid")}
ALL = CASES | CONTRASTIVE
# (rows a batch, batches a step): all rows in one step; the last batch may be smaller.
SPLITS = [(8, 1), (2, 4), (1, 8), (3, 3)]
UNFINISHED = (2, 3)  # a step of three batches, and a step of the one that is left
# Of two processes; (3, 2): one has two batches, the other one.
SPLITS_OF_TWO = [(4, 1), (2, 2), (1, 4), (3, 2)]
UNFINISHED_OF_TWO = (1, 3)
HARD_CLASSES = "classes, single_label_classification"
OWN_CASES = [(own, place) for own in OWN for place in (behind, in_front)]
every_case = pytest.mark.parametrize("name", CASES)


def collate(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Tensors stacked; the objects of images, which are dictionaries, in a list."""
    columns = {name: [row[name] for row in rows] for name in rows[0]}
    return {name: torch.stack(c) if isinstance(c[0], torch.Tensor) else c for name, c in columns.items()}


def rows_of(name: str) -> list[dict[str, Any]]:
    columns = {"pixel_values": IMAGES, **ALL[name].columns}
    return [{column: values[row] for column, values in columns.items()} for row in range(8)]


def model_of(name: str) -> nn.Module:
    return ALL[name].make().double()


def flat(model: nn.Module) -> torch.Tensor:
    parameters = model.parameters()
    return torch.cat([(p.grad if p.grad is not None else torch.zeros_like(p)).flatten() for p in parameters])


def wanted(name: str, rows: slice | None = None) -> torch.Tensor:
    """The gradient of the mean loss of some rows in one batch."""
    model = model_of(name).train()
    ALL[name].loss(model, **collate(rows_of(name)[rows or slice(8)])).backward()
    return flat(model)


class InOrder:
    """Rows in the order of the data set, and the gradient of each optimizer step kept."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.gradients: list[torch.Tensor] = []
        self.add_callback(Keeper(self))

    def _get_train_sampler(self, train_dataset=None):
        return SequentialSampler(self.train_dataset)


class Keeper(TrainerCallback):
    def __init__(self, trainer):
        self.trainer = trainer

    def on_pre_optimizer_step(self, args, state, control, **kwargs):
        self.trainer.gradients.append(flat(self.trainer.model))


class Exact(InOrder, ViTCustomTrainer):
    pass


class Plain(InOrder, Trainer):
    pass


def trainer_of(name: str, kind: type, folder: str, batch_size: int, accumulated: int = 1, **settings) -> Trainer:
    arguments = dict(
        output_dir=folder,
        per_device_train_batch_size=batch_size,
        per_device_eval_batch_size=batch_size,
        gradient_accumulation_steps=accumulated,
        num_train_epochs=1,
        learning_rate=0.0,
        optim="sgd",
        max_grad_norm=0.0,
        report_to="none",
        save_strategy="no",
        disable_tqdm=True,
        use_cpu=True,
        dataloader_pin_memory=False,
        accelerator_config={"even_batches": False},
    )
    arguments = TrainingArguments(**arguments | ALL[name].settings | settings)
    rows = rows_of(name)
    return kind(model_of(name), arguments, data_collator=collate, train_dataset=rows, eval_dataset=rows)


def gradients(name: str, kind: type, folder: str, batch_size: int, accumulated: int, **settings) -> list[torch.Tensor]:
    trainer = trainer_of(name, kind, folder, batch_size, accumulated, **settings)
    trainer.train()
    return trainer.gradients


def assert_equal(gradient: torch.Tensor, expected: torch.Tensor):
    assert expected.norm() > 1e-3
    assert (gradient - expected).norm() < 1e-7 * expected.norm()  # transformers smooths labels in float32


def mean_of_batches(name: str, batch_size: int) -> torch.Tensor:
    return torch.stack([wanted(name, slice(row, row + batch_size)) for row in range(0, 8, batch_size)]).mean(0)


@pytest.fixture(scope="module", autouse=True)
def frozen():
    """Trainer collects garbage at each start, a second through all that is imported; what is there now it may skip."""
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(scope="module")
def of_two_processes(tmp_path_factory) -> dict[tuple, Any]:
    """What two processes found, in one launch: starting them takes longer than all they do."""
    folder = tmp_path_factory.mktemp("processes")
    done = in_two_processes("tests.test_training_laws", "one_of_two_processes", str(folder))
    assert done.returncode == 0, done.stderr
    first, second = (torch.load(folder / f"{rank}.pt") for rank in range(2))
    for key, value in first.items():
        torch.testing.assert_close(value, second[key], rtol=0, atol=0)
    return first


def one_of_two_processes(home: str):
    found: dict[tuple, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in CASES:
            for split in (*SPLITS_OF_TWO, UNFINISHED_OF_TWO):
                found[name, "exact", split] = gradients(name, Exact, folder, *split)
            found[name, "plain", (2, 2)] = gradients(name, Plain, folder, 2, 2)
            found[name, "evaluated"] = trainer_of(name, Exact, folder, 2).evaluate()["eval_loss"]
        for own, place in OWN_CASES:
            for split in SPLITS_OF_TWO:
                found[own, place.__name__, split] = gradients(HARD_CLASSES, own_trainer(own, place), folder, *split)
        for name in CONTRASTIVE:
            for split in ((4, 1), (2, 2)):
                found[name, split] = gradients(name, Exact, folder, *split)
    torch.save(found, f"{home}/{os.environ['RANK']}.pt")


@every_case
@pytest.mark.parametrize("split", SPLITS, ids=str)
def test_one_process_takes_the_same_step_however_it_splits_the_batch(name, split, tmp_path):
    (found,) = gradients(name, Exact, str(tmp_path), *split)
    assert_equal(found, wanted(name))


@every_case
@pytest.mark.parametrize("split", SPLITS_OF_TWO, ids=str)
def test_so_do_two_processes(name, split, of_two_processes):
    (found,) = of_two_processes[name, "exact", split]
    assert_equal(found, wanted(name))


@every_case
def test_a_last_step_of_fewer_batches_is_the_mean_over_its_own_items(name, tmp_path, of_two_processes):
    for found in (
        gradients(name, Exact, str(tmp_path), *UNFINISHED),
        of_two_processes[name, "exact", UNFINISHED_OF_TWO],
    ):
        for gradient, rows in zip(found, (slice(6), slice(6, 8)), strict=True):
            assert_equal(gradient, wanted(name, rows))


@every_case
def test_transformers_own_trainer_takes_this_step_for_labels_it_can_count_else_the_mean_of_batches(
    name, tmp_path, of_two_processes
):
    if name == "classes, smoothed" and not SMOOTHER_COUNTS:
        pytest.skip("transformers 5.5 adds the smoothed losses of batches up: a step as many times too large")
    (of_one,), (of_two,) = gradients(name, Plain, str(tmp_path), 2, 4), of_two_processes[name, "plain", (2, 2)]
    expected = wanted(name) if CASES[name].plain_is_exact else mean_of_batches(name, 2)
    assert_equal(of_one, expected)
    assert_equal(of_two, expected)


@torch.no_grad()
def loss_of(name: str, rows: slice) -> float:
    return CASES[name].loss(model_of(name), **collate(rows_of(name)[rows])).item()


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.one_normaliser])
def test_an_evaluations_loss_is_that_of_all_rows_at_once(name, tmp_path, of_two_processes):
    expected = pytest.approx(loss_of(name, slice(8)))
    for batch_size in (8, 3, 1):
        assert trainer_of(name, Exact, str(tmp_path), batch_size).evaluate()["eval_loss"] == expected
    assert of_two_processes[name, "evaluated"] == expected


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if not case.one_normaliser])
def test_of_several_normalisers_it_is_the_mean_over_images_of_the_batches(name, tmp_path, of_two_processes):
    for batch_size, batches in ((8, [slice(8)]), (3, [slice(3), slice(3, 6), slice(6, 8)])):
        losses = [loss_of(name, rows) * (rows.stop - (rows.start or 0)) for rows in batches]
        found = trainer_of(name, Exact, str(tmp_path), batch_size).evaluate()["eval_loss"]
        assert found == pytest.approx(sum(losses) / 8)
    expected = (loss_of(name, slice(4)) + loss_of(name, slice(4, 8))) / 2  # a batch is that of both processes
    assert of_two_processes[name, "evaluated"] == pytest.approx(expected)


@pytest.mark.parametrize("name", CONTRASTIVE)
def test_a_contrastive_loss_is_exact_across_processes_and_the_mean_of_accumulated_batches(
    name, tmp_path, of_two_processes
):
    halves = (wanted(name, slice(4)) + wanted(name, slice(4, 8))) / 2
    assert (halves - wanted(name)).norm() > 1e-2 * halves.norm()
    assert_equal(of_two_processes[name, (4, 1)][0], wanted(name))
    assert_equal(of_two_processes[name, (2, 2)][0], halves)
    for split, expected in (((8, 1), wanted(name)), ((4, 2), halves)):
        assert_equal(gradients(name, Exact, str(tmp_path), *split)[0], expected)


@pytest.mark.parametrize("name", ["segmentation", "DETR", "YOLOS"])
@pytest.mark.parametrize("split", [(3, 1), (1, 3)], ids=str)
def test_a_step_without_objects_or_pixels_is_a_step_like_others(name, split, tmp_path):
    """Images without objects teach a detector to see none; of pixels that are all ignored nothing is learned."""
    trainer = trainer_of(name, Exact, str(tmp_path), *split)
    rows = [rows_of(name)[row] for row in (0, 3, 6)]
    if name == "segmentation":
        rows = [{**row, "labels": torch.full_like(row["labels"], 255)} for row in rows]
    trainer.train_dataset = rows
    trainer.train()
    model = model_of(name).train()
    model(**collate(rows)).loss.backward()
    if name == "segmentation":
        assert not trainer.gradients[0].any()
        assert not flat(model).any()
    else:
        assert_equal(trainer.gradients[0], flat(model))


KEPT = {  # what compute_metrics is given, of eight rows
    "classes, single_label_classification": (8, 5),
    "distilled": (8, 5),
    "segmentation": (8, 5, 32, 32),
    "SimMIM": (),  # the loss says it all
    "MAE": (8, 16, 192),
    "DETR": [((8, 6, 6), (8, 6, 4))],  # a list of batches
    "YOLOS": [((8, 6, 6), (8, 6, 4))],
    "softmax": ((8, 8), (8, 8)),
    "sigmoid": ((8, 8), (8, 8)),
}


def shapes(values: Any) -> Any:
    return type(values)(map(shapes, values)) if isinstance(values, (list, tuple)) else values.shape


@pytest.mark.parametrize("name", KEPT)
def test_an_evaluation_keeps_what_metrics_need_and_nothing_else(name, tmp_path):
    """Neither hidden states nor attentions nor auxiliary outputs nor parts of the loss, of whatever is turned on."""
    kept = []
    # A detector's objects differ in number: joined, transformers would mix those of different images.
    trainer = trainer_of(name, Exact, str(tmp_path), 8, eval_do_concat_batches=name not in ("DETR", "YOLOS"))
    trainer.compute_metrics = lambda evaluated: kept.append(evaluated) or {}
    trainer.model.set_attn_implementation("eager")
    trainer.model.config.output_hidden_states = trainer.model.config.output_attentions = True
    assert "eval_loss" in trainer.evaluate()
    assert shapes(kept[0].predictions) == KEPT[name]


def identified(column: str, broken: int | None = None) -> list[dict[str, Any]]:
    """Rows that have a name; one of them may hold a pixel that is no number."""
    rows = [{**row, column: f"photo{place}"} for place, row in enumerate(rows_of("segmentation"))]
    if broken is not None:
        rows[broken]["pixel_values"] = rows[broken]["pixel_values"].clone().fill_(torch.nan)
    return rows


@pytest.mark.parametrize("column", ["image_id", "id", "index"])
def test_a_loss_that_is_not_finite_stops_training_with_the_rows_of_its_batch(column, tmp_path):
    settings = dict(save_strategy="steps", save_steps=1, learning_rate=0.1, save_only_model=True)
    trainer = trainer_of("segmentation", Exact, str(tmp_path), 2, **settings)
    trainer.train_dataset = identified(column, broken=5)
    last = re.escape(str(tmp_path / "checkpoint-2"))
    with pytest.raises(
        FloatingPointError,
        match=f"loss is nan after 2 steps, in the batch of rows photo4, photo5. The weights are finite.* from {last}",
    ):
        trainer.train()
    saved = ViTCustomForSemanticSegmentation.from_pretrained(tmp_path / "checkpoint-2")
    for found, expected in zip(trainer.model.parameters(), saved.parameters(), strict=True):
        assert torch.equal(found, expected)


def test_weights_that_are_not_finite_are_named_and_so_is_what_was_not_saved(tmp_path):
    trainer = trainer_of("segmentation", Exact, str(tmp_path / "new"), 2)
    with torch.no_grad():
        trainer.model.vit.norm.weight.fill_(torch.inf)
    message = r"rows without image_id or id or index. Weights were not finite before, vit.norm.weight.*No checkpoint"
    with pytest.raises(FloatingPointError, match=message):
        trainer.train()


def test_labels_that_cannot_be_meant_are_refused_with_the_rows_of_their_batch(tmp_path):
    trainer = trainer_of("segmentation", Exact, str(tmp_path), 2)
    trainer.train_dataset = identified("id")
    trainer.train_dataset[3]["labels"] = torch.full((32, 32), 5)
    with pytest.raises(ValueError, match="Label 5 is out of range") as refused:
        trainer.train()
    assert refused.value.__notes__ == ["The batch is of rows photo2, photo3."]


@pytest.mark.parametrize("remove_unused_columns", [True, False])
def test_the_model_never_sees_the_rows_names(remove_unused_columns, tmp_path):
    seen = []
    trainer = trainer_of("segmentation", Exact, str(tmp_path), 4, remove_unused_columns=remove_unused_columns)
    trainer.model.register_forward_pre_hook(lambda model, args, kwargs: seen.append(set(kwargs)), with_kwargs=True)
    trainer.train_dataset = trainer.eval_dataset = identified("id")
    trainer.train()
    assert trainer.row_ids == ["photo4", "photo5", "photo6", "photo7"]
    trainer.evaluate()
    without_labels = [{name: row[name] for name in ("pixel_values", "id")} for row in trainer.eval_dataset]
    assert trainer.predict(without_labels).predictions.shape == (8, 5, 32, 32)
    inputs = {"pixel_values", "labels", "num_items_in_batch"}
    assert seen == [inputs] * 4 + [{"pixel_values"}] * 2


class Theirs(InOrder, Trainer):
    """Somebody's own Trainer, which doubles the loss."""

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        loss, outputs = super().compute_loss(model, inputs, True, num_items_in_batch)
        return (2 * loss, outputs) if return_outputs else 2 * loss


class TheirsAndOurs(ViTCustomTrainer, Theirs):
    pass


def test_it_works_in_front_of_anyones_own_trainer(tmp_path):
    (found,) = gradients("segmentation", TheirsAndOurs, str(tmp_path), 2, 4)
    assert_equal(found, 2 * wanted("segmentation"))


def own_trainer(own: str, place: Callable) -> type:
    return type("Own", (InOrder, place(OWN[own].theirs)), {})


def wanted_of_own(own: str) -> torch.Tensor:
    model = model_of(HARD_CLASSES).train()
    OWN[own].whole(model, **collate(rows_of(HARD_CLASSES))).backward()
    return flat(model)


@pytest.mark.parametrize(("own", "place"), OWN_CASES)
def test_a_loss_of_ones_own_takes_one_step_for_every_split(own, place, tmp_path, of_two_processes):
    expected = wanted_of_own(own)
    for split in SPLITS:
        (found,) = gradients(HARD_CLASSES, own_trainer(own, place), str(tmp_path), *split)
        assert_equal(found, expected)
    for split in SPLITS_OF_TWO:
        (found,) = of_two_processes[own, place.__name__, split]
        assert_equal(found, expected)


class FuncMean:
    def __call__(self, outputs, labels, num_items_in_batch=None):
        return functional.cross_entropy(outputs["logits"], labels)


class FuncSum:
    def __call__(self, outputs, labels, num_items_in_batch=None):
        return functional.cross_entropy(outputs["logits"], labels, reduction="sum") / num_items_in_batch


@pytest.mark.parametrize("function", [FuncMean(), FuncSum()], ids=["mean", "sum"])
@pytest.mark.parametrize("counts", [True, False])
def test_so_does_a_function(function, counts, tmp_path):
    for split in ((8, 1), (2, 4)):
        trainer = trainer_of(HARD_CLASSES, Exact, str(tmp_path), *split)
        if not counts:  # of transformers' own, whose Trainer adds the means of parts up
            model = fill(ViTForImageClassification(ViTConfig(**TRANSFORMERS, num_labels=5)).double())
            trainer = Exact(model, trainer.args, data_collator=collate, train_dataset=trainer.train_dataset)
        trainer.compute_loss_func = function
        model = trainer.model
        mean_loss = functional.cross_entropy(model.train()(IMAGES).logits, HARD)
        expected = torch.cat([g.flatten() for g in torch.autograd.grad(mean_loss, list(model.parameters()))])
        trainer.train()
        assert_equal(trainer.gradients[0], expected)


def test_what_cannot_be_known_of_a_loss_is_said_and_may_be_told(tmp_path):
    class AsNumber(InOrder, ViTCustomTrainer):
        def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
            logits = model(inputs["pixel_values"]).logits
            return functional.cross_entropy(logits, inputs["labels"], reduction="sum") / num_items_in_batch.item()

    trainer = trainer_of(HARD_CLASSES, AsNumber, str(tmp_path), 2, 4)
    with pytest.raises(ValueError, match=r"made a plain number.*Divide a sum by the tensor.*loss_is_scaled_for_ga"):
        trainer.train()
    AsNumber.loss_is_scaled_for_ga = True
    (found,) = gradients(HARD_CLASSES, AsNumber, str(tmp_path), 2, 4)
    assert_equal(found, wanted(HARD_CLASSES))
    told = own_trainer("mean", in_front)
    told.loss_is_scaled_for_ga = False
    (found,) = gradients(HARD_CLASSES, told, str(tmp_path), 2, 4)
    assert_equal(found, wanted(HARD_CLASSES))
    trainer = trainer_of(HARD_CLASSES, own_trainer("mean", in_front), str(tmp_path), 2, 4)
    trainer.args.torch_compile = True
    with pytest.raises(ValueError, match="Beside `torch_compile` a loss of one's own"):
        trainer.train()


def unlabelled() -> list[dict[str, Any]]:
    return [{**row, "labels": torch.tensor(-100)} for row in rows_of(HARD_CLASSES)]


@pytest.mark.parametrize("theirs", [None, OfMean, OfSum])
@pytest.mark.parametrize("place", [behind, in_front])
def test_where_nothing_is_labelled_there_are_predictions_and_no_loss(theirs, place, tmp_path):
    trainer = trainer_of(HARD_CLASSES, place(theirs) if theirs else Exact, str(tmp_path), 3)
    for rows, count in ((unlabelled(), 8), ([{"pixel_values": row} for row in IMAGES], 8)):
        predicted = trainer.predict(rows)
        assert predicted.predictions.shape == (count, 5)
        assert not predicted.metrics.get("test_loss", 0) > 0
    assert trainer.predict([]).predictions is None
    assert "eval_loss" not in trainer.evaluate([])
    some = rows_of(HARD_CLASSES)[:3] + unlabelled()[3:]
    assert trainer.evaluate(some)["eval_loss"] > 0


@pytest.mark.parametrize("place", [behind, in_front])
@pytest.mark.parametrize("theirs", [OfMean, OfSum])
def test_the_evaluations_loss_of_ones_own_is_trainers(theirs, place, tmp_path):
    for batch_size in (8, 3):
        found, expected = (
            trainer_of(HARD_CLASSES, kind, str(tmp_path), batch_size).evaluate()["eval_loss"]
            for kind in (place(theirs), type("Plain", (theirs,), {"model_accepts_loss_kwargs": True}))
        )
        assert found == pytest.approx(expected)


def test_a_loss_of_ones_own_that_is_not_finite_stops_training_too(tmp_path):
    trainer = trainer_of(HARD_CLASSES, in_front(OfMean), str(tmp_path), 4)
    trainer.train_dataset = unlabelled()
    with pytest.raises(FloatingPointError, match="loss is nan after 0 steps"):
        trainer.train()


def test_a_model_that_does_not_count_is_trained_as_by_trainer(tmp_path):
    found = []
    for kind in (Exact, Plain):
        model = ViTForImageClassification(ViTConfig(**TRANSFORMERS, num_labels=5)).double()
        trainer = trainer_of("classes, single_label_classification", kind, str(tmp_path), 2, 4)
        trainer = kind(fill(model), trainer.args, train_dataset=trainer.train_dataset)
        trainer.train()
        found += trainer.gradients
    assert_equal(found[0], found[1])


def test_several_gpus_in_one_process_are_refused(tmp_path):
    arguments = TrainingArguments(str(tmp_path), use_cpu=True)
    assert arguments.n_gpu == 0
    arguments._n_gpu = 2
    with pytest.raises(ValueError, match=r"found 2 GPUs and one process.*torchrun"):
        ViTCustomTrainer(model_of("segmentation"), arguments)
