"""How captions word each gesture: a table of patterns, compiled with the verbs that may lead them in.

In every pattern here a space also stands for a hyphen, with or without spaces around it.
"""

import re

from utils.captions.rules.gesture_words import (
    ANOTHER,
    AT_REST,
    CALL_VERBS,
    DET,
    FINGER,
    GESTURE,
    GIVE,
    HANDS,
    HANDS_END,
    HOLD_LEAD,
    HOLD_UP,
    LEAD,
    LETTER,
    LIFT,
    LIPS,
    LOOKS,
    MAKE_LEAD,
    OWNER,
    PHONE,
    PLACE,
    RAISED,
    SHOW,
    SHOWN_ALONE,
    SIGN,
    SOMEONE,
    THUMB,
    VIEWER,
    WITH_FINGERS,
    WITH_HANDS,
    any_form,
    compile_pattern,
)
from utils.captions.rules.hand_wording import HAND_TABLE
from utils.data.gestures import GESTURES

POINTED = f"(?:cameras?|(?:hand)?guns?|pistols?|rifles?|weapons?|{PHONE}|remotes?|sticks?|knife|pens?|microphones?)"


def finger(names):
    """free and held wording of fingers that are up."""
    thumb = f"(?: and {OWNER} thumb)?"
    return {"free": f"(?:{names}){thumb} (?:{RAISED}(?: together)?|(?:(?:close|held|pressed|touching) )?together)"
                    f"|(?:{names}) {GESTURE}",
            "held": f"(?:{names}){thumb}", "whole": f"with (?:{names}){thumb}"}


# Per gesture: `free` stands for it anywhere, `held` behind a verb of either list, `made` only behind one that
# makes; `whole` is a verb of its own; `own` is the gesture's occasion, and counts only where it is wanted.
NUMBERS = {"one": "one|1", "two": "two|2", "three": "(?:middle )?three|3", "four": "(?:all )?four|4",
           "five": "five|5|all five"}
JOINED = "(?:folded|clasped|joined)"
JOIN = any_form("clasp clasps clasping clasped | fold folds folding folded | join joins joining joined")
# Where hands are held and why, which goes with what they did
HELD_AT = (rf"(?:in the air|on {OWNER} (?:(?:left|right|other) )?hands?"
           rf"|(?:over|against|in front of|near|at) {OWNER} (?:chest|body|torso|heart)"
            r"|in front of (?:him|them|himself|herself|themselves|her(?=[^\w\x20-]|$| (?:in|on|at|and|while|with) )))")
PURPOSE = (rf"(?:as if )?to (?:stop(?: {SOMEONE})?(?! (?:{OWNER}|\w+)\b)|(?:say|signal|indicate|show|mean|express) "
           "(?:ok|okay|hello|hi|goodbye|bye|yes|no|stop|peace|love|quiet|silence|approval|disapproval|victory)"
           "|ask for (?:quiet|silence)|make (?:his|her|a) point)")
