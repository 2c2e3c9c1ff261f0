"""A stream of rows for training, whose order and pixels a seed decides, so that a run can go on where it stopped.

Trainer has no epochs of a stream whose length nobody knows: it takes all `max_steps` for one, and a resumed run skips
the batches of that one. So a stream for training has no end: it gives pass after pass and counts them itself.

C channels, H W pixels.
"""

import json
from collections import deque
from collections.abc import Callable
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import IterableDataset as TorchIterableDataset
from torch.utils.data import get_worker_info
from transformers import TrainerCallback
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from .augmentation import seed_of
from .augmentation import seeded
from .images import SKIP
from .images import CorruptImage
from .images import decode_rgb

POSITION = "stream_position.json"
MAX_PARTS = 64  # a folder has a shard for each file, and to take one of n apart costs n
KEPT = 1024  # places: what is prefetched between a step and its checkpoint, and much more


class NumberedStream(TorchIterableDataset):
    """Rows `{"index", "copy": 0, **row, "epoch"}` whose `image` is the transformed picture, drawn by (seed, epoch,
    index).

    The parts of the stream (its shards, at most 64 groups of them) come in another order each epoch, and their rows
    through a buffer; both are drawn by (seed, epoch). `index` is the row's place in the unshuffled stream if it is of
    one part, else place in its part * parts + part: always the same number for a row, and no other's.

    Workers of a DataLoader take turns, `block` rows each. Every worker reads the whole stream and decodes its own rows
    only: a stream of one shard feeds any number of them, each row comes once in an epoch, and if `block` is the batch
    (of all processes together) the batches are those of a single process, bit for bit. Processes are cut by accelerate
    (`dispatch_batches: false`), which decodes each row on each of them.

    Args:
        stream: of `datasets`, with undecoded images, as `load_source` gives.
        transform: RGB picture -> (C, H, W), or whatever the collator takes; None: the picture itself.
        shuffle_buffer: how many rows one is drawn from; 0: as they lie, and parts in order.
        endless: for training. Otherwise it ends after one pass.
        corrupt: "fail", or "skip": left out, counted, and told at the end of each pass.
        block: see above.

    Raises:
        CorruptImage: of "fail" the first, of "skip" if a pass has no other.
        ValueError: a pass without rows.
    """

    def __init__(
        self,
        stream: Any,
        transform: Callable | None = None,
        seed: int = 0,
        shuffle_buffer: int = 0,
        *,
        endless: bool = True,
        corrupt: str = "fail",
        block: int = 1,
    ):
        if corrupt not in ("fail", "skip") or shuffle_buffer < 0 or block < 1:
            raise ValueError(
                f"A stream was given corrupt={corrupt!r}, shuffle_buffer={shuffle_buffer}, block={block}: choose fail "
                "or skip, 0 or more, 1 or more."
            )
        self.stream, self.transform, self.seed, self.shuffle_buffer = stream, transform, seed, shuffle_buffer
        self.endless, self.corrupt, self.block = endless, corrupt, block
        self.epoch = torch.zeros((), dtype=torch.int64).share_memory_()  # the first pass's; workers see it too
        self.start: dict[str, Any] | None = None
        self.places: deque[dict[str, Any]] = deque(maxlen=KEPT)

    def set_epoch(self, epoch: int):
        self.epoch.fill_(epoch)

    # Places

    def position(self, num_rows: int) -> dict[str, Any]:
        """Where the stream was when it had given the first `num_rows` rows, or up to a block less: accelerate fetches
        ahead of what was trained on. Plain values, for JSON.

        Raises:
            RuntimeError: unknown, because workers have read the rows, or because it is too long ago.
        """
        for place in reversed(self.places):
            if place["rows"] <= num_rows:
                return place
        raise RuntimeError(
            f"The stream's place after {num_rows} rows is not known here: set `dataloader_num_workers: 0` for a fast "
            "seek, or resume without it, by reading again."
        )

    def seek(self, position: dict[str, Any]):
        """Let the next iteration begin there.

        Raises:
            ValueError: another stream's place.
        """
        own = self.identity()
        if position["stream"] != own:
            raise ValueError(
                f"The checkpoint's place is of a stream with {position['stream']}, but this one has {own}: use the "
                "same recipe, or resume without fast seek."
            )
        self.start = position
        print(f"The stream goes on after {position['rows']} rows, in its pass {position['epoch']}.")
        if self.shuffle_buffer:
            print(
                f"Its shuffle buffer is filled anew, so the order differs from that of a run without a stop, and up to "
                f"{self.shuffle_buffer} rows of this pass, which were in the buffer, are left out of it."
            )

    def identity(self) -> dict[str, int]:
        return dict(seed=self.seed, shuffle_buffer=self.shuffle_buffer, parts=self.num_parts)

    @property
    def num_parts(self) -> int:
        return max(min(self.stream.num_shards, MAX_PARTS), 1)

    # Rows

    def order(self, epoch: int) -> list[int]:
        """Of the parts."""
        if not self.shuffle_buffer:
            return list(range(self.num_parts))
        return np.random.default_rng([self.seed, epoch]).permutation(self.num_parts).tolist()

    def read(self, epoch: int, start: dict[str, Any] | None) -> Iterator[tuple[int, dict[str, Any], dict[str, int]]]:
        """A pass: index, undecoded row, and the place after it."""
        order, num_parts = self.order(epoch), self.num_parts
        for turn in range(start["turn"] if start else 0, num_parts):
            part, done = order[turn], start["row"] if start else 0
            start = None
            rows = self.stream.shard(num_shards=num_parts, index=part)
            # Plain iteration would give each worker of a DataLoader some of the shards.
            for number, batch in enumerate(rows.iter(batch_size=1)):
                # Read past, undecoded: in datasets 4.4 its own `load_state_dict` loses rows of Parquet after a filter.
                if number >= done:
                    row = {name: values[0] for name, values in batch.items()}
                    yield number * num_parts + part, row, dict(epoch=epoch, turn=turn, row=number + 1)

    def shuffled(
        self, epoch: int, start: dict[str, Any] | None
    ) -> Iterator[tuple[int, dict[str, Any], dict[str, int]]]:
        """A row that comes takes the place of one drawn from the buffer; what is left at the end comes in any order."""
        if not self.shuffle_buffer:
            yield from self.read(epoch, start)
            return
        generator = np.random.default_rng([self.seed, epoch, 1])
        buffer: list[Any] = []
        place: dict[str, int] = {}
        for index, row, place in self.read(epoch, start):
            if len(buffer) < self.shuffle_buffer:
                buffer.append((index, row))
                continue
            chosen = int(generator.integers(self.shuffle_buffer))
            old, buffer[chosen] = buffer[chosen], (index, row)
            yield *old, place
        for chosen in generator.permutation(len(buffer)):
            yield *buffer[chosen], place

    def __iter__(self) -> Iterator[dict[str, Any]]:
        worker = get_worker_info()
        mine, workers = (worker.id, worker.num_workers) if worker else (0, 1)
        start, self.start = self.start, None
        epoch, given = (start["epoch"], start["rows"]) if start else (int(self.epoch), 0)
        self.places.clear()
        good = bad = 0
        while True:
            read, broken = 0, []
            for index, row, place in self.shuffled(epoch, start):
                if (given // self.block) % workers == mine:
                    try:
                        made = self.make(row, index, epoch)
                        good += 1
                    except CorruptImage as error:
                        if self.corrupt == "fail":
                            raise CorruptImage(f"{error} {SKIP}") from error
                        broken.append(str(error))
                        made = None
                else:
                    made = None
                read, given = read + 1, given + 1
                if workers == 1 and given % self.block == 0:
                    self.places.append({"rows": given, "stream": self.identity(), **place})
                if made is not None:
                    yield made
            if broken:
                print(f"Pass {epoch} of the stream left out {len(broken)} corrupt images: {' '.join(broken[:3])}")
            if not read and not start:
                raise ValueError("The stream has no rows: check its files, or `test_share`.")
            bad += len(broken)
            if broken and not good and not start and bad >= read:  # a worker has tried as many as there are
                raise CorruptImage(f"Every image of the stream is corrupt, {broken[0]} among them: check the files.")
            if not self.endless:
                return
            start, epoch = None, epoch + 1

    def make(self, row: dict[str, Any], index: int, epoch: int) -> dict[str, Any]:
        image = decode_rgb(row["image"], f"row {index} of the stream")
        if self.transform is not None:
            with seeded(seed_of(self.seed, epoch, index, 0)):
                image = self.transform(image)
        return {**row, "index": index, "copy": 0, "image": image, "epoch": epoch}


class SavesPosition(TrainerCallback):
    """For a fast seek: beside each checkpoint, where the stream was when its step was done."""

    def __init__(self, stream: NumberedStream):
        self.stream = stream

    def on_save(self, args, state, control, **kwargs):
        if state.is_world_process_zero:
            rows = state.global_step * args.train_batch_size * args.gradient_accumulation_steps * args.world_size
            folder = Path(args.output_dir, f"{PREFIX_CHECKPOINT_DIR}-{state.global_step}")
            (folder / POSITION).write_text(json.dumps(self.stream.position(rows)), encoding="utf-8")


def seek_to(stream: NumberedStream, checkpoint: str | Path):
    """Begin where a checkpoint's stream was; train then with `ignore_data_skip`, or Trainer would skip rows again.

    With `ignore_data_skip` Trainer draws a number after it has set the generators as they were, so that dropout draws
    others than in a run without a stop; rows and their pixels are the same.

    Raises:
        FileNotFoundError: the checkpoint was saved without.
        ValueError: it is another stream's.
    """
    path = Path(checkpoint, POSITION)
    if not path.is_file():
        raise FileNotFoundError(f"{checkpoint} holds no {POSITION}: set `fast_seek: false`, which reads again.")
    stream.seek(json.loads(path.read_text(encoding="utf-8")))
