"""What mixes images, or is no sum of constants times inputs, is refused with its place."""

from __future__ import annotations

import capturing
import pytest
from torch import nn

from lapilli.compiler.errors import UnsupportedOperatorError


@pytest.mark.parametrize(
    "layer", [nn.LayerNorm([4, 6, 6]), nn.GroupNorm(2, 4), nn.LocalResponseNorm(2)]
)
def test_statistics_of_the_image_are_no_constants(layer: nn.Module) -> None:
    with pytest.raises(UnsupportedOperatorError) as refused:
        capturing.captured(nn.Sequential(layer), capturing.images(4, 6, 6))
    assert "depend on the image" in refused.value.remedy
    assert "BatchNorm" in refused.value.remedy
