"""Rules of config.json and its siblings: that `auto_map` is closed, complete, and names what is there."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import transformers
from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

from .findings import Finding
from .sources import Source

CONFIGS = ("config.json", "preprocessor_config.json", "processor_config.json", "tokenizer_config.json")
CLOSED = re.compile(r"[A-Za-z_]\w*\.[A-Za-z_]\w*")


def read_configs(folder: Path) -> tuple[dict[str, dict[str, Any]], list[Finding]]:
    """({file name: content} of those that are there, what is wrong with the others)."""
    found, problems = {}, []
    for name in (*CONFIGS, *(path.name for path in sorted(folder.glob("*_config.json")) if path.name not in CONFIGS)):
        if not (folder / name).is_file():
            continue
        try:
            content = json.loads((folder / name).read_text(encoding="utf-8"))
            if not isinstance(content, dict):
                raise ValueError("no mapping")
            found[name] = content
        except (ValueError, RecursionError) as error:
            says = f"it is no JSON object ({error}): write or download it again."
            problems.append(Finding("config-unreadable", name, says))
    return found, problems


def config_findings(configs: dict[str, dict[str, Any]], sources: dict[str, Source]) -> Iterator[Finding]:
    config = configs.get("config.json")
    if config is None:
        yield Finding("config-missing", "config.json", "there is none, so nothing can load this: save the model again.")
        return
    base = configs.get("adapter_config.json", {}).get("base_model_name_or_path")
    if base is not None:
        says = f"the adapter is of {base!r}, which is loaded in place of this: merge it and save the model itself."
        yield Finding("adapter-elsewhere", "adapter_config.json", says)
    for name, content in configs.items():
        for where, auto_map in auto_maps(content, name):
            yield from entries(where, auto_map, sources)
    yield from completeness(config, sources)


def auto_maps(content: Any, where: str) -> Iterator[tuple[str, Any]]:
    """(place, map) of every `auto_map`, those of parts of a configuration too."""
    if isinstance(content, dict):
        for key, value in content.items():
            if key == "auto_map":
                yield where, value
            else:
                yield from auto_maps(value, f"{where} {key}")
    elif isinstance(content, list):
        for value in content:
            yield from auto_maps(value, where)


def references(value: Any) -> list[str]:
    """A tokenizer's entry is a list of two, of which one may be null."""
    return [part for part in (value if isinstance(value, list) else [value]) if part is not None]


def entries(where: str, auto_map: Any, sources: dict[str, Source]) -> Iterator[Finding]:
    if not isinstance(auto_map, dict):
        yield Finding("auto-map-unreadable", where, "`auto_map` must be a mapping of Auto classes: save again.")
        return
    for auto_class, value in auto_map.items():
        if not hasattr(transformers, auto_class):
            says = f"transformers has no `{auto_class}`: name one of its Auto classes in `auto_map`."
            yield Finding("auto-map-unknown-class", where, says)
        for reference in references(value):
            if not isinstance(reference, str) or not CLOSED.fullmatch(reference):
                yield Finding(
                    "auto-map-elsewhere",
                    where,
                    f"`{auto_class}` is {reference!r}, which leads out of this folder: name `file.Class` of a file "
                    "beside config.json, so that what was read is what runs.",
                )
                continue
            module, class_name = reference.split(".")
            if module not in sources:
                says = f"`{auto_class}` names {module}.py, which is not there or cannot be parsed: add the file."
                yield Finding("auto-map-missing-file", where, says)
            elif class_name not in sources[module].names:
                says = f"`{auto_class}` names {class_name}, which {module}.py has not: correct the name."
                yield Finding("auto-map-missing-class", where, says)


def completeness(config: dict[str, Any], sources: dict[str, Source]) -> Iterator[Finding]:
    auto_map = config.get("auto_map")
    known = str(config.get("model_type")) in CONFIG_MAPPING_NAMES
    if auto_map is None:
        if sources or not known:
            yield Finding(
                "auto-map-missing",
                "config.json",
                f"it has no `auto_map`, and transformers does not know `model_type` {config.get('model_type')!r}: "
                "register the classes with `register_for_auto_class`, or write `auto_map`, before saving.",
            )
        return
    if not isinstance(auto_map, dict):
        return
    if "AutoConfig" not in auto_map and not known:
        yield Finding(
            "auto-map-incomplete",
            "config.json",
            "`auto_map` has no `AutoConfig`, so that nothing can load this: register the configuration too.",
        )
    classes = {reference.split(".")[-1] for value in auto_map.values() for reference in map(str, references(value))}
    named = config.get("architectures") or []
    if not isinstance(named, list) or not all(isinstance(name, str) for name in named):
        yield Finding("config-unreadable", "config.json", "`architectures` must be a list of names: save again.")
        return
    for architecture in named:
        if architecture not in classes and not hasattr(transformers, architecture):
            yield Finding(
                "auto-map-incomplete",
                "config.json",
                f"`architectures` names {architecture}, to which no entry of `auto_map` leads: add it.",
            )
    if not any(name.startswith("AutoModel") or name == "AutoBackbone" for name in auto_map):
        says = "`auto_map` names no model, but code is here: register the model classes too."
        yield Finding("auto-map-incomplete", "config.json", says)
