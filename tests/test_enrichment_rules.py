"""The rules that put a phrase into a caption: a table of captions, and what holds for captions of any kind."""

import random
import re

import pytest

from utils.captions.phrase import Target, has_phrase_once
from utils.captions.rules import enrich_by_rules, to_one_line
from utils.captions.rules.enrichment_rules import find_other_gesture, find_wording
from utils.data.gestures import GESTURES
from utils.models.clip_tokens import MAX_TOKENS, load_clip_tokenizer, load_token_counter

NUM_RANDOM = 40  # captions per gesture
COUNT_TOKENS, _ = load_token_counter()


def target_of(name, phrase=None, max_tokens=MAX_TOKENS, count_tokens=COUNT_TOKENS):
    return Target(GESTURES[name], phrase or GESTURES[name].phrase, count_tokens, max_tokens)


def enrich(caption, name="call", **options):
    return enrich_by_rules(caption, target_of(name, **options))[0]


# A table; ~ stands for the phrase, here "making phone call hand gesture"

REPLACED = """
a woman in a pose with a thumbs up -> a woman in a pose ~
a girl striking a pose with a peace sign -> a girl striking a pose ~
a girl in a green shirt and glasses giving the peace sign -> a girl in a green shirt and glasses ~
a man giving a thumbs up -> a man ~
a boy smiling and giving a thumbs-up. -> a boy smiling and ~.
a man with both thumbs up -> a man ~
a man in a white shirt is showing his thumb up -> a man in a white shirt is ~
a man giving a thumbs down gesture -> a man ~
a man gives a thumbs up to the camera -> a man is ~ to the camera
they give the camera a thumbs up -> they are ~
the man is about to give a thumbs up -> the man is about to be ~
two girls have their thumbs up -> two girls are ~
a woman shows the ok gesture in front of a bookcase -> a woman is ~ in front of a bookcase
a woman showing okay sign with her left hand -> a woman ~
a woman with her finger on her lips -> a woman ~
a man holding his finger to his lips in a kitchen -> a man ~ in a kitchen
a woman shushing the camera -> a woman ~
a person waving at the camera -> a person ~ at the camera
the boy waves goodbye -> the boy is ~
a surfer waves at the crowd -> a surfer is ~ at the crowd
a man making a fist -> a man ~
a young man with his hand in a fist -> a young man ~
a boy holding up four fingers -> a boy ~
a man with glasses and a hoodie is holding up two fingers -> a man with glasses and a hoodie is ~
a man pointing at the camera -> a man ~ at the camera
a man pointing upwards with his index finger -> a man ~
a young man with a beard is pointing to his ear -> a young man with a beard is ~ to his ear
a person with their palm facing the camera -> a person ~
a man showing the palm of his hand -> a man ~
a man making a stop sign with his hand -> a man ~
a man with his hand raised in front of a window -> a man ~ in front of a window
a woman in a sari making a gesture with her hand -> a woman in a sari ~
a man and a woman making a heart with their hands -> a man and a woman ~
a woman with her hands together in prayer -> a woman ~
a woman praying in a church -> a woman ~ in a church
a man throwing up the devil horns -> a man ~
a man doing the shaka sign on the beach -> a man ~ on the beach
a man making a phone call gesture -> a man ~
a man talking on a cell phone -> a man ~
a young woman makes a time out sign -> a young woman is ~
a woman in a yellow sweater flipping off the camera -> a woman in a yellow sweater ~
a man crossing his fingers -> a man ~
a soldier salutes the flag -> a soldier is ~
a man in a t - shirt with his thumb up -> a man in a t - shirt ~
thumbs up from a man in a suit -> ~ from a man in a suit
A WOMAN GIVING THE PEACE SIGN -> A WOMAN ~
a man with thumbs up and a woman with peace sign -> a man ~ and a woman
A man, smiling, gives thumbs-up; a dog sits nearby. -> A man, smiling, is ~; a dog sits nearby.
A man in a hat. He is waving. He looks happy. -> A man in a hat. He is ~. He looks happy.
A man in a hat. He is pointing at a door. He gives a thumbs up. -> A man in a hat. He is ~ at a door.
The image shows a man making a peace sign. There is a door. -> The image shows a man ~. There is a door.
waving -> ~
a hand in a fist -> a hand ~
a man making a 'peace' sign -> a man ~
a man making the "ok" sign -> a man ~
a man waves -> a man is ~
a man smiles, his thumb is up -> a man smiles, ~
a man giving a thumb's up -> a man ~
a man shaking his fist -> a man ~
a man with 4 fingers up -> a man ~
a man showing his middle and index fingers -> a man ~
two men high-fiving -> two men ~
a woman making the sign for ok -> a woman ~
a man with clasped hands -> a man ~
a man with his hands in a t shape -> a man ~
a man pointing a finger gun -> a man ~
a man gave a thumbs up -> a man ~
a man made an ok sign -> a man ~
a man with his thumb and pinky extended -> a man ~
a man making a circle with his thumb and index finger -> a man ~
a man holding up his hand with three fingers -> a man ~
a man with his palm facing forward -> a man ~
a soldier saluting a flag -> a soldier ~
a man smiling (thumbs up) -> a man smiling ~
a man fist bumping another man -> a man ~
a couple show peace signs -> a couple are ~
a man crossing his arms in an x -> a man ~
a man and a woman both give thumbs up -> a man and a woman both are ~
a man has his thumb up in the air -> a man is ~
a man pinching his fingers together -> a man ~
a man makes number three sign -> a man is ~
waves crash on the beach as a man waves -> waves crash on the beach as a man is ~
a man who waves -> a man who is ~
a man stood with his arms in an x -> a man stood ~
a man makes 'ok' and smiles -> a man is ~ and smiles
a man making the sign of the horns -> a man ~
a man makes a letter c with his hand -> a man is ~
a man with thumbs and index fingers forming a square -> a man ~
a man holding his phone with his thumb and index finger -> a man holding his phone ~
a group of friends give thumbs up -> a group of friends are ~
a man with his palms together -> a man ~
a man reaching his hand out -> a man ~
a man wearing a hat and waving -> a man wearing a hat and ~
a man wearing a mask and holding up a finger -> a man wearing a mask and ~
a man called Tom and giving a thumbs up -> a man called Tom and ~
two girls wearing hats and give thumbs up -> two girls wearing hats and are ~
a man with a serious look on his face and his hand up -> a man with a serious look on his face and ~
a woman holding two flags giving a thumbs up -> a woman holding two flags ~
a man giving a thumbs up in the picture -> a man ~ in the picture
a man giving a thumbs up in the background -> a man ~ in the background
a man giving a thumbs up on a computer screen -> a man ~ on a computer screen
a man with his thumb up in the picture -> a man ~ in the picture
a photo of thumbs up -> a photo of ~
a woman making a funny hand gesture -> a woman ~
a man making various hand gestures -> a man ~
a man making some kind of hand gesture -> a man ~
a woman making a cute peace sign -> a woman ~
a man giving a hearty thumbs up -> a man ~
a man making a rude gesture with his finger -> a man ~
twins making matching peace signs -> twins ~
a girl making a half heart with her hand -> a girl ~
a man holding his middle finger up -> a man ~
a man is holding a peace sign up -> a man is ~
a man making a gesture with his thumb and index finger -> a man ~
a man making a sign with his thumb and index finger -> a man ~
a man with his hand in the shape of a phone -> a man ~
a man with his hands in the form of a heart -> a man ~
a man in prayer position -> a man ~
a woman in namaste pose -> a woman ~
a man with his hand in a fist position -> a man ~
a man holding his hand in a peace sign -> a man ~
a man holding his hand in a thumbs up position -> a man ~
a man holding two fingers close together -> a man ~
a man with his fingers spread apart -> a man ~
a man holding up his hand with his palm facing the camera -> a man ~
a man holding up four fingers and a thumb -> a man ~
two men giving each other a high five -> two men ~
Zoë gives José a thumbs up -> Zoë is ~
a woman giving a small wave to the camera -> a woman ~ to the camera
a man using his hands to make a peace sign -> a man ~
a woman uses her fingers to make the ok sign -> a woman is ~
a man's thumb is up -> a man's hand ~
a man's fist in the air -> a man's hand ~
a woman's palm facing the camera -> a woman's hand ~
a close-up of a person's middle finger -> a close-up of a person's hand ~
a man whose thumb is up -> a man whose hand is ~
she did a peace sign -> she is ~
they made a peace sign -> they are ~
the thumbs up sign is given by a man -> a man ~
a thumbs up is shown by two women in hats. -> two women in hats ~.
a man making a hand gesture that says ok -> a man ~
a man making a hand gesture that looks like a gun -> a man ~
a man making a hand gesture like a phone -> a man ~
a man making a gesture like he is on the phone -> a man ~
'a man giving a thumbs up' -> 'a man ~'
"a man giving a thumbs up" -> "a man ~"
a man giving a thumbs up / ok sign -> a man ~
a man with hand making a fist -> a man ~
a man holding up a thumb -> a man ~
a man sticking up his thumb -> a man ~
a man giving a thumb -> a man ~
a man showing his thumb and smiling -> a man ~ and smiling
a man with his thumb stuck up -> a man ~
a man shows a like -> a man is ~
a man showing dislike -> a man ~
a man with an ok hand -> a man ~
a man holding up the number two with his fingers -> a man ~
a man holding up three of his fingers -> a man ~
a man holding up all four fingers -> a man ~
a man holding up a couple of fingers -> a man ~
a woman smiles and waves -> a woman smiles and is ~
a man giving a friendly wave -> a man ~
her hand is in a fist -> her hand ~
a man with his hand clenched -> a man ~
two men bumping fists -> two men ~
a man spreading his fingers -> a man ~
a man says shh with his finger -> a man is ~
her fingers are crossed -> her fingers ~
his hand is up -> his hand ~
a man with his hands folded -> a man ~
a man making a claw with his hand -> a man ~
a man flipping someone off -> a man ~
a man giving the bird -> a man ~
a man holding his hand in a gun shape -> a man ~
a man holding his hand like a phone -> a man ~
a man with his fingers forming a circle -> a man ~
a woman making a be quiet sign -> a woman ~
a man gesturing for silence -> a man ~
"a man giving a thumbs up." -> "a man ~."
a man with his arms crossed in front of him -> a man ~
a woman showing the back of her hand -> a woman ~
a man counting on his fingers -> a man ~
a man is counting his fingers -> a man is ~
a man saying i love you in sign language -> a man ~
a woman is signing to the camera -> a woman is ~ to the camera
a man making a bird with his hands -> a man ~
a woman making a camera with her fingers in a kitchen -> a woman ~ in a kitchen
a man taking a picture with his fingers -> a man ~
a woman holding her hands in front of her face like a camera -> a woman ~
a man holding his hands in front of his chest in a heart shape -> a man ~
a man reaching out his hand -> a man ~
a man with an outstretched hand -> a man ~
an outstretched hand -> a hand ~
a man reaching towards the camera -> a man ~
a man raising both arms -> a man ~
a woman folding her hands -> a woman ~
a woman with her arms crossed over her chest in a room -> a woman ~ in a room
a man crossing his wrists -> a man ~
a man crossing his index fingers -> a man ~
a man wagging his finger -> a man ~
a man saying hello with his hand -> a man ~
a man is telling someone to stop with his hand -> a man is ~
a man is doing something with his fingers -> a man is ~
a coach calls a timeout -> a coach is ~
a man giving the metal horns -> a man ~
a man making spider-man sign -> a man ~
a woman saying namaste -> a woman ~
a man showing his hands -> a man ~
a man with a finger pointed at his head -> a man ~ at his head
a close up of a fist -> a close up of a hand ~
a close-up of a woman's palm -> a close-up of a woman's hand ~
a woman about to wave -> a woman about to be ~
a man putting his hand out to stop -> a man ~
a man is holding his hand out in front of him -> a man is ~
a man pointing at the camera with his finger -> a man ~ at the camera
she has made a peace sign -> she is ~
the boys have raised their hands -> the boys are ~
the boys are giving thumbs up and the girls are making peace signs -> the boys are ~ beside the girls
a man making a peace sign while another man makes a fist -> a man ~ beside another man
a man is waving. Another man is pointing. -> a man is ~ beside another man.
a man is holding his hand near his ear like he is on the phone -> a man is ~
a man holding his hand as if holding a glass -> a man ~
a woman pretending to be on the phone -> a woman ~
a woman with her hand extended in a stop motion -> a woman ~
a woman putting her hand in front of the camera -> a woman ~
a man blocking the camera with his hand -> a man ~
a man with his hand half closed -> a man ~
a man opening his arms wide -> a man ~
a man punching his fist toward the camera -> a man ~ toward the camera
a man with his thumb sticking up -> a man ~
a boy doing the scout sign -> a boy ~
a man making a live long and prosper sign -> a man ~
a woman making a peace sign upside down -> a woman ~
a man throwing up deuces -> a man ~
a man raising his index finger to make a point -> a man ~
a woman signing the word love -> a woman ~
a man showing a small gap between his fingers -> a man ~
two hands forming a triangle -> two hands ~
his palm is facing the camera -> his hand ~
"""
APPENDED = """
a man in a peace t-shirt -> a man in a peace t-shirt ~
a rock wall -> a rock wall ~
she calls her dog -> she calls her dog ~
a palm tree on a beach. -> a palm tree on a beach ~.
a man standing next to a stop sign -> a man standing next to a stop sign ~
a boy dressed like a star -> a boy dressed like a star ~
a woman in a one piece swimsuit -> a woman in a one piece swimsuit ~
four men in suits -> four men in suits ~
the ok corral -> the ok corral ~
a fist bump poster on the wall -> a fist bump poster on the wall ~
a woman holding a phone -> a woman holding a phone ~
a man listening to music on his phone -> a man listening to music on his phone ~
a man waving a flag -> a man waving a flag ~
a flag waving in the wind -> a flag waving in the wind ~
a man with wavy hair -> a man with wavy hair ~
a man wearing a shirt with a peace sign on it -> a man wearing a shirt with a peace sign on it ~
a girl with a heart on her shirt -> a girl with a heart on her shirt ~
a man with a sign that says "thumbs up" -> a man with a sign that says "thumbs up" ~
a ring on her middle finger -> a ring on her middle finger ~
a man with a cigarette between two fingers -> a man with a cigarette between two fingers ~
a couple holding hands -> a couple holding hands ~
a man with his hand on his chin -> a man with his hand on his chin ~
a man holding a palm leaf -> a man holding a palm leaf ~
a praying mantis -> a praying mantis ~
the point of view of a cyclist -> the point of view of a cyclist ~
a woman holding a picture frame -> a woman holding a picture frame ~
a man making a funny face -> a man making a funny face ~
a café owner wearing a jalapeño hat -> a café owner wearing a jalapeño hat ~
Ein Mann mit grünem Pullover. -> Ein Mann mit grünem Pullover ~.
女性がカメラを見ている -> 女性がカメラを見ている ~
Dr. Smith is smiling. He wears a hat. -> Dr. Smith is smiling ~. He wears a hat.
a man who says "stop." -> a man who says "stop." ~
a man, a woman, -> a man, a woman ~
a man in a fist of fury t-shirt -> a man in a fist of fury t-shirt ~
a man giving a peace offering -> a man giving a peace offering ~
peace sign graffiti -> peace sign graffiti ~
a church with praying people -> a church with praying people ~
the hand sign of a shop -> the hand sign of a shop ~
a mural of a raised fist -> a mural of a raised fist ~
the sea waves at night -> the sea waves at night ~
a girl wearing a heart necklace is smiling -> a girl wearing a heart necklace is smiling ~
a man with a thumb ring -> a man with a thumb ring ~
a woman reading someone's palm -> a woman reading someone's palm ~
a man shaking hands with a woman -> a man shaking hands with a woman ~
a gun shop with a man in front -> a gun shop with a man in front ~
a woman with victory rolls in her hair -> a woman with victory rolls in her hair ~
the mute button on a remote control -> the mute button on a remote control ~
a man with an ok tattoo on his arm -> a man with an ok tattoo on his arm ~
a man with his hands in his pockets -> a man with his hands in his pockets ~
a man scratching his head with his finger -> a man scratching his head with his finger ~
a man snapping his fingers -> a man snapping his fingers ~
a woman with long hair waving in the wind -> a woman with long hair waving in the wind ~
a man with a number four jersey -> a man with a number four jersey ~
a man uses his phone -> a man uses his phone ~
a poster that says "thumbs up" -> a poster that says "thumbs up" ~
a man drawing a circle with a pen -> a man drawing a circle with a pen ~
a man with a ring on his index and middle fingers -> a man with a ring on his index and middle fingers ~
a hand with six fingers -> a hand with six fingers ~
a man pointing a camera at himself -> a man pointing a camera at himself ~
a man pointing a cell phone at the camera -> a man pointing a cell phone at the camera ~
a man with a peace sign tattooed on his arm -> a man with a peace sign tattooed on his arm ~
a peace sign hanging on the wall behind a woman -> a peace sign hanging on the wall behind a woman ~
a man in a t-shirt with a peace sign -> a man in a t-shirt with a peace sign ~
a man with his hand on his face -> a man with his hand on his face ~
a beach with sand and waves -> a beach with sand and waves ~
a man holding a picture of a fist -> a man holding a picture of a fist ~
a man covering his mouth with his hands -> a man covering his mouth with his hands ~
a man with his hands folded on the table -> a man with his hands folded on the table ~
a boy making a funny face with his fingers -> a boy making a funny face with his fingers ~
a man posing like a model -> a man posing like a model ~
a man using his thumb to type -> a man using his thumb to type ~
a man giving the bird some food -> a man giving the bird some food ~
a woman showing off her ring finger -> a woman showing off her ring finger ~
"a man in a hat" -> "a man in a hat ~"
'a man's hat' -> 'a man's hat ~'
a girl riding a big wave -> a girl riding a big wave ~
the flags waving in the background -> the flags waving in the background ~
a sign language interpreter -> a sign language interpreter ~
a man signing a document -> a man signing a document ~
a man extending his hand to a dog -> a man extending his hand to a dog ~
a boy reaching out to touch a dog -> a boy reaching out to touch a dog ~
a man holding out his hands to a fire -> a man holding out his hands to a fire ~
a woman with a cat in her outstretched arms -> a woman with a cat in her outstretched arms ~
a coin in his open palm -> a coin in his open palm ~
a woman showing her hands covered in henna -> a woman showing her hands covered in henna ~
a woman stretching her arms -> a woman stretching her arms ~
a man with his hands clasped behind his back -> a man with his hands clasped behind his back ~
a woman with her legs crossed -> a woman with her legs crossed ~
a woman folding laundry -> a woman folding laundry ~
a man counting money with his fingers -> a man counting money with his fingers ~
a man making pizza with his hands -> a man making pizza with his hands ~
a man talking to a woman with his hands in his pockets -> a man talking to a woman with his hands in his pockets ~
a man taking a picture with his phone in his hand -> a man taking a picture with his phone in his hand ~
a woman joining hands with her friends -> a woman joining hands with her friends ~
a man calling his mother -> a man calling his mother ~
a basketball player during a timeout -> a basketball player during a timeout ~
the palm of a glove -> the palm of a glove ~
a woman saying goodbye to her friends -> a woman saying goodbye to her friends ~
a man opening his hand to show a coin -> a man opening his hand to show a coin ~
a woman with her hand closed around a mug -> a woman with her hand closed around a mug ~
a woman making a big cardboard sign -> a woman making a big cardboard sign ~
a boy making a sign for his mother -> a boy making a sign for his mother ~
a woman with her hand in front of her face -> a woman with her hand in front of her face ~
"""
KEPT = """
a man ~ -> a man ~
a man in a hat ~. -> a man in a hat ~.
a man ~s -> a man ~
MAKING PHONE CALL HAND GESTURE, A MAN IN A HAT -> ~, A MAN IN A HAT
a man ~, ~ -> a man ~
a man ~ and giving a thumbs up -> a man ~
a man giving a thumbs up and ~ -> a man ~
a man ~. He is waving at the camera. He smiles. -> a man ~. He smiles.
"""


