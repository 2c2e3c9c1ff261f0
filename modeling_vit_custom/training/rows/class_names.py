"""Where the names of a mask's classes stand: a list, a JSON map, a table of colours."""

import csv
import json
from dataclasses import dataclass
from dataclasses import field

from .scene import File

LISTS = ("classes.txt", "class_names.txt", "labels.txt", "labelmap.txt")
MAPS = ("label_map.json", "labelmap.json", "classes.json", "id2label.json", "class_names.json")
TABLES = ("class_dict.csv", "class_dict_seg.csv", "label_colors.csv", "classes.csv")
Colour = tuple[int, int, int]


@dataclass
class Named:
    """Names in the order of their numbers; colours if a file gives each class one."""

    names: list[str] = field(default_factory=list)
    colours: dict[Colour, int] = field(default_factory=dict)
    source: str = ""


def read_names(files: list[File], told: list[str] | None) -> Named:
    """`class_names` of the recipe first, then the file that lies nearest to the top.

    Raises:
        ValueError: a file of such a name that holds no names.
    """
    found = Named()
    for one in sorted(files, key=lambda one: (len(one.parts), one.parts)):
        name = one.path.name.lower()
        if name in (*LISTS, *MAPS, *TABLES):
            try:
                found = of_file(one, name)
            except (ValueError, KeyError, TypeError, AttributeError, StopIteration) as error:
                raise ValueError(f"{one.path} names no classes ({error}): write one a line, or remove it.") from error
            break
    if told:
        found = Named([str(name) for name in told], found.colours, "`class_names`")
    return found


def of_file(one: File, name: str) -> Named:
    text = one.path.read_text(encoding="utf-8-sig")
    if name in LISTS:
        return Named([line.strip() for line in text.splitlines() if line.strip()], source=one.path.name)
    if name in MAPS:
        return of_map(json.loads(text), one.path.name)
    rows = [[cell.strip() for cell in row] for row in csv.reader(text.splitlines()) if row]
    rows = rows if rows[0][1].isdigit() else rows[1:]
    colours = {(int(row[1]), int(row[2]), int(row[3])): number for number, row in enumerate(rows)}
    if len(colours) < len(rows):
        raise ValueError("two classes have one colour")
    return Named([row[0] for row in rows], colours, one.path.name)


def of_map(content: list | dict, source: str) -> Named:
    """A list; a number -> name; a name -> number; a name -> its colour."""
    if isinstance(content, list):
        return Named([str(name) for name in content], source=source)
    if all(isinstance(value, list) and len(value) == 3 for value in content.values()):
        colours: dict[Colour, int] = {tuple(map(int, value)): n for n, value in enumerate(content.values())}  # type: ignore[misc]
        return Named(list(content), colours, source)
    pairs = [(int(k), v) if isinstance(v, str) else (int(v), k) for k, v in content.items()]
    pairs = [pair for pair in pairs if pair[0] != 255]
    if sorted(number for number, _ in pairs) != list(range(len(pairs))):
        raise ValueError("its numbers have gaps")
    return Named([name for _, name in sorted(pairs)], source=source)
