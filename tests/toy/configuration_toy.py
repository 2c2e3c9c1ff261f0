"""Configuration of the toy."""

from huggingface_hub.dataclasses import strict
from transformers import PretrainedConfig


@strict
class ToyConfig(PretrainedConfig):
    model_type = "toy"

    hidden_size: int = 6
    image_size: int | list[int] | tuple[int, int] = 8
    num_channels: int = 3
    initializer_range: float | int = 0.5
