"""Publishing and fetching through the real client and a loopback Hub: all or nothing, whatever breaks on the way."""

import hashlib
import json
import random
import re
import shutil
from pathlib import Path

import huggingface_hub
import pytest
import torch
from huggingface_hub import HfApi
from huggingface_hub import constants
from safetensors.torch import load_file
from safetensors.torch import save_file

from modeling_vit_custom import ViTCustomForImageClassification
from modeling_vit_custom.checkpoint_files import AUTO_MAP
from modeling_vit_custom.checkpoint_files import SHIPPED_FILES
from modeling_vit_custom.hub import HubProblem
from modeling_vit_custom.hub import check
from modeling_vit_custom.hub import fetch
from modeling_vit_custom.hub import look_at
from modeling_vit_custom.hub import pull
from modeling_vit_custom.hub import push
from modeling_vit_custom.hub import remote as remote_module
from modeling_vit_custom.hub import sha256
from modeling_vit_custom.hub import stage
from modeling_vit_custom.hub import tag_for
from modeling_vit_custom.hub import who
from modeling_vit_custom.hub import write_card
from tests.faulty import Break
from tests.faulty import FaultyHub
from tests.support import ROOT
from tests.support import fill
from tests.support import tiny
from tests.toys import added
from tests.toys import configured
from tests.toys import written

# huggingface_hub's own way of sending bytes, of which its client library warns
pytestmark = [
    pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning"),
    pytest.mark.usefixtures("forked_probe"),
]
REPO = "alice/tiny"
CARD = ROOT / "model_card.md"


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved") / "model"
    fill(ViTCustomForImageClassification(tiny())).save_pretrained(folder)
    return folder


@pytest.fixture
def model(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / "model")


