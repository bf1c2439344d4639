"""Captioning and scoring per image: the engine beside transformers, on one core, interleaved.

    OMP_NUM_THREADS=1 taskset -c 1 python -m benchmarks.engine base      # about 30 minutes
    OMP_NUM_THREADS=1 taskset -c 1 python -m benchmarks.engine tiny      # about 5

Random checkpoints of BLIP's layout are made once. First the outputs are compared, then every repeat runs each
arm once after the other, so that other work on the machine hurts all alike. Times are processor time of the one
thread: what it waits for a shared core does not count. Figures are medians with the lowest and the highest.
Random weights never end a caption: every one has 20 tokens.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from benchmarks.arms import DECODING, Arm, Batched, Engine, OnePair, Shared, Texts
from benchmarks.checkpoints import SIZES, WORDS, make
from capfilt.models.engine.precision import fast_precision
from capfilt.models.protocols import Decoding

WORKLOADS = ((1, 2), (3, 4))  # captions an image, texts an image
TARGETS = {
    "base": {"a": (3.9, 9.0), "b": (1.8, 3.2), "b+": (1.25, 1.6)},
    "tiny": {"a": (15.0, 25.0), "b+": (4.0, 6.0)},
}
TOKENS = 4 + DECODING.max_tokens  # [DEC] a picture of, and the caption


def pictures(count: int, pixels: int) -> list[Image.Image]:
    """Smooth random images, each its own."""
    rng = np.random.default_rng(0)
    small = rng.integers(0, 256, (count, 6, 6, 3), dtype=np.uint8)
    return [Image.fromarray(one).resize((pixels, pixels), Image.Resampling.BICUBIC) for one in small]


def sentences(images: int, captions: int, each: int) -> Texts:
    """The texts to score, a word one token: as many words as captions here have, and web texts of 6 to 18."""
    rng = np.random.default_rng(1)
    lengths = [DECODING.max_tokens if place < captions else 0 for place in range(each)]
    return [
        [" ".join(rng.choice(WORDS, length or int(rng.integers(6, 19)))) for length in lengths]
        for _ in range(images)
    ]


def gflop(size: str, captions: int, texts: Texts) -> float:
    """The matrix products that the engine does for one image, in GFLOP: both ViTs, the decoder, texts with the
    image."""
    width, layers, heads, pixels = SIZES[size]
    positions, patch = (pixels // 16) ** 2 + 1, 3 * 16 * 16
    vit = layers * (12 * width**2 + 2 * positions * width) * positions + patch * width * (positions - 1)
    # of a text token in a layer, with its cross-attention to image states, or to keys and values
    looking = 16 * width**2 + 2 * heads * positions * width
    keyed = 14 * width**2 + 2 * positions * width
    head = width * 30_524 + width**2
    decoder = (
        captions * (DECODING.max_tokens - 1) + 4
    ) * layers * looking + captions * DECODING.max_tokens * head
    tokens = sum(len(text.split()) + 2 for own in texts for text in own) / len(texts)
    few = tokens <= 0.75 * width / heads
    judged = tokens * looking if few else tokens * keyed + 2 * width**2 * positions
    return 2 * (2 * vit + decoder + layers * judged) / 1e9


def compare(
    arm_of: dict[str, Arm], made: dict[str, Path], images: list[Image.Image], texts: Texts
) -> dict[str, object]:
    """ITM of the engine in each precision against transformers in float32; greedy tokens in float32."""
    images, texts = images[:4], texts[:4]
    exact = np.array(arm_of["a"].score(images, texts))
    drift = {}
    for precision in ("fp32", "bf16", "int8"):
        engine = Engine(made, precision, 16)
        ours = np.array(engine.score(images, texts))
        off = np.abs(ours - exact)
        flipped = int(((ours >= 0.5) != (exact >= 0.5)).sum())
        drift[precision] = {
            "max": float(off.max()),
            "mean": float(off.mean()),
            "flipped_at_0.5": flipped,
            "of": exact.size,
        }
        if precision == "fp32":
            greedy = Decoding("greedy", max_tokens=DECODING.max_tokens)
            written = engine.captioner.caption(images, [""] * len(images), greedy)
            reference = arm_of["a"]
            out = [
                reference.captioner.generate(
                    reference.prepared([image]),
                    reference.prompt(1),
                    do_sample=False,
                    min_new_tokens=5,
                    max_new_tokens=20,
                )[0, 4:]
                for image in images
            ]
            expected = [reference.tokenizer.decode(row, skip_special_tokens=True) for row in out]
            same = [own[0].text == text for own, text in zip(written, expected, strict=True)]
    theirs = np.abs(np.array(arm_of["b"].score(images, texts)) - exact)
    drift["transformers bf16"] = {"max": float(theirs.max()), "mean": float(theirs.mean())}
    if not all(same) or drift["fp32"]["max"] > 1e-4:
        sys.exit(f"the outputs differ: greedy captions equal {same}, ITM {drift['fp32']}")
    return {"greedy_captions_equal": f"{sum(same)} of {len(same)}", "itm_drift": drift}


def seconds(work: Callable[..., object], *given: object) -> float:
    """Processor time."""
    start = time.process_time()
    work(*given)
    return time.process_time() - start


def gemm(dtype: torch.dtype) -> float:
    """GFLOP/s of a 2048-cube."""
    one = torch.ones(2048, 2048, dtype=dtype)
    with torch.inference_mode():
        return 2 * 2048**3 / seconds(torch.matmul, one, one) / 1e9


def measure(
    arms: dict[str, Arm], images: list[Image.Image], texts: Texts, captions: int, repeats: int
) -> dict[str, dict[str, list[float]]]:
    """Milliseconds an image of each arm and part, one entry a repeat; and the rate of a plain product."""
    taken: dict[str, dict[str, list[float]]] = {name: {} for name in arms}
    taken["gemm"] = {"gflops": []}
    for repeat in range(-1, repeats):
        for name, arm in arms.items():
            own = slice(None)
            if name == "a":  # one by one, so the time of one image is that of any
                own = slice(max(repeat, 0) % len(images), max(repeat, 0) % len(images) + 1)
            shown, read = images[own], texts[own]
            parts = {
                "caption": seconds(arm.caption, shown, captions) * 1e3 / len(shown),
                "score": seconds(arm.score, shown, read) * 1e3 / len(shown),
            }
            parts["whole"] = sum(parts.values())
            if repeat >= 0:  # the first round warms up
                for part, value in parts.items():
                    taken[name].setdefault(part, []).append(value)
        if repeat >= 0:
            taken["gemm"]["gflops"].append(gemm(torch.bfloat16))
            print(f"  repeat {repeat + 1}: load {os.getloadavg()[0]:.1f}", file=sys.stderr, flush=True)
    return taken


def memory(folder: Path, size: str, batch: int) -> dict[str, float]:
    """Megabytes in a fresh process: after opening both models, and the peak of a workload of ``batch`` images."""
    code = [
        sys.executable,
        "-m",
        "benchmarks.engine",
        size,
        "--folder",
        str(folder),
        "--images",
        str(batch),
        "--memory",
    ]
    report: dict[str, float] = json.loads(subprocess.run(code, check=True, capture_output=True).stdout)
    return report


def peak(made: dict[str, Path], size: str, images: int, batch: int) -> dict[str, float]:
    engine = Engine(made, fast_precision(gpu=False), batch)
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    opened = pages * resource.getpagesize() / 1e6
    Path("/proc/self/clear_refs").write_text("5")  # restart the high-water mark
    shown = pictures(images, SIZES[size][3])
    engine.caption(shown, 3)
    engine.score(shown, sentences(images, 3, 4))
    status = Path("/proc/self/status").read_text()
    high = int(status.split("VmHWM:")[1].split()[0]) / 1e3
    return {"images": images, "models_mb": opened, "peak_mb": high}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("size", choices=SIZES)
    parser.add_argument("--folder", type=Path, default=Path("/tmp/capfilt-benchmark"))
    parser.add_argument("--images", type=int, default=0, help="a batch; 8 for base, 16 for tiny")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--batch", type=int, default=48, help="captions that the engine decodes at once")
    parser.add_argument("--arms", default="a,b,b+,engine,+itc,int8", help="of a, b, b+, engine, +itc, int8")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--memory", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    torch.set_num_threads(1)
    size, made = given.size, make(given.folder, given.size)
    count = given.images or {"base": 8, "tiny": 16}[size]
    if given.memory:
        print(json.dumps(peak(made, size, count, given.batch)))
        return
    images = pictures(count, SIZES[size][3])
    kinds: dict[str, Callable[[], Arm]] = {
        "a": lambda: OnePair(made),
        "b": lambda: Batched(made),
        "b+": lambda: Shared(made),
        "engine": lambda: Engine(made, fast_precision(gpu=False), given.batch),
        "+itc": lambda: Engine(made, fast_precision(gpu=False), given.batch, itc=True),
        "int8": lambda: Engine(made, "int8", given.batch),
    }
    arms = {name: kinds[name]() for name in given.arms.split(",")}
    report: dict[str, object] = {"size": size, "images": count, "torch": torch.__version__}
    print(f"{size}, {count} images a batch, {torch.get_num_threads()} thread, torch {torch.__version__}")
    if "a" in arms:
        report["outputs"] = compare(arms, made, images, sentences(count, 3, 4))
        print(json.dumps(report["outputs"], indent=1))
    for position, (captions, each) in enumerate(WORKLOADS):
        texts = sentences(count, captions, each)
        taken = measure(arms, images, texts, captions, given.repeats)
        report[f"N={captions},K={each}"] = taken
        show(taken, size, position, captions, texts)
    report["memory"] = [memory(given.folder, size, batch) for batch in sorted({1, count})]
    for one in report["memory"]:
        print(
            f"memory: {one['images']} images: models {one['models_mb']:.0f} MB, peak {one['peak_mb']:.0f} MB"
        )
    if given.json:
        given.json.write_text(json.dumps(report, indent=1))


def show(
    taken: dict[str, dict[str, list[float]]], size: str, position: int, captions: int, texts: Texts
) -> None:
    """One table: milliseconds an image, how many times faster the engine is, repeat by repeat, and its rate."""
    print(f"\nN={captions} captions, K={len(texts[0])} texts an image; ms an image: median (lowest-highest)")
    ours = taken["engine"]["whole"]
    for name, parts in taken.items():
        if name == "gemm":
            continue
        cells = [
            f"{part} {statistics.median(values):8.1f} ({min(values):.1f}-{max(values):.1f})"
            for part, values in parts.items()
        ]
        times = [value / own for value, own in zip(parts["whole"], ours, strict=True)]
        target = TARGETS[size].get(name)
        goal = f", target {target[position]}" if target else ""
        faster = f"  engine {statistics.median(times):.2f}x ({min(times):.2f}-{max(times):.2f}{goal})"
        print(f"{name:7}", "  ".join(cells), faster if name != "engine" else "")
    work, rate = gflop(size, captions, texts), statistics.median(taken["gemm"]["gflops"])
    shares = [work / own * 1e3 / speed for own, speed in zip(ours, taken["gemm"]["gflops"], strict=True)]
    print(f"work {work:.1f} GFLOP an image; a bf16 product here {rate:.0f} GFLOP/s; ", end="")
    print(f"the engine reaches {statistics.median(shares):.0%} of it ({min(shares):.0%}-{max(shares):.0%})")


if __name__ == "__main__":
    main()
