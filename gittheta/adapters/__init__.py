"""PEFT adapters: what they say, and what they do to the tensors of a checkpoint."""
