"""The words of recipes and options. Only the standard library: the launcher runs this file before all others."""

from collections.abc import Callable
from collections.abc import Collection
from collections.abc import Iterable
from collections.abc import Sequence
from typing import Any

# What people type, from other programs, and what it is here; with a point where it is a part of a dictionary.
USUAL = {
    word: key
    for key, words in {
        "learning_rate": "lr base_lr max_lr init_lr lrate",
        "per_device_train_batch_size": "batch_size batch bs train_batch_size per_gpu_train_batch_size",
        "per_device_eval_batch_size": "eval_batch_size test_batch_size val_batch_size",
        "num_train_epochs": "epochs epoch max_epochs num_epochs n_epochs",
        "max_steps": "steps num_steps max_train_steps iterations max_iters",
        "output_dir": "output out out_dir output_folder save_dir outdir",
        "dataset": "data data_path root root_dir train_data data_root train_dir path paths image_folder",
        "data_dir": "data_folder",
        "test_share": "val_split test_size test_split validation_split",
        "dataloader_num_workers": "num_workers workers",
        "weight_decay": "wd",
        "warmup_steps": "warmup warmup_epochs warmup_ratio num_warmup_steps",
        "lr_scheduler_type": "scheduler lr_scheduler sched",
        "optim": "optimizer opt",
        "max_grad_norm": "clip_grad grad_clip gradient_clip gradient_clip_val clip_grad_norm",
        "gradient_accumulation_steps": "gradient_accumulation grad_accum accum_steps accumulate_grad_batches",
        "gradient_checkpointing": "grad_checkpointing",
        "bf16": "amp mixed_precision half precision",
        "use_cpu": "cpu no_cuda",
        "seed": "random_seed",
        "torch_compile": "compile",
        "eval_strategy": "evaluation_strategy",
        "report_to": "wandb tensorboard logger",
        "init_from": "pretrained checkpoint from finetune weights model_name_or_path",
        "resume_from_checkpoint": "resume resume_from",
        "layer_decay": "layer_lr_decay llrd",
        "distillation.teacher": "teacher",
        "ema.decay": "decay ema_decay model_ema_decay model_ema",
        "mix.mixup_alpha": "mixup mixup_alpha",
        "mix.cutmix_alpha": "cutmix cutmix_alpha",
        "mix.label_smoothing": "smoothing label_smoothing",
        "augmentation.crop": "crop",
        "augmentation.policy": "policy auto_augment autoaugment aa augment",
        "augmentation.flip": "flip hflip",
        "augmentation.erasing": "erasing reprob random_erasing",
        "processor_overrides.image_mean": "mean",
        "processor_overrides.image_std": "std",
        "config_overrides.image_size": "img_size input_size resolution",
        "config_overrides.patch_size": "patch",
        "config_overrides.num_channels": "in_chans in_channels channels",
        "config_overrides.hidden_sizes": "embed_dim hidden_size hidden_dim dim embed_dims",
        "config_overrides.depths": "depth num_layers num_hidden_layers layers",
        "config_overrides.num_attention_heads": "num_heads heads n_heads",
        "config_overrides.intermediate_size": "mlp_dim",
        "config_overrides.drop_path_rate": "drop_path droppath stochastic_depth",
        "config_overrides.hidden_dropout_prob": "dropout drop drop_rate proj_drop",
        "config_overrides.attention_probs_dropout_prob": "attn_drop attn_drop_rate attention_dropout",
        "config_overrides.layer_scale_init_value": "init_values layer_scale",
        "config_overrides.hidden_act": "act_layer activation",
        "config_overrides.pooling": "global_pool pool",
        "config_overrides.attn_implementation": "attention",
    }.items()
    for word in words.split()
}
CLASSES = "the data tell how many classes there are, and their names: leave it out."
PRESET = "name a published model as `preset`, or a checkpoint as `init_from`."
GPU = "a GPU is used where there is one; `use_cpu: true` says otherwise."
LOGS = "what trackers write comes into the run's folder; `report_to` chooses them."
MODEL = "this is a model's configuration: write it under `config_overrides` of a recipe."
SAID = dict.fromkeys("num_classes nb_classes classes n_classes num_class num_labels labels label".split(), CLASSES)
SAID |= dict.fromkeys("id2label label2id".split(), CLASSES)
SAID |= dict.fromkeys("use_gpu gpu gpus cuda device devices".split(), GPU)
SAID |= dict.fromkeys("logging_dir log_dir logdir tensorboard_dir".split(), LOGS)
SAID |= dict.fromkeys("overwrite overwrite_output_dir".split(), "add `--overwrite` to the command.")
SAID |= {"min_lr": "set `lr_scheduler_type: cosine_with_min_lr` and `lr_scheduler_kwargs: {min_lr: ...}`."}
SAID |= {"architectures": MODEL, "auto_map": MODEL}
SAID |= dict.fromkeys("model model_name arch architecture variant backbone".split(), PRESET)


