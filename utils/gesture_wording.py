"""How captions word gestures, as regular expressions, and what shows that such words mean something else.

In every pattern here a space also stands for a hyphen, with or without spaces around it.
"""

import re

from utils.gestures import GESTURES

# Verbs that make a gesture, and verbs that also hold or show a thing: plural, singular, participle.
MAKE_VERBS = """give gives giving | make makes making | show shows showing | do does doing | flash flashes flashing
 throw throws throwing | form forms forming | pose poses posing | perform performs performing | use uses using
 signal signals signaling | signal signals signalling | gesture gestures gesturing | sign signs signing
 demonstrate demonstrates demonstrating | offer offers offering | pump pumps pumping"""
HOLD_VERBS = """hold holds holding | raise raises raising | lift lifts lifting | put puts putting
 stick sticks sticking | display displays displaying | extend extends extending | clench clenches clenching
 place places placing | press presses pressing | touch touches touching | keep keeps keeping
 cross crosses crossing | have has having"""
OWN_VERBS = """wave waves waving | point points pointing | salute salutes saluting | shush shushes shushing
 pray prays praying | flip flips flipping | frame frames framing | talk talks talking | speak speaks speaking
 chat chats chatting"""  # each names a gesture by itself


def list_forms(verbs):
    """The [plural, singular, participle] of each verb of a text as above."""
    return [forms.split() for forms in verbs.replace("\n", " | ").split("|") if forms.strip()]


ALL_FORMS = list_forms(MAKE_VERBS) + list_forms(HOLD_VERBS) + list_forms(OWN_VERBS)
PLURAL_FORMS = {forms[0] for forms in ALL_FORMS}
SINGULAR_FORMS = {forms[1] for forms in ALL_FORMS}

# Pieces of the patterns
OWNER = "(?:his|her|their|its|my|your|the|a|an|one|each|both|two)"
LOOKS = "(?:left|right|double|big|huge|quick|small|classic|open|raised|hand|own|closed|clenched|index|enthusiastic)"
DET = f"(?:(?:{OWNER}|{LOOKS}|another|some|of|or) ){{0,5}}"
HANDS = f"(?:(?:{OWNER}|{LOOKS}|of) ){{0,4}}(?:hand|finger|thumb|arm|palm|wrist)s?"
RAISED = (r"(?:pointing up|pointed up|held up|held out|held high|stretched out|up|raised|lifted|extended|outstretched"
          r"|out(?! of)|in the air|high|spread)(?: in the air| high)?")
GESTURE = "(?:(?:hand )?(?:gesture|signal|pose)|hands? (?:sign|symbol|shape))s?"  # never a thing
SIGN = f"(?:{GESTURE}|sign|symbol|shape)s?"  # could be a thing
WITH_HANDS = f"(?:with|using|out of|from) {HANDS}"
LIPS = ("(?:on|to|over|in front of|against|near|at|across|touching|covering) "
        "(?:(?:his|her|their|the|its) )?(?:lip|mouth)s?")
VIEWER = "(?: the (?:camera|viewer|photographer|audience))?"
PHONE = "(?:(?:cell|mobile|smart|tele) ?)?phone"


def any_form(verbs):
    return "(?:" + "|".join(form for forms in list_forms(verbs) for form in forms) + ")"


PARTICLES = "(?: (?:up|out|off|with|us|you|him|them|everyone|someone|the (?:camera|viewer|photographer|crowd))){0,2}"
MAKE = f"{any_form(MAKE_VERBS)}{PARTICLES}"
MAKE_OR_HOLD = f"{any_form(MAKE_VERBS + ' | ' + HOLD_VERBS)}{PARTICLES}"
WITH = f"with(?: {HANDS}(?: {RAISED})?(?: (?:in|into|making|giving|showing|doing|forming))?)?"
LEAD = f"(?:(?:{MAKE_OR_HOLD}|{WITH}) )?"


def finger(names):
    """free and held wording of fingers that are up."""
    return {"free": f"(?:{names}) (?:{RAISED}|together)(?: together)?|(?:{names}) {GESTURE}", "held": names}


