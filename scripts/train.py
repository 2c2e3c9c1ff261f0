"""Train by a recipe and leave a folder that is ready for the Hub.

    python scripts/train.py configs/recipes/quickstart.yaml

The folder holds `checkpoint/` (weights, configuration, code, processor, card), `examples/` (held-out images), for most
tasks `predictions.png`, and `metrics.json`: what the model reached, and what a trivial answer reaches.
"""

import argparse
import json
from pathlib import Path

from modeling_vit_custom.hub import run_folder
from modeling_vit_custom.hub import sha256
from modeling_vit_custom.hub import write_card
from modeling_vit_custom.inspection import birth_certificate
from modeling_vit_custom.training import Trained
from modeling_vit_custom.training import read_recipe
from modeling_vit_custom.training import train

ROOT = Path(__file__).parent.parent


def main(argv: list[str] | None = None) -> Path:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", type=Path, help="a YAML file of configs/recipes")
    parser.add_argument("--output_dir", type=Path, help="instead of the recipe's")
    parser.add_argument("--seed", type=int, help="instead of the recipe's")
    parser.add_argument("--init_from", help="instead of the recipe's")
    arguments = parser.parse_args(argv)

    recipe = read_recipe(arguments.recipe)
    if arguments.seed is not None:
        recipe.training.seed = arguments.seed
    recipe.model.init_from = arguments.init_from or recipe.model.init_from
    name, folder = recipe.path.stem, arguments.output_dir or Path(str(recipe.training.output_dir))
    with run_folder(folder, run=name) as partial:
        recipe.training.output_dir = str(partial / "trainer")
        trained = train(recipe)
        if not any((partial / "trainer").iterdir()):  # it holds Trainer's checkpoints where the recipe saves any
            (partial / "trainer").rmdir()
        checkpoint, model, task = partial / "checkpoint", trained.model, trained.task
        model.save_pretrained(checkpoint)
        trained.processor.save_pretrained(checkpoint)
        certificate = birth_certificate(f"python scripts/train.py {arguments.recipe}")
        figures = dict(
            license="apache-2.0",
            task=task.name,
            dataset=recipe.data.dataset,
            num_train_images=trained.num_train_images,
            num_test_images=len(trained.held_out),
            metric=task.metric,
            reached=trained.metrics,
            baseline=trained.baseline,
            weights={path.name: sha256(path) for path in checkpoint.glob("*.safetensors")},
            seed=recipe.training.seed,
            seconds=trained.seconds,
            certificate=certificate,
            recipe=recipe.path.name,
            recipe_text=recipe.path.read_text(encoding="utf-8"),
        )
        (partial / "metrics.json").write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
        write_card(checkpoint, ROOT / "model_card.md", repo=f"owner/vit-custom-{name}", metrics=figures)
        save_examples(partial, trained, recipe.data.num_examples)
    print(f"\n{task.metric} on {len(trained.held_out)} held-out images: {trained.metrics[task.metric]:.4f}")
    print(f"of a trivial answer: {trained.baseline[task.metric]:.4f}; {trained.seconds:.0f} s.")
    print(f"The checkpoint, ready for the Hub: {folder / 'checkpoint'}")
    return folder


def save_examples(folder: Path, trained: Trained, count: int):
    """The first `count` held-out images as files, with their labels if they have any, and the model's answers."""
    images = folder / "examples"
    images.mkdir()
    rows = trained.held_out.select(range(count))
    for index, row in enumerate(rows):
        row["image"].save(images / f"{index}.png")
    if trained.task.name == "image-classification":
        labels = {f"{index}.png": trained.class_names[label] for index, label in enumerate(rows["label"])}
        (images / "labels.json").write_text(json.dumps(labels, indent=1) + "\n")
    picture = trained.task.draw(trained.model, trained.processor, trained.collate, rows, trained.held_out)
    if picture is not None:
        picture.save(folder / "predictions.png")


if __name__ == "__main__":
    main()
