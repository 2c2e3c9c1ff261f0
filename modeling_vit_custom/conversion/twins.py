"""The twin of a model: the same weights in another library's own layout, which loads without any code of ours."""

import copy
import math
import re
import shutil
from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from typing import NamedTuple

import torch
import transformers
from huggingface_hub.errors import StrictDataclassError

from ..configuration_checks import pair
from ..configuration_stages import grid_at
from ..configuration_vit_custom import ViTCustomConfig
from ..modeling_detection import ViTCustomForObjectDetection
from ..modeling_dual_encoder import ViTCustomDualEncoder
from ..modeling_geometry import Windows
from ..modeling_masked import ViTCustomForMaskedImageModeling
from ..modeling_masked import ViTCustomForPreTraining
from ..modeling_vit_custom import ViTCustomForImageClassification
from . import heads_dual
from . import heads_masked
from .equal_configs import differing
from .heads_detection import YOLOS
from .heads_detection import yolos_tables
from .heads_detection import yolos_to_transformers
from .names import match
from .parity import difference
from .peers import as_in
from .peers import ways
from .probe import formula
from .probe import probe
from .reading import read_json
from .rename import Tensors
from .rename import into_theirs
from .returning import ENCODERS
from .returning import in_layout
from .returning import nearest
from .returning import no_counterpart
from .returning import read_model
from .returning import told_of_training
from .returning import write_layout
from .sources import Checkpoint
from .sources import Source
from .timm_sources import CROPS
from .trace import trace_ours
from .transformers_sources import POOLER
from .writing import new_folder

LIBRARIES = ("transformers", "timm")
BAR = 1e-5  # of the largest value of a layer or an output, in float32
HEADS = (ViTCustomForPreTraining, ViTCustomForMaskedImageModeling, ViTCustomForObjectDetection, ViTCustomDualEncoder)
CLASSES = ENCODERS | {make.__name__: make for make in HEADS}
# What a text tower reads with, beside its weights; the processors of pictures and text that were saved as one.
TOKENIZER = """tokenizer.json tokenizer_config.json special_tokens_map.json added_tokens.json vocab.txt vocab.json
    merges.txt spiece.model tokenizer.model sentencepiece.bpe.model processor_config.json""".split()
ELSEWHERE = {
    "position_interpolation": "resamples its positions",
    "window_pad_order": "pads its windows",
    "window_clamp": "fits its windows to a smaller grid",
}
Trace = Mapping[str, torch.Tensor]


class Twin(NamedTuple):
    """A model of theirs that computes what one of ours does.

    Args:
        checkpoint: its files.
        elsewhere: what it does another way at other image sizes, in sentences.
        notes: what else differs although the outputs agree.
        trace: (ours, theirs) -> what each computes of one probe, by name.
    """

    checkpoint: Checkpoint
    elsewhere: list[str]
    notes: list[str]
    trace: Callable[[Any, Any], tuple[Trace, Trace]]

    @property
    def name(self) -> str:
        """The class of transformers, or the architecture of timm."""
        return self.checkpoint.config.get("architecture") or self.checkpoint.config["architectures"][0]


def write_twin(folder: str | Path, output: str | Path, library: str) -> tuple[str, list[str], float]:
    """Write `output`, the twin of a folder of ours, load it by the library's own function, and compare.

    Args:
        library: "transformers" or "timm".

    Returns:
        the class or the architecture that it is there; what its configuration cannot say of training and of other image
        sizes; the largest difference of any layer or output, relative to its largest value, in float32.

    Raises:
        ValueError: the library has no such model, or computes something else; the sentence says why, and nothing is
            left at `output`.
        ImportError: the library is not installed.
    """
    folder = Path(folder)
    make, config, found = read_model(folder, CLASSES)
    twin = find_twin(make, config, found.tensors, library, found.processor)
    with new_folder(output) as target:
        write_layout(target, twin.checkpoint)
        for name in TOKENIZER if library == "transformers" else ():
            if (folder / name).is_file():
                shutil.copyfile(folder / name, target / name)
        refuse_code(target)
        ours = make.from_pretrained(folder, dtype=torch.float32).eval()
        worst = compare(twin, ours, target, library)
    height, width = pair(tower(config).image_size)
    elsewhere = [f"at other image sizes than {height} x {width} {sentence}" for sentence in twin.elsewhere]
    return twin.name, [*elsewhere, *twin.notes], worst