# Per gesture: `free` stands for it anywhere, `held` behind a verb of either list, `made` only behind one that
# makes; `whole` is a verb of its own; `own` is the gesture's occasion, and counts only where it is wanted.
NUMBERS = {"one": "one|1", "two": "two|2", "three": "three|3", "four": "four|4", "five": "five|5|all five"}
INVERTED = "(?:inverted|reversed?|upside down|backwards?)"
TABLE = {
    "call": {
        "free": f"(?:phone|phone call|telephone|call me|calling|shaka|hang loose|surfer) {GESTURE}|shakas?"
                f"|(?:phone|call me|shaka|hang loose) sign|{PHONE} {WITH_HANDS}",
        "made": f"(?:phone|phone call|telephone|call|call me) {SIGN}|hang loose",
        "own": f"(?:pretending to (?:be |talk |speak )?|talk(?:ing|s)? |speak(?:ing|s)? |chat(?:ting|s)? )"
               f"(?:on|into|over) (?:{OWNER} )?{PHONE}"
               f"|mak(?:ing|es?) a (?:phone )?call(?: (?:on|with) {OWNER} {PHONE})?"},
    "dislike": {"free": "thumbs? downs?|thumbs? (?:pointing|pointed|turned) down"},
    "fist": {
        "free": f"(?:clenched|closed|raised|balled) fists?|fists? (?:{RAISED}|clenched)|fist (?:bump|pump)(?:s|ing)?"
                f"|(?:with|in) {OWNER} fists?|(?:hand|finger)s? (?:(?:clenched|curled|balled|closed) )?(?:in|into) "
                f"(?:{OWNER} )?fists?|fists? {SIGN}",
        "held": "fists?"},
    "four": finger(f"(?:{NUMBERS['four']}) fingers?"),
    "like": {"free": f"thumbs? ups?|raised thumbs?|thumbs? {RAISED}|like {GESTURE}"},
    "mute": {
        "free": f"fingers? (?:{RAISED} )?{LIPS}|(?:shush|shushing|shh+|hush|silence|silent|quiet|mute) {SIGN}",
        "whole": f"shush(?:es|ing)?{VIEWER}"},
    "ok": {"free": rf"(?:ok|okay|o\.k\.|a ok|a okay) {SIGN}|perfect {GESTURE}", "made": r"ok|okay|o\.k\.|perfect sign"},
    "one": finger(f"(?:{NUMBERS['one']} |index |pointer |fore|single )?fingers?"),
    "palm": {
        "free": f"high fives?|palms? (?:of {OWNER} (?:hands? )?)?(?:{RAISED}|open|facing{VIEWER})|open (?:palm|hand)s?"
                f"|hands? open|palm {SIGN}|(?:{NUMBERS['five']}) fingers(?: {RAISED})?",
        "held": f"palms?(?: of {HANDS})?"},
    "peace": {"free": f"(?:peace|victory) {SIGN}|peace fingers|v for victory|v (?:{GESTURE}|signs?)|v {WITH_HANDS}",
              "made": "peace|v|v shapes?|bunny ears"},
    "peace_inverted": {"free": f"{INVERTED} (?:peace|victory|v) {SIGN}"},
    "rock": {
        "free": f"(?:rock|rock on|rock (?:and|&|n|'n'|'n|n') roll|rock'?n'?roll|metal|heavy metal) {GESTURE}"
                f"|devil'?s?'? horns?(?: {SIGN})?|(?:horns?|spiderman) {GESTURE}|rock (?:and|&|n|'n') roll sign",
        "made": f"(?:rock|rock on|rock star|metal|heavy metal|horns?|devil|i love you|spiderman) {SIGN}|horns"},
    "stop": {"free": f"stop {GESTURE}", "made": f"stop {SIGN}"},
    "stop_inverted": {"free": f"{INVERTED} stop {SIGN}"},
    "three": finger(f"(?:{NUMBERS['three']}) fingers?"),
    "three2": {"free": f"thumb and two fingers(?: {RAISED})?"},
    "two_up": finger(f"(?:{NUMBERS['two']}) fingers?"),
    "grabbing": {"free": f"grabbing {GESTURE}", "made": f"grabbing {SIGN}"},
    "grip": {"free": f"grip(?:ping)? {GESTURE}", "made": f"grip {SIGN}"},
    "hand_heart": {
        "free": f"(?:hand|finger) hearts?|heart {GESTURE}|hearts?(?: {SIGN})? {WITH_HANDS}"
                f"|(?:hand|finger)s? in (?:the |a )?(?:shape of a heart|heart(?: {SIGN})?)",
        "made": f"hearts?(?: {SIGN})?(?: {WITH_HANDS})?"},
    "holy": {
        "free": f"(?:praying|prayer) (?:hands|{SIGN}|position)|namaste(?: {SIGN})?|hands? (?:(?:clasped|folded|pressed"
                f"|held|put|joined|placed) )?together(?: in prayer)?|(?:hands? )?(?:clasped|folded)? ?in prayer"
                f"|hands? in (?:a )?(?:prayer|praying)(?: {SIGN}| position)?",
        "whole": "pray(?:ing|s)?"},
    "little_finger": {
        "free": f"(?:little finger|pinky|pinkie)(?: finger)?s? (?:{RAISED}|{GESTURE})|pinky (?:promise|swear)",
        "held": "(?:little finger|pinky|pinkie)(?: finger)?s?"},
    "middle_finger": {
        "free": "middle fingers?", "made": "finger",
        "whole": f"flip(?:ping|s)? (?:off{VIEWER}|(?:(?:us|you) )?the bird)"},
    "point": {
        "free": f"pointing (?:finger|{GESTURE})s?|{HANDS} pointing(?: up| down| upwards?| downwards?)?",
        "whole": f"pointing(?: with)?(?: (?:{HANDS}))?(?: (?:up|down|upwards?|downwards?|left|right|out|forwards?"
                 f"|sideways|away))?"
                 f"|points?(?: with)? {HANDS}|points?(?: (?:up|down|out))?(?= (?:up|at|to|towards?) )"},
    "take_picture": {"free": f"(?:picture )?frame (?:{GESTURE}|{WITH_HANDS})", "made": f"picture frame {SIGN}",
                     "whole": f"fram(?:ing|es|e) (?:(?:his|her|their) face|a picture|the camera) {WITH_HANDS}"},
    "thumb_index": {"free": f"thumb and (?:index finger|forefinger|pointer finger)s?(?: {RAISED}| together)?"
                            f"|(?:l|loser|pinch|pinching) {GESTURE}|loser sign", "made": "l signs?|l shapes?|l"},
    "three_gun": {"free": f"finger guns?|gun {GESTURE}|guns? {WITH_HANDS}", "made": f"gun {SIGN}"},
    "timeout": {"free": f"time ?out {SIGN}|t {GESTURE}", "made": "time ?outs?|t signs?|t shapes?"},
    "xsign": {"free": f"x {GESTURE}|x(?: {SIGN})? {WITH_HANDS}", "made": f"x(?: {SIGN})?"},
    "another": {
        "free": "gang signs?|(?:vulcan|spock|military|army|scout) salutes?|crossed fingers"
                f"|fingers crossed|air quotes|wav(?:e|ing) {GESTURE}",
        "made": "salutes?",
        "whole": f"waving (?:goodbye|bye|hello|hi|{HANDS})|waving(?! {OWNER} )(?! (?:\\w+ )?flags?)"
                 f"|waves? (?:goodbye|bye|hello|hi|{HANDS})|waves?(?= (?:at|to) )"
                 f"|salut(?:ing|es|e)(?: the flag)?{VIEWER}"},
    "hand": {
        "free": rf"hands? (?:sign|gesture|signal|symbol|motion)s?(?: (?:of|for) \w+)?|hands? {RAISED}|raised hands?",
        "made": f"gestures?|signs? {WITH_HANDS}",
        "whole": f"gestur(?:ing|es|e)(?: {WITH_HANDS})?|(?:rais|lift)(?:ing|es|e|s) {DET}hands?(?: {RAISED})?"
                 f"|(?:hold|put|stick)(?:ting|ing|s)? (?:up|out) {DET}hands?"},
}
for name, gesture in GESTURES.items():  # the phrases of the table, however they are led in
    words = re.escape(gesture.phrase.removeprefix("making ").removesuffix(" hand gesture")).replace(r"\ ", " ")
    row = TABLE.setdefault(name, {})
    row["free"] = "|".join(filter(None, [f"{words} {GESTURE}", row.get("free")]))


