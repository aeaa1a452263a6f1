"""Calibration of the token estimator against real tokenizers, and the report on its error."""
