import pytest
from networks import two_heads


@pytest.fixture
def model():
    return two_heads()
