"""The parts of the tiny Stable Diffusion: real classes of diffusers and transformers with small configs."""

import json

from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from utils.data.gestures import GESTURES
from utils.synthetic.scene import COLORS, SKIN_TONES

RESOLUTION = 128  # pixels
LENGTH = 32  # tokens of a prompt, padding included
WIDTH = 128  # of a token's embedding
START, END = "<|startoftext|>", "<|endoftext|>"
WORDS = "a photo of left right hand with sleeve in front background person holding up the their"


def build_tokenizer(folder):
    """Train a CLIP tokenizer on the words of the captions and save it: known words are one token, others bytes.

    Returns the CLIPTokenizer opened from `folder`.
    """
    words = [*WORDS.split(), *SKIN_TONES, *COLORS, *(w for g in GESTURES.values() for w in g.phrase.split())]
    bpe = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    bpe.normalizer = normalizers.Lowercase()
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=4096, initial_alphabet=letters, end_of_word_suffix="</w>", show_progress=False
    )
    bpe.train_from_iterator(words, trainer)
    learned = json.loads(bpe.to_str())["model"]
    pieces = [
        *letters,
        *(letter + "</w>" for letter in letters),
        *sorted(learned["vocab"], key=learned["vocab"].get),
    ]
    vocabulary = {piece: i for i, piece in enumerate(dict.fromkeys([*pieces, START, END]))}
    merges = [" ".join(pair) for pair in learned["merges"]]

    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False), encoding="utf-8")
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]) + "\n", encoding="utf-8")
    config = {"tokenizer_class": "CLIPTokenizer", "model_max_length": LENGTH, "pad_token": END}
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    return CLIPTokenizer.from_pretrained(folder)


def build_text_encoder(tokenizer):
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=WIDTH,
            intermediate_size=4 * WIDTH,
            num_hidden_layers=3,
            num_attention_heads=4,
            max_position_embeddings=LENGTH,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def build_vae():
    """Four levels, so one latent cell stands for 8×8 pixels as in Stable Diffusion. Its latents have variance 1."""
    return AutoencoderKL(
        block_out_channels=(24, 48, 80, 96),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=1,
        scaling_factor=1.0,
        sample_size=RESOLUTION,
    )


def build_unet():
    """Three levels; attention at 8×8, where it is cheap."""
    return UNet2DConditionModel(
        sample_size=RESOLUTION // 8,
        block_out_channels=(80, 96, 112),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=WIDTH,
        attention_head_dim=4,
        norm_num_groups=16,
    )


def build_scheduler():
    """The noise schedule of Stable Diffusion v1.4."""
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )
