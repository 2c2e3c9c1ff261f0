"""What a run says of its data and its beginning: names and licences, no paths of a machine, no files of a person."""

import json
import os
import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import ModelCard
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import HfHubHTTPError

from .remote import TransportError
from .remote import without_secrets

OWN = "own data"  # where no part of a path says more
# Last parts of paths that name no data: of `pets/train`, `pets` does.
SAYS_NOTHING = re.compile(
    r"(train(ing)?|test(ing)?|val(id(ation)?)?|dev|eval|data|datasets?|images?|imgs?|shards?|parts?|v?\d+"
    r"|models?|checkpoints?|best|last|final|home|users|root|tmp|temp|mnt|media|srv|opt|var|work(space)?|scratch|content"
    r"|kaggle|input|desktop|documents|downloads)([-_. ]?(of|\d+))*",
    re.IGNORECASE,
)
HOMES = ("/home", "/Users")
FILES = (".parquet", ".arrow", ".tar")
PICTURE_FILE = re.compile(
    r"\.(jpe?g|jpe|jfif|jp[2cfx]|j2[ck]|a?png|webp|gif|bmp|dib|tiff?|hei[cf]s?|hif|avifs?|jxl|p[bgnp]m|pfm|tga|ico|icns|icb"
    r"|vda|vst|mpo|psd|dds|pcx|dcx|sgi|rgba?|bw|ras|qoi|xbm|xpm|dng|cr2|nef|arw)\b",
    re.IGNORECASE,
)
HUB_NAME = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*", re.ASCII)
MACHINE = re.compile(r"~[\w.-]*([\\/]|$)|[A-Za-z]:[\\/]|[\\/]|file:|(.*[\\/])?\.\.([\\/]|$)")
WITHIN = re.compile(  # such a path amid other words
    r"(?<![\w./\\~-])(?:~[\w.-]*[\\/]|[A-Za-z]:[\\/]|/(?=[\w.~-]+/)|\\\\|file:/+)[^\s'\",;)}\]]+"
)
UNTOLD = ("data_dir", "dataset_name", "hub_token", "push_to_hub_token")
TIMM = "timm:"  # before a teacher's folder


def origins(resolved: dict[str, Any], recipe: Path, built_in: bool, recipes: Path | None = None) -> dict[str, Any]:
    """Where a run's weights come from, for its metrics.json and its card.

    Args:
        resolved: its recipe, as it was run.
        recipe: the recipe's file; those of this repository make what is Apache-2.0.
        built_in: whether its data set is one of this package.
        recipes: the folder of the recipes that come with this package, if it is known.
    """
    start, teacher = resolved.get("init_from"), (resolved.get("distillation") or {}).get("teacher")
    card = card_of(start) if start else {}
    is_ours = recipes is not None and recipe.resolve().parent == recipes.resolve()
    from_nothing = built_in and is_ours and not (start or teacher)
    on_hub = not built_in and not is_local(resolved["dataset"], resolved.get("dataset_settings"))
    name = dataset_name(resolved, built_in or on_hub)
    return dict(
        license=resolved.get("license") or ("apache-2.0" if from_nothing else card.get("license")),
        dataset=name,
        dataset_source="built-in" if built_in else "hub" if on_hub else "local",
        dataset_id=resolved["dataset"] if on_hub else None,
        init_from=(start if not is_place(start) else name_of(start, "a checkpoint")) if start else None,
        base_model=base_model(start, card) if start else None,
        recipe_text=recipe_text(resolved, name),
    )


def recipe_text(resolved: dict[str, Any], dataset: str) -> str:
    """The recipe as YAML, with the name of its data set and without what is empty or a machine's own."""
    names = local_names(resolved, dataset)
    told = {key: value for key, value in resolved.items() if key not in UNTOLD and value not in (None, {}, [])}
    return yaml.safe_dump(public(told, names), sort_keys=False, allow_unicode=True, default_flow_style=None).strip()


def public_command(words: Sequence[str], resolved: dict[str, Any], dataset: str) -> str:
    """Words of a command -> as one types them, with names in place of paths of a machine."""
    names, told = local_names(resolved, dataset), []
    for word in words:
        key, equal, value = word.partition("=") if word.startswith("--") else ("", "", word)
        try:
            tree = yaml.safe_load(value)
        except yaml.YAMLError:
            tree = None
        if isinstance(tree, dict | list):
            value = yaml.safe_dump(public(tree, names), default_flow_style=True, sort_keys=False, width=10**6).strip()
        else:
            value = public(value, names)
        told.append(f"{public(key, names)}{equal}{value}")
    return shlex.join(told)


def local_names(resolved: dict[str, Any], dataset: str) -> dict[str, str]:
    """{what the recipe says: what is told}; a relative path gets a dot before it, else it would read as a Hub name."""
    names = {str(resolved["dataset"]): dataset}
    if is_local(resolved["dataset"], resolved.get("dataset_settings")):
        names |= dict.fromkeys(texts_in(resolved.get("dataset_settings", {}).get("data_files")), "(own files)")
    for place in (resolved.get("init_from"), (resolved.get("distillation") or {}).get("teacher")):
        if place and not MACHINE.match(place) and HUB_NAME.fullmatch(place) and Path(place).exists():
            names[place] = f"./{place}"
    return names