def refuse_code(folder: Path):
    """
    Raises:
        ValueError: a processor or a tokenizer needs code that comes with it.
    """
    for path in sorted(folder.glob("*config.json")):
        content = read_json(path) or {}
        if any("auto_map" in part for part in (content, *content.values()) if isinstance(part, dict)):
            raise ValueError(
                f"{path.name} names code of its own (`auto_map`), so that no twin does without: take it out."
            )


def compare(twin: Twin, ours: Any, folder: Path, library: str) -> float:
    """
    Raises:
        ValueError: the twin in the folder is not the model, or cannot be run; the sentence names the layer.
    """
    try:
        theirs = load_twin(folder, library, twin.name).float().eval()
        with torch.no_grad():
            first, second = twin.trace(ours, theirs)
        rows = {name: difference(first[name], second[name])["relative"] for name in second}
    except (AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"{library} has {twin.name}, which does not do what this model does: {reason}") from error
    for name, value in rows.items():
        if not value <= BAR:  # NaN neither
            why = "".join(f"; {sentence}" for sentence in twin.elsewhere)
            raise ValueError(
                f"{library} has {twin.name}, which computes something else: {name} differs by {value:.1e} of its "
                f"largest value, more than {BAR:.0e}{why}."
            )
    return max(rows.values())


def load_twin(folder: Path, library: str, name: str) -> Any:
    """As a reader without this package does.

    Raises:
        ValueError: the folder does not hold all of the model, or more.
    """
    if library == "timm":
        import timm

        return timm.create_model(f"local-dir:{folder.resolve()}", pretrained=True)
    theirs, info = getattr(transformers, name).from_pretrained(folder, output_loading_info=True)
    strange = {key for kind in ("missing_keys", "unexpected_keys") for key in info[kind]}
    if wrong := sorted(strange - {name for name, _ in theirs.named_buffers()}):
        raise ValueError(f"its weights and those of the folder do not fit, {', '.join(wrong)}")
    return theirs


def find_twin(
    make: Any, config: Any, tensors: Tensors, library: str, processor: Mapping[str, Any] | None = None
) -> Twin:
    """
    Args:
        make: our class, of `CLASSES`.
        tensors: its state dict, which may be on the meta device.
        processor: the settings of its image processor.

    Raises:
        ValueError: the library has no such model; the sentence says why.
        ImportError: the library is not installed.
    """
    if library not in LIBRARIES:
        raise ValueError(f"There are twins in {' and '.join(LIBRARIES)}, not in {library!r}: choose one of these.")
    images = tower(config)
    if images.position_embedding == "learned" and tuple(images.position_grid or images.grid) != images.grid:
        raise ValueError(
            f"Its positions are for a grid of {images.position_grid}, its images have one of {list(images.grid)}: call "
            f"`resize_position_embeddings({images.grid})` on the model and save it, for a twin."
        )
    if make in ENCODERS.values():
        return encoder(make, config, tensors, library, processor)
    if library != "transformers":
        raise ValueError(f"{library} has no counterpart of {make.__name__}: save its backbone, which may have a twin.")
    return whole(make, config, tensors, processor)


def tower(config: Any) -> ViTCustomConfig:
    """What is said of images: the configuration, or the part of it where there is one for captions too."""
    return getattr(config, "vision_config", config)


def other_ways(config: ViTCustomConfig, settled: ViTCustomConfig) -> list[str]:
    return [
        f"it {ELSEWHERE[name]} another way: `{name}` is {ours!r} here and {theirs!r} there"
        for name, (ours, theirs) in differing(config, settled, head=False).items()
        if name in ELSEWHERE
    ]


