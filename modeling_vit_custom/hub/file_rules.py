"""Rules of the files themselves: weights that are whole and no pickles, nothing secret, nothing of one machine."""

import hashlib
import json
import math
import re
import zipfile
from collections.abc import Iterable
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from .findings import Finding

# What transformers' Trainer leaves beside a checkpoint: no part of a model, and mostly pickles.
TRAINER_LEAVES = (
    "training_args.bin",
    *("optimizer.pt", "optimizer.bin", "scheduler.pt", "scaler.pt", "rng_state*.pth", "trainer_state.json"),
    *("pytorch_model_fsdp*", "optimizer_*", "global_step*", "latest", "zero_to_fp32.py", "checkpoint-*", "runs"),
)
PICKLED = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib", ".dill")
POINTER = b"version https://git-lfs.github.com/spec/"
INDEX = "model.safetensors.index.json"
TEXTS = (".json", ".md", ".py", ".txt", ".yaml", ".yml", ".toml", ".cfg", ".ini", ".jinja", ".sh", ".env", "")
VOCABULARIES = ("tokenizer.json", "vocab.json", "vocab.txt", "merges.txt")  # words of the world, no words about us
SECRET_FILES = (".env", ".env.*", ".netrc", "_netrc", "id_rsa*", "id_ed25519*", "*.pem", "*.p12", "token", "*.token")
SECRETS = {
    "a Hugging Face token": r"(?<![A-Za-z0-9])(hf|api_org)_[A-Za-z0-9]{20,}",
    "a GitHub token": r"(?<![A-Za-z0-9])(gh[pousr]_[A-Za-z0-9]{30,}|github_pat_\w{20,})",
    "an AWS key": r"(?<![A-Za-z0-9])(AKIA|ASIA)[0-9A-Z]{16}(?![0-9A-Z])",
    "a key of an API": r"(?<![A-Za-z0-9])sk-[A-Za-z0-9_-]{20,}",
    "a Slack token": r"(?<![A-Za-z0-9])xox[abprs]-[A-Za-z0-9-]{10,}",
    "a private key": r"-----BEGIN [A-Z ]*PRIVATE KEY-----",
}
MACHINE_PATH = re.compile(
    r"(?<![\w.~:/-])/(home|Users|root|mnt|media|workspace|scratch|content|kaggle|tmp|private|var|srv|opt|data)/[\w.-]+"
    r"|(?<![A-Za-z])[A-Za-z]:(\\\\|\\|/)+(Users|Documents|home)\b"
)
HASHED = re.compile(r"^\| `([^`]+)` \| (?:[^|]+\| )?`([0-9a-f]{64})` \|$", re.MULTILINE)  # rows of a card


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def git_blob(path: Path) -> str:
    """What git, and so the Hub, calls a file that is not in LFS."""
    digest = hashlib.sha1(b"blob %d\0" % path.stat().st_size)
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def files_of(folder: Path) -> dict[str, Path]:
    """{path within the folder, with slashes: file}, hidden folders as `.git` and `.cache` left out."""
    found = {}
    for path in sorted(folder.rglob("*")):
        parts = path.relative_to(folder).parts
        if (path.is_file() or (path.is_symlink() and not path.is_dir())) and not any(
            part in (".git", ".cache", "__pycache__") for part in parts
        ):
            found["/".join(parts)] = path
    return found


def left_by_trainer(name: str) -> bool:
    return any(fnmatch(part, pattern) for part in name.split("/") for pattern in TRAINER_LEAVES)


def names_findings(names: Iterable[str]) -> Iterator[Finding]:
    """What names alone tell, of a folder or of a listing of the Hub."""
    for name in names:
        base = name.split("/")[-1]
        if name.startswith("/") or ".." in name.split("/") or "\\" in name:
            yield Finding("path-leads-out", name, "the name leads out of the folder: it belongs in no repository.")
        elif base.endswith(PICKLED) and left_by_trainer(name):
            yield Finding(
                "pickle-of-trainer",
                name,
                "Trainer left this pickle, which can run code when it is loaded and is no part of the model: leave it "
                "out (`vit-custom push` does), or delete it from the repository.",
            )
        elif base.endswith(PICKLED):
            yield Finding(
                "pickle",
                name,
                "a pickle can run code when it is loaded: load the model and `save_pretrained` it, which writes "
                "safetensors, then delete this file.",
            )


def content_findings(files: dict[str, Path], secrets: Iterable[str] = ()) -> Iterator[Finding]:
    """
    Args:
        secrets: texts that must stand nowhere, as the token of the one who asks.
    """
    for name, path in files.items():
        if not path.is_file():
            yield Finding("broken-link", name, "the link leads to no file: put the file itself here.")
            continue
        base = name.split("/")[-1]
        if any(fnmatch(base, pattern) for pattern in SECRET_FILES):
            yield Finding("secret", name, "files of this name hold secrets: move it out of the folder.")
        with path.open("rb") as file:
            head = file.read(64)
        if head.startswith(POINTER):
            yield Finding(
                "lfs-pointer",
                name,
                "it is a pointer of git-lfs, not the file: run `git lfs pull`, or download it again.",
            )
        elif not base.endswith(PICKLED) and is_pickle(path, head) and not is_safetensors(path):
            says = "it is a pickle under another name, and can run code when it is loaded: take it out."
            yield Finding("pickle", name, says)
        if path.suffix.lower() in TEXTS and path.stat().st_size < 1 << 22:
            yield from text_findings(name, path.read_text(encoding="utf-8", errors="replace"), secrets)


