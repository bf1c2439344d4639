"""What fused placement gains: caption and score of the same shards, decoding each image twice or once.

    OMP_NUM_THREADS=1 python -m benchmarks.fuse [--size 1024x768] [--pictures 64] [--repeats 5]

One process, one thread, the same tiny random BLIP checkpoints, interleaved; the rows of both arms are compared first.
"""

import argparse
import io
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from capfilt.data_contracts.identity import image_id, row_id
from capfilt.data_contracts.records import Caption, IngestedImage
from capfilt.models.images.decode import DecodedImages
from capfilt.models.protocols import Decoding
from capfilt.pipeline.execution.attempt import Decode, decode_again
from capfilt.stages.clean.caption import WriteCaptions
from capfilt.stages.clean.caption_guard import CaptionGuard
from capfilt.stages.clean.score import ScorePairs
from capfilt.stages.in_memory import MemoryInput
from capfilt.stages.stage import BroughtModel, Site
from tests.blip_checkpoint import make_blip

OFF = CaptionGuard(min_words=0, repeats=0, prompt_echo=False)


def pictures(count: int, size: tuple[int, int]) -> list[IngestedImage]:
    """JPEGs of noise on a gradient: about as large, in bytes a pixel, as photographs."""
    draw = np.random.default_rng(0)
    rows = []
    for number in range(count):
        coarse = draw.integers(0, 255, (size[1] // 16, size[0] // 16, 3), dtype=np.uint8)
        file = io.BytesIO()
        Image.fromarray(coarse).resize(size).save(file, "JPEG", quality=90)
        data = file.getvalue()
        rows.append(
            IngestedImage(
                row_id=row_id("web", str(number)),
                image_id=image_id(data),
                source_name="web",
                url=str(number),
                texts=[f"image {number}"],
                image=data,
                format="JPEG",
                width=size[0],
                height=size[1],
            )
        )
    return rows


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--size", default="1024x768")
    arguments.add_argument("--pictures", type=int, default=64)
    arguments.add_argument("--repeats", type=int, default=5)
    given = arguments.parse_args()
    width, height = map(int, given.size.split("x"))
    rows = pictures(given.pictures, (width, height))
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        captioner = BroughtModel("c", str(make_blip(place / "captioner", "captioner")))
        filter = BroughtModel("f", str(make_blip(place / "filter", "filter")))
        caption, score = WriteCaptions(captioner, Decoding(), OFF), ScorePairs(filter)
        asked: list[Decode] = [decode_again]
        site = Site(
            device="cpu",
            threads=1,
            batch=16,
            models={captioner: captioner.where, filter: filter.where},
            scratch=place,
            lasting=lambda: place,
            keep=lambda: None,
            progress=lambda done, total, text: None,
            decode=lambda image, data: asked[-1](image, data),
        )
        write, judge = caption.open(site), score.open(site)

        def work(decode: Decode) -> tuple[float, list[object]]:
            asked.append(decode)
            began = time.perf_counter()
            made = [rows.kept for rows in write(MemoryInput.of(*rows))]
            captions = [Caption(**row) for table in made for row in table.to_pylist()]
            judged = [
                row for found in judge(MemoryInput.of(*rows, *captions)) for row in found.kept.to_pylist()
            ]
            return time.perf_counter() - began, judged

        arms: dict[str, Callable[[], Decode]] = {"apart": lambda: decode_again, "fused": DecodedImages}
        assert work(decode_again)[1] == work(DecodedImages())[1], "the arms give other rows"
        seconds: dict[str, list[float]] = {name: [] for name in arms}
        for _ in range(given.repeats):
            for name, decode in arms.items():
                seconds[name].append(work(decode())[0])
    for name, measured in seconds.items():
        each = [1000 * second / given.pictures for second in sorted(measured)]
        print(f"{name}  {statistics.median(each):6.2f} ms an image ({each[0]:.2f} to {each[-1]:.2f})")
    ratio = statistics.median(seconds["apart"]) / statistics.median(seconds["fused"])
    print(
        f"{given.size}, {given.pictures} images, {given.repeats} repeats: fused is {ratio:.2f} times as fast"
    )


if __name__ == "__main__":
    main()
