"""Whether weights fit a configuration, told from headers alone, by the class that is installed here."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from ..configuration_dual_encoder import ViTCustomDualEncoderConfig
from ..configuration_vit_custom import ViTCustomConfig
from ..modeling_detection import ViTCustomForObjectDetection
from ..modeling_dual_encoder import ViTCustomDualEncoder
from ..modeling_masked import ViTCustomForMaskedImageModeling
from ..modeling_masked import ViTCustomForPreTraining
from ..modeling_segmentation import ViTCustomForSemanticSegmentation
from ..modeling_vit_custom import ViTCustomBackbone
from ..modeling_vit_custom import ViTCustomForImageClassification
from ..modeling_vit_custom import ViTCustomModel
from .config_rules import read_configs
from .file_rules import read_headers
from .findings import Finding

CONFIGS: dict[str, Any] = {kind.model_type: kind for kind in (ViTCustomConfig, ViTCustomDualEncoderConfig)}
MODELS: dict[str, Any] = {
    kind.__name__: kind
    for kind in (
        *(ViTCustomModel, ViTCustomBackbone, ViTCustomForImageClassification, ViTCustomForMaskedImageModeling),
        *(ViTCustomForPreTraining, ViTCustomForSemanticSegmentation, ViTCustomForObjectDetection, ViTCustomDualEncoder),
    )
}


def shape_findings(folder: Path) -> Iterator[Finding]:
    """Of a model of ours: every tensor of the configuration's model is in the file, in its shape, and no other.

    Nothing of the folder runs, and no tensor is read. Of another model nothing is said.
    """
    config = read_configs(folder)[0].get("config.json", {})
    tensors, problems = read_headers(folder)
    config_class = CONFIGS.get(str(config.get("model_type")))
    named = config.get("architectures")
    model_class = MODELS.get(str(named[0])) if isinstance(named, list) and named else None
    if problems or not tensors or config_class is None or model_class is None:
        return
    try:
        made = config_class.from_dict(dict(config))
        with torch.device("meta"):
            model = model_class(made)
    except Exception as error:  # of any check of a configuration
        says = f"it cannot be built ({' '.join(str(error).split())[:200]}): correct it."
        yield Finding("config-cannot-be-built", "config.json", says)
        return
    expected = {key: list(value.shape) for key, value in model.state_dict().items()}
    held = {key: shape for key, (file, shape) in tensors.items() if file != "source_only.safetensors"}
    rows = [
        f"{key} is {held[key]} and should be {expected[key]}"
        for key in expected
        if held.get(key, expected[key]) != expected[key]
    ]
    rows += [f"{key} is missing" for key in expected if key not in held]
    rows += [f"{key} has no place" for key in held if key not in expected]
    if rows:
        more = f"; and {len(rows) - 3} more" if len(rows) > 3 else ""
        yield Finding(
            "weights-do-not-fit",
            "",
            f"the weights are not those of config.json ({'; '.join(rows[:3])}{more}): save both together.",
        )
