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
"""What a caller hands to forward: names that are slips, pixels that no image processor made, values to be looked at.

B batch, C channels, H W pixels.
"""

import inspect
from collections.abc import Mapping
from types import FunctionType
from typing import Any

import torch
from transformers.utils import logging

from .near_names import near_miss

logger = logging.get_logger(__name__)

# What a forward is handed by libraries that do not ask whether it takes it: never called a slip of its own arguments.
LIBRARY_NAMES = frozenset(
    """attention_mask bool_masked_pos cache_position class_labels decoder_input_ids head_mask image_sizes input_ids
    inputs_embeds interpolate_pos_encoding label_ids length mask_labels num_items_in_batch offset_mapping
    original_sizes output_attentions output_hidden_states past_key_values pixel_attention_mask pixel_mask position_ids
    return_dict return_loss spatial_shapes special_tokens_mask target_sizes task_ids token_type_ids use_cache""".split()
)
# torch 2.6 cannot tell export from compilation: there, compiled models resample at the native size too.
is_exporting = getattr(torch.compiler, "is_exporting", torch.compiler.is_compiling)
# What a slip may mean beside a model's own names: what every model takes, and what losses read.
OF_EVERY_MODEL = ("output_attentions", "output_hidden_states", "return_dict", "num_items_in_batch", "pixel_mask")


def may_look(values: torch.Tensor, stall: bool = False) -> bool:
    """(...) -> whether a check may look at values: not where that stalls a device, unless it may, nor where there are
    none to see, as when a program is compiled, exported or traced, or within `torch.func`."""
    if torch.compiler.is_compiling() or torch.jit.is_tracing() or values.is_meta:
        return False
    return (stall or values.device.type == "cpu") and not torch._C._functorch.is_functorch_wrapped_tensor(values)


def check_pixels(pixel_values: Any, num_channels: int):
    """Raise where `pixel_values` are not what an image processor makes."""
    form = f"`pixel_values` must be (batch, num_channels, height, width) with num_channels={num_channels}, "
    processor = '`model(**AutoImageProcessor.from_pretrained(folder)(images, return_tensors="pt"))`'
    if not isinstance(pixel_values, torch.Tensor):
        raise TypeError(
            f"`pixel_values` must be a tensor, got {type(pixel_values).__name__}: have the checkpoint's image "
            f"processor make it, as in {processor}."
        )
    shape = tuple(pixel_values.shape)
    if len(shape) != 4 or shape[1] != num_channels:
        fix = "convert the images, or set `num_channels` in the configuration"
        if len(shape) == 3 and shape[0] == num_channels:
            fix = "make one image a batch by `pixel_values[None]`"
        elif len(shape) > 2 and shape[-1] == num_channels:
            fix = f"channels come first, and pixels are scaled and normalised, as in {processor}"
        raise ValueError(f"{form}got {shape}: {fix}.")
    if not pixel_values.is_floating_point():
        raise TypeError(
            f"`pixel_values` must be floating-point numbers, got {pixel_values.dtype}, as in picture files: have the "
            f"checkpoint's image processor scale and normalise them, as in {processor}."
        )


def check_tensor(name: str, value: Any):
    """Raise where an argument is no tensor; a detector's labels are a list of dictionaries."""
    if value is None or isinstance(value, torch.Tensor):
        return
    entries = value if name == "labels" and isinstance(value, list | tuple) else [value]
    if all(isinstance(entry, Mapping | torch.Tensor) for entry in entries):
        return
    fix = "`torch.tensor(labels)`" if name == "labels" else 'have the tokenizer make it, with `return_tensors="pt"`'
    raise TypeError(f"`{name}` must be a tensor, got {type(value).__name__}: {fix}.")


class CheckedArguments:
    """A model that looks at what it is called with, by the names in the signature of its forward."""

    argument_names: tuple[str, ...] = ()
    needs_pixels = False

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        parameters = inspect.signature(cls.forward).parameters.values()  # type: ignore[attr-defined]
        named = [p for p in parameters if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)][1:]  # without self
        cls.argument_names = tuple(p.name for p in named)
        cls.needs_pixels = any(p.name == "pixel_values" and p.default is p.empty for p in named)
        call = CheckedArguments.__call__
        if getattr(cls.__call__, "__code__", None) == call.__code__:
            # A code for each class: torch's compiler holds eight programs of one code, and runs the ninth uncompiled.
            own = FunctionType(call.__code__.replace(), call.__globals__, call.__name__, None, call.__closure__)
            cls.__call__ = own  # type: ignore[method-assign]

    def refuse_slips(self, kwargs: Mapping[str, Any]):
        for name in kwargs:
            known = name in self.argument_names or name in LIBRARY_NAMES
            if not known and (near := near_miss(name.lower(), OF_EVERY_MODEL + self.argument_names)):
                raise TypeError(f"{type(self).__name__} takes no `{name}`: did you mean `{near}`?")

    def __call__(self, *args, **kwargs):
        self.refuse_slips(kwargs)
        names = self.argument_names[: len(args)]  # torch 2.6 traces only equal lengths
        given = {**dict(zip(names, args, strict=False)), **kwargs}
        if given.get("pixel_values") is not None or (self.needs_pixels and "pixel_values" in given):
            config = getattr(self.config, "vision_config", self.config)
            check_pixels(given["pixel_values"], config.num_channels)
        for name in ("labels", "input_ids", "attention_mask"):
            check_tensor(name, given.get(name))
        if not torch.compiler.is_compiling() and torch.jit.is_tracing() and torch.onnx.is_in_onnx_export():
            logger.warning_once(
                "`dynamo=False` may fix the batch size of the ONNX program to that of the example, whatever "
                "`dynamic_axes` say: export with `dynamo=True` and `dynamic_shapes`."
            )
        return super().__call__(*args, **kwargs)
