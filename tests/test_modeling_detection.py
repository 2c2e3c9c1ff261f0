"""Detection: DETR's decoder and YOLOS beside transformers' own, the loss and its normalisers, sizes, bad input.

That it compiles, exports, checkpoints and learns on every backbone is in tests/test_matrix.py, what a Trainer does with
its counts in tests/test_training_laws.py.
"""

import contextlib
import copy
import json
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
import transformers
from huggingface_hub.errors import StrictDataclassError
from torch import nn
from transformers.loss.loss_for_object_detection import ForObjectDetectionLoss
from transformers.models.detr.modeling_detr import DetrDecoder
from transformers.models.detr.modeling_detr import DetrSinePositionEmbedding

from modeling_vit_custom import ViTCustomForObjectDetection
from modeling_vit_custom.conversion.heads_detection import detr_fields
from modeling_vit_custom.conversion.heads_detection import detr_tables
from modeling_vit_custom.conversion.heads_detection import give_detr_decoder
from modeling_vit_custom.conversion.heads_detection import take_detr_decoder
from modeling_vit_custom.conversion.heads_detection import yolos_from_transformers
from modeling_vit_custom.conversion.heads_detection import yolos_tables
from modeling_vit_custom.conversion.heads_detection import yolos_to_transformers
from modeling_vit_custom.conversion.rename import choose
from modeling_vit_custom.conversion.rename import into_theirs
from modeling_vit_custom.modeling_detection_decoder import sine_positions
from modeling_vit_custom.modeling_detection_loss import detection_loss
from tests.conversion_support import BOUNDS
from tests.conversion_support import LABELS
from tests.conversion_support import pixels
from tests.conversion_support import relative
from tests.support import VARIANTS
from tests.support import fill
from tests.support import formula
from tests.support import picture
from tests.support import tiny

DECODER = dict(
    decoder_hidden_size=32, decoder_num_hidden_layers=3, decoder_num_attention_heads=4, decoder_intermediate_size=48
)
YOLOS = dict(prefix_tokens=["cls"] + ["detection"] * 6, layer_position_embeddings=True)
BACKBONES = {name: VARIANTS[name] for name in ("vit", "deit", "swin", "pit")}
KINDS = {**BACKBONES, "yolos": YOLOS}
every_kind = pytest.mark.parametrize("kind", KINDS)
both_dtypes = pytest.mark.parametrize(("dtype", "bound"), BOUNDS, ids=("float64", "float32"))


@contextlib.contextmanager
def default_dtype(dtype: torch.dtype):
    """transformers' loss makes its weights in the default one."""
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


def detector(kind: str, **changes) -> ViTCustomForObjectDetection:
    return fill(ViTCustomForObjectDetection(tiny(**DECODER | dict(num_queries=6) | KINDS[kind] | changes)))


def objects(*counts: int, dtype: torch.dtype = torch.float32) -> list[dict]:
    """Images with so many objects each, of classes 0 to 4."""
    labels = []
    for index, count in enumerate(counts):
        size, place = (formula(f"{name} {index}", torch.Size((1, 9, 2)))[0, :count] + 0.5 for name in ("size", "place"))
        size = 0.1 + 0.6 * size.clamp(0, 1)
        centre = size / 2 + place.clamp(0, 1) * (1 - size)
        boxes = torch.cat((centre, size), dim=1).to(dtype)
        labels.append({"class_labels": torch.arange(count) % 5, "boxes": boxes})
    return labels