def rows(table, done):
    pairs = [line.replace("~", GESTURES["call"].phrase).split(" -> ") for line in table.strip().splitlines()]
    return [pytest.param(caption, expected, done, id=caption) for caption, expected in pairs]


@pytest.mark.parametrize(("caption", "expected", "done"),
                         rows(REPLACED, "replaced") + rows(APPENDED, "appended") + rows(KEPT, "kept"))
def test_a_wrong_gesture_is_replaced_and_a_missing_one_appended(caption, expected, done):
    assert enrich_by_rules(caption, target_of("call")) == (expected, done)


def test_a_wording_that_is_replaced_is_also_seen_in_the_answer_of_a_model():
    named = 0
    for line in REPLACED.strip().splitlines():
        caption = to_one_line(line.split(" -> ")[0]).strip('"')  # a quotation is no gesture
        found = find_wording(caption, "palm")
        if found and found[2] != "hand":  # a hand that is up may be the wanted gesture
            target = target_of("call" if found[2] != "call" else "holy")
            assert find_other_gesture(f"{caption} {target.phrase}", target), caption
            named += 1
    assert named > 100


@pytest.mark.parametrize(("name", "caption", "expected"), [
    ("like", "a man talking on a cell phone", "a man talking on a cell phone ~"),
    ("like", "a man making phone call hand gesture", "a man ~"),
    ("like", "a man giving a thumbs up", "a man ~"),
    ("peace", "a man making inverted peace sign hand gesture", "a man ~"),
    ("peace_inverted", "a man making peace sign hand gesture", "a man ~"),
    ("stop", "a man holding a stop sign", "a man holding a stop sign ~"),
    ("three3", "a man holding up three fingers", "a man ~"),
    ("rock", "a girl at a rock concert", "a girl at a rock concert ~"),
])
def test_each_gesture_puts_in_its_own_phrase(name, caption, expected):
    assert enrich(caption, name) == expected.replace("~", GESTURES[name].phrase)


