"""Captions rewritten by a model: the prompt, the check of answers, who is asked again, and a real local model."""

import json

import pytest
import torch

from tests.chat_models import ANSWERS, build_babbling_model, build_trained_model
from utils.captions.enrichment import (
    MAX_FAILED,
    build_prompt,
    check_coverage,
    enrich_lines,
    hold_unanswered,
    line_seed,
)
from utils.captions.phrase import Target
from utils.captions.rules import check_answer
from utils.data.gestures import GESTURES
from utils.models.clip_tokens import load_token_counter
from utils.models.language_models import GumbelNoise, LocalModel
from utils.models.questions import Answer, NoAnswerError, Question
from utils.system.errors import UserError

PHRASE = GESTURES["call"].phrase
TARGET = Target(GESTURES["call"], PHRASE, *load_token_counter())
CAPTION = "a girl in a green shirt and glasses giving the peace sign"
GOOD = f"a girl in a green shirt and glasses {PHRASE}"
PUBLISHED = (
    "The following sentence contains incorrect hand gesture information or lacks hand gesture information. If it "
    "contains incorrect hand gesture information, modify it to 'making phone call hand gesture.' If it lacks hand "
    "gesture information, append 'making phone call hand gesture' to the end of the sentence. The original sentence "
    "is: 'a girl in a green shirt and glasses giving the peace sign.' The final sentence must include 'making phone "
    "call hand gesture' exactly as it is. Provide the modified sentence directly and independently.")


# The prompt


def test_the_prompt_is_the_published_one():
    assert build_prompt(CAPTION, PHRASE) == PUBLISHED
    assert build_prompt(f" {CAPTION}.\n", PHRASE) == PUBLISHED


def test_the_prompt_carries_any_gesture_and_any_caption():
    prompt = build_prompt("a {phrase} man's", GESTURES["like"].phrase)
    assert prompt.count("making thumbs up hand gesture") == 3 and "'a {phrase} man's.'" in prompt


# The check


@pytest.mark.parametrize("text", [
    GOOD, f"{GOOD}.", f"A girl in a green shirt and glasses, {PHRASE}.", f"  {GOOD}\n", f'"{GOOD}"', f"'{GOOD}.'",
    f"“{GOOD}”", f"a girl in a green shirt and glasses is {PHRASE}", f"a girl with glasses in a green shirt {PHRASE}"])
def test_a_good_answer_is_taken_without_spaces_and_quotation_marks_around_it(text):
    assert check_answer(Answer(text), CAPTION, TARGET) == (text.strip().strip("\"'“”"), None)


@pytest.mark.parametrize(("text", "reason"), [
    ("", "empty"), ("  \n", "empty"), ('""', "empty"),
    (f"{GOOD}\nI hope this helps", "several lines"), (f"Sure, here is the sentence:\n{GOOD}", "several lines"),
    (f"{GOOD}\u2028more", "several lines"),
    (f"Sure, {GOOD}", "talks about the task"), (f"Here is the modified sentence: {GOOD}", "talks about the task"),
    (f"Here's {GOOD}", "talks about the task"), (f"The modified sentence is: {GOOD}", "talks about the task"),
    (f"Modified sentence: {GOOD}", "talks about the task"), (f"Certainly! {GOOD}", "talks about the task"),
    (f"{GOOD} (Note: I replaced the gesture)", "talks about the task"), (f"**{GOOD}**", "talks about the task"),
    (f"{GOOD}<|eot_id|>", "talks about the task"), (f"I have changed it to {GOOD}", "talks about the task"),
    (f'"{GOOD}" is the sentence', "a mark that the caption lacks"),
    (CAPTION, "without the phrase"), (GOOD.upper(), "other letters"), (f"{GOOD}s", "other letters"),
    ("a girl in a green shirt and glasses making a phone call hand gesture", "without the phrase"),
    (f"{GOOD}, {PHRASE}", "the phrase 2 times"), (f"Making phone call hand gesture, {GOOD}", "the phrase 2 times"),
    (f"{CAPTION}, {PHRASE}", "'giving the peace sign'"), (f"{GOOD} and giving a thumbs up", "another gesture"),
    (f"{GOOD} and making stop hand gesture", "'making stop hand gesture'"), (f"{GOOD} while waving", "another gesture"),
    (PHRASE, "keeps 0 of 4 words"), (f"a man on a horse {PHRASE}", "keeps 0 of 4 words"),
    (f"{GOOD} in a big room" + " with many people" * 6, "words beside the phrase"),
])
def test_a_bad_answer_is_refused_with_the_reason(text, reason):
    enriched, fault = check_answer(Answer(text), CAPTION, TARGET)
    assert enriched is None and reason in fault