def predictions(shape: tuple[int, ...], dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """(n, B, Q, 6), (n, B, Q, 4)"""
    logits = 3 * formula("logits", torch.Size((*shape, 6))).to(dtype)
    boxes = formula("boxes", torch.Size((*shape, 4))).to(dtype).sigmoid()
    return logits.requires_grad_(), boxes.requires_grad_()


LOSS = SimpleNamespace(
    **dict(num_labels=5, auxiliary_loss=True, decoder_layers=3, eos_coefficient=0.1, class_cost=1, bbox_cost=5),
    **dict(giou_cost=2, bbox_loss_coefficient=5, giou_loss_coefficient=2),
)


# Parity


@pytest.mark.parametrize("mid", [True, False], ids=("mid positions", "no mid positions"))
@both_dtypes
def test_yolos_is_transformers_own(mid, dtype, bound):
    """Outputs, loss, each part of it, and the gradient of every tensor and pixel, at the native and other sizes."""
    settings = dict(hidden_size=48, num_hidden_layers=3, num_attention_heads=4, intermediate_size=80, patch_size=8)
    config = transformers.YolosConfig(
        **settings, image_size=[32, 48], num_detection_tokens=5, use_mid_position_embeddings=mid, **LABELS
    )
    config._attn_implementation = "sdpa"
    with default_dtype(dtype):
        theirs = fill(transformers.YolosForObjectDetection(config))
        ours = yolos_from_transformers(theirs)
        back = yolos_to_transformers(ours)
        assert ours.dtype == back.dtype == dtype
        for name, tensor in theirs.state_dict().items():
            assert torch.equal(back.state_dict()[name], tensor), name
        for size in ((32, 48), (40, 24), (64, 64)):
            found = []
            for model in (theirs, ours):
                model.zero_grad()
                pixel_values = pixels(*size, dtype)
                output = model(pixel_values=pixel_values, labels=objects(3, 0, dtype=dtype))
                output.loss.backward()
                gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
                if model is ours:
                    tables = yolos_tables(ours.config)
                    gradients = into_theirs(gradients, tables[choose(tables, theirs.state_dict())])
                flat = dict(logits=output.logits, pred_boxes=output.pred_boxes, loss=output.loss)
                found.append(flat | output.loss_dict | gradients | {"pixels": pixel_values.grad})
            assert found[0].keys() == found[1].keys()
            for name, tensor in found[0].items():
                if not name.endswith("key.bias"):  # it moves no output: rounding alone
                    assert relative(found[1][name], tensor) < bound, (size, name)


def detr_config(**changes) -> transformers.DetrConfig:
    settings = dict(d_model=32, encoder_layers=0, decoder_layers=3, decoder_attention_heads=4, decoder_ffn_dim=48)
    settings |= dict(num_queries=6, dropout=0.0, use_timm_backbone=False, **LABELS)
    config = transformers.DetrConfig(**settings | changes)
    config._attn_implementation = "sdpa"
    return config


@both_dtypes
def test_the_decoder_is_detrs_given_the_same_memory_positions_and_queries(dtype, bound):
    """After each layer. A transformers' decoder with auxiliary losses feeds on what it has normed, which the released
    code does not: the reference of an earlier layer is a decoder cut off there."""
    config = detr_config(backbone_config=tiny())
    theirs = fill(DetrDecoder(config)).to(dtype)
    queries = formula("queries", torch.Size((6, 32))).to(dtype)
    model = fill(ViTCustomForObjectDetection(tiny(**detr_fields(config)))).to(dtype)
    ours = model.box_decoder
    heads = {name: tensor for name, tensor in model.state_dict().items() if "predictor" in name or "classifier" in name}
    projection = {f"model.input_projection.{k}": v for k, v in ours.input_projection.state_dict().items()}
    decoder = {f"model.decoder.{name}": tensor for name, tensor in theirs.state_dict().items()}
    take_detr_decoder(model, heads | projection | decoder | {"model.query_position_embeddings.weight": queries})
    patches = picture(2, 32, 5, 7, dtype=dtype)
    memory = ours.input_projection(patches)
    sine = DetrSinePositionEmbedding(16, normalize=True)
    positions = sine(shape=memory.shape, device="cpu", dtype=dtype, mask=torch.ones(2, 5, 7, dtype=torch.bool))
    if positions.dim() == 4:  # flat before transformers 5.8
        positions = positions.flatten(2).transpose(1, 2)
    assert relative(sine_positions((5, 7), 32, memory).expand(2, -1, -1), positions) < bound
    states = ours(patches)
    layers = theirs.layers
    for count in (1, 2, 3):
        theirs.layers = layers[:count]
        output = theirs(
            inputs_embeds=torch.zeros(2, 6, 32, dtype=dtype),
            encoder_hidden_states=memory.flatten(2).transpose(1, 2),
            spatial_position_embeddings=positions,
            object_queries_position_embeddings=queries.expand(2, -1, -1),
        )
        assert relative(states[:, count - 1], output.last_hidden_state) < bound


@pytest.mark.parametrize("backbone", ["vit", "swin", "pit"])
@both_dtypes
def test_a_detr_of_transformers_on_our_backbone_is_our_detector(backbone, dtype, bound):
    """Whole, without its encoder, whose place ours takes: outputs, loss, gradients; and the tensors there and back."""
    with default_dtype(dtype):
        theirs = fill(transformers.DetrForObjectDetection(detr_config(backbone_config=tiny(**BACKBONES[backbone]))))
        ours = ViTCustomForObjectDetection(tiny(**BACKBONES[backbone], **detr_fields(theirs.config), num_labels=7))
        ours.eval().vit.load_state_dict(theirs.model.backbone.model.vit.state_dict())
        tensors = theirs.state_dict()
        aside = take_detr_decoder(ours, tensors)
        spelling = choose(detr_tables(ours.config), tensors)
        returned = give_detr_decoder(ours, aside, spelling)
        assert returned.keys() == tensors.keys()
        assert all(torch.equal(returned[name], tensor) for name, tensor in tensors.items())
        found = []
        for model in (theirs, ours):
            pixel_values = pixels(40, 24, dtype)
            output = model(pixel_values=pixel_values, labels=objects(2, 4, dtype=dtype))
            output.loss.backward()
            flat = dict(logits=output.logits, pred_boxes=output.pred_boxes, loss=output.loss)
            found.append(flat | output.loss_dict | {"pixels": pixel_values.grad})
        assert found[0].keys() == found[1].keys()
        for name, tensor in found[0].items():
            assert relative(found[1][name], tensor) < bound, name


@pytest.mark.parametrize("counts", [(3, 0, 2, 1), (0, 0, 0, 1), (8, 2, 0, 0)], ids=str)
@both_dtypes
def test_the_loss_is_transformers_own(counts, dtype, bound):
    """The total, each part of each layer, and the gradients; images without objects among them."""
    labels = objects(*counts, dtype=dtype)
    with default_dtype(dtype):
        (logits, boxes), found = predictions((3, len(counts), 8), dtype), []
        for loss in (
            lambda: ForObjectDetectionLoss(logits[-1], labels, "cpu", boxes[-1], LOSS, logits, boxes)[:2],
            lambda: detection_loss(logits, boxes, labels, LOSS),
        ):
            total, parts = loss()
            gradients = torch.autograd.grad(total, (logits, boxes))
            found.append(parts | dict(total=total, logits=gradients[0], boxes=gradients[1]))
    assert found[0].keys() == found[1].keys()
    for name, value in found[0].items():
        assert relative(found[1][name], value) < bound, name


@pytest.mark.parametrize(
    ("hidden_size", "depth", "heads", "size", "mid", "count"),
    [
        (192, 12, 3, [800, 1333], False, 6_488_736),
        (384, 12, 6, [512, 864], True, 30_684_768),
        (768, 12, 12, [800, 1344], True, 127_798_368),
    ],
    ids=("tiny", "small", "base"),
)
def test_yolos_has_its_public_number_of_parameters(hidden_size, depth, heads, size, mid, count):
    sizes = dict(hidden_size=hidden_size, num_hidden_layers=depth, num_attention_heads=heads)
    config = transformers.YolosConfig(
        **sizes, intermediate_size=4 * hidden_size, image_size=size, use_mid_position_embeddings=mid, num_labels=91
    )
    with torch.device("meta"):
        theirs = transformers.YolosForObjectDetection(config)
        ours = yolos_from_transformers(theirs)
    assert theirs.num_parameters() == ours.num_parameters() == count


# The loss and its normalisers


COUNTS = (3, 0, 9, 1, 2, 0)  # the third has more objects than there are queries
SPLITS = [[6], [3, 3], [1, 1, 1, 1, 1, 1], [2, 4], [5, 1]]


@pytest.mark.parametrize("split", SPLITS, ids=str)
@every_kind
def test_every_split_of_a_step_gives_one_gradient(kind, split):
    """Given the counts of the whole step, the shares of the loss and of each part of it add up to the whole's."""
    model, pixel_values, labels = detector(kind).double(), picture(6, 3, 32, 32, dtype=torch.float64), objects(*COUNTS)
    found = []
    for sizes in ([6], split):
        model.zero_grad()
        rows = torch.arange(6).split(sizes)
        batches = [(pixel_values[row], [labels[index] for index in row]) for row in rows]
        step = torch.stack([model.count_items(labels=targets) for _, targets in batches]).sum(0)
        sums: dict = {}
        for pixels_of_batch, targets in batches:
            output = model(pixel_values=pixels_of_batch, labels=targets, num_items_in_batch=step)
            output.loss.backward()
            for name, part in {"loss": output.loss, **output.loss_dict}.items():
                sums[name] = sums.get(name, 0) + part.detach()
        found.append(sums | {name: parameter.grad for name, parameter in model.named_parameters()})
    for name, tensor in found[0].items():
        torch.testing.assert_close(found[1][name], tensor, msg=name)
    assert model.count_items(labels=labels).tolist() == [3 + 6 + 1 + 2, 6]
    assert model.accepts_loss_kwargs is False


@every_kind
def test_without_the_counts_of_a_step_a_batch_is_a_step(kind):
    model, inputs = detector(kind), dict(pixel_values=picture(3, 3, 32, 32), labels=objects(3, 0, 9))
    counts = model.count_items(**inputs)
    assert torch.equal(model(**inputs).loss, model(**inputs, num_items_in_batch=counts).loss)


def test_objects_beyond_the_queries_are_not_counted():
    """As many as match: transformers divides by all objects, so that its loss shrinks when more than Q are there."""
    labels = objects(9, 2)
    logits, boxes = predictions((1, 2, 4), torch.float32)
    _, parts = detection_loss(logits, boxes, labels, LOSS)
    _, theirs, _ = ForObjectDetectionLoss(
        logits[0], labels, "cpu", boxes[0], SimpleNamespace(**vars(LOSS) | {"auxiliary_loss": False})
    )
    for name, factor in (("loss_ce", 1), ("cardinality_error", 1), ("loss_bbox", 11 / 6), ("loss_giou", 11 / 6)):
        torch.testing.assert_close(parts[name], theirs[name] * factor)


@pytest.mark.parametrize("counts", [(0, 0), (0,), (0, 1)], ids=str)
@pytest.mark.parametrize("eos", [0.1, 0])
@every_kind
def test_images_without_objects_teach_that_there_are_none(kind, counts, eos):
    model = detector(kind, eos_coefficient=eos)
    output = model(pixel_values=picture(len(counts), 3, 32, 32), labels=objects(*counts))
    output.loss.backward()
    assert output.loss.isfinite()
    assert (output.loss > 0) == (eos > 0 or sum(counts) > 0)
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


def test_half_precision_has_the_loss_in_single():
    """bfloat16 cannot tell 100 boxes apart from 101; nor do boxes of a batch that were cast to it lie outside."""
    logits, boxes = (tensor.to(torch.bfloat16) for tensor in predictions((3, 2, 8), torch.float32))
    labels = [target | {"boxes": target["boxes"].bfloat16()} for target in objects(5, 2)]
    loss, _ = detection_loss(logits, boxes, labels, LOSS)
    expected, _ = detection_loss(logits.float(), boxes.float(), labels, LOSS)
    assert loss.dtype == torch.float32
    assert torch.equal(loss, expected)


# Bad input


def one_object(**changes) -> list[dict]:
    """Two images; the second, whose id is 77, has a mistake."""
    target = dict(
        class_labels=torch.tensor([1]), boxes=torch.tensor([[0.5, 0.5, 0.2, 0.2]]), image_id=torch.tensor([77])
    )
    target |= {name: value if value is None else torch.tensor(value) for name, value in changes.items()}
    return [*objects(2), {name: value for name, value in target.items() if value is not None}]


BAD = {
    "pixels": (dict(boxes=[[50.0, 40.0, 20.0, 20.0]]), r"\[50.0, 40.0, 20.0, 20.0\].*above 1, as if in pixels: give"),
    "corners": (dict(boxes=[[0.1, 0.2, 0.9, 0.8]]), "beyond the image: cut it off there; if it holds corners"),
    "outside": (dict(boxes=[[0.95, 0.5, 0.2, 0.2]]), "beyond the image: cut it off"),
    "negative": (dict(boxes=[[-0.1, 0.5, 0.1, 0.2]]), "beyond the image: cut it off"),
    "no area": (dict(boxes=[[0.5, 0.5, 0.0, 0.2]]), "no area: leave the object out"),
    "nan": (dict(boxes=[[float("nan"), 0.5, 0.1, 0.2]]), "a box that is not finite: clean the data"),
    "class": (
        dict(class_labels=[5]),
        "class 5, but `num_labels` is 5, so classes are 0 to 4: set `num_labels`, or map",
    ),
    "negative class": (dict(class_labels=[-1]), "class -1, but `num_labels` is 5"),
    "float class": (dict(class_labels=[1.0]), "type torch.float32: give integer class ids"),
    "shapes": (dict(class_labels=[1, 2]), r"\(2,\) and `boxes` of shape \(1, 4\): they must be \(objects\) and"),
    "five numbers": (dict(boxes=[[0.5, 0.5, 0.1, 0.1, 1]]), r"`boxes` of shape \(1, 5\)"),
    "empty in a wrong shape": (dict(class_labels=[], boxes=[]), r"of no objects \(0\) and \(0, 4\)"),
    "no boxes": (dict(boxes=None), "no tensor `boxes`: give both, empty ones for an image without objects"),
    "nothing": (dict(boxes=None, class_labels=None), "no tensor `class_labels` and `boxes`: give both"),
}


@pytest.mark.parametrize("name", BAD)
def test_labels_that_cannot_be_meant_are_refused_with_their_image(name):
    changes, sentence = BAD[name]
    model, labels = detector("vit"), one_object(**changes)
    for refuse in (lambda: model(pixel_values=picture(2, 3, 32, 32), labels=labels), lambda: model.count_items(labels)):
        with pytest.raises(ValueError, match=rf"Image 1 of the batch \(image_id 77\) has .*{sentence}"):
            refuse()


def test_as_many_labels_as_images():
    model, pixel_values = detector("vit"), picture(2, 3, 32, 32)
    with pytest.raises(ValueError, match="one dictionary an image, got 3 for 2 images"):
        model(pixel_values=pixel_values, labels=objects(1, 1, 1))
    with pytest.raises(ValueError, match="a list of one dictionary an image, got a Tensor"):
        model(pixel_values=pixel_values, labels=torch.tensor([0, 1]))
    with pytest.raises(ValueError, match="Image 0 of the batch has no tensor `class_labels` and `boxes`"):
        model(pixel_values=pixel_values, labels=[torch.tensor(1), torch.tensor(0)])


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_predictions_that_are_not_finite_are_not_matched_in_silence(value):
    """transformers' matcher takes them for bad ones and goes on."""
    pixel_values = picture(2, 3, 32, 32)
    pixel_values[1, 0, 3, 3] = value
    with pytest.raises(
        ValueError, match="Image 1 of the batch has predictions that are not finite: look at its pixels"
    ):
        detector("vit")(pixel_values=pixel_values, labels=objects(1, 1))


def test_windows_have_no_place_for_detection_tokens_and_the_sentence_says_what_to_do():
    with pytest.raises(StrictDataclassError, match=r"no place for prefix tokens.*decoder.*100 of them") as refused:
        tiny(**VARIANTS["swin"] | dict(prefix_tokens=["detection"] * 100))
    assert len(str(refused.value)) < 400


def test_without_scipy_a_detector_loads_and_predicts_and_its_loss_says_what_to_install(tmp_path):
    """In a process of its own: transformers looks for scipy once, when it is imported."""
    detector("vit").save_pretrained(tmp_path / "checkpoint")
    program = f"""
import importlib.abc, json, sys
class NoScipy(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("scipy", "modeling_vit_custom", "sklearn"):
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, NoScipy())
sys.modules["scipy"] = sys.modules["sklearn"] = None
import torch
from transformers import AutoModelForObjectDetection
model = AutoModelForObjectDetection.from_pretrained({str(tmp_path / "checkpoint")!r}, trust_remote_code=True)
pixel_values = torch.full((1, 3, 32, 32), 0.5)
said = {{"logits": model(pixel_values=pixel_values).logits.tolist()}}
none = dict(class_labels=torch.zeros(0, dtype=torch.long), boxes=torch.zeros(0, 4))
said["empty"] = model(pixel_values=pixel_values, labels=[none]).loss.isfinite().item()
labels = [dict(class_labels=torch.tensor([1]), boxes=torch.full((1, 4), 0.5))]
try:
    model(pixel_values=pixel_values, labels=labels)
except ImportError as error:
    said["refusal"] = str(error)
print(json.dumps(said))
"""
    done = subprocess.run([sys.executable, "-P", "-c", program], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert said["refusal"] == (
        "Training a detector matches predictions to objects by scipy: install it (pip install scipy)."
    )
    assert said["empty"]
    expected = detector("vit")(pixel_values=torch.full((1, 3, 32, 32), 0.5)).logits
    torch.testing.assert_close(torch.tensor(said["logits"]), expected)


def test_detection_tokens_stand_side_by_side():
    with pytest.raises(
        StrictDataclassError, match="'detection' tokens with others between them: put them side by side"
    ):
        tiny(prefix_tokens=["cls", "detection", "register", "detection"])
    tokens = ["cls", "register", "detection", "detection", "register"]
    logits = fill(ViTCustomForObjectDetection(tiny(prefix_tokens=tokens)))(picture(1, 3, 32, 32)).logits
    assert logits.shape == (1, 2, 6)


# Images of several sizes


def padded(*images: torch.Tensor) -> dict[str, torch.Tensor]:
    """Beside each other; the padding is not zero, so that an answer that looks at it differs."""
    height, width = (max(image.shape[side] for image in images) for side in (1, 2))
    room = [(0, width - image.shape[2], 0, height - image.shape[1]) for image in images]
    pairs = list(zip(images, room, strict=True))
    return dict(
        pixel_values=torch.stack([nn.functional.pad(image, r, value=7.0) for image, r in pairs]),
        pixel_mask=torch.stack([nn.functional.pad(torch.ones_like(image[0]), r) for image, r in pairs]).long(),
    )


@every_kind
def test_an_images_boxes_are_equal_alone_and_beside_a_larger_mate(kind):
    model, sizes = detector(kind), [(32, 32), (24, 48), (48, 40), (24, 48)]
    images = [picture(1, 3, *size)[0] + index for index, size in enumerate(sizes)]
    labels = objects(2, 0, 3, 1)
    together = model(**padded(*images), labels=labels)
    losses = []
    for index, image in enumerate(images):
        alone = model(
            pixel_values=image[None], labels=labels[index : index + 1], num_items_in_batch=torch.tensor([6, 4])
        )
        losses.append(alone.loss)
        assert relative(together.logits[index], alone.logits[0]) < 1e-5
        assert relative(together.pred_boxes[index], alone.pred_boxes[0]) < 1e-5
    torch.testing.assert_close(together.loss, sum(losses), rtol=1e-5, atol=1e-5)


def test_a_padded_batch_of_one_size_is_cut_to_it():
    model, image = detector("vit"), picture(2, 3, 32, 24)
    inputs = padded(image[0], image[1], picture(1, 3, 40, 40)[0])
    inputs = {name: value[:2] for name, value in inputs.items()}
    torch.testing.assert_close(model(**inputs).logits, model(pixel_values=image).logits)
    assert model(**inputs, output_hidden_states=True).hidden_states[0].shape[1] == 1 + 4 * 3


def test_several_sizes_have_no_hidden_states_in_one_tensor():
    inputs = padded(picture(1, 3, 32, 32)[0], picture(1, 3, 40, 24)[0])
    for name in ("output_hidden_states", "output_attentions"):
        with pytest.raises(ValueError, match="several sizes are no single tensors: ask for them with one size"):
            detector("vit")(**inputs, **{name: True})


# The model as a module


@every_kind
def test_forward_changes_nothing_and_every_parameter_learns(kind):
    """Big, small, big again: the first answer bit for bit."""
    model, labels = detector(kind), objects(2, 1)
    before = [dict(vars(module)) for module in model.modules()]
    first = model(pixel_values=picture(2, 3, 48, 40)).logits
    model(pixel_values=picture(2, 3, 24, 24), labels=labels).loss.backward()
    assert torch.equal(model(pixel_values=picture(2, 3, 48, 40)).logits, first)
    assert [dict(vars(module)) for module in model.modules()] == before
    assert not list(model.named_buffers())
    idle = [name for name, parameter in model.named_parameters() if parameter.grad is None or not parameter.grad.any()]
    # DETR's first layer has only positions to tell its queries apart: there is nothing to say between them yet.
    assert idle == ([] if kind == "yolos" else ["box_decoder.layers.0.self_attention.v_proj.weight"])


@every_kind
def test_every_back_end_says_the_same_and_the_decoder_follows_a_change(kind):
    model, pixel_values = detector(kind).double(), picture(2, 3, 32, 40, dtype=torch.float64)
    found = model(pixel_values=pixel_values).logits
    model.set_attn_implementation("eager")
    torch.testing.assert_close(model(pixel_values=pixel_values).logits, found, rtol=1e-6, atol=1e-6)
    if model.box_decoder is not None:
        attention = model.box_decoder.layers[0].cross_attention
        assert attention.config._attn_implementation == "eager"
        assert copy.deepcopy(model).box_decoder.layers[0].cross_attention.config.config is not model.config


@every_kind
def test_outputs_have_names_and_a_tuple_the_same_order(kind):
    model, pixel_values = detector(kind), picture(2, 3, 32, 32)
    output = model(pixel_values, output_hidden_states=True, output_attentions=True)
    assert list(output) == ["logits", "pred_boxes", "last_hidden_state", "hidden_states", "attentions"]
    assert output.logits.shape == (2, 6, 6)
    assert output.pred_boxes.shape == (2, 6, 4)
    torch.testing.assert_close(model(pixel_values, return_dict=False)[1], output.pred_boxes)
    output = model(pixel_values, labels=objects(1, 1))
    assert len(output.auxiliary_outputs or ()) == (0 if kind == "yolos" else 2)
    assert {"loss", "logits", "pred_boxes"} == {*output} - {*model.config.keys_to_ignore_at_inference}


def test_each_part_of_the_loss_has_its_weight():
    inputs = dict(pixel_values=picture(2, 3, 32, 32), labels=objects(2, 1))
    output = detector("yolos", bbox_loss_coefficient=3, giou_loss_coefficient=0.5)(**inputs)
    parts = output.loss_dict
    torch.testing.assert_close(output.loss, parts["loss_ce"] + 3 * parts["loss_bbox"] + 0.5 * parts["loss_giou"])
    last = detector("vit", auxiliary_loss=False)(**inputs)
    assert {name[-1] for name in last.loss_dict}.isdisjoint("0123456789")
    assert last.auxiliary_outputs is None


@every_kind
def test_a_new_head_on_a_pretrained_encoder(kind, tmp_path):
    """The encoder's tensors come as they are; the head starts as DETR's released code starts it: queries differ."""
    torch.manual_seed(0)
    trained = detector(kind)
    trained.vit.save_pretrained(tmp_path)
    model = ViTCustomForObjectDetection.from_pretrained(tmp_path)
    for name, tensor in trained.vit.state_dict().items():
        assert torch.equal(model.vit.state_dict()[name], tensor)
    matrices = {name: p for name, p in model.named_parameters() if p.dim() == 2 and not name.startswith("vit.")}
    assert len(matrices) == (6 if kind == "yolos" else 3 * 10 + 4)
    for name, matrix in matrices.items():
        bound = (6 / sum(matrix.shape)) ** 0.5
        assert 0.9 * bound < matrix.abs().max() <= bound, name
    if kind != "yolos":
        assert model.box_decoder.query_positions.detach().std() == pytest.approx(1, abs=0.2)
        assert (model(picture(1, 3, 32, 32)).pred_boxes.std(dim=1) > 5e-4).all()
