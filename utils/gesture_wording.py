"""How captions word gestures, as regular expressions, and what shows that such words mean something else.

In every pattern here a space also stands for a hyphen, with or without spaces around it.
"""

import re

from utils.gestures import GESTURES

# Verbs that make a gesture, and verbs that also hold or show a thing: plural, singular, participle, past.
MAKE_VERBS = """give gives giving gave | make makes making made | show shows showing showed | do does doing did
 flash flashes flashing flashed | throw throws throwing threw | form forms forming formed | pose poses posing posed
 perform performs performing performed | use uses using used | signal signals signaling signaled
 signal signals signalling signalled | gesture gestures gesturing gestured | sign signs signing signed
 demonstrate demonstrates demonstrating demonstrated | offer offers offering offered | pump pumps pumping pumped"""
HOLD_VERBS = """hold holds holding held | raise raises raising raised | lift lifts lifting lifted | put puts putting
 stick sticks sticking stuck | display displays displaying displayed | extend extends extending extended
 clench clenches clenching clenched | place places placing placed | press presses pressing pressed
 touch touches touching touched | keep keeps keeping kept | cross crosses crossing crossed | have has having had
 pinch pinches pinching pinched | shake shakes shaking shook | reach reaches reaching reached
 stretch stretches stretching stretched"""
OWN_VERBS = """wave waves waving waved | point points pointing pointed | salute salutes saluting saluted
 shush shushes shushing shushed | pray prays praying prayed | flip flips flipping flipped
 frame frames framing framed | talk talks talking talked | speak speaks speaking spoke
 chat chats chatting chatted"""  # each names a gesture by itself


def list_forms(verbs):
    """The [plural, singular, participle, past] of each verb of a text as above; put has no fourth."""
    return [forms.split() for forms in verbs.replace("\n", " | ").split("|") if forms.strip()]


ALL_FORMS = list_forms(MAKE_VERBS) + list_forms(HOLD_VERBS) + list_forms(OWN_VERBS)
PLURAL_FORMS = {forms[0] for forms in ALL_FORMS}
SINGULAR_FORMS = {forms[1] for forms in ALL_FORMS}

# Pieces of the patterns
OWNER = "(?:his|her|their|its|my|your|the|a|an|one|each|both|two)"
LOOKS = ("(?:left|right|double|big|huge|quick|small|classic|open|raised|hand|own|closed|clenched|index|enthusiastic"
         "|clasped|folded|joined)")
DET = f"(?:(?:{OWNER}|{LOOKS}|another|some|of|or) ){{0,5}}"
HANDS = f"(?:(?:{OWNER}|{LOOKS}|of) ){{0,4}}(?:hand|finger|thumb|arm|palm|wrist)s?"
RAISED = (r"(?:(?:is|are|was|were) )?(?:pointing up|pointed up|held up|held out|held high|stretched out|up|raised"
          r"|lifted|extended|outstretched"
          r"|out(?! of)|in the air|high|spread)(?: in the air| high)?")
GESTURE = "(?:(?:hand )?(?:gesture|signal|pose)|hands? (?:sign|symbol|shape))s?"  # never a thing
SIGN = f"(?:{GESTURE}|sign|symbol|shape)s?"  # could be a thing
WITH_HANDS = f"(?:with|using|out of|from) {HANDS}"
LIPS = ("(?:on|to|over|in front of|against|near|at|across|touching|covering) "
        "(?:(?:his|her|their|the|its) )?(?:lip|mouth)s?")
VIEWER = "(?: the (?:camera|viewer|photographer|audience))?"
PHONE = "(?:(?:cell|mobile|smart|tele) ?)?phone"
FINGER = "(?:thumb|index|pointer|middle|ring|little|pinky|pinkie|fore)(?: ?finger)?s?"
FINGERS = f"{FINGER}(?:(?:, | and |, and )(?:{OWNER} )?{FINGER})+(?: fingers?)?"  # two named ones or more
WITH_FINGERS = f"(?:with|using|out of|from) (?:{DET}{FINGERS}|{HANDS}|(?:two|three|four|2|3|4) fingers?)"
LETTER = r"(?:letters? )?[b-z](?!\w|[\x20-]?(?:shirt|neck))"
SHAPE = f"(?:{LETTER}|circle|ring|triangle|square|diamond|zero|cross|heart|frame|face|shape)"
MEANING = ("(?:ok|okay|peace|victory|love|i love you|rock|rock and roll|horns|devil|cross|stop|silence|approval|like"
           "|calling|a phone call)")
