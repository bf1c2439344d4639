"""Training steps of the filter and of the captioner: ours beside the plain way with transformers' blocks, one core.

    OMP_NUM_THREADS=1 taskset -c 1 python -m benchmarks.train tiny
    OMP_NUM_THREADS=1 taskset -c 1 python -m benchmarks.train base --batch 8

The same random checkpoint of BLIP's layout, pairs, hard negatives and optimiser in both. The plain way encodes a
batch's images once, as BLIP's own code does, and gives transformers' text modules a copy of the image states for
every text; ours computes their keys and values once an image, and reads data, too. Losses are compared first, then
whole steps are timed in turn: processor time of one thread, median with the lowest and the highest. No dropout, no
crops.
"""

import argparse
import json
import resource
import statistics
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode
from transformers.models.blip.modeling_blip import BlipForConditionalGeneration, BlipForImageTextRetrieval

from benchmarks.checkpoints import SIZES, make
from benchmarks.engine import gemm, seconds, sentences
from capfilt.models.med import checkpoint
from capfilt.models.training.data import Batch, Batches, PairSource
from capfilt.models.training.grounding import Grounding
from capfilt.models.training.objectives import draw_negatives, itc_loss, itc_targets, lm_loss, same_pairs
from capfilt.models.training.pairs import PairSet
from capfilt.models.training.settings import CaptionerSettings, FilterSettings

HARD = {"hard_from": 0.0, "itm_from": 0.0, "crop": 1.0}


def plain_filter(
    model: BlipForImageTextRetrieval, batch: Batch, enc: int, temperature: float
) -> torch.Tensor:
    """ITC in the batch and ITM with hard negatives, as BLIP's retrieval finetuning writes it."""
    mask = (batch.ids != 0).long()
    states = model.vision_model(pixel_values=batch.pixels).last_hidden_state
    texts = model.text_encoder(input_ids=batch.ids, attention_mask=mask, return_dict=True).last_hidden_state
    images = F.normalize(model.vision_proj(states[:, 0]), dim=-1)
    words = F.normalize(model.text_proj(texts[:, 0]), dim=-1)
    similarity, same = images @ words.T / temperature, same_pairs(batch.keys, batch.keys)
    targets = itc_targets(same)
    drawn = draw_negatives(similarity, same, 1.0, torch.Generator().manual_seed(0))
    own = torch.arange(len(batch.ids))
    text_rows, image_rows = torch.cat([own, own, drawn.texts]), torch.cat([own, drawn.images, own])
    ids = batch.ids[text_rows].clone()
    ids[:, 0] = enc
    looked = states[image_rows]
    matched = model.text_encoder(
        input_ids=ids,
        attention_mask=mask[text_rows],
        encoder_hidden_states=looked,
        encoder_attention_mask=torch.ones(looked.shape[:2], dtype=torch.long),
        return_dict=True,
    ).last_hidden_state
    labels = (torch.arange(len(ids)) < len(own)).long()
    itm = F.cross_entropy(model.itm_head(matched[:, 0]), labels)
    return itc_loss(similarity, similarity.T, targets, targets) + itm


