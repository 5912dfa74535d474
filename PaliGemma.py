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


class PaliGemma(captioning.Captioner):
    name, published, model_type = "PaliGemma", "google/paligemma-3b-mix-224", "paligemma"
    prompt = "caption"
    decoding = {"max_new_tokens": 100, "num_beams": 1, "do_sample": False}

    def load(self, folder):
        from PIL import Image
        from transformers import AutoProcessor, PaliGemmaForConditionalGeneration

        from utils.models.hub import load_part
        from utils.models.image_text_models import load_parts

        self.model, self.image_processor, self.tokenizer = load_parts(self, folder, PaliGemmaForConditionalGeneration)
        # The prompt stands behind the places of the image's tokens
        processor = load_part(str(folder), "processor", lambda: AutoProcessor.from_pretrained(
            folder, backend="pil", trust_remote_code=False))
        inputs = processor(text=f"{processor.image_token}{self.prompt}", images=Image.new("RGB", (32, 32)),
                           return_tensors="pt")
        self.prompt_tokens = {key: inputs[key] for key in ("input_ids", "attention_mask", "token_type_ids")}  # (1, L)

    def caption(self, pixels, **decoding):
        prompt = {name: tokens.to(pixels.device).repeat(len(pixels), 1) for name, tokens in self.prompt_tokens.items()}
        tokens = self.model.generate(pixel_values=pixels, **prompt, **decoding)
        return self.tokenizer.batch_decode(tokens[:, prompt["input_ids"].shape[1]:], skip_special_tokens=True)


def parse_args(argv=None):
    return captioning.parse_args(__doc__, PaliGemma, argv)


def main(args):
    captioning.caption_splits(args, PaliGemma())


if __name__ == "__main__":
    script.run_main(main, parse_args(), goes_on=True)