def texts_in(value: Any) -> list[str]:
    """At any depth."""
    if isinstance(value, dict | list | tuple):
        parts = value.values() if isinstance(value, dict) else value
        return [text for part in parts for text in texts_in(part)]
    return [value] if isinstance(value, str) else []


def public(value: Any, names: dict[str, str] | None = None) -> Any:
    """The same without paths of a machine, names of pictures' files, or tokens, at any depth."""
    if isinstance(value, dict):
        return {public(key, names): public(one, names) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [public(one, names) for one in value]
    if not isinstance(value, str):
        return value
    if names and value in names:
        return names[value]
    if "\n" in value:
        return "\n".join(public(line, names) for line in value.split("\n"))
    prefix, text = (TIMM, value.removeprefix(TIMM)) if value.startswith(TIMM) else ("", value)
    if MACHINE.match(text):
        text = name_of(text, "a folder")
    return prefix + without_picture_files(
        without_secrets(WITHIN.sub(lambda found: name_of(found[0], "a folder"), text))
    )


def without_picture_files(text: str) -> str:
    words = rf"[^:]*{PICTURE_FILE.pattern}$|[^\s'\",;:(){{}}\[\]]*{PICTURE_FILE.pattern}"
    return re.sub(words, "(a picture)", text, flags=re.IGNORECASE)


def names_files(text: str) -> bool:
    """Whether it names files of a person, or places of a machine."""
    return bool(PICTURE_FILE.search(text) or WITHIN.search(text))


def dataset_name(resolved: dict[str, Any], is_name: bool) -> str:
    """What the data set is called: as the recipe says, else by its own name or the last part of its path."""
    dataset, wanted = str(resolved["dataset"]), resolved.get("dataset_name")
    if wanted:
        return name_of(wanted) if MACHINE.match(str(wanted)) else tidy(str(wanted))
    return dataset if is_name else name_of(dataset)


def is_local(dataset: str, settings: dict[str, Any] | None) -> bool:
    """As the reader of data sets decides it: what is here comes first, and only owner/name is asked for on the Hub."""
    return bool((settings or {}).get("data_files")) or is_place(dataset) or not HUB_NAME.fullmatch(dataset)


def is_place(text: str) -> bool:
    """Whether it is, or can only be, something on this machine."""
    return bool(MACHINE.match(text)) or not HUB_NAME.fullmatch(text.partition("@")[0]) or Path(text).exists()


def name_of(place: str, otherwise: str = OWN) -> str:
    """The last part of a path that says something; never a home, whose name is its owner's."""
    place = re.sub(r"^file:/*(?=/)", "", place)
    if not os.path.exists(place):
        place = re.sub(r"^[A-Za-z]:", "", place.replace("\\", "/"))
    path, home = Path(os.path.abspath(os.path.expanduser(place))), Path.home()
    for one in (path, *path.parents):
        if one == home or one == one.parent or str(one.parent) in HOMES or one.name.startswith("~"):
            break
        if any(letter in one.name for letter in "*?[") and not one.exists():
            continue
        word = one.stem if one.suffix.lower() in FILES else one.name
        if not SAYS_NOTHING.fullmatch(word):
            return tidy(word)
    return otherwise


def tidy(name: str) -> str:
    """Without what means something to a table, a link or YAML."""
    return re.sub(r"[^\w /.+()&'-]+", "-", name).strip("-/. ")[:96] or OWN


def folder_of(start: str) -> Path:
    """Of a run's folder, the checkpoint in it."""
    folder = Path(start).expanduser()
    return folder / "checkpoint" if (folder / "checkpoint/config.json").is_file() else folder


def card_of(start: str) -> dict[str, Any]:
    """The front matter of the card of a folder or of a Hub name; empty where there is none, or it cannot be read."""
    path = folder_of(start) / "README.md"
    try:
        if not is_place(start):
            repo, _, revision = start.partition("@")
            path = Path(hf_hub_download(repo, "README.md", revision=revision or None))
        told = ModelCard(path.read_text(encoding="utf-8"), ignore_metadata_errors=True).data.to_dict()
    except (OSError, ValueError, yaml.YAMLError, HfHubHTTPError, TransportError):
        return {}
    return told if isinstance(told.get("license"), str) else told | {"license": None}


def base_model(start: str, card: dict[str, Any]) -> str | None:
    """The Hub's name of what training began from: itself, or what a folder says of its origin."""
    if not is_place(start):
        return start.partition("@")[0]
    told = card.get("base_model")
    try:
        source = json.loads((folder_of(start) / "source.json").read_text(encoding="utf-8"))
        found = source["name"] if source["revision"] else None
    except (OSError, ValueError, KeyError, TypeError):
        found = told[0] if isinstance(told, list) and told else told
    return found if isinstance(found, str) and not is_place(found) else None
