"""The folder of a run: in place when it is complete, and never over somebody else's work."""

import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

MARKER = "run.json"


@contextmanager
def run_folder(folder: str | Path, run: str) -> Iterator[Path]:
    """Yield a new folder to fill; when the block ends well it becomes `folder`, in place of an earlier result of `run`.

    Until then an earlier result stays as it was. A block that fails leaves what it had written, and says where.

    Raises:
        FileExistsError: `folder` holds something else than a result of `run`.
    """
    folder = Path(folder)
    refuse_strangers(folder, run)
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f"{folder.name}.", suffix=".partial", dir=folder.parent))
    try:
        yield partial
        (partial / MARKER).write_text(json.dumps({"run": run}) + "\n")
        refuse_strangers(folder, run)
    except BaseException:
        if any(path.is_file() for path in partial.rglob("*")):
            print(f"The run did not finish; what it had written is in {partial}.")
        else:
            shutil.rmtree(partial)
        raise
    partial.chmod(0o755)
    earlier = partial.with_suffix(".earlier")
    if folder.exists():
        folder.rename(earlier)
    partial.rename(folder)
    shutil.rmtree(earlier, ignore_errors=True)


def refuse_strangers(folder: Path, run: str):
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    owner = read_owner(folder / MARKER)
    if owner != run:
        holds = f"a result of the run `{owner}`" if owner else f"something that is no result of ours (no good {MARKER})"
        raise FileExistsError(f"{folder} holds {holds}: move it away, or set another `output_dir` in the recipe.")


def read_owner(marker: Path) -> str | None:
    try:
        return json.loads(marker.read_text())["run"]
    except (OSError, ValueError, TypeError, KeyError):
        return None
