"""Dataclasses to JSON and back; a file that does not fit is told by file and field."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flm.errors import InputError
from flm.fields import flat_fields, from_fields, parse_json, to_fields


@dataclass(frozen=True, kw_only=True, slots=True)
class Leaf:
    kind: Literal["round", "square"] = "round"
    stride: Literal[4, 8] = 8
    path: Path | None = None
    share: float = 0.5

    def __post_init__(self) -> None:
        if self.share < 0:
            raise ValueError(f"--leaf.share is {self.share}, must be at least 0")


@dataclass(frozen=True, kw_only=True, slots=True)
class Tree:
    name: str
    count: int
    is_old: bool = False
    folder: Path = Path("data/300w")
    sizes: tuple[int, ...] = (1, 2)
    scores: dict[str, float] | None = None
    leaf: Leaf = field(default_factory=Leaf)
    spare: Leaf | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Forest:
    trees: tuple[Tree, ...] = ()


paths = st.text(st.characters(exclude_characters="\0", codec="utf-8")).map(Path)
numbers = st.floats(min_value=0, allow_nan=False)
leaves = st.builds(
    Leaf,
    kind=st.sampled_from(["round", "square"]),
    stride=st.sampled_from([4, 8]),
    path=st.none() | paths,
    share=numbers | st.integers(0, 9),
)
trees = st.builds(
    Tree,
    name=st.text(),
    count=st.integers(),
    is_old=st.booleans(),
    folder=paths,
    sizes=st.lists(st.integers()).map(tuple),
    scores=st.none() | st.dictionaries(st.text(), numbers),
    leaf=leaves,
    spare=st.none() | leaves,
)


@given(st.lists(trees, max_size=3).map(lambda some: Forest(trees=tuple(some))))
def test_what_json_took_apart_comes_back_equal(forest):
    text = json.dumps(to_fields(forest))
    back = from_fields(Forest, json.loads(text), "forest.json")
    assert back == forest
    assert all(isinstance(tree.folder, Path) and isinstance(tree.sizes, tuple) for tree in back.trees)


def test_fields_that_are_left_out_have_their_defaults():
    assert from_fields(Tree, {"name": "oak", "count": 3}, "tree.json") == Tree(name="oak", count=3)


OAK: dict[str, Any] = {"name": "oak", "count": 3}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({**OAK, "height": 3}, "tree.json: height is unknown"),
        ({"name": "oak"}, "tree.json: count is missing"),
        ({**OAK, "leaf": {"color": 1}}, "tree.json: leaf: color is unknown"),
        ({**OAK, "leaf": 7}, "tree.json: leaf: is 7, expected the fields of Leaf"),
        ({**OAK, "leaf": None}, "tree.json: leaf: is None, expected the fields of Leaf"),
        (
            {**OAK, "leaf": {"kind": "oval"}},
            "tree.json: leaf: kind is 'oval', expected one of 'round', 'square'",
        ),
        ({**OAK, "leaf": {"kind": ["round"]}}, "leaf: kind is ['round'], expected one of 'round', 'square'"),
        ({**OAK, "leaf": {"stride": 5}}, "tree.json: leaf: stride is 5, expected one of 4, 8"),
        ({**OAK, "leaf": {"share": -1}}, "tree.json: leaf: --leaf.share is -1.0, must be at least 0"),
        ({**OAK, "leaf": {"share": "much"}}, "tree.json: leaf: share is 'much', expected float"),
        ({**OAK, "leaf": {"path": 3}}, "tree.json: leaf: path is 3, expected Path"),
        ({**OAK, "spare": {"share": None}}, "tree.json: spare: share is None, expected float"),
        ({**OAK, "name": 4}, "tree.json: name is 4, expected str"),
        ({**OAK, "count": "3"}, "tree.json: count is '3', expected int"),
        ({**OAK, "count": 3.0}, "tree.json: count is 3.0, expected int"),
        ({**OAK, "count": True}, "tree.json: count is True, expected int"),
        ({**OAK, "is_old": 1}, "tree.json: is_old is 1, expected bool"),
        ({**OAK, "sizes": 1}, "tree.json: sizes is 1, expected tuple"),
        ({**OAK, "sizes": [1, "2"]}, "tree.json: sizes is '2', expected int"),
        ({**OAK, "scores": [1.0]}, "tree.json: scores is [1.0], expected dict"),
        ({**OAK, "scores": {"nme": "low"}}, "tree.json: scores.nme is 'low', expected float"),
        ({**OAK, "leaf": {"share": 10**400}}, "tree.json: leaf: share is a number of 401 digits"),
        ([], "tree.json: is [], expected the fields of Tree"),
    ],
)
def test_a_file_that_does_not_fit_is_told_by_file_and_field(fields, message):
    with pytest.raises(InputError) as caught:
        from_fields(Tree, fields, "tree.json")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "text",
    ["[" * 100_000, '{"a":' * 100_000, b"\xff\xfe[\0]\0", b'"\xed\xa0\x80"', r'["\uDBFF"]', r'{"\ud800x": 1}',
     "{"],
)  # fmt: skip
def test_a_json_text_of_a_stranger_is_no_trap(text):
    with pytest.raises(ValueError, match=r"nested too deeply|codec|surrogates|Expecting"):
        parse_json(text)


def test_json_texts_are_read_with_their_letters():
    assert parse_json("\ufeff[1]".encode()) == [1]
    assert parse_json(r'"\ud83d\ude00"') == parse_json('"😀"') == "😀"


def test_flat_names_are_dotted():
    flat = flat_fields(to_fields(Tree(name="oak", count=3, spare=Leaf(path=Path("a")))))
    assert flat["leaf.kind"] == "round"
    assert flat["spare.path"] == "a"
    assert flat["sizes"] == [1, 2]
    assert "leaf" not in flat
    assert flat_fields({"a": {"b": {"c": 1}}, "d": 2}) == {"a.b.c": 1, "d": 2}
