"""The captioners of transformers against its own processors, ``generate`` and forward, on tiny checkpoints."""

import json
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import (
    AutoImageProcessor,
    AutoModelForImageTextToText,
    AutoProcessor,
    AutoTokenizer,
    Blip2Processor,
)

from capfilt.data_contracts.errors import ModelError, UsageError
from capfilt.models.adapters.image_to_text import ImageToText
from capfilt.models.checkpoint import locate
from capfilt.models.protocols import Decoding
from tests.adapter_checkpoints import CLS, IMAGE, PAD, SEP, Made
from tests.models.drawn_images import names, pictures

torch.set_num_threads(1)

FAMILIES = ("blip2_opt", "blip2_t5", "git", "vit_gpt2", "llava")
DECODING = Decoding(min_tokens=3, max_tokens=8, seed=7)
PROMPT = "a picture of"


@pytest.fixture(params=FAMILIES)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def captioner(adapter_checkpoint: Made, name: str) -> ImageToText:
    return ImageToText.open(locate(str(adapter_checkpoint(name))), batch=4)


def their_inputs(name: str, where: Path, images: list[Image.Image]) -> dict[str, Any]:
    """What a user of transformers would pass to ``generate``, by the family's own processor where it has one."""
    if name == "llava":
        said = {"type": "text", "text": PROMPT}
        turns = [[{"role": "user", "content": [{"type": "image", "image": image}, said]}] for image in images]
        return dict(
            AutoProcessor.from_pretrained(where).apply_chat_template(
                turns, tokenize=True, return_dict=True, return_tensors="pt"
            )
        )
    eyes, tokenizer = AutoImageProcessor.from_pretrained(where), AutoTokenizer.from_pretrained(where)
    if name.startswith("blip2"):
        processor = Blip2Processor(eyes, tokenizer, num_query_tokens=4)
        return dict(processor(images, [PROMPT] * len(images), return_tensors="pt"))
    pixels = eyes(images, return_tensors="pt")["pixel_values"]
    words = tokenizer(PROMPT, add_special_tokens=False).input_ids
    ids = torch.tensor([[CLS, *words]] * len(images))
    return {"pixel_values": pixels, "input_ids" if name == "git" else "decoder_input_ids": ids}


def their_model(where: Path) -> Any:
    return AutoModelForImageTextToText.from_pretrained(where).eval()


@pytest.mark.parametrize("strategy", ["greedy", "beam"])
def test_what_plain_generate_writes(
    adapter_checkpoint: Made, name: str, captioner: ImageToText, strategy: Any
) -> None:
    images = pictures(5)
    beams = 3 if strategy == "beam" else 1
    out = their_model(adapter_checkpoint(name)).generate(
        **their_inputs(name, adapter_checkpoint(name), images),
        max_new_tokens=8,
        min_new_tokens=8,
        num_beams=beams,
        do_sample=False,
        return_dict_in_generate=True,
        output_scores=True,
    )
    expected = captioner.tokenizer.batch_decode(out.sequences[:, -8:], skip_special_tokens=True)
    decoding = replace(DECODING, strategy=strategy, min_tokens=8, prompt=PROMPT, per_image=2)
    ours = captioner.caption(images, names(5), decoding)
    assert [row[0].text for row in ours] == [text.strip() for text in expected]
    assert all(row[0] == row[1] for row in ours)
    if strategy == "beam":  # transformers scores a beam by its log-probability over its number of tokens
        assert np.allclose([row[0].logprob for row in ours], out.sequences_scores.numpy() * 8, atol=1e-4)


class Numbers:
    """A tokenizer that writes token ids."""

    def batch_decode(self, rows: list[list[int]], **_: Any) -> list[str]:
        return [" ".join(map(str, row)) for row in rows]


