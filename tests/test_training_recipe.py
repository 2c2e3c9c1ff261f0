"""Recipes of strangers: what is meant is understood, what cannot be meant gets one sentence that names the fix."""

import pytest
import yaml

from modeling_vit_custom.training import read_recipe
from modeling_vit_custom.training.recipe import known_kinds
from modeling_vit_custom.training.recipe_words import SAID
from modeling_vit_custom.training.recipe_words import USUAL

DIGITS = "dataset: sklearn_digits\nuse_cpu: true\n"


@pytest.fixture
def read(tmp_path):
    def read(text, *words):
        path = tmp_path / "recipe.yaml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return read_recipe(path, words)

    return read


def refused(read, text, *words):
    """The sentence, without the recipe's name."""
    with pytest.raises((ValueError, OSError)) as caught:
        read(text, *words)
    sentence = str(caught.value)
    assert "recipe.yaml " in sentence
    assert len(sentence.splitlines()) == 1
    return sentence.partition("recipe.yaml ")[2]


@pytest.mark.parametrize("text", ["1e-06", "1E-6", "+1e-6", "1.e-6", ".1e-5", "1.0e-6", "0.000001"])
def test_a_number_is_a_number_wherever_it_stands(text, read):
    places = [
        f"learning_rate: {text}",
        f"learning_rate: '{text}'",
        f"config_overrides: {{layer_norm_eps: {text}}}",
        f"dataset_settings: {{a: {{b: [{text}]}}}}",
        f"lr_scheduler_kwargs: {{min_lr: {text}}}",
    ]
    recipe = read(DIGITS + "\n".join([places[0], *places[2:]]))
    assert recipe.training.learning_rate == read(DIGITS + places[1]).training.learning_rate == 1e-6
    assert recipe.model.config_overrides == {"layer_norm_eps": 1e-6}
    assert recipe.data.dataset_settings == {"a": {"b": [1e-6]}}
    assert recipe.training.lr_scheduler_kwargs == {"min_lr": 1e-6}
    assert read(DIGITS, "--config_overrides.layer_norm_eps", text).model.config_overrides == {"layer_norm_eps": 1e-6}


def test_what_looks_like_a_number_and_is_none_stays_text(read):
    recipe = read(DIGITS + "dataset_settings: {revision: 12e4567, config: '1e5', names: [1e, e5, 1e5x]}")
    assert recipe.data.dataset_settings == {"revision": "12e4567", "config": "1e5", "names": ["1e", "e5", "1e5x"]}


