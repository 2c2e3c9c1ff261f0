"""Writes outputs.json: logits that timm computes in float64 with formula-made weights under our names.

python -m tests.golden.make_outputs
"""

import json
from pathlib import Path

import timm
import torch

from modeling_vit_custom.conversion import timm_vit
from tests.support import formula
from tests.support import picture

SETTINGS = dict(img_size=32, patch_size=8, embed_dim=32, depth=2, num_heads=4, num_classes=5, dynamic_img_size=True)
CASES = {
    "vit": {},
    "vit_scaled": dict(init_values=1.0, qk_norm=True),
    "vit_mean": dict(class_token=False, global_pool="avg"),
}
SIZES = [(32, 32), (48, 24)]


def timm_model(**changes) -> torch.nn.Module:
    """timm's model, each tensor as the formula makes it under our name: a fused projection from its three names."""
    model = timm.models.VisionTransformer(**SETTINGS | changes)
    for name, tensor in model.state_dict().items():
        parts = timm_vit.convert_state_dict({name: tensor, "head.weight": model.head.weight} | {name: tensor})
        ours = [(key, part) for key, part in parts.items() if key != "classifier.weight" or name == "head.weight"]
        tensor.copy_(torch.cat([formula(key, part.shape) for key, part in ours]))
    return model.eval()


def main():
    torch.set_grad_enabled(False)
    rows = {"maker": f"timm {timm.__version__}, torch {torch.__version__}, float64", "logits": {}}
    for case, changes in CASES.items():
        model = timm_model(**changes).double()
        for size in SIZES:
            rows["logits"][f"{case} {size[0]}x{size[1]}"] = model(picture(2, 3, *size, dtype=torch.float64)).tolist()
    Path(__file__).with_name("outputs.json").write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
