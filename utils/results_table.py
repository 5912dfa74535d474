"""The door of `python -m utils.results_table`: utils/metrics/results_table.py."""

from utils.metrics.results_table import main, parse_args
from utils.system.script import run_main

if __name__ == "__main__":
    run_main(main, parse_args())
