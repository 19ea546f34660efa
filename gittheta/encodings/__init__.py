"""One module per encoding. What each writes is specified in ``docs/spec/encodings.md`` and never changes."""
