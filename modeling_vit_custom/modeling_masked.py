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
"""Pre-training on images alone: SimMIM, on every backbone, and MAE, on those that can leave patches out.

B batch, C channels, H W pixels, h w grid, P prefix tokens, N tokens (P + h * w), n visible patches, D width.
"""

from collections.abc import Iterator
from typing import Any
from typing import Unpack

import torch
from torch import nn
from transformers import initialization as init
from transformers.modeling_outputs import MaskedImageModelingOutput
from transformers.models.vit_mae.modeling_vit_mae import ViTMAEForPreTrainingOutput
from transformers.utils import TransformersKwargs

# Not all are used: transformers before 5.9 copies only what a file that `auto_map` names imports itself.
from .checkpoint_files import check_loading
from .configuration_checks import pair
from .configuration_heads import HeadFields
from .configuration_keys import unknown_keys
from .configuration_presets import ModelPresets
from .configuration_stages import DecoderSettings
from .configuration_stages import grid_at
from .configuration_stages import make_decoder
from .configuration_vit_custom import ViTCustomConfig
from .modeling_adapting import adapt
from .modeling_arguments import may_look
from .modeling_attention import ViTCustomAttention
from .modeling_embeddings import Masking
from .modeling_embeddings import sincos_positions
from .modeling_geometry import Geometry
from .modeling_heads import POOL
from .modeling_mixed_sizes import refuse_mixed_sizes
from .modeling_pixels import check_hidden
from .modeling_pixels import fit
from .modeling_pixels import hidden_pixels
from .modeling_pixels import join_blocks
from .modeling_pixels import patchify
from .modeling_pixels import total_stride
from .modeling_stages import ViTCustomLayer
from .modeling_vit_custom import ViTCustomModel
from .modeling_vit_custom import ViTCustomPreTrainedModel
from .near_names import near_miss


class ViTCustomPixelModel(ViTCustomPreTrainedModel):
    """What both share."""

    accepts_loss_kwargs = False  # Trainer counts labels, and there are none
    keeps_sizes = ("patch_size", "num_channels")  # the head's outputs are pixels of these patches


