"""Publish a model with the code that loads it: one commit and a tag, or nothing.

    python scripts/push.py runs/quickstart alice/digits --dry-run
    python scripts/push.py runs/quickstart alice/digits --private --tag v1

FOLDER is what save_pretrained, scripts/convert.py or a Trainer wrote, or a run's folder with checkpoint/ in it. Its
files are staged, checked (scripts/check.py), loaded in a clean process, and only then sent. The token comes from
`hf auth login` or HF_TOKEN. docs/hub.md has what is staged and what is refused.
"""

import argparse
import sys
import tempfile
from pathlib import Path

sys.path.append(str(Path(__file__).parent))
from _start import as_script


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("repo", metavar="owner/name")
    parser.add_argument("--dry-run", action="store_true", help="show files, sizes, hashes and card; publish nothing")
    parser.add_argument("--private", action="store_true", help="make the repository private, if it is made now")
    parser.add_argument("--create-pr", action="store_true", help="as a pull request")
    parser.add_argument("--tag", help="the name of this version; v1, v2, ... if left out")
    parser.add_argument("--message", help="of the commit")
    parser.add_argument("--license", help="the Hub's id of it, as apache-2.0; where none is known, a push is private")
    parser.add_argument("--with-pictures", action="store_true", help="also pictures of data that are not built in")
    parser.add_argument(
        "--native", action="store_true", help="also transformers' and timm's own layout, if there is one"
    )
    parser.add_argument("--allow", action="append", default=[], metavar="PATTERN", help="ship these other files too")
    parser.add_argument("--code", choices=("package", "folder"), default="package", help="whose code is shipped")
    parser.add_argument("--max-shard-size", default="5GB")
    return parser.parse_args(argv)


if __name__ == "__main__":
    as_script(parse)

from huggingface_hub import HfApi
from huggingface_hub import get_token

from modeling_vit_custom.conversion import write_twin
from modeling_vit_custom.hub import HubProblem
from modeling_vit_custom.hub import Pushed
from modeling_vit_custom.hub import check_staged
from modeling_vit_custom.hub import check_tag
from modeling_vit_custom.hub import has_branch
from modeling_vit_custom.hub import keeps_its_own_card
from modeling_vit_custom.hub import kind_of
from modeling_vit_custom.hub import manifest
from modeling_vit_custom.hub import push
from modeling_vit_custom.hub import read_name
from modeling_vit_custom.hub import see
from modeling_vit_custom.hub import stage
from modeling_vit_custom.hub import start_branch
from modeling_vit_custom.hub import tag_for
from modeling_vit_custom.hub import who
from modeling_vit_custom.hub import write_card

CARD = Path(__file__).parent.parent / "model_card.md"


def main(argv: list[str] | None = None) -> str | None:
    """The commit; None of a dry run."""
    with tempfile.TemporaryDirectory(prefix="push.") as place:
        return publish(parse(argv), HfApi(), Path(place))


def publish(arguments: argparse.Namespace, api: HfApi, work: Path) -> str | None:
    repo, folder = read_name(arguments.repo)[0], work / "repository"
    if arguments.tag is not None:
        check_tag(arguments.tag)
    folder.mkdir()
    if arguments.folder.is_dir() and get_token() is None and not arguments.dry_run:
        who(api)  # says how to log in
    names = ("code", "max_shard_size", "allow", "with_pictures")
    staged = stage(arguments.folder, folder, **{name: getattr(arguments, name) for name in names})
    if arguments.native:
        write_twins(folder, work)
    remote = see(api, repo, arguments.dry_run)
    if arguments.private and remote.exists and not remote.private:
        raise HubProblem(f"{repo} is there and public: make it private on its page, or leave --private out.")
    tag, own_card = tag_for(remote, arguments.tag), keeps_its_own_card(staged.checkpoint)
    license = staged.license(arguments.license)
    if license is None and not own_card:
        unknown = f"nothing says under which licence {staged.checkpoint} may be used"
        if remote.exists and not remote.private:
            raise HubProblem(f"{unknown}, and {repo} is public: add --license, as apache-2.0.")
        print(f"Private, since {unknown}: --license, as apache-2.0, says it.")
        arguments.private = True
    if own_card:
        (folder / "README.md").write_text((staged.checkpoint / "README.md").read_text(encoding="utf-8"))
    else:
        write_card(folder, CARD, revision=tag, license=license, repo=repo)
        if remote.changes(staged.files) != ([], []) and tag in remote.tags:  # a version of its own
            tag = remote.free_tag(arguments.tag)
            write_card(folder, CARD, revision=tag, license=license, repo=repo)

    unchanged = remote.changes(staged.files) == ([], []) and tag in remote.tags
    if unchanged and not arguments.dry_run:
        print(f"Unchanged: commit {remote.head} holds exactly these files, as {tag}.")
    else:
        print("\n".join(manifest(staged.files, remote)), *(f"left out: {line}" for line in staged.left_out), sep="\n")
        check_staged(folder, repo)
    if arguments.dry_run:
        print(f"\n{(folder / 'README.md').read_text(encoding='utf-8')}\nNothing was published. The tag would be {tag}.")
        return None
    made = Pushed(str(remote.head), tag, None)
    if not unchanged:
        print(f"As {who(api)} to {api.endpoint}")
        sending = dict(api=api, remote=remote, private=arguments.private, create_pr=arguments.create_pr)
        made = push(staged.files, repo, tag=tag, message=arguments.message or f"{tag}: {kind_of(folder)}", **sending)
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


if __name__ == "__main__":
    main()
