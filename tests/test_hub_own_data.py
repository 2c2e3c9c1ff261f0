"""What leaves the machine of a run on one's own pictures: names, figures and weights; no paths, no pictures unasked."""

import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import yaml
from huggingface_hub import HfApi
from huggingface_hub import ModelCard
from huggingface_hub import constants
from huggingface_hub.errors import OfflineModeIsEnabled
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from modeling_vit_custom.commands import push as verb
from modeling_vit_custom.hub import HubProblem
from modeling_vit_custom.hub import checkpoint_of
from modeling_vit_custom.hub import origins
from modeling_vit_custom.hub import public_command
from modeling_vit_custom.hub import pull
from modeling_vit_custom.hub import stage
from modeling_vit_custom.hub import write_card
from modeling_vit_custom.hub.origins import name_of
from modeling_vit_custom.hub.origins import names_files
from modeling_vit_custom.hub.origins import public
from modeling_vit_custom.hub.remote import in_a_sentence
from modeling_vit_custom.training.images import OTHERWISE
from modeling_vit_custom.training.images import to_rgb
from scripts import push
from scripts.train import main as train
from tests.minihub import MiniHub
from tests.recipes import write_recipe
from tests.support import ROOT

OURS, THEIRS = ROOT / "configs/recipes/quickstart.yaml", Path("/srv/quickstart.yaml")
SHORT = dict(max_steps=2, save_strategy="no", eval_strategy="no", gradient_accumulation_steps=1, mix=None, ema=None)
GPS = {1: "N", 2: (52.0, 31.0, 0.0), 3: "E", 4: (13.0, 24.0, 0.0)}
SECRET = "IMG_grandma"  # of every picture's file name


def with_gps() -> Image.Exif:
    exif = Image.Exif()
    exif[0x010F] = "Grandma's camera"
    exif[0x8825] = GPS
    return exif


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    work = tmp_path_factory.mktemp("machine")
    for split, count in (("train", 6), ("test", 3)):
        for name in "ab":
            (place := work / "pets" / split / name).mkdir(parents=True)
            for number in range(count):
                image = Image.new("RGB", (12, 12), (20 * number, ord(name), 3))
                image.save(place / f"{SECRET}{number}.jpg", exif=with_gps())
    return work


@pytest.fixture(scope="module")
def run(work) -> Path:
    recipe = write_recipe(work, name="mine", **SHORT, per_device_train_batch_size=6)
    words = ["--dataset", str(work / "pets"), "--learning_rate", "2e-4", "--output_dir", str(work / "run")]
    return train([str(recipe), *words])


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)


def staged(run: Path, place: Path, **settings) -> dict[str, bytes]:
    place.mkdir()
    made = stage(run, place, **settings)
    write_card(place, ROOT / "model_card.md", license=made.license(None))
    return {name: path.read_bytes() for name, path in made.files.items()}


def test_a_run_on_ones_own_pictures_can_be_pushed_and_is_private(run, work, capsys):
    push.main([str(run), "alice/pets", "--dry-run"])
    printed = capsys.readouterr().out
    assert "Nothing was published. The tag would be v1." in printed
    (line,) = re.findall(r"^Private, since .*$", printed, flags=re.MULTILINE)
    assert line == f"Private, since nothing says under which licence {run / 'checkpoint'} may be used: " + (
        "--license, as apache-2.0, says it."
    )
    assert "Sound: 0 errors" in printed
    (line,) = re.findall(r"^left out: predictions.*$", printed, flags=re.MULTILINE) or re.findall(
        r"^left out: examples/.*$", printed, flags=re.MULTILINE
    )
    assert line.endswith(": pictures of the data; --with-pictures ships them")
    card = printed.split("\n---\n", 1)[1]
    assert str(work) not in card