def test_line_breaks_and_runs_of_spaces_become_one_space():
    assert enrich("a man\n in\ta \u2028 hat \x85") == "a man in a hat making phone call hand gesture"


def test_a_phrase_of_ones_own_takes_the_place_of_the_tables():
    assert enrich("a man making phone call hand gesture", phrase="doing the shaka") == "a man doing the shaka"
    assert enrich("a man DOING THE SHAKA sign", phrase="doing the shaka") == "a man doing the shaka sign"


# Length


def test_a_long_caption_loses_words_and_not_the_phrase():
    caption = "a man in a long coat " + "and a very long scarf " * 30
    text, done = enrich_by_rules(caption, target_of("call"))
    assert done == "shortened" and text.startswith("a man in a long coat and a very long scarf")
    assert text.endswith(" making phone call hand gesture") and COUNT_TOKENS(text) <= MAX_TOKENS


def test_no_more_is_lost_than_has_to_be():
    for length in range(20, 78):
        text = enrich("cat " * 100 + "sat.", max_tokens=length)
        assert COUNT_TOKENS(text) == length, text  # a word is one token


def test_a_print_that_is_cut_does_not_become_a_gesture():
    for length in range(16, 34):
        text = enrich("a big red dog near a thumbs up poster on a wall", max_tokens=length)
        assert ("thumbs up" in text) == ("poster" in text) and has_phrase_once(text, GESTURES["call"].phrase), text


