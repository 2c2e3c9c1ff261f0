"""Publish a model with the code that loads it: one commit and a tag, or nothing.

    vit-custom push runs/quickstart alice/digits --dry-run
    vit-custom push runs/quickstart alice/digits --private --tag v1

FOLDER is what save_pretrained, `vit-custom convert` or a Trainer wrote, or a run's folder with checkpoint/ in it. Its
files are staged, checked (`vit-custom check`), loaded in a clean process, and only then sent. The token comes from
`hf auth login` or HF_TOKEN. docs/hub.md has what is staged and what is refused.
"""

import tempfile
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import HfApi
from huggingface_hub import get_token

from ..conversion import write_twin
from ..hub import HubProblem
from ..hub import Pushed
from ..hub import check_staged
from ..hub import check_tag
from ..hub import has_branch
from ..hub import keeps_its_own_card
from ..hub import kind_of
from ..hub import manifest
from ..hub import push
from ..hub import read_name
from ..hub import see
from ..hub import stage
from ..hub import start_branch
from ..hub import tag_for
from ..hub import who
from ..hub import write_card
from .options import argument
from .options import option
from .shipped import shipped


@dataclass
class Options:
    folder: Path = argument("a run, or a checkpoint")
    repo: str = argument("where to", metavar="owner/name")
    dry_run: bool = option(False, "show files, sizes, hashes and card; publish nothing")
    private: bool = option(False, "make the repository private, if it is made now")
    create_pr: bool = option(False, "as a pull request")
    tag: str | None = option(None, "the name of this version; v1, v2, ... if left out")
    message: str | None = option(None, "of the commit")
    license: str | None = option(None, "the Hub's id of it, as apache-2.0; where none is known, a push is private")
    with_pictures: bool = option(False, "also pictures of data that are not built in")
    native: bool = option(False, "also transformers' and timm's own layout, if there is one")
    allow: list[str] = option([], "ship these other files too", metavar="PATTERN")
    code: str = option("package", "whose code is shipped", choices=["package", "folder"])
    max_shard_size: str = option("5GB", "of a file of weights")


def main(options: Options) -> str | None:
    """The commit; None of a dry run."""
    with tempfile.TemporaryDirectory(prefix="push.") as place:
        return publish(options, HfApi(), Path(place))


def publish(options: Options, api: HfApi, work: Path) -> str | None:
    repo, folder = read_name(options.repo)[0], work / "repository"
    if options.tag is not None:
        check_tag(options.tag)
    folder.mkdir()
    if options.folder.is_dir() and get_token() is None and not options.dry_run:
        who(api)  # says how to log in
    names = ("code", "max_shard_size", "allow", "with_pictures")
    staged = stage(options.folder, folder, **{name: getattr(options, name) for name in names})
    if options.native:
        write_twins(folder, work)
    remote = see(api, repo, options.dry_run)
    if options.private and remote.exists and not remote.private:
        raise HubProblem(f"{repo} is there and public: make it private on its page, or leave --private out.")
    tag, own_card = tag_for(remote, options.tag), keeps_its_own_card(staged.checkpoint)
    license = staged.license(options.license)
    if license is None and not own_card:
        unknown = f"nothing says under which licence {staged.checkpoint} may be used"
        if remote.exists and not remote.private:
            raise HubProblem(f"{unknown}, and {repo} is public: add --license, as apache-2.0.")
        print(f"Private, since {unknown}: --license, as apache-2.0, says it.")
        options.private = True
    if own_card:
        (folder / "README.md").write_text((staged.checkpoint / "README.md").read_text(encoding="utf-8"))
    else:
        write_card(folder, shipped("model_card.md"), revision=tag, license=license, repo=repo)
        if remote.changes(staged.files) != ([], []) and tag in remote.tags:  # a version of its own
            tag = remote.free_tag(options.tag)
            write_card(folder, shipped("model_card.md"), revision=tag, license=license, repo=repo)

    unchanged = remote.changes(staged.files) == ([], []) and tag in remote.tags
    if unchanged and not options.dry_run:
        print(f"Unchanged: commit {remote.head} holds exactly these files, as {tag}.")
    else:
        print("\n".join(manifest(staged.files, remote)), *(f"left out: {line}" for line in staged.left_out), sep="\n")
        check_staged(folder, repo)
    if options.dry_run:
        print(f"\n{(folder / 'README.md').read_text(encoding='utf-8')}\nNothing was published. The tag would be {tag}.")
        return None
    made = Pushed(str(remote.head), tag, None)
    if not unchanged:
        print(f"As {who(api)} to {api.endpoint}")
        message = options.message or f"{tag}: {kind_of(folder)}"
        made = push(
            staged.files,
            repo,
            api=api,
            remote=remote,
            tag=tag,
            message=message,
            private=options.private,
            create_pr=options.create_pr,
        )
        if made.pull_request:
            print(f"The pull request: {made.url}\nOnce it is merged, make the tag {tag} that its card names.")
            return made.commit
        print(f"Published: {made.url}" if made.url else f"Commit {made.commit} held exactly these files already.")
        print(f'Load it with revision="{tag}" (commit {made.commit}).')
    if (work / "timm").is_dir():
        files = {path.name: path for path in (work / "timm").iterdir()}
        branch = start_branch(api, repo, "timm")
        twin = push(files, repo, api=api, remote=branch, tag=None, message=f"timm's layout of {tag}", branch="timm")
        print(f'timm.create_model("hf-hub:{repo}@timm", pretrained=True): commit {twin.commit} of the branch timm.')
    elif not unchanged and has_branch(api, repo, "timm"):
        print("The branch timm holds older weights: push again with --native, or delete it.")
    return made.commit


def write_twins(folder: Path, work: Path):
    """transformers' layout into a sub-folder, where its readers look with `subfolder=`; timm's for a branch, as its
    readers name nothing but a repository's top."""
    found = {}
    for library, target in {"transformers": folder / "transformers", "timm": work / "timm"}.items():
        try:
            name, notes, worst = write_twin(folder, target, library)
        except (ValueError, ImportError) as error:
            print(f"No twin in {library}: {error}")
            continue
        found[library] = name
        print(f"Twin in {library}: {name}, which differs by at most {worst:.1e} of a layer's largest value.")
        print("".join(f"  It cannot say: {note}.\n" for note in notes), end="")
    if not found:
        raise HubProblem("no other library has a model of this kind: leave --native out.")
