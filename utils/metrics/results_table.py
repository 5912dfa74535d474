"""The rows that the metric scripts appended to a file, as one table: a line per number, a column per folder.

  python -m utils.results_table outputs/call/results.jsonl

Reads the JSON lines of cal_fid.py, cal_kid.py and hand_confidence.py (--output) and joins them by the name of the
folder; where a number was measured twice, the later row counts. In brackets stand 95 % intervals.
"""

from utils.system import cli, errors, files

# What is shown, in this order: key of the row, heading. The features of a distance are added to its heading.
COUNTS = {"num_images": "images", "num_without_hand": "images without a hand", "num_skipped": "images skipped"}
RATES = {"detection_rate": "detection rate", "gesture_match_rate": "gesture match rate",
         "gesture_match_rate_zero_filled": "gesture match rate, no hand = 0",
         "direction_match_rate": "direction match rate", "hand_conf": "HAND-CONF",
         "hand_conf_zero_filled": "HAND-CONF, no hand = 0", "hand_presence": "presence",
         "hand_presence_zero_filled": "presence, no hand = 0"}
DISTANCES = {"fid": "FID", "fid_h": "FID-H", "kid": "KID", "kid_h": "KID-H"}


def parse_args(argv=None):
    parser = cli.ArgumentParser(__doc__)
    parser.add_argument("results", type=cli.path_name, help="JSON lines file that the metric scripts appended to")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    args = parser.parse_args(argv)
    cli.require_file(parser, args.results, "results", "give the file that --output of a metric script named")
    return args


def format_value(row, key):
    """A number with the interval that stands beside it in its row."""
    def short(value):
        return str(value) if isinstance(value, int) else f"{value:.4f}" if abs(value) < 1 else f"{value:.2f}"

    if row.get(key) is None:
        return "-"
    if row.get(f"{key}_low") is None:
        return short(row[key])
    return f"{short(row[key])} [{short(row[f'{key}_low'])}, {short(row[f'{key}_high'])}]"


def describe_source(row):
    """The features of a distance, and its protocol if it is not ours."""
    protocol = "" if row.get("protocol") == "clean" else f", {row.get('protocol')} protocol"
    return f"({row.get('features')}{protocol})"


def collect_cells(rows):
    """{heading: {name: text}} and the names, both in the order they are to be shown."""
    cells = {heading: {} for heading in (*COUNTS.values(), *RATES.values())}
    names = []
    counts = {}  # heading of a distance -> (unit, {name: how many it rests on})
    for row in rows:
        name = row.get("name", "")
        if name not in names:
            names.append(name)
        for key, heading in (COUNTS | RATES).items():
            if key in row and row.get("script") == "hand_confidence.py":
                cells[heading][name] = format_value(row, key)
        for key in (key for key in DISTANCES if row.get(key) is not None):
            heading = f"{DISTANCES[key]} {describe_source(row)}"
            cells.setdefault(heading, {})[name] = format_value(row, key)
            number = f"{row.get(f'{key}_num_real')} and {row.get(f'{key}_num_fake')}"
            unit = f"{row.get(f'{key}_unit')} compared {describe_source(row)}"
            counts.setdefault(heading, (unit, {}))[1][name] = number
    return add_counts({heading: line for heading, line in cells.items() if line}, counts), names


def add_counts(cells, counts):
    """The cells with a line before each distance that says what it rests on, if no line before says the same."""
    table, said = {}, {}
    for heading, line in cells.items():
        unit, numbers = counts.get(heading, (None, None))
        if unit and said.get(unit) != numbers:
            table[unit if unit not in said else f"{unit}, {heading.split()[0]}"] = numbers
            said[unit] = numbers
        table[heading] = line
    return table


def format_table(cells, names):
    """The lines of an aligned table."""
    return align([["", *names], *([heading, *(line.get(name, "-") for name in names)]
                                  for heading, line in cells.items())])


def align(table):
    """The lines of a table of texts, its columns one below another."""
    table = [[errors.one_line(cell) for cell in line] for line in table]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    return ["  ".join(map(str.ljust, line, widths)).rstrip() for line in table]


def main(args):
    rows = files.read_rows(args.results)
    detectors = {(row.get("script"), row.get("name"), row.get("features")): row.get("detector") or "unknown"
                 for row in rows if "detection_rate" in row}  # of the later row, which is shown
    versions = sorted(set(detectors.values()))
    if len(versions) > 1:
        errors.warn(f"{args.results}: hands were found by different detectors ({', '.join(versions)}); measure "
                    "all again with one of them")
    print(*format_table(*collect_cells(rows)), sep="\n")