def is_pickle(path: Path, head: bytes) -> bool:
    if head[:1] == b"\x80" and head[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):
        return True
    if head.startswith(b"PK\x03\x04"):
        try:
            with zipfile.ZipFile(path) as archive:
                return any(entry.endswith((".pkl", ".pickle")) for entry in archive.namelist())
        except zipfile.BadZipFile:
            return False
    return False


def is_safetensors(path: Path) -> bool:
    """Whose first bytes, a length, can be those of a pickle by chance."""
    try:
        safetensors_header(path)
    except ValueError:
        return False
    return True


def text_findings(name: str, text: str, secrets: Iterable[str]) -> Iterator[Finding]:
    for number, line in enumerate(text.splitlines(), start=1):
        kinds = [kind for kind, pattern in SECRETS.items() if re.search(pattern, line)]
        if any(len(secret) > 7 and secret in line for secret in secrets):
            kinds = ["the token that you are logged in with"]
        for kind in kinds[:1]:
            says = f"the line holds {kind}: take it out, and revoke it if anybody has seen it."
            yield Finding("secret", f"{name}:{number}", says)
        found = MACHINE_PATH.search(line) if name.split("/")[-1] not in VOCABULARIES else None
        if found:
            says = f"`{found[0]}` is a path of one machine: take it out, or write a relative one."
            yield Finding("absolute-path", f"{name}:{number}", says)


def read_headers(folder: Path) -> tuple[dict[str, tuple[str, list[int]]], list[Finding]]:
    """({tensor: (file, shape)} by the headers of all safetensors files at the top of a folder, what is wrong)."""
    tensors: dict[str, tuple[str, list[int]]] = {}
    problems = []
    for path in sorted(folder.glob("*.safetensors")):
        try:
            header, end = safetensors_header(path)
        except ValueError as error:
            problems.append(Finding("weights-damaged", path.name, f"{error}: download or save it again."))
            continue
        if end != path.stat().st_size:
            says = f"it has {path.stat().st_size:,} bytes and should have {end:,}: download or save it again."
            problems.append(Finding("weights-damaged", path.name, says))
        tensors |= {name: (path.name, list(entry["shape"])) for name, entry in header.items()}
    return tensors, problems


def safetensors_header(path: Path) -> tuple[dict[str, Any], int]:
    """({tensor: its entry}, the bytes that the file should have)."""
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        if not 0 < size <= path.stat().st_size - 8:
            raise ValueError("its beginning is no header of safetensors")
        try:
            header = json.loads(file.read(size))
            header.pop("__metadata__", None)
            widths = {
                "F64": 8,
                "I64": 8,
                "U64": 8,
                "F32": 4,
                "I32": 4,
                "U32": 4,
                "F16": 2,
                "BF16": 2,
                "I16": 2,
                "U16": 2,
            }
            for name, entry in header.items():
                start, stop = entry["data_offsets"]
                if any(side < 0 for side in entry["shape"]):
                    raise ValueError(f"the tensor {name} has a negative side")
                if entry["dtype"] in widths and stop - start != widths[entry["dtype"]] * math.prod(entry["shape"]):
                    raise ValueError(f"the tensor {name} has not the bytes that its shape needs")
            return header, 8 + size + max((entry["data_offsets"][1] for entry in header.values()), default=0)
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise ValueError(f"its header cannot be read ({str(error)[:80]})") from None


def weights_findings(folder: Path) -> Iterator[Finding]:
    """Whole files, and an index that agrees with them."""
    tensors, problems = read_headers(folder)
    yield from problems
    names = {path.name for path in folder.glob("*.safetensors")} - {"source_only.safetensors"}
    index = folder / INDEX
    if index.is_file():
        try:
            listed = {str(key): str(file) for key, file in json.loads(index.read_text())["weight_map"].items()}
        except (ValueError, KeyError, TypeError, AttributeError):
            yield Finding("weights-index", INDEX, "it cannot be read: save the model again.")
            return
        if strange := sorted({file for file in listed.values() if Path(file).name != file}):
            yield Finding("path-leads-out", INDEX, f"it names {strange[0]!r}, which leads out: save the model again.")
        elif lost := sorted(set(listed.values()) - names):
            yield Finding("weights-missing", INDEX, f"it names {', '.join(lost)}, not here: download or save again.")
        elif not problems:
            wrong = sorted(key for key, file in listed.items() if tensors.get(key, ("",))[0] != file)
            wrong += sorted(
                key for key, (file, _) in tensors.items() if file in set(listed.values()) and key not in listed
            )
            if wrong:
                says = f"it and its files do not agree about {', '.join(wrong[:3])}: save the model again."
                yield Finding("weights-index", INDEX, says)
        for name in sorted(names - set(listed.values())):
            says = f"{INDEX} does not name it, so that nothing loads it: delete it, it is of another save."
            yield Finding("weights-stale", name, says)
    elif len(names) > 1:
        says = f"there are {len(names)} files of weights and no {INDEX}: save the model again into an empty folder."
        yield Finding("weights-index", "", says)
    elif not names:
        says = "there is no safetensors file, so there is nothing to load: save the model with `save_pretrained`."
        yield Finding("weights-none", "", says)


def card_findings(folder: Path) -> Iterator[Finding]:
    """Where a card lists the sha256 of files, they are these files."""
    card = folder / "README.md"
    for name, told in HASHED.findall(card.read_text(encoding="utf-8", errors="replace")) if card.is_file() else ():
        path = folder / name
        if not path.is_file():
            yield Finding("card-of-other-files", name, "README.md lists it, and it is not here: download it again.")
        elif sha256(path) != told:
            yield Finding(
                "card-of-other-files",
                name,
                "it is not the file whose sha256 README.md lists: if you did not change it, do not use it; if you did, "
                "delete README.md and write a new card.",
            )