# --- encoders, with a classifier or without ---


def encoder(
    make: Any, config: ViTCustomConfig, tensors: Tensors, library: str, processor: Mapping[str, Any] | None
) -> Twin:
    head = make is ViTCustomForImageClassification
    if library == "timm" and not head and "distillation" in config.prefix_tokens:
        raise ValueError(
            "timm gives the mean of both tokens where a distilled model has no classifiers, ours the first."
        )
    source, settled = settle(config, library, head)
    moved = move_positions(config, settled, tensors, "vit." if head else "")
    checkpoint, notes = in_layout(source, settled, head, moved, None, processor)
    unsaid = {POOLER} if processor else {POOLER, *CROPS.values()}
    notes += [note for note in source.notes(checkpoint) if note not in unsaid]
    if config.num_positioned_prefix_tokens > settled.num_positioned_prefix_tokens:
        notes.append("positions of prefix tokens are added to the tokens for good, and no longer learned apart")
    if library == "transformers":
        checkpoint = completed(source, checkpoint, settled, head)

    def trace(ours: Any, theirs: Any) -> tuple[Trace, Trace]:
        height, width = pair(config.image_size)
        if not source.accepts(theirs, height, width):
            raise ValueError(f"it takes no images of {height} x {width}")
        pixels = probe(config.num_channels, height, width).float()
        first, second = trace_ours(ours, pixels), dict(source.trace(theirs, pixels))
        if not head:  # the trace of a source may be of layers alone
            output = theirs(pixels)
            second["pooler_output"] = output if library == "timm" else output.pooler_output
        return first, second

    return Twin(checkpoint, other_ways(config, settled), notes, trace)


def settle(config: ViTCustomConfig, library: str, head: bool) -> tuple[Source, ViTCustomConfig]:
    """As `as_in`; where that finds nothing, also with another number of prefix tokens that have a position."""
    own, count = config.num_positioned_prefix_tokens, len(config.prefix_tokens)
    reasons = []
    for number in dict.fromkeys((own, 0, 1, count) if count and config.position_embedding == "learned" else (own,)):
        candidate = copy.deepcopy(config)
        candidate.num_prefix_positions = number
        try:
            return as_in(candidate, library, head)
        except ValueError as error:
            reasons.append(str(error))
    raise ValueError(nearest(reasons))


def move_positions(config: ViTCustomConfig, settled: ViTCustomConfig, tensors: Tensors, below: str) -> Tensors:
    """The same model where the number of prefix tokens with a position is `settled`'s: of the others it is added to the
    token itself, and new ones are zero."""
    before, after = config.num_positioned_prefix_tokens, settled.num_positioned_prefix_tokens
    if before == after:
        return tensors
    names = [f"{below}embeddings.{name}" for name in ("prefix_tokens", "position_embeddings")]
    tokens, table = (tensors[name] for name in names)
    positions = torch.nn.functional.pad(table[:, :before], (0, 0, 0, tokens.shape[1] - before))
    tokens = torch.cat((tokens[:, :after], (tokens + positions)[:, after:]), dim=1)
    table = torch.cat((positions[:, :after], table[:, before:]), dim=1)
    return {**tensors, **dict(zip(names, (tokens, table), strict=True))}


def completed(source: Any, checkpoint: Checkpoint, config: ViTCustomConfig, head: bool) -> Checkpoint:
    """With the parameters that their class has and ours has no use for, so that none is made at random: zeros, and the
    layer behind `pooler_output` as one that changes nothing."""
    settings, tensors = dict(checkpoint.config), dict(checkpoint.tensors)
    with torch.device("meta"):
        theirs = getattr(transformers, settings["architectures"][0])(source.their_config(checkpoint))
    table = next(iter(source.tables(config, head).values()))
    unused = [name for entry in table if not entry.names[1] for name in entry.names[0]]
    like = next(iter(tensors.values()))
    for name, parameter in theirs.named_parameters():
        if any(match(row, name) is not None for row in unused):
            tensors[name] = torch.zeros(parameter.shape, dtype=like.dtype, device=like.device)
    if "pooler.dense.weight" in tensors:
        tensors["pooler.dense.weight"].fill_diagonal_(1)
        settings["pooler_act"] = "linear"
    return replace(checkpoint, config=settings, tensors=with_indices(tensors))


