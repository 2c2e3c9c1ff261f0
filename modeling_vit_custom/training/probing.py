"""What a frozen encoder's features are worth: nearest neighbours, a linear classifier, class names as captions.

N images, M training images, B batch, C channels, H W pixels, D width, L labels.
"""

from collections.abc import Callable
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from accelerate.utils import broadcast_object_list
from accelerate.utils import parse_flag_from_env
from torch import nn
from tqdm.auto import tqdm
from transformers import TrainerCallback

from ..common import extra
from ..common import frozen
from .collators import Numbered
from .images import to_rgb

INVERSE_PENALTIES = tuple(10.0**power for power in range(-4, 3))  # scikit-learn's C
MOMENTS = ("evaluate", "epoch")
# "Learning Transferable Visual Models From Natural Language Supervision" (Radford et al. 2021), section 3.1.4
TEMPLATES = ("a photo of a {}.",)


def pooled(model: Any, pixel_values: torch.Tensor) -> torch.Tensor:
    """(B, C, H, W) -> (B, D): what the encoder says of each image, whatever head the model has.

    A model of images and texts gives its image embeddings, of length 1. Any other gives its encoder's `pooler_output`,
    or where there is none (transformers' classifiers) the mean of `last_hidden_state` over tokens or pixels. A pooler
    that its checkpoint did not hold is random, which no one can tell here: transformers warns of it when it loads.
    """
    if hasattr(model, "get_base_model"):  # peft's wrapper
        model = model.get_base_model()
    if hasattr(model, "get_image_features"):
        outputs = model.get_image_features(pixel_values=pixel_values, return_dict=True)
        return nn.functional.normalize(outputs.pooler_output, dim=1)
    outputs = model.base_model(pixel_values=pixel_values, return_dict=True)
    if outputs.get("pooler_output") is not None:
        return outputs["pooler_output"].flatten(1)
    if outputs.get("last_hidden_state") is None:
        raise ValueError(
            f"{type(model).__name__} has no `pooler_output` and no `last_hidden_state`: give one that has."
        )
    states = outputs["last_hidden_state"]
    return states.mean(1) if states.ndim == 3 else states.flatten(2).mean(2)


def features(
    model: Any, processor: Any, rows: Any, batch_size: int = 64, progress: bool = True
) -> tuple[np.ndarray, np.ndarray]:
    """Rows `{"image": PIL image, "label": int}` -> (N, D) in float32, (N): each image's `pooled`, and its label.

    Args:
        model: any of ours, or any of transformers' that sees images.
        processor: of images, or of images and texts.

    Raises:
        ValueError: the rows have no label.
    """
    numbered = Numbered(rows)  # reads a batch at once
    process, weight = getattr(processor, "image_processor", processor), next(model.parameters())
    found, labels = [], []
    with frozen(model):
        for start in tqdm(range(0, len(rows), batch_size), desc="Features", disable=not progress):
            batch = numbered.__getitems__(list(range(start, min(start + batch_size, len(rows)))))
            if "label" not in batch[0]:
                raise ValueError("A probe needs rows with an `image` and a `label`: choose a data set with classes.")
            pixels = process([to_rgb(row["image"]) for row in batch], return_tensors="pt")["pixel_values"]
            found.append(pooled(model, pixels.to(weight.device, weight.dtype)).float().cpu())
            labels += [row["label"] for row in batch]
    return torch.cat(found).numpy(), np.asarray(labels)


def knn(
    train: np.ndarray,
    train_labels: np.ndarray,
    test: np.ndarray,
    test_labels: np.ndarray,
    k: int = 20,
    temperature: float = 0.07,
) -> dict[str, float]:
    """(M, D), (M), (N, D), (N) -> `knn_accuracy`, of the vote of the `k` training images with the highest cosine, each
    with the weight exp(cosine / temperature): DINO's ("Emerging Properties in Self-Supervised Vision Transformers",
    Caron et al. 2021, section 4.1) after "Unsupervised Feature Learning via Non-Parametric Instance Discrimination"
    (Wu et al. 2018, section 3.4).
    """
    with extra("study", "The vote of neighbours needs"):
        from sklearn.neighbors import KNeighborsClassifier
    if k > len(train):
        raise ValueError(
            f"There are {len(train)} training images for {k} neighbours: give a smaller `k` or more images."
        )

    def weights(distance: np.ndarray) -> np.ndarray:
        """(N, k), 1 - cosine -> (N, k): relative to the nearest, so that no temperature is too low."""
        return np.exp((distance.min(1, keepdims=True) - distance) / temperature)

    classifier = KNeighborsClassifier(k, weights=weights, metric="cosine", algorithm="brute")
    return {"knn_accuracy": float(classifier.fit(train, train_labels).score(test, test_labels))}


def linear_probe(
    train: np.ndarray, train_labels: np.ndarray, test: np.ndarray, test_labels: np.ndarray, seed: int = 0
) -> dict[str, float]:
    """(M, D), (M), (N, D), (N) -> `linear_probe_accuracy` of logistic regression on standardised features, and the
    `linear_probe_c` (scikit-learn's C) that was best on a fifth of the training images, drawn by `seed`.
    """
    with extra("study", "A linear probe needs"):
        from sklearn.linear_model import LogisticRegression
        from sklearn.model_selection import train_test_split
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler
    inner, outer, inner_labels, outer_labels = train_test_split(
        train.astype(np.float64), train_labels, test_size=0.2, random_state=seed
    )

    def fit(c: float, vectors: np.ndarray, labels: np.ndarray) -> Any:
        return make_pipeline(StandardScaler(), LogisticRegression(C=c, max_iter=2000)).fit(vectors, labels)

    scores = [fit(c, inner, inner_labels).score(outer, outer_labels) for c in INVERSE_PENALTIES]
    best = INVERSE_PENALTIES[int(np.argmax(scores))]  # of equals the strongest penalty
    accuracy = fit(best, train.astype(np.float64), train_labels).score(test.astype(np.float64), test_labels)
    return {"linear_probe_accuracy": float(accuracy), "linear_probe_c": best}


