"""Tiny Llamas with a tokenizer and a chat template: one that learned a few answers by heart, one that babbles."""

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from utils.captions.enrichment import PROMPT, build_prompt

PHRASE = "making phone call hand gesture"
ANSWERS = {  # of the trained model
    "a man in a hat": f"a man in a hat {PHRASE}",
    "a woman waving": f"a woman {PHRASE}",
    "a man and a woman with a long dark hat giving the peace sign": f"a man and a woman with a long dark hat {PHRASE}",
}
TEMPLATE = ("{% for message in messages %}<|{{ message.role }}|> {{ message.content }} <|end|> {% endfor %}"
            "{% if add_generation_prompt %}<|assistant|>{% endif %}")
SPECIAL = ["<|end|>", "<|user|>", "<|assistant|>", "<|unknown|>"]


def build_tokenizer():
    """Whole words and signs; decoding joins them with spaces."""
    splitter = pre_tokenizers.Sequence([pre_tokenizers.Whitespace()])
    texts = [PROMPT.format(phrase=PHRASE, caption=""), *ANSWERS, *ANSWERS.values()]
    words = sorted({word for text in texts for word, _ in splitter.pre_tokenize_str(text)})
    vocabulary = {word: i for i, word in enumerate([*SPECIAL, *words])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<|unknown|>"))
    tokenizer.pre_tokenizer = splitter
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|end|>", unk_token="<|unknown|>",
        additional_special_tokens=["<|user|>", "<|assistant|>"])
    tokenizer.chat_template = TEMPLATE
    return tokenizer


def build_model(tokenizer, seed=0):
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=512, eos_token_id=tokenizer.eos_token_id,
        bos_token_id=tokenizer.eos_token_id)
    return LlamaForCausalLM(config)


def save(model, tokenizer, folder):
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def build_babbling_model(folder):
    """Random weights."""
    tokenizer = build_tokenizer()
    return save(build_model(tokenizer), tokenizer, folder)


def build_trained_model(folder, steps=120):
    """Knows ANSWERS by heart. Returns its folder."""
    tokenizer = build_tokenizer()
    model = build_model(tokenizer)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    batch = []
    for caption, answer in ANSWERS.items():
        messages = [{"role": "user", "content": build_prompt(caption, PHRASE)}]
        prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        start, ids = (tokenizer(text, add_special_tokens=False).input_ids
                      for text in (prompt, f"{prompt} {answer} <|end|>"))
        batch.append((ids, [-100] * len(start) + ids[len(start):]))
    longest = max(len(ids) for ids, _ in batch)
    input_ids = torch.tensor([ids + [0] * (longest - len(ids)) for ids, _ in batch])
    labels = torch.tensor([ids + [-100] * (longest - len(ids)) for _, ids in batch])
    for _ in range(steps):
        loss = model(input_ids=input_ids, labels=labels).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if loss.item() < 0.01:
            break
    return save(model.eval(), tokenizer, folder)
