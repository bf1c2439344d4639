"""Metrics, their intervals, calibration and thresholds: pure functions of scores, labels and texts."""