def test_nothing_that_is_pushed_names_the_machine_or_a_picture(run, work, tmp_path):
    for with_pictures in (False, True):
        files = staged(run, tmp_path / f"staged{with_pictures}", with_pictures=with_pictures)
        shown = [name for name in files if name.endswith(".png") and name != "history.png"]
        assert bool(shown) == with_pictures
        for name, content in files.items():
            for word in (str(work), work.name, SECRET, "Grandma", "Exif", "eXIf"):
                assert word.encode() not in content, (name, word)
    metrics = json.loads(files["metrics.json"])
    assert (metrics["dataset"], metrics["dataset_source"], metrics["license"]) == ("pets", "local", None)
    assert yaml.safe_load(metrics["recipe_text"])["dataset"] == "pets"
    assert yaml.safe_load(metrics["recipe_text"])["learning_rate"] == 2e-4  # as the command said, not the file
    command = "vit-custom train mine.yaml --dataset pets --learning_rate 2e-4 --output_dir run"
    assert metrics["certificate"]["command"] == command
    card = ModelCard(files["README.md"].decode())
    assert card.data.get("datasets") is None
    assert card.data.get("license") is None
    assert "held-out images of pets" in card.text
    assert "learning_rate: 0.0002" in card.text
    assert "**Licence.** No licence is given" in card.text


def test_the_recipe_that_stays_runs_again(run, work):
    assert yaml.safe_load((run / "recipe.yaml").read_text())["dataset"] == str(work / "pets")


@pytest.fixture
def home(tmp_path, monkeypatch) -> Path:
    """Of a user, with some folders, one of them the working directory."""
    home = tmp_path / "jane"
    for name in ("pets/train", "my/pictures", "data/train", "runs/mae/checkpoint"):
        (home / name).mkdir(parents=True)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(home / "pets")
    return home


@pytest.mark.parametrize(
    ("place", "name"),
    [
        ("{home}/pets", "pets"),
        ("{home}/pets/", "pets"),
        ("{home}/pets/train", "pets"),
        ("~/pets", "pets"),
        ("~", "own data"),
        ("~/data/train", "own data"),
        (".", "pets"),
        ("train", "pets"),
        ("./train/", "pets"),
        ("..", "own data"),
        ("../pets", "pets"),
        ("/home/joe", "own data"),
        ("/home/joe/data", "own data"),
        ("/home/joe/sea birds/images", "sea birds"),
        ("/", "own data"),
        ("C:\\Users\\joe\\pets", "pets"),
        ("C:/Users/joe/pets/train", "pets"),
        ("C:\\Users\\joe", "own data"),
        ("\\\\server\\share\\pets\\data", "pets"),
        ("file:///srv/pets", "pets"),
        ("/srv/pets/*.parquet", "pets"),
        ("/srv/pets/train-00000-of-00002.parquet", "pets"),
        ("/srv/sea.birds.tar", "sea.birds"),
        ("/srv/a|b(c)\n", "a-b(c)"),
    ],
)
def test_a_path_is_called_by_its_last_part_that_says_something(place, name, home):
    place = place.format(home=home)
    told = origins(dict(dataset=place), recipe=OURS, built_in=False)
    assert (told["dataset"], told["dataset_id"]) == (name, None)
    assert yaml.safe_load(told["recipe_text"]) == {"dataset": name}
    command = public_command(["x.yaml", "--dataset", place], dict(dataset=place), name)
    assert shlex.split(command) == ["x.yaml", "--dataset", name]


def test_only_what_is_read_from_the_hub_is_a_name_of_the_hub(home, monkeypatch):
    monkeypatch.chdir(home)
    for dataset, settings, told in (
        ("alice/pets", {}, ("alice/pets", "hub", "alice/pets")),
        ("my/pictures", {}, ("pictures", "local", None)),
        ("alice/pets", {"data_files": {"train": "x.parquet"}}, ("pets", "local", None)),
    ):
        found = origins(dict(dataset=dataset, dataset_settings=settings), recipe=OURS, built_in=False)
        assert tuple(found[key] for key in ("dataset", "dataset_source", "dataset_id")) == told
    named = origins(dict(dataset="my/pictures", dataset_name="Sea birds"), recipe=OURS, built_in=False)
    assert (named["dataset"], named["dataset_id"]) == ("Sea birds", None)