class ViTCustomForMaskedImageModeling(ViTCustomPixelModel):
    """The model with one linear map from each of its last tokens to the pixels that it stands for ("SimMIM: a Simple
    Framework for Masked Image Modeling", section 3)."""

    def __init__(self, config: ViTCustomConfig):
        super().__init__(config)
        self.vit = ViTCustomModel(config)
        self.mask_token = nn.Parameter(torch.empty(1, 1, config.hidden_sizes[0]))
        self.block = total_stride(config)
        self.pixel_head = nn.Conv2d(
            config.hidden_size, config.num_channels * self.block[0] * self.block[1], kernel_size=1
        )
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module):
        super()._init_weights(module)
        if isinstance(module, ViTCustomForMaskedImageModeling):
            init.trunc_normal_(module.mask_token, std=self.config.initializer_range)

    def count_items(  # type: ignore[override]  # there are no labels
        self, pixel_values: torch.Tensor, bool_masked_pos: torch.Tensor, **batch
    ) -> torch.Tensor:
        """(B, C, H, W), (B, h * w) -> (): the pixels that the loss is a mean over."""
        return hidden_pixels(self.config, bool_masked_pos, pixel_values.shape[2:]).sum()

    def forward(
        self,
        pixel_values: torch.Tensor,
        bool_masked_pos: torch.Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> MaskedImageModelingOutput | tuple:
        """(B, C, H, W) -> `reconstruction` (B, C, H, W); with `bool_masked_pos` (B, h * w), 1 for each patch to hide,
        also the `loss`: the mean absolute error of the pixels that no visible patch sees.

        What is beyond the last whole patch of an image is zero where no token reconstructs it.
        """
        return_dict = kwargs.pop("return_dict", self.config.return_dict)  # type: ignore[typeddict-item]
        count: Any = kwargs.pop("num_items_in_batch", None)
        masking = Masking(hidden=bool_masked_pos, token=self.mask_token)
        outputs = self.vit(pixel_values, masking=masking, return_dict=True, **kwargs)
        blocks = self.pixel_head(self.vit.patch_map(outputs.last_hidden_state, pixel_values))
        reconstruction = fit(join_blocks(blocks, self.block), pixel_values.shape[2:])
        loss = None
        if bool_masked_pos is not None:
            hidden = hidden_pixels(self.config, bool_masked_pos, pixel_values.shape[2:])
            if count is None:
                check_hidden(bool_masked_pos, hidden)
                count = hidden.sum()
            exact = torch.promote_types(reconstruction.dtype, torch.float32)
            errors = (pixel_values.to(exact) - reconstruction.to(exact)).abs() * hidden
            loss = errors.sum() / self.config.num_channels / count
        answer = MaskedImageModelingOutput(
            loss=loss,
            reconstruction=reconstruction,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )
        return answer.to_tuple() if return_dict is False else answer


def pre_training_problems(config) -> Iterator[str]:
    """Why an encoder cannot leave patches out, or its decoder learn from it; a sentence each."""
    elsewhere = "choose another backbone, or SimMIM (ViTCustomForMaskedImageModeling)"
    if config.window_size is not None or config.downsample != "none":  # CODEPATH: Swin and PiT; ViT and DeiT can
        yield f"MAE leaves patches out, but windows (Swin) and downsampling (PiT) need the whole grid: {elsewhere}."
    if config.position_embedding == "rotary" or config.layer_position_embeddings:  # CODEPATH: DINOv3; YOLOS
        yield f"MAE leaves patches out, but positions within the layers are for the whole grid: {elsewhere}."
    if pair(config.patch_stride or config.patch_size) != pair(config.patch_size):  # CODEPATH: PiT's stem
        yield f"MAE needs patches that tile the image: leave `patch_stride` out, or {elsewhere}."
    height, width = pair(config.patch_size)
    if config.norm_pix_loss and height * width * config.num_channels == 1:  # CODEPATH: no released model
        yield "Patches of one value have no deviation: set `norm_pix_loss` to false, or make `patch_size` larger."


class ViTCustomPixelDecoder(nn.Module):
    """A small transformer from the visible patches' tokens to all patches' pixels ("Masked Autoencoders Are Scalable
    Vision Learners", section 3)."""

    def __init__(self, config, decoder):
        super().__init__()
        self.num_prefix_tokens = len(config.prefix_tokens)
        self.embed = nn.Linear(decoder.input_size, decoder.hidden_size)
        self.mask_token = nn.Parameter(torch.empty(1, 1, decoder.hidden_size))
        settings = DecoderSettings(config, hidden_act=config.hidden_act, qkv_biases=config.qkv_biases)
        self.layers = nn.ModuleList([ViTCustomLayer(settings, decoder, layer) for layer in range(decoder.depth)])
        self.norm = nn.LayerNorm(decoder.hidden_size, eps=config.layer_norm_eps)
        height, width = pair(config.patch_size)
        self.prediction = nn.Linear(decoder.hidden_size, height * width * config.num_channels)

    def forward(self, hidden_states: torch.Tensor, places: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
        """(B, P + n, D), (B, h * w) -> (B, h * w, p * p * C): `places` tell where each patch stands among the shuffled
        ones, the visible first."""
        prefix, patches = self.embed(hidden_states).tensor_split((self.num_prefix_tokens,), dim=1)
        mask_tokens = self.mask_token.to(patches).expand(patches.shape[0], places.shape[1] - patches.shape[1], -1)
        places = places[:, :, None].expand(-1, -1, patches.shape[2])
        # Not by take_along_dim, whose export has one batch size.
        patches = torch.cat((patches, mask_tokens), dim=1).gather(1, places)
        positions = sincos_positions(*grid, patches.shape[2], patches.device, like_mae=True)
        patches = patches + positions.to(patches.dtype)
        hidden_states = torch.cat((prefix, patches), dim=1)
        for layer in self.layers:
            hidden_states = layer(hidden_states, geometry=Geometry())
        return self.prediction(self.norm(hidden_states)[:, self.num_prefix_tokens :])


class ViTCustomForPreTraining(ViTCustomPixelModel):
    """The model on a few patches of an image, and a decoder that draws the others ("Masked Autoencoders Are Scalable
    Vision Learners")."""

    def __init__(self, config: ViTCustomConfig):
        for problem in pre_training_problems(config):
            raise ValueError(problem)
        super().__init__(config)
        self.vit = ViTCustomModel(config)
        self.pixel_decoder = ViTCustomPixelDecoder(config, make_decoder(config, "pixels"))
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module):
        super()._init_weights(module)
        if isinstance(module, ViTCustomPixelDecoder):
            init.normal_(module.mask_token, std=self.config.initializer_range)

    def num_visible(self, num_patches: int) -> int:
        """How many of an image's patches the encoder is shown."""
        visible = int(num_patches * (1 - self.config.mask_ratio))
        if not 0 < visible < num_patches:
            raise ValueError(
                f"`mask_ratio` {self.config.mask_ratio} leaves {visible} of an image's {num_patches} patches visible: "
                "change it so that some are and some are not, or resize the images."
            )
        return visible

    def count_items(self, pixel_values: torch.Tensor, **batch) -> torch.Tensor:  # type: ignore[override]
        """(B, C, H, W) -> (): the hidden patches, which the loss is a mean over."""
        rows, columns = grid_at(self.config, *pixel_values.shape[-2:])
        hidden = rows * columns - self.num_visible(rows * columns)
        return torch.full((), pixel_values.shape[0] * hidden, device=pixel_values.device)

    def forward(
        self, pixel_values: torch.Tensor, noise: torch.Tensor | None = None, **kwargs: Unpack[TransformersKwargs]
    ) -> ViTMAEForPreTrainingOutput | tuple:
        """(B, C, H, W) -> `logits` (B, h * w, p * p * C), `mask` (B, h * w), 1 for each hidden patch, `ids_restore`
        (B, h * w), and the `loss`: the mean squared error of the hidden patches.

        An image's patches with the lowest `noise` (B, h * w) stay visible; it is drawn anew if not given.
        """
        return_dict = kwargs.pop("return_dict", self.config.return_dict)  # type: ignore[typeddict-item]
        count: Any = kwargs.pop("num_items_in_batch", None)
        grid = grid_at(self.config, *pixel_values.shape[-2:])
        batch, num_patches = pixel_values.shape[0], grid[0] * grid[1]
        visible = self.num_visible(num_patches)
        if noise is None:
            noise = torch.rand(batch, num_patches, device=pixel_values.device)
        if noise.shape != (batch, num_patches):
            raise ValueError(
                f"`noise` must be (batch, patches), here {(batch, num_patches)}, got {tuple(noise.shape)}: draw one "
                "number for each patch of each image, or leave it out."
            )
        order = noise.argsort(dim=1)
        ids_restore: Any = order.argsort(dim=1)
        masking = Masking(visible=order[:, :visible])
        outputs = self.vit(pixel_values, masking=masking, return_dict=True, **kwargs)
        logits = self.pixel_decoder(self.vit.pooled_norm(outputs.last_hidden_state), ids_restore, grid=grid)
        mask: Any = (ids_restore >= visible).float()
        exact = torch.promote_types(logits.dtype, torch.float32)
        target = patchify(pixel_values.to(exact), pair(self.config.patch_size))
        if self.config.norm_pix_loss:  # CODEPATH: MAE's ViTs for fine-tuning; those that draw pictures go without
            target = (target - target.mean(-1, keepdim=True)) / (target.var(-1, keepdim=True) + 1e-6).sqrt()
        errors = (logits.to(exact) - target).square().mean(-1) * mask
        answer = ViTMAEForPreTrainingOutput(
            loss=errors.sum() / (batch * (num_patches - visible) if count is None else count),
            logits=logits,
            mask=mask,
            ids_restore=ids_restore,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )
        return answer.to_tuple() if return_dict is False else answer


__all__ = ["ViTCustomForMaskedImageModeling", "ViTCustomForPreTraining"]
