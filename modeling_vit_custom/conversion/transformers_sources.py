"""The models of transformers as sources: which class, which fields, which names."""

from . import transformers_configs as configs
from . import transformers_tables as tables
from .transformers_source import TransformersSource

VIT_MODULES: dict[str, str | tuple[str, ...]] = {
    "embeddings": "embeddings",
    "stages.0.layers.{n}": ("layers.{n}", "encoder.layer.{n}"),
    "last_hidden_state": ("layernorm", "norm"),
}
POOLER = "its bare model's `pooler_output` goes through a tanh layer, ours is the token itself; the layer is kept aside"
DROP_PATH = "in training, its drop path acts on the attention branches alone, ours on both branches"
ROPE = "in training, it jitters its rotary positions (`pos_embed_rescale` and the like), ours does not"
MASKING = "its encoder hides random patches (`mask_ratio`), ours sees all; its fixed positions are learned ones in ours"

SOURCES = (
    TransformersSource(
        name="transformers-vit",
        config_class="ViTConfig",
        classes={"ViTModel": configs.VIT, "ViTForImageClassification": configs.VIT},
        heads=("ViTForImageClassification",),
        names=tables.vit,
        modules=VIT_MODULES,
        base="vit",
        pooled=False,
        differs=(POOLER,),
    ),
    TransformersSource(
        name="transformers-deit",
        config_class="DeiTConfig",
        classes={
            "DeiTModel": configs.deit(False),
            "DeiTForImageClassification": configs.deit(False),
            "DeiTForImageClassificationWithTeacher": configs.deit(True),
        },
        heads=("DeiTForImageClassification", "DeiTForImageClassificationWithTeacher"),
        processor="DeiTImageProcessor",
        names=tables.deit,
        modules=VIT_MODULES,
        base="deit",
        pooled=False,
        differs=(POOLER,),
    ),
    TransformersSource(
        name="transformers-swin",
        config_class="SwinConfig",
        classes={"SwinModel": configs.SWIN, "SwinForImageClassification": configs.SWIN},
        heads=("SwinForImageClassification",),
        names=tables.swin,
        modules=VIT_MODULES | {"stages.{s}.layers.{n}": "encoder.layers.{s}.blocks.{n}"},
        base="swin",
        differs=(DROP_PATH, "it pads an image to whole patches, ours does not see what is beyond the last whole patch"),
    ),
    TransformersSource(
        name="transformers-dinov2",
        config_class="Dinov2Config",
        classes={
            "Dinov2Model": configs.dinov2(head=False, registers=False),
            "Dinov2ForImageClassification": configs.dinov2(head=True, registers=False),
        },
        heads=("Dinov2ForImageClassification",),
        processor="BitImageProcessor",
        names=tables.dinov2,
        modules=VIT_MODULES,
        base="dinov2",
        resamples=False,
    ),
    TransformersSource(
        name="transformers-dinov2-with-registers",
        config_class="Dinov2WithRegistersConfig",
        classes={
            "Dinov2WithRegistersModel": configs.dinov2(head=False, registers=True),
            "Dinov2WithRegistersForImageClassification": configs.dinov2(head=True, registers=True),
        },
        heads=("Dinov2WithRegistersForImageClassification",),
        processor="BitImageProcessor",
        names=tables.dinov2_with_registers,
        modules=VIT_MODULES,
        base="dinov2_with_registers",
        resamples=False,
    ),
    TransformersSource(
        name="transformers-dinov3",
        config_class="DINOv3ViTConfig",
        classes={"DINOv3ViTModel": configs.DINOV3},
        heads=(),
        processor="DINOv3ViTImageProcessorFast",
        names=tables.dinov3_vit,
        modules=VIT_MODULES | {"stages.0.layers.{n}": ("model.layer.{n}", "layer.{n}")},
        resamples=False,
        differs=(ROPE,),
    ),
    TransformersSource(
        name="transformers-clip",
        config_class="CLIPVisionConfig",
        classes={
            "CLIPVisionModel": configs.clip(head=False),
            "CLIPVisionModelWithProjection": configs.clip(head=False),
            "CLIPModel": configs.clip(head=False),
            "CLIPForImageClassification": configs.clip(head=True),
        },
        heads=("CLIPForImageClassification",),
        processor="CLIPImageProcessor",
        names=tables.clip_vision,
        modules={
            "embeddings": "pre_layrnorm",
            "stages.0.layers.{n}": "encoder.layers.{n}",
            "last_hidden_state": "encoder",
        },
        base="vision_model",
        below={"CLIPVisionModelWithProjection": "vision_model", "CLIPModel": "vision_model"},
        vision=True,
    ),
    TransformersSource(
        name="transformers-vit-mae",
        config_class="ViTMAEConfig",
        classes={"ViTMAEModel": configs.VIT_MAE, "ViTMAEForPreTraining": configs.VIT_MAE},
        heads=(),
        names=tables.vit_mae,
        modules=VIT_MODULES,
        below={"ViTMAEForPreTraining": "vit"},
        differs=(MASKING,),
    ),
)