def split_options(arguments: Sequence[str]) -> list[tuple[str, str]]:
    """`--key value`, `--key=value` or, for true, `--key` -> (key with its points, text).

    Raises:
        ValueError: an argument that is no key.
    """
    found, position = [], 0
    while position < len(arguments):
        word = arguments[position]
        if not word.startswith("--"):
            raise ValueError(f"{word!r} is no `--key value`: write the key before it.")
        key, equal, text = word[2:].partition("=")
        position += 1
        if not equal:
            has_value = position < len(arguments) and not arguments[position].startswith("--")
            text = arguments[position] if has_value else "true"
            position += has_value
        found.append((key.replace("-", "_"), text))
    return found


def divided(words: Sequence[str], own: Collection[str]) -> tuple[list[str], list[str]]:
    """(words of a command's own options and places, words of a recipe's keys); a value goes where its key goes."""
    mine: list[str] = []
    keys: list[str] = []
    goes_to = mine
    for word in words:
        if word.startswith("--"):
            goes_to = mine if word.partition("=")[0] in own else keys
        goes_to.append(word)
    return mine, keys


def advice(
    key: Any,
    known: Iterable[str],
    near_miss: Callable[..., str | None],
    place: str | None = None,
    elsewhere: dict[str, Iterable[str]] | None = None,
    listed: str = "`vit-custom train --help` lists them all.",
) -> str:
    """What follows the colon in the sentence about a key that nothing has.

    Args:
        known: the keys of its place.
        place: the dictionary that it is in, "" at the top of a recipe; None of one that USUAL knows nothing of.
        elsewhere: the keys of all places, each in its dictionary.
        listed: where the keys are to be found, if they are many.
    """
    known, word = list(known), str(key).lower().replace("-", "_")
    if not known:
        return "this task has none there."
    if place in ("", "config_overrides") and word in SAID:
        return SAID[word]
    for other, keys in (elsewhere or {}).items():
        if other != place and word in keys:
            return f"write it under `{other}`." if other else f"write it above, not under `{place}`."
    meant = {name: f"`{name}`" for name in known}
    for typed, path in USUAL.items() if place is not None else ():
        where, _, name = path.rpartition(".")
        inside = path if not place else name if where == place and name in known else ""
        if inside or not where:
            meant.setdefault(typed, f"`{inside}`" if inside else f"`{name}`, above and not under `{place}`")
    for other, keys in (elsewhere or {}).items():
        for name in keys if other != place else ():
            meant.setdefault(name, f"`{other}.{name}`" if other else f"`{name}`, above and not under `{place}`")
    names = [name for name in meant if name in known or (name not in USUAL and len(name) > 4)]
    near = word if word in meant else near_miss(word, names)
    near = near or near_miss(word, [name for name in meant if name in USUAL and len(name) > 6], 1)
    if near:
        return f"did you mean {meant[near]}?"
    if len(known) <= 12:
        return f"choose from {', '.join(known)}."
    return listed
