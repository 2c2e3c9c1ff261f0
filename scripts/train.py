"""Train by a recipe and leave a folder that is ready for the Hub.

    python scripts/train.py configs/recipes/quickstart.yaml

The folder holds `checkpoint/` (weights, configuration, code, image processor, card) and `examples/`: held-out images.
"""

import argparse
import json
from pathlib import Path

from modeling_vit_custom.hub import render_card
from modeling_vit_custom.hub import run_folder
from modeling_vit_custom.inspection import birth_certificate
from modeling_vit_custom.inspection import count_parameters
from modeling_vit_custom.training import read_recipe
from modeling_vit_custom.training import train

ROOT = Path(__file__).parent.parent


def main(argv: list[str] | None = None) -> Path:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", type=Path, help="a YAML file of configs/recipes")
    parser.add_argument("--output_dir", type=Path, help="instead of the recipe's")
    arguments = parser.parse_args(argv)

    recipe = read_recipe(arguments.recipe)
    name, folder = recipe.path.stem, arguments.output_dir or Path(str(recipe.training.output_dir))
    with run_folder(folder, run=name) as partial:
        recipe.training.output_dir = str(partial / "trainer")
        trained = train(recipe)
        if not any((partial / "trainer").iterdir()):  # it holds Trainer's checkpoints where the recipe saves any
            (partial / "trainer").rmdir()
        checkpoint, model = partial / "checkpoint", trained.model
        id2label: dict = model.config.id2label or {}
        model.save_pretrained(checkpoint)
        trained.image_processor.save_pretrained(checkpoint)
        card = render_card(
            ROOT / "model_card.md",
            model_name=f"vit-custom-{name}",
            dataset=recipe.data.dataset,
            metrics={"accuracy": trained.metrics["eval_accuracy"]},
            labels=list(id2label.values()),
            num_parameters=count_parameters(model),
            num_train_images=trained.num_train_images,
            num_test_images=len(trained.held_out),
            recipe=recipe.path.name,
            seconds=trained.seconds,
            certificate=birth_certificate(f"python scripts/train.py {arguments.recipe}"),
        )
        (checkpoint / "README.md").write_text(card, encoding="utf-8")
        save_examples(partial / "examples", trained.held_out, recipe.data.num_examples, id2label)
    print(
        f"\n{trained.metrics['eval_accuracy']:.2%} of {len(trained.held_out)} held-out images, {trained.seconds:.0f} s."
    )
    print(f"The checkpoint, ready for the Hub: {folder / 'checkpoint'}")
    return folder


def save_examples(folder: Path, held_out, count: int, id2label: dict[int, str]):
    """The first `count` held-out images as files, and their labels beside them."""
    folder.mkdir()
    truth = {}
    for index, row in enumerate(held_out.select(range(count))):
        row["image"].save(folder / f"{index}.png")
        truth[f"{index}.png"] = id2label[row["label"]]
    (folder / "labels.json").write_text(json.dumps(truth, indent=1) + "\n")


if __name__ == "__main__":
    main()
