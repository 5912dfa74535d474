"""The words that captions build gestures from, as pieces of regular expressions: verbs, hands, signs, persons.

In a pattern made of them a space also stands for a hyphen, with or without spaces around it: see compile_pattern.
"""

import re

MARK = "\0"  # stands for the phrase while a caption is searched; no text file has it

# Verbs that make a gesture, and verbs that also hold or show a thing: plural, singular, participle, past.
MAKE_VERBS = """give gives giving gave | make makes making made | show shows showing showed | do does doing did
 flash flashes flashing flashed | throw throws throwing threw | form forms forming formed | pose poses posing posed
 perform performs performing performed | use uses using used | signal signals signaling signaled
 signal signals signalling signalled | gesture gestures gesturing gestured | sign signs signing signed
 create creates creating created | mimic mimics mimicking mimicked | imitate imitates imitating imitated
 demonstrate demonstrates demonstrating demonstrated | offer offers offering offered | pump pumps pumping pumped"""
HOLD_VERBS = """hold holds holding held | raise raises raising raised | lift lifts lifting lifted | put puts putting
 stick sticks sticking stuck | display displays displaying displayed | extend extends extending extended
 clench clenches clenching clenched | place places placing placed | press presses pressing pressed
 touch touches touching touched | keep keeps keeping kept | cross crosses crossing crossed | have has having had
 pinch pinches pinching pinched | shake shakes shaking shook | reach reaches reaching reached
 stretch stretches stretching stretched | wag wags wagging wagged | wiggle wiggles wiggling wiggled
 | punch punches punching punched"""
OWN_VERBS = """wave waves waving waved | point points pointing pointed | salute salutes saluting saluted
 shush shushes shushing shushed | pray prays praying prayed | flip flips flipping flipped
 frame frames framing framed | talk talks talking talked | speak speaks speaking spoke
 chat chats chatting chatted | say says saying said | cover covers covering covered | bump bumps bumping bumped
 spread spreads spreading | clasp clasps clasping clasped | fold folds folding folded
 join joins joining joined"""  # each names a gesture by itself, or with the hands that it is done with
# Verbs that say something, which a hand may do as well: "saying hello with his hand", "counting on her fingers"
TELL_VERBS = """say says saying said | tell tells telling told | ask asks asking asked | talk talks talking talked
 speak speaks speaking spoke | communicate communicates communicating communicated
 indicate indicates indicating indicated | express expresses expressing expressed
 greet greets greeting greeted | motion motions motioning motioned
 | explain explains explaining explained | describe describes describing described | scold scolds scolding scolded
 signal signals signaling signaled | signal signals signalling signalled"""
COUNT_VERBS = "count counts counting counted"
CALL_VERBS = "call calls calling called"


def list_forms(verbs):
    """The [plural, singular, participle, past] of each verb of a text as above; put has no fourth."""
    return [forms.split() for forms in verbs.replace("\n", " | ").split("|") if forms.strip()]


ALL_FORMS = list_forms(MAKE_VERBS) + list_forms(HOLD_VERBS) + list_forms(OWN_VERBS)
LEADING_FORMS = [*ALL_FORMS, *list_forms(f"{TELL_VERBS} | {COUNT_VERBS} | {CALL_VERBS} | take takes taking took")]
PLURAL_FORMS = {forms[0] for forms in LEADING_FORMS}
SINGULAR_FORMS = {forms[1] for forms in LEADING_FORMS}
PARTICIPLES = {forms[2] for forms in LEADING_FORMS}
PAST_FORMS = {form for forms in LEADING_FORMS for form in forms[3:]}

# Pieces of the patterns
OWNER = "(?:his|her|their|its|my|your|the|a|an|one|each|both|two)"
LOOKS = ("(?:left|right|double|big|huge|quick|small|classic|open|raised|hand|own|closed|clenched|index|enthusiastic"
         "|clasped|folded|joined)")
DET = f"(?:(?:{OWNER}|{LOOKS}|another|some|of|or) ){{0,5}}"
HANDS = f"(?:(?:{OWNER}|{LOOKS}|of) ){{0,4}}(?:hand|finger|thumb|arm|forearm|palm|wrist)s?"
RAISED = (r"(?:(?:is|are|was|were) )?(?:pointing up|pointed up|held up|held out|held high|stretched out"
          r"|sticking (?:up|out)|up|raised|lifted|extended|outstretched"
          r"|out(?! of)|in the air|high|spread|splayed|stuck up)(?: in the air| high| apart| wide| open)?")
GESTURE = "(?:(?:hand )?(?:gesture|signal|pose)|hands? (?:sign|symbol|shape))s?"  # never a thing
SIGN = f"(?:{GESTURE}|sign|symbol|shape)s?"  # could be a thing
WITH_HANDS = f"(?:with|using|out of|from) {HANDS}"
LIPS = ("(?:on|to|over|in front of|against|near|at|across|touching|covering) "
        "(?:(?:his|her|their|the|its) )?(?:lip|mouth)s?")
