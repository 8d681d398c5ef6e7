"""Recognition as one compiled program: frames in, people with their motions out."""

from jdance.recognize.recognizer import Recognizer

__all__ = ["Recognizer"]
