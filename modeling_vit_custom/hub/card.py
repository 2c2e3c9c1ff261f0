"""The model card: its text is a template, its numbers are handed in by who measured them."""

from pathlib import Path

from huggingface_hub import EvalResult
from huggingface_hub import ModelCard
from huggingface_hub import ModelCardData

# Tasks that transformers has a pipeline for; the others are learned from and then fine-tuned.
PIPELINES = {
    name: name
    for name in ("image-classification", "image-segmentation", "object-detection", "zero-shot-image-classification")
}


def render_card(
    template: str | Path, *, model_name: str, task: str, dataset: str, metrics: dict[str, float], **values
) -> str:
    """The card's Markdown with its front matter, from a Jinja template.

    Args:
        task: the Hub's name of it.
        metrics: the measured values; they stand in the front matter as `model-index` too.
        values: every other variable of the template.
    """
    results = [
        EvalResult(task, dataset, dataset, metric_type=name, metric_value=round(value, 4))
        for name, value in metrics.items()
    ]
    data = ModelCardData(
        license="apache-2.0",
        library_name="transformers",
        pipeline_tag=PIPELINES.get(task),
        tags=["custom_code", "vision", "vit"],
        metrics=list(metrics),
        model_name=model_name,
        eval_results=results,
    )
    variables = {
        "model_name": model_name,
        "task": task,
        "pipeline": PIPELINES.get(task),
        "dataset": dataset,
        "metrics": metrics,
        **values,
    }
    return str(ModelCard.from_template(data, template_path=str(template), **variables))
