"""Caption the images of a gesture with PaliGemma.

python PaliGemma.py --gesture call

Reads  <data_dir>/<gesture>/<split>/images, for both splits unless one is named
Writes <data_dir>/<gesture>/<split>: PaliGemma_filenames.txt and PaliGemma_captions.txt, line by line one image and
       its caption, and PaliGemma_captions.jsonl, every caption as it came. The same command continues a run.
An image that cannot be read, or that gets no caption in two attempts, is named and left out of both lists.
The published model has 2.9 billion parameters: weights of 5.9 GB in bf16 (GPU) or 12 GB in fp32 (CPU). It is gated:
accept its licence on https://huggingface.co/google/paligemma-3b-mix-224, then log in with `hf auth login`.
"""

from utils.captions import captioning
from utils.system import script

CAPTIONER = captioning.Captioner(
    name="PaliGemma", model="google/paligemma-3b-mix-224", model_type="paligemma",
    model_class="PaliGemmaForConditionalGeneration", prompt="caption",
    decoding={"max_new_tokens": 100, "num_beams": 1, "do_sample": False},
)


def parse_args(argv=None):
    return captioning.parse_args(__doc__, CAPTIONER, argv)


def main(args):
    captioning.caption_splits(args, CAPTIONER)


if __name__ == "__main__":
    script.run_main(main, parse_args(), goes_on=True)
