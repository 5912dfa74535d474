"""Images as InceptionV3 wants them: resized to 299×299, pixel values kept in 0..255.

Apart from the network, because worker processes that only resize need no torch.
"""

import numpy as np
from PIL import Image

SIDE = 299  # pixels


def prepare_clean(image):
    """An RGB PIL image as float32 (3, 299, 299) in 0..255, its aspect ratio not kept.

    The resize of clean-fid (Parmar et al., "On Aliased Resizing and Surprising Subtleties in GAN
    Evaluation", 2022): bicubic with antialiasing on floats, so that nothing is rounded to whole levels;
    what overshoots is clipped.
    """
    size = (SIDE, SIDE)
    resized = [channel.convert("F").resize(size, Image.Resampling.BICUBIC) for channel in image.split()]
    return np.clip(np.stack([np.asarray(channel) for channel in resized]), 0, 255)


def prepare_published(image):
    """An RGB PIL image as float32 (3, 299, 299) of whole numbers in 0..255, its aspect ratio kept.

    What torchvision's Resize(299) and CenterCrop(299) do to a PIL image: antialiased bilinear resize of the
    short side, rounded to 8 bits, then the middle square.
    """
    short = min(image.size)
    width, height = (int(SIDE * side / short) for side in image.size)
    resized = image.resize((width, height), Image.Resampling.BILINEAR)
    left, top = round((width - SIDE) / 2), round((height - SIDE) / 2)
    pixels = np.asarray(resized.crop((left, top, left + SIDE, top + SIDE)), dtype=np.float32)
    return np.ascontiguousarray(pixels.transpose(2, 0, 1))


PREPARE = {"clean": prepare_clean, "published": prepare_published}
