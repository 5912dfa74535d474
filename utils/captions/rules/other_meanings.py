"""What shows that a gesture's wording means a thing: a print on a shirt, a poster, a tree, a flag."""

import re

from utils.captions.rules.gesture_words import (
    HANDS,
    PARTICIPLES,
    PEOPLE,
    PLURAL_FORMS,
    SINGULAR_FORMS,
    SOMEONE,
)

# Things that carry a gesture's picture or share its name
GARMENTS = (
    "(?:t ?-? ?shirt|tee|shirt|top|hoodie|sweater|sweatshirt|jumper|jacket|coat|vest|dress|hat|cap|beanie|apron|bag"
    "|backpack|pants|jeans|skirt|sock|glove|costume|sunglasses|glasses|mask|bandana|scarf|uniform)s?")
PICTURES = (
    "(?:graffiti|sticker|poster|logo|emoji|icon|print|pattern|design|graphic|tattoo|balloon|cookie|cake|pillow|mug"
    "|statue"
    "|sculpture|painting|picture|drawing|photo|cartoon|patch|pin|button|badge|banner|flag|mural|card|pendant"
    "|necklace|earring|bracelet|ring|wall|billboard|neon|decoration|keychain|magnet|toy|figurine)s?")
OTHER_THINGS = (
    "(?:trees?|leaf|leaves|fronds?|beach|oil|plants?|springs|sunday|foods?|sandwich(?:es)?|puppets?|nails?|mantis"
    "|offerings?|treat(?:y|ies)|talks?|march(?:es)?|corps|lil(?:y|ies)|pipes?|people|persons?|m[ae]n|wom[ae]n|crowds?"
    "|of (?:fury|(?:an? |the )?(?:shop|store|bar|restaurant|hotel|salon))|polish|paint|shaped|bands?|clubs?"
    "|concerts?|music|stars?|dogs?|foam|of view|posts?|in the (?:wind|breeze)|interpreters?"
    "|teachers?|class(?:es)?|lessons?|alphabet|charts?|books?)")
ARTICLE = "(?:the|his|her|their|its|a|an) "
INNOCENT_AFTER = re.compile(
    rf"[ -]+(?:printed |shaped |themed )?(?:{GARMENTS}|{PICTURES}|{OTHER_THINGS})(?!\w)", re.IGNORECASE)
# Makes a print of a sign that somebody has or wears, but not of one that somebody makes
PRINTED_AFTER = re.compile(
    rf"[ -]+(?:printed |painted |written |drawn )?(?:on|across) (?:it|them|(?:{ARTICLE})?(?:(?!{HANDS})\w+ )?"
    rf"(?:{GARMENTS}|{PICTURES}|chest|back|front))(?!\w)"
    r"|[ -]+(?:tattooed|hanging|hung|painted|printed|drawn|sewn|embroidered|carved|engraved) ", re.IGNORECASE)
# Makes one of what is not somebody's at all: "a thumbs up in the picture", but not "with his thumb up in the picture"
PICTURED_AFTER = re.compile(
    rf"[ -]+in (?:{ARTICLE})?(?:{PICTURES}|background)(?!\w)"
    rf"|[ -]+on (?:{ARTICLE})?(?:\w+ )?screen(?!\w)", re.IGNORECASE)
INNOCENT_BEFORE = re.compile(
    rf"(?<!\w)(?:(?:{GARMENTS}|{PICTURES}) (?:of|showing|featuring|that says|that reads"
    r"|saying|reading)|says|reads|saying|reading|wearing|between|around|called|named|titled|flags?|banners?|on)"
    rf" (?:{ARTICLE})?(?:\w+ and )?$", re.IGNORECASE)
WHOLE_PHOTO = re.compile(r"^(?:(?:an?|the) )?(?:\w+ )?(?:photo|picture)s? of (?:(?:an?|the) )?$", re.IGNORECASE)
PRINTED_BEFORE = re.compile(
    r"(?<!\w)(?:t ?-? ?shirt|tee|poster|sticker|flag|banner|mural|billboard|logo|card|emoji|graffiti)s? "
    r"(?:with (?:(?:an?|the|two) )?)?$", re.IGNORECASE)
PRINTABLE = re.compile(r"(?!.*\b(?:his|her|their|closed|clenched|balled)\b).*(?:sign|symbol|heart|fist)s?$",
                       re.IGNORECASE)
# Hands that hold something, or are held out to something: "a coin in his open palm", "extending his hand to a dog"
HANDS_ONLY = re.compile(r".*(?<!\w)(?:hand|palm|arm|finger|fist)s?$", re.IGNORECASE)
HOLDING = re.compile(rf"(?<!\w)(?:in|inside|into|from|under|off|around|between|through|out of) (?:{ARTICLE})?$",
                     re.IGNORECASE)
HELD_OUT = re.compile(r".*(?<!\w)(?:out|extend|outstretched|reach|stretch|open|spread)(?:ed|ing|es|s)?(?!\w)",
                      re.IGNORECASE)
REACHED = re.compile(
    rf"[ -]+(?:(?:to|towards?|for|into|inside|through|under|from|over|across) (?!{SOMEONE}(?!\w)"
    r"|(?:the|his|her|their|its|one|each) (?:left|right|sides?|front)(?!\w)))", re.IGNORECASE)
COVERED = re.compile(r"[ -]+(?:covered|full|filled|stained|dyed|decorated|wrapped|bandaged|holding) ", re.IGNORECASE)
NOBODY_WAVES = re.compile(
    rf"(?<!\w)(?:flags?|banners?) wav(?:es?|ing|ed)$|^(?!.*\b(?:{PEOPLE})\b).* and waves?$"
    r"|(?<!\w)(?:sea|ocean|beach|sand|surf|water|shore|coast|boat|ship|sky|sun|wind)s?(?!\w)[^.]* and waves?$",
    re.IGNORECASE)
DOING = SINGULAR_FORMS | PARTICIPLES  # plural and past forms are also nouns and adjectives: "the point", "raised fist"


def means_a_thing(text, start, end):
    """Whether what stands around text[start:end], a wording of a gesture, makes a thing of it.

    Somebody who makes the gesture, whom a verb shows, or has it ("with his thumb up"), may wear a hat before and be in
    a photo behind; a sign alone there is a print on the hat, or what the photo shows.
    """
    before, first = text[:start], text[start:end].split(maxsplit=1)[0].lower()
    if NOBODY_WAVES.search(before + first) or INNOCENT_AFTER.match(text, end):
        return True
    if HANDS_ONLY.match(text[start:end]) and (HOLDING.search(before) or COVERED.match(text, end)):
        return True
    if HELD_OUT.match(text[start:end]) and REACHED.match(text, end):
        return True
    is_clause = before.lower().endswith(" and ") and (first in PLURAL_FORMS or first in ("his", "her", "their"))
    is_made, is_with = first in DOING or is_clause, first == "with"
    if not is_made and PRINTED_BEFORE.search(before) and PRINTABLE.match(text[start:end]):
        return True
    return bool(not is_made and PRINTED_AFTER.match(text, end)
                or not (is_made or is_with) and (
                    PICTURED_AFTER.match(text, end)
                    or INNOCENT_BEFORE.search(before) and not WHOLE_PHOTO.search(before)))
