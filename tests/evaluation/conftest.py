import pytest
from networks.forked import forked


@pytest.fixture(scope="module")
def processes(request, tmp_path_factory):
    """Runs functions of the test's own file, each in a process of its own, all at once."""
    with forked(request.path, tmp_path_factory.mktemp("processes") / "errors") as run:
        yield run