# Persons, as what stands before a verb
PERSON = "(?:" + "|".join(rf"(?<=\b{word}\x20)" for word in (
    "man", "men", "woman", "women", "boy", "boys", "girl", "girls", "person", "people", "lady", "guy", "child",
    "children", "kid", "kids", "couple", "he", "she", "they", "who")) + ")"
SOMEONE = ("(?:(?:the|his|her|their|an?) )?(?:camera|viewer|photographer|crowd|audience|friends?|him|her|them|us|you"
           "|someone|people)")
ANOTHER = ("(?: (?:with )?(?:each other|one another|(?:another|an?|the|his|her) (?:other )?"
           "(?:man|woman|person|friend|boy|girl|guy)))")


def any_form(verbs):
    return "(?:" + "|".join(form for forms in list_forms(verbs) for form in forms) + ")"


PARTICLES = "(?: (?:up|out|off|with|us|you|him|them|everyone|someone|the (?:camera|viewer|photographer|crowd))){0,2}"
MAKE = f"{any_form(MAKE_VERBS)}{PARTICLES}"
MAKE_OR_HOLD = f"{any_form(MAKE_VERBS + ' | ' + HOLD_VERBS)}{PARTICLES}"
WITH = f"with(?: {HANDS}(?: {RAISED})?(?: (?:in|into|making|giving|showing|doing|forming))?)?"
LEAD = f"(?:(?:{MAKE_OR_HOLD}|{WITH}) )?"


def finger(names):
    """free and held wording of fingers that are up."""
    return {"free": f"(?:{names}) (?:{RAISED}|together)(?: together)?|(?:{names}) {GESTURE}",
            "held": names, "whole": f"with (?:{names})"}


