"""The door of `python -m utils.hagrid`, which chooses training and test images: utils/data/hagrid.py."""

from utils.data.hagrid import main, parse_args
from utils.system.script import run_main

if __name__ == "__main__":
    run_main(main, parse_args())
