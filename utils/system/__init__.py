"""Plumbing, to be skipped on a first read: the ends of a script, files, processes, devices."""