@pytest.mark.parametrize("form", [
    "Got it. {}", "Understood. {}", "You got it: {}", "The sentence is {}", "The answer is {}", "Result - {}",
    "assistant: {}", "Sure {}", "# {}", "> {}", "* {}", "{}. Hope this helps!",
    "{}. This sentence includes the gesture.", "{} (modified)", "{} [corrected]", "{} </s>", "{} [/INST]",
    "{} <end_of_turn>", "{} <br>", "{} 👍", "{}'", "{}.'", "'{}", '{}"', "“{}", "{} instead of peace", "Sure - {}",
    "Here you go: {}", "Modified: {}", "No problem: {}", "Happy to help! {}", "- {}", "1. {}", "<think>hm</think> {}"])
def test_what_a_model_says_around_the_caption_is_refused(form):
    assert check_answer(Answer(form.format(GOOD)), CAPTION, TARGET)[1] is not None


@pytest.mark.parametrize(("caption", "text"), [
    ("a girl in a green shirt with thumbs up", "a girl in a green shirt with ~"),
    ("a girl in a green shirt with her hand up", "a girl in a green shirt with her hand ~"),
    ("a man holding his hand in a peace sign", "a man holding his hand in a ~"),
    ("a man making a hand gesture", "a man making a hand gesture ~"),
    ("a man making a hand gesture", "a man making a hand gesture, ~"),
    ("a man making a funny hand gesture", "a man making a funny ~"),
    ("a man making a funny hand gesture", "a man making a funny face and ~"),
    ("a girl in a green shirt", "a girl in a red shirt ~"), ("a girl in a green shirt", "a boy in a green shirt ~"),
    ("a girl in a long green coat and black boots", "a girl in a long red coat and black boots ~"),
    ("a man", "a young man ~"), ("a girl in a green shirt", "a girl in no green shirt ~"),
    ('a man making the "ok" sign', 'a man "~"'), ("a man in a hat", "a man in a hat '~'"),
    *(("a man in a hat", f"a man in a hat {verb} ~") for verb in ("giving the", "showing her", "is doing a big")),
    (CAPTION, "A boy in a red coat and hat ~"),
])
def test_an_answer_that_is_no_sentence_or_says_something_else_is_refused(caption, text):
    assert check_answer(Answer(text.replace("~", PHRASE)), caption, TARGET)[1] is not None


@pytest.mark.parametrize(("caption", "text"), [
    ("a man giving a thumbs up in a photo", "a man ~ in a photo"), ("a woman making a funny hand gesture", "a woman ~"),
    ("a man holding his hand up to his face", "a man ~"), ("a man pointing to his head", "a man ~"),
    ("a man wearing a hat and waving at the camera", "a man wearing a hat and ~"),
    ("a man making a gesture with his thumb and index finger", "a man ~"),
    ("a woman smiles and waves", "a woman is smiling and ~"), ("two men sit", "two men are sitting, ~"),
    ("a man with headphones on", "a man with headphones on ~"),
    ("a man making a funny face", "a man making a funny face ~"),
    ("a man in a kitchen", "In a kitchen, a man is ~."), ("#1 fan, a man [left]", "#1 fan, a man ~ [left]"),
    *((caption, f"{caption} ~") for caption in (
        'a man with a sign that says "stop"', "a man in a peace t-shirt near a stop sign", "here is a man in a hat",
        "I am a man", 'a man with a note: "hello"')),
])
def test_an_answer_that_keeps_what_the_caption_says_beside_hands_is_taken(caption, text):
    text = text.replace("~", PHRASE)
    assert check_answer(Answer(text), caption, TARGET) == (text, None)


@pytest.mark.parametrize("marks", ["''", '""', "‘’", "``"])
def test_quotation_marks_around_a_line_go_although_it_has_an_apostrophe(marks):
    text = f"a man's hand on the boys' table {PHRASE}"
    for end in ("", "."):
        answer = Answer(f"{marks[0]}{text}{end}{marks[1]}")
        assert check_answer(answer, "a man's hand on the boys' table", TARGET) == (text + end, None)
    assert check_answer(Answer(f"{marks[0]}{text}{marks[1]}."), "a man's hand on the boys' table", TARGET)[0] == text