@pytest.mark.parametrize("strategy", ["nucleus", "greedy", "beam"])
def test_logprob_is_that_of_teacher_forcing_through_the_end(
    adapter_checkpoint: Made, name: str, captioner: ImageToText, strategy: Any
) -> None:
    theirs, image = their_model(adapter_checkpoint(name)), pictures(1)[0]
    given = their_inputs(name, adapter_checkpoint(name), [image])
    decoding = replace(
        DECODING, strategy=strategy, min_tokens=1, max_tokens=6, top_p=1.0, per_image=60, prompt=PROMPT
    )
    written = replace(captioner, tokenizer=Numbers()).caption([image], ["one"], decoding)[0]
    begun = given.pop("input_ids", None)
    given.pop("attention_mask", None)
    decoder = given.pop("decoder_input_ids", torch.tensor([[PAD]]))
    ended = 0
    for text, logprob in set(written):
        tokens = list(map(int, text.split()))
        if IMAGE in tokens:  # only a random model writes it; forward would look for an image there
            continue
        if len(tokens) < 6:
            tokens.append(SEP)
            ended += 1
        new = torch.tensor([tokens])
        if name in ("blip2_t5", "vit_gpt2"):
            ids = {"decoder_input_ids": torch.cat([decoder, new[:, :-1]], 1)}
            ids |= {"input_ids": begun} if name == "blip2_t5" else {}
        else:
            ids = {"input_ids": torch.cat([begun, new[:, :-1]], 1)}
        with torch.no_grad():
            logits = theirs(**given, **ids).logits[0, -len(tokens) :]
        chosen = logits.log_softmax(-1).gather(1, new[0, :, None])
        assert logprob == pytest.approx(float(chosen.sum()), abs=1e-4)
    assert ended > 1 or strategy != "nucleus" or name == "vit_gpt2"  # which hardly ever ends


def test_draws_do_not_depend_on_the_company(captioner: ImageToText) -> None:
    images, ids = pictures(5), names(5)
    decoding = replace(DECODING, per_image=3)
    together = captioner.caption(images, ids, decoding)
    assert len({written.text for row in together for written in row}) > 5
    for order in ([4, 2, 0], [1], [3, 1]):
        again = captioner.caption([images[i] for i in order], [ids[i] for i in order], decoding)
        assert [[w.text for w in row] for row in again] == [[w.text for w in together[i]] for i in order]
    alone = captioner.caption(images, ids, replace(decoding, per_image=1))
    assert [row[0].text for row in alone] == [row[0].text for row in together]
    assert captioner.caption(images, ids, replace(decoding, seed=8)) != together


def test_draws_come_from_exactly_the_nucleus(adapter_checkpoint: Made) -> None:
    """Chi-squared of the first token over 2,000 captions against the distribution written out by hand."""
    where, draws = adapter_checkpoint("git"), 2000
    captioner = ImageToText.open(locate(str(where)), batch=500)
    decoding = Decoding(top_p=0.8, min_tokens=1, max_tokens=1, per_image=draws, prompt=PROMPT)
    image = pictures(1)[0]
    wide = replace(captioner, tokenizer=Numbers())
    drawn = Counter(int(written.text) for written in wide.caption([image], ["one"], decoding)[0])
    with torch.no_grad():
        logits = their_model(where)(**their_inputs("git", where, [image])).logits[0, -1].double()
    logits[SEP] = -torch.inf
    chances = logits.softmax(-1).numpy()
    order = np.argsort(-chances)
    kept = order[: int((np.cumsum(chances[order]) < 0.8).sum()) + 1]
    expected = {int(token): draws * chances[token] / chances[kept].sum() for token in kept}
    assert len(kept) > 5
    assert set(drawn) <= set(expected)
    statistic = sum((drawn[token] - count) ** 2 / count for token, count in expected.items())
    freedom = len(expected) - 1
    assert statistic < freedom + 4 * np.sqrt(2 * freedom)  # four standard deviations


def test_lengths_hold_and_any_prompt_will_do(captioner: ImageToText) -> None:
    numbers = replace(captioner, tokenizer=Numbers())
    for prompt in ("", "two dogs in the street"):
        decoding = replace(DECODING, min_tokens=4, max_tokens=4, prompt=prompt, per_image=4)
        for row in numbers.caption(pictures(3), names(3), decoding):
            assert [len(written.text.split()) for written in row] == [4] * 4
    assert captioner.caption([], [], DECODING) == []


def test_the_penalty_counts_what_was_written_and_not_the_prompt(captioner: ImageToText) -> None:
    """Before anything is written there is nothing to penalise, whatever the prompt says."""
    decoding = replace(DECODING, min_tokens=1, max_tokens=1, prompt="red dog on the beach", per_image=20)

    def written(tokens: int, penalty: float) -> list[list[Any]]:
        own = replace(decoding, max_tokens=tokens, repetition_penalty=penalty)
        return captioner.caption(pictures(2), names(2), own)

    assert written(1, 1000.0) == written(1, 1.0)
    assert written(8, 1000.0) != written(8, 1.0)