def compile_pattern(pattern):
    return re.compile(pattern.replace(" ", "(?: ?[-–] ?| )"), re.IGNORECASE)


def compile_wording(pattern):
    """`pattern` as whole words, any capitals, with a sign and hands behind it."""
    behind = rf"(?: {SIGN})?(?: {WITH_HANDS}(?! {RAISED}| ?down))?(?!\w|['’]\w)"
    return compile_pattern(rf"(?<![\w'])(?:{pattern}){behind}")


def compile_row(row):
    """(core, whole) of one gesture: its alternatives, and these with the verbs that may lead each of them in.

    Without a match of the core, which is found or ruled out quickly, the whole has none.
    """
    leads = {"free": f"{LEAD}{DET}", "held": f"{MAKE_OR_HOLD} {DET}", "made": f"{MAKE} {DET}", "whole": ""}
    kinds = [kind for kind in leads if kind in row]
    core = compile_pattern("|".join(row[kind] for kind in kinds))
    return core, compile_wording("|".join(f"{leads[kind]}(?:{row[kind]})" for kind in kinds))


# (kind, whether it counts only as the wanted gesture's, core, whole)
WORDINGS = [(name, False, *compile_row(row)) for name, row in TABLE.items()]
WORDINGS += [(name, True, *compile_row({"whole": row["own"]})) for name, row in TABLE.items() if "own" in row]

