"""Models that order candidates."""
