"""A small data set in the layout that train.py reads."""

import numpy as np
from PIL import Image


def write_world(folder, pipeline, num_images=6):
    """(folder, flags): images of both splits, a gesture feature, and the flags of train.py that lead to them."""
    random = np.random.default_rng(0)
    for split in ("train", "test"):
        images = folder / "data" / "call" / split / "images"
        images.mkdir(parents=True)
        names = [f"{i}.png" for i in range(num_images)]
        for name in names:
            pixels = random.integers(0, 256, (40, 48, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(images / name)
        captions = [f"a {('red', 'blue')[i % 2]} hand making phone call hand gesture" for i in range(num_images)]
        (images.parent / "synthetic_filenames.txt").write_text("\n".join(names) + "\n")
        (images.parent / "synthetic_enriched.txt").write_text("\n".join(captions) + "\n")
    np.save(folder / "feature.npy", random.normal(size=63).astype(np.float32))
    flags = ["--gesture", "call", "--captioner", "synthetic", "--data_dir", folder / "data",
             "--pretrained_model_name_or_path", pipeline, "--feature_npy_path", folder / "feature.npy",
             "--device", "cpu", "--num_validation_images", 0]
    return folder, flags
