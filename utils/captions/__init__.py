"""From images to captions that carry the gesture's phrase."""
