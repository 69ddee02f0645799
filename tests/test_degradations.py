"""LR is HR shrunk as MATLAB shrinks it, at every scale."""
import numpy as np
import pictures
import pytest
from PIL import Image

import degradations
from files import images


def cubic(x):
    """Keys' kernel with a = -0.5, as in MATLAB's imresize."""
    x = np.abs(x)
    inner, outer = 1.5 * x ** 3 - 2.5 * x ** 2 + 1, -0.5 * x ** 3 + 2.5 * x ** 2 - 4 * x + 2
    return inner * (x <= 1) + outer * ((x > 1) & (x <= 2))


def imresize(image, scale):
    """MATLAB's `imresize(image, scale)`, after its source: antialiased bicubic, mirrored at the border."""
    for axis in (0, 1):
        n = image.shape[axis]
        stretch = min(scale, 1)
        centre = (np.arange(round(n * scale)) + 0.5) / scale - 0.5
        near = np.floor(centre - 2 / stretch).astype(int)[:, np.newaxis] + np.arange(int(4 / stretch) + 2)
        weights = cubic((centre[:, np.newaxis] - near) * stretch)
        weights /= weights.sum(axis=1, keepdims=True)
        near = np.concatenate([np.arange(n), np.arange(n)[::-1]])[near % (2 * n)]
        rows = np.moveaxis(image, axis, 0).astype(np.float32)
        image = sum(w[:, np.newaxis, np.newaxis] * rows[i] for w, i in zip(weights.T, near.T, strict=True))
        image = np.moveaxis(image, 0, axis)
        image = image.clip(0, 255).round() if axis else image
    return image.astype(np.uint8)


def photo(name):
    return np.asarray(Image.open(pictures.PHOTOS / name).convert("RGB"))


@pytest.mark.parametrize("name, scale", [("astronaut.png", 2), ("chelsea.png", 3), ("brick.png", 4), ("rocket.jpg", 4),
                                         ("coffee.png", 8)])
def test_lr_is_matlabs_imresize_of_the_photo(name, scale):
    hr = degradations.crop_to_scale(photo(name), scale)
    lr = degradations.shrink(hr, scale)
    difference = np.abs(lr.astype(int) - imresize(hr, 1 / scale))
    inner = difference[3:-3, 3:-3]
    assert inner.max() <= 1 and (inner > 0).mean() < 1e-3  # rounding of 0.5
    assert difference.max() < 16  # MATLAB mirrors the border, TensorFlow leaves it out


@pytest.mark.parametrize("name", ["astronaut.png", "coffee.png"])
def test_bicubic_down_and_up_again_is_like_matlabs(name):
    hr = photo(name)
    ours = images.resize(degradations.shrink(hr, 4), *hr.shape[:2])
    matlabs = imresize(imresize(hr, 1 / 4), 4)
    inner = np.abs(ours.astype(int) - matlabs)[16:-16, 16:-16]
    assert inner.max() <= 2 and inner.mean() < 0.02
    errors = [np.mean((back - hr.astype(float)) ** 2) for back in (ours, matlabs)]
    assert abs(10 * np.log10(errors[0] / errors[1])) < 0.03  # dB


@pytest.mark.parametrize("height, width, scale", [(4, 4, 4), (5, 11, 4), (7, 100, 3), (42, 43, 2), (15, 17, 8)])
def test_photos_are_cropped_at_right_and_bottom_to_multiples_of_the_scale(height, width, scale):
    pixels = np.uint8(pictures.RNG.integers(0, 256, (height, width, 3)))
    hr = degradations.crop_to_scale(pixels, scale)
    np.testing.assert_array_equal(hr, pixels[:height // scale * scale, :width // scale * scale])
    assert degradations.shrink(hr, scale).shape == (height // scale, width // scale, 3)
