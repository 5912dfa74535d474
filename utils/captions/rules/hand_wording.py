"""How captions word what hands do when it is none of the table's gestures: a wave, a picture made of fingers, signing.

Rows of the table in gesture_wording: "another" is a gesture that the table lacks, "hand" a hand that is up or held out.
"""

from utils.captions.rules.gesture_words import (
                        ADJECTIVE,
                        COUNT_VERBS,
                        DET,
                        FINGERS,
                        FORM,
                        GESTURE,
                        GIVE,
                        HANDS,
                        HANDS_END,
                        HOLD_UP,
                        LETTER,
                        LIFT,
                        MEANING,
                        NO_ADJECTIVE,
                        OWNER,
                        PERSON,
                        PLACE,
                        POSITION,
                        PUT_UP,
                        RAISED,
                        SHAPE,
                        SHOW,
                        SIGN,
                        SOMEONE,
                        TELL_VERBS,
                        VIEWER,
                        WITH_FINGERS,
                        WITH_HANDS,
                        any_form,
)

MANY = "(?:six|seven|eight|nine|ten|several|(?:a )?few|many|all|a couple of|a pair of|multiple)"
NUMBER = "(?:number |numbers )(?:one|two|three|four|five|[1-5])"
PICTURE_VERB = any_form("make makes making made | form forms forming formed | create creates creating created"
                        " | mimic mimics mimicking mimicked | imitate imitates imitating imitated")
# What is made by hand and stays, where any other "bird" or "camera" made with hands is a picture that they show
HANDIWORK = (r"(?:food|meal|dough|bread|pizza|pasta|noodle|cake|cookie|sandwich|burger|sushi|dumpling|salad|tortilla"
             r"|drink|coffee|tea|pot|clay|vase|bowl|basket|craft|doll|toy|model|jewel|bracelet|necklace|braid|rope|knot|hole"
             r"|snow|sand|fire|bed|music|sound|noise|mess|money|art|sculpture|statue|picture(?! frame)|photo|video|face"
             r"|trick|call)\w*")
MADE_OF_HANDS = (rf"{PICTURE_VERB} {DET}(?:(?!{HANDIWORK}|gesture|sign|(?:and|with|while|who|{OWNER})\b)\w+ ){{1,3}}?"
                 f"{WITH_FINGERS}")
TELL = rf"{any_form(TELL_VERBS)}(?: (?!(?:and|with|while|who|that|phone|telephone)\b)[\w']+){{0,5}}? {WITH_FINGERS}"
COUNT = (rf"{any_form(COUNT_VERBS)}(?: (?:to )?(?!(?:and|with|his|her|their|money|cash|coins?|bills?)\b)\w+)?"
         f" (?:(?:on|off|with|using) )?{DET}(?:fingers|hands)")
# How and where hands are that are in a shape
HELD = ("(?:(?:crossed|held|raised|put|together|up|out|extended|outstretched|cupped|curled|bent) )?"
        f"(?:{PLACE} )?")
SIGN_VERB = any_form("make makes making made | do does doing did | throw throws throwing threw"
                     " | flash flashes flashing flashed | form forms forming formed")
SIGN_MATERIAL = "(?:protest|cardboard|wooden|wood|paper|neon|street|road|traffic|shop|warning|metal|homemade)"
OUT = "(?:outstretched|out stretched|stretched out|extended|uplifted|upraised|raised)"

