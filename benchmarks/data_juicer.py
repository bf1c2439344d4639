"""Scoring pairs: the engine beside Data-Juicer's own operator, each in its own environment, one core, interleaved.

    python -m venv /tmp/dj
    /tmp/dj/bin/pip install py-data-juicer==1.6.1 torch==2.13.0 transformers==5.23.0 ray==2.60.0 aiohttp
    OMP_NUM_THREADS=1 taskset -c 1 python -m benchmarks.data_juicer base --python /tmp/dj/bin/python

The same checkpoint directory, image files and texts. Its scores are compared with the engine's in float32
first. Its captioner is left out: its length is fixed at 128 tokens, and random weights never end a caption.
Times are processor time of the process that does the work, reading the files included.
"""

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from PIL import Image

from benchmarks.arms import Texts
from benchmarks.checkpoints import SIZES, make
from benchmarks.engine import pictures, seconds, sentences
from capfilt.models.engine.precision import fast_precision
from capfilt.models.open import Filter, open_filter
from capfilt.models.protocols import Inference

# Runs in Data-Juicer's environment: a line of JSON in (files and texts), a line out (scores and seconds).
OPERATOR = """
import json, sys, time
import torch
torch.set_num_threads(1)
from data_juicer.ops.filter.image_text_matching_filter import ImageTextMatchingFilter
from data_juicer.utils.constant import Fields, StatsKeys
from data_juicer.utils.mm_utils import SpecialTokens
operator = ImageTextMatchingFilter(hf_blip=sys.argv[1])
answer = sys.stdout
sys.stdout = sys.stderr
for line in sys.stdin:
    start, scores = time.process_time(), []
    for file, text in json.loads(line):
        sample = {"text": f"{SpecialTokens.image} {text}", "images": [file], Fields.stats: {}}
        found = operator.compute_stats_single(sample)[Fields.stats]
        scores += found[StatsKeys.image_text_matching_score]
    print(json.dumps([time.process_time() - start, scores]), file=answer, flush=True)
"""


def scored(filter: Filter, files: list[Path], texts: Texts) -> list[float]:
    """The engine's ITM probabilities, pair by pair."""
    matches = filter.match([Image.open(file).convert("RGB") for file in files], texts)
    return [match.itm for own in matches for match in own]


def asked(operator: "subprocess.Popen[str]", files: list[Path], texts: Texts) -> tuple[float, list[float]]:
    """Data-Juicer's processor seconds and scores, pair by pair."""
    assert operator.stdin is not None
    assert operator.stdout is not None
    pairs = [(str(file), text) for file, own in zip(files, texts, strict=True) for text in own]
    print(json.dumps(pairs), file=operator.stdin, flush=True)
    taken, scores = json.loads(operator.stdout.readline())
    return taken, scores


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("size", choices=SIZES)
    parser.add_argument("--python", required=True, help="that of Data-Juicer's environment")
    parser.add_argument("--folder", type=Path, default=Path("/tmp/capfilt-benchmark"))
    parser.add_argument("--images", type=int, default=6)
    parser.add_argument("--repeats", type=int, default=7)
    given = parser.parse_args()
    torch.set_num_threads(1)
    checkpoint = make(given.folder, given.size)["filter"]
    files = [given.folder / f"{given.size}-{number}.png" for number in range(given.images)]
    for file, picture in zip(files, pictures(given.images, SIZES[given.size][3]), strict=True):
        picture.save(file)
    precisions = dict.fromkeys(("fp32", fast_precision(gpu=False)))
    ours: dict[str, Filter] = {
        precision: open_filter(str(checkpoint), inference=Inference(precision)) for precision in precisions
    }
    command = [given.python, "-c", OPERATOR, str(checkpoint)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as operator:
        for each in (2, 4):
            texts = sentences(given.images, 0, each)
            _, theirs = asked(operator, files, texts)
            off = [abs(a - b) for a, b in zip(theirs, scored(ours["fp32"], files, texts), strict=True)]
            print(f"K={each} texts an image: scores differ by at most {max(off):.2g} in float32")
            if max(off) > 1e-4:
                sys.exit("the outputs differ")
            compare(given, ours, texts, files, lambda texts=texts: asked(operator, files, texts)[0])


def compare(
    given: argparse.Namespace,
    ours: dict[str, Filter],
    texts: Texts,
    files: list[Path],
    theirs: Callable[[], float],
) -> None:
    """Milliseconds an image, and how many times faster the engine is in each precision."""
    taken: dict[str, list[float]] = {name: [] for name in ("Data-Juicer", *ours)}
    for repeat in range(-1, given.repeats):
        own = {"Data-Juicer": theirs()}
        own |= {name: seconds(scored, filter, files, texts) for name, filter in ours.items()}
        if repeat >= 0:  # the first round warms up
            for name, value in own.items():
                taken[name].append(value * 1e3 / len(files))
    for name, values in taken.items():
        times = [their / our for their, our in zip(taken["Data-Juicer"], values, strict=True)]
        spread = f"{statistics.median(values):8.1f} ms an image ({min(values):.1f}-{max(values):.1f})"
        faster = f"{statistics.median(times):5.2f}x ({min(times):.2f}-{max(times):.2f})"
        print(f"  {name:12} {spread}   {faster}")


if __name__ == "__main__":
    main()