def test_values_are_of_their_keys_types(read):
    recipe = read(DIGITS + "max_steps: 1e3\nlogging_steps: '0.5'\nseed: 3.0\nsave_strategy: no\nprobe:\nreport_to:")
    assert (recipe.training.max_steps, recipe.training.logging_steps, recipe.training.seed) == (1000, 0.5, 3)
    assert (recipe.training.save_strategy, recipe.model.probe, recipe.training.report_to) == ("no", [], [])
    words = ["--run_name", "007", "--bf16_full_eval", "no", "--output_dir", "2024", "--resume_from_checkpoint"]
    recipe = read(DIGITS, *words)
    assert (recipe.training.run_name, recipe.training.output_dir) == ("007", "2024")
    assert (recipe.training.bf16_full_eval, recipe.training.resume_from_checkpoint) == (False, True)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("max_steps: abc", "sets `max_steps` to 'abc': write a whole number."),
        ("max_steps: 1.5", "sets `max_steps` to 1.5: write a whole number."),
        ("seed: true", "sets `seed` to True: write a whole number."),
        ("learning_rate: [1]", "sets `learning_rate` to [1]: write a number."),
        ("learning_rate:", "leaves `learning_rate` empty: write a value, or leave the line out."),
        ("bf16: maybe", "sets `bf16` to 'maybe': write true or false."),
        ("bf16: 1", "sets `bf16` to 1: write true or false."),
        ("run_name: 2024-01-01", "to datetime.date(2024, 1, 1): write a text, in quotes."),
        ("output_dir: 007", "sets `output_dir` to 7: write a text, in quotes."),
        ("probe: knn", "sets `probe` to 'knn': write a list."),
        ("label_names: [1]", "sets `label_names` to [1]: write a list."),
        ("config_overrides: [depths]", "sets `config_overrides` to ['depths']: write a dictionary."),
        ("lr_scheduler_type: cosin", "sets `lr_scheduler_type` to 'cosin': did you mean `cosine`?"),
        ("save_strategy: often", "sets `save_strategy` to 'often': choose one of no, steps, epoch, best."),
        ("task:", "leaves `task` empty"),
        ("task: [a]", "sets `task` to ['a']: write a text."),
        ("task: image_classification", "has `task: image_classification`: did you mean `image-classification`?"),
        ("task: classification", "has `task: classification`: choose one of image-classification, "),
        ("model_type: resnt", "has `model_type: resnt`: did you mean `resnet`?"),
        ("model_type: mamba-vision", "has `model_type: mamba-vision`: leave it out for vit_custom, or write"),
        ("model_type: resnet\nconfig_overrides: {depht: [1]}", "unknown key `depht`: did you mean `depths`?"),
        (
            "model_type: resnet\nconfig_overrides: {drop_path: 1}",
            "`drop_path`: transformers' page of resnet lists them",
        ),
        ("accelerator_config: {splt: true}", "refuses: AcceleratorConfig.__init__() got an unexpected keyword"),
        ("seed: 1\nseed: 2", "is no YAML: `seed` stands twice, in lines 3 and 4: leave one out."),
        ("config_overrides: {depths: [1], depths: [2]}", "`depths` stands twice, in lines 3 and 3"),
        ("config_overrides:\n\tdepths: [1]", "in line 4, column 1; indent with spaces, not with tabs."),
        ("---\nseed: 1", "is no YAML: found another document in line 3, column 1."),
        ("x: !!python/name:os.system", "could not determine a constructor"),
        ("5: x", "has an unknown key `5`: `vit-custom train --help` lists them all."),
        ("config_overrides: {5: x}", "has an unknown key `5`"),
        ("dataset: x\n", "`dataset` stands twice"),
    ],
)
def test_what_cannot_be_meant_gets_a_sentence(text, sentence, read):
    assert sentence in refused(read, DIGITS + text)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "is no recipe: write `key: value` lines"),
        ("# nothing", "is no recipe: write `key: value` lines"),
        ("- dataset: x", "is no recipe: write `key: value` lines"),
        ("seed: 1", "is no recipe: it needs a `dataset`"),
        ("dataset:", "is no recipe: it needs a `dataset`"),
        ("dataset: ~", "is no recipe: it needs a `dataset`"),
        ("dataset: [a, b]", "sets `dataset` to ['a', 'b']: write a text."),
        ("dataset: ./nowhere", "has `dataset: ./nowhere`: there is no such folder or file."),
        ("dataset: ~/nowhere/at/all", "there is no such folder or file."),
        (b"\x89PNG\r\n\x1a\n", "is no YAML: "),
        (b"dataset: \xff", "is no YAML: "),
        ("dataset: x\0", "is no YAML: "),
    ],
)
def test_what_is_no_recipe_gets_a_sentence(text, sentence, read):
    assert refused(read, text).startswith(sentence) or sentence in refused(read, text)


def test_what_editors_write_is_read(read):
    assert read("\ufeff" + DIGITS).data.dataset == "sklearn_digits"
    assert read(DIGITS.encode("utf-16")).data.dataset == "sklearn_digits"
    assert read(DIGITS.replace("\n", "\r\n")).data.dataset == "sklearn_digits"


def test_a_recipes_data_may_stand_in_an_option_alone(read):
    assert read("seed: 1\nuse_cpu: true", "--dataset", "2024").data.dataset == "2024"


