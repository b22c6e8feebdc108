"""What is drawn how often: only what is seen, and never what is held out."""

import random
from collections import Counter

import pytest
from PIL import Image

from recipes.mini.art import Bank
from recipes.mini.colours import COLOURS
from recipes.mini.concepts import common_concepts
from recipes.mini.facts import Facts, Ground, cells, held_out
from recipes.mini.plan import Plan, draw_ground, solid_colours, spread_common
from recipes.mini.stream import Stream, batches
from tests.recipes.conftest import FOX, LANTERN, ROCKET


@pytest.fixture
def plan(bank):
    return Plan(bank, percent=10)


def many(plan: Plan, count: int = 1500) -> list[Facts]:
    rng = random.Random(0)
    return [plan.draw(rng) for _ in range(count)]


def test_training_and_held_out_share_no_combination(bank):
    train, held = (many(Plan(bank, 35, held), 600) for held in (False, True))
    seen = {cell for facts in train for cell in cells(facts)}
    assert all(set(cells(facts)) - seen for facts in held)
    assert not any(held_out(facts, 35) for facts in train)


def test_every_kind_of_facts_comes_up(plan):
    facts = many(plan)
    kinds = Counter()
    for f in facts:
        kinds["alone"] += f.alone
        kinds["white"] += f.ground == Ground()
        kinds["fade"] += f.ground.fade is not None
        kinds["scene"] += f.ground.scene is not None
        kinds["tint"] += f.tint is not None
        for name in ("count", "place", "size", "relation"):
            value = getattr(f, name)
            kinds[name] += value not in (None, 1)
    assert kinds["white"] < 0.55 * len(facts)
    assert all(count > 0.02 * len(facts) for count in kinds.values()), kinds
    assert {f.count for f in facts} == {1, 2, 3, 4, 5}


def test_nothing_is_hidden_by_its_ground(plan):
    for f in many(plan):
        if f.concept == LANTERN and f.tint is None:
            assert f.ground.colour != "red"
        if f.tint and not f.ground.scene:
            assert f.tint not in (f.ground.colour, f.ground.fade)
        assert f.concept != f.other


def test_a_thing_is_hidden_by_its_own_colour_only(plan):
    hiding = [name for name, colour in COLOURS.items() if plan.hides("3d", LANTERN, colour.rgb)]
    assert hiding == ["red"]


def test_names_that_hold_a_colour_are_not_dyed(plan):
    dyed = {f.concept for f in many(plan) if f.tint}
    assert dyed == {FOX, ROCKET, *dyed - {LANTERN}}
    assert LANTERN not in dyed


def test_what_is_nowhere_opaque_counts_as_black():
    assert solid_colours(Image.new("RGBA", (9, 9))).tolist() == [[0, 0, 0]]


def test_grounds_are_drawn_in_their_shares():
    rng = random.Random(0)
    grounds = [draw_ground(rng) for _ in range(4000)]
    share = Counter("scene" if g.scene else "fade" if g.fade else g.name for g in grounds)
    assert 0.12 < share["scene"] / 4000 < 0.18
    assert 0.3 < share["white"] / 4000 < 0.45
    assert len({g.name for g in grounds if not g.scene and not g.fade}) == len(COLOURS)


def test_a_picture_of_the_stream_is_always_the_same(config, bank, runs):
    stream, again = (Stream(config.data, runs, "train") for _ in range(2))
    first, second = stream.picture(7, (64, 64)), again.picture(7, (64, 64))
    assert first.facts == second.facts == stream.facts(7)
    assert (first.image == second.image).all()
    assert stream.picture(7, (96, 64)).facts == first.facts
    assert stream.picture(8, (64, 64)).facts != first.facts
    assert Stream(config.data, runs, "held").facts(7) != first.facts


def test_batches_go_on_where_they_are_asked_to():
    import torch

    assert list(batches(list("abcdef"), 2, 5, torch.device("cpu"))) == ["c", "d", "e"]


def test_a_thing_is_held_out_in_all_of_its_styles_but_one(bank):
    plan, held = Plan(bank, 100), Plan(bank, 100, held=True)
    assert plan.kept == {f"{code}|style|3d" for _, code in bank}
    rng = random.Random(0)
    shown = [plan.draw(rng) for _ in range(40)]
    assert {f.concept.hex for f in shown} == {code for _, code in bank}
    assert all(f.ground.name == "white" and f.count == 1 and not f.other for f in shown)
    assert not any(f.ground.name == "white" and f.alone for f in map(held.draw, [rng] * 40))
    assert Plan(bank, 0).kept == frozenset()


def test_which_things_are_seen_in_one_style(bank: Bank) -> None:
    codes = {code for _, code in bank}
    assert Plan(bank, 0).shown_once == Plan(bank, 100).shown_once == codes
    both = {**dict(bank), **{("flat", code): glyph for (_, code), glyph in dict(bank).items()}}
    assert Plan(both, 0).shown_once == frozenset()
    assert Plan(both, 100).shown_once == codes  # all but the one that is kept are held out
    half = Plan(both, 50)
    lost = {f.concept.hex for f in many(Plan(both, 50, held=True)) if f.alone and not f.ground.fade}
    assert half.shown_once
    assert half.shown_once <= lost
    once = next(c for c in half.concepts if c.hex in half.shown_once)
    twice = next(c for c in half.concepts if c.hex not in half.shown_once)
    assert half.in_one_style(Facts(once, "flat"))
    assert half.in_one_style(Facts(twice, "flat", other=once, relation="left"))
    assert not half.in_one_style(Facts(twice, "flat"))


def test_a_study_takes_common_things_of_every_kind() -> None:
    some = spread_common(60)
    assert len({c.hex for c in some}) == 60
    assert all(c.common for c in some)
    assert {c.kind for c in some} == {c.kind for c in common_concepts()}
    assert spread_common(len(common_concepts())) == list(common_concepts())


def test_a_plan_of_few_things_draws_no_others(bank: Bank) -> None:
    known = [c for c in spread_common(200) if ("3d", c.hex) in bank]
    plan = Plan(bank, 10, things=200)
    assert plan.concepts == known
    assert len(Plan(bank, 10).concepts) > len(known)
