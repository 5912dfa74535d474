"""Questions to an instruction model on this machine, through transformers and its chat template.

torch is imported once a model has been found, so that a name that leads nowhere is refused in a second.
"""

from utils.models.hub import fetch_folder, load_model, load_part, read_model_config
from utils.models.questions import Answer
from utils.system.errors import UserError, first_line

TEMPERATURE, TOP_P = 0.6, 0.9  # of answers after the first; Llama 3's own
MAX_NEW_TOKENS = 128
CONFIG_FILES = ["*.json", "*.jinja", "*.model", "*.txt"]
WANTED = "the folder of an instruction model"


class GumbelNoise:
    """Processor that adds Gumbel noise to the scores (B, V): the largest is then a draw from their softmax.

    Each row has its own of the B `generators`, so its answer does not depend on the rows it shares a batch with.
    None adds nothing.
    """

    def __init__(self, generators):
        self.generators = generators

    def __call__(self, input_ids, scores):
        for row, generator in enumerate(self.generators):
            if generator is not None:
                exponential = scores.new_empty(scores.shape[1], device="cpu").exponential_(generator=generator)
                scores[row] -= exponential.log().to(scores.device)
        return scores


class LocalModel:
    """An instruction model of transformers, by hub id or folder."""

    def __init__(self, name, device):
        """`device` as on the command line. UserError when the model cannot be had, lacks weights or a chat template."""
        folder = fetch_folder(name, CONFIG_FILES, WANTED, ", or use --backend api or rules")
        read_model_config(name, folder, WANTED)

        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig
        from transformers.utils import logging

        from utils.system.device import has_bf16, resolve_device

        logging.set_verbosity_error()
        logging.disable_progress_bar()
        self.name, self.device = name, resolve_device(device)
        # Without a False transformers asks on the terminal whether to run the code of a folder, and takes a yes
        self.tokenizer = load_part(name, "tokenizer",
                                   lambda: AutoTokenizer.from_pretrained(folder, trust_remote_code=False))
        if not self.tokenizer.chat_template:
            raise UserError(f"{name}: it has no chat template; give an instruction (chat) model")
        self.tokenizer.padding_side = "left"  # the answers begin where the prompts end

        folder = fetch_folder(name, [*CONFIG_FILES, "*.safetensors"], WANTED)
        dtype = torch.float32 if self.device.type == "cpu" or not has_bf16(self.device) else torch.bfloat16
        model = load_model(name, folder, "language model", AutoModelForCausalLM, dtype, use_safetensors=True,
                           trust_remote_code=False)
        self.model = model.to(self.device)
        ends = model.generation_config.eos_token_id
        ends = self.tokenizer.eos_token_id if ends is None else ends
        self.ends = ends if isinstance(ends, list) else [ends]
        if not self.ends or not all(type(end) is int and 0 <= end < len(self.tokenizer) for end in self.ends):
            raise UserError(f"{name}: nothing says which token ends an answer (eos_token_id is {ends!r}); correct its "
                            "generation_config.json, or give another model")
        if self.tokenizer.pad_token_id is None:
            self.tokenizer.pad_token = self.tokenizer.convert_ids_to_tokens(self.ends[0])
        self.generation_config = GenerationConfig(
            max_new_tokens=MAX_NEW_TOKENS, do_sample=False, eos_token_id=self.ends,
            pad_token_id=self.tokenizer.pad_token_id)

    def ask(self, questions):
        """Answers to a batch of Questions."""
        import torch
        from transformers import LogitsProcessorList, TemperatureLogitsWarper, TopPLogitsWarper

        from utils.system.device import explain_out_of_memory

        texts = [self.apply_template(question.prompt) for question in questions]
        inputs = load_part(self.name, "tokenizer", lambda: self.tokenizer(
            texts, padding=True, add_special_tokens=False, return_tensors="pt"), "work").to(self.device)
        generators = [None if question.is_greedy else torch.Generator().manual_seed(question.seed)
                      for question in questions]
        processors = LogitsProcessorList([TemperatureLogitsWarper(TEMPERATURE), TopPLogitsWarper(TOP_P),
                                          GumbelNoise(generators)])
        def generate():
            with explain_out_of_memory(f"{self.name}: {len(questions)} captions at once are more than the memory of "
                                       f"{self.device} holds; give a smaller --batch_size"):
                return self.model.generate(
                    input_ids=inputs.input_ids, attention_mask=inputs.attention_mask, logits_processor=processors,
                    generation_config=self.generation_config)

        ids = load_part(self.name, "language model", generate, "work")  # (B, prompt and answer)
        return [self.read_answer(row) for row in ids[:, inputs.input_ids.shape[1]:].tolist()]

    def apply_template(self, prompt):
        messages = [{"role": "user", "content": prompt}]
        try:
            return self.tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        except Exception as error:  # templates are programs, with errors of their own
            raise UserError(f"{self.name}: its chat template fails ({first_line(error)}); "
                            "give another model") from error

    def read_answer(self, ids):
        end = next((i for i, token in enumerate(ids) if token in self.ends), None)
        return Answer(self.tokenizer.decode(ids[:end], skip_special_tokens=True), is_whole=end is not None)
