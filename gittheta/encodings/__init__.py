"""One module per encoding. What each writes is specified in ``docs/spec/encodings`` and never changes."""
