"""transformers' names -> ours: one table per kind of model and spelling.

"on disk": the files on the Hub, and what save_pretrained writes; "in memory": state dicts since transformers 5.9, and
files saved with save_original_format=False.
"""

from ..configuration_vit_custom import ViTCustomConfig
from .rename import Row
from .rename import Table
from .rename import join
from .rename import kept
from .rename import prefixed
from .rename import reshape
from .rename import row
from .rename import split

PLAIN = "stages.0.layers.{n}."
STAGED = "stages.{s}.layers.{n}."
CLASSIFIER = row("classifier.{p}", "classifier.{p}")
PATCHES = row("embeddings.patch_embeddings.projection.{p}", "embeddings.patch_embeddings.{p}")
POSITIONS = row("embeddings.position_embeddings", "embeddings.position_embeddings")
FINAL_NORM = row("layernorm.{p}", "norm.{p}")
# The tanh layer behind `pooler_output`, mostly random; what masked patches become; a sum over the configuration.
ASIDE = kept("pooler.dense.{p}", "embeddings.mask_token")


def layer(theirs: str, ours: str, names: dict[str, str]) -> list[Row]:
    """The parameters of one layer, by the modules that hold them."""
    return [row(f"{theirs}{left}.{{p}}", f"{ours}{right}.{{p}}") for left, right in names.items()]


PROJECTIONS = {f"attention.{name}_proj": f"attention.{name}_proj" for name in "qkvo"}
OLD_PROJECTIONS = {
    "query": "attention.q_proj",
    "key": "attention.k_proj",
    "value": "attention.v_proj",
}
NORMS = {"layernorm_before": "norm1", "layernorm_after": "norm2"}
OLD_FEED_FORWARD = {
    "attention.output.dense": "attention.o_proj",
    "intermediate.dense": "mlp.fc1",
    "output.dense": "mlp.fc2",
}
IN_MEMORY = NORMS | PROJECTIONS | {"mlp.fc1": "mlp.fc1", "mlp.fc2": "mlp.fc2"}
ON_DISK = NORMS | {f"attention.attention.{a}": b for a, b in OLD_PROJECTIONS.items()} | OLD_FEED_FORWARD
SWIN_ON_DISK = NORMS | {f"attention.self.{a}": b for a, b in OLD_PROJECTIONS.items()} | OLD_FEED_FORWARD


def below(prefix: str, table: Table, head: bool, heads: Table = (CLASSIFIER,)) -> Table:
    """With a head: the backbone below its module on both sides, and the classifiers beside it."""
    return [*prefixed(table, prefix, "vit."), *heads] if head else table


def vit(config: ViTCustomConfig, head: bool) -> dict[str, Table]:
    base = [row("embeddings.cls_token", "embeddings.prefix_tokens"), POSITIONS, PATCHES, FINAL_NORM, *ASIDE]
    return {
        "on disk": below("vit.", [*base, *layer("encoder.layer.{n}.", PLAIN, ON_DISK)], head),
        "in memory": below("vit.", [*base, *layer("layers.{n}.", PLAIN, IN_MEMORY)], head),
    }


def deit(config: ViTCustomConfig, head: bool) -> dict[str, Table]:
    tokens = row(("embeddings.cls_token", "embeddings.distillation_token"), "embeddings.prefix_tokens", join(1, 1))
    base = [tokens, POSITIONS, PATCHES, FINAL_NORM, *ASIDE]
    heads = [CLASSIFIER]
    if config.distillation_head:  # CODEPATH: DeiTForImageClassificationWithTeacher, not DeiTForImageClassification
        heads = [
            row("cls_classifier.{p}", "classifier.{p}"),
            row("distillation_classifier.{p}", "distillation_classifier.{p}"),
        ]
    return {
        "on disk": below("deit.", [*base, *layer("encoder.layer.{n}.", PLAIN, ON_DISK)], head, heads),
        "in memory": below("deit.", [*base, *layer("layers.{n}.", PLAIN, IN_MEMORY)], head, heads),
    }


def vit_mae(config: ViTCustomConfig, head: bool) -> dict[str, Table]:
    """The encoder, alone or as the `vit` of the model for pre-training, whose decoder is kept aside."""
    base = [row("embeddings.cls_token", "embeddings.prefix_tokens"), POSITIONS, PATCHES, FINAL_NORM]
    on_disk = [*base, *layer("encoder.layer.{n}.", PLAIN, ON_DISK)]
    in_memory = [*base, *layer("layers.{n}.", PLAIN, IN_MEMORY)]
    decoder = kept("decoder.{rest}")
    return {
        "on disk": on_disk,
        "in memory": in_memory,
        "on disk, with decoder": [*prefixed(on_disk, "vit."), *decoder],
        "in memory, with decoder": [*prefixed(in_memory, "vit."), *decoder],
    }


def swin(config: ViTCustomConfig, head: bool) -> dict[str, Table]:
    blocks = "encoder.layers.{s}.blocks.{n}."
    table = STAGED + "attention.relative_position_bias_table"
    merge = "encoder.layers.{s}.downsample."
    base = [
        PATCHES,
        POSITIONS,
        FINAL_NORM,
        row("embeddings.norm.{p}", "embeddings.norm.{p}"),
        # At the end of their stage, at the entry of our next one.
        row(merge + "norm.{p}", "stages.{s+1}.downsample.norm.{p}"),
        row(merge + "reduction.weight", "stages.{s+1}.downsample.reduction.weight"),
        *kept("embeddings.mask_token", blocks + "attention.self.relative_position_index"),
    ]
    on_disk = [
        *layer(blocks, STAGED, SWIN_ON_DISK),
        row(blocks + "attention.self.relative_position_bias_table", table),
    ]
    in_memory = [
        *layer(blocks, STAGED, IN_MEMORY),
        row(blocks + "attention.relative_position_bias.relative_position_bias_table", table),
    ]
    return {
        "on disk": below("swin.", [*base, *on_disk], head),
        "in memory": below("swin.", [*base, *in_memory], head),
    }


