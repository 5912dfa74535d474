"""Gestures and photographs: the table of gestures, images and their lists, HaGRID."""
