"""What all scripts share: options before imports, threads that do not spin, one sentence in place of a traceback."""

import json
import os
import shlex
import subprocess
import sys
from importlib import import_module
from importlib.metadata import version
from pathlib import Path

import pytest

from modeling_vit_custom.commands import options
from modeling_vit_custom.commands import train
from modeling_vit_custom.inspection.comparing_parts import PARTS
from modeling_vit_custom.training import DATASETS
from modeling_vit_custom.training.packages import DATA_DIR
from modeling_vit_custom.training.packages import NEEDED
from modeling_vit_custom.training.recipe_keys import FILE
from modeling_vit_custom.training.recipe_keys import recipe_keys
from scripts import compare
from scripts import get_data
from scripts import vit_custom
from tests.support import ROOT
from tests.test_house import SCRIPTS

NAMES = [path.stem for path in SCRIPTS if path.stem[0] != "_"]
NEED_A_WORD = ("check", "convert", "describe", "evaluate_checkpoint", "predict", "pull", "push", "train")
KEYS_ARE_OF_THIS_VERSION = f"(with transformers {version('transformers')})" in FILE.read_text().splitlines()[0]
COMMANDS = {
    "train": "recipe.yaml --data my/pictures --from theirs --overwrite --seed 3 --mix.prob=1",
    "evaluate": "runs/x --dataset digits --batch_size 3 --knn",
    "predict": "runs/x a.jpg b.jpg --top-k 3",
    "convert": "here there --preset deit --prefix module.",
    "describe": "deit --image-size 32 64 --memory 16GiB",
    "push": "runs/x me/x --tag v1 --allow a.txt --allow b.txt",
    "pull": "me/x runs/x --leave-out *.md",
    "check": "me/x --json report.json",
}
HEAVY = ("torch", "transformers", "huggingface_hub", "numpy", "matplotlib", "modeling_vit_custom")
# Each script with each list of words in one process, from a state like a new one's.
CALL = f"""
import contextlib, io, json, os, runpy, sys
found = []
for name, words in json.loads(sys.argv[1]):
    sys.argv, said = [f"scripts/{{name}}.py", *words], io.StringIO()
    os.environ.pop("OMP_WAIT_POLICY", None)
    sys.modules.pop("vit_custom", None)
    code = "ran"
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
        try:
            runpy.run_path(sys.argv[0], run_name="__main__")
        except SystemExit as end:
            code = end.code
    heavy = [module for module in {HEAVY!r} if module in sys.modules]
    found.append([name, words, code, heavy, os.environ.get("OMP_WAIT_POLICY"), said.getvalue()])
print(json.dumps(found))
"""


def call(*calls):
    words = [sys.executable, "-P", "-c", CALL, json.dumps(calls)]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def test_help_and_wrong_options_end_before_anything_heavy_is_imported():
    asked = [(name, ["--help"]) for name in NAMES]
    # The keys of recipes are known before imports for one version of transformers: another's are its own.
    known = [name for name in NAMES if name != "train" or KEYS_ARE_OF_THIS_VERSION]
    wrong = [(name, ["some", "words", "--no_such_option", "1"]) for name in known]
    lacking = [(name, []) for name in NEED_A_WORD]
    for name, words, code, heavy, policy, said in call(*asked, *wrong, *lacking):
        assert (name, heavy, policy) == (name, [], "PASSIVE")
        assert (name, words, code) == (name, words, 0 if words == ["--help"] else 2)
        assert said.startswith("usage:")


@pytest.mark.skipif(not KEYS_ARE_OF_THIS_VERSION, reason="another version of transformers has keys of its own")
def test_a_key_that_no_recipe_has_is_refused_at_once_with_the_near_one():
    options = {
        "--lerning_rate": "did you mean `learning_rate`?",
        "--lr=3": "did you mean `learning_rate`?",
        "--image_size": "write it under `config_overrides`.",
        "--num_heads": "did you mean `config_overrides.num_attention_heads`?",
        "--quux": "`vit-custom train --help` lists them all.",
    }
    for (_, words, code, heavy, _, said), advice in zip(
        call(*(("train", ["r.yaml", option]) for option in options)), options.values(), strict=True
    ):
        name = words[1].partition("=")[0]
        assert (code, heavy, said.splitlines()[-1]) == (2, [], f"train.py: error: unknown option `{name}`: {advice}")


def test_known_keys_of_every_kind_pass_the_first_look():
    words = "r.yaml --seed 1 --config_overrides.depths [8] --save-strategy no --use_cpu --max_steps -1 --mix.prob=1"
    found = vit_custom.parse("train", words.split())
    assert (str(found["recipe"]), found["overwrite"], found["settings"]) == ("r.yaml", False, words.split()[1:])


def test_what_a_user_has_set_for_threads_stays():
    words = [sys.executable, "-c", "import vit_custom, os; print(os.environ['OMP_WAIT_POLICY'])"]
    for chosen in ("ACTIVE", "passive"):
        done = subprocess.run(
            words, env=os.environ | {"OMP_WAIT_POLICY": chosen, "PYTHONPATH": "scripts"}, cwd=ROOT, capture_output=True
        )
        assert done.stdout.decode().strip() == chosen