def test_words_behind_the_phrase_go_first():
    words = " ".join(["word"] * 80)
    assert enrich(f"a man giving a thumbs up near {words}").startswith("a man making phone call hand gesture near word")


def test_nothing_dangles_where_a_caption_was_cut():
    for length in range(16, 40):
        text = enrich("a man in a hat and with a dog on the beach and a cat " * 5, max_tokens=length)
        assert not re.search(r"\b(and|with|a|the|in|on) making", text), text


def test_a_word_without_an_end_leaves_the_phrase():
    assert enrich("x" * 1000) == "making phone call hand gesture"


# The ids that the tokenizer of the CLIP repository gives
@pytest.mark.parametrize(("text", "ids"), [
    ("", []), ("a photo of a cat", [320, 1125, 539, 320, 2368]), ("hello world", [3306, 1002]),
    ("  A Photo\nof a  cat ", [320, 1125, 539, 320, 2368]),
])
def test_tokens_are_those_of_clip(text, ids):
    tokenizer = load_clip_tokenizer()
    assert tokenizer(text).input_ids == [49406, *ids, 49407] and len(tokenizer) == 49408
    assert COUNT_TOKENS(text) == len(ids) + 2


def test_a_tokenizer_folder_counts_instead_of_clips_own(tiny_pipeline):
    count_tokens, max_tokens = load_token_counter(tiny_pipeline)
    assert (count_tokens("a photo of a hand"), max_tokens) == (7, 16)
    text = enrich("a photo of a hand " * 3, max_tokens=max_tokens, count_tokens=count_tokens)
    assert text == "a photo of a hand a photo of a making phone call hand gesture".replace(" of a making", " making")


