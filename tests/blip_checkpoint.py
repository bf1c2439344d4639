"""A tiny BLIP checkpoint with random weights, in the layout of the released ones."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers.models.bert.tokenization_bert import BertTokenizerFast
from transformers.models.blip.configuration_blip import BlipConfig
from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil
from transformers.models.blip.modeling_blip import BlipForConditionalGeneration, BlipForImageTextRetrieval

from capfilt.models.checkpoint import Role

WORDS = """
[PAD] [UNK] [CLS] [SEP] [MASK] a picture of the on in with and red green blue big small dog cat car tree
boat house man woman runs sits sleeps near , ' ##s ##ing ##ed table street beach sky two three
"""
VOCABULARY = [*WORDS.split(), "[DEC]", "[ENC]"]
IMAGE_SIZE = 32


def make_blip(directory: Path, role: Role, seed: int = 0, **text: Any) -> Path:
    """Write a two-layer BLIP for ``role`` (about 80,000 parameters); ``text`` overrides its text config.

    The spread of its weights is large, so that scores and captions depend on image and text visibly.
    """
    torch.manual_seed(seed)
    pad, sep, dec = (VOCABULARY.index(token) for token in ("[PAD]", "[SEP]", "[DEC]"))
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = BlipConfig(
        text_config={
            **shape,
            "vocab_size": len(VOCABULARY),
            "max_position_embeddings": 64,
            "bos_token_id": dec,
            "eos_token_id": 2,
            "sep_token_id": sep,
            "pad_token_id": pad,
            "initializer_range": 0.3,
            **text,
        },
        # transformers' default initializer_range, 1e-10, makes every image look the same.
        vision_config={**shape, "image_size": IMAGE_SIZE, "patch_size": 8, "initializer_range": 0.02},
        image_text_hidden_size=16,
        tie_word_embeddings=text.get("tie_word_embeddings", True),
        initializer_range=0.3,
    )
    architecture = BlipForImageTextRetrieval if role == "filter" else BlipForConditionalGeneration
    model = architecture(config)
    with torch.no_grad():  # zero biases would make every first token, and every ITM score, alike
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.normal_(0, 0.3)
    model.save_pretrained(directory)
    make_tokenizer(directory)
    BlipImageProcessorPil(size={"height": IMAGE_SIZE, "width": IMAGE_SIZE}).save_pretrained(directory)
    return directory


def make_tokenizer(directory: Path, vocabulary: Sequence[str] = VOCABULARY) -> None:
    """BERT's tokenizer with ``vocabulary``, as the released checkpoints have it: [DEC] and [ENC] may lack."""
    ids = {word: number for number, word in enumerate(vocabulary)}
    special = [token for token in ("[DEC]", "[ENC]") if token in ids]
    BertTokenizerFast(vocab=ids, extra_special_tokens=special).save_pretrained(directory)