# Per gesture: `free` stands for it anywhere, `held` behind a verb of either list, `made` only behind one that
# makes; `whole` is a verb of its own; `own` is the gesture's occasion, and counts only where it is wanted.
NUMBERS = {"one": "one|1", "two": "two|2", "three": "three|3", "four": "four|4", "five": "five|5|all five"}
INVERTED = "(?:inverted|reversed?|upside down|backwards?)"
TABLE = {
    "call": {
        "free": f"(?:phone|phone call|telephone|call me|calling|shaka|hang loose|surfer) {GESTURE}|shakas?"
                f"|(?:phone|call me|shaka|hang loose) sign|(?:hand|finger|fist)s? (?:{RAISED} )?"
                f"(?:to|at|near|against|by|on|over) {OWNER} (?:ears?|head|face) (?:like|as) {OWNER} {PHONE}",
        "made": f"(?:phone|phone call|telephone|call|call me) {SIGN}|hang loose|{PHONE} {WITH_HANDS}",
        "own": f"(?:pretending to (?:be |talk |speak )?|talk(?:ing|s)? |speak(?:ing|s)? |chat(?:ting|s)? )"
               f"(?:on|into|over) (?:{OWNER} )?{PHONE}"
               f"|mak(?:ing|es?) a (?:phone )?call(?: (?:on|with) {OWNER} {PHONE})?"},
    "dislike": {"free": "thumb'?s? (?:(?:is|are) )?downs?|thumbs? (?:pointing|pointed|turned) down"},
    "fist": {
        "free": f"(?:clenched|closed|raised|balled) fists?|fists? (?:{RAISED}|clenched)|fist (?:bump|pump)(?:s"
                f"|ing)?{ANOTHER}?"
                f"|with {OWNER} fists?|{DET}fists? (?:on|over|against|to) {OWNER} (?:chest|heart)|(?:hand"
                f"|finger)s? (?:(?:clenched|curled|balled|closed) )?(?:in|into) "
                f"(?:{OWNER} )?fists?|fists? {SIGN}",
        "held": "fists?(?! of )"},
    "four": finger(f"(?:{NUMBERS['four']}) fingers?"),
    "like": {"free": f"thumbs? {RAISED}|thumb'?s? ups?|raised thumbs?|like {GESTURE}"},
    "mute": {
        "free": f"fingers? (?:(?:{RAISED}|pressed|placed|resting) )?{LIPS}|(?:shush|shushing|shh+|hush|silence"
                f"|silent|quiet|mute) {SIGN}",
        "whole": f"shush(?:es|ing|ed)?{VIEWER}|(?:touch|press)(?:es|ing|ed)? (?:{OWNER} )?(?:lip"
                 f"|mouth)s? {WITH_HANDS}"},
    "ok": {"free": rf"(?:ok|okay|o\.k\.|a ok|a okay) {SIGN}|perfect {GESTURE}", "made": r"ok|okay|o\.k\.|perfect sign"},
    "one": finger(f"(?:{NUMBERS['one']} |index |pointer |fore|single )?fingers?"),
    "palm": {
        "free": f"high fiv(?:es?|ing|ed){ANOTHER}?|palms? (?:of {OWNER} (?:hands? )?)?(?:{RAISED}|open"
                f"|facing(?: forwards?| outwards?| inwards?"
                f"| up| down| us| you|{VIEWER}))|open (?:palm|hand)s?"
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
        "free": f"(?:praying|prayer) (?:hands|{SIGN}|position)|namaste(?: {SIGN})?|(?:hand|palm)s? (?:(?:clasped"
                f"|folded|pressed"
                f"|held|put|joined|placed) )?together(?: in prayer)?|(?:hands? )?(?:clasped|folded)? ?in prayer"
                f"|(?:clasped|folded|joined) hands|hands? in (?:a )?(?:prayer|praying)(?: {SIGN}| position)?",
        "whole": "pray(?:ing|s|ed)?"},
    "little_finger": {
        "free": f"(?:little finger|pinky|pinkie)(?: finger)?s? (?:{RAISED}|{GESTURE})|(?:little finger|pinky"
                f"|pinkie) (?:promise|swear)s?",
        "held": "(?:little finger|pinky|pinkie)(?: finger)?s?"},
    "middle_finger": {
        "free": "middle fingers?", "made": "finger",
        "whole": f"flip(?:ping|s)? (?:off{VIEWER}|(?:(?:us|you) )?the bird)"},
    "point": {
        "free": f"pointing (?:finger|{GESTURE})s?|{HANDS} pointing(?: up| down| upwards?| downwards?)?",
        "whole": f"pointing(?: with)?(?: (?:{HANDS}))?(?: (?:up|down|upwards?|downwards?|left|right|out(?! of)"
                 f"|forwards?"
                 f"|sideways|away))?(?: (?:out of|through) {OWNER} (?:window|door))?"
                 f"|points?(?: with)? {HANDS}|points?(?: (?:up|down|out))?(?= (?:up|at|to|towards?) )"},
    "take_picture": {"free": f"(?:picture )?frame (?:{GESTURE}|{WITH_HANDS})", "made": f"picture frame {SIGN}",
                     "whole": f"fram(?:ing|es|e) (?:(?:his|her|their) face|a picture|the camera) {WITH_HANDS}"},
    "thumb_index": {"free": f"thumb and (?:index finger|forefinger|pointer finger)s?(?: {RAISED}| together)?"
                            f"|(?:l|loser|pinch|pinching) {GESTURE}|loser sign", "made": "l signs?|l shapes?|l"},
    "three_gun": {"free": f"(?:(?:point|shoot|fir)(?:ing|s|es|ed) )?{DET}finger guns?|gun {GESTURE}"
                f"|guns? {WITH_HANDS}", "made": f"gun {SIGN}"},
    "timeout": {"free": f"time ?out {SIGN}|t {GESTURE}", "made": "time ?outs?|t signs?|t shapes?"},
    "xsign": {"free": f"x {GESTURE}|x(?: {SIGN})? {WITH_HANDS}", "made": f"x(?: {SIGN})?"},
    "another": {
        "free": "gang signs?|(?:vulcan|spock|military|army|scout) salutes?|crossed fingers"
                f"|fingers crossed|air quotes|wav(?:e|ing) {GESTURE}|{FINGERS}(?: (?:{RAISED}|together|crossed))?"
                f"(?: (?:forming|making|in) (?:an?|the) {SHAPE}(?: {SIGN})?)?"
                f"|(?:hand|finger|arm)s? (?:(?:crossed|held|raised|put) )?(?:in|into|as) (?:an?"
                f"|the) {SHAPE}(?: {SIGN})?",
        "made": f"salutes?|(?:number )?(?:one|two|three|four|five) {SIGN}|{SHAPE}s?(?: {SIGN})? {WITH_FINGERS}"
                f"|{SIGN} (?:for|of) (?:the )?{MEANING}",
        "whole": f"waving (?:goodbye|bye|hello|hi|{HANDS})|waving(?! {OWNER} )(?! (?:\\w+ )?flags?)"
                 f"|wave[sd]? (?:goodbye|bye|hello|hi|{HANDS})|wave[sd]?(?= (?:at|to) {SOMEONE})"
                 f"|{PERSON}wave[sd]?(?! (?:{OWNER} )?(?:\\w+ )?flags?)|salut(?:ing|es|ed|e)(?: {OWNER} (?:flag"
                 f"|officer|soldier))?{VIEWER}"},
    "hand": {
        "free": rf"(?:\w+ (?:shaped|like|style) )?hands? (?:sign|gesture|signal|symbol|motion)s?(?: (?:of"
                rf"|for) {MEANING})?"
                f"|hands? {RAISED}|raised hands?",
        "made": f"gestures?|signs? {WITH_HANDS}(?: {RAISED})?",
        "whole": f"gestur(?:ing|es|e)(?: {WITH_HANDS})?|(?:rais|lift)(?:ing|ed|es|e|s) {DET}hands?(?: {RAISED})?"
                 f"|(?:hold(?:ing|s)?|held|put(?:ting|s)?|st[iu]ck(?:ing|s)?) (?:up|out) {DET}hands?"},
}
for name, gesture in GESTURES.items():  # the phrases of the table, however they are led in
    words = re.escape(gesture.phrase.removeprefix("making ").removesuffix(" hand gesture")).replace(r"\ ", " ")
    row = TABLE.setdefault(name, {})
    row["free"] = "|".join(filter(None, [f"{words} {GESTURE}", row.get("free")]))