def test_paths_go_from_wherever_they_stand(home, monkeypatch):
    monkeypatch.chdir(home)
    resolved = dict(
        dataset="/srv/my birds",
        data_dir="/srv/cache",
        dataset_settings=dict(data_files=dict(train=["/srv/my birds/one.parquet", "IMG_7.JPG"])),
        init_from="runs/mae",
        distillation=dict(teacher="timm:/srv/my nets/big", kind="hard"),
        output_dir="runs/out",
        hub_token="x",
    )
    told = origins(resolved, recipe=THEIRS, built_in=False)
    assert yaml.safe_load(told["recipe_text"]) == dict(
        dataset="my birds",
        dataset_settings=dict(data_files=dict(train=["(own files)", "(own files)"])),
        init_from="./runs/mae",
        distillation=dict(teacher="timm:big", kind="hard"),
        output_dir="runs/out",
    )
    words = ["--distillation={teacher: 'timm:/srv/my nets/big', kind: hard}", "--init_from", "runs/mae"]
    told = shlex.split(public_command(words, resolved, "my birds"))
    assert told == ["--distillation={teacher: 'timm:big', kind: hard}", "--init_from", "./runs/mae"]
    assert public("see https://x.org/a/b and /srv/a/b, AC/DC/x, hf://a/b") == (
        "see https://x.org/a/b and b, AC/DC/x, hf://a/b"
    )


LICENSED = "---\nlicense: mit\nbase_model: google/vit\n---\n# A card\n"


def test_a_licence_is_that_of_the_recipe_or_of_the_beginning_or_of_what_is_all_ours(home):
    start = home / "runs/mae/checkpoint"

    def licence(built_in=True, recipe=OURS, **resolved):
        return origins(dict(dataset="sklearn_digits") | resolved, recipe, built_in, OURS.parent)["license"]

    assert licence() == "apache-2.0"
    assert licence(recipe=THEIRS) is None  # a recipe of somebody's
    assert licence(built_in=False) is None
    assert licence(distillation=dict(teacher=str(start))) is None
    assert licence(init_from=str(start)) is None
    assert licence(init_from="nobody/has-it") is None
    assert licence(built_in=False, license="cc-by-4.0") == "cc-by-4.0"
    (start / "README.md").write_text(LICENSED)
    assert licence(init_from=str(start), built_in=False) == "mit"
    assert licence(init_from=str(start), license="gpl") == "gpl"
    for broken in ("---\nlicense: [mit, gpl]\n---\n", "---\n[\n---\n", "# none"):
        (start / "README.md").write_text(broken)
        assert licence(init_from=str(start)) is None


def test_the_base_model_is_a_name_of_the_hub_or_none(home):
    start = home / "runs/mae/checkpoint"

    def base(init_from):
        told = origins(dict(dataset="/srv/pets", init_from=init_from), recipe=THEIRS, built_in=False)
        return told["init_from"], told["base_model"]

    assert base("google/vit") == ("google/vit", "google/vit")
    assert base("google/vit@v1") == ("google/vit@v1", "google/vit")
    assert base(str(start)) == ("mae", None)
    (start / "README.md").write_text(LICENSED)
    (start / "config.json").write_text("{}")
    assert base(str(start.parent)) == ("mae", "google/vit")  # the run's folder
    assert base("~/runs/mae/checkpoint") == ("mae", "google/vit")
    (start / "README.md").write_text(LICENSED.replace("google/vit", "/home/joe/vit"))
    assert base(str(start)) == ("mae", None)
    (start / "source.json").write_text(json.dumps(dict(name="facebook/deit", revision="0" * 40)))
    assert base(str(start)) == ("mae", "facebook/deit")
    (start / "source.json").write_text(json.dumps(dict(name="deit.pth", revision=None)))
    assert base(str(start)) == ("mae", None)


