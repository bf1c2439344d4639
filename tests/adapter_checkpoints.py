"""Tiny checkpoints with random weights of the families that come through transformers, in their own layouts."""

import string
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import (
    Blip2Config,
    Blip2ForConditionalGeneration,
    Blip2ForImageTextRetrieval,
    Blip2QFormerConfig,
    Blip2VisionConfig,
    CLIPConfig,
    CLIPModel,
    CLIPVisionConfig,
    GitConfig,
    GitForCausalLM,
    GPT2Config,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    OPTConfig,
    Siglip2Config,
    Siglip2Model,
    Siglip2Tokenizer,
    SiglipConfig,
    SiglipModel,
    T5Config,
    VisionEncoderDecoderConfig,
    VisionEncoderDecoderModel,
    ViTConfig,
)
from transformers.models.bert.tokenization_bert import BertTokenizerFast
from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.siglip2.image_processing_pil_siglip2 import Siglip2ImageProcessorPil

from tests.blip_checkpoint import VOCABULARY as BLIP_VOCABULARY

VOCABULARY = [*BLIP_VOCABULARY[:-2], "describe", "it", "user", "says", ":", "<image>"]
PAD, CLS, SEP, IMAGE = (VOCABULARY.index(token) for token in ("[PAD]", "[CLS]", "[SEP]", "<image>"))
# Of SigLIP 2's tokenizer, which has to be of its own class.
LETTERS = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "\u2581", *string.ascii_lowercase]
SIZE = 32
SHAPE = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
EYES = {**SHAPE, "image_size": SIZE, "patch_size": 8}
TEXT = {"vocab_size": len(VOCABULARY), "pad_token_id": PAD, "bos_token_id": CLS, "eos_token_id": SEP}
CHAT = (
    "{% for turn in messages %}user says : {% for part in turn['content'] %}"
    "{% if part['type'] == 'image' %}<image> {% else %}{{ part['text'] }} {% endif %}{% endfor %}{% endfor %}"
)

Made = Callable[[str], Path]


def clip() -> CLIPModel:
    return CLIPModel(CLIPConfig(text_config={**SHAPE, **TEXT}, vision_config=EYES, projection_dim=16))


def siglip() -> SiglipModel:
    text = {**SHAPE, **TEXT, "max_position_embeddings": 16}
    return SiglipModel(SiglipConfig(text_config=text, vision_config=EYES))


def siglip2() -> Siglip2Model:
    text = {
        **SHAPE,
        "vocab_size": len(LETTERS),
        "pad_token_id": 0,
        "eos_token_id": 1,
        "max_position_embeddings": 16,
    }
    return Siglip2Model(
        Siglip2Config(text_config=text, vision_config={**SHAPE, "patch_size": 8, "num_patches": 16})
    )


def _blip2(text_config: Any = None, **more: Any) -> Blip2Config:
    queries = Blip2QFormerConfig(
        **SHAPE, vocab_size=len(VOCABULARY), pad_token_id=PAD, encoder_hidden_size=32, **more
    )
    config = Blip2Config(
        vision_config=Blip2VisionConfig(**EYES),
        qformer_config=queries,
        text_config=text_config,
        num_query_tokens=4,
        image_text_hidden_size=16,
    )
    config.image_token_index = IMAGE if text_config else None
    return config


def blip2_filter() -> Blip2ForImageTextRetrieval:
    return Blip2ForImageTextRetrieval(_blip2(use_qformer_text_input=True))


def blip2_opt() -> Blip2ForConditionalGeneration:
    writer = OPTConfig(
        **TEXT,
        hidden_size=32,
        ffn_dim=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        word_embed_proj_dim=32,
        max_position_embeddings=64,
    )
    return Blip2ForConditionalGeneration(_blip2(writer))


def blip2_t5() -> Blip2ForConditionalGeneration:
    writer = T5Config(
        vocab_size=len(VOCABULARY),
        d_model=32,
        d_kv=16,
        d_ff=64,
        num_layers=2,
        num_heads=2,
        pad_token_id=PAD,
        eos_token_id=SEP,
        decoder_start_token_id=PAD,
    )
    return Blip2ForConditionalGeneration(_blip2(writer))


def git() -> GitForCausalLM:
    return GitForCausalLM(GitConfig(**SHAPE, **TEXT, vision_config=EYES, max_position_embeddings=64))


def vit_gpt2() -> VisionEncoderDecoderModel:
    writer = GPT2Config(**TEXT, n_embd=32, n_layer=2, n_head=2, n_positions=64, add_cross_attention=True)
    config = VisionEncoderDecoderConfig.from_encoder_decoder_configs(ViTConfig(**EYES), writer)
    config.decoder_start_token_id, config.pad_token_id, config.eos_token_id = CLS, PAD, SEP
    return VisionEncoderDecoderModel(config)


def llava() -> LlavaForConditionalGeneration:
    writer = LlamaConfig(**SHAPE, **TEXT, max_position_embeddings=64)
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(**EYES),
        text_config=writer,
        image_token_index=IMAGE,
        vision_feature_layer=-1,
    )
    return LlavaForConditionalGeneration(config)


MAKERS = {
    make.__name__: make
    for make in (clip, siglip, siglip2, blip2_filter, blip2_opt, blip2_t5, git, vit_gpt2, llava)
}


def make(directory: Path, name: str, seed: int = 0, vocabulary: Sequence[str] = VOCABULARY) -> Path:
    """Write the checkpoint of ``MAKERS[name]``, its tokenizer and its preprocessor.

    The spread of its weights is large, so that scores and captions depend on image and text visibly.
    """
    torch.manual_seed(seed)
    model = MAKERS[name]()
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if "norm" not in key.lower() and "logit" not in key and ".ln_" not in key:
                parameter.normal_(0, 0.25)
    model.save_pretrained(directory)
    tokenizer: Any = BertTokenizerFast(
        vocab={word: number for number, word in enumerate(vocabulary)}, extra_special_tokens=["<image>"]
    )
    if name == "siglip2":
        tokenizer = Siglip2Tokenizer({token: number for number, token in enumerate(LETTERS)}, [])
    size = {"height": SIZE, "width": SIZE}
    if name == "siglip2":
        processor: Any = Siglip2ImageProcessorPil(patch_size=8, max_num_patches=16)
    elif name in ("clip", "llava"):
        processor = CLIPImageProcessorPil(size={"shortest_edge": SIZE}, crop_size=size)
    else:
        processor = BlipImageProcessorPil(size=size)
    if name == "llava":
        tokenizer.image_token = "<image>"
        LlavaProcessor(
            processor,
            tokenizer,
            patch_size=8,
            vision_feature_select_strategy="default",
            num_additional_image_tokens=1,
            chat_template=CHAT,
            image_token="<image>",
        ).save_pretrained(directory)
    else:
        tokenizer.save_pretrained(directory)
        processor.save_pretrained(directory)
    return directory
