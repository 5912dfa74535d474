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


class Blip2(captioning.Captioner):
    name, published, model_type = "BLIP2", "Salesforce/blip2-opt-2.7b", "blip-2"
    decoding = {"max_new_tokens": 20, "num_beams": 1, "do_sample": False}  # what plain `generate` does

    def load(self, folder):
        from transformers import Blip2ForConditionalGeneration

        from utils.models.image_text_models import load_parts

        self.model, self.image_processor, self.tokenizer = load_parts(self, folder, Blip2ForConditionalGeneration)

    def caption(self, pixels, **decoding):
        tokens = self.model.generate(pixel_values=pixels, **decoding)
        return self.tokenizer.batch_decode(tokens, skip_special_tokens=True)


def parse_args(argv=None):
    return captioning.parse_args(__doc__, Blip2, argv)


def main(args):
    captioning.caption_splits(args, Blip2())


if __name__ == "__main__":
    script.run_main(main, parse_args(), goes_on=True)
