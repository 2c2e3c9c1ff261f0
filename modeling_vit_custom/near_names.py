# Copyright 2026 The modeling_vit_custom authors.
#
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#
#     http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.
"""The known word that somebody meant who wrote another. The standard library alone: scripts read it before all else."""

from collections.abc import Iterable


def num_edits(word: str, other: str) -> int:
    """Letters put in, left out, replaced, or swapped with their neighbour, between two words."""
    rows = [list(range(len(other) + 1))]
    for i, letter in enumerate(word, 1):
        row = [i]
        for j, wanted in enumerate(other, 1):
            row.append(min(rows[-1][j] + 1, row[-1] + 1, rows[-1][j - 1] + (letter != wanted)))
            if i > 1 and j > 1 and letter == other[j - 2] and word[i - 2] == wanted:
                row[j] = min(row[j], rows[-2][j - 2] + 1)
        rows.append(row)
    return rows[-1][-1]


def near_miss(word: str, known: Iterable[str], most: int = 2) -> str | None:
    """The known word that `word` is a slip of: at most `most` edits away, and 1 for words of 4 letters or fewer."""
    reach = min(most, 2 if len(word) > 4 else 1)
    near = [(num_edits(word, name), name) for name in known if abs(len(name) - len(word)) <= reach]
    return min((row for row in near if row[0] <= reach), default=(0, None))[1]
