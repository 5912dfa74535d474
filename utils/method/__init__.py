"""Hand1000: the gesture feature, double fusion, the three stages."""
