"""jdance: dance-motion recognition from photos and videos, in JAX and Flax."""

import os

__version__ = "0.1.0"

# Size limit of decoded images, 134 megapixels or 400 MB, against decompression bombs. OpenCV reads
# it when first imported; the environment may set another one.
os.environ.setdefault("OPENCV_IO_MAX_IMAGE_PIXELS", str(2**27))