def with_indices(tensors: Tensors) -> Tensors:
    """With what transformers before 5.9 wants beside each of Swin's tables of biases, and newer ones pass over."""
    found = {}
    for name, table in tensors.items():
        if name.endswith(".relative_position_bias_table"):
            window = pair((math.isqrt(len(table)) + 1) // 2)
            index = Windows(window, window, (0, 0), True).relative_index(window[0], table.device)
            found[f"{name.removesuffix('bias_table')}index"] = index.view(window[0] ** 2, -1)
    return {**tensors, **found}


# --- whole models, in transformers ---


def write_yolos(config: ViTCustomConfig, tensors: Tensors) -> tuple[dict[str, Any], Tensors, ViTCustomConfig]:
    if "detection" not in config.prefix_tokens:
        raise ValueError("it has YOLOS, without a decoder, and DETR, with an encoder of its own")
    config = copy.deepcopy(config)
    config.image_size = list(pair(config.image_size))  # theirs takes no single number
    with torch.device("meta"):
        theirs = yolos_to_transformers(ViTCustomForObjectDetection(config)).config
    settings = theirs.to_dict() | {"architectures": ["YolosForObjectDetection"]}
    return settings, into_theirs(tensors, yolos_tables(config)["on disk"]), YOLOS.to_ours(theirs, theirs)


def write_clip(config: Any, tensors: Tensors) -> tuple[dict[str, Any], Tensors, Any]:
    theirs = heads_dual.write_config(config)
    settings = theirs.to_dict() | {"architectures": ["CLIPModel"]}
    return settings, into_theirs(tensors, heads_dual.table(config)), heads_dual.read_config(theirs)


# Our class -> what writes theirs: (our configuration, tensors) -> (their config.json, their tensors, theirs as ours).
Writer = Callable[[Any, Tensors], tuple[dict[str, Any], Tensors, Any]]
WRITERS: dict[Any, list[Writer]] = {
    ViTCustomForObjectDetection: [write_yolos],
    ViTCustomDualEncoder: [write_clip],
}
for name, known in heads_masked.KINDS.items():
    WRITERS.setdefault(known.ours, []).append(partial(heads_masked.as_theirs, name))
OUTPUTS: dict[Any, tuple[str, ...]] = {
    ViTCustomForPreTraining: ("logits", "loss"),
    ViTCustomForMaskedImageModeling: ("reconstruction", "loss"),
    ViTCustomForObjectDetection: ("logits", "pred_boxes"),
    ViTCustomDualEncoder: ("image_embeds", "text_embeds", "logits_per_image"),
}
MAE_NOTES = [
    "its encoder's positions stay as they are in training, ours are learned",
    "at other image sizes its decoder resamples its positions along one line, ours computes them anew",
]


def whole(make: Any, config: Any, tensors: Tensors, processor: Mapping[str, Any] | None) -> Twin:
    reasons = []
    for images in ways(tower(config), "transformers"):
        candidate = images
        if make is ViTCustomDualEncoder:
            candidate = copy.deepcopy(config)
            candidate.vision_config = images
        for write in WRITERS[make]:
            try:
                settings, theirs, again = write(candidate, tensors)
            except (ValueError, StrictDataclassError) as error:
                reasons.append(" ".join(str(error).split()))
                continue
            notes = told_of_training(tower(config), tower(again))
            notes += MAE_NOTES if make is ViTCustomForPreTraining else []
            trace = partial(trace_outputs, make, config)
            return Twin(
                Checkpoint(settings, with_indices(theirs), processor), other_ways(tower(config), images), notes, trace
            )
    raise ValueError(f"transformers has no layout that can hold this model; the nearest: {nearest(reasons)}")


def trace_outputs(make: Any, config: Any, ours: Any, theirs: Any) -> tuple[Trace, Trace]:
    inputs = probe_of(make, config)
    found = ours(**inputs), theirs(**inputs)
    first, second = ({name: output[name] for name in OUTPUTS[make]} for output in found)
    return first, second


def probe_of(make: Any, config: Any) -> dict[str, torch.Tensor]:
    """What a whole model is measured on."""
    images = tower(config)
    size = pair(images.image_size)
    inputs = {"pixel_values": probe(images.num_channels, *size).float()}
    rows, columns = grid_at(images, *size, stage=0)
    if make is ViTCustomForPreTraining:
        inputs["noise"] = formula("noise", (1, rows * columns)).float()
    if make is ViTCustomForMaskedImageModeling:
        inputs["bool_masked_pos"] = formula("hidden", (1, rows * columns)) > 0
    if make is ViTCustomDualEncoder:
        inputs |= captions(config.text_config)
    return inputs


def captions(text: Any) -> dict[str, torch.Tensor]:
    """(2, M): a full one and one half as long, with padding."""
    length = text.max_position_embeddings
    ids = torch.arange(2 * length).view(2, length) * 7919 % text.vocab_size
    mask = torch.ones_like(ids)
    mask[1, length // 2 :] = 0
    if text.eos_token_id is not None:
        highest = text.eos_token_id == 2  # which CLIP's towers with 2 take for the end
        ids[0, -1] = ids[1, length // 2 - 1] = text.vocab_size - 1 if highest else text.eos_token_id
    return {"input_ids": ids, "attention_mask": mask}


# --- which presets have which ---


def twin_rows(presets: Iterable[str | Path]) -> list[tuple[str, str, str, str]]:
    """(preset, its class in transformers, its architecture in timm, why one is missing) by configurations alone.

    A name is empty where there is none, and has a + where other image sizes are done another way there.
    """
    return [(Path(preset).stem, *twin_row(Path(preset))) for preset in presets]


def twin_row(preset: Path) -> tuple[str, str, str]:
    settings = dict(read_json(preset) or {})
    bare, headed = ENCODERS
    named = (settings.get("architectures") or [headed if settings.get("num_labels", 2) else bare])[0]
    make = CLASSES.get(named)
    if make is None:
        return "", "", short(no_counterpart(named), named)
    config = make.config_class.from_dict(smaller(settings))
    with torch.device("meta"):
        tensors = make(config).state_dict()
    cells, reasons = [], []
    for library in LIBRARIES:
        try:
            twin = find_twin(make, config, tensors, library)
            cells.append(twin.name + " +" * bool(twin.elsewhere))
        except ValueError as error:
            cells.append("")
            reasons.append(short(error, library))
    return cells[0], cells[1], "; ".join(reasons)


def smaller(settings: dict[str, Any]) -> dict[str, Any]:
    """With two layers a stage and two classes at most: which layout holds a model does not depend on it."""
    if "vision_config" in settings:
        return settings | {"vision_config": smaller(settings["vision_config"])}
    kept = {"depths": [min(depth, 2) for depth in settings["depths"]]}
    return settings | kept | {"num_labels": min(settings.get("num_labels", 2), 2)}


def short(error: ValueError, library: str) -> str:
    """The clause that names the reason, without the values."""
    found = re.search(
        r"nearest: (?:\S+ cannot hold this model: )?(.*?)(?:: set that in config.json.*)?\.?$", str(error)
    )
    reason = found[1] if found else str(error).split(":")[0].rstrip(".")
    reason = reason.replace(": it has one stage, not", " has one stage, not")
    if " cannot express " in reason:
        reason = f"{reason.split('`')[0]}{', '.join(re.findall('`[^`]*`', reason))}"
    return reason if reason.startswith(library) else f"{library}: {reason}"
