"""What a recipe may not set together: it would be without effect, or other than meant."""

from .recipe import Recipe
from .targets import SINGLE

CLASSIFICATION = "image-classification"


def refuse_pairs(recipe: Recipe):
    """
    Raises:
        ValueError: two keys, of which one has to go.
    """
    model, data = recipe.model, recipe.data
    pairs = [
        (
            model.ema and recipe.training.load_best_model_at_end,
            "`ema` and `load_best_model_at_end`: the result is the last average",
        ),
        (
            model.is_foreign and model.task != CLASSIFICATION,
            f"`task: {model.task}` and `model_type: {model.model_type}`, which is for image classification",
        ),
        (model.preset and model.init_from, "`preset` and `init_from`: a checkpoint has a configuration of its own"),
        (model.preset and model.is_foreign, "`preset` and `model_type`: presets are of this package's models"),
        (
            model.preset and model.task == "zero-shot-image-classification",
            f"`preset` and `task: {model.task}`: the captions decide on the text tower",
        ),
        (model.lora and model.is_foreign, "`lora` and `model_type`: the new head would not be trained"),
        (
            model.problem_type and model.task != CLASSIFICATION,
            f"`problem_type: {model.problem_type}` and `task: {model.task}`, which has no such choice",
        ),
        (
            model.problem_type and model.config_overrides.get("problem_type", model.problem_type) != model.problem_type,
            "`problem_type` and another one in `config_overrides`",
        ),
        (
            model.probe and model.problem != SINGLE,
            f"`probe` and `problem_type: {model.problem}`: probes find one class",
        ),
        (model.class_weights and model.distillation, "`class_weights` and `distillation`: a teacher weighs no classes"),
        (model.class_weights and data.streaming, "`class_weights` and `streaming`: a stream's classes are not counted"),
        (model.probe and data.streaming, "`probe` and `streaming`: a probe needs all training images"),
        (
            data.repeated_augmentation > 1 and data.streaming,
            "`repeated_augmentation` and `streaming`: a stream gives each image once",
        ),
    ]
    for both, words in pairs:
        if both:
            raise ValueError(f"{recipe.path} sets {words}, so leave one of them out.")


def refuse_unsized(recipe: Recipe):
    if recipe.model.is_foreign and "size" not in recipe.model.processor_overrides:
        raise ValueError(
            f"{recipe.path} has `model_type: {recipe.model.model_type}`, whose pictures could be of any size: set "
            "`processor_overrides: {size: {height: ..., width: ...}}`."
        )
