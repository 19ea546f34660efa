"""What tests share: one idea a module."""
