"""Laws of the losses: they follow the declared problem type, and no split of a batch changes the gradient."""

import pytest
import torch
from torch.nn import functional

from modeling_vit_custom import ViTCustomForImageClassification
from modeling_vit_custom.modeling_heads import classification_loss
from tests.support import fill
from tests.support import picture
from tests.support import tiny

LABELS = {
    "single_label_classification": torch.tensor([0, 4, 2, 1, 3, 3, 0, 2]),
    "multi_label_classification": (torch.arange(40) % 3 == 0).float().view(8, 5),
    "soft_label_classification": picture(8, 5).softmax(-1),
    "regression": picture(8, 5),
}
TORCH = {
    "single_label_classification": functional.cross_entropy,
    "multi_label_classification": functional.binary_cross_entropy_with_logits,
    "soft_label_classification": functional.cross_entropy,
    "regression": functional.mse_loss,
}
every_problem = pytest.mark.parametrize("problem", LABELS)


@every_problem
def test_the_loss_is_the_declared_one(problem):
    logits = picture(8, 5) + 1
    loss = classification_loss(LABELS[problem], logits, tiny(problem_type=problem))
    torch.testing.assert_close(loss, TORCH[problem](logits, LABELS[problem]))


@every_problem
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_given_the_number_of_labels_the_loss_is_this_batchs_share_and_in_float32(problem, dtype):
    logits, labels, config = picture(8, 5).to(dtype), LABELS[problem], tiny(problem_type=problem)
    mean = classification_loss(labels, logits, config)
    share = classification_loss(labels, logits, config, num_items_in_batch=torch.tensor(2 * labels.numel()))
    torch.testing.assert_close(share, mean / 2)
    assert share.dtype == torch.float32


@every_problem
@pytest.mark.parametrize("splits", [[2, 2, 2, 2], [1, 7], [5, 3]], ids=str)
def test_the_gradient_is_the_same_for_every_split_of_a_batch(problem, splits):
    """As transformers' Trainer accumulates: each part is given the number of labels in the whole step."""
    images, labels = picture(8, 3, 32, 32, dtype=torch.float64), LABELS[problem]
    gradients = []
    for parts in ([8], splits):
        model = fill(ViTCustomForImageClassification(tiny(problem_type=problem))).double()
        for x, y in zip(images.split(parts), labels.split(parts), strict=True):
            model(x, labels=y, num_items_in_batch=(labels != -100).sum()).loss.backward()
        gradients.append(torch.cat([parameter.grad.flatten() for parameter in model.parameters()]))
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-9, atol=1e-12)


def test_an_ignored_label_counts_for_nothing():
    logits, labels = picture(4, 5), torch.tensor([1, -100, 2, -100])
    config = tiny(problem_type="single_label_classification")
    expected = classification_loss(labels[[0, 2]], logits[[0, 2]], config)
    torch.testing.assert_close(classification_loss(labels, logits, config), expected)


def test_undeclared_integers_are_classes_one_number_is_regression_and_forward_declares_nothing():
    config = tiny()
    logits = picture(8, 5)
    loss = classification_loss(LABELS["single_label_classification"], logits, config)
    torch.testing.assert_close(loss, functional.cross_entropy(logits, LABELS["single_label_classification"]))
    assert config.problem_type is None
    loss = classification_loss(picture(8), picture(8, 1), tiny(num_labels=1))
    torch.testing.assert_close(loss, functional.mse_loss(picture(8, 1).squeeze(), picture(8)))


@pytest.mark.parametrize(
    ("labels", "problem", "message"),
    [
        (torch.tensor([0, 5]), "single_label_classification", "Label 5 is out of range: `num_labels` is 5"),
        (torch.tensor([-1, 0]), "single_label_classification", "Label -1 is out of range"),
        (torch.tensor([0]), "single_label_classification", "one integer label an image"),
        (torch.tensor([0.0, 1.0]), "single_label_classification", "one integer label an image"),
        (torch.zeros(2, 4), "multi_label_classification", r"labels of the logits' shape \(2, 5\), got \(2, 4\)"),
        (torch.tensor([0, 1]), "soft_label_classification", r"labels of the logits' shape"),
        (torch.zeros(5, 2), "multi_label_classification", r"labels of the logits' shape \(2, 5\), got \(5, 2\)"),
        (torch.tensor([[0, 1]]), "single_label_classification", "one integer label an image"),
        (torch.full((2, 5), 2.0), "multi_label_classification", "needs labels from 0 to 1"),
        (torch.full((2, 5), -0.2), "soft_label_classification", "needs labels from 0 to 1"),
        (torch.zeros(2, 5), "soft_label_classification", "make each image's labels sum to 1"),
        (torch.full((2, 5), float("nan")), "regression", "needs finite labels"),
        (torch.zeros(2, 5), None, "can be probabilities or several yes-or-no labels: set `problem_type`"),
    ],
)
def test_labels_that_cannot_be_meant_get_a_sentence(labels, problem, message):
    with pytest.raises(ValueError, match=message):
        classification_loss(labels, torch.zeros(2, 5), tiny(problem_type=problem))


