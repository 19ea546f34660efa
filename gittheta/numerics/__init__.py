"""Convert between bytes and numbers: floats as integers, byte planes, entropy coding, lists of positions."""
