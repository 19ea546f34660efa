"""Bytes and numbers: floats seen as integers, byte planes, entropy coding, lists of positions."""