def test_a_picture_leaves_without_its_place_and_with_its_pixels(run, tmp_path):
    text = PngInfo()
    text.add_text("XML:com.adobe.xmp", "GPSLatitude")
    text.add_text("Comment", "Grandma")
    pixels = np.random.default_rng(0).integers(0, 255, (9, 7, 4), dtype=np.uint8)
    (run / "examples").mkdir(exist_ok=True)
    for place in (run / "predictions.png", run / "examples/0.png"):
        Image.fromarray(pixels).save(place, exif=with_gps(), pnginfo=text)
        with Image.open(place) as image:
            assert image.getexif().get_ifd(0x8825)
    (run / "mistakes.csv").write_text(f"file\n{SECRET}.jpg\n")
    (run / "history.csv").write_text("step,loss\n1,0.5\n")
    files = staged(run, tmp_path / "staged", with_pictures=True)
    assert files["history.csv"] == b"step,loss\n1,0.5\n"
    assert "mistakes.csv" not in files
    for name in ("predictions.png", "examples/0.png"):
        with Image.open(tmp_path / "staged" / name) as image:
            assert np.array_equal(np.asarray(image), pixels)
            assert not image.info
            assert not image.getexif()
    Image.new("RGB", (3, 3)).save(run / "checkpoint/me.jpg", exif=with_gps())
    with pytest.raises(HubProblem, match=r"me\.jpg holds EXIF or XMP, so maybe where it was taken: save it as PNG"):
        staged(run, tmp_path / "allowed", allow=["me.jpg"])
    (run / "checkpoint/me.jpg").unlink()
    (run / "history.csv").write_text(f"step,worst\n1,{SECRET}.jpg\n")
    (tmp_path / "again").mkdir()
    made = stage(run, tmp_path / "again")
    assert "history.csv and mistakes.csv and recipe.yaml: may name files and folders of this machine" in made.left_out
    assert not {"history.csv", "predictions.png", "examples/0.png"} & set(made.files)


RGBA = np.random.default_rng(1).integers(0, 256, (8, 6, 4), dtype=np.uint8)
DEEP = (np.arange(48, dtype=np.uint16) * 1365).reshape(8, 6)


