"""Scored answers to figures with intervals, a verdict, and a page."""
