"""Faults at random under mixed traffic, every answer of which is checked: ``make chaos``."""
