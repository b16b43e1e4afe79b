"""What of the parts a script takes along."""

from comfy_shared.scripts import defined, needed, nested

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


RARE = """-- NEEDS: clock
local ways = {}
local function way(id)
  ways[id] = id
end

local function ask(id)
  return way(id)
end

local function help(id)
  return id
end

local function seldom(id)  -- rare
  return ask(id) .. help(id)
end

local function often(id)
  return id == '' and seldom(id) or help(id)
end
"""


def test_what_only_a_rare_function_uses_is_made_in_it() -> None:
    body = "return often('x')"
    found = nested(needed([RARE], body), body)
    assert names(found) == [{"ways"}, {"help"}, {"seldom"}, {"often"}]
    assert [line for line in found[2].splitlines() if "function" in line or "seldom" in line] == [
        "local function seldom(...)",
        "  local function way(id)",
        "  local function ask(id)",
        "  local function seldom(id)  -- rare",
        "  return seldom(...)",
    ]


def test_what_the_script_itself_uses_stays() -> None:
    body = "return often('x'), ask('y')"
    assert names(nested(needed([RARE], body), body)) == [{"ways"}, {"way"}, {"ask"}, {"help"}, {"seldom"}, {"often"}]


def test_what_two_rare_functions_use_is_made_in_both() -> None:
    both = RARE + "\nlocal function never(id)  -- rare: a second one\n  return ask(id)\nend\n"
    body = "return often('x') or never('y')"
    found = nested(needed([both], body), body)
    assert names(found) == [{"ways"}, {"help"}, {"seldom"}, {"often"}, {"never"}]
    assert all("  local function way(id)" in each for each in (found[2], found[4]))
