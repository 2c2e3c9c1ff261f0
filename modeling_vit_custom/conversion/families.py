"""What is not of the family, told by the names of tensors: no source is asked about it."""

import re
from collections.abc import Iterable

# A pattern of names, or several that stand together; whose they are; what to do.
PORTS = "take transformers' or timm's copy of the same weights"
FAMILIES = (
    (r"storage_tokens|rope_embed\.periods", "DINOv3's original file", PORTS),
    (
        r"visual\.(transformer\.resblocks|trunk)\..*|visual\.class_embedding",
        "CLIP's original or an OpenCLIP file",
        PORTS,
    ),
    (
        r"conv_proj\.weight|encoder\.layers\.encoder_layer_\d+\..*|features\.\d+\.\d+\.(attn|conv).*",
        "torchvision",
        PORTS,
    ),
    (
        r".*lora_[AB]\..*",
        "an adapter that is not merged",
        "merge it (`merge_and_unload` of peft) and save the model again",
    ),
    (
        r"patch_embed\.backbone\..*|embeddings\.patch_embeddings\.backbone\..*|conv_root/kernel",
        "a hybrid, a CNN before a ViT (R50-ViT, ViTamin)",
        "",
    ),
    (r"blocks\.0\.attn\.(q_proj\.weight|norm\.weight|inner_attn_ln\.weight|rope\.freqs.*)|rope\.freqs.*", "EVA-02", ""),
    (
        r"(?<!layers\.\d\.)blocks\.0\.attn\.relative_position_bias_table|rel_pos_bias\.relative.*|encoder\.layer\.0\.lambda_1",
        "BEiT",
        "",
    ),
    (r"blocks_token_only\..*", "CaiT", ""),
    (r"layers\.0\.blocks\.0\.attn\.(logit_scale|cpb_mlp\..*)|stages\.0\.blocks\.0\.attn\.logit_scale", "Swin V2", ""),
    (r"attn_pool\.(latent|q\.weight)|vision_model\.head\.probe", "SigLIP or another model with attention pooling", ""),
    (r"blocks\.0\.attn\.rel_pos_h|.*image_encoder\.blocks\.0\.attn\.rel_pos_h", "SAM", ""),
    (r".*to_patch_embedding\.\d.*", "vit-pytorch (lucidrains)", ""),
    (
        r"downsample_layers\.0\.0\.weight|stages\.0\.blocks\.0\.(conv_dw|dwconv)\.weight|embeddings\.patch_embeddings\.weight_v"
        r"|encoder\.stages\.0\.layers\.0\.dwconv\.weight",
        "ConvNeXt",
        "",
    ),
    (r"layer1\.0\.conv1\.weight|encoder\.stages\.0\.layers\.0\.layer\.0\.convolution\.weight", "ResNet", ""),
    (r"blocks\.0\.attn\.q_bias & pos_embed", "EVA or EVA-02", ""),
    (r"conv_stem\.weight", "EfficientNet or MobileNet", ""),
    (r"blocks\.\d+\.proj\.weight", "Hiera", ""),
    (r"blocks\.0\.mlp_tokens\..*", "MLP-Mixer", ""),
    (r"blocks\.0\.attn\.gating_param", "ConViT", ""),
    (r"patch_embed\.proj\.0\.0\.weight", "XCiT", ""),
)
OURS = "ViT, DeiT, Swin, PiT, DINOv2, DINOv3, CLIP's image tower, MAE's encoder"


def refuse_others(names: Iterable[str]):
    """
    Raises:
        ValueError: the names are those of another family, or of files that are not read here.
    """
    names = list(names)
    for pattern, family, fix in FAMILIES:
        known = [re.compile(rf"(?:[^/]*\.|.*/)?(?:{part})") for part in pattern.split(" & ")]
        found = [next((name for name in names if part.fullmatch(name)), None) for part in known]
        if None not in found:
            raise ValueError(
                f"`{found[0]}` is a name of {family}, which has no conversion: {fix or f'take a model of {OURS}'}."
            )
