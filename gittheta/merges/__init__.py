"""One module per family of merge methods. The only part, with metrics, that may import torch."""
