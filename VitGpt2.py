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


class VitGpt2(captioning.Captioner):
    name, published, model_type = "VitGpt2", "nlpconnect/vit-gpt2-image-captioning", "vision-encoder-decoder"
    decoding = {"max_length": 16, "num_beams": 4, "do_sample": False}  # max_length counts the token that starts a text

    def load(self, folder):
        from transformers import VisionEncoderDecoderModel

        from utils.models.image_text_models import load_parts

        self.model, self.image_processor, self.tokenizer = load_parts(self, folder, VisionEncoderDecoderModel)

    def caption(self, pixels, **decoding):
        tokens = self.model.generate(pixel_values=pixels, **decoding)
        return self.tokenizer.batch_decode(tokens, skip_special_tokens=True)


def parse_args(argv=None):
    return captioning.parse_args(__doc__, VitGpt2, argv)


def main(args):
    captioning.caption_splits(args, VitGpt2())


if __name__ == "__main__":
    script.run_main(main, parse_args(), goes_on=True)
