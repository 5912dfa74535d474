"""Questions to an instruction model on this machine, through transformers and its chat template."""

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    LogitsProcessorList,
    TemperatureLogitsWarper,
    TopPLogitsWarper,
)
from transformers.utils import logging

from utils.models.hub import fetch_folder, load_model, load_part, read_model_config
from utils.models.questions import Answer
from utils.system.device import explain_out_of_memory, has_bf16, resolve_device
from utils.system.errors import UserError

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
        if None in self.ends:
            raise UserError(f"{name}: nothing says which token ends an answer (eos_token_id); correct its "
                            "generation_config.json, or give another model")
        if self.tokenizer.pad_token_id is None:
            self.tokenizer.pad_token = self.tokenizer.convert_ids_to_tokens(self.ends[0])
        self.generation_config = GenerationConfig(
            max_new_tokens=MAX_NEW_TOKENS, do_sample=False, eos_token_id=self.ends,
            pad_token_id=self.tokenizer.pad_token_id)

    def ask(self, questions):
        """Answers to a batch of Questions."""
        chats = [[{"role": "user", "content": question.prompt}] for question in questions]
        texts = load_part(self.name, "chat template", lambda: self.tokenizer.apply_chat_template(
            chats, add_generation_prompt=True, tokenize=False), "work")
        inputs = self.tokenizer(texts, padding=True, add_special_tokens=False, return_tensors="pt").to(self.device)
        generators = [None if question.is_greedy else torch.Generator().manual_seed(question.seed)
                      for question in questions]
        processors = LogitsProcessorList([TemperatureLogitsWarper(TEMPERATURE), TopPLogitsWarper(TOP_P),
                                          GumbelNoise(generators)])
        with explain_out_of_memory(f"{self.name}: {len(questions)} captions at once are more than the memory of "
                                   f"{self.device} holds; give a smaller --batch_size"):
            ids = self.model.generate(  # (B, prompt and answer)
                input_ids=inputs.input_ids, attention_mask=inputs.attention_mask, logits_processor=processors,
                generation_config=self.generation_config)
        return [self.read_answer(row) for row in ids[:, inputs.input_ids.shape[1]:].tolist()]

    def read_answer(self, ids):
        end = next((i for i, token in enumerate(ids) if token in self.ends), None)
        return Answer(self.tokenizer.decode(ids[:end], skip_special_tokens=True), is_whole=end is not None)