def test_a_problem_type_that_became_unknown_is_refused():
    config = tiny()
    config.problem_type = "classification"
    with pytest.raises(ValueError, match="must be one of single_label_classification"):
        classification_loss(torch.tensor([0, 1]), torch.zeros(2, 5), config)


@pytest.mark.parametrize(("name", "activation"), [("tanh", torch.tanh), ("relu", torch.relu)])
def test_the_mlp_head_has_one_hidden_layer(name, activation):
    model = fill(ViTCustomForImageClassification(tiny(head_hidden_size=24, head_hidden_act=name)))
    head, pooled = model.classifier, model.vit(picture(2, 3, 32, 32)).pooler_output
    expected = activation(pooled @ head.fc1.weight.T + head.fc1.bias) @ head.fc2.weight.T + head.fc2.bias
    assert head.fc1.weight.shape == (24, 32)
    torch.testing.assert_close(model(picture(2, 3, 32, 32)).logits, expected)


def test_no_labels_no_classifier():
    model = fill(ViTCustomForImageClassification(tiny(num_labels=0)))
    assert torch.equal(model(picture(2, 3, 32, 32)).logits, model.vit(picture(2, 3, 32, 32)).pooler_output)


@pytest.mark.parametrize(("pooling", "prefix_tokens"), [("cls", ["cls", "register"]), ("mean", ["cls", "register"])])
def test_poolings(pooling, prefix_tokens):
    outputs = fill(ViTCustomForImageClassification(tiny(pooling=pooling, prefix_tokens=prefix_tokens))).vit(
        picture(2, 3, 32, 32)
    )
    tokens = outputs.last_hidden_state
    assert tokens.shape == (2, 2 + 16, 32)
    torch.testing.assert_close(outputs.pooler_output, {"cls": tokens[:, 0], "mean": tokens[:, 2:].mean(1)}[pooling])


def test_both_vectors_side_by_side():
    model = fill(ViTCustomForImageClassification(tiny(pooling="cls_mean", prefix_tokens=["cls", "register"])))
    outputs = model.vit(picture(2, 3, 32, 32))
    tokens = outputs.last_hidden_state
    assert model.classifier.weight.shape == (5, 64)
    torch.testing.assert_close(outputs.pooler_output, torch.cat((tokens[:, 0], tokens[:, 2:].mean(1)), dim=1))


@pytest.mark.parametrize("final_norm", ["all", "pooled"])
@pytest.mark.parametrize("prefix_tokens", [["cls", "distillation"], ["cls", "register", "distillation"]])
def test_a_distilled_model_gives_both_logits_their_average_and_the_mean_of_their_losses(final_norm, prefix_tokens):
    config = tiny(prefix_tokens=prefix_tokens, distillation_head=True, final_norm=final_norm)
    model, labels = fill(ViTCustomForImageClassification(config)), torch.tensor([1, 4])
    output, inner = model(picture(2, 3, 32, 32), labels=labels), model.vit(picture(2, 3, 32, 32))
    place = prefix_tokens.index("distillation")
    token = model.vit.pooled_norm(inner.last_hidden_state[:, place])
    torch.testing.assert_close(output.cls_logits, model.classifier(inner.pooler_output))
    torch.testing.assert_close(output.distillation_logits, model.distillation_classifier(token))
    assert not torch.allclose(output.cls_logits, output.distillation_logits)
    torch.testing.assert_close(output.logits, (output.cls_logits + output.distillation_logits) / 2)
    losses = [functional.cross_entropy(logits, labels) for logits in (output.cls_logits, output.distillation_logits)]
    torch.testing.assert_close(output.loss, sum(losses) / 2)


def test_a_model_without_distillation_gives_neither():
    output = fill(ViTCustomForImageClassification(tiny()))(picture(2, 3, 32, 32))
    assert list(output) == ["logits"]
    plain = fill(ViTCustomForImageClassification(tiny(prefix_tokens=["cls", "distillation"])))
    assert list(plain(picture(2, 3, 32, 32))) == ["logits"]
