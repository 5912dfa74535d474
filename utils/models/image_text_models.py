"""Models of transformers that know pictures and words: captioners, and CLIP.

Pictures are prepared with Pillow and NumPy, whether or not torchvision is there: same pixels everywhere.
"""

import functools
from dataclasses import dataclass

import numpy as np
import torch
import transformers

from utils.models.clip_tokens import check_vocabulary
from utils.models.hub import WEIGHTS, load_model, load_part
from utils.system.device import explain_out_of_memory, has_bf16, resolve_device
from utils.system.digests import sha256
from utils.system.errors import UserError

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
HASHED_PIECES, PIECE_BYTES = 1024, 1024  # of every file of weights
# A longer image is cropped before CLIP's resize, which would blow up 30,000×1 pixels a thousandfold; its own crop
# takes the middle square anyway.
LONGEST_SIDE = 16  # times the shorter one


def choose_dtype(name, device):
    """"auto" becomes fp32 on a CPU, else bf16 where the device has it, else fp16."""
    if name != "auto":
        return name
    if device.type == "cpu":
        return "fp32"
    return "bf16" if has_bf16(device) else "fp16"


def weights_digest(folder):
    """Start of a SHA-256 over names, sizes and 1,024 pieces of the weights: at once, where all of them take a minute.

    The pieces of 1 KiB are spread evenly over each file, so a tensor that was trained again shows if it is longer
    than a thousandth of its file; a file of up to 1 MiB is read whole.
    """
    def read():
        for path in sorted(path for pattern in WEIGHTS for path in folder.glob(pattern)):
            size = path.stat().st_size
            yield f"{path.name}:{size}:".encode()
            with open(path, "rb") as file:
                for start in range(0, size, max(PIECE_BYTES, size // HASHED_PIECES)):
                    file.seek(start)
                    yield file.read(PIECE_BYTES)

    return sha256(read())


def quiet_transformers():
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()


# trust_remote_code: without a False transformers asks on the terminal whether to run the code of a folder.
def load_image_processor(name, folder):
    return load_part(name, "image processor", lambda: transformers.AutoImageProcessor.from_pretrained(
        folder, backend="pil", trust_remote_code=False))


def load_tokenizer(name, folder):
    return load_part(name, "tokenizer",
                     lambda: transformers.AutoTokenizer.from_pretrained(folder, trust_remote_code=False))


def to_pixels(image_processor, image):
    """A PIL image as the model wants it: float32 (3, H, W)."""
    # Said, because the layout of a picture three pixels high could be guessed wrongly
    return image_processor(images=np.asarray(image), input_data_format="channels_last",
                           return_tensors="pt").pixel_values[0]


# Captioners


def load_parts(captioner, folder, model_class):
    """(model, image processor, tokenizer) of the folder of a captioner, on its device and in its dtype.

    UserError for parts that do not load.
    """
    quiet_transformers()
    model = load_model(str(folder), folder, "model", model_class, DTYPES[captioner.dtype]).to(captioner.device)
    return model, load_image_processor(str(folder), folder), load_tokenizer(str(folder), folder)


@torch.no_grad()
def run_batch(captioner, images, decoding, seed=None):
    """One text for each prepared image, with these arguments of `generate`."""
    if seed is not None:
        torch.manual_seed(seed)
    with explain_out_of_memory(f"--batch_size {len(images)} is too much for {captioner.device}; give a smaller one: "
                               "what is captioned stays"):
        return captioner.caption(torch.stack(images).to(captioner.device, DTYPES[captioner.dtype]), **decoding)


# CLIP


def crop_to_pixels(image_processor, image):
    """As to_pixels, of the middle of a very long image."""
    length = LONGEST_SIDE * min(image.size)
    left, top = (max(0, side - length) // 2 for side in image.size)
    return to_pixels(image_processor, image.crop(
        (left, top, left + min(length, image.width), top + min(length, image.height))))


@dataclass
class Clip:
    """CLIP in fp32; embeddings are unit vectors, float64 on the CPU."""

    name: str
    model: transformers.CLIPModel
    image_processor: object
    tokenizer: object

    @property
    def max_length(self):
        """Tokens per text, the first and the last one included (77 for every released model)."""
        return min(self.tokenizer.model_max_length, self.model.config.text_config.max_position_embeddings)

    @property
    def prepare(self):
        """Picklable function from a PIL image to float32 (3, H, W): resized, the middle square."""
        return functools.partial(crop_to_pixels, self.image_processor)

    @torch.no_grad()
    def encode_images(self, images):
        """(n, d) of n prepared images."""
        pixels = torch.stack(images).to(self.model.device)
        return self.to_unit(self.model.get_image_features(pixel_values=pixels))

    @torch.no_grad()
    def encode_texts(self, texts):
        """(n, d) of n texts, cut to max_length tokens."""
        inputs = self.tokenizer(texts, padding=True, truncation=True, max_length=self.max_length,
                                return_tensors="pt").to(self.model.device)
        return self.to_unit(self.model.get_text_features(**inputs))

    def to_unit(self, outputs):
        vectors = outputs.pooler_output.double().cpu()
        vectors = vectors / vectors.norm(dim=1, keepdim=True)
        if not vectors.isfinite().all():
            raise UserError(f"{self.name}: what the model computes is not a number; fetch it again, or give another")
        return vectors.numpy()

    def are_cut(self, texts):
        """Whether each text has more than max_length tokens."""
        return [len(ids) > self.max_length for ids in self.tokenizer(texts, verbose=False).input_ids]


def load_clip(name, folder, device):
    """The Clip of a folder, without TF32. UserError for parts that do not load."""
    quiet_transformers()
    device = resolve_device(device)
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    model = load_model(name, folder, "model", transformers.CLIPModel, torch.float32)
    clip = Clip(name, model.to(device), load_image_processor(name, folder), load_tokenizer(name, folder))
    check_vocabulary(name, clip.tokenizer, model.config.text_config.vocab_size)
    return clip
