"""Jobs in clean processes: what somebody gets who has transformers and a checkpoint, and has imported nothing of ours.

`run` starts one interpreter, which imports torch and transformers and then forks once a job. So each job has a process
of its own in which no module of ours was ever loaded, an empty HF_HOME, and a working folder elsewhere, for the price
of a fork instead of a cold import (4 s). The other functions are the jobs. This file imports nothing of ours at its
top: for most jobs our package must not be there.
"""

import contextlib
import gc
import hashlib
import io
import json
import logging
import os
import shutil
import subprocess
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from huggingface_hub import HfApi
from PIL import Image
from safetensors.torch import load_file
from safetensors.torch import save_file
from transformers.conversion_mapping import get_checkpoint_conversion_mapping
from transformers.dynamic_module_utils import get_class_from_dynamic_module

PACKAGE = "modeling_vit_custom"
LIBRARIES = ("transformers", "torch", "huggingface_hub", "tokenizers")


class Answer(dict):
    """What a job returned. To ask one that failed shows its traceback."""

    def __missing__(self, key):
        raise AssertionError(f"No {key!r} came from the clean process:\n{self.get('traceback')}")


def run(
    jobs: dict[str, tuple], work: Path, installed: bool = False, python: str | Path = sys.executable, **environment: str
) -> dict[str, Answer]:
    """{name: (job, arguments)} -> {name: answer}, one after the other. `installed`: our package can be imported."""
    work.mkdir(exist_ok=True)
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "TRANSFORMERS_"))}
    quiet = dict(HF_HUB_DISABLE_PROGRESS_BARS="1", HF_HUB_DISABLE_TELEMETRY="1", HF_HUB_DISABLE_XET="1")
    own = dict(HF_HOME=str(work / "home"), CUDA_VISIBLE_DEVICES="")  # the two sides compute on the same device
    order = {name: (job.__name__, arguments) for name, (job, arguments) in jobs.items()}
    done = subprocess.run(
        [python, "-P", __file__, json.dumps([order, installed], default=str)],
        cwd=work,
        env=kept | quiet | own | environment,
        stdin=subprocess.DEVNULL,  # nobody answers when transformers asks whether to trust
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return {name: Answer(json.loads((work / f"{name}.json").read_text())) for name in jobs}


def main(order: dict, installed: bool):
    if not installed:
        sys.modules[PACKAGE] = None  # type: ignore[assignment]  # importing it raises, editable install or not
    # transformers is lazy: this is what takes the time, once here instead of once a job.
    _ = transformers.CLIPModel, transformers.ViTMAEForPreTraining, transformers.pipeline
    get_checkpoint_conversion_mapping("vit")
    gc.freeze()  # a collection in a job would touch, and so copy, every page
    for name, (job, arguments) in order.items():
        shutil.rmtree(os.environ["HF_HOME"], ignore_errors=True)
        if os.fork() == 0:
            try:
                answer = globals()[job](**arguments)
            except BaseException:
                answer = {"traceback": traceback.format_exc()}
            answer["versions"] = {name: __import__(name).__version__ for name in LIBRARIES}
            Path(f"{name}.json").write_text(json.dumps(answer))
            os._exit(0)
        os.wait()


@contextlib.contextmanager
def warnings_logged() -> Iterator[list[str]]:
    """What is logged at WARNING and above, by transformers and by our code wherever it was loaded from."""
    records: list[logging.LogRecord] = []
    messages: list[str] = []

    def emit(record: logging.LogRecord):
        if record not in records:  # where the environment says CI, one of transformers reaches the root logger too
            records.append(record)
            messages.append(record.getMessage())

    handler = logging.Handler(logging.WARNING)
    handler.emit = emit  # type: ignore[method-assign]
    loggers = logging.getLogger(), logging.getLogger("transformers")
    for logger in loggers:
        logger.addHandler(handler)
    transformers.utils.logging.warning_once.cache_clear()  # what an earlier test has caused is said again
    try:
        yield messages
    finally:
        for logger in loggers:
            logger.removeHandler(handler)


def leaves(value: Any) -> Iterator[torch.Tensor]:
    """The tensors of any nesting of dictionaries and sequences, in order."""
    if isinstance(value, torch.Tensor):
        yield value
    else:
        for part in value.values() if isinstance(value, dict) else value:
            yield from leaves(part)


def digest(value: Any) -> str:
    """sha256 of the bytes: equal if and only if the tensors are bit-equal."""
    return hashlib.sha256(b"".join(part.detach().contiguous().numpy().tobytes() for part in leaves(value))).hexdigest()


def describe_tensors(made: torch.nn.Module) -> dict[str, dict[str, str]]:
    return {"tensors": {name: digest(tensor) for name, tensor in made.state_dict().items()}}


def describe(made, pictures: str, folder: str) -> dict:
    """Where the class comes from and, for a model, each tensor and each output for each set of inputs.

    `pictures` is a file of tensors named `<set>/<argument of the forward>`. The outputs themselves come to lie beside
    the `folder` that the model was saved in.
    """
    description = {"module": type(made).__module__}
    if isinstance(made, torch.nn.Module):
        description |= describe_tensors(made)
        inputs: dict[str, dict[str, torch.Tensor]] = {}
        for key, tensor in load_file(pictures).items():
            size, name = key.split("/")
            inputs.setdefault(size, {})[name] = tensor
        with torch.no_grad():
            outputs = {size: dict(made(**given).items()) for size, given in inputs.items()}
        description["outputs"] = {
            size: {name: digest(value) for name, value in values.items()} for size, values in outputs.items()
        }
        numbered = {
            f"{size}/{name}/{number}": tensor.contiguous().clone()
            for size, values in outputs.items()
            for name, value in values.items()
            for number, tensor in enumerate(leaves(value))
        }
        save_file(numbered, f"{folder}-outputs.safetensors")
    return description


def publish(class_name: str, folder: str, pictures: str, repo: str | None = None, **which: str) -> dict:
    """Save a small object of a class, and push it to `repo` in both ways that transformers has.

    `which`: a `variant` of `tests.support`, or `head` and `member`, a cell of `tests.matrix`.
    """
    sys.path.append(str(Path(__file__).parent.parent))
    import modeling_vit_custom
    from tests import matrix
    from tests.support import VARIANTS
    from tests.support import fill
    from tests.support import tiny

    if "head" in which:
        made = matrix.make_config(**which) if class_name.endswith("Config") else fill(matrix.make(**which))
    else:
        config = tiny(**VARIANTS[which["variant"]] if which else {"prefix_tokens": ["cls", "register"]})
        made = config if class_name.endswith("Config") else fill(getattr(modeling_vit_custom, class_name)(config))
    made.save_pretrained(folder)
    if repo is not None:
        made.push_to_hub(repo)
        made.save_pretrained(f"{folder}-pushed", push_to_hub=True, repo_id=f"{repo}-saved")
    return describe(made, pictures, folder)


def move_on(repo: str, file: str) -> dict:
    """Tag a repository's state v1, then change a file of its code on the main branch."""
    api = HfApi()
    api.create_tag(repo, tag="v1")
    code = Path(api.hf_hub_download(repo, file)).read_text()
    api.upload_file(repo_id=repo, path_in_repo=file, path_or_fileobj=f"{code}# later\n".encode())
    return {}


def backbone_class(folder: str) -> type:
    """AutoBackbone takes no folders (`load_backbone_of_a_folder`). Its class does: the package's, where that was
    imported, or the folder's own, by the function that transformers' Auto classes use, whose caller trusts the code."""
    if sys.modules.get(PACKAGE) is not None:
        return sys.modules[PACKAGE].ViTCustomBackbone
    reference = json.loads(Path(folder, "config.json").read_text())["auto_map"]["AutoBackbone"]
    return get_class_from_dynamic_module(reference, folder)


def load_backbone_of_a_folder(source: str) -> dict:
    """What transformers' AutoBackbone makes of a folder: it asks the Hub for a repository of this name."""
    return {"module": type(transformers.AutoBackbone.from_pretrained(source, trust_remote_code=True)).__module__}


def reload(
    auto_class: str, source: str, target: str, pictures: str, trust_remote_code=True, forget_source=False, **settings
) -> dict:
    """Load, and save again. `forget_source`: the checkpoint is deleted in between."""
    with warnings_logged() as warnings:
        if auto_class == "AutoBackbone" and Path(source).is_dir():
            made = backbone_class(source).from_pretrained(source, **settings)
        else:
            loader = getattr(transformers, auto_class)
            made = loader.from_pretrained(source, trust_remote_code=trust_remote_code, **settings)
        if forget_source:
            shutil.rmtree(source)
        made.save_pretrained(target)
    return describe(made, pictures, target) | {"warnings": warnings}


def reload_with_package(**arguments) -> dict:
    """The same where the package is imported, and nobody is trusted."""
    __import__(PACKAGE)
    return reload(trust_remote_code=None, **arguments)


def reload_on_top(class_name: str, source: str, pictures: str, package: bool) -> dict:
    """Load one of transformers' own models whose backbone is ours, and run it."""
    if package:
        __import__(PACKAGE)
    made = getattr(transformers, class_name).from_pretrained(source)
    pixel_values = load_file(pictures)["pixel_values"]
    with torch.no_grad():
        return describe_tensors(made) | {"logits": made(pixel_values).logits.tolist()}


def load_untrusted(source: str, mark: str, auto_classes: list[str]) -> dict:
    """Try to load code that leaves `mark` when it runs: without trust, then with it."""
    refusals = {}
    loaders = {name: getattr(transformers, name).from_pretrained for name in auto_classes}
    loaders["pipeline"] = lambda model, **kwargs: transformers.pipeline("image-classification", model=model, **kwargs)
    for name, load in loaders.items():
        for kwargs in ({}, dict(trust_remote_code=False)):
            try:
                load(source, **kwargs)
                refusals[f"{name} {kwargs}"] = "loaded"
            except Exception as error:
                refusals[f"{name} {kwargs}"] = f"{type(error).__name__}: {error}"
    ran = Path(mark).exists()
    copied = [str(path) for path in Path(os.environ["HF_HOME"]).rglob("*.py")]
    loaders["AutoConfig"](source, trust_remote_code=True)
    return {"refusals": refusals, "ran": ran, "copied": copied, "ran with trust": Path(mark).exists()}


def make_picture() -> Image.Image:
    rows, columns = np.mgrid[:50, :40]
    return Image.fromarray(np.stack([rows * 5, columns * 6, rows * columns % 256], axis=-1).astype(np.uint8))


def run_pipelines(source: str, target: str) -> dict:
    """What the pipelines say of a picture, what the models say of it, and a pipeline's own save."""
    picture = make_picture()
    settings = dict(model=source, trust_remote_code=True, device="cpu")
    classify = transformers.pipeline("image-classification", **settings)
    embed = transformers.pipeline("image-feature-extraction", **settings, pool=True)
    said = classify(picture, top_k=99, function_to_apply="none")  # NumPy's softmax is not torch's to the last bit
    pixel_values = classify.image_processor(picture, return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        logits = classify.model(pixel_values).logits[0].tolist()
        vector = embed.model(pixel_values).pooler_output
    classify.save_pretrained(target)
    return {
        "shape": list(pixel_values.shape),
        "scores": {row["label"]: row["score"] for row in said},
        "model's scores": {classify.model.config.id2label[n]: logit for n, logit in enumerate(logits)},
        "vector": embed(picture),
        "model's vector": vector.tolist(),
    }


def pixels_of_pipeline(source: str, pictures: str) -> dict:
    """What the pipeline makes of each file in a folder before the model."""
    classify = transformers.pipeline("image-classification", model=source, trust_remote_code=True, device="cpu")
    made = {path.name: classify.preprocess(str(path))["pixel_values"] for path in Path(pictures).iterdir()}
    return {name: digest(pixel_values) for name, pixel_values in made.items()}


def run_task_pipeline(task: str, source: str, target: str, picture: str, captions: list[str] | None = None) -> dict:
    """What one of the other pipelines says of a picture, what the model says of it, and the pipeline's own save."""
    say = transformers.pipeline(task, model=source, trust_remote_code=True, device="cpu")
    image, asked = Image.open(picture), dict(candidate_labels=captions, hypothesis_template="{}") if captions else {}
    if task == "object-detection":
        asked = dict(threshold=0.5)
    said = say(image, **asked)
    given = say.image_processor(image, return_tensors="pt")
    if captions:
        given.update(say.tokenizer(captions, padding=True, return_tensors="pt"))
    with torch.no_grad():
        outputs = say.model(**given)
    say.save_pretrained(target)
    if task == "image-segmentation":
        return {
            "masks": {row["label"]: np.asarray(row["mask"]).astype(bool).tolist() for row in said},
            "model's classes": outputs.logits[0].argmax(0).tolist(),
        }
    if task == "object-detection":
        return {"said": said, "scores": outputs.logits[0].softmax(-1).tolist(), "boxes": outputs.pred_boxes[0].tolist()}
    return {"said": said, "scores": outputs.logits_per_image[0].softmax(-1).tolist()}


def push_twins(repo: str, branches: dict[str, list[tuple[str, str]]]) -> dict:
    """Folders into a repository: {branch: [(folder, where in the repository)]}."""
    api = HfApi()
    api.create_repo(repo)
    for branch, folders in branches.items():
        if branch != "main":
            api.create_branch(repo, branch=branch)
        for folder, where in folders:
            api.upload_folder(repo_id=repo, folder_path=folder, path_in_repo=where, revision=branch)
    return {}


def load_twins(twins: dict[str, dict[str, Any]]) -> dict:
    """Load each by its library's own function and nobody's trust, and run it on a file of inputs; its outputs go into
    the file `answers`. Without `given` it is no model: all that it says of itself."""
    found = {}
    for name, twin in twins.items():
        with warnings_logged() as warnings:
            if twin["loader"] == "timm":
                made = __import__("timm").create_model(twin["source"], pretrained=True).eval()
            else:
                made = getattr(transformers, twin["loader"]).from_pretrained(twin["source"], **twin.get("settings", {}))
        found[name] = {"class": type(made).__name__, "module": type(made).__module__, "warnings": warnings}
        if "given" not in twin:
            found[name]["says"] = made(make_picture(), return_tensors="pt").pixel_values.tolist()
            continue
        inputs = load_file(twin["given"])
        with torch.no_grad():
            outputs = made(inputs["pixel_values"]) if twin["loader"] == "timm" else made(**inputs)
        named = {"output": outputs} if isinstance(outputs, torch.Tensor) else dict(outputs.items())
        kept = {key: part.contiguous() for key, part in named.items() if isinstance(part, torch.Tensor)}
        save_file(kept, twin["answers"])
    return found


def ask_twins(classifier: str, dual_encoder: str, captions: list[str]) -> dict:
    """What pipelines say of a picture, without trust, and what the tokenizer makes of captions."""
    classify = transformers.pipeline("image-classification", model=classifier, device="cpu")
    match = transformers.pipeline("zero-shot-image-classification", model=dual_encoder, device="cpu")
    tokenizer = transformers.AutoTokenizer.from_pretrained(dual_encoder)
    said = match(make_picture(), candidate_labels=captions, hypothesis_template="{}")
    return {
        "classes": {row["label"]: row["score"] for row in classify(make_picture(), top_k=99)},
        "captions": {row["label"]: row["score"] for row in said},
        "tokens": tokenizer(captions, padding=True)["input_ids"],
    }


def push_folder(folder: str, repo: str, tag: str) -> dict:
    """A folder as it is, and a tag."""
    api = HfApi()
    api.create_repo(repo)
    commit = api.upload_folder(repo_id=repo, folder_path=folder)
    api.create_tag(repo, tag=tag)
    return {"commit": commit.oid}


def run_text(text: str) -> dict:
    """Run a document's code beside a picture; what it prints."""
    make_picture().save("image.png")
    printed = io.StringIO()
    with warnings_logged() as warnings, contextlib.redirect_stdout(printed):
        exec(compile(text, "card", "exec"), {})
    report = "classifier"  # of a new head, which is what the code asks for
    return {"printed": printed.getvalue(), "warnings": [line for line in warnings if report not in line]}


def train_with_push_to_hub(repo: str, output: str) -> dict:
    """What somebody does who has our package and a plain Trainer of transformers'."""
    from modeling_vit_custom import ViTCustomConfig
    from modeling_vit_custom import ViTCustomForImageClassification

    config = ViTCustomConfig(
        image_size=8, patch_size=4, hidden_sizes=[16], depths=[1], num_attention_heads=[2], num_labels=3
    )
    rows = [{"pixel_values": torch.ones(3, 8, 8) * n, "labels": n % 3} for n in range(6)]
    trainer = transformers.Trainer(
        model=ViTCustomForImageClassification(config),
        args=transformers.TrainingArguments(
            output_dir=output, push_to_hub=True, hub_model_id=repo, max_steps=2, report_to="none", save_strategy="no"
        ),
        train_dataset=rows,
        processing_class=transformers.ViTImageProcessor(size=dict(height=8, width=8)),
    )
    trainer.train()
    trainer.push_to_hub()
    return describe_tensors(trainer.model)


if __name__ == "__main__":
    main(*json.loads(sys.argv[1]))
