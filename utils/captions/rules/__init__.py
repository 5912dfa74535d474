"""The phrase put in by rules, for when no language model is there: `enrich_by_rules`."""
