"""What is no caption: the texts that a captioner writes when it has nothing to say, or cannot stop.

BLIP's users know them: "dai dai dai", the prompt written again, nothing but an end token. The filter may score
such a text high by chance, so they leave before it sees them.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from capfilt.data_contracts.errors import RecipeError
from capfilt.data_contracts.rejects import Reason

# From this many words on a phrase that comes twice in a row is a loop: people do not write that.
LONG_PHRASE = 4

# What tokenizers leave behind when they do not know that a token is special: <pad>, <|endoftext|>, [SEP].
_SPECIAL = re.compile(r"<\|?[^<>|\s]{1,30}\|?>|\[(?:[A-Z]{2,}|unused\d+)\]")
# A letter of a script without spaces between its words (Thai, Lao, Khmer, Japanese, Chinese) counts as a word.
_WORD = re.compile(
    r"[\u0e00-\u0eff\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff]|\w+(?:['\u2019-]\w+)*"
)
_MANY = 6  # "zzz" and "www" are words, a letter six times in a row is not


@dataclass(frozen=True)
class CaptionGuard:
    """Which captions leave as degenerate; 0 or false switches a rule off. All of it is identity.

    ``min_words``: fewer words are too short. ``repeats``: a phrase so often in a row (a long one: twice), or a
    piece of a word, is a loop. ``prompt_echo``: a caption must not begin with the prompt, which the captioner
    had been given already. What has no text at all is no caption and always leaves.
    """

    min_words: int = 2
    repeats: int = 3
    prompt_echo: bool = True

    def __post_init__(self) -> None:
        """Raises :class:`RecipeError` for a value that no caption, or every one, would fail."""
        for name, value, sound in (
            ("min_words", self.min_words, self.min_words >= 0),
            ("repeats", self.repeats, self.repeats == 0 or self.repeats >= 2),
        ):
            if not sound:
                raise RecipeError(
                    what=f"captions cannot be guarded with this {name}",
                    evidence=f"{name} is {value}",
                    remedy="CaptionGuard.min_words is 0 (off) or more, CaptionGuard.repeats 0 (off) or at least 2",
                )

    def refuse(self, text: str, prompt: str) -> Reason | None:
        """Why ``text``, written after ``prompt`` and without it, is no caption; ``None`` if it may stay."""
        if not text.strip():
            return Reason.EMPTY_CAPTION
        words = words_of(text)
        if len(words) < self.min_words:
            return Reason.TOO_SHORT if words else Reason.NO_WORDS
        if self.prompt_echo and echoes(words, words_of(prompt)):
            return Reason.PROMPT_ECHO
        if self.repeats and loops(words, self.repeats):
            return Reason.LOOP
        return None


def words_of(text: str) -> list[str]:
    """The words of a text in lower case, without punctuation and without special tokens."""
    return _WORD.findall(_SPECIAL.sub(" ", text).lower())


def echoes(words: Sequence[str], prompt: Sequence[str]) -> bool:
    """Whether a caption begins with all the words of its prompt."""
    return bool(prompt) and list(words[: len(prompt)]) == list(prompt)


def loops(words: Sequence[str], repeats: int) -> bool:
    """Whether a phrase comes ``repeats`` times in a row (a long one: twice), or a piece within a word does."""
    for size in range(1, len(words) // 2 + 1):
        needed = size * ((repeats if size < LONG_PHRASE else 2) - 1)
        run = 0  # how many words in a row are the same as the word one phrase before
        for word, before in zip(words[size:], words, strict=False):
            run = run + 1 if word == before else 0
            if run == needed:
                return True
    piece = re.compile(rf"([^\W\d_]{{2,}}?)\1{{{repeats - 1},}}|([^\W\d_])\2{{{_MANY - 1},}}")
    return any(piece.search(word) for word in words)
