"""Randomly initialised, seeded captioners and a CLIP of real classes, with processors and tokenizers, as folders.

They babble, but differently for different pictures, and the same words for the same picture.
"""

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import (
    Blip2Config,
    Blip2ForConditionalGeneration,
    Blip2Processor,
    BlipImageProcessorPil,
    CLIPConfig,
    CLIPImageProcessorPil,
    CLIPModel,
    GPT2Config,
    PaliGemmaConfig,
    PaliGemmaForConditionalGeneration,
    PaliGemmaProcessor,
    PreTrainedTokenizerFast,
    SiglipImageProcessorPil,
    VisionEncoderDecoderConfig,
    VisionEncoderDecoderModel,
    ViTConfig,
    ViTImageProcessorPil,
)

from tests.tiny_models import write_tokenizer

TINY_PIXELS, PATCH = 32, 8  # (32 / 8)^2 = 16 patches
WORDS = """a the man woman girl boy person people in with and on of holding up wearing shirt hat glasses green red
blue white black room street wall chair window phone hand fingers sign smiling sitting standing looking front
caption""".split()
LAYERS = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
VISION = {**LAYERS, "image_size": TINY_PIXELS, "patch_size": PATCH}


def build_tokenizer(special_tokens):
    """WORDS, one token each, after `special_tokens` by name; a text begins with bos."""
    vocabulary = [*special_tokens.values(), "<unk>", *(f"Ġ{word}" for word in WORDS)]
    vocabulary = {token: i for i, token in enumerate(dict.fromkeys(vocabulary))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    bos = special_tokens["bos_token"]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{bos} $A", special_tokens=[(bos, vocabulary[bos])])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", **special_tokens)


def randomize(model, seed, scale=0.3):
    """Weights large enough for clear decisions that depend on the picture; norms and biases stay."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in sorted(model.named_parameters()):
            if weight.dim() > 1 and "norm" not in name.lower():
                weight.copy_(torch.randn(weight.shape, generator=generator) * scale)
    return model


def save(folder, model, *processors):
    for part in (model, *processors):
        part.save_pretrained(folder)
    return folder


def build_tiny_blip2(folder, seed=0):
    """BLIP-2 with a tiny OPT; </s> begins every text, as for the published one."""
    tokenizer = build_tokenizer({"bos_token": "</s>", "eos_token": "</s>", "pad_token": "<pad>"})
    size = {"height": TINY_PIXELS, "width": TINY_PIXELS}
    processor = Blip2Processor(BlipImageProcessorPil(size=size), tokenizer, num_query_tokens=4)
    opt = {"model_type": "opt", "vocab_size": len(tokenizer), "hidden_size": 32, "word_embed_proj_dim": 32,
           "ffn_dim": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "max_position_embeddings": 64,
           "bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id,
           "pad_token_id": tokenizer.pad_token_id}
    config = Blip2Config(
        vision_config=VISION, text_config=opt, num_query_tokens=4,
        qformer_config={**LAYERS, "vocab_size": 8, "encoder_hidden_size": 32},
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"))
    return save(folder, randomize(Blip2ForConditionalGeneration(config), seed), processor)


def build_tiny_paligemma(folder, seed=0):
    """PaliGemma: SigLIP and a tiny Gemma."""
    tokenizer = build_tokenizer({"pad_token": "<pad>", "eos_token": "<eos>", "bos_token": "<bos>"})
    image_processor = SiglipImageProcessorPil(size={"height": TINY_PIXELS, "width": TINY_PIXELS})
    image_processor.image_seq_length = (TINY_PIXELS // PATCH) ** 2
    processor = PaliGemmaProcessor(image_processor, tokenizer)
    gemma = {**LAYERS, "model_type": "gemma", "vocab_size": len(tokenizer), "num_key_value_heads": 1, "head_dim": 16,
             "bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id,
             "pad_token_id": tokenizer.pad_token_id}
    config = PaliGemmaConfig(
        vision_config={**VISION, "model_type": "siglip_vision_model", "projection_dim": 32}, text_config=gemma,
        projection_dim=32, image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id)
    model = randomize(PaliGemmaForConditionalGeneration(config), seed)
    with torch.no_grad():  # the processor adds 1,152 tokens for places and shapes, which nobody wants to read
        model.get_input_embeddings().weight[tokenizer.convert_tokens_to_ids("<loc0000>"):] = 0
    return save(folder, model, processor)


def build_tiny_vit_gpt2(folder, seed=0):
    """ViT and GPT-2; one token starts, ends and pads a text, as for the published one."""
    end = "<|endoftext|>"
    tokenizer = build_tokenizer({"bos_token": end, "eos_token": end, "pad_token": end})
    image_processor = ViTImageProcessorPil(size={"height": TINY_PIXELS, "width": TINY_PIXELS})
    decoder = GPT2Config(
        vocab_size=len(tokenizer), n_embd=32, n_layer=2, n_head=2, n_positions=64, bos_token_id=0, eos_token_id=0,
        add_cross_attention=True, is_decoder=True)
    config = VisionEncoderDecoderConfig.from_encoder_decoder_configs(ViTConfig(**VISION), decoder)
    config.decoder_start_token_id = config.pad_token_id = config.eos_token_id = 0
    model = randomize(VisionEncoderDecoderModel(config), seed)
    model.generation_config.update(decoder_start_token_id=0, pad_token_id=0, eos_token_id=0)
    return save(folder, model, image_processor, tokenizer)


def build_tiny_clip(folder, seed=0):
    """CLIP with 16 tokens per text and a space of 16 dimensions."""
    tokenizer = write_tokenizer(folder)
    image_processor = CLIPImageProcessorPil(size={"shortest_edge": TINY_PIXELS},
                                            crop_size={"height": TINY_PIXELS, "width": TINY_PIXELS})
    text = {**LAYERS, "vocab_size": len(tokenizer), "max_position_embeddings": tokenizer.model_max_length,
            "bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id}
    config = CLIPConfig(text_config=text, vision_config=VISION, projection_dim=16)
    torch.manual_seed(seed)  # of the class embedding, which has one dimension
    return save(folder, randomize(CLIPModel(config), seed), image_processor, tokenizer)
