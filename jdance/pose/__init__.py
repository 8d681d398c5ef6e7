"""From images to people: pose networks, their weights, and the decode of their maps."""

from jdance.pose.decode import DecodeConfig
from jdance.pose.estimator import PoseEstimator

__all__ = ["DecodeConfig", "PoseEstimator"]