def plain_captioner(model: BlipForConditionalGeneration, batch: Batch, dec: int) -> torch.Tensor:
    """LM with label smoothing and without pads."""
    ids = batch.ids.clone()
    ids[:, 0] = dec
    states = model.vision_model(pixel_values=batch.pixels).last_hidden_state
    logits = model.text_decoder(
        input_ids=ids[:, :-1],
        attention_mask=(ids[:, :-1] != 0).long(),
        encoder_hidden_states=states,
        return_dict=True,
    ).logits
    labels = ids[:, 1:].masked_fill(ids[:, 1:] == 0, -100)
    return F.cross_entropy(logits.flatten(0, 1), labels.flatten(), label_smoothing=0.1)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("size", choices=SIZES)
    parser.add_argument("--folder", type=Path, default=Path("/tmp/capfilt-benchmark"))
    parser.add_argument("--batch", type=int, default=0, help="pairs a step; 8 for base, 64 for tiny")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--recompute", action="store_true", help="activation checkpointing in ours")
    parser.add_argument("--only", choices=("ours", "plain"), help="one arm alone, for its memory")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(1)
    size = given.batch or {"base": 8, "tiny": 64}[given.size]
    made, report = make(given.folder, given.size), {}
    for role in ("filter", "captioner"):
        report[role] = measure(role, made[role], SIZES[given.size][3], size, given)
    report["peak_gb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    print(f"peak memory of the process {report['peak_gb']:.1f} GB")
    if given.json:
        given.json.write_text(json.dumps(report, indent=1))


def measure(role: str, where: Path, pixels: int, size: int, given: argparse.Namespace) -> dict[str, object]:
    arms = make_arms(role, where, pixels, size, given)
    if len(arms) == 2:
        losses = {name: float(loss().detach()) for name, (loss, _) in arms.items()}
        if abs(losses["ours"] - losses["plain"]) > 1e-4 * abs(losses["plain"]):
            sys.exit(f"{role}: the losses differ: {losses}")
        print(f"{role}: losses {losses}")
    counted = FlopCounterMode(display=False)
    first = next(iter(arms.values()))[0]
    with counted:
        first().backward()
    gflop = counted.get_total_flops() / 1e9
    taken: dict[str, list[float]] = {name: [] for name in arms}
    rate = []
    for repeat in range(-1, given.repeats):
        for name, (loss, parameters) in arms.items():
            spent = seconds(step, loss, *parameters)
            if repeat >= 0:
                taken[name].append(spent)
        if repeat >= 0:
            rate.append(gemm(torch.float32))
    for name, values in taken.items():
        print(
            f"{role:10} {name:6} {size / statistics.median(values):8.2f} samples/s, "
            f"{statistics.median(values):.2f} s a step ({min(values):.2f}-{max(values):.2f})"
        )
    share = gflop / statistics.median(next(iter(taken.values()))) / statistics.median(rate)
    print(
        f"{role:10} {gflop:.0f} GFLOP a step; a fp32 product {statistics.median(rate):.0f} GFLOP/s: {share:.0%} of it"
    )
    if len(arms) == 2:
        ratios = [plain / ours for plain, ours in zip(taken["plain"], taken["ours"], strict=True)]
        print(f"{role:10} ours {statistics.median(ratios):.2f}x ({min(ratios):.2f}-{max(ratios):.2f})")
    return {"seconds": taken, "gflop": gflop, "gemm": rate, "batch": size}


Arm = tuple[Callable[[], torch.Tensor], tuple[list[torch.nn.Parameter], torch.optim.Optimizer]]


def make_arms(role: str, where: Path, pixels: int, size: int, given: argparse.Namespace) -> dict[str, Arm]:
    """The loss of a batch and what a step moves, ours first."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (size, pixels, pixels, 3), dtype=np.uint8)
    texts = sentences(size, 0, 1)
    pairs = PairSet(images, texts, [str(number) for number in range(size)])
    loaded = checkpoint.load(where)
    model, tokenizer = loaded.model, loaded.tokenizer
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    model.train()
    filtering = role == "filter"
    settings = (
        FilterSettings(steps=10, batch=size, **HARD)
        if filtering
        else CaptionerSettings(steps=10, batch=size, crop=1.0)
    )
    settings = replace(settings, recompute=given.recompute)
    batches = Batches([PairSource(pairs, 1.0)], tokenizer, settings, max_tokens=model.config.max_tokens)
    batch = batches(0)
    arms: dict[str, Arm] = {}
    if given.only != "plain":
        for stack in model.modules():
            if hasattr(stack, "recompute"):
                stack.recompute = given.recompute
        if filtering:
            learner = Grounding(model, settings, batches, "cpu")  # type: ignore[arg-type]
            loss = lambda: learner(0)["loss"]  # noqa: E731
        else:

            def loss() -> torch.Tensor:
                own = batches(0)
                seen = model.text_decoder.bert.image_keys_values(model.encode_images(own.pixels))
                return lm_loss(model, own.ids, seen)

        arms["ours"] = (loss, optimiser(model))
    if given.only != "ours":
        kind = BlipForImageTextRetrieval if filtering else BlipForConditionalGeneration
        plain = kind.from_pretrained(where, local_files_only=True)
        plain.train()
        for module in plain.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        if filtering:
            temperature = float(model.temperature().detach())
            arms["plain"] = (
                lambda: plain_filter(plain, batch, model.config.first("filter"), temperature),
                optimiser(plain),
            )
        else:
            arms["plain"] = (lambda: plain_captioner(plain, batch, model.config.dec), optimiser(plain))
    return arms


def optimiser(model: torch.nn.Module) -> tuple[list[torch.nn.Parameter], torch.optim.Optimizer]:
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return parameters, torch.optim.AdamW(parameters, lr=1e-6, fused=True)


def step(
    loss: Callable[[], torch.Tensor], parameters: list[torch.nn.Parameter], optimizer: torch.optim.Optimizer
) -> None:
    optimizer.zero_grad(set_to_none=True)
    loss().backward()
    torch.nn.utils.clip_grad_norm_(parameters, 1.0)
    optimizer.step()


if __name__ == "__main__":
    main()
