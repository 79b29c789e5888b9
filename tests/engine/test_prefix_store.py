"""Which beginnings of prompts are kept in memory, and which go first."""

from __future__ import annotations

from appliance.engine.prefix import Shared, chain, reached
from appliance.engine.prefix_store import Eviction, PrefixStore, StoredPrefix
from appliance.engine.slots import common_prefix


class Bytes:
    """Stands for saved keys and values."""

    def __init__(self, nbytes: int) -> None:
        self.nbytes = nbytes


def stored(text: str) -> StoredPrefix:
    return StoredPrefix(tuple(map(ord, text)), Bytes(10 * len(text)))


def put(store: PrefixStore, text: str, needed: tuple[StoredPrefix, ...] = ()) -> StoredPrefix:
    entry = stored(text)
    store.make_room(entry.tokens, 0, needed)
    store.add(entry)
    return entry


def test_a_longer_prefix_replaces_those_it_contains() -> None:
    store = PrefixStore(1000, 10)
    put(store, "abc")
    other = put(store, "abx")
    longer = put(store, "abcdef")
    assert list(store) == [other, longer]
    assert store.evictions == {Eviction.CONTAINED: 1}


def test_the_least_recently_used_goes_first_and_what_is_needed_stays() -> None:
    store = PrefixStore(100, 10)
    first, second, third = put(store, "aaa"), put(store, "bbb"), put(store, "ccc")
    store.touch(first)
    fourth = put(store, "ddd")
    assert list(store) == [third, first, fourth]
    assert store.room((third,)) == 7
    fifth = put(store, "eeeeeee", needed=(third,))
    assert list(store) == [third, fifth]
    assert store.used_bytes == 100
    assert second not in list(store)
    assert store.evictions == {Eviction.LEAST_RECENTLY_USED: 3}


def test_the_number_of_entries_is_bounded_too() -> None:
    store = PrefixStore(10**9, 10)
    for number in range(100):
        put(store, chr(number) * 5)
    assert len(list(store)) == 64


def test_a_chain_holds_what_its_parts_hold_one_behind_the_other() -> None:
    def part(start: int, stop: int) -> Shared:
        return Shared(StoredPrefix((1,) * 50, Bytes(0), start), start, stop)

    stem, short, branch, apart = part(0, 20), part(0, 10), part(18, 30), part(40, 50)
    assert chain([apart, branch, short, stem]) == [stem, branch]
    assert chain([short, branch]) == [short], "a branch without its stem is of no use"
    assert chain([apart, branch, short, stem], held=25) == [branch]
    assert chain([branch], held=30) == []
    assert reached([stem, branch]) == 30
    assert reached([], 7) == 7


def test_an_entry_that_begins_later_does_not_contain_one_that_begins_earlier() -> None:
    store = PrefixStore(1000, 10)
    whole = put(store, "abc")
    store.make_room(tuple(map(ord, "abcdef")), 2, ())
    assert list(store) == [whole]
    store.make_room(tuple(map(ord, "abcdef")), 0, ())
    assert list(store) == []


def test_common_prefix() -> None:
    assert common_prefix([1, 2, 3], (1, 2, 4), 10) == 2
    assert common_prefix([1, 2, 3], (1, 2, 3, 4), 10) == 3
    assert common_prefix([1, 2, 3], (1, 2, 3), 1) == 1
    assert common_prefix([1], (1,), -1) == 0
    assert common_prefix([], (1,), 5) == 0