OF_HAND = f"(?: of {OWNER})?"
INVERTED = "(?:inverted|reversed?|upside down|backwards?)"
TABLE = {
    "call": {
        "free": f"(?:phone|phone call|telephone|call me|calling|shaka|hang loose|surfer) {GESTURE}|shakas?"
                f"|(?:phone|call me|shaka|hang loose) sign|(?:hand|finger|fist)s? (?:{RAISED} )?"
                f"(?:(?:to|at|near|against|by|on|over) {OWNER} (?:ears?|head|face) )?(?:like|as) {OWNER} {PHONE}",
        "made": f"(?:phone|phone call|telephone|call|call me) {SIGN}|hang loose|{PHONE} {WITH_HANDS}",
        "whole": f"pretending to (?:make {OWNER} (?:phone )?call|(?:be|talk|speak) (?:on|into|over) (?:{OWNER} )?"
                 f"{PHONE}|(?:hold|use) {OWNER} {PHONE})(?: {WITH_HANDS})?",
        "own": f"(?:talk(?:ing|s)? |speak(?:ing|s)? |chat(?:ting|s)? )"
               f"(?:on|into|over) (?:{OWNER} )?{PHONE}"
               f"|mak(?:ing|es?) a (?:phone )?call(?: (?:on|with) {OWNER} {PHONE})?"},
    "dislike": {"free": "thumb'?s? (?:(?:is|are) )?downs?|thumbs? (?:pointing|pointed|turned) down",
                "made": "dislikes?(?! (?:of|for|an?|the))"},
    "fist": {
        "free": f"(?:clenched|closed|raised|balled) fists?|fists? (?:{RAISED}|clenched)"
                f"|fist (?:bump|pump)(?:s|ing)?{ANOTHER}?|with {OWNER} fists?"
                f"|{DET}fists? (?:on|over|against|to) {OWNER} (?:chest|heart)|fists? {SIGN}"
                f"|(?:hand|finger)s? (?:(?:is|are) )?(?:(?:clenched|curled|balled|closed) )?(?:in|into) "
                f"(?:{OWNER} )?fists?|hands? (?:(?:is|are) )?clenched(?! (?:on|around|together))"
                f"|bump(?:ing|s|ed)? (?:{OWNER} )?fists",
        "held": "fists?(?! of )", "whole": rf"{SHOWN_ALONE}fists?(?! (?:of|fight|{RAISED})\b)"},
    "four": finger(f"(?:{NUMBERS['four']}){OF_HAND} fingers?"),
    "like": {
        "free": f"thumbs? {RAISED}|thumb'?s? ups?|raised thumbs?|like {GESTURE}",
        "made": rf"(?:(?<=\ba\x20)|(?<=\bthe\x20))likes?(?! (?:{OWNER}|he|she|they|in|on)\b)|like sign",
        "whole": f"(?:{SHOW}|{HOLD_UP}|{LIFT}(?: up)?) {DET}{THUMB}"},
    "mute": {
        "free": f"fingers? (?:(?:{RAISED}|pressed|placed|resting) )?{LIPS}|(?:shush|shushing|shh+|hush|silence"
                f"|silent|(?:be )?quiet|mute) {SIGN}",
        "whole": f"shush(?:es|ing|ed)?{VIEWER}|say(?:ing|s)? shh+(?: {WITH_HANDS})?"
                 f"|cover(?:ing|s|ed)? {OWNER} (?:lip|mouth)s? (?:with|using) (?:(?:{OWNER}|{LOOKS}) )*fingers?"
                 f"|signal(?:l?ing|s|l?ed) (?:for )?(?:silence|quiet)"
                 f"|(?:touch|press)(?:es|ing|ed)? (?:{OWNER} )?(?:lip|mouth)s? {WITH_HANDS}"},
    "ok": {"free": rf"(?:ok|okay|o\.k\.|a ok|a okay) (?:{SIGN}|hands?)|perfect {GESTURE}",
           "made": r"ok|okay|o\.k\.|perfect sign"},
    "one": finger(f"(?:{NUMBERS['one']} |index |pointer |fore|single )?fingers?"),
    "palm": {
        "free": f"high fiv(?:es?|ing|ed){ANOTHER}?|palms? (?:of {OWNER} (?:hands? )?)?(?:(?:is|are) )?(?:{RAISED}|open"
                f"|facing(?: forwards?| outwards?| inwards?"
                f"| up| down| us| you|{VIEWER}))|open (?:palm|hand)s?"
                f"|hands? (?:(?:wide|spread) )?open(?: wide)?|palm {SIGN}"
                f"|(?:{NUMBERS['five']}){OF_HAND} fingers(?: {RAISED})?",
        "held": f"palms?(?: of {HANDS})?|all (?:of )?(?:{OWNER} )?fingers",
        "whole": rf"{SHOWN_ALONE}palms?(?: of {HANDS}|(?<=['’]s\x20palm)|(?<=['’]s\x20palms))"
                 rf"(?! (?:{RAISED}|open|facing)\b)"
                 f"|spread(?:ing|s)? (?:out )?{OWNER} fingers?(?: (?:apart|wide|out))?"},
    "peace": {"free": f"(?:peace|victory) {SIGN}|peace fingers|v for victory|v (?:{GESTURE}|signs?)|v {WITH_HANDS}",
              "made": "peace|v|v shapes?|bunny ears|deuces?"},
    "peace_inverted": {
        "free": f"{INVERTED} (?:peace|victory|v) {SIGN}|(?:peace|victory|v) {SIGN} {INVERTED}"},
    "rock": {
        "free": f"(?:rock|rock on|rock (?:and|&|n|'n'|'n|n') roll|rock'?n'?roll|metal|heavy metal) {GESTURE}"
                f"|devil'?s?'? horns?(?: {SIGN})?|(?:horns?|spider ?man) {GESTURE}|rock (?:and|&|n|'n') roll sign",
        "made": "(?:rock|rock on|rock star|metal|heavy metal|horns?|devil|i love you|spider ?man) "
                f"(?:{SIGN}|horns|hands)|horns"},
    "stop": {"free": f"stop {GESTURE}", "made": f"stop {SIGN}"},
    "stop_inverted": {"free": f"{INVERTED} stop {SIGN}", "made": f"back(?:side)?s? of {HANDS}"},
    "three": finger(f"(?:{NUMBERS['three']}){OF_HAND} fingers?"),
    "three2": {"free": f"thumb and two fingers(?: {RAISED})?"},
    "two_up": finger(f"(?:{NUMBERS['two']}){OF_HAND} fingers?"),
    "grabbing": {"free": f"grabbing {GESTURE}", "made": f"grabbing {SIGN}"},
    "grip": {"free": f"grip(?:ping)? {GESTURE}", "made": f"grip {SIGN}"},
    "hand_heart": {
        "free": f"(?:hand|finger) hearts?|heart {GESTURE}|hearts?(?: {SIGN})? {WITH_HANDS}"
                f"|(?:hand|finger)s? in (?:the |a )?(?:shape of a heart|heart(?: {SIGN})?)",
        "made": f"hearts?(?: {SIGN})?(?: {WITH_HANDS})?"},
    "holy": {
        "free": f"(?:praying|prayer) (?:hands|{SIGN}|position)|namaste(?: {SIGN})?"
                "|(?:hand|palm)s? (?:(?:is|are) )?(?:(?:clasped|folded|pressed|held|put|joined|placed) )?together"
                "(?: in prayer)?|(?:hands? )?(?:clasped|folded)? ?in prayer"
                f"|in (?:(?:a|the) )?(?:prayer|praying|namaste) (?:{SIGN}|position)"
                f"|hands (?:are )?{JOINED}(?! (?:{AT_REST}|over|across))"
                f"|{JOINED} hands|hands? in (?:a )?(?:prayer|praying)(?: {SIGN}| position)?",
        "whole": f"say(?:ing|s)? namaste|{JOIN} (?:his|her|their|both) hands(?: together)?"
                 f"(?! (?:{AT_REST}|over|across))"
                 f"|pray(?:ing|s|ed)?"
                 f"(?: with {HANDS} (?:(?:held|pressed|clasped) )?(?:together|folded|clasped|{RAISED}))?"},
    "little_finger": {
        "free": f"(?:little finger|pinky|pinkie)(?: finger)?s? (?:{RAISED}|{GESTURE})|(?:little finger|pinky"
                f"|pinkie) (?:promise|swear)s?",
        "held": "(?:little finger|pinky|pinkie)(?: finger)?s?"},
    "middle_finger": {
        "free": f"middle fingers?(?: {RAISED})?", "made": "finger",
        "whole": f"flip(?:ping|s|ped)? (?:off{VIEWER}|(?:(?:us|you) )?the bird|{SOMEONE} off)"
                 f"|{GIVE} (?:{SOMEONE} )?the bird(?! (?:an?|some|the|its|seeds?|food))"},
    "point": {
        "free": f"pointing (?:finger|{GESTURE})s?|{HANDS} point(?:ing|ed)(?: up| down| upwards?| downwards?)?",
        "whole": f"pointing(?! {OWNER} (?:\\w+ )?{POINTED})(?: with)?(?: {HANDS})?"
                 "(?: (?:up|down|upwards?|downwards?|straight|left|right|out(?! of)|forwards?|sideways|away))?"
                 f"(?: (?:out of|through) {OWNER} (?:window|door))?"
                 f"|points?(?: with)? {HANDS}|points?(?: (?:up|down|out))?(?= (?:up|at|to|towards?) )"},
    "take_picture": {"free": f"(?:picture )?frame (?:{GESTURE}|{WITH_HANDS})", "made": f"picture frame {SIGN}",
                     "whole": f"tak(?:ing|es|e) {DET}(?:picture|photo)s? {WITH_FINGERS}{HANDS_END}"
                              f"|fram(?:ing|es|e) (?:(?:his|her|their) face|a picture|the camera) {WITH_HANDS}"},
    "thumb_index": {"free": f"thumb and (?:index finger|forefinger|pointer finger)s?(?: {RAISED}| together)?"
                            f"|(?:l|loser|pinch|pinching) {GESTURE}|loser sign", "made": "l signs?|l shapes?|l"},
    "three_gun": {"free": f"(?:(?:point|shoot|fir)(?:ing|s|es|ed) )?{DET}finger guns?|gun {GESTURE}"
                f"|(?:hand|finger)s? (?:(?:to|at|against) {OWNER} (?:head|temple) )?like {OWNER} (?:gun|pistol)"
                f"|guns? {WITH_HANDS}", "made": f"gun {SIGN}"},
    "timeout": {"free": f"time ?out {SIGN}|t {GESTURE}", "made": "time ?outs?|t signs?|t shapes?",
                "whole": f"{any_form(CALL_VERBS)} (?:for )?{DET}time ?outs?"},
    "xsign": {
        "free": f"x {GESTURE}|x(?: {SIGN})? {WITH_HANDS}|crossed (?:arms|wrists|forearms)"
                f"|(?:(?:arm|forearm)s? (?:are )?(?:crossed|folded)|(?:wrist|hand)s? (?:are )?crossed)(?! {AT_REST})"
                f"(?: {PLACE})?",
        "made": f"x(?: {SIGN})?",
        "whole": f"(?:cross(?:ing|es|ed)?|fold(?:ing|s|ed)?) {DET}(?:arm|forearm|wrist)s?(?! {AT_REST})(?: {PLACE})?"
                 f"|cross(?:ing|es|ed)? {DET}hands(?! {AT_REST})(?: {PLACE})?"},
    **HAND_TABLE,
}
for name, gesture in GESTURES.items():  # the phrases of the table, however they are led in
    words = re.escape(gesture.phrase.removeprefix("making ").removesuffix(" hand gesture")).replace(r"\ ", " ")
    row = TABLE.setdefault(name, {})
    row["free"] = "|".join(filter(None, [f"{words} {GESTURE}", row.get("free")]))