HAND_TABLE = {
    "another": {
        "free": "gang signs?|(?:vulcan|spock|military|army|scout) salutes?|crossed fingers|jazz hands"
                f"|fingers (?:are )?crossed|air quotes|live long and prosper|wav(?:e|ing) {GESTURE}"
                r"|(?:in )?(?:\w+ )?sign language"
                r"(?: (?:letter|word|number)s?(?: \w+)?)?"
                f"|{FINGERS}(?: (?:{RAISED}|(?:close )?together|crossed|apart))?"
                f"(?: (?:forming|making|in) (?:an?|the) {SHAPE}(?: {SIGN})?)?"
                f"|(?:hand|finger|arm|thumb)s? {HELD}(?:in|into|as) (?:(?:an?|the) )?"
                rf"(?:{FORM} of (?:(?:an?|the) )?\w+(?: {SIGN})?|{NO_ADJECTIVE}\w+ (?:\w+ )?{POSITION})"
                f"|(?:hand|finger|arm)s? {HELD}(?:in|into|as) (?:an?|the) {SHAPE}(?: {SIGN})?"
                r"|(?:hand|finger)s? (?:shaped|formed|held) (?:like|as|into) (?:an?|the) \w+"
                rf"|(?:hand|finger)s? {HELD}(?:like|as if|as though|as) (?:(?:he|she|they) (?:is|are|was|were) "
                rf"(?:on {OWNER} |\w+ing (?:{OWNER} )?)|\w+ing (?:{OWNER} )?|an? )\w+"
                f"|(?:hand|finger)s? {HELD}like (?:binoculars|claws|wings|glasses)"
                f"|hands? (?:is |are )?(?:(?:half|partially|slightly) )?(?:closed|cupped|curled)"
                r"(?! (?:around|on|over|to|with|behind|under)\b)",
        "made": f"salutes?|(?:number )?(?:one|two|three|four|five) {SIGN}|{SHAPE}s?(?: {SIGN})? {WITH_FINGERS}"
                f"|{SIGN} (?:for|of) (?:the )?{MEANING}|{NUMBER}"
                f"|(?:something|approval|poses?|{ADJECTIVE}poses?) {WITH_FINGERS}"
                f"|(?:{ADJECTIVE})?(?:gap|space|distance) between {DET}(?:fingers|{FINGERS})",
        "held": f"{NUMBER} {WITH_FINGERS}",
        "whole": f"with {HANDS} (?:forming|making) (?:an?|the) {SHAPE}(?: {SIGN})?"
                 f"|{HOLD_UP} (?:{OWNER} )?{MANY} fingers|cross(?:ing|es|ed)? {DET}fingers"
                 rf"|{GIVE} (?:{SOMEONE} )?{DET}(?:\w+ )?waves?(?! (?:of|pool|machine))|(?<=\band\x20)waves?"
                 f"|waving (?:goodbye|bye|hello|hi|{HANDS})|waving(?! {OWNER} )(?! (?:\\w+ )?flags?)"
                 f"|wave[sd]? (?:goodbye|bye|hello|hi|{HANDS})|wave[sd]?(?= (?:at|to) {SOMEONE})"
                 f"|(?:{PERSON}|(?<=\\bto\\x20))wave[sd]?(?! (?:{OWNER} )?(?:\\w+ )?flags?)"
                 f"|salut(?:ing|es|ed|e)(?: {OWNER} (?:flag|officer|soldier))?{VIEWER}"
                 f"|(?:{MADE_OF_HANDS}|{TELL}){HANDS_END}|{COUNT}"
                 rf"|\w+ing (?:[\w']+ ){{0,4}}?(?:in |with |using |through )?(?:\w+ )?sign language"
                 rf"|(?:{PERSON}|(?<=\bis\x20)|(?<=\bare\x20)|(?<=\band\x20))signing{HANDS_END}"
                 rf"|signing (?:the )?(?:(?:word|number|phrase) \w+|letter {LETTER})"
                 rf"|(?:(?<=\bhands\x20)|(?<=\bfingers\x20))(?:forming|making|shaping) (?:an?|the) {SHAPE}"
                 rf"|{SIGN_VERB}(?: up)? {DET}{NO_ADJECTIVE}(?:(?!{SIGN_MATERIAL}\b)\w+ ){{1,2}}signs?"
                 r"(?! (?:that|for|on|with the|saying|reading)\b)"
                 f"|signall?ing(?= (?:to|at) {SOMEONE}|{HANDS_END})"},
    "hand": {
        "free": rf"(?:\w+ (?:shaped|like|style) )?hands? (?:sign|gesture|signal|symbol|motion)s?(?: (?:of"
                rf"|for) {MEANING})?"
                f"|(?:hand|arm)s? {RAISED}|{OUT} (?:hand|arm)s?|(?:hand|palm)s? in front of the (?:camera|lens)",
        "made": f"(?:{ADJECTIVE})?gestures?|signs? {WITH_FINGERS}(?: {RAISED})?",
        "whole": f"gestur(?:ing|es|e)(?: {WITH_HANDS})?|{LIFT} {DET}(?:hand|arm)s?(?: {RAISED})?"
                 f"|{PUT_UP} (?:up|out) {DET}(?:hand|arm)s?"
                 f"|{any_form('extend extends extending extended | reach reaches reaching reached')} "
                 f"(?:out )?(?:with )?{DET}(?:hand|arm)s?(?: out)?"
                 f"|{any_form('open opens opening opened | spread spreads spreading')} (?:out )?(?:his|her|their|both) "
                 f"(?:hand|arm)s?(?: (?:wide|out|apart|open))*|block(?:ing|s|ed)? the (?:camera|lens) {WITH_HANDS}"
                 f"|stretch(?:ing|es|ed)? (?:out {DET}(?:hand|arm)s?|{DET}(?:hand|arm)s? out)"
                 f"|reach(?:ing|es|ed)? (?:out )?(?:to|towards?|for|at) the (?:camera|viewer|photographer)"
                 f"|reach(?:ing|es|ed)? out{HANDS_END}"
                 f"|{SHOW} {DET}hands?(?! (?:of|cards?)\\b)"},
}