def test_names_in_options_are_those_of_the_package():
    assert list(PARTS) == list(compare.NAMES)
    assert list(DATASETS) == list(compare.SETS)
    assert [*NEEDED, get_data.CHECKPOINTS] == list(get_data.NAMES)
    assert get_data.parse([]).data_dir == DATA_DIR


def test_the_launcher_reads_what_the_dataclasses_say():
    assert options.FILE.read_text(encoding="utf-8") == options.text(), f"run `python -m {options.__name__}`"


@pytest.mark.parametrize("verb", options.VERBS)
def test_words_of_a_command_are_found_again(verb):
    """`command_of` of what was parsed, parsed again, is the same."""
    words = COMMANDS[verb].split()
    module = import_module(f"modeling_vit_custom.commands.{verb}")
    made = module.Options(**vit_custom.parse(verb, words))
    again = shlex.split(options.command_of(verb, made))
    assert again[:2] == ["vit-custom", verb]
    assert module.Options(**vit_custom.parse(verb, again[2:])) == made


def test_the_help_of_recipes_is_made_from_the_dataclasses():
    pinned = (ROOT / "constraints.txt").read_text().splitlines()
    if not {f"{name}=={version(name)}" for name in ("transformers", "torch")} <= {*pinned}:
        pytest.skip("the keys and defaults are those of the pinned versions")
    assert FILE.read_text() == recipe_keys(), "run `python -m modeling_vit_custom.training.recipe_keys`"


def ended(tmp_path, body, **environment):
    """(exit code, stdout, stderr) of a script with this body."""
    path = tmp_path / "mine.py"
    path.write_text(f"import sys\nsys.path.append({str(ROOT / 'scripts')!r})\nimport vit_custom\n")
    path.write_text(f"{path.read_text()}vit_custom.listen()\n{body}\n")
    kept = {key: value for key, value in os.environ.items() if key != "TRACEBACK"}
    done = subprocess.run([sys.executable, path], env=kept | environment, capture_output=True, text=True)
    return done.returncode, done.stdout, done.stderr


WORKER = (
    "Caught ValueError in DataLoader worker process 0.\\nOriginal Traceback (most recent call last):\\n"
    '  File "x.py", line 1, in y\\n    z()\\nValueError: Row 3 is no picture.\\nRemove it.\\n'
)
# Where a shell has put the tests in the background, Python begins with deaf ears.
HEARD = "import os, signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
STRICT = "\n".join(
    [
        "from dataclasses import dataclass",
        "from huggingface_hub.dataclasses import strict",
        "@strict",
        "@dataclass",
        "class A:",
        "    sizes: list[int]",
        "A(64)",
    ]
)


@pytest.mark.parametrize(
    ("body", "code", "said"),
    [
        ("raise ValueError('Give a folder.')", 1, "Give a folder."),
        ("open('nowhere')", 1, "[Errno 2] No such file or directory: 'nowhere'"),
        ("1 / 0", 1, "division by zero"),
        ("import none_such", 1, "No module named 'none_such'"),
        ("raise ValueError", 1, "ValueError"),
        ("{}['x']", 1, "KeyError: 'x' (in no file of this project; TRACEBACK=1 shows the way there)"),
        ("vit_custom.parse(3)", 1, "KeyError: 3 (scripts/vit_custom.py:"),
        ("raise KeyboardInterrupt", 130, "interrupted."),
        (f"{HEARD}os.kill(os.getpid(), signal.SIGINT)", 130, "interrupted."),
        ("e = KeyboardInterrupt(); e.add_note('Go on so.'); raise e", 130, "interrupted.\nGo on so."),
        (f"raise ValueError({WORKER!r})".replace("\\\\n", "\\n"), 1, "Row 3 is no picture.\nRemove it."),
        (STRICT, 1, "Field 'sizes' expected a list, got int"),
        ("raise BrokenPipeError", 1, "what it printed to has closed."),
    ],
    ids=str,
)
def test_an_error_is_one_sentence(body, code, said, tmp_path):
    found = ended(tmp_path, body)
    assert found[0] == code
    assert found[2].strip().startswith(f"mine.py: {said}")
    assert "Traceback" not in found[2]
    assert len(found[2].strip().splitlines()) == len(said.splitlines())
    assert "Traceback (most recent call last)" in ended(tmp_path, body, TRACEBACK="1")[2]


def test_what_is_printed_to_may_close():
    words = [sys.executable, "scripts/train.py", "--help"]
    with subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as run:
        run.stdout.close()
        assert run.stderr.read() == b""


@pytest.mark.parametrize("has_checkpoint", [True, False])
def test_an_interrupted_training_says_where_it_can_go_on(has_checkpoint, tmp_path, monkeypatch):
    def stopped(recipe, splits):
        if has_checkpoint:
            (Path(recipe.training.output_dir) / "checkpoint-3").mkdir(parents=True)
        raise KeyboardInterrupt

    monkeypatch.setattr(train, "train", stopped)
    with pytest.raises(KeyboardInterrupt) as stop:
        vit_custom.call("train", [str(ROOT / "configs/recipes/quickstart.yaml"), "--output_dir", str(tmp_path / "run")])
    notes = [f"{tmp_path / 'run.unfinished'} holds the run's checkpoints: go on with --resume_from_checkpoint."]
    assert getattr(stop.value, "__notes__", []) == notes * has_checkpoint
