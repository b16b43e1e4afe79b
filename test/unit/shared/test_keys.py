"""Key names: one hash tag for all, and the key map in the docstring tells the truth."""

import re

from comfy_shared import keys as module
from comfy_shared.keys import PERMANENT, Keys


def rows() -> dict[str, str]:
    """The key map: key → life."""
    found = {}
    for line in (module.__doc__ or "").splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith("| ") and len(cells) == 4 and cells[0] != "key":
            for name in cells[0].split(", "):
                found[name] = cells[2]
    return found


def names_of(keys: Keys) -> set[str]:
    """Each name or prefix without the namespace and the colon at the end."""
    values = {value for name, value in vars(keys).items() if name not in ("namespace", "base")}
    return {value.removeprefix(keys.base).rstrip(":") for value in values}


def test_every_key_has_the_hash_tag_of_its_namespace() -> None:
    keys = Keys("blue")
    made = {keys.task("t"), keys.story("t"), keys.idempotency("o", "k"), keys.agent("a"), keys.held("a"),
            keys.offer("d"), keys.workflow("w"), keys.index("owner", "o"), keys.index("all")}  # fmt: skip
    fixed = {value for name, value in vars(keys).items() if name != "namespace"}
    assert {re.match(r"\{blue\}:", name) is not None for name in made | fixed} == {True}
    assert len(made | fixed) == len(made) + len(fixed), "no two kinds share a name"


def test_namespaces_do_not_share_keys() -> None:
    assert set(vars(Keys("a")).values()).isdisjoint(vars(Keys("b")).values())


def test_the_key_map_lists_exactly_the_keys() -> None:
    mapped = {name.split(":")[0] for name in rows()} - {"idempotency"}
    assert names_of(Keys()) == mapped


def test_what_is_permanent_is_fixed_in_number() -> None:
    """A permanent key has no variable part, except the workflows that somebody published."""
    for name, life in rows().items():
        if life.startswith("permanent") and not name.startswith("workflow:"):
            assert name in PERMANENT, name
    assert set(rows()) >= PERMANENT


def test_an_index_with_and_without_a_value() -> None:
    assert Keys("n").index("all") == "{n}:index:all"
    assert Keys("n").index("owner", "ann") == "{n}:index:owner:ann"
