import re
from functools import partial

import pytest
from hypothesis import settings
from networks import two_heads
from networks.forked import forked

settings.register_profile("shared cores", deadline=None)  # another process may hold the core for long
settings.load_profile("shared cores")


def pytest_make_parametrize_id(val):
    """Name a case by what it is, the same in every process."""
    if val is None or isinstance(val, (str, int, float, set, frozenset)) or hasattr(val, "__name__"):
        return None  # as pytest does
    return re.sub(r"<(?:function |bound method )?([\w.<>]+)(?: object)? at 0x[0-9a-f]+>", r"\1", repr(val))[
        :100
    ]


@pytest.fixture
def model():
    return two_heads()


@pytest.fixture(scope="session")
def served(tmp_path_factory):
    """Runs functions of files, each in a process of its own, all at once."""
    with forked(tmp_path_factory.mktemp("processes") / "errors") as run:
        yield run


@pytest.fixture(scope="module")
def processes(request, served):
    """Runs functions of the test's own file, each in a process of its own, all at once."""
    return partial(served, request.path)
