"""`--from` anything: a checkpoint of this package as it is, one of transformers or timm converted on the way."""

from pathlib import Path
from typing import Any

from huggingface_hub import HfApi
from huggingface_hub import constants
from huggingface_hub import hf_hub_download

from ..conversion import convert
from ..conversion.reading import COMMIT
from ..conversion.reading import read_json
from ..conversion.reading import sha256
from ..conversion.reading import weight_files
from ..training.naming import inside_run
from ..training.starting import HUB_NAME

OURS = ("vit_custom", "vit_custom_dual_encoder")


def starting_point(name: str, place: Path) -> tuple[str, str]:
    """A folder, a file of weights or a Hub id -> (what training reads, the name that stands for it in a recipe).

    A Hub id is read at one commit, which its name keeps: `owner/name@40 digits`. A checkpoint of transformers or timm
    is converted into a folder of `place`, with its image processor and its proof; if it is there already, it is taken.

    Raises:
        FileNotFoundError: there is no such checkpoint, or it was not fetched.
        ValueError: a checkpoint that is not converted; the sentences of `convert`.
    """
    path = Path(inside_run(name)).expanduser()
    if path.exists():
        config = read_json(path / "config.json") if path.is_dir() else None
        if is_ours(config):
            return name, name
        try:
            files = weight_files(path)[1]
        except FileNotFoundError as error:
            raise FileNotFoundError(f"`--from {name}` holds no checkpoint: {error}") from error
        mark = sha256(files[0])[:12] if files[0].is_file() else ""
        return converted(str(path), place / f"{path.stem if path.is_file() else path.name}-{mark}", None), name
    found = HUB_NAME.fullmatch(name)
    if not found:
        raise FileNotFoundError(f"`--from {name}` is no folder, no file and no Hub id (owner/name): give one of these.")
    commit = commit_of(found[1], found[2])
    pinned = f"{found[1]}@{commit}"
    if pinned != name:
        print(f"{name} is {pinned} today; the run keeps this commit.")
    config = read_json(Path(hf_hub_download(found[1], "config.json", revision=commit)))
    if is_ours(config):
        return pinned, pinned
    return converted(found[1], place / f"{found[1].replace('/', '--')}-{commit[:12]}", commit), pinned


def is_ours(config: dict[str, Any] | None) -> bool:
    return (config or {}).get("model_type") in OURS


def commit_of(repo: str, revision: str | None) -> str:
    """The commit that a branch or tag is now; without network, that it was when it was fetched.

    Raises:
        FileNotFoundError: neither the Hub nor the cache has it.
    """
    if revision and COMMIT.fullmatch(revision):
        return revision
    try:
        if constants.HF_HUB_OFFLINE:  # of the cache: .../snapshots/<commit>/config.json
            return Path(hf_hub_download(repo, "config.json", revision=revision, local_files_only=True)).parent.name
        return str(HfApi().model_info(repo, revision=revision).sha)
    except Exception as error:  # each version of the client has its own for a network that is not there
        said = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
        raise FileNotFoundError(
            f"`--from {repo}` is no folder here, and the Hub did not answer for it ({said}): check the name, the "
            "network and HF_HUB_OFFLINE, or run `hf auth login` if it is private."
        ) from error


def converted(source: str, folder: Path, revision: str | None) -> str:
    """The folder, which is made unless it is there."""
    if (folder / "parity.json").is_file():
        return str(folder)
    convert(source, folder, revision=revision)
    proof = read_json(folder / "parity.json") or {}
    print(f"{source} is a {proof['source']['kind']} checkpoint, converted to {folder}.")
    for dtype, value in (proof["largest"] or {}).items():
        print(f"  Largest difference from the source, {dtype}: {value:.1e} of a layer's largest value.")
    if proof["not compared"]:
        print(f"  Not compared with the source's own model: {proof['not compared']}")
    return str(folder)
