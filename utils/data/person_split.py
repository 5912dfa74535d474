"""Two sets of images with no person in both: exact whenever such sets exist, random, the same for a seed."""

import collections


def split_images(persons, num_train, num_test, rng):
    """{"train": stems, "test": stems}, each in random order, at least as many as wanted, no person in both.

    persons: {stem: person}. All images are in one of the two, in the proportion wanted, as near as it gets: what
    is not needed stands in for what cannot be read. None if there are not enough images or persons.
    """
    sizes = collections.Counter(persons.values())
    wanted = len(persons) * num_train / (num_train + num_test)
    chosen = choose_persons(sizes, num_train, len(persons) - num_test, wanted, rng)
    if chosen is None:
        return None
    order = shuffled(sorted(persons), rng)
    return {"train": [stem for stem in order if persons[stem] in chosen],
            "test": [stem for stem in order if persons[stem] not in chosen]}


def choose_persons(sizes, least, most, wanted, rng):
    """Random persons who have `least` to `most` images together, as near to `wanted` as can be; None if none have.

    sizes: {person: number of images}. Exact (subset sums, one bit each), so None means that there are no such
    persons. rng: random.Random.
    """
    persons_of = {}
    for person in sorted(sizes):
        persons_of.setdefault(sizes[person], []).append(person)
    groups = sorted(persons_of.items())
    reachable = [1]  # bit n of entry i: some persons of the first i groups have n images together
    for size, persons in groups:
        sums, left, step = reachable[-1], len(persons), 1
        while left:  # 1, 2, 4, … persons at once: every number of them is a sum of such steps
            step = min(step, left)
            sums |= sums << size * step
            left, step = left - step, 2 * step
        reachable.append(sums)

    def flags(sums):
        return bin(sums)[:1:-1]  # character n is "1" if bit n is set

    totals = [n for n, flag in enumerate(flags(reachable[-1])) if flag == "1" and least <= n <= most]
    if not totals:
        return None
    total, left = min(totals, key=lambda n: abs(n - wanted)), sum(sizes.values())
    chosen = set()
    for (size, persons), sums in zip(reversed(groups), reversed(reachable[:-1]), strict=True):
        possible = flags(sums)
        counts = [n for n in range(len(persons) + 1)
                  if 0 <= total - n * size < len(possible) and possible[total - n * size] == "1"]
        drawn = sum(rng.random() < total / left for _ in persons)
        count = min(counts, key=lambda n: abs(n - drawn))
        chosen.update(shuffled(persons, rng)[:count])
        total, left = total - count * size, left - len(persons) * size
    return chosen


def shuffled(items, rng):
    """A random order that depends on rng.random() alone, which Python keeps the same in all its versions."""
    return [item for _, item in sorted((rng.random(), item) for item in items)]
