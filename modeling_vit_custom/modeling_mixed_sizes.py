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
"""Images of several sizes in one padded batch: each is computed at its own size, so its answer does not depend on its
batch mates. Padding is cut off rather than masked: positions, windows and convolutions see what they see alone.

B batch, C channels, H W pixels.
"""

from typing import Any

import torch

from .modeling_arguments import may_look


def same_size_parts(
    pixel_values: torch.Tensor, pixel_mask: torch.Tensor | None
) -> list[tuple[torch.Tensor | None, torch.Tensor]]:
    """(B, C, H, W), (B, H, W) -> [(b), (b, C, H', W')]: the images of each size without their padding, and where they
    stand in the batch; None for the whole batch. The mask is 1 on the image, 0 on the padding below and to the right.

    It looks at the mask's values: one stall of the device, and not to be compiled or exported. Leave it out there.
    """
    if pixel_mask is None:
        return [(None, pixel_values)]
    if pixel_mask.shape != (pixel_values.shape[0], *pixel_values.shape[2:]):
        raise ValueError(
            f"`pixel_mask` must be (batch, height, width) as `pixel_values`, {tuple(pixel_values.shape)}, got "
            f"{tuple(pixel_mask.shape)}: take both from one call of the image processor."
        )
    mask = pixel_mask.bool()
    heights, widths = mask.any(dim=2).sum(dim=1), mask.any(dim=1).sum(dim=1)
    down, across = (torch.arange(side, device=mask.device) for side in mask.shape[1:])
    images = (down < heights[:, None])[:, :, None] & (across < widths[:, None])[:, None]
    if not ((images == mask).all() and (heights > 0).all()):
        raise ValueError("`pixel_mask` must be 1 on a rectangle at the top left and 0 elsewhere: pad below and right.")
    places: dict[tuple[int, int], list[int]] = {}
    for place, (height, width) in enumerate(torch.stack((heights, widths), dim=1).tolist()):
        places.setdefault((height, width), []).append(place)
    if len(places) == 1:
        ((height, width),) = places
        return [(None, pixel_values[:, :, :height, :width])]
    parts: list[tuple[torch.Tensor | None, torch.Tensor]] = []
    for (height, width), where in places.items():
        index = torch.tensor(where, device=pixel_values.device)
        parts.append((index, pixel_values[index, :, :height, :width]))
    return parts


def in_batch_order(parts: list[tuple[torch.Tensor | None, torch.Tensor]]) -> torch.Tensor:
    """[(b), (b, ...)] -> (B, ...): what was computed part by part, as one batch again."""
    tensors = [tensor for _, tensor in parts]
    if parts[0][0] is None:
        return tensors[0]
    order = torch.cat([index for index, _ in parts if index is not None]).argsort()
    return torch.cat(tensors)[order]


def refuse_mixed_sizes(kwargs: Any):
    """Raise where a batch is padded for a model that computes whole images only; take the masks out of `kwargs`."""
    for name in ("pixel_mask", "attention_mask"):
        mask = kwargs.pop(name, None)
        if mask is not None and may_look(mask, stall=True) and not mask.all():
            raise ValueError(
                f"This model takes no padded images, and `{name}` has zeros: `pixel_mask` is for detection and "
                "segmentation. Resize the images of a batch to one size, or pass them one size at a time."
            )