def compile_pattern(pattern):
    return re.compile(pattern.replace(" ", "(?: ?[-–] ?| )"), re.IGNORECASE)


def compile_wording(pattern):
    """`pattern` as whole words, any capitals, with a sign and hands behind it."""
    fingers = f"(?:two|three|four|five|2|3|4|5) fingers?(?: {RAISED})?"
    behind = (rf"(?: {SIGN})?(?: (?:with|showing) {fingers}| {WITH_HANDS}(?! {RAISED}| ?down))?"
              rf"(?: (?:in|into|like|as) (?:an?|the) (?:{LETTER}|peace|victory|heart)(?: {SIGN})?)?(?!\w|['’]\w)")
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
    "(?:graffiti|sticker|poster|logo|emoji|icon|print|pattern|design|graphic|tattoo|balloon|cookie|cake|pillow|mug"
    "|statue"
    "|sculpture|painting|picture|drawing|photo|cartoon|patch|pin|button|badge|banner|flag|mural|card|pendant"
    "|necklace|earring|bracelet|ring|wall|billboard|neon|decoration|keychain|magnet|toy|figurine)s?")
OTHER_THINGS = (
    "(?:trees?|leaf|leaves|fronds?|beach|oil|plants?|springs|sunday|foods?|sandwich(?:es)?|puppets?|nails?|mantis"
    "|offerings?|treat(?:y|ies)|talks?|march(?:es)?|corps|lil(?:y|ies)|pipes?|people|persons?|m[ae]n|wom[ae]n|crowds?"
    "|of (?:fury|(?:an? |the )?(?:shop|store|bar|restaurant|hotel|salon))|polish|paint|shaped|bands?|clubs?"
    "|concerts?|music|stars?|dogs?|foam|of view|posts?|in the (?:wind|breeze))")
ARTICLE = "(?:the|his|her|their|its|a|an) "
INNOCENT_AFTER = re.compile(
    rf"[ -]+(?:printed |shaped |themed )?(?:{GARMENTS}|{PICTURES}|{OTHER_THINGS})(?!\w)"
    rf"|[ -]+(?:printed |painted |written |drawn )?(?:on|across) (?:it|them|(?:{ARTICLE})?(?:(?!{HANDS})\w+ )?"
    rf"(?:{GARMENTS}|{PICTURES}|chest|back|front|screen))(?!\w)"
    rf"|[ -]+in (?:{ARTICLE})?(?:{PICTURES}|background)(?!\w)", re.IGNORECASE)
INNOCENT_BEFORE = re.compile(
    rf"(?<!\w)(?:(?:{GARMENTS}|{PICTURES}) (?:of|showing|featuring|that says|that reads|saying|reading)|says|reads"
    r"|saying|reading|wearing|between|around|called|named|titled|flags?|banners?|on)"
    rf" (?:{ARTICLE})?(?:\w+ and )?$", re.IGNORECASE)
