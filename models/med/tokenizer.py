"""The WordPiece tokenizer: trained on a run's own texts, or loaded; saved as transformers reads it.

Layout of a trained vocabulary: ``[PAD] [UNK] [CLS] [SEP] [MASK]`` first, pieces, ``[DEC] [ENC]`` last, as
BLIP appends them to BERT's.
"""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from capfilt.data_contracts.errors import ModelError
from capfilt.models.text.normalise import normalise_caption

FIRST = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
LAST = ("[DEC]", "[ENC]")
FILES = ("tokenizer.json", "tokenizer_config.json")


class CaptionTokenizer:
    """Caption text to padded ids and back. Every text is normalised first, in training and in judging
    alike."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        found = {token: tokenizer.token_to_id(token) for token in (*FIRST, *LAST)}
        missing = [token for token in FIRST if found[token] is None]
        if missing:
            raise ModelError(
                what="the tokenizer lacks special tokens that MED needs",
                evidence=", ".join(missing),
                remedy="use the tokenizer saved with a MED or BLIP model, or train one: wordpiece:8000",
            )
        self._tokenizer = tokenizer
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        self.size: int = tokenizer.get_vocab_size()
        specials = {token: number for token, number in found.items() if number is not None}
        self.pad, self.cls, self.sep = specials["[PAD]"], specials["[CLS]"], specials["[SEP]"]
        # released BLIP directories carry BERT's tokenizer: there these two are in the config only
        self.dec: int | None = found["[DEC]"]
        self.enc: int | None = found["[ENC]"]

    @classmethod
    def train(cls, texts: Iterable[str], vocabulary: int) -> "CaptionTokenizer":
        """A WordPiece vocabulary of at most ``vocabulary`` pieces, the same for the same texts.

        The library's trainer numbers ``##c`` pieces in the order of a hash map, and breaks ties by number; so
        every single-character piece is given to it up front, sorted, and nothing is left to chance.
        """
        lines = [normalise_caption(text) for text in texts]
        normaliser = normalizers.BertNormalizer()
        splitter = pre_tokenizers.BertPreTokenizer()
        letters = sorted({letter for line in lines for letter in normaliser.normalize_str(line)} - {" "})
        tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
        tokenizer.normalizer, tokenizer.pre_tokenizer = normaliser, splitter
        alphabet = [*letters, *(f"##{letter}" for letter in letters)]
        trainer = trainers.WordPieceTrainer(
            vocab_size=vocabulary - len(LAST),
            special_tokens=[*FIRST, *alphabet],
            continuing_subword_prefix="##",
            show_progress=False,
        )
        tokenizer.train_from_iterator(lines, trainer)
        pieces = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
        return cls(_word_piece([piece for piece, _ in pieces] + list(LAST)))

    @classmethod
    def load(cls, directory: Path) -> "CaptionTokenizer":
        """From a directory with ``tokenizer.json``, or the ``vocab.txt`` of an older BERT or BLIP checkpoint.

        Raises :class:`ModelError` if it is missing or unusable.
        """
        path = directory / "tokenizer.json"
        if not path.is_file() and (directory / "vocab.txt").is_file():
            return cls(_word_piece((directory / "vocab.txt").read_text("utf-8").splitlines()))
        try:
            tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:  # the library raises bare Exception
            raise ModelError(
                what="cannot read a tokenizer: it is missing or unreadable",
                evidence=f"{path}: {error}",
                remedy="give a directory with the tokenizer.json of a MED or BLIP model",
            ) from error
        return cls(tokenizer)

    def with_dec_and_enc(self) -> "CaptionTokenizer":
        """The same with [DEC] and [ENC] appended where they lack, as BLIP appends them to BERT's."""
        tokenizer = Tokenizer.from_str(self._tokenizer.to_str())
        tokenizer.add_special_tokens([token for token in LAST if tokenizer.token_to_id(token) is None])
        return CaptionTokenizer(tokenizer)

    def save(self, directory: Path) -> None:
        """Write what ``transformers.AutoTokenizer`` loads; needs no transformers itself."""
        self._tokenizer.save(str(directory / "tokenizer.json"))
        config: dict[str, object] = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "model_max_length": 512,
            "do_lower_case": True,
            "pad_token": "[PAD]",
            "unk_token": "[UNK]",
            "cls_token": "[CLS]",
            "sep_token": "[SEP]",
            "mask_token": "[MASK]",
        }
        if self.dec is not None:
            config["bos_token"] = "[DEC]"
        if self.enc is not None:
            config["additional_special_tokens"] = ["[ENC]"]
        (directory / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")

    def pieces(self, text: str) -> list[int]:
        """The ids of a normalised text alone, without special tokens."""
        ids: list[int] = self._tokenizer.encode(normalise_caption(text), add_special_tokens=False).ids
        return ids

    def rows(self, texts: Sequence[str], max_tokens: int) -> list[list[int]]:
        """The ids of each text: [CLS], pieces, [SEP]; at most ``max_tokens`` long."""
        cleaned = [normalise_caption(text) for text in texts]
        encoded = self._tokenizer.encode_batch_fast(cleaned, add_special_tokens=False)
        return [[self.cls, *entry.ids[: max_tokens - 2], self.sep] for entry in encoded]

    def encode(self, texts: Sequence[str], max_tokens: int) -> torch.Tensor:
        """The same as one tensor (texts, longest), int64, right-padded."""
        rows = self.rows(texts, max_tokens)
        ids = torch.full((len(rows), max(map(len, rows), default=0)), self.pad, dtype=torch.int64)
        for number, row in enumerate(rows):
            ids[number, : len(row)] = torch.tensor(row)
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ``ids``; special tokens are left out."""
        text: str = self._tokenizer.decode(list(ids), skip_special_tokens=True)
        return text


def _word_piece(vocabulary: list[str]) -> Tokenizer:
    """A tokenizer like BERT's uncased one over ``vocabulary``, in that order."""
    ids = {piece: number for number, piece in enumerate(vocabulary)}
    tokenizer = Tokenizer(models.WordPiece(ids, unk_token="[UNK]", max_input_chars_per_word=100))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.add_special_tokens([token for token in (*FIRST, *LAST) if token in ids])
    edges = [(token, ids[token]) for token in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=edges)
    return tokenizer
