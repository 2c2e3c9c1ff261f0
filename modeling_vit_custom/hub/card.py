"""The model card: its text is a template, its numbers are handed in by who measured them."""

from pathlib import Path

from huggingface_hub import EvalResult
from huggingface_hub import ModelCard
from huggingface_hub import ModelCardData


def render_card(template: str | Path, *, model_name: str, dataset: str, metrics: dict[str, float], **values) -> str:
    """The card's Markdown with its front matter, from a Jinja template.

    Args:
        metrics: the measured values; they stand in the front matter as `model-index` too.
        values: every other variable of the template.
    """
    results = [
        EvalResult("image-classification", dataset, dataset, metric_type=name, metric_value=round(value, 4))
        for name, value in metrics.items()
    ]
    data = ModelCardData(
        license="apache-2.0",
        library_name="transformers",
        pipeline_tag="image-classification",
        tags=["custom_code", "vision", "vit"],
        metrics=list(metrics),
        model_name=model_name,
        eval_results=results,
    )
    variables = {"model_name": model_name, "dataset": dataset, "metrics": metrics, **values}
    return str(ModelCard.from_template(data, template_path=str(template), **variables))
