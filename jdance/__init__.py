"""jdance: dance-motion recognition from photos and videos, in JAX and Flax."""

import os

__version__ = "0.1.0"

# The largest image that is decoded, of which a small file may claim any size: 134 megapixels,
# 400 MB. Here, as OpenCV reads it when it is first imported; a larger number may be set before.
os.environ.setdefault("OPENCV_IO_MAX_IMAGE_PIXELS", str(2**27))
