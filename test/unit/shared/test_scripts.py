"""What of the parts a script takes along."""

from comfy_shared.scripts import defined, needed

PART = """-- NEEDS: clock
-- One that is called by another, two that belong together, one that nobody calls.
local LIMIT, MOST = 3, 5
local function first(id)
  return id .. LIMIT
end

local function second(id)  -- calls first
  return first(id)
end
local how = 'lane'
if how == '' then how = 'fifo' end

local function third(id)  -- not second
  return how .. id
end
"""


def names(found: list[str]) -> list[set[str]]:
    return [defined(each) for each in found]


def test_a_definition_comes_with_what_it_calls_in_the_order_of_the_part() -> None:
    assert names(needed([PART], "return second('x')")) == [{"LIMIT", "MOST"}, {"first"}, {"second"}]


def test_what_stands_after_a_definition_belongs_to_it() -> None:
    found = needed([PART], "return third('x')")
    assert names(found) == [{"how"}, {"third"}]
    assert found[0].endswith("if how == '' then how = 'fifo' end")


def test_one_of_several_names_is_enough() -> None:
    assert names(needed([PART], "return MOST")) == [{"LIMIT", "MOST"}]


def test_a_comment_calls_nothing() -> None:
    assert needed([PART], "return 1  -- unlike second") == []


def test_a_later_part_may_call_an_earlier_one() -> None:
    later = "-- calls first\nlocal function fourth(id)\n  return first(id)\nend\n"
    assert names(needed([PART, later], "return fourth('x')")) == [{"LIMIT", "MOST"}, {"first"}, {"fourth"}]
