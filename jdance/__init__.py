"""jdance: dance-motion recognition from photos and videos, in JAX and Flax."""

__version__ = "0.1.0"