def test_too_long_captions_are_refused(adapter_checkpoint: Made) -> None:
    captioner = ImageToText.open(locate(str(adapter_checkpoint("git"))))
    with pytest.raises(UsageError, match="4 prompt tokens \\+ max_tokens 61 > 64 positions"):
        captioner.caption(pictures(1), names(1), replace(DECODING, max_tokens=61, prompt=PROMPT))


def test_the_checkpoints_own_settings_do_not_creep_in(adapter_checkpoint: Made, tmp_path: Path) -> None:
    """Its generation_config.json names special tokens; its lengths, beams and penalties are not ours."""
    copy = Path(shutil.copytree(adapter_checkpoint("git"), tmp_path / "git"))
    settings = json.loads((copy / "generation_config.json").read_text())
    settings |= {"max_length": 6, "num_beams": 4, "repetition_penalty": 9.0, "do_sample": True}
    (copy / "generation_config.json").write_text(json.dumps(settings))
    plain, odd = (ImageToText.open(locate(str(where))) for where in (adapter_checkpoint("git"), copy))
    for strategy in ("greedy", "nucleus"):
        decoding = replace(DECODING, strategy=strategy)  # type: ignore[arg-type]
        assert odd.caption(pictures(2), names(2), decoding) == plain.caption(pictures(2), names(2), decoding)


def test_what_a_checkpoint_lacks_is_named(adapter_checkpoint: Made, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    copy = Path(shutil.copytree(adapter_checkpoint("vit_gpt2"), tmp_path / "copy"))
    (copy / "preprocessor_config.json").rename(copy / "elsewhere")
    with pytest.raises(ModelError, match="unreadable image preparation"):
        ImageToText.open(locate(str(copy)))
    (copy / "elsewhere").rename(copy / "preprocessor_config.json")
    weights = load_file(copy / "model.safetensors")
    gone = next(key for key in weights if key.startswith("decoder.") and "c_attn.weight" in key)
    save_file(
        {key: value for key, value in weights.items() if key != gone},
        copy / "model.safetensors",
        metadata={"format": "pt"},
    )
    with pytest.raises(ModelError, match="would be random") as caught:
        ImageToText.open(locate(str(copy)))
    assert gone in caught.value.evidence


def test_a_model_that_knows_no_end_is_refused(adapter_checkpoint: Made, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(adapter_checkpoint("git"), tmp_path / "copy"))
    for name in ("generation_config.json", "config.json"):
        settings = json.loads((copy / name).read_text())
        (copy / name).write_text(json.dumps({**settings, "eos_token_id": None}))
    assert ImageToText.open(locate(str(copy))).special["eos_token_id"] == [SEP]  # from its tokenizer
    settings = json.loads((copy / "tokenizer_config.json").read_text())
    (copy / "tokenizer_config.json").write_text(json.dumps({**settings, "sep_token": None}))
    with pytest.raises(ModelError, match="nothing says where a caption"):
        ImageToText.open(locate(str(copy)))


def test_a_blip2_that_does_not_say_where_the_image_goes_is_refused(
    adapter_checkpoint: Made, tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(adapter_checkpoint("blip2_opt"), tmp_path / "copy"))
    settings = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**settings, "image_token_index": None}))
    with pytest.raises(ModelError, match="where its image goes"):
        ImageToText.open(locate(str(copy)))


def test_a_chat_model_without_its_processor_is_refused(
    adapter_checkpoint: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = Path(shutil.copytree(adapter_checkpoint("llava"), tmp_path / "copy"))
    monkeypatch.setattr(
        "capfilt.models.adapters.pretrained.AutoProcessor", AutoTokenizer
    )  # what transformers falls back on
    with pytest.raises(ModelError, match="no processor for images and texts together"):
        ImageToText.open(locate(str(copy)))
    monkeypatch.undo()
    (copy / "processor_config.json").unlink()
    with pytest.raises(ModelError, match="unreadable processor"):
        ImageToText.open(locate(str(copy)))