@pytest.fixture(autouse=True)
def without_waiting(monkeypatch):
    """The client's and our own pauses between tries; Xet, which the loopback Hub does not speak. A Hub is in reach."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda seconds: None)
    monkeypatch.setattr(remote_module.time, "sleep", lambda seconds: None)
    huggingface_hub.utils.disable_progress_bars()
    yield
    huggingface_hub.utils.enable_progress_bars()


@pytest.fixture
def hub():
    with FaultyHub(orgs={"lab": ["alice"]}) as hub:
        yield hub


def quiet(_: str):
    pass


def api_of(hub, user: str = "alice") -> HfApi:
    return HfApi(endpoint=hub.url, token=hub.token(user) if user else False)


def staged(model: Path, tmp_path: Path, **settings):
    folder = tmp_path / f"staged{len(list(tmp_path.glob('staged*')))}"
    folder.mkdir()
    made = stage(model, folder, **settings)
    write_card(folder, CARD, repo=REPO)
    return made


def send(hub, files, user="alice", tag="v1", repo=REPO, **settings):
    api = api_of(hub, user)
    remote = settings.pop("remote", None) or look_at(api, repo, say=quiet)
    return push(files, repo, api=api, remote=remote, tag=tag, message="all of it", say=quiet, **settings)


def contents(files: dict[str, Path]) -> dict[str, bytes]:
    return {name: path.read_bytes() for name, path in files.items()}


def published(hub, repo=REPO, revision="main") -> dict[str, bytes]:
    names = set(hub.repos["model", repo].find(revision).tree) - {".gitattributes"}
    return {name: hub.read(repo, name, revision) for name in names}


# What is staged


def test_a_folder_is_staged_whole_with_all_code_and_the_full_map(model, tmp_path):
    (model / "modeling_masked.py").unlink()
    configured(auto_map={"AutoModel": "modeling_vit_custom.ViTCustomModel"}, _name_or_path="/" + "home/alice/x")(model)
    for name in (
        "training_args.bin",
        "optimizer.pt",
        "trainer_state.json",
        "runs/events",
        "checkpoint-5/rng_state.pth",
    ):
        written(name, b"x")(model)
    written("notes.txt", "mine")(model)
    made = staged(model, tmp_path)
    assert set(made.files) == {"README.md", "config.json", "model.safetensors", *SHIPPED_FILES}
    config = json.loads((made.folder / "config.json").read_text())
    assert config["auto_map"] == AUTO_MAP
    assert "_name_or_path" not in config
    assert made.files["model.safetensors"].read_bytes() == (model / "model.safetensors").read_bytes()
    told = {line.split(":")[0]: line for line in made.left_out}
    assert set(told) == {
        *("training_args.bin", "optimizer.pt", "trainer_state.json", "runs/events", "checkpoint-5/rng_state.pth"),
        "notes.txt",
    }
    assert "--allow notes.txt" in told["notes.txt"]
    assert "notes.txt" in staged(model, tmp_path, allow=["*.txt"]).files


def test_weights_are_divided_by_size_and_load_equal(model, tmp_path):
    made = staged(model, tmp_path, max_shard_size="50KB")
    shards = sorted(name for name in made.files if name.endswith(".safetensors"))
    assert len(shards) > 2
    assert all(made.files[name].stat().st_size < 60_000 for name in shards)
    again = ViTCustomForImageClassification.from_pretrained(made.folder)
    for name, tensor in load_file(model / "model.safetensors").items():
        assert torch.equal(again.state_dict()[name], tensor)


REFUSED = {
    "pickled weights beside": (written("pytorch_model.bin", b"x"), "pytorch_model.bin: a pickle can run code"),
    "pickled weights alone": (
        lambda folder: (folder / "model.safetensors").rename(folder / "pytorch_model.bin"),
        "a pickle can run code when it is loaded: load the model and `save_pretrained` it",
    ),
    "no weights": (lambda folder: (folder / "model.safetensors").unlink(), "has no safetensors file: load the model"),
    "no config.json": (
        lambda folder: (folder / "config.json").unlink(),
        "has no config.json: save a model there first",
    ),
    "another's model": (configured(model_type="bert"), "holds a 'bert', and this script ships models of vit_custom"),
    "no model_type": (configured(drop=("model_type",)), "says no `model_type`: save the model again"),
    "other code": (
        added("modeling_heads.py", "# mine"),
        "modeling_heads.py of .* are not this package's: .*--code folder",
    ),
    "a large file": (
        lambda folder: (folder / "vocab.txt").write_bytes(b"word\n" * 2_100_000),
        r"vocab\.txt has 10,500,000 bytes, more than the 10,000,000 .* --allow vocab\.txt",
    ),
    "metrics of other weights": (
        written("metrics.json", json.dumps({"weights": {"model.safetensors": "0" * 64}})),
        "was measured of another model.safetensors than .* measure again",
    ),
    "broken metrics": (written("metrics.json", "["), "metrics.json is no JSON object"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_shared_is_refused_in_a_sentence(case, model, tmp_path):
    spoil, sentence = REFUSED[case]
    spoil(model)
    with pytest.raises(HubProblem, match=sentence):
        staged(model, tmp_path)


def test_the_folders_own_code_is_shipped_if_asked_for(model, tmp_path):
    added("modeling_heads.py", "# mine")(model)
    made = staged(model, tmp_path, code="folder")
    assert made.files["modeling_heads.py"].read_text().endswith("# mine\n")


def test_a_folder_of_folders_names_them(model, tmp_path):
    with pytest.raises(HubProblem, match="name one of its sub-folders: model"):
        stage(tmp_path, tmp_path / "staged")


# One commit and a tag


def test_a_push_is_one_commit_and_a_tag_and_holds_what_was_staged(model, hub, tmp_path):
    made = staged(model, tmp_path)
    done = send(hub, made.files)
    repo = hub.repos["model", REPO]
    assert published(hub) == contents(made.files)
    assert len(list(repo.history(repo.find("main")))) == 2  # the Hub's own first commit, and ours
    assert repo.refs["refs/tags/v1"] == repo.refs["refs/heads/main"] == done.commit
    assert len(hub.requests("POST", "/commit/")) == 1


def test_an_unchanged_push_makes_no_commit_and_no_second_tag(model, hub, tmp_path):
    made = staged(model, tmp_path)
    first, again = send(hub, made.files), send(hub, made.files)
    assert again.url is None
    assert again.commit == first.commit
    assert len(hub.requests("POST", "/commit/")) == 1
    assert tag_for(look_at(api_of(hub), REPO), None) == "v1"


def test_stale_shards_and_code_go_in_the_same_commit_and_other_files_stay(model, hub, tmp_path):
    send(hub, staged(model, tmp_path, max_shard_size="50KB").files)
    api_of(hub).upload_file(repo_id=REPO, path_in_repo="notes.md", path_or_fileobj=b"kept")
    api_of(hub).upload_file(repo_id=REPO, path_in_repo="modeling_old.py", path_or_fileobj=b"# old")
    api_of(hub).upload_file(repo_id=REPO, path_in_repo="training_args.bin", path_or_fileobj=b"\x80\x02.")
    made = staged(model, tmp_path)
    before = len(hub.requests("POST", "/commit/"))
    send(hub, made.files, tag="v2")
    assert published(hub) == contents(made.files) | {"notes.md": b"kept"}
    assert len(hub.requests("POST", "/commit/")) == before + 1


def test_a_twin_of_older_weights_goes_when_the_weights_change(model, hub, tmp_path):
    made = staged(model, tmp_path)
    for name in ("config.json", "model.safetensors"):
        written(f"transformers/{name}", (model / name).read_bytes())(made.folder)
    send(hub, made.files)
    assert "transformers/config.json" in published(hub)
    changed(model)
    made = staged(model, tmp_path)
    send(hub, made.files, tag="v2")
    assert published(hub) == contents(made.files)


def test_evidence_of_other_weights_is_refused(model, tmp_path):
    """Of metrics and of a proof by their hashes; a picture of answers by the metrics beside it."""
    told = {"weights": {"model.safetensors": sha256(model / "model.safetensors")}}
    written("parity.json", json.dumps(told))(model)
    (tmp_path / "first").mkdir()
    stage(model, tmp_path / "first")
    changed(model)
    (tmp_path / "second").mkdir()
    with pytest.raises(HubProblem, match=r"parity\.json was measured of another model\.safetensors"):
        stage(model, tmp_path / "second")
    (model / "parity.json").unlink()
    written("predictions.png", b"x")(model)
    (tmp_path / "third").mkdir()
    with pytest.raises(HubProblem, match=r"predictions\.png is here and no metrics\.json"):
        stage(model, tmp_path / "third")


@pytest.mark.parametrize("tag", ["a b", "../x", "main", "v1..", "-x", "HEAD", "refs/heads/main", "x.lock", "é", ""])
def test_a_tag_that_git_would_refuse_is_refused_first(tag):
    with pytest.raises(HubProblem, match="cannot be a tag"):
        remote_module.check_tag(tag)


@pytest.mark.parametrize(
    "name", ["digits", "alice/my digits", "alice/a/b", "/tmp", "alice/x--y", "", "alice/x@", "a/../b"]
)
def test_a_name_that_is_none_is_refused_first(name):
    with pytest.raises(HubProblem, match="is no name of a repository: write owner/name"):
        remote_module.read_name(name)
    assert remote_module.read_name("alice/x-1.0_b@refs/pr/1") == ("alice/x-1.0_b", "refs/pr/1")


def test_tags_are_counted_and_a_taken_one_is_refused(model, hub, tmp_path):
    made = staged(model, tmp_path)
    send(hub, made.files)
    remote = look_at(api_of(hub), REPO)
    assert tag_for(remote, None) == tag_for(remote, "v1") == "v1"
    assert tag_for(remote, "final") == "final"
    assert remote.free_tag(None) == "v2"
    added("README.md", "more")(made.folder)
    send(hub, made.files, tag="v2")
    with pytest.raises(HubProblem, match=r"the tag v1 is taken, by commit .*: choose another by --tag"):
        tag_for(look_at(api_of(hub), REPO), "v1")
    assert published(hub, revision="v1")["README.md"] != published(hub, revision="v2")["README.md"]


def test_a_private_repository_is_made_private_and_seen_by_its_owner_alone(model, hub, tmp_path):
    send(hub, staged(model, tmp_path).files, private=True)
    assert hub.repos["model", REPO].private
    assert look_at(api_of(hub), REPO).exists
    assert not look_at(api_of(hub, "bob"), REPO).exists
    with pytest.raises(HubProblem, match="is not there, or is private and you may not see it"):
        fetch(REPO, api=api_of(hub, "bob"), cache=tmp_path / "cache", say=quiet)


def test_a_pull_request_leaves_the_branch_alone(model, hub, tmp_path):
    made = staged(model, tmp_path)
    send(hub, made.files)
    head = hub.repos["model", REPO].refs["refs/heads/main"]
    added("README.md", "by bob")(made.folder)
    done = send(hub, made.files, user="bob", tag="v2", create_pr=True)
    assert done.pull_request
    assert done.url.endswith("/discussions/1")
    assert hub.repos["model", REPO].refs["refs/heads/main"] == head
    assert published(hub, revision="refs/pr/1") == contents(made.files)
    assert "refs/tags/v2" not in hub.repos["model", REPO].refs


def test_large_files_go_in_parts(model, tmp_path):
    with FaultyHub(lfs_chunk=40_000) as hub:
        made = staged(model, tmp_path)
        send(hub, made.files)
        assert published(hub) == contents(made.files)
        assert len(hub.requests("PUT", "/parts/")) > 2


def test_a_gitignore_on_the_hub_cannot_leave_out_the_weights(model, hub, tmp_path):
    api_of(hub).create_repo(REPO)
    api_of(hub).upload_file(repo_id=REPO, path_in_repo=".gitignore", path_or_fileobj=b"*.safetensors\n")
    before = published(hub)
    with pytest.raises(HubProblem, match=r"the \.gitignore of .* leaves out model\.safetensors"):
        send(hub, staged(model, tmp_path).files)
    assert published(hub) == before


# Who may


def test_rights_are_told_in_sentences_and_nothing_is_published(model, hub, tmp_path):
    made = staged(model, tmp_path)
    send(hub, made.files)
    before = published(hub)
    added("README.md", "more")(made.folder)
    with pytest.raises(
        HubProblem, match=r"nothing was published, main of .* is as it was: you may not do this.*--create-pr"
    ):
        send(hub, made.files, user="bob", tag="v2")
    with pytest.raises(HubProblem, match="the Hub does not take your token"):
        who(HfApi(endpoint=hub.url, token="hf_revoked"), quiet)
    read_only = HfApi(endpoint=hub.url, token=hub.token("alice", "read"))
    with pytest.raises(HubProblem, match="a token that may write there"):
        push(made.files, REPO, api=read_only, remote=look_at(read_only, REPO), tag="v2", message="x", say=quiet)
    with pytest.raises(HubProblem, match="was not made: you may not do this"):
        send(hub, made.files, user="bob", repo="alice/other")
    assert published(hub) == before


def test_a_token_revoked_in_the_middle_publishes_nothing(model, hub, tmp_path):
    made = staged(model, tmp_path)
    send(hub, made.files)
    before = published(hub)
    added("README.md", "more")(made.folder)
    remote = look_at(api_of(hub), REPO)
    hub.tokens.pop("hf_alice")
    with pytest.raises(HubProblem, match=r"nothing was published.*does not take your token"):
        push(made.files, REPO, api=api_of(hub), remote=remote, tag="v2", message="x", say=quiet)
    assert published(hub) == before


def test_a_gated_repository_says_how_to_get_in(model, hub, tmp_path):
    send(hub, staged(model, tmp_path).files)
    hub.repos["model", REPO].gated = "manual"
    with pytest.raises(HubProblem, match=r"alice/tiny is gated: ask for access on its page"):
        fetch(REPO, api=api_of(hub, "bob"), cache=tmp_path / "cache", say=quiet)
    hub.repos["model", REPO].granted.add("bob")
    fetch(REPO, api=api_of(hub, "bob"), cache=tmp_path / "cache", say=quiet)


def test_somebody_elses_push_in_between_is_not_overwritten(model, hub, tmp_path):
    made = staged(model, tmp_path)
    send(hub, made.files)
    seen = look_at(api_of(hub), REPO)
    api_of(hub).upload_file(repo_id=REPO, path_in_repo="README.md", path_or_fileobj=b"---\nlicense: mit\n---\ntheirs")
    before = published(hub)
    added("README.md", "mine")(made.folder)
    with pytest.raises(HubProblem, match=r"somebody has changed alice/tiny meanwhile, so nothing was published"):
        send(hub, made.files, tag="v2", remote=seen)
    assert published(hub) == before
    send(hub, made.files, tag="v2")
    assert published(hub) == contents(made.files)


# What breaks on the way

REQUESTS = {
    "seen": ("GET", "/api/models/"),
    "listed": ("GET", "/tree/"),
    "preupload": ("POST", "/preupload/"),
    "batch": ("POST", "/info/lfs/objects/batch"),
    "upload": ("PUT", "/lfs/"),
    "card": ("POST", "/validate-yaml"),
    "commit": ("POST", "/commit/"),
    "tag": ("POST", "/tag/"),
}
ANSWERS = {"500": dict(status=500), "429": dict(status=429, headers={"Retry-After": "1"})}


def try_until_done(hub, files, state, limit=12):
    """Push again and again, as the message says; after each try the branch is as it was, or whole."""
    before, errors = published(hub), []
    for _ in range(limit):
        try:
            send(hub, files, tag="v2")
            return errors
        except HubProblem as error:
            errors.append(str(error))
        state(before)
    raise AssertionError(errors)


@pytest.mark.parametrize("answer", ANSWERS)
@pytest.mark.parametrize("request_", REQUESTS)
def test_a_push_survives_a_server_in_trouble(request_, answer, model, hub, tmp_path):
    """Once: it is waited for, or the same command goes through. For long: a sentence, and the branch as it was."""
    made = staged(model, tmp_path)
    send(hub, made.files)
    changed(model)
    made = staged(model, tmp_path)
    new, (method, path) = contents(made.files), REQUESTS[request_]

    def state(before):
        assert published(hub) in (before, new)

    hub.fault(path=path, method=method, **ANSWERS[answer])
    errors = try_until_done(hub, made.files, state)
    assert published(hub) == new
    assert published(hub, revision="v2") == new
    for error in errors:
        assert "again" in error

    changed(model)
    made = staged(model, tmp_path)
    newer = contents(made.files)
    hub.fault(path=path, method=method, times=10_000, **ANSWERS[answer])
    with pytest.raises(HubProblem, match="again") as problem:
        send(hub, made.files, tag="v3")
    hub.faults.clear()
    assert published(hub) == (newer if request_ == "tag" else new)
    assert ("holds all files" in str(problem.value)) == (request_ == "tag")
    send(hub, made.files, tag="v3")
    assert published(hub, revision="v3") == newer


def changed(model: Path):
    path = model / "model.safetensors"
    tensors = load_file(path)
    save_file({key: value + 1 for key, value in tensors.items()}, path, {"format": "pt"})


def test_a_commit_whose_answer_is_lost_is_found_on_the_server(model, hub, tmp_path, monkeypatch):
    made = staged(model, tmp_path)
    said, api = [], api_of(hub)
    commit = api.create_commit

    def lost(**settings):
        commit(**settings)
        raise remote_module.TransportError("the line broke")

    monkeypatch.setattr(api, "create_commit", lost)
    done = push(made.files, REPO, api=api, remote=look_at(api, REPO), tag="v1", message="x", say=said.append)
    assert said[-1] == "The server's answer was lost on the way, but the commit is there."
    assert published(hub, revision="v1") == contents(made.files)
    assert done.commit == hub.repos["model", REPO].refs["refs/heads/main"]


def random_break(rng: random.Random, towards: str, size: int) -> Break:
    return Break(towards, rng.randrange(size), rng.choice(["cut", "reset"]))


@pytest.mark.parametrize("seed", range(4))
def test_a_push_over_a_line_that_breaks_at_random_bytes(seed, model, hub, tmp_path, record_property):
    rng = random.Random(seed)
    made = staged(model, tmp_path)
    send(hub, made.files)
    changed(model)
    made = staged(model, tmp_path)
    new = contents(made.files)
    hub.line.breaks = [random_break(rng, rng.choice(["server", "client"]), 1_500) for _ in range(8)]
    hub.store.breaks = [random_break(rng, "server", 120_000) for _ in range(4)]

    def state(before):
        assert published(hub) in (before, new)

    errors = try_until_done(hub, made.files, state, limit=40)
    assert published(hub) == published(hub, revision="v2") == new
    assert all("again" in error for error in errors)
    record_property("broken", hub.line.broken + hub.store.broken)
    assert hub.line.broken + hub.store.broken >= 6


@pytest.mark.parametrize("seed", range(6))
def test_a_pull_over_a_line_that_breaks_at_random_bytes(seed, model, hub, tmp_path, monkeypatch, record_property):
    """Each call goes on where the last one ended, and what arrives is what was sent."""
    monkeypatch.setattr("huggingface_hub.file_download.time.sleep", lambda seconds: None)
    rng = random.Random(seed)
    made = staged(model, tmp_path)
    send(hub, made.files)
    hub.line.breaks = [random_break(rng, "client", 3_000) for _ in range(8)]
    hub.store.breaks = [random_break(rng, "client", 120_000) for _ in range(4)]
    target = tmp_path / "pulled"
    errors, done = [], False
    while not done and len(errors) < 20:
        try:
            pull(REPO, "v1", target, api=api_of(hub), cache=tmp_path / "cache", say=quiet)
            done = True
        except HubProblem as error:
            errors.append(str(error))
        assert target.exists() == done
    assert all("again" in error for error in errors)
    fetched = {path.name: path.read_bytes() for path in target.iterdir() if path.name != ".gitattributes"}
    assert fetched == contents(made.files)
    record_property("broken", hub.line.broken + hub.store.broken)
    assert hub.line.broken + hub.store.broken >= 6


def test_a_slow_server_is_waited_for(model, hub, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.file_download.time.sleep", lambda seconds: None)
    monkeypatch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", 0.2)
    send(hub, staged(model, tmp_path).files)
    hub.store.breaks = [Break("client", 50_000, "slow", seconds=0.6), Break("client", 9_000, "slow", seconds=0.6)]
    hub.line.breaks = [Break("client", 100, "slow", seconds=0.3)]
    pull(REPO, "v1", tmp_path / "pulled", api=api_of(hub), cache=tmp_path / "cache", say=quiet)
    assert (tmp_path / "pulled/model.safetensors").read_bytes() == hub.read(REPO, "model.safetensors")


@pytest.mark.parametrize("answer", ANSWERS)
def test_a_pull_survives_a_server_in_trouble(answer, model, hub, tmp_path):
    made = staged(model, tmp_path)
    send(hub, made.files)
    for method, path in (
        ("GET", "/api/models/"),
        ("GET", "/tree/"),
        ("HEAD", "/resolve/"),
        ("GET", "/resolve/"),
        ("GET", "/lfs/"),
    ):
        hub.fault(path=path, method=method, times=2, **ANSWERS[answer])
    pull(REPO, "v1", tmp_path / "pulled", api=api_of(hub), cache=tmp_path / "cache", say=quiet)
    hub.fault(path="/resolve/", times=10_000, **ANSWERS[answer])
    with pytest.raises(HubProblem, match="again"):
        pull(REPO, "v1", tmp_path / "other", api=api_of(hub), cache=tmp_path / "other-cache", say=quiet)
    assert not (tmp_path / "other").exists()


# What is fetched


def test_a_pull_is_pinned_whole_and_verified_and_runs_nothing(model, hub, tmp_path):
    made = staged(model, tmp_path)
    commit = send(hub, made.files).commit
    said = []
    for revision in ("main", "v1", commit):
        target = tmp_path / revision
        found, report = pull(REPO, revision, target, api=api_of(hub), cache=tmp_path / "cache", say=said.append)
        assert found == commit
        assert report.findings == []
        assert {path.name: sha256(path) for path in target.iterdir() if path.name[0] != "."} == {
            name: sha256(path) for name, path in made.files.items()
        }
    assert said[0] == f"alice/tiny at commit {commit}"
    asked = len(hub.log)
    found, _ = pull(
        REPO, "v1", tmp_path / "offline", api=api_of(hub), cache=tmp_path / "cache", offline=True, say=quiet
    )
    assert found == commit
    assert len(hub.log) == asked, "without network"
    pull(REPO, "v1", tmp_path / "v1", api=api_of(hub), cache=tmp_path / "cache", say=said.append)
    assert said[-1].endswith("has it already, every file equal.")
    with pytest.raises(HubProblem, match="is not in the cache: pull it once without --offline"):
        pull(REPO, "v9", tmp_path / "v9", api=api_of(hub), cache=tmp_path / "cache", offline=True, say=quiet)
    with pytest.raises(HubProblem, match="has no such revision"):
        pull(REPO, "v9", tmp_path / "v9", api=api_of(hub), cache=tmp_path / "cache", say=quiet)


def test_a_folder_that_holds_something_else_is_not_written_over(model, hub, tmp_path):
    send(hub, staged(model, tmp_path).files)
    written("thesis.tex", "precious")(tmp_path / "mine")
    with pytest.raises(HubProblem, match="holds something else already: name a new folder"):
        pull(REPO, "v1", tmp_path / "mine", api=api_of(hub), cache=tmp_path / "cache", say=quiet)
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize("file", ["model.safetensors", "modeling_heads.py"])
@pytest.mark.parametrize("offline", [False, True])
def test_a_file_of_the_cache_that_was_tampered_with_is_found(file, offline, model, hub, tmp_path):
    """Fetched again from the server, or without it refused."""
    made, cache = staged(model, tmp_path), tmp_path / "cache"
    send(hub, made.files)
    _, folder, _ = fetch(REPO, "v1", api=api_of(hub), cache=cache, say=quiet)
    blob = (folder / file).resolve()
    content = bytearray(blob.read_bytes())
    content[-1] ^= 1
    blob.write_bytes(bytes(content))
    if offline:
        with pytest.raises(HubProblem, match=re.escape(f"{file} in the cache is not what alice/tiny had")):
            pull(REPO, "v1", tmp_path / "pulled", api=api_of(hub), cache=cache, offline=True, say=quiet)
        assert not (tmp_path / "pulled").exists()
        return
    pull(REPO, "v1", tmp_path / "pulled", api=api_of(hub), cache=cache, say=quiet)
    assert (tmp_path / "pulled" / file).read_bytes() == made.files[file].read_bytes()


def test_a_server_that_sends_other_bytes_than_it_lists_is_refused(model, hub, tmp_path):
    send(hub, staged(model, tmp_path).files)
    entry = hub.repos["model", REPO].find("main").tree["modeling_heads.py"]
    hub.blobs[entry.oid] = hub.blobs[entry.oid].replace(b"def", b"dez")
    with pytest.raises(
        HubProblem, match=r"modeling_heads\.py of alice/tiny does not have the hash that the server lists"
    ):
        pull(REPO, "v1", tmp_path / "pulled", api=api_of(hub), cache=tmp_path / "cache", say=quiet)
    assert not (tmp_path / "pulled").exists()


DANGERS = {
    "pickle": (written("pytorch_model.bin", b"\x80\x02."), "pytorch_model.bin: a pickle can run code"),
    "Trainer's pickle": (written("training_args.bin", b"\x80\x02."), "Trainer left this pickle"),
    "another repository's code": (
        configured(auto_map=AUTO_MAP | {"AutoModel": "mallory/x--m.M"}),
        "leads out of this folder: name",
    ),
    "upward code": (configured(auto_map=AUTO_MAP | {"AutoModel": "../m.M"}), "leads out of this folder: name"),
    "truncated weights": (
        lambda folder: (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:-9]),
        "bytes and should have",
    ),
    "pointer": (
        written("model.safetensors", f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\nsize 9\n"),
        "it is a pointer of git-lfs",
    ),
    "another shape": (configured(hidden_sizes=[16]), "the weights are not those of config.json"),
    "tampered code": (added("modeling_heads.py", "# evil"), "not the file whose sha256 README.md lists"),
    "tampered weights": (changed, "not the file whose sha256 README.md lists"),
}


@pytest.mark.parametrize("danger", DANGERS)
def test_what_nobody_should_load_is_refused_by_pull(danger, model, hub, tmp_path):
    made = staged(model, tmp_path)
    spoil, sentence = DANGERS[danger]
    spoil(made.folder)
    api = api_of(hub)
    api.create_repo(REPO)
    api.upload_folder(repo_id=REPO, folder_path=made.folder)
    with pytest.raises(HubProblem, match=re.escape(sentence)):
        pull(REPO, "main", tmp_path / "pulled", api=api, cache=tmp_path / "cache", say=quiet)
    assert not (tmp_path / "pulled").exists()


@pytest.mark.parametrize("danger", [danger for danger in DANGERS if danger != "Trainer's pickle"])
def test_what_nobody_should_load_is_refused_by_push(danger, model, tmp_path):
    """When it is staged, or by the check that follows: nothing has been sent by then."""
    spoil, sentence = DANGERS[danger]
    if danger.startswith("tampered"):
        write_card(model, CARD, repo=REPO)
    spoil(model)
    try:
        (tmp_path / "staged").mkdir()
        said = check(stage(model, tmp_path / "staged").folder, run=False).text()
    except HubProblem as error:
        said = str(error)
    assert sentence in said


def test_a_pickle_can_be_left_out_on_the_way(model, hub, tmp_path):
    made = staged(model, tmp_path)
    DANGERS["Trainer's pickle"][0](made.folder)
    api_of(hub).create_repo(REPO)
    api_of(hub).upload_folder(repo_id=REPO, folder_path=made.folder)
    pull(REPO, "main", tmp_path / "pulled", api=api_of(hub), cache=tmp_path / "cache", leave_out=["*.bin"], say=quiet)
    assert not (tmp_path / "pulled/training_args.bin").exists()
    assert (tmp_path / "pulled/model.safetensors").exists()


# What is said


def test_no_token_leaves_for_another_origin_or_stands_in_a_message(model, hub, tmp_path, caplog, monkeypatch):
    secret = "hf_" + hashlib.sha256(b"secret").hexdigest()[:30]
    hub.tokens[secret] = hub.tokens["hf_alice"]
    monkeypatch.setenv("HF_TOKEN", secret)
    made, said, api = staged(model, tmp_path), [], HfApi(endpoint=hub.url)
    caplog.set_level("DEBUG")
    for fault in (
        None,
        dict(path="/commit/", status=500),
        dict(path="/lfs/", status=403),
        dict(path="/preupload/", status=401),
    ):
        changed(model)
        made = staged(model, tmp_path)
        if fault:
            hub.fault(times=50, **fault)
        try:
            push(
                made.files,
                REPO,
                api=api,
                remote=look_at(api, REPO, say=said.append),
                tag=None,
                message="x",
                say=said.append,
            )
            pull(REPO, "main", tmp_path / "pulled", api=api, cache=tmp_path / "cache", say=said.append)
        except HubProblem as error:
            said.append(str(error))
        hub.faults.clear()
    assert len(hub.requests("PUT", "/lfs/")) > 1
    for request in hub.log:
        assert ("Authorization" in {name.title() for name in request.headers}) <= (request.origin == "hub")
    assert any(secret in str(request.headers) for request in hub.log)
    assert secret not in "\n".join([*said, *(record.getMessage() for record in caplog.records)])
    assert "sig=" not in "\n".join(said)
