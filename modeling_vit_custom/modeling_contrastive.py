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
"""What stands between an image tower and a text tower: a caption's vector, and losses over all pairs of a batch, which
on several processes is the batch of all of them.

B batch, M tokens of a caption, D width, E width of the shared space, R processes.
"""

from functools import partial
from typing import Any

import torch
from torch import distributed
from torch import nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPooling

from .configuration_dual_encoder import MAX_LOGIT_SCALE
from .modeling_arguments import may_look


def num_text_positions(text_model: PreTrainedModel) -> int | None:
    """How long a caption may be. RoBERTa counts its positions from behind that of padding."""
    for name, module in text_model.named_modules():
        if "position" in name and isinstance(module, nn.Embedding) and module.padding_idx is not None:
            return module.num_embeddings - module.padding_idx - 1
    return getattr(text_model.config, "max_position_embeddings", None)


def check_captions(
    input_ids: torch.Tensor, attention_mask: torch.Tensor, num_positions: int | None, vocab_size: int, end: int | None
):
    """Raise where captions cannot be read. Values are looked at on CPU only: elsewhere it would stall the device.

    Args:
        end: the token whose vector is the caption's, if the text tower takes one (CLIP). Without it in a caption the
            tower takes the first token, which is the same for all.
    """
    if num_positions is not None and input_ids.shape[1] > num_positions:
        raise ValueError(
            f"Captions of {input_ids.shape[1]} tokens are longer than the {num_positions} positions of the text tower: "
            f"tokenise with truncation=True, max_length={num_positions}."
        )
    if attention_mask.shape != input_ids.shape:
        raise ValueError(
            f"`attention_mask` must be as `input_ids`, {tuple(input_ids.shape)}, got {tuple(attention_mask.shape)}: "
            "take both from one call of the tokenizer."
        )
    if not may_look(input_ids) or not input_ids.numel():
        return
    for token in (int(input_ids.max()), int(input_ids.min())):
        if not 0 <= token < vocab_size:
            raise ValueError(
                f"Token {token} is not among the {vocab_size} that the text tower knows: take its own tokenizer, "
                "or call `resize_token_embeddings(len(tokenizer))`."
            )
    if end is not None:
        ends = input_ids == end
        if end == 2:  # CODEPATH: CLIP's towers with 2, a mistake of older transformers, take the highest token instead
            zeros = (input_ids == 0).flip(1).int().cumprod(dim=1)  # at its end, as OpenAI's tokenizer pads
            seen = attention_mask.flip(1).int() * (1 - zeros)
            last = attention_mask.shape[1] - 1 - seen.argmax(dim=1, keepdim=True)
            ends = input_ids.gather(1, last) == input_ids.amax(dim=1, keepdim=True)
        if not ends.any(dim=1).all():
            raise ValueError(
                f"Caption {int(ends.any(dim=1).int().argmin())} of the batch has no end token {end}, where the text "
                "tower looks: set `eos_token_id` in `text_config` to the tokenizer's, and end each caption with it"
                f"{' (2 means the highest token of a caption, as in CLIP)' if end == 2 else ''}."
            )
    if not attention_mask.any(dim=1).all():
        empty = int(attention_mask.any(dim=1).int().argmin())
        raise ValueError(f"Caption {empty} of the batch has no tokens: leave out pairs without a caption.")


def pool_text(outputs: Any, attention_mask: torch.Tensor, pooling: str) -> torch.Tensor:
    """`last_hidden_state` (B, M, D), (B, M), 0 on padding at either end -> (B, D)"""
    if pooling == "pooler_output":
        if outputs.get("pooler_output") is None:
            raise ValueError(
                "This text model has no `pooler_output`: set `text_pooling` to 'last' if it reads from left to right "
                "only, as GPT-2 does, else to 'mean' or 'cls'."
            )
        return outputs.pooler_output
    hidden_states, mask = outputs.last_hidden_state, attention_mask.bool()
    if pooling == "mean":
        return (hidden_states * mask[:, :, None]).sum(dim=1) / mask.sum(dim=1, keepdim=True)
    places = torch.arange(1, mask.shape[1] + 1, device=mask.device)
    place = (mask * (places.flip(0) if pooling == "cls" else places)).argmax(dim=1)
    return hidden_states[torch.arange(len(place), device=place.device), place]


def as_features(outputs: Any, features: torch.Tensor) -> BaseModelOutputWithPooling:
    """A tower's outputs, (B, E) -> the same with these for `pooler_output`, and without a decoder's cache"""
    return BaseModelOutputWithPooling(
        last_hidden_state=outputs.last_hidden_state,
        pooler_output=features,
        hidden_states=outputs.hidden_states,
        attentions=outputs.attentions,
    )