PROBES: dict[str, Callable[..., dict[str, float]]] = {"knn": knn, "linear": linear_probe}


def zero_shot(
    model: Any,
    processor: Any,
    rows: Any,
    class_names: Sequence[str],
    templates: Sequence[str] = TEMPLATES,
    batch_size: int = 64,
    progress: bool = True,
) -> tuple[np.ndarray, np.ndarray]:
    """Rows `{"image", "label"}` -> (N, L), (N): logits of a model of images and texts for classes that it knows by name
    alone, and the labels. `metrics.classification` makes figures of them.

    A class is the mean of its captions' embeddings, one caption for each template (CLIP, section 3.1.4).
    """
    if not hasattr(model, "get_text_features"):
        raise ValueError(f"{type(model).__name__} reads no texts: zero-shot classification needs a dual encoder.")
    images, labels = features(model, processor, rows, batch_size, progress)
    classes = []
    with frozen(model):
        for name in class_names:
            captions = [template.format(name) for template in templates]
            tokens = processor.tokenizer(captions, padding=True, return_token_type_ids=False, return_tensors="pt")
            outputs = model.get_text_features(**tokens.to(model.device), return_dict=True)
            texts = nn.functional.normalize(outputs.pooler_output.float(), dim=1)
            classes.append(nn.functional.normalize(texts.mean(0), dim=0).cpu())
        scale = model.logit_scale.float().exp().clamp(max=100).cpu()  # CLIP, section 2.5
    return (torch.from_numpy(images) @ torch.stack(classes).T * scale).numpy(), labels


class ProbeCallback(TrainerCallback):
    """Probes of the encoder while any Trainer trains, on data that need not be the training's: `eval_knn_accuracy`, for
    one, tells what an encoder has learnt that has no classifier. The weights become what they would without it.

        trainer.add_callback(ProbeCallback(train_rows, test_rows, processor, log=trainer.log))

    The figures join what `evaluate()` returns, so that `metric_for_best_model` can be one of them, and the trainer's
    `log_history`. A Trainer tells no callback how to log: with `log` they reach TensorBoard and the others too.

    On several processes the first computes, by itself, and the others wait for its figures. It needs the whole model:
    under FSDP and DeepSpeed the weights are in pieces, and it refuses.

    Args:
        every: "evaluate", after each evaluation, or "epoch", after each epoch.
        kinds: "knn", "linear" or both.
        log: the trainer's `log`.
    """

    def __init__(
        self,
        rows_train: Any,
        rows_test: Any,
        processor: Any,
        every: str = "evaluate",
        kinds: Sequence[str] = ("knn",),
        batch_size: int = 64,
        log: Callable[[dict[str, float]], Any] | None = None,
    ):
        if every not in MOMENTS:
            raise ValueError(f"`every={every!r}` is no moment to probe at: choose one of {', '.join(MOMENTS)}.")
        if unknown := [kind for kind in kinds if kind not in PROBES]:
            raise ValueError(f"{unknown[0]!r} is no probe: choose of {', '.join(PROBES)}.")
        self.rows_train = rows_train
        self.rows_test = rows_test
        self.processor = processor
        self.every = every
        self.kinds = tuple(kinds)
        self.batch_size = batch_size
        self.log = log

    def on_train_begin(self, args, state, control, **kwargs):
        if any(parse_flag_from_env(f"ACCELERATE_USE_{name}") for name in ("FSDP", "DEEPSPEED")):
            raise ValueError("ProbeCallback needs the whole model on one process: train without FSDP and DeepSpeed.")

    def on_evaluate(self, args, state, control, model=None, metrics=None, **kwargs):
        if self.every == "evaluate":
            figures = self.figures(state, model)
            if metrics is not None:
                metrics |= figures
            self.tell(state, figures)

    def on_epoch_end(self, args, state, control, model=None, **kwargs):
        if self.every == "epoch":
            self.tell(state, self.figures(state, model))

    def figures(self, state: Any, model: Any) -> dict[str, float]:
        shared: list[dict[str, float]] = [{}]
        if state.is_world_process_zero:
            splits = (self.rows_train, self.rows_test)
            sets = [
                values for rows in splits for values in features(model, self.processor, rows, self.batch_size, False)
            ]
            for kind in self.kinds:
                shared[0] |= {f"eval_{name}": value for name, value in PROBES[kind](*sets).items()}
        return broadcast_object_list(shared)[0]

    def tell(self, state: Any, figures: dict[str, float]):
        if self.log is not None:
            self.log(dict(figures))
        elif self.every == "evaluate" and state.log_history and state.log_history[-1]["step"] == state.global_step:
            state.log_history[-1] |= figures  # of this evaluation, which has just been logged
        else:
            state.log_history.append(figures | {"epoch": state.epoch, "step": state.global_step})
