"""Dividing persons between two sets: exact, random, in proportion, the same for a seed."""

import itertools
import random
import time

from utils.data.person_split import choose_persons, split_images


def persons_of(sizes):
    """{stem: person} for {person: number of images}."""
    return {f"{person}-{i}": person for person, size in sizes.items() for i in range(size)}


def can_be_split(sizes, num_train, num_test):
    """By trying all subsets of the persons."""
    sets = itertools.chain.from_iterable(itertools.combinations(sizes, n) for n in range(len(sizes) + 1))
    return any(num_train <= sum(chosen) <= sum(sizes) - num_test for chosen in sets)


def test_a_split_is_found_whenever_there_is_one():
    rng = random.Random(0)
    outcomes = set()
    for _ in range(400):
        sizes = [rng.randint(1, 9) for _ in range(rng.randint(1, 7))]
        num_train, num_test = rng.randint(0, 16), rng.randint(1, 16)
        persons = persons_of(dict(zip("abcdefg", sizes, strict=False)))
        split = split_images(persons, num_train, num_test, rng)
        assert (split is not None) == can_be_split(sizes, num_train, num_test), (sizes, num_train, num_test)
        outcomes.add(split is None)
        if split:
            assert len(split["train"]) >= num_train and len(split["test"]) >= num_test
            assert sorted(split["train"] + split["test"]) == sorted(persons)
            assert not {persons[stem] for stem in split["train"]} & {persons[stem] for stem in split["test"]}
    assert outcomes == {True, False}


def test_images_are_shared_out_in_the_proportion_wanted():
    sizes = {f"p{i}": 1 + i % 12 for i in range(600)}  # 3,900 images
    split = split_images(persons_of(sizes), 300, 100, random.Random(1))
    assert abs(len(split["train"]) - 2925) <= 1


def test_every_person_comes_to_either_set_as_often_as_the_proportion_says():
    sizes = {f"p{i}": 1 + i % 5 for i in range(20)}
    times = dict.fromkeys(sizes, 0)
    for seed in range(600):
        for person in choose_persons(sizes, 20, 40, 30, random.Random(seed)):
            times[person] += 1
    assert all(240 < count < 360 for count in times.values()), times  # 300 expected, deviation 12


def test_a_seed_gives_one_split_whatever_the_order_of_the_images():
    persons = persons_of({f"p{i}": 1 + i % 4 for i in range(30)})
    first, again, other = (split_images(dict(items), 10, 10, random.Random(seed)) for items, seed in (
        (persons.items(), 5), (reversed(persons.items()), 5), (persons.items(), 6)))
    assert first == again != other


def test_a_whole_gesture_of_hagrid_takes_a_moment():
    """v2 has about 33,000 images of a gesture."""
    rng = random.Random(0)
    sizes = {f"p{i}": min(1 + int(rng.expovariate(0.5)), 300) for i in range(15000)}
    start = time.process_time()
    assert split_images(persons_of(sizes), 1000, 1000, rng)
    assert time.process_time() - start < 2
