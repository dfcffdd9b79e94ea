import pytest

from lumbar_disk.data import crops, phantoms
from lumbar_disk.virtual import ShapeModel, Stream


@pytest.fixture(scope="session")
def stream():
    discs = crops(phantoms(4, seed=3), 64)
    return Stream(discs, ShapeModel.fit(discs.contours, 5), seed=11)
