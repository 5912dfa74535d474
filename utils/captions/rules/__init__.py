"""The wording rules. `enrich_by_rules` puts a phrase into a caption, without a model.

`check_answer` holds what a model wrote against the same rules, `to_one_line` gives a caption as both read it. Nobody
outside imports the modules of this room.
"""

from utils.captions.rules.answer_check import check_answer
from utils.captions.rules.enrichment_rules import enrich_by_rules, to_one_line

__all__ = ["check_answer", "enrich_by_rules", "to_one_line"]
