"""The keys of sections, of pydantic models and of dataclasses."""

from stages.params.load import Params
from stages.params.schema import keys, tag, tagged


def test_a_key_has_its_name_in_the_file_its_type_and_its_default():
    section = keys(Params)["pretrain"]
    assert section.required and keys(section.kind)["epochs"].required
    assert not keys(section.kind)["accumulate"].required
    objective = tagged(keys(section.kind)["objective"].kind)
    assert keys(objective["prosmin"])["lambda"].default == 1.0
    assert "lambda_" not in keys(objective["prosmin"])
    assert not keys(keys(section.kind)["encoder"].kind)["kwargs"].required


def test_the_members_of_a_union_are_found_by_their_tags():
    known = keys(keys(Params)["pretrain"].kind)
    assert set(tagged(known["external"].kind)) == {"file", "hub"}
    assert tagged(known["encoder"].kind) == {} and tagged(dict[str, int]) == {}
    assert all(tag(member) == name for name, member in tagged(known["objective"].kind).items())


def test_other_types_have_no_keys():
    assert keys(int) == {} and keys(dict[str, int]) == {} and tag(int) == ""
