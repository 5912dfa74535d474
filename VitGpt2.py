"""Caption the images of a gesture with ViT-GPT2.

python VitGpt2.py --gesture call

Reads  <data_dir>/<gesture>/<split>/images, for both splits unless one is named
Writes <data_dir>/<gesture>/<split>: VitGpt2_filenames.txt and VitGpt2_captions.txt, line by line one image and its
       caption, and VitGpt2_captions.jsonl, every caption as it came. The same command continues a run.
An image that cannot be read, or that gets no caption in two attempts, is named and left out of both lists.
The model has 0.24 billion parameters and runs on a CPU, too.
"""

from utils.captions import captioning
from utils.system import script

CAPTIONER = captioning.Captioner(
    name="VitGpt2", model="nlpconnect/vit-gpt2-image-captioning", model_type="vision-encoder-decoder",
    model_class="VisionEncoderDecoderModel",
    decoding={"max_length": 16, "num_beams": 4, "do_sample": False},  # max_length counts the token that starts a text
)


def parse_args(argv=None):
    return captioning.parse_args(__doc__, CAPTIONER, argv)


def main(args):
    captioning.caption_splits(args, CAPTIONER)


if __name__ == "__main__":
    script.run_main(main, parse_args(), goes_on=True)
