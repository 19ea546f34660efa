"""One module or folder for each encoding. Their bytes are specified in ``docs/spec/encodings`` and never change."""
