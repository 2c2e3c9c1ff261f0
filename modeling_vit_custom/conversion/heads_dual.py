"""transformers' CLIPModel, both towers and what lies between them, as ours and back."""

from typing import Any

import transformers

from ..configuration_dual_encoder import ViTCustomDualEncoderConfig
from ..modeling_dual_encoder import ViTCustomDualEncoder
from . import transformers_configs as configs
from .registry import SOURCES
from .rename import Table
from .rename import Tensors
from .rename import differences
from .rename import into_ours
from .rename import into_theirs
from .rename import kept
from .rename import prefixed
from .rename import reshape
from .rename import row
from .transformers_tables import clip_vision

SHARED = ("projection_dim", "logit_scale_init_value")
FIXED: dict[str, Any] = dict(text_pooling="pooler_output", contrastive_loss="softmax")


def read_config(theirs: Any) -> ViTCustomDualEncoderConfig:
    """
    Raises:
        ValueError: a value that ours cannot reproduce.
    """
    return ViTCustomDualEncoderConfig(
        vision_config=configs.clip(head=False).to_ours(theirs.vision_config, None),
        text_config=theirs.text_config.to_dict(),
        **FIXED | {name: getattr(theirs, name) for name in SHARED},
    )


def write_config(ours: ViTCustomDualEncoderConfig) -> Any:
    """
    Raises:
        ValueError: theirs cannot hold the model; the sentences say why.
    """
    for name, value in {**FIXED, "text_config.model_type": "clip_text_model"}.items():
        found: Any = ours
        for part in name.split("."):
            found = getattr(found, part)
        if found != value:
            raise ValueError(f"CLIPModel cannot hold this model: its `{name}` is {value!r}, this one's is {found!r}.")
    text: Any = ours.text_config
    vision: Any = ours.vision_config
    return transformers.CLIPConfig(
        vision_config=SOURCES["transformers-clip"].write_config(vision, head=False),
        text_config=text.to_dict(),
        **{name: getattr(ours, name) for name in SHARED},
    )


def table(config: ViTCustomDualEncoderConfig) -> Table:
    """Their names -> ours; the text tower is theirs on both sides."""
    vision: Any = config.vision_config
    return [
        *prefixed(clip_vision(vision, head=False)["in memory"], "vision_model.", "vision_model."),
        *kept("text_model.embeddings.position_ids"),  # in files of transformers 4
        row("text_model.{rest}", "text_model.{rest}"),
        row("visual_projection.weight", "visual_projection.weight"),
        row("text_projection.weight", "text_projection.weight"),
        row("logit_scale", "logit_scale", reshape(theirs=(), ours=(1,))),
    ]


def as_ours(theirs: Any, tensors: Tensors) -> tuple[ViTCustomDualEncoder, Tensors]:
    """(our model with the tensors of a CLIPModel of this configuration, in their dtype; what is kept aside).

    Raises:
        ValueError: a setting or tensors that do not fit; the sentences name them.
    """
    config = read_config(theirs)
    names = table(config)
    model = ViTCustomDualEncoder(config)  # not on the meta device: the text tower has buffers
    if lines := differences(tensors, into_theirs(model.state_dict(), names), names):
        raise ValueError("The source does not fit ViTCustomDualEncoder:\n" + "\n".join(lines))
    ours, aside = into_ours(tensors, names)
    model.load_state_dict(ours, assign=True)
    return model.eval(), aside


def dual_from_transformers(model: Any) -> ViTCustomDualEncoder:
    """A CLIPModel as ours, in the same dtype, and sharing no memory."""
    return as_ours(model.config, model.state_dict())[0].train(model.training)


def dual_to_transformers(model: ViTCustomDualEncoder) -> Any:
    """Ours as a CLIPModel, in the same dtype, and sharing no memory.

    Raises:
        ValueError: theirs cannot hold the model; the sentences say why.
    """
    theirs = transformers.CLIPModel(write_config(model.config))
    tensors = into_theirs(model.state_dict(), table(model.config))
    theirs.load_state_dict(tensors, assign=True)
    return theirs.train(model.training)
