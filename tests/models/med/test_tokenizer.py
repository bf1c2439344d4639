import json
import subprocess
import sys
from pathlib import Path

import pytest

from capfilt.data_contracts.errors import ModelError
from capfilt.models.med.tokenizer import CaptionTokenizer

TEXTS = ["a cat above a dog", "a dog on a red background", "IMG_1234.jpg", "Free shipping!"] * 3
PROGRAM = f"""
import hashlib, sys
from pathlib import Path
from capfilt.models.med.tokenizer import CaptionTokenizer
CaptionTokenizer.train({TEXTS!r}, 60).save(Path(sys.argv[1]))
"""


def test_the_same_texts_give_the_same_vocabulary_in_another_process(tmp_path: Path) -> None:
    CaptionTokenizer.train(TEXTS, 60).save(tmp_path)
    (tmp_path / "other").mkdir()
    subprocess.run([sys.executable, "-c", PROGRAM, str(tmp_path / "other")], check=True)
    ours, other = (
        json.loads((folder / "tokenizer.json").read_text()) for folder in (tmp_path, tmp_path / "other")
    )
    assert ours == other


def test_special_tokens_stand_where_bert_and_blip_have_them() -> None:
    tokenizer = CaptionTokenizer.train(TEXTS, 100)
    assert (tokenizer.pad, tokenizer.cls, tokenizer.sep) == (0, 2, 3)
    assert (tokenizer.dec, tokenizer.enc) == (tokenizer.size - 2, tokenizer.size - 1)


def test_texts_are_normalised_padded_and_cut() -> None:
    tokenizer = CaptionTokenizer.train(TEXTS, 100)
    ids = tokenizer.encode(["A Cat!  above a dog.", "dog", "a dog on a red background"], 6)
    assert ids.shape == (3, 6)
    assert ids[:, 0].tolist() == [tokenizer.cls] * 3
    assert tokenizer.decode(ids[0].tolist()) == "a cat above a"
    assert ids[1, 2:].tolist() == [tokenizer.sep, 0, 0, 0]


def test_transformers_reads_it(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = CaptionTokenizer.train(TEXTS, 100)
    tokenizer.save(tmp_path)
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    assert theirs("A cat above a dog").input_ids == tokenizer.encode(["a cat above a dog"], 20)[0].tolist()
    assert (theirs.bos_token_id, theirs.pad_token_id) == (tokenizer.dec, tokenizer.pad)


def test_a_directory_without_a_tokenizer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="cannot read a tokenizer"):
        CaptionTokenizer.load(tmp_path)