@pytest.mark.filterwarnings("ignore:Palette images with Transparency")  # which is what `pipeline` does with them
@pytest.mark.parametrize(
    ("kind", "image"),
    [
        ("transparent", Image.fromarray(RGBA)),
        ("transparent", Image.fromarray(np.ascontiguousarray(RGBA[..., :2]), mode="LA")),
        ("transparent", Image.fromarray(RGBA).quantize(16)),
        ("deeper than 8 bits", Image.fromarray(DEEP)),
    ],
    ids=["RGBA", "LA", "P", "I;16"],
)
def test_the_lines_of_the_card_make_of_a_picture_what_training_saw(kind, image, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # turned
    image.save(tmp_path / "picture.png", exif=exif)
    (tmp_path / "config.json").write_text("{}")
    metrics = {"pictures_pipeline_sees_otherwise": {kind: dict(count=1234, convert=OTHERWISE[kind])}}
    card = write_card(tmp_path, ROOT / "model_card.md", metrics=metrics).read_text()
    assert f"(1,234 {kind})" in card
    (code,) = (block for block in re.findall(r"```python\n(.*?)```", card, flags=re.DOTALL) if "path" in block)
    names: dict = {"path": tmp_path / "picture.png"}
    exec(code, names)
    with Image.open(names["path"]) as opened:
        seen, plain = to_rgb(opened), opened.convert("RGB")
    assert seen.size == (8, 6)
    assert np.array_equal(np.asarray(names["image"].convert("RGB")), np.asarray(seen))
    assert not np.array_equal(np.asarray(names["image"]), np.asarray(plain))


def test_the_card_has_the_lines_of_each_kind_only_where_there_are_such_pictures(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    kinds = {kind: dict(count=3, convert=lines) for kind, lines in OTHERWISE.items()}
    card = write_card(tmp_path, ROOT / "model_card.md", metrics={"pictures_pipeline_sees_otherwise": kinds}).read_text()
    assert f"({', '.join(f'3 {kind}' for kind in OTHERWISE)})" in card
    assert all(line in card for lines in OTHERWISE.values() for line in lines)
    assert "**Pictures.**" not in write_card(tmp_path, ROOT / "model_card.md").read_text()


def test_a_name_is_never_longer_than_a_line(home):
    assert len(name_of("/srv/" + "bird" * 100)) == 96


@pytest.fixture
def sends(run, monkeypatch):
    """push.py, to a Hub on this machine and without the check, which other tests have."""
    with MiniHub() as hub:
        api = HfApi(endpoint=hub.url, token=hub.token())
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(verb, "HfApi", lambda: api)
        monkeypatch.setattr(verb, "get_token", hub.token)
        monkeypatch.setattr(verb, "check_staged", lambda folder, repo: None)
        yield hub, lambda *words: push.main([str(run), *words])


@pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")  # huggingface_hub's own way of sending bytes
def test_without_a_licence_a_push_is_private_and_none_is_sent_to_a_public_place(sends, capsys):
    hub, send = sends
    send("alice/mine")
    assert hub.repos["model", "alice/mine"].private
    assert capsys.readouterr().out.count("Private, since nothing says under which licence") == 1
    send("alice/open", "--license", "mit")
    assert not hub.repos["model", "alice/open"].private
    assert "Private" not in capsys.readouterr().out
    before = hub.repos["model", "alice/open"].find("main").id
    for words in ((), ("--create-pr",), ("--dry-run",)):
        with pytest.raises(HubProblem, match="alice/open is public: add --license, as apache"):
            send("alice/open", *words)
    assert hub.repos["model", "alice/open"].find("main").id == before


@pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")
def test_an_interrupted_push_or_pull_says_what_is_there(sends, monkeypatch, tmp_path):
    _, send = sends

    def interrupt(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as broken:
        broken.setattr(HfApi, "create_commit", interrupt)
        with pytest.raises(KeyboardInterrupt) as pushed:
            send("alice/mine")
    assert pushed.value.__notes__ == [
        "Look at alice/mine, or run the same command again: it sends what is not there, and no more."
    ]
    send("alice/mine")
    monkeypatch.setattr(HfApi, "hf_hub_download", interrupt)
    with pytest.raises(KeyboardInterrupt) as pulled:
        pull("alice/mine", "v1", tmp_path / "pulled", api=verb.HfApi(), cache=tmp_path / "cache")
    assert pulled.value.__notes__ == ["What was fetched stays in the cache: the same command goes on from there."]


def test_where_the_hub_is_out_of_reach_the_sentence_says_why():
    offline = in_a_sentence(OfflineModeIsEnabled("..."), "alice/mine")
    assert offline == (
        "the Hub is not asked for anything while HF_HUB_OFFLINE is set: unset it and run the same command again."
    )
    assert in_a_sentence(ConnectionError("no route"), "alice/mine") == (
        "the connection broke, or the server was too slow: check the network, then run the same command again."
    )


def test_the_check_looks_into_a_run_and_asks_which_of_several_checkpoints(run, tmp_path):
    assert checkpoint_of(run) == checkpoint_of(run / "checkpoint") == run / "checkpoint"
    assert checkpoint_of(tmp_path) == tmp_path  # for the check to say what is missing
    for step in (3, 6):
        (tmp_path / f"checkpoint-{step}").mkdir()
        (tmp_path / f"checkpoint-{step}/config.json").write_text("{}")
    with pytest.raises(HubProblem, match=r"no config\.json: name one of its sub-folders: checkpoint-3, checkpoint-6"):
        checkpoint_of(tmp_path)


@pytest.mark.parametrize("place", ["patients/anna_smith/train", "patients/anna_smith.parquet"])
def test_places_of_ones_own_in_data_files_stay_here(place):
    settings = dict(data_files={"train": place, "test": [place]}, held_out="test")
    resolved = dict(dataset="patients", dataset_settings=settings)
    told = origins(resolved, recipe=THEIRS, built_in=False)
    assert "anna" not in told["recipe_text"]
    assert "(own files)" in told["recipe_text"]
    assert "anna" not in public_command(["train.py", "--dataset_settings", json.dumps(settings)], resolved, "patients")


@pytest.mark.parametrize(
    "ending",
    """jpg jpeg jpe jfif png apng webp gif bmp dib tif tiff heic heif hif avif avifs jxl jp2 j2k j2c jpc jpx ppm pgm pbm
    pnm tga ico icns mpo psd dds pcx sgi xbm xpm dng cr2 nef arw""".split(),
)
def test_pictures_files_are_known_by_their_ending(ending):
    assert names_files(f"see anna_smith.{ending.upper()}")
    assert public(f"see anna_smith.{ending}, there") == "see (a picture), there"