def test_a_path_that_is_no_file_gets_a_sentence(tmp_path):
    (tmp_path / "pets.yaml").write_text(DIGITS)
    with pytest.raises(IsADirectoryError, match="is a folder: give a recipe's file"):
        read_recipe(tmp_path)
    with pytest.raises(FileNotFoundError, match=f"did you mean {tmp_path}/pets.yaml"):
        read_recipe(tmp_path / "pet.yaml")
    with pytest.raises(FileNotFoundError, match="those of this project are in configs/recipes"):
        read_recipe(tmp_path / "none/birds.yaml")


@pytest.mark.parametrize(
    ("place", "key", "advice"),
    [
        ("", "lerning_rate", "did you mean `learning_rate`?"),
        ("", "LR", "did you mean `learning_rate`?"),
        ("", "batch-size", "did you mean `per_device_train_batch_size`?"),
        ("", "img_sise", "did you mean `config_overrides.image_size`?"),
        ("", "patchsize", "did you mean `config_overrides.patch_size`?"),
        ("", "image_size", "write it under `config_overrides`."),
        ("", "image_mean", "write it under `processor_overrides`."),
        ("", "num_classes", "the data tell how many classes there are, and their names: leave it out."),
        ("", "backbone", "name a published model as `preset`, or a checkpoint as `init_from`."),
        ("", "patience", "`vit-custom train --help` lists them all."),
        ("", "as", "`vit-custom train --help` lists them all."),
        ("", "resize", "`vit-custom train --help` lists them all."),
        ("", "loader", "`vit-custom train --help` lists them all."),
        ("", "num_labels", "the data tell how many classes there are, and their names: leave it out."),
        ("", "root_dir", "did you mean `dataset`?"),
        ("", "use_gpu", "a GPU is used where there is one"),
        ("", "overwrite", "add `--overwrite` to the command."),
        ("config_overrides", "depth", "did you mean `depths`?"),
        ("config_overrides", "embed_dim", "did you mean `hidden_sizes`?"),
        ("config_overrides", "max_steps", "write it above, not under `config_overrides`."),
        ("config_overrides", "lr", "did you mean `learning_rate`, above and not under `config_overrides`?"),
        ("config_overrides", "image_std", "write it under `processor_overrides`."),
        ("config_overrides", "colour", "`vit-custom train --help` lists them all."),
        ("processor_overrides", "mean", "did you mean `image_mean`?"),
        ("processor_overrides", "patch_size", "write it under `config_overrides`."),
        ("processor_overrides", "colour", "choose from do_resize, "),
        ("collator_settings", "mask_ratio", "this task has none there."),
    ],
)
def test_an_unknown_key_is_told_its_name_or_its_place_and_nothing_far(place, key, advice, read):
    line = f"{place}: {{{key}: 1}}" if place else f"{key}: 1"
    assert refused(read, DIGITS + line).startswith(f"has an unknown key `{key}`: {advice}")


def test_every_usual_word_leads_to_a_key_and_is_none(read):
    keys = known_kinds()
    gone = {"warmup_ratio", "logging_dir", "local_rank"}  # keys in older versions of transformers, and words in ours
    assert not (USUAL.keys() | SAID.keys()) & (keys.keys() - gone)
    for word in ("lr", "batch_size", "epochs", "output", "data", "num_workers", "wd", "warmup", "amp", "pretrained"):
        assert USUAL[word] in keys
    for key in {*USUAL.values()}:
        assert key.partition(".")[0] in keys
    parts = [key.partition(".")[2] for key in USUAL.values() if key.startswith("config_overrides.")]
    read(DIGITS + yaml.safe_dump({"config_overrides": dict.fromkeys(parts, 1)}))


def test_an_option_that_is_a_part_of_no_dictionary_gets_a_sentence(read):
    with pytest.raises(ValueError, match=r"--mix\.a\.b is a part of `a`, which is 3 and no dictionary"):
        read(DIGITS + "mix: {a: 3}", "--mix.a.b", "1")
