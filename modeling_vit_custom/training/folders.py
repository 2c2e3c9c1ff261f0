"""What lies in a folder, or fits a pattern. Each file is found, or named with the reason why it is left out; hidden
files, and those that file managers leave, need no word."""

import os
import stat
from collections.abc import Callable
from collections.abc import Iterable
from dataclasses import dataclass
from dataclasses import field
from fnmatch import fnmatchcase
from pathlib import Path

JUNK = ("thumbs.db", "ehthumbs.db", "desktop.ini", "__macosx", "@eadir")  # of file managers; hidden files are too
Parts = tuple[str, ...]


@dataclass
class Listing:
    """Files by their paths and by the parts of their names below the root, sorted; folders by their parts."""

    root: Path
    files: list[tuple[Path, Parts]] = field(default_factory=list)
    folders: list[Parts] = field(default_factory=list)
    left_out: dict[str, list[Parts]] = field(default_factory=dict)  # what is said of them -> which

    def leave_out(self, what: str, parts: Parts):
        self.left_out.setdefault(what, []).append(parts)

    def words(self) -> str:
        """What is left out, with counts and examples, in one line."""
        return "; ".join(f"{what}: {len(which)} ({examples(which)})" for what, which in self.left_out.items())


def examples(which: list[Parts]) -> str:
    names = ["/".join(parts).encode("utf-8", "backslashreplace").decode() for parts in which[:3]]
    return ", ".join(names) + (", ..." if len(which) > 3 else "")


def list_files(text: str | Path) -> Listing:
    """A folder, a file, or a pattern with `*`, `?`, `[...]` and `**`. As much of it as exists literally is no pattern.

    Raises:
        FileNotFoundError: nothing is called so.
        PermissionError: a folder cannot be opened.
    """
    path = Path(os.path.abspath(Path(text).expanduser()))
    if path.is_file():
        return Listing(path.parent, [(path, (path.name,))])
    base = path
    while not base.is_dir():
        base = base.parent
    pattern = path.parts[len(base.parts) :]
    found = walk(base, lambda parts: begins(parts, pattern)) if pattern else walk(base)
    if pattern:
        found.files = [(file, parts) for file, parts in found.files if matches(parts, pattern)]
        found.folders = []
        fits = {what: [one for one in which if matches(one, pattern)] for what, which in found.left_out.items()}
        found.left_out = {what: which for what, which in fits.items() if which}
        if not found.files:
            more = f" and can be read ({found.words()})" if found.left_out else ""
            raise FileNotFoundError(f"No file is called {text}{more}: check the path.")
    return found


def walk(root: Path, enters: Callable[[Parts], bool] = lambda parts: True) -> Listing:
    """All files below a folder, through links too; a folder that holds itself by a link is entered once."""
    found = Listing(root)

    def visit(folder: Path, parts: Parts, above: tuple[tuple[int, int], ...]):
        try:
            names = sorted(os.listdir(folder))
        except PermissionError as error:
            raise PermissionError(f"The folder {folder} cannot be opened: permit it, or move it away.") from error
        for name in names:
            inside, path = (*parts, name), folder / name
            if name.startswith(".") or name.lower() in JUNK:
                continue
            try:
                name.encode()
                about = path.stat()
            except UnicodeEncodeError:
                found.leave_out("whose names are no UTF-8", inside)
                continue
            except PermissionError as error:
                raise PermissionError(f"The folder {folder} cannot be entered: permit it, or move it away.") from error
            except OSError:
                found.leave_out("broken links", inside)
                continue
            if stat.S_ISREG(about.st_mode):
                found.files.append((path, inside))
            elif not stat.S_ISDIR(about.st_mode):
                found.leave_out("that are no files", inside)
            elif (place := (about.st_dev, about.st_ino)) in above:
                found.leave_out("links to a folder that they lie in", inside)
            elif enters(inside):
                found.folders.append(inside)
                visit(path, inside, (*above, place))

    about = root.stat()
    visit(root, (), ((about.st_dev, about.st_ino),))
    return found


def matches(parts: Parts, pattern: Parts) -> bool:
    if not pattern or not parts:
        return not parts and all(part == "**" for part in pattern)
    if pattern[0] == "**":
        return matches(parts, pattern[1:]) or matches(parts[1:], pattern)
    return fits(parts[0], pattern[0]) and matches(parts[1:], pattern[1:])


def begins(parts: Parts, pattern: Parts) -> bool:
    """Whether a folder may hold what matches."""
    if not parts or not pattern:
        return bool(pattern)
    return pattern[0] == "**" or (fits(parts[0], pattern[0]) and begins(parts[1:], pattern[1:]))


def fits(part: str, pattern: str) -> bool:
    return part == pattern or fnmatchcase(part, pattern)


def tell(dataset: str, found: list[Listing], said: Iterable[str] = ()):
    for sentence in said:
        print(f"`dataset: {dataset}`: {sentence}.")
    if left_out := "; ".join(one.words() for one in found if one.left_out):
        print(f"`dataset: {dataset}`: left out {left_out}.")