def cls_and_registers(config: ViTCustomConfig) -> Row:
    return row(
        ("embeddings.cls_token", "embeddings.register_tokens"),
        "embeddings.prefix_tokens",
        join(1, len(config.prefix_tokens) - 1),
    )


def dinov2_base(config: ViTCustomConfig, prefix: str, tokens: Row, head: bool) -> dict[str, Table]:
    layers = "encoder.layer.{n}."
    base = [tokens, POSITIONS, PATCHES, FINAL_NORM, *kept("embeddings.mask_token")]
    for number in "12":
        base += layer(layers, PLAIN, {f"norm{number}": f"norm{number}"})
        base.append(row(f"{layers}layer_scale{number}.lambda1", f"{PLAIN}branch{number}.scale"))
    plain = layer(layers, PLAIN, {"mlp.fc1": "mlp.fc1", "mlp.fc2": "mlp.fc2"})
    fused = [
        row(layers + "mlp.weights_in.{p}", (PLAIN + "mlp.gate.{p}", PLAIN + "mlp.fc1.{p}"), split(2)),
        row(layers + "mlp.weights_out.{p}", PLAIN + "mlp.fc2.{p}"),
    ]
    apart = layer(layers, PLAIN, {"mlp.gate_proj": "mlp.gate", "mlp.up_proj": "mlp.fc1", "mlp.down_proj": "mlp.fc2"})
    old = {f"attention.attention.{a}": b for a, b in OLD_PROJECTIONS.items()}
    old["attention.output.dense"] = "attention.o_proj"
    on_disk = [*base, *layer(layers, PLAIN, old), *(fused if config.gated_mlp else plain)]
    in_memory = [*base, *layer(layers, PLAIN, PROJECTIONS), *(apart if config.gated_mlp else plain)]
    return {"on disk": below(prefix, on_disk, head), "in memory": below(prefix, in_memory, head)}


def dinov2(config: ViTCustomConfig, head: bool) -> dict[str, Table]:
    return dinov2_base(config, "dinov2.", row("embeddings.cls_token", "embeddings.prefix_tokens"), head)


def dinov2_with_registers(config: ViTCustomConfig, head: bool) -> dict[str, Table]:
    return dinov2_base(config, "dinov2_with_registers.", cls_and_registers(config), head)


def dinov3_vit(config: ViTCustomConfig, head: bool) -> dict[str, Table]:
    names = {name: name for name in ("norm1", "norm2", *PROJECTIONS)}
    names |= {"mlp.up_proj": "mlp.fc1", "mlp.gate_proj": "mlp.gate", "mlp.down_proj": "mlp.fc2"}
    base = [
        cls_and_registers(config),
        row("embeddings.patch_embeddings.{p}", "embeddings.patch_embeddings.{p}"),
        row("norm.{p}", "norm.{p}"),
        *kept("embeddings.mask_token"),
    ]
    layers = layer("layer.{n}.", PLAIN, names)
    layers += [row(f"layer.{{n}}.layer_scale{k}.lambda1", f"{PLAIN}branch{k}.scale") for k in "12"]
    return {"on disk": [*base, *layers], "in memory": [*base, *prefixed(layers, "model.")]}


def clip_vision(config: ViTCustomConfig, head: bool) -> dict[str, Table]:
    """The image tower by itself, with its projection, with a classifier, or of a whole CLIP, whose rest is kept."""
    names = {f"self_attn.{name}_proj": f"attention.{name}_proj" for name in "qkv"} | {
        "self_attn.out_proj": "attention.o_proj",
        "layer_norm1": "norm1",
        "layer_norm2": "norm2",
        "mlp.fc1": "mlp.fc1",
        "mlp.fc2": "mlp.fc2",
    }
    pooled = row("post_layernorm.{p}", "pooled_norm.{p}")
    tower = [
        row("embeddings.class_embedding", "embeddings.prefix_tokens", reshape(theirs=(-1,), ours=(1, 1, -1))),
        row(
            "embeddings.position_embedding.weight",
            "embeddings.position_embeddings",
            reshape(theirs=(-1, config.hidden_size), ours=(1, -1, config.hidden_size)),
        ),
        row("embeddings.patch_embedding.weight", "embeddings.patch_embeddings.weight"),
        row("pre_layrnorm.{p}", "embeddings.norm.{p}"),
        *layer("encoder.layers.{n}.", PLAIN, names),
        # CODEPATH: CLIPForImageClassification never uses it
        *(kept("post_layernorm.{p}") if config.final_norm == "none" else [pooled]),
        *kept("embeddings.position_ids"),
    ]
    if head:
        return {"on disk": [*prefixed(tower, "vision_model.", "vit."), CLASSIFIER]}
    rest = kept("visual_projection.weight", "text_model.{rest}", "text_projection.weight", "logit_scale")
    return {"on disk": [*prefixed(tower, "vision_model."), *rest], "in memory": tower}