def test_an_answer_that_was_cut_off_is_refused():
    assert "cut off" in check_answer(Answer(GOOD, is_whole=False), CAPTION, TARGET)[1]


def test_an_answer_of_too_many_tokens_is_refused():
    caption = "a girl and " * 24 + "a dog"
    assert "tokens, more than 77" in check_answer(Answer(f"{caption} {PHRASE}"), caption, TARGET)[1]


# Who is asked, and how often


class Script:
    """Answers from a list per caption; notes the questions."""

    def __init__(self, answers):
        self.answers, self.questions = {caption: list(texts) for caption, texts in answers.items()}, []

    def __call__(self, questions):
        self.questions.append(questions)
        captions = [next(caption for caption in self.answers if f"'{caption}.'" in q.prompt) for q in questions]
        return [Answer(self.answers[caption].pop(0)) for caption in captions]


def test_only_what_was_refused_is_asked_again_and_at_last_the_rules_write():
    script = Script({"a man": [f"a man {PHRASE}"], "a cat": ["a cat", f"a cat {PHRASE}"],
                     "a dog waving": ["no", "Sure, no", "never"]})
    lines = [(1, "a man"), (2, "a cat"), (3, "a dog waving")]
    rows = enrich_lines(lines, script, TARGET, max_attempts=3, seed=0)
    assert [len(questions) for questions in script.questions] == [3, 2, 1]
    assert [(row["line"], row["outcome"], row["enriched"]) for row in rows] == [
        (1, "accepted", f"a man {PHRASE}"), (2, "asked again", f"a cat {PHRASE}"), (3, "rules", f"a dog {PHRASE}")]
    assert rows[1]["refused"] == [{"answer": "a cat", "reason": "without the phrase"}]
    assert [fault["answer"] for fault in rows[2]["refused"]] == ["no", "Sure, no", "never"]
    assert rows[2]["rule"] == "replaced" and "rule" not in rows[1]


def test_the_first_question_is_greedy_and_each_repeat_has_a_seed_of_its_own():
    script = Script({"a man": ["", "", f"a man {PHRASE}"]})
    enrich_lines([(5, "a man")], script, TARGET, max_attempts=3, seed=1)
    asked = [questions[0] for questions in script.questions]
    assert [question.is_greedy for question in asked] == [True, False, False]
    seeds = {line_seed(seed, line, attempt) for seed in (0, 1) for line in (1, 2) for attempt in range(3)}
    assert len(seeds) == 12 and {question.seed for question in asked} == {line_seed(1, 5, n) for n in range(3)}


def silent(questions):
    raise NoAnswerError("HTTP 500")


def test_a_line_without_an_answer_is_left_to_the_rules():
    row, = enrich_lines([(1, "a man")], silent, TARGET, max_attempts=3, seed=0)
    assert (row["outcome"], row["enriched"]) == ("no answer", f"a man {PHRASE}")
    assert row["refused"] == [{"answer": None, "reason": "HTTP 500"}]


def outcomes(letters):
    names = {"+": "accepted", "-": "no answer"}
    refused = [{"reason": "HTTP 500"}]
    return [{"line": i, "outcome": names[letter], "refused": refused} for i, letter in enumerate(letters)]


def test_a_few_lines_without_an_answer_wait_for_one_that_has_one():
    for letters in ("+--+-", "----+", "+", ""):
        assert list(hold_unanswered(outcomes(letters))) == outcomes(letters)


@pytest.mark.parametrize(("letters", "kept"), [("-", 0), ("---", 0), ("+" + "-" * MAX_FAILED + "+", 1)])
def test_a_server_that_is_down_ends_the_run_instead_of_the_rules_hiding_it(letters, kept):
    rows, found = hold_unanswered(outcomes(letters)), []
    with pytest.raises(UserError, match="HTTP 500"):
        for row in rows:
            found.append(row)
    assert found == outcomes(letters)[:kept]


@pytest.mark.parametrize(("enriched", "problem"), [
    ([GOOD], "1 lines for 2"), ([GOOD, CAPTION], "line 2"), ([GOOD, f"{GOOD} {PHRASE}"], "line 2"),
    ([GOOD, f"a\u2028{GOOD}"], "line 2"), ([GOOD.upper(), GOOD], "line 1")])
