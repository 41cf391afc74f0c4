"""Inputs: calibration data from files or memory, generated samples, measured ranges."""
