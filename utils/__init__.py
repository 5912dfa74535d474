"""What the stage scripts share, in rooms: Hand1000 itself is in `method`. Imports go leftwards only:

system < data < hands, models < captions, method, synthetic < metrics < scripts
"""
