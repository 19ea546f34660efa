"""Hostile input by the thousand, judged by what it costs as well: memory and processor time."""
