import re

import pytest
from networks import two_heads


def pytest_make_parametrize_id(val):
    """Name a case by what it is, the same in every process."""
    if val is None or isinstance(val, (str, int, float, set, frozenset)) or hasattr(val, "__name__"):
        return None  # as pytest does
    return re.sub(r"<(?:function|bound method) ([\w.<>]+) at 0x[0-9a-f]+>", r"\1", repr(val))[:100]


@pytest.fixture
def model():
    return two_heads()
