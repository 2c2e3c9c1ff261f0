"""The folder of a run: in place when it is complete, and never over somebody else's work."""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

MARKER = "run.json"


@contextmanager
def run_folder(folder: str | Path, run: str) -> Iterator[Path]:
    """Yield a folder to fill; when the block ends well it becomes `folder`, in place of an earlier result of this run.

    Until then an earlier result stays as it was, and a block that fails leaves nothing behind.

    Raises:
        FileExistsError: `folder` holds something else than a result of `run`.
    """
    folder = Path(folder)
    refuse_strangers(folder, run)
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        yield partial
        (partial / MARKER).write_text(json.dumps({"run": run}) + "\n")
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    refuse_strangers(folder, run)
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)


def refuse_strangers(folder: Path, run: str):
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    marker = folder / MARKER
    owner = json.loads(marker.read_text())["run"] if marker.is_file() else None
    if owner != run:
        holds = f"a result of the run `{owner}`" if owner else f"something that is no result of ours (no {MARKER})"
        raise FileExistsError(f"{folder} holds {holds}: move it away, or set another `output_dir` in the recipe.")
