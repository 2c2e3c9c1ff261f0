"""Words rot, so run them: the README's code gives the README's output, and its table is the measured one."""

import contextlib
import dataclasses
import io
import os
import re
from importlib import import_module
from pathlib import Path

import pytest
import yaml

from modeling_vit_custom.training.recipe import DataArguments
from modeling_vit_custom.training.recipe import ModelArguments
from scripts import vit_custom
from tests.support import ROOT

README = (ROOT / "README.md").read_text()


def test_the_code_gives_the_output_that_stands_below_it(tmp_path, monkeypatch):
    """In one namespace from top to bottom, in a copy of what the code reads, as a reader would in the repository."""
    blocks = re.findall(r"```python\n(.*?)```\n(?:```\n(.*?)```)?", README, flags=re.DOTALL)
    assert len(blocks) == 5
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    monkeypatch.chdir(tmp_path)
    for code, expected in blocks:
        assert expected, code
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(code, "README.md", "exec"), {})
        assert printed.getvalue() == expected


def test_the_code_of_the_training_page_runs(tmp_path, monkeypatch, capsys):
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs/training.md").read_text(), flags=re.DOTALL)
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "training.md", "exec"), {})
    assert capsys.readouterr().out.splitlines()[-1] == "['eval_ema_loss', 'eval_loss']"
    assert (tmp_path / "runs/own/checkpoint-3/ema.safetensors").is_file()


def test_the_keys_of_the_training_page_are_those_of_recipes():
    text = (ROOT / "docs/training.md").read_text()
    named = set(re.findall(r"`(\w+)`", " ".join(re.findall(r"^\| (`[^|]+) \|", text, flags=re.MULTILINE))))
    known = {field.name for kind in (DataArguments, ModelArguments) for field in dataclasses.fields(kind)}
    older = {"task", "data_dir", "dataset_settings", "num_examples", "config_overrides", "processor_overrides"}
    assert named == known - older - {"collator_settings"}


def test_the_first_screen_has_the_five_lines_a_picture_and_the_results():
    screen = README.splitlines()[:70]
    lines = [line.partition("#")[0].split() for line in screen if line.startswith("vit-custom ")]
    assert [line[1] for line in lines] == ["train", "evaluate", "predict", "push"]
    for line in lines:
        assert vit_custom.parse(line[1], line[2:])
    assert any(line.startswith("![") for line in screen)
    assert "<!-- results -->" in screen
    assert "make quickstart" in README
    use = README.split("```python\n")[1].split("```")[0].strip().splitlines()
    assert len([line for line in use if line and not line.startswith(("import", "from"))]) <= 10


def test_the_table_is_the_one_that_was_measured():
    table = README.split("<!-- results -->")[1].split("<!-- end of results -->")[0]
    measured = (ROOT / "docs/results.md").read_text()
    rows = [line for line in table.splitlines() if line.startswith(("| vit", "| tutorial", "`make"))]
    assert len(rows) >= 6
    for row in rows:
        assert row in measured


@pytest.mark.parametrize("page", [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))])
def test_links_lead_somewhere(page: Path):
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
        assert target.startswith("https://") or (page.parent / target).exists(), target


def test_every_make_target_that_is_named_exists():
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
    pages = [README, (ROOT / "CONTRIBUTING.md").read_text(), *(p.read_text() for p in (ROOT / "docs").glob("*.md"))]
    named = {name for page in pages for name in re.findall(r"`?make ([\w-]+)", page)}
    assert {"quickstart", "test"} <= named
    assert named - set(targets) <= {"it"}, os.linesep.join(sorted(named))


def test_the_site_has_every_page_once():
    settings = yaml.safe_load(re.sub(r"^(\s*)#.*$", "", (ROOT / "mkdocs.yml").read_text(), flags=re.MULTILINE))
    pages = [page for part in settings["nav"] for value in part.values() for page in pages_of(value)]
    assert sorted(pages) == sorted(path.name for path in (ROOT / "docs").glob("*.md"))
    assert settings["strict"] is True


def pages_of(value) -> list[str]:
    if isinstance(value, str):
        return [value]
    return [page for part in value for inner in part.values() for page in pages_of(inner)]


def test_the_reference_names_what_is_there():
    for page in ("configuration.md", "reference.md"):
        for name in re.findall(r"^::: (\S+)$", (ROOT / "docs" / page).read_text(), flags=re.MULTILINE):
            module, _, last = name.rpartition(".")
            assert (getattr(import_module(module), last).__doc__ or "").strip(), name


def test_the_errors_that_are_explained_are_those_of_the_code():
    source = "\n".join(path.read_text() for path in (ROOT / "modeling_vit_custom").rglob("*.py"))
    source = re.sub(r'"\s*\n\s*f?"', "", source)  # a sentence over several lines
    told = re.findall(r"^\| `([^`]+)` \|", (ROOT / "docs/errors.md").read_text(), flags=re.MULTILINE)
    assert len(told) > 15
    assert [sentence for sentence in told if sentence not in source] == []