def similarity(
    rows: torch.Tensor, columns: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor | None
) -> torch.Tensor:
    """(B, E), (B', E), (1), (1) -> (B, B'): scaled cosines, in float32 at least."""
    dtype = torch.promote_types(rows.dtype, torch.float32)
    logits = rows.to(dtype) @ columns.to(dtype).t() * scale.to(dtype).exp()
    return logits if bias is None else logits + bias


class CappedScale(torch.autograd.Function):
    """A logarithm that counts as at most log(100) (CLIP, section 2.5), and learns as if it were clipped at each step.

    The original clips the parameter. To clip only its value would stop all gradients above the limit, and so leave the
    temperature there for good: here stops the gradient alone that leads further up, judged over all processes.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(scale: torch.Tensor, together: bool) -> torch.Tensor:
        """(1) -> (1)"""
        return scale.clamp(max=MAX_LOGIT_SCALE)

    @staticmethod
    def setup_context(ctx, inputs: tuple[torch.Tensor, bool], output: torch.Tensor):
        """(1) -> nothing"""
        ctx.save_for_backward(inputs[0])
        ctx.together = inputs[1]

    @staticmethod
    def backward(ctx, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        """(1) -> (1)"""
        (scale,) = ctx.saved_tensors
        total = gradient.clone()
        if ctx.together:
            distributed.all_reduce(total)
        return gradient.masked_fill((scale > MAX_LOGIT_SCALE) & (total < 0), 0), None


class GatherWithGradient(torch.autograd.Function):
    """All processes' rows on each; a row's gradient is the sum of what all processes found for it.

    With each process's loss the mean over its own rows, averaged gradients (as DistributedDataParallel's) are then
    those of one process with the whole batch.
    """

    @staticmethod
    def forward(ctx, rows: torch.Tensor) -> torch.Tensor:
        """(B, D) -> (R * B, D)"""
        parts = [torch.empty_like(rows) for _ in range(num_processes())]
        distributed.all_gather(parts, rows)
        return torch.cat(parts)

    @staticmethod
    def backward(ctx, gradient: torch.Tensor) -> torch.Tensor:
        """(R * B, D) -> (B, D)"""
        total = gradient.clone(memory_format=torch.contiguous_format)
        distributed.all_reduce(total)  # and not reduce_scatter, which gloo has not
        return total.chunk(num_processes())[distributed.get_rank()]


def num_processes() -> int:
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1


def check_equal_batches(rows: torch.Tensor):
    """Raise on every process where one has another number of rows: they could not be gathered."""
    own = torch.tensor([len(rows)], device=rows.device)
    counts = [torch.empty_like(own) for _ in range(num_processes())]
    distributed.all_gather(counts, own)
    sizes = torch.cat(counts).tolist()
    if len(set(sizes)) > 1:
        raise ValueError(
            f"The processes have batches of {sizes} pairs, a contrastive loss needs equal ones: set "
            "`dataloader_drop_last=True`, or take a sampler that fills the last batch."
        )


def contrastive_loss(
    image_embeds: torch.Tensor,
    text_embeds: torch.Tensor,
    scale: torch.Tensor,
    bias: torch.Tensor | None,
    together: bool,
    num_items_in_batch: torch.Tensor | None,
) -> torch.Tensor:
    """(B, E), (B, E), (1), (1) -> (): sigmoid loss of each pair where there is a bias, else cross entropy both ways.

    A mean over the pairs of this process, or their share of a mean over `num_items_in_batch`.

    Args:
        together: they are told apart from those of the other processes too.
    """
    images, texts, first = image_embeds, text_embeds, 0
    if together:
        check_equal_batches(image_embeds)
        images, texts = GatherWithGradient.apply(torch.cat((images, texts), dim=1)).chunk(2, dim=1)
        first = distributed.get_rank() * len(image_embeds)
    partners = torch.arange(first, first + len(image_embeds), device=image_embeds.device)
    per_text = similarity(text_embeds, images, scale, bias)
    if bias is not None:  # CODEPATH: SigLIP
        matches = partners[:, None] == torch.arange(len(images), device=images.device)
        losses = -nn.functional.logsigmoid(torch.where(matches, per_text, -per_text)).sum()
    else:
        per_image = similarity(image_embeds, texts, scale, bias)
        entropy = partial(nn.functional.cross_entropy, target=partners, reduction="sum")
        losses = (entropy(per_text) + entropy(per_image)) / 2
    return losses / (len(image_embeds) if num_items_in_batch is None else num_items_in_batch)
