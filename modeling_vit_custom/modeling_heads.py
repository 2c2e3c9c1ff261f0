# Copyright 2026 The modeling_vit_custom authors.
#
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#
#     http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.
"""From tokens to an answer: poolings, the classifier, and its losses.

B batch, P prefix tokens, N tokens, D width, L labels.
"""

from dataclasses import dataclass

import torch
from torch import nn
from transformers.activations import ACT2FN
from transformers.modeling_outputs import ImageClassifierOutput

from .configuration_checks import PROBLEM_TYPES
from .modeling_arguments import may_look


def pool_cls(hidden_states: torch.Tensor, num_prefix_tokens: int) -> torch.Tensor:
    """(B, N, D) -> (B, D): the class token."""
    return hidden_states[:, 0]


def pool_mean(hidden_states: torch.Tensor, num_prefix_tokens: int) -> torch.Tensor:
    """(B, N, D) -> (B, D): the mean of the patch tokens."""
    return hidden_states[:, num_prefix_tokens:].mean(dim=1)


def pool_cls_mean(hidden_states: torch.Tensor, num_prefix_tokens: int) -> torch.Tensor:
    """(B, N, D) -> (B, 2 * D): both, side by side."""
    return torch.cat([pool(hidden_states, num_prefix_tokens) for pool in (pool_cls, pool_mean)], dim=1)


POOL = {"cls": pool_cls, "mean": pool_mean, "cls_mean": pool_cls_mean}


@dataclass
class ViTCustomImageClassifierOutput(ImageClassifierOutput):
    """Of a distilled model, whose `logits` (B, L) are the average of the two others; else these are None.

    Args:
        cls_logits (`torch.FloatTensor` of shape `(batch_size, num_labels)`): of the class token.
        distillation_logits (`torch.FloatTensor` of shape `(batch_size, num_labels)`): of the distillation token.
    """

    cls_logits: torch.FloatTensor | None = None
    distillation_logits: torch.FloatTensor | None = None


class ViTCustomMLPHead(nn.Module):
    """A classifier with one hidden layer, as in the original's pre-training ("An Image is Worth 16x16 Words", 3.1)."""

    def __init__(self, config):
        super().__init__()
        self.fc1 = nn.Linear(config.pooled_size, config.head_hidden_size)
        self.activation = ACT2FN[config.head_hidden_act]
        self.fc2 = nn.Linear(config.head_hidden_size, config.num_labels)

    def forward(self, pooled: torch.Tensor) -> torch.Tensor:
        """(B, D) -> (B, L)"""
        return self.fc2(self.activation(self.fc1(pooled)))


def make_classifier(config) -> nn.Module:
    """A map (B, D) -> (B, L); the identity where there are no labels."""
    if config.num_labels == 0:
        return nn.Identity()
    if config.head_hidden_size is not None:  # CODEPATH: checkpoints of the original's and big_vision's pre-training
        return ViTCustomMLPHead(config)
    return nn.Linear(config.pooled_size, config.num_labels)


def infer_problem_type(labels: torch.Tensor, num_labels: int) -> str:
    """What undeclared labels can only mean; floating-point labels of several classes are ambiguous, so they raise."""
    if num_labels == 1:
        return "regression"
    if not labels.is_floating_point():
        return "single_label_classification"
    raise ValueError(
        "Floating-point labels can be probabilities or several yes-or-no labels: set `problem_type` in the "
        "configuration to 'soft_label_classification', 'multi_label_classification' or 'regression'."
    )


def check_labels(labels: torch.Tensor, logits: torch.Tensor, problem_type: str):
    """Raise where `labels` cannot be meant. Values are looked at on CPU only: elsewhere it would stall the device."""
    batch, num_labels = logits.shape
    single = problem_type == "single_label_classification"
    if problem_type not in PROBLEM_TYPES:
        raise ValueError(f"`problem_type` must be one of {', '.join(PROBLEM_TYPES)}; got {problem_type!r}.")
    if single and (labels.is_floating_point() or tuple(labels.shape) not in ((batch,), (batch, 1))):
        raise ValueError(
            f"`problem_type='{problem_type}'` takes one integer label an image, got {labels.dtype} of shape "
            f"{tuple(labels.shape)} for {batch} images: declare another `problem_type`, or pass class ids."
        )
    if not single and labels.shape != logits.shape and not (num_labels == 1 and labels.shape == (batch,)):
        raise ValueError(
            f"`problem_type='{problem_type}'` takes labels of the logits' shape {tuple(logits.shape)}, got "
            f"{tuple(labels.shape)}: set `num_labels` to the labels' width, or declare another `problem_type`."
        )
    if not may_look(labels):
        return
    if single:
        wrong = labels[(labels != -100) & ((labels < 0) | (labels >= num_labels))]
        if len(wrong):
            raise ValueError(
                f"Label {int(wrong[0])} is out of range: `num_labels` is {num_labels}, so labels are 0 to "
                f"{num_labels - 1} (or -100, ignored). Set `num_labels`, or map the labels."
            )
    elif not labels.isfinite().all():
        raise ValueError(f"`problem_type='{problem_type}'` needs finite labels, some are not: clean the data.")
    elif problem_type != "regression" and not ((labels >= 0) & (labels <= 1)).all():
        raise ValueError(
            f"`problem_type='{problem_type}'` needs labels from 0 to 1: use 'regression' for other numbers."
        )
    elif problem_type == "soft_label_classification" and not ((labels.sum(-1) - 1).abs() < 0.01).all():
        raise ValueError(f"`problem_type='{problem_type}'` needs probabilities: make each image's labels sum to 1.")


def classification_loss(labels, logits, config, num_items_in_batch=None, **kwargs) -> torch.Tensor:
    """(B), (B, L) or probabilities (B, L), and logits (B, L) -> scalar: the loss that `config.problem_type` declares.

    The mean over the batch; or, given the number of label elements in a whole optimizer step (`num_items_in_batch`, as
    transformers' Trainer counts them), this batch's share of that step's mean, so that any split gives one gradient.
    """
    problem_type = config.problem_type or infer_problem_type(labels, config.num_labels)
    check_labels(labels, logits, problem_type)
    labels, logits = labels.to(logits.device), logits.to(torch.promote_types(logits.dtype, torch.float32))
    if problem_type == "single_label_classification":
        labels = labels.reshape(-1).long()
        losses, count = (
            nn.functional.cross_entropy(logits, labels, reduction="sum"),
            (labels != -100).sum().clamp(min=1),
        )
    else:
        labels = labels.reshape(logits.shape).to(logits.dtype)
        if problem_type == "soft_label_classification":
            losses, count = nn.functional.cross_entropy(logits, labels, reduction="sum"), logits.shape[0]
            num_items_in_batch = num_items_in_batch and num_items_in_batch / config.num_labels
        elif problem_type == "multi_label_classification":
            losses = nn.functional.binary_cross_entropy_with_logits(logits, labels, reduction="sum")
            count = labels.numel()
        else:
            losses, count = nn.functional.mse_loss(logits, labels, reduction="sum"), labels.numel()
    return losses / (count if num_items_in_batch is None else num_items_in_batch)
