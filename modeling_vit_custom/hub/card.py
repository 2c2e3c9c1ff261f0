"""The model card: `model_card.md` is its text, and what lies in the folder is all that it tells."""

import json
import math
import re
from importlib.metadata import PackageNotFoundError
from importlib.metadata import requires
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult
from huggingface_hub import ModelCard
from huggingface_hub import ModelCardData
from yaml import YAMLError

from ..checkpoint_files import AUTO_MAP
from ..checkpoint_files import DUAL_ENCODER_AUTO_MAP
from .file_rules import files_of
from .file_rules import read_headers
from .file_rules import sha256
from .remote import HubProblem

MARKER = (
    "<!-- Written by scripts/push.py, which writes it anew each time. Take this line out to keep words of your own. -->"
)
UNFILLED = re.compile(r"\[?more information needed\]?|\[optional\]|\{\{|^# model card for model id", re.I | re.M)
# What each class that can be saved is for: the Hub's name of the task, what the model is, what to use it for.
TASKS = {
    "ViTCustomForImageClassification": (
        "image-classification",
        "A Vision Transformer that says which of its classes an image shows.",
        "Images like those it was trained on; or as a start for fine-tuning on others, with `num_labels` of your own.",
    ),
    "ViTCustomForSemanticSegmentation": (
        "image-segmentation",
        "A Vision Transformer that gives each pixel of an image one of its classes (Segmenter).",
        "Images like those it was trained on, or as a start for fine-tuning.",
    ),
    "ViTCustomForObjectDetection": (
        "object-detection",
        "A Vision Transformer that finds objects in an image and draws boxes around them.",
        "Images like those it was trained on, or as a start for fine-tuning.",
    ),
    "ViTCustomDualEncoder": (
        "zero-shot-image-classification",
        "A Vision Transformer and a text model that say how well an image and a text match (CLIP).",
        "To choose among texts for an image, or images for a text, of the kind it was trained on.",
    ),
}
LEARNED = (
    "image-feature-extraction",
    "A Vision Transformer that has learned from images, without a head for a task of its own.",
    "To be fine-tuned, or as a source of features.",
)


def write_card(folder: Path, template: str | Path, **settings) -> Path:
    """Write README.md of a folder; settings as `card_values`."""
    values = card_values(folder, **settings)
    path = folder / "README.md"
    path.write_text(
        str(ModelCard.from_template(template_path=str(template), **values)).rstrip() + "\n", encoding="utf-8"
    )
    return path


