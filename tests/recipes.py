"""A recipe with everything that a resumed or distributed run has to get right, in seconds."""

from pathlib import Path

import yaml

from tests.support import ROOT

EVERYTHING = dict(
    task="image-classification",
    dataset="sklearn_digits",
    num_examples=2,
    augmentation=dict(policy="trivial_augment", crop="padded", padding=1, erasing=0.2),
    mix=dict(mixup_alpha=0.8, cutmix_alpha=1.0, label_smoothing=0.1),
    ema=dict(decay=0.9),
    layer_decay=0.9,
    config_overrides=dict(
        image_size=8,
        patch_size=4,
        hidden_sizes=[16],
        depths=[2],
        num_attention_heads=[2],
        drop_path_rate=0.2,
        hidden_dropout_prob=0.1,
    ),
    seed=3,
    max_steps=24,
    per_device_train_batch_size=64,
    gradient_accumulation_steps=2,
    per_device_eval_batch_size=77,  # which leaves a rest
    learning_rate=3e-3,
    lr_scheduler_type="cosine",
    warmup_steps=0.1,
    weight_decay=0.05,
    max_grad_norm=1.0,
    eval_strategy="steps",
    eval_steps=4,
    save_strategy="steps",
    save_steps=3,
    save_total_limit=2,
    logging_steps=1,
    report_to="none",
    disable_tqdm=True,
    dataloader_pin_memory=False,
)


def write_recipe(folder: Path, name: str = "everything", **changes) -> Path:
    """A change to None leaves the key out."""
    settings = {key: value for key, value in (EVERYTHING | changes).items() if value is not None}
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(settings))
    return path


def short_quickstart(folder: Path) -> Path:
    """The quickstart's recipe, cut to two epochs; its result is `folder / "run"`."""
    recipe = yaml.safe_load((ROOT / "configs/recipes/quickstart.yaml").read_text())
    recipe |= dict(num_train_epochs=2, disable_tqdm=True, output_dir=str(folder / "run"))
    path = folder / "short.yaml"
    path.write_text(yaml.safe_dump(recipe))
    return path