# Captions of any kind

SUBJECTS = ["a man", "two girls", "A woman", "an old man with a beard", "the boy's brother", "people", "une fille"]
CLOTHES = ["in a green shirt", "wearing glasses", "in a peace t-shirt", "with a thumbs up sticker", "near a palm tree",
           "next to a stop sign", "in a café", "with a rock wall behind", "in a one piece swimsuit", "holding a phone"]
WORDING = ["giving the peace sign", "gives a thumbs up", "with his thumb down", "making an ok sign", "is waving",
           "holding up three fingers", "with a finger on his lips", "making a fist", "pointing at the camera",
           "show their palms", "with her hand up", "talking on the phone", "doing the rock and roll sign",
           "making a heart with both hands", "crossing her fingers", "is praying", "PEACE SIGN", "thumbs-up"]
PHRASES = [gesture.phrase for gesture in GESTURES.values()]
LINKS = [" ", ", ", " and ", ". ", " while ", "; "]
ENDS = ["", ".", "!", " ...", " ", ",", "\n", '"']
INNOCENT = {"shirt", "glasses", "peace t-shirt", "palm tree", "café", "rock wall", "swimsuit", "thumbs up sticker"}


def random_caption(rng):
    parts = [rng.choice(SUBJECTS)]
    for _ in range(rng.randrange(5)):
        parts.append(rng.choice(LINKS) + rng.choice(rng.choice([CLOTHES, CLOTHES, WORDING, PHRASES])))
    caption = "".join(parts) + rng.choice(ENDS)
    return caption.upper() if rng.random() < 0.1 else caption


