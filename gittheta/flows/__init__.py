"""What happens to a checkpoint: one module for each flow."""
