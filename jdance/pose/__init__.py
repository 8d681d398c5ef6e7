"""Pose estimation: networks, their weights, and decoding of their outputs to people."""

from jdance.pose.decode import DecodeConfig
from jdance.pose.estimator import PoseEstimator

__all__ = ["DecodeConfig", "PoseEstimator"]