def card_values(
    folder: Path,
    *,
    license: str | None = None,
    repo: str = "owner/name",
    revision: str = "v1",
    metrics: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """What the template tells, read from config.json, the headers of the weights, metrics.json, parity.json and so on.

    Args:
        license: the Hub's id of it, if one is known; else that of `metrics`.
        repo, revision: where the card will stand.
        metrics: what metrics.json says, where it is not in the folder.
    """
    here = files_of(folder)
    config = read(folder / "config.json")
    measured, parity, source = (
        metrics or read(folder / "metrics.json"),
        read(folder / "parity.json"),
        read(folder / "source.json"),
    )
    architecture = (config.get("architectures") or [""])[0]
    task, description, intended = TASKS.get(architecture, LEARNED)
    reached, baseline = measured.get("reached", {}), measured.get("baseline", {})
    figures = {name: reached[name] for name in [*baseline, measured.get("metric")] if name in reached}
    dataset, name = measured.get("dataset"), repo.split("/")[-1]
    license = license or (metrics or {}).get("license")
    on_hub, converted = measured.get("dataset_id"), bool(source.get("revision"))
    base = source["name"] if converted else measured.get("base_model")
    auto_map = {**AUTO_MAP, **DUAL_ENCODER_AUTO_MAP}
    data = ModelCardData(
        license=license,
        library_name="transformers",
        pipeline_tag=task,
        tags=["custom_code", "vision", "vit"],
        datasets=[on_hub] if on_hub else None,
        base_model=base,
        metrics=list(figures) or None,
        model_name=name if figures else None,
        eval_results=[
            EvalResult(
                measured.get("task", task),
                on_hub or measured.get("dataset_source", "local"),  # an id of the Hub's, or a word that is none
                str(dataset),
                metric_type=key,
                metric_value=round(value, 4),
            )
            for key, value in figures.items()
        ]
        or None,
    )
    return {
        "card_data": data,
        "model_name": name,
        "repo": repo,
        "revision": revision,
        "description": description,
        "intended": intended,
        "num_parameters": sum(
            math.prod(shape) for file, shape in read_headers(folder)[0].values() if file != "source_only.safetensors"
        ),
        "labels": class_names(config),
        "license": license,
        "base_model": base,
        "base_revision": source.get("revision"),
        "fine_tuned": not converted,
        "init_from": measured.get("init_from"),
        "otherwise": otherwise(measured.get("pictures_pipeline_sees_otherwise") or {}),
        "history": "history.png" if "history.png" in here else None,
        "metrics": figures,
        "baseline": baseline,
        "dataset": dataset,
        "num_test_images": measured.get("num_test_images", "the"),
        "picture": "predictions.png" if "predictions.png" in here else None,
        "processor": "preprocessor_config.json" in here or "processor_config.json" in here,
        "pipeline": task if architecture in TASKS else None,
        "fine_tune": architecture not in TASKS and architecture != "ViTCustomModel",
        "auto_class": next(
            (key for key, value in auto_map.items() if value.split(".")[1] == architecture), "AutoModel"
        ),
        "twin": (read(folder / "transformers/config.json").get("architectures") or [None])[0],
        "made": made(measured),
        "recipe_text": (measured.get("recipe_text") or "").strip(),
        "parity": told_by(parity),
        "floors": floors(),
        "hashes": {name: sha256(path) for name, path in here.items() if name.endswith((".py", ".safetensors"))},
        "marker": MARKER,
    }


def read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def class_names(config: dict[str, Any]) -> list[str]:
    """Of a configuration that has names, not numbers, for its classes."""
    names = [name for _, name in sorted((config.get("id2label") or {}).items(), key=lambda row: int(row[0]))]
    return [] if all(re.fullmatch(r"LABEL_\d+", name) for name in names) else names


def made(measured: dict[str, Any]) -> dict[str, str]:
    """What is known of the training, a row each."""
    rows = {
        "data": f"{measured['dataset']}, {measured['num_train_images']:,} images"
        if measured.get("num_train_images") is not None
        else measured.get("dataset"),
        "began from": measured.get("init_from"),
        "recipe": f"`{measured['recipe']}`" if "recipe" in measured else None,
        "seed": measured.get("seed"),
        "time": f"{measured['seconds']:.0f} s" if "seconds" in measured else None,
        "energy": f"{measured['energy_kwh']:.3f} kWh, measured" if "energy_kwh" in measured else None,
        **measured.get("certificate", {}),
    }
    known = {name: str(value).replace("|", "\\|") for name, value in rows.items() if value is not None}
    return known or {"recipe": "not recorded"}


def otherwise(kinds: dict[str, dict[str, Any]]) -> dict[str, str] | None:
    """How many pictures of which kinds `pipeline` sees otherwise than training did, and the code that converts them."""
    code = "\n".join("\n".join([f"# {kind}", *told["convert"]]) for kind, told in kinds.items())
    counted = ", ".join(f"{told['count']:,} {kind}" for kind, told in kinds.items())
    return {"counted": counted, "code": code} if kinds else None


def told_by(parity: dict[str, Any]) -> dict[str, str] | None:
    if not parity:
        return None
    worst = [
        f"at most {value:.1e} of a layer's largest value in {dtype}"
        for dtype, value in (parity["largest"] or {}).items()
    ]
    summary = (
        f"outputs and gradients differ by {' and '.join(worst)}"
        if worst
        else f"not compared, since {parity['not compared']}"
    )
    return {"kind": parity["source"]["kind"], "summary": summary}


def floors() -> dict[str, str]:
    """The oldest versions that this package supports."""
    try:
        rows = requires(__package__.split(".")[0].replace("_", "-")) or []
    except PackageNotFoundError:
        rows = []
    found = dict(re.findall(r"^([\w-]+)>=([\d.]+)", "\n".join(rows), flags=re.MULTILINE))
    return {"transformers": "5", "torch": "2", **found}


def keeps_its_own_card(folder: Path) -> bool:
    """Whether README.md is somebody's own words, to be kept.

    Raises:
        HubProblem: it has gaps that its author, or Trainer, left.
    """
    card = folder / "README.md"
    text = card.read_text(encoding="utf-8") if card.is_file() else MARKER
    if MARKER in text:
        return False
    if gap := UNFILLED.search(text):
        raise HubProblem(f"README.md has a gap, {gap[0]!r}: fill it, or delete the file to have one written.")
    try:
        if not ModelCard(text, ignore_metadata_errors=False).data.to_dict().get("license"):
            raise ValueError("it names no license")
    except (ValueError, YAMLError) as error:
        raise HubProblem(
            f"the front matter of README.md cannot be used ({' '.join(str(error).split())[:150]}): correct it, or "
            "delete the file to have one written."
        ) from None
    return True