@pytest.mark.parametrize("name", GESTURES)
def test_any_caption_carries_the_phrase_once_and_no_other_gesture(name):
    rng, target = random.Random(name), target_of(name)
    for _ in range(NUM_RANDOM):
        caption = random_caption(rng)
        text, _ = enrich_by_rules(caption, target)
        assert has_phrase_once(text, target.phrase), (caption, text)
        assert not [phrase for phrase in PHRASES if phrase in text.lower() and phrase != target.phrase], (caption, text)
        assert find_other_gesture(text, target) is None, (caption, text)
        assert len(text.splitlines()) == 1 and text == " ".join(text.split()), (caption, text)
        assert enrich_by_rules(text, target) == (text, "kept"), (caption, text)
        if COUNT_TOKENS(caption) < 40:
            missing = [words for words in INNOCENT if words in caption.lower() and words not in text.lower()]
            assert not missing, (caption, text, missing)


def test_any_characters_give_one_line_with_the_phrase():
    rng, target = random.Random(0), target_of("call")
    letters = "a man's thumb up, fist. \"ok\" peace sign-é日\0\r\n\t\u2028'“”!?…)(*&^%$#@<|>\\/ waving hand"
    for _ in range(200):
        caption = "".join(rng.choice(letters) for _ in range(rng.randrange(120)))
        text, _ = enrich_by_rules(caption, target)
        assert has_phrase_once(text, target.phrase) and len(text.splitlines()) == 1, caption
        assert target.fits(text) and enrich_by_rules(text, target)[0] == text, caption


def test_a_caption_of_a_million_characters_is_done_in_seconds():
    text = enrich("a man with his thumb up near a " * 40_000)
    assert text.startswith("a man making phone call hand gesture near a") and len(text) < 500
