"""Numbers, and what they are worth: distances, intervals, features, hand scores, the table of results."""
