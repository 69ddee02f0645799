"""From HR to LR."""
import numpy as np

from files import images

VERSION = 1  # of `shrink`; raise it when LR comes out differently, so that cached LR is made again


def crop_to_scale(hr: np.ndarray, scale: int) -> np.ndarray:
    """Cut right and bottom so that both sides divide by `scale`."""
    return hr[:hr.shape[0] // scale * scale, :hr.shape[1] // scale * scale]


def shrink(hr: np.ndarray, scale: int) -> np.ndarray:
    """LR of HR (H, W, C), whose sides divide by `scale`: antialiased bicubic, as MATLAB's imresize; float32 is kept."""
    return images.resize(hr, hr.shape[0] // scale, hr.shape[1] // scale)
