"""Writes presets.json: parameters and multiply-accumulates of every preset, counted on independent implementations.

python -m tests.golden.make_presets
"""

import json
from pathlib import Path

import timm
import torch
from torch import nn

from modeling_vit_custom.inspection import count_macs
from modeling_vit_custom.inspection import count_parameters

SIZES = {"tutorial_vit": 224, "vit_base_patch16_384": 384, "vit_large_patch16_384": 384}


class Tutorial(nn.Module):
    """The tutorial's listing, with the `batch_first=True` that it lacks, out of torch.nn alone."""

    def __init__(self, batch_first: bool = True):
        super().__init__()
        self.patch_embedding = nn.Conv2d(3, 768, kernel_size=16, stride=16)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, 768))
        self.pos_embedding = nn.Parameter(torch.zeros(1, 14 * 14 + 1, 768))
        layer = nn.TransformerEncoderLayer(768, 8, 2048, dropout=0.1, activation="relu", batch_first=batch_first)
        self.encoder = nn.TransformerEncoder(layer, 12, enable_nested_tensor=False)
        self.mlp_head = nn.Linear(768, 10)

    def encode(self, pixel_values: torch.Tensor) -> torch.Tensor:
        tokens = self.patch_embedding(pixel_values).flatten(2).transpose(1, 2)
        tokens = torch.cat((self.cls_token.expand(len(tokens), -1, -1), tokens), dim=1) + self.pos_embedding
        return self.encoder(tokens)

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        return self.mlp_head(self.encode(pixel_values)[:, 0])


def main():
    here = Path(__file__).parent
    rows = {}
    for preset in sorted(Path(here, "..", "..", "configs", "models").glob("*.json")):
        with torch.device("meta"):
            model = Tutorial() if preset.stem == "tutorial_vit" else timm.create_model(preset.stem)
        maker = f"torch {torch.__version__}" if preset.stem == "tutorial_vit" else f"timm {timm.__version__}"
        size = SIZES.get(preset.stem, 224)
        # In training mode torch.nn's layers run their plain path: their fused inference path is not counted.
        macs = count_macs(model.train(), 1, 3, size, size)
        rows[preset.stem] = {"maker": maker, "parameters": count_parameters(model), "macs": macs}
    Path(here, "presets.json").write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
