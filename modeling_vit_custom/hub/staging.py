"""One folder of somebody's work -> the files of a repository, no more and no less, each of them accounted for."""

import json
import re
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from dataclasses import field
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from huggingface_hub import save_torch_state_dict
from safetensors.torch import load_file

from ..checkpoint_files import AUTO_MAP
from ..checkpoint_files import DUAL_ENCODER_AUTO_MAP
from ..checkpoint_files import SHIPPED_FILES
from ..configuration_dual_encoder import ViTCustomDualEncoderConfig
from ..configuration_vit_custom import ViTCustomConfig
from .config_rules import entries
from .file_rules import INDEX
from .file_rules import card_findings
from .file_rules import files_of
from .file_rules import left_by_trainer
from .file_rules import names_findings
from .file_rules import sha256
from .privacy import EXAMPLES
from .privacy import OF_A_RUN
from .privacy import keep_private
from .privacy import stage_run
from .remote import HubProblem

CODE = Path(__file__).parent.parent
AUTO_MAPS = {ViTCustomConfig.model_type: AUTO_MAP, ViTCustomDualEncoderConfig.model_type: DUAL_ENCODER_AUTO_MAP}
PARTS = """config.json generation_config.json preprocessor_config.json processor_config.json tokenizer.json
    tokenizer_config.json special_tokens_map.json added_tokens.json vocab.txt vocab.json merges.txt spiece.model
    tokenizer.model sentencepiece.bpe.model chat_template.jinja parity.json source.json source_only.safetensors
    LICENSE""".split()
LIMIT = 10_000_000  # bytes of a file that holds no weights


@dataclass
class Staged:
    """
    Args:
        folder: holds the files of the repository.
        checkpoint: where they come from.
        left_out: a sentence for each file of the source that is not among them.
    """

    folder: Path
    checkpoint: Path
    left_out: list[str] = field(default_factory=list)

    @property
    def files(self) -> dict[str, Path]:
        return files_of(self.folder)

    def license(self, wanted: str | None) -> str | None:
        """The Hub's id of it: as said, or as the run that trained it knew; None where nobody has said it."""
        metrics, origin = self.folder / "metrics.json", self.folder / "source.json"
        if wanted is not None or origin.is_file() or not metrics.is_file():
            return wanted
        told = json.loads(metrics.read_text(encoding="utf-8"))
        return told.get("license") if "dataset_source" in told else None  # once every run said apache-2.0


def stage(
    source: str | Path,
    folder: Path,
    *,
    code: str = "package",
    max_shard_size: str = "5GB",
    allow: Iterable[str] = (),
    with_pictures: bool = False,
) -> Staged:
    """Fill the empty `folder` from a checkpoint, or from a run's folder that holds `checkpoint/`; all but the card.

    Args:
        code: "package" ships this package's files, "folder" those that lie beside the weights.
        max_shard_size: weights in larger files are divided.
        allow: patterns of names of other files to ship, whatever their size.
        with_pictures: ship pictures of data that are not built in, too.

    Raises:
        HubProblem: what is there cannot be shared as it is.
    """
    checkpoint, run = find_checkpoint(Path(source))
    config = read_config(checkpoint)
    problems = [f for f in names_findings(files_of(checkpoint)) if f.rule != "pickle-of-trainer"]
    problems += [f for f in entries("config.json", config.get("auto_map") or {}, {}) if f.rule == "auto-map-elsewhere"]
    problems += card_findings(checkpoint)
    if problems:
        raise HubProblem(f"{checkpoint} cannot be shared:\n" + "\n".join(f"  {finding}" for finding in problems))
    strange = [
        name
        for name, path in files_of(checkpoint).items()
        if path.is_symlink()
        and checkpoint.resolve() not in path.resolve().parents
        and "blobs" not in path.resolve().parts
    ]
    if strange:
        raise HubProblem(f"{strange[0]} links out of {checkpoint}: put the file itself there, or take it out.")
    staged, allow = Staged(folder, checkpoint), list(allow)
    shipped = stage_code(checkpoint, folder, code)
    weights = stage_weights(checkpoint, folder, max_shard_size)
    for name, path in files_of(checkpoint).items():
        allowed = any(fnmatch(name, pattern) for pattern in allow)
        if name in weights or name in shipped or name == "README.md" or name in OF_A_RUN or name.startswith(EXAMPLES):
            continue
        if left_by_trainer(name):
            staged.left_out.append(f"{name}: Trainer left it, it is no part of the model")
        elif name not in PARTS and not allowed:
            staged.left_out.append(f"{name}: no part of a model that is known here; --allow {name} ships it")
        elif path.stat().st_size > LIMIT and not allowed and not name.endswith(".safetensors"):
            raise HubProblem(
                f"{name} has {path.stat().st_size:,} bytes, more than the {LIMIT:,} of a file that holds no weights: "
                f"take it out of the folder, or ship it by --allow {name}."
            )
        else:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, folder / name)
    stage_run(run or checkpoint, folder)
    refuse_other_evidence(folder, checkpoint)
    staged.left_out += keep_private(run or checkpoint, folder, with_pictures)
    config["auto_map"] = AUTO_MAPS[config["model_type"]] if code == "package" else config.get("auto_map", {})
    config.pop("_name_or_path", None)
    (folder / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    return staged


def find_checkpoint(source: Path) -> tuple[Path, Path | None]:
    """(the folder with config.json, the run's folder around it if there is one)."""
    if not source.is_dir():
        raise HubProblem(f"{source} is no folder: name the one that `save_pretrained` or a training run wrote.")
    if (source / "config.json").is_file():
        parent = source.absolute().parent
        return source, parent if source.absolute().name == "checkpoint" and (
            parent / "metrics.json"
        ).is_file() else None
    if (source / "checkpoint/config.json").is_file():
        return source / "checkpoint", source
    saved = sorted(path.parent.name for path in source.glob("*/config.json"))
    hint = f"name one of its sub-folders: {', '.join(saved)}" if saved else "save a model there first"
    raise HubProblem(f"{source} has no config.json: {hint}.")


def checkpoint_of(folder: Path) -> Path:
    """The folder, or that of the model within it where it holds none itself.

    Raises:
        HubProblem: it holds several.
    """
    has_own = (folder / "config.json").is_file() or not any(folder.glob("*/config.json"))
    return folder if has_own else find_checkpoint(folder)[0]


def read_config(checkpoint: Path) -> dict[str, Any]:
    try:
        config = json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))
        kind = config["model_type"]
    except (ValueError, KeyError, TypeError):
        raise HubProblem(f"{checkpoint}/config.json says no `model_type`: save the model again.") from None
    if kind not in AUTO_MAPS:
        raise HubProblem(
            f"{checkpoint} holds a {kind!r}, and this script ships models of {', '.join(AUTO_MAPS)} with their code: "
            "convert it first (`vit-custom convert`), or push it by its own library."
        )
    return config


