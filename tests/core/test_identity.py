"""Which model it is, and what makes two of them different."""

from __future__ import annotations

import json

import pytest

from lesion.core.identity import Identity

ONE = Identity("org/model", "0123456789abcdef" * 2, "f" * 40, "bfloat16", ("masked 4 neurons", "bit 3 of a.weight[0]"))


def test_it_is_data():
    assert Identity.from_dict(json.loads(json.dumps(ONE.as_dict()))) == ONE
    with pytest.raises(KeyError):
        Identity.from_dict({"base": "org/model"})


def test_the_weights_alone_make_two_models_different():
    assert not ONE.differs_from(Identity("/local/copy", ONE.weights))
    assert not ONE.differs_from(None)
    assert ONE.differs_from(Identity(ONE.base, "0" * 32, ONE.revision, ONE.dtype, ONE.edits))
    assert ONE.key == Identity("/local/copy", ONE.weights).key


def test_people_read_its_name_revision_dtype_and_edits():
    text = "org/model@ffffffffffff in bfloat16 (weights 0123456789ab, edited: masked 4 neurons, bit 3 of a.weight[0])"
    assert str(ONE) == text
    assert str(Identity("m", "0123456789abcdef")) == "m (weights 0123456789ab)"