def compile_wording(pattern):
    """`pattern` as whole words, any capitals, with what may follow: a sign, the hands it is made with, its meaning."""
    fingers = f"(?:two|three|four|five|2|3|4|5) fingers?(?: {RAISED})?"
    held = f" (?:{RAISED}|down|facing|open|folded|clasped|crossed|spread|together|{LIPS})"
    behind = (rf"(?: {SIGN})?(?: position)?(?: up(?! (?:close|against|the|an?)\b))?(?: (?:with|showing) {fingers}"
              rf"| {WITH_FINGERS}(?!{held}| ?down|(?:,| and) (?:{OWNER} )?{FINGER}| fingers?))?"
              rf"(?: (?:in|into|like|as) (?:an?|the) (?:{LETTER}|peace|victory|heart|gun|{PHONE})(?: {SIGN})?)?"
              rf"(?: (?:that|which) (?:says?|means?|looks? like|resembles?) (?:{OWNER} )?[\"']?\w+[\"']?(?: {SIGN})?"
              rf"| like (?:he|she|they) (?:is|are) (?:on|holding|using) {OWNER} {PHONE}"
              rf"| (?:for|(?:for {SOMEONE} )?to be) (?:silence|silent|quiet)| {PURPOSE})?"
              rf"(?: {HELD_AT})?(?!\w|['’]\w)")
    return compile_pattern(rf"(?<![\w'])(?:{pattern}){behind}")


def compile_row(row):
    """(core, whole) of one gesture: its alternatives, and these with the verbs that may lead each of them in.

    Without a match of the core, which is found or ruled out quickly, the whole has none.
    """
    leads = {"free": LEAD, "held": HOLD_LEAD, "made": MAKE_LEAD, "whole": ""}
    kinds = [kind for kind in leads if kind in row]
    core = compile_pattern(rf"(?<![\w'])(?:{'|'.join(row[kind] for kind in kinds)})")
    return core, compile_wording("|".join(f"{leads[kind]}(?:{row[kind]})" for kind in kinds))


# (kind, whether it counts only as the wanted gesture's, core, whole)
WORDINGS = [(name, False, *compile_row(row)) for name, row in TABLE.items()]
WORDINGS += [(name, True, *compile_row({"whole": row["own"]})) for name, row in TABLE.items() if "own" in row]