def stage_code(checkpoint: Path, folder: Path, code: str) -> set[str]:
    """The names of the files of code in the checkpoint, shipped or found equal to what is."""
    here = {path.name for path in checkpoint.glob("*.py")}
    if code == "package":
        other = [n for n in sorted(here & {*SHIPPED_FILES}) if (checkpoint / n).read_bytes() != (CODE / n).read_bytes()]
        if other:
            raise HubProblem(
                f"{', '.join(other)} of {checkpoint} are not this package's: another version saved the model, or "
                "somebody changed them. Load and save it with this package, or ship the folder's own by --code folder."
            )
    for name in SHIPPED_FILES if code == "package" else sorted(here):
        shutil.copyfile((CODE if code == "package" else checkpoint) / name, folder / name)
    return here & {*SHIPPED_FILES} if code == "package" else here


def stage_weights(checkpoint: Path, folder: Path, max_shard_size: str) -> set[str]:
    """The names of the weights' files; copied as they are, or divided where one is larger than a shard may be."""
    files = [path for path in sorted(checkpoint.glob("*.safetensors")) if path.name != "source_only.safetensors"]
    if not files:
        raise HubProblem(f"{checkpoint} has no safetensors file: load the model and `save_pretrained` it.")
    if all(path.stat().st_size <= bytes_of(max_shard_size) * 1.01 for path in files):
        for path in [*files, *checkpoint.glob(INDEX)]:
            shutil.copyfile(path, folder / path.name)
    else:
        tensors = {name: tensor for path in files for name, tensor in load_file(path).items()}
        save_torch_state_dict(tensors, folder, max_shard_size=max_shard_size, metadata={"format": "pt"})
    return {path.name for path in files} | {INDEX}


def bytes_of(size: str) -> float:
    found = re.fullmatch(r"([\d.]+) ?([KMG])B", size.upper())
    if not found:
        raise HubProblem(f"--max-shard-size {size} is no size: write it as 5GB or 200MB.")
    return float(found[1]) * {"K": 1e3, "M": 1e6, "G": 1e9}[found[2]]


def refuse_other_evidence(folder: Path, checkpoint: Path):
    """Measured numbers and proofs are published with the weights that they are of, and so are pictures of them."""
    wrong = []
    for name in ("metrics.json", "parity.json"):
        if not (folder / name).is_file():
            continue
        try:
            told = json.loads((folder / name).read_text(encoding="utf-8")).get("weights") or {}
        except (ValueError, AttributeError):
            raise HubProblem(f"{name} is no JSON object: measure again, or take the file out.") from None
        other = [file for file, told_hash in told.items() if sha256_or_none(checkpoint / file) != told_hash]
        wrong += [f"{name} was measured of another {file} than {checkpoint} has" for file in other]
    if wrong:
        rest = [name for name in ("source.json", "predictions.png") if (folder / name).is_file()]
        also = f", and {' and '.join(rest)} with it" if rest else ""
        raise HubProblem(f"{'; '.join(wrong)}: measure again, or take the file out{also}.")
    if (folder / "predictions.png").is_file() and not (folder / "metrics.json").is_file():
        raise HubProblem("predictions.png is here and no metrics.json that says of which weights: take it out.")


def cache_of(link: Path) -> set[Path]:
    """Where the client's cache keeps what a link in a snapshot leads to."""
    return {parent for parent in link.resolve().parents if parent.name == "blobs"}


def sha256_or_none(path: Path) -> str | None:
    return sha256(path) if path.is_file() else None


def next_tag(tags: Iterable[str]) -> str:
    """v1, v2, ..."""
    numbers = [int(found[1]) for tag in tags if (found := re.fullmatch(r"v(\d+)", tag))]
    return f"v{max(numbers, default=0) + 1}"