# Things that carry a gesture's picture or share its name
GARMENTS = (
    "(?:t ?-? ?shirt|tee|shirt|top|hoodie|sweater|sweatshirt|jumper|jacket|coat|vest|dress|hat|cap|beanie|apron|bag"
    "|backpack|pants|jeans|skirt|sock|glove|costume|sunglasses|glasses|mask|bandana|scarf|uniform)s?")
PICTURES = (
    "(?:sticker|poster|logo|emoji|icon|print|pattern|design|graphic|tattoo|balloon|cookie|cake|pillow|mug|statue"
    "|sculpture|painting|picture|drawing|photo|cartoon|patch|pin|button|badge|banner|flag|mural|card|pendant"
    "|necklace|earring|bracelet|ring|wall|billboard|neon|decoration|keychain|magnet|toy|figurine)s?")
OTHER_THINGS = (
    "(?:trees?|leaf|leaves|fronds?|beach|oil|plants?|springs|sunday|foods?|sandwich(?:es)?|puppets?|nails?|mantis"
    "|polish|paint|shaped|bands?|clubs?|concerts?|music|stars?|dogs?|foam|of view|posts?|in the (?:wind|breeze))")
ARTICLE = "(?:the|his|her|their|its|a|an) "
INNOCENT_AFTER = re.compile(
    rf"[ -]+(?:printed |shaped |themed )?(?:{GARMENTS}|{PICTURES}|{OTHER_THINGS})(?!\w)"
    rf"|[ -]+(?:printed |painted |written |drawn )?(?:on|across) (?:it|them|(?:{ARTICLE})?(?:(?!{HANDS})\w+ )?"
    rf"(?:{GARMENTS}|{PICTURES}|chest|back|front|screen))(?!\w)"
    rf"|[ -]+in (?:{ARTICLE})?(?:{PICTURES}|background)(?!\w)", re.IGNORECASE)
INNOCENT_BEFORE = re.compile(
    rf"(?<!\w)(?:(?:{GARMENTS}|{PICTURES}) (?:of|showing|featuring|that says|that reads|saying|reading)|says|reads"
    r"|saying|reading|wearing|between|around|called|named|titled|flags?|banners?|hair|on)"
    rf" (?:{ARTICLE})?$", re.IGNORECASE)
