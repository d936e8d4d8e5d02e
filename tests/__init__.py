"""Tests of the package: real processes, segments of their own, a bound on every wait."""
