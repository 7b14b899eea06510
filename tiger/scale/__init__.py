"""The same work on many machines, by Ray; an extra, imported by the command line alone."""