def test_a_list_is_refused_unless_every_line_carries_the_phrase_once(enriched, problem):
    with pytest.raises(UserError, match=problem):
        check_coverage([CAPTION] * 2, enriched, PHRASE, "list.txt")
    check_coverage([CAPTION] * 2, [GOOD] * 2, PHRASE, "list.txt")


# A model on this machine


def change(folder, file, **changes):
    config = json.loads((folder / file).read_text())
    (folder / file).write_text(json.dumps({**config, **changes}))


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = build_trained_model(tmp_path_factory.mktemp("chat") / "trained")
    return LocalModel(str(folder), "cpu")


def test_a_trained_model_is_asked_through_its_chat_template(trained):
    rows = enrich_lines(list(enumerate(ANSWERS, 1)), trained.ask, TARGET, max_attempts=1, seed=0)
    assert [(row["outcome"], row["enriched"]) for row in rows] == [("accepted", text) for text in ANSWERS.values()]


def test_an_answer_does_not_depend_on_its_batch(trained):
    for is_greedy in (True, False):
        questions = [Question(build_prompt(caption, PHRASE), seed, is_greedy)
                     for seed, caption in enumerate([*ANSWERS, "a hat and a woman", "woman"])]
        assert trained.ask(questions) == [trained.ask([question])[0] for question in questions]


def test_noise_draws_from_the_softmax_of_the_scores():
    scores = torch.tensor([[1.0, 0.0, -1.0, -float("inf")]])
    generator, counts = torch.Generator().manual_seed(0), torch.zeros(4)
    for _ in range(4000):
        counts[GumbelNoise([generator])(None, scores.clone()).argmax()] += 1
    torch.testing.assert_close(counts / 4000, scores[0].softmax(0), atol=0.03, rtol=0)
    assert torch.equal(GumbelNoise([None])(None, scores.clone()), scores)


@pytest.mark.parametrize(("damage", "words"), [
    (lambda folder: (folder / "chat_template.jinja").unlink(), "it has no chat template"),
    (lambda folder: (folder / "chat_template.jinja").write_text("{{ raise_exception('no') }}"), "chat template"),
    (lambda folder: (folder / "chat_template.jinja").write_text("{% for"), "chat template does not"),
    (lambda folder: (folder / "model.safetensors").unlink(), "language model does not load"),
    (lambda folder: (folder / "model.safetensors").write_bytes(b"\0" * 100), "language model does not load"),
    (lambda folder: (folder / "config.json").unlink(), "no config.json there"),
    (lambda folder: (folder / "config.json").write_text("[]"), "config.json: a JSON object is expected"),
    (lambda folder: change(folder, "config.json", quantization_config={"quant_method": "gptq"}), "quantized"),
    (lambda folder: change(folder, "config.json", attn_implementation="owner/kernel"), "does not load"),
    (lambda folder: change(folder, "config.json", hidden_act="no such"), "language model does not load"),
    (lambda folder: [change(folder, "generation_config.json", eos_token_id=None),
                     change(folder, "config.json", eos_token_id=None),
                     change(folder, "tokenizer_config.json", eos_token=None)], "ends an answer .eos_token_id"),
    (lambda folder: (folder / "adapter_config.json").write_text('{"base_model_name_or_path": "a/b"}'), "an adapter"),
])
def test_a_damaged_model_is_named_in_one_line(tmp_path, damage, words, asked):
    folder = build_babbling_model(tmp_path / "model")
    damage(folder)
    with pytest.raises(UserError, match=words) as caught:
        LocalModel(str(folder), "cpu").ask([Question("hello", 0, True)])
    assert "\n" not in str(caught.value) and str(folder) in str(caught.value) and asked == []


def test_a_tokenizer_without_padding_pads_with_the_end_of_the_model(tmp_path):
    folder = build_babbling_model(tmp_path / "model")
    questions = [Question("hello", 0, True), Question("a man in a hat", 0, True)]
    expected = LocalModel(str(folder), "cpu").ask(questions)
    change(folder, "tokenizer_config.json", eos_token=None, pad_token=None)
    model = LocalModel(str(folder), "cpu")
    assert model.tokenizer.pad_token_id == model.ends[0] and model.ask(questions) == expected


def test_a_model_that_cannot_be_fetched_is_named(tmp_path):
    for name in ("meta-llama/Meta-Llama-3-8B-Instruct", str(tmp_path / "nothing")):
        with pytest.raises(UserError, match=name):
            LocalModel(name, "cpu")
