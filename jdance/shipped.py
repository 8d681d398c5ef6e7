"""Trained motion models that come with the package, by their names in --model."""

from pathlib import Path

FILES = {
    name: Path(__file__).parent / "recognize" / f"{name}.npz"
    for name in ("dance6", "dance6_sequence")
}
