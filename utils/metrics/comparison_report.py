"""What cal_fid.py and cal_kid.py print, and append as rows."""

from dataclasses import dataclass

from utils.hands.landmarker import describe_detector
from utils.metrics.comparison_flags import chosen_regions
from utils.metrics.evaluation import DETECTION
from utils.system import errors, files, processes

SUFFIXES = {"full": "", "hands": "-h"}  # of a label, in capitals; of the keys of a row, with an underscore
UNITS = {"full": "images", "hand": "hands", "union": "hand boxes"}  # what a row of features is of


@dataclass
class Numbers:
    """What was measured of a region. values: by the suffix of their keys in a row; text: the same to be printed.

    floor: as from evaluation.measure_floor, None if not asked for.
    """

    values: dict
    text: str
    floor: dict | None = None


class Report:
    """Prints what was compared, and appends a row per folder of generated images. Of several processes the first does.

    label: FID or KID. hand_crop: one of features.CROPS. is_biased: whether the distance depends on how many images
    there are.
    """

    def __init__(self, label, args, real, extractor, hand_crop, is_biased):
        self.label, self.args, self.real, self.is_biased = label, args, real, is_biased
        self.regions = chosen_regions(args)
        self.units = {"full": UNITS["full"], "hands": UNITS[hand_crop if extractor else "hand"]}
        name = extractor.name if extractor else "landmarks"
        self.source = f"features: {name}"
        own = {key: value for key in ("num_subsets", "num_resamples") if (value := getattr(args, key, None))}
        self.settings = {"protocol": args.protocol, "regions": list(self.regions), "seed": args.seed,
                         "num_images": args.num_images, "batch_size": args.batch_size, "detection": DETECTION,
                         "detector": describe_detector(), **own,
                         "features": name, "feature_settings": extractor.settings if extractor else None}
        self.summaries = []
        self.print(self.describe_folder(real))

    def write(self, fake, numbers):
        """Lines and row of a folder. numbers: region -> Numbers; one that has none has too few hands."""
        if not processes.is_first():
            return
        real, lines, texts = self.real, [self.describe_folder(fake)], []
        row = {"script": f"cal_{self.label.lower()}.py", "name": fake.name, "real_images": str(real.path),
               "fake_images": str(fake.path), "num_real": len(real.records), "num_fake": len(fake.records),
               "num_skipped": real.num_skipped + fake.num_skipped, "num_skipped_real": real.num_skipped,
               "num_skipped_fake": fake.num_skipped, "detection_rate_real": real.detection_rate,
               "detection_rate": fake.detection_rate, **self.settings}
        for region in self.regions:
            label, key = self.label + SUFFIXES[region].upper(), self.label.lower() + SUFFIXES[region].replace("-", "_")
            if region not in numbers:
                row[key] = None
                texts.append(f"{label} - (too few images with a hand)")
                lines.append(f"{fake.name}: {texts[-1]}; {self.source}")
                continue
            values, text, floor = numbers[region].values, numbers[region].text, numbers[region].floor
            num_real, num_fake, unit = real.num_rows[region], fake.num_rows[region], self.units[region]
            self.warn_of_numbers(fake.name, label, num_real, num_fake, unit)
            row |= {key + suffix: value for suffix, value in values.items()}
            row |= {f"{key}_num_real": num_real, f"{key}_num_fake": num_fake, f"{key}_unit": unit}
            row |= {f"{key}_{suffix}": value for suffix, value in (floor or {}).items()}
            texts.append(f"{label} {text} ({num_real} real and {num_fake} fake {unit})")
            lines.append(f"{fake.name}: {label} {text}: {num_real} real and {num_fake} fake {unit}; {self.source}")
            if floor:
                lines.append(f"{fake.name}: {label} {describe_floor(floor, unit)}; {self.source}")
            elif floor is not None:
                errors.warn(f"{label}: too few images for --floor, which needs four real ones and two fake ones")
        if self.args.output:
            files.append_row(self.args.output, row)
        self.print(*lines)
        self.summaries.append(f"{fake.name}: {', '.join(texts)}")

    def end(self):
        """All numbers again, as the last line."""
        self.print(f"{'; '.join(self.summaries)} ({self.source}, {self.args.protocol} protocol)")

    def print(self, *lines):
        """Unflushed, so that a reader who goes after the first line does not cost the rows that follow."""
        if processes.is_first():
            print(*lines, sep="\n")

    def warn_of_numbers(self, name, label, num_real, num_fake, unit):
        if num_real != num_fake:
            consequence = f"; {label} has no bias from that" if not self.is_biased else (
                f": the bias of {label} depends on both numbers; compare only with rows of the same numbers, see "
                "--num_images")
            errors.warn(f"{name}: {num_real} real and {num_fake} fake {unit}{consequence}")

    def describe_folder(self, folder):
        """How much of a folder counts, on one line."""
        line = (f"{folder.name} {errors.one_line(folder.path)}: {len(folder.records)} images, {folder.num_skipped} "
                f"unreadable, hands in {folder.detection_rate:.1%}")
        if "hands" in folder.features:
            line += f", {len(folder.records) - folder.num_with_hand} without a hand left out of the hand numbers"
        return f"{line}; {self.source}"


def describe_floor(floor, unit):
    numbers = {name: format_number(floor[name]) for name in ("floor", "floor_std", "same_n", "same_n_std")}
    return (f"floor {numbers['floor']} ({numbers['floor_std']} std): real against real; fake against real at the same "
            f"number {numbers['same_n']} ({numbers['same_n_std']} std); {floor['floor_n']} and {floor['floor_n']} "
            f"{unit}, {floor['floor_splits']} random halves")


def format_number(value):
    value = round(value, 5) + 0.0  # no "-0.00000"
    return f"{value:.5f}" if abs(value) < 1 else f"{value:.3f}"