VIEWER = "(?: the (?:camera|viewer|photographer|audience))?"
PHONE = "(?:(?:cell|mobile|smart|tele) ?)?phone"
FINGER = "(?:thumb|index|pointer|middle|ring|little|pinky|pinkie|fore)(?: ?finger)?s?"
THUMB = rf"thumbs?(?! (?:drive|ring|tack|nail|print|to\b|(?:and|,) (?:{OWNER} )?{FINGER}))"
FINGERS = f"{FINGER}(?:(?:, | and |, and )(?:{OWNER} )?{FINGER})+(?: fingers?)?"  # two named ones or more
WITH_FINGERS = f"(?:with|using|out of|from) (?:{DET}{FINGERS}|{HANDS}|(?:two|three|four|2|3|4) fingers?)"
BODY = "(?:chest|heart|body|torso|waist|stomach|face|head|ear|eye|mouth|nose|forehead|chin)s?"
PLACE = f"(?:up )?(?:in front of|over|above|across|against|on|near|by|at|to) (?:{OWNER} )?(?:{BODY}|him|her|them)"
AT_REST = "(?:on(?! (?:his|her|their|the) chest)|behind|around|under|over the|on top of|in (?:his|her|their) lap)"
# Behind hands that do nothing else: "in front of" is where he stands, "in his pockets" where they are
ROOM = (r"(?:room|kitchen|office|house|home|studio|hallway|bedroom|bathroom|class\w*|park|garden|picture|photo|video"
        r"|background)")
HANDS_END = (rf"(?=[^\w\x20-]|$| {MARK}| (?:and|while|as|in front of|near|next to|at the camera"
             rf"|to (?:the|a|an|his|her|someone)|in (?:the|an?) (?:\w+\x20){{0,2}}{ROOM})\b)")
SHOWN_ALONE = (r"(?:^|(?<=up\x20)of |(?<=photo\x20)of |(?<=picture\x20)of |(?<=image\x20)of |(?<=view\x20)of "
               rf"|(?<=shot\x20)of ){DET}(?:\w+['’]s (?:{LOOKS} )*)?")  # nothing but the hand: "a close up of a fist"
FORM = "(?:shape|form)"
LETTER = r"(?:letters? )?[b-z](?!\w|[\x20-]?(?:shirt|neck))"
SHAPE = f"(?:{LETTER}|circle|ring|triangle|square|diamond|zero|cross|heart|frame|face|shape|claw|rectangle)"
POSITION = "(?:position|motion|pose|shape|form|formation|gesture|sign|symbol)"
MEANING = ("(?:ok|okay|peace|victory|love|i love you|rock|rock and roll|horns|devil|cross|stop|silence|approval|like"
           "|calling|a phone call)")
# Persons, as what stands before a verb
PEOPLE = "man|men|woman|women|boy|boys|girl|girls|person|people|lady|guy|child|children|kid|kids|couple|he|she|they|who"
PERSON = "(?:" + "|".join(rf"(?<=\b{word}\x20)" for word in PEOPLE.split("|")) + ")"
SOMEONE = ("(?:(?:the|his|her|their|an?) )?(?:camera|viewer|photographer|crowd|audience|friends?|him|her|them|us|you"
           "|someone|somebody|everyone|people|each other)")
ANOTHER = ("(?: (?:with )?(?:each other|one another|(?:another|an?|the|his|her) (?:other )?"
           "(?:man|woman|person|friend|boy|girl|guy)))")


def any_form(verbs):
    """A pattern of every form of the verbs of a text as above."""
    return "(?:" + "|".join(form for forms in list_forms(verbs) for form in forms) + ")"


PARTICLES = "(?: (?:up|out|off|with|us|you|him|them|everyone|someone|the (?:camera|viewer|photographer|crowd))){0,2}"
LIFT = any_form("raise raises raising raised | lift lifts lifting lifted")
PUT_UP = any_form("hold holds holding held | put puts putting | stick sticks sticking stuck")
HOLD_UP = f"(?:{PUT_UP}|{LIFT}) (?:up|out)"
GIVE = any_form("give gives giving gave | offer offers offering offered | flash flashes flashing flashed")
SHOW = any_form("give gives giving gave | show shows showing showed | flash flashes flashing flashed")
MAKE = f"{any_form(MAKE_VERBS)}{PARTICLES}"
MAKE_OR_HOLD = f"{any_form(MAKE_VERBS + ' | ' + HOLD_VERBS)}{PARTICLES}"
USE_TO_MAKE = f"us(?:e|es|ing|ed) {HANDS} to (?:make|form|show|do|give|create)"
HAND_MAKING = f"with {HANDS} (?:making|giving|showing|doing|forming)"
WITH = f"with(?: {HANDS}(?: {RAISED})?(?: (?:in|into|making|giving|showing|doing|forming))?)?"
HOLD_IN = f"{any_form(HOLD_VERBS)}(?: (?:up|out))? {HANDS}(?: {RAISED})? (?:in|into)"
# Between a verb that makes and its gesture: one word of any kind ("a funny", "some kind of"), or who it is for.
NO_ADJECTIVE = f"(?!(?:and|or|with|in|of|on|at|to|for|from|by|as|while|is|are|no|not|who|that|{OWNER}|{PEOPLE})\\b)"
ADJECTIVE = rf"(?:very |really )?{NO_ADJECTIVE}\w+ (?:(?:kind|type|sort) of )?"
LEAD = (f"(?:(?:{MAKE_OR_HOLD}|{WITH}|{HOLD_IN}|{USE_TO_MAKE}) {DET}|{MAKE} {DET}{ADJECTIVE}{DET}"
        rf"|{GIVE} {DET}\w+ (?:\w+ )?(?:an?|the|two|his|her) {DET}|{DET})")
MAKE_LEAD = f"(?:{MAKE}|{USE_TO_MAKE}|{HAND_MAKING}) {DET}"
HOLD_LEAD = f"(?:{MAKE_OR_HOLD}|{USE_TO_MAKE}|{HAND_MAKING}) {DET}"


def compile_pattern(pattern):
    return re.compile(pattern.replace(" ", "(?: ?[-–] ?| )"), re.IGNORECASE)
