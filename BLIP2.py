"""Caption the images of a gesture with BLIP-2.

python BLIP2.py --gesture call

Reads  <data_dir>/<gesture>/<split>/images, for both splits unless one is named
Writes <data_dir>/<gesture>/<split>: BLIP2_filenames.txt and BLIP2_captions.txt, line by line one image and its
       caption, and BLIP2_captions.jsonl, every caption as it came. The same command continues a run.
An image that cannot be read, or that gets no caption in two attempts, is named and left out of both lists.
The model has 3.7 billion parameters: weights of 7.5 GB in bf16 (GPU) or 15 GB in fp32 (CPU).
"""

from utils.captions import captioning
from utils.system import script

CAPTIONER = captioning.Captioner(
    name="BLIP2", model="Salesforce/blip2-opt-2.7b", model_type="blip-2",
    model_class="Blip2ForConditionalGeneration",
    decoding={"max_new_tokens": 20, "num_beams": 1, "do_sample": False},  # what plain `generate` does
)


def parse_args(argv=None):
    return captioning.parse_args(__doc__, CAPTIONER, argv)


def main(args):
    captioning.caption_splits(args, CAPTIONER)


if __name__ == "__main__":
    script.run_main(main, parse_args(), goes_on=True)
